"""The one place that changes the environment of this process."""

import os


def set_variables(**variables: str) -> None:
    """Sets environment variables, for this process and those that it starts."""
    os.environ.update(variables)
