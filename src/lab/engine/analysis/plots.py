"""What the figures of the page share: plain dictionaries, as plotly.js takes them.

Plotly's Python classes hold every value against a schema, which takes longer than to read all runs; only plotly.js is
taken from the package.
"""

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

Figure = dict[str, Any]  # data and layout

# Okabe and Ito (2008), for colour-blind readers; black is the text's own colour, and yellow is too light on white
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b61c4", "#8c6d31", "#4c9f9f", "#b2182b"]
GREY = "rgba(128,128,128,0.45)"
# Viridis from worst to best, without its ends, which are lost on a dark and on a white page
SCALE = ["#5b3a8e", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]


def figure(data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> Figure:
    """A figure with two axes."""
    return {"data": data, "layout": {"xaxis": x, "yaxis": y} | layout}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title; `more` are attributes of plotly's."""
    return {"title": {"text": plain(title)}, "automargin": True} | more


def plain(text: str) -> str:
    """A text that plotly shows as it stands: it would take tags for its own markup."""
    return escape(text, quote=False)


def faded(colour: str, opacity: float) -> str:
    """A colour `#rrggbb` that lets others through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def shade(share: float) -> str:
    """The colour on `SCALE` at a share from 0 to 1."""
    at = min(max(share, 0.0), 1.0) * (len(SCALE) - 1)
    i = min(int(at), len(SCALE) - 2)
    low, high = ([int(SCALE[j][k : k + 2], 16) for k in (1, 3, 5)] for j in (i, i + 1))
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in zip(low, high, strict=True))


def is_wide(values: Sequence[float]) -> bool:
    """Whether numbers are better seen on a logarithmic axis."""
    return min(values) > 0 and max(values) >= 10 * min(values)


def encode(content: Any) -> str:
    """JSON for a script element: nothing in it ends the element, what is no finite number is null."""
    try:
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(content), separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
