"""Splits the words of a script's command line."""

from collections.abc import Sequence

from lab.engine.utils.errors import UserError


def parse_arguments(words: Sequence[str], defaults: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Splits a script's words into its own arguments, over their `defaults`, and overrides of the run's config."""
    own, overrides = dict(defaults), []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is no argument: write key=value, such as {next(iter(defaults))}=…")
        if name in defaults:
            own[name] = value
        else:
            overrides.append(word)
    return own, overrides
