"""Where somebody who follows a log has got to."""

from __future__ import annotations

from typing import Any, Final

from . import log_ops
from .binding import Binding
from .transactions import Reading
from .waiting import AGAIN

__all__ = ["Follower"]

_PORTION: Final = 256


class Follower:
    """A place in a log, which moves on as entries are taken.

    Args:
        binding: The log.
        start: As of ``Log.follow``.
    """

    __slots__ = ("_binding", "_index", "_range")

    def __init__(self, binding: Binding, start: int | None) -> None:
        self._binding = binding
        self._range, length = binding.namespace.read(log_ops.position, binding)
        self._index = 0 if start is None else max(0, length + start) if start < 0 else start

    def attempt(self) -> Any:
        """Take the next entries, as a list; return AGAIN if there are none yet."""
        return self._binding.namespace.read(self._take)

    def _take(self, reading: Reading) -> Any:
        current, length = log_ops.position(reading, self._binding)
        if current != self._range:
            # It was cleared: what comes after that begins at 0.
            self._range, self._index = current, 0
        if self._index >= length:
            return AGAIN
        entries = list(log_ops.walk(reading, self._binding, self._index, self._index + _PORTION))
        self._index += len(entries)
        return entries
