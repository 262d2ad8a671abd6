"""Escapes text by the kind of output: what a file from elsewhere holds stays text wherever it is shown."""

import re
from typing import Any

# ESC and the other control characters, line separators, marks that turn the direction of writing, lone surrogates
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]\s*\S")  # the last four are wide ones
MARKDOWN = re.compile(r"([\\`*\[\]|<>&])")


def printable(text: str, keep: str = "\n\t") -> str:
    """Writes control characters, which a terminal would obey, as Python does; those in `keep` stay."""
    return CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def spreadsheet_cell(value: Any) -> Any:
    """Puts a `'` before a text that a spreadsheet would take for a formula; numbers stay as they are."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown_text(text: str) -> str:
    """Escapes what Markdown would take for a tag, a link, a picture or the end of a table's cell."""
    return MARKDOWN.sub(r"\\\1", text)
