"""What decides a result: the keys at which two configs differ."""

from collections.abc import Iterator
from typing import Any

ABSENT = object()


def differences(now: dict[str, Any], then: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key at which two configs differ, with both values; ABSENT where one has none."""
    for name in [*then, *(name for name in now if name not in then)]:
        a, b = now.get(name, ABSENT), then.get(name, ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{name}.")
        elif a != b or type(a) is not type(b):
            yield f"{prefix}{name}", a, b
