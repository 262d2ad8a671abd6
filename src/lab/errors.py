"""Errors that a user can mend: shown as they are, without a traceback."""


class UserError(Exception):
    """What is wrong, where, what was expected; a few lines. The command ends with exit status 2."""


class RunFailed(Exception):
    """A run that cannot go on, with its cause; a few lines. The command ends with exit status 1."""
