"""Sets environment variables, for this process and those that it starts; no other module does."""

import os


def set_variables(**variables: str) -> None:
    """Sets environment variables, overwriting their values."""
    os.environ.update(variables)


def set_defaults(**variables: str) -> None:
    """Sets those environment variables that are not set yet."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
