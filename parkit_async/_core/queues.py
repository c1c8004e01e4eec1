"""What the queues of both faces share: checks of arguments, and reads, which never wait."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Any, ClassVar

from . import queue_ops
from .layout import UNBOUNDED
from .objects import Handle
from .queue_ops import DONE, DeadLetter
from .waiting import AGAIN

__all__ = ["QueueCore"]


class QueueCore(Handle):
    """Base of the queues of both faces."""

    _lifo: ClassVar[bool] = False

    @staticmethod
    def _check_maxsize(maxsize: int) -> int:
        maxsize = index(maxsize)
        if not 0 <= maxsize <= UNBOUNDED:
            raise ValueError(f"maxsize is {maxsize}, but must be 0 (no limit) or more, and at most {UNBOUNDED}")
        return maxsize

    @staticmethod
    def _check_count(count: int) -> int:
        count = index(count)
        if count < 1:
            raise ValueError(f"cannot take {count} items; the number must be 1 or more")
        return count

    def _get_operation(self, count: int | None = None) -> tuple[Any, ...]:
        """Return the write operation that takes an item, or up to ``count`` of them, and its arguments."""
        if count is None:
            return queue_ops.get, self._bound(), self._lifo
        return queue_ops.get_many, self._bound(), self._lifo, count

    def _size(self) -> tuple[int, int]:
        """Return the number of items, and the maximum."""
        binding = self._bound()
        size: tuple[int, int] = binding.namespace.read(queue_ops.size, binding)
        return size

    def _is_shut_down(self) -> bool:
        binding = self._bound()
        found: bool = binding.namespace.read(queue_ops.is_shut_down, binding)
        return found

    def _dead_letters(self) -> list[DeadLetter]:
        binding = self._bound()
        letters: list[DeadLetter] = binding.namespace.read(queue_ops.dead_letters, binding)
        return letters

    def _join_attempt(self) -> Callable[[], Any]:
        """Return an attempt (see ``waiting``) to find every item acknowledged."""
        binding = self._bound()

        def attempt() -> Any:
            return True if binding.namespace.read(queue_ops.join_state, binding) is DONE else AGAIN

        return attempt
