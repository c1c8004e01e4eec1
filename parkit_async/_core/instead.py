"""Say what to write instead, where an object of one face is used like one of the other.

Python's own message for ``d["x"] = 1`` or ``with transaction(d):`` in the awaitable face does not tell a newcomer that an ``await`` is missing; and
``for key in d``, without ``__iter__``, would call ``__getitem__`` for ever. The methods made here are hidden from type checkers (``if not
TYPE_CHECKING:``), which find these mistakes by themselves as long as there is no such method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["instead"]


def instead(remedy: str) -> Callable[..., Any]:
    """Return a method that raises TypeError with the class's name and ``remedy``, whatever it is called with."""

    def refuse(self: object, *arguments: object) -> NoReturn:
        raise TypeError(f"{type(self).__module__.partition('.')[0]}.{type(self).__name__} {remedy}")

    return refuse
