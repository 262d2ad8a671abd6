"""Parses the arguments of a script."""

import os
from collections.abc import Sequence

from lab.engine.utils.errors import UserError


def parse_arguments(arguments: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Returns the values of a script's options, `defaults` where not given, and the other arguments: config overrides.

    Raises:
        UserError: for an argument that is not `key=value`.
    """
    options, overrides = dict(defaults), []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"{argument!r} is no argument: write key=value, such as {next(iter(defaults))}=…")
        if name in defaults:
            options[name] = value
        else:
            overrides.append(argument)
    return options, overrides


def check_utf8(arguments: Sequence[str]) -> None:
    """Raises UserError for an argument that is not UTF-8, as configs and prompts are."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            shown = os.fsencode(argument).decode(errors="backslashreplace")
            raise UserError(f"{shown}: this is not UTF-8, which configs and prompts are; rename a file, or link to it")
