"""Arguments as the standard library's classes take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["pairs"]


def pairs(other: Any, entries: Mapping[str, Any]) -> Mapping[Any, Any] | Iterable[tuple[Any, Any]]:
    """Return the entries that ``dict.update`` would take from its arguments."""
    if isinstance(other, Mapping):
        if not entries:
            return other
        found: Iterable[tuple[Any, Any]] = other.items()
    elif hasattr(other, "keys"):
        found = [(key, other[key]) for key in other.keys()]  # noqa: SIM118 (that is dict.update's protocol)
    else:
        found = other
    return [*found, *entries.items()] if entries else found
