"""The only place that sets environment variables: for this process, and for those that it starts."""

import os


def set_variables(**variables: str) -> None:
    """Sets environment variables, whatever they held before."""
    os.environ.update(variables)


def set_defaults(**variables: str) -> None:
    """Sets those environment variables that are not set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
