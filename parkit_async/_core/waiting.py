"""What both faces do when they wait: an attempt that says whether to go on, the event that makes another one worth while, and a deadline.

Register, then look, then sleep: see ``shared`` for why no wake can fall in between.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

from .binding import Binding
from .doorbell import thread_bell
from .errors import ContextError
from .ownership import contexts, innermost
from .shared import TableFullError

__all__ = ["AGAIN", "SAFETY", "block", "counters", "deadline_of", "refuse_wait", "remaining", "sooner"]

AGAIN: Final = object()
"""What an attempt returns when there is nothing yet."""

SAFETY: Final = 30.0
"""Seconds after which a waiter looks again although nobody rang. Covers what no one thought of; counted, so that a test can demand zero."""

_UNREGISTERED: Final = 0.05


class Counters:
    """How often waiters of this process woke, how often of these by the safety re-check, and how often a loop looked before it slept."""

    __slots__ = ("looks", "rechecks", "wakeups")

    def __init__(self) -> None:
        self.wakeups = 0
        self.rechecks = 0
        self.looks = 0


counters: Final = Counters()


def deadline_of(timeout: float | None) -> float | None:
    """Return the moment, on the monotonic clock, at which ``timeout`` seconds are over.

    Raises:
        ValueError: It is negative.
    """
    if timeout is None:
        return None
    if not timeout >= 0:  # NaN as well
        raise ValueError("'timeout' must be a non-negative number")
    return time.monotonic() + timeout


def remaining(deadline: float | None) -> float | None:
    """Return how many seconds are left, at least 0."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def sooner(deadline: float | None, seconds: float) -> float:
    """Return the deadline, or the moment when ``seconds`` are over, whichever comes first."""
    moment = time.monotonic() + seconds
    return moment if deadline is None else min(deadline, moment)


def refuse_wait(path: str, what: str) -> None:
    """Raise ContextError if the caller has a transaction or snapshot open, in which what it waits for could never happen."""
    if contexts:
        context = innermost()
        if context is not None:
            kind = "transaction" if context.writes else "snapshot"
            raise ContextError(
                f"{what} of {path!r} would have to wait inside an open {kind} of namespace {context.namespace.name!r}: nobody can change what this "
                f"{kind} sees, so it would wait for ever. Leave the {kind} first, or do not wait (timeout=0)"
            )


def _warn_of_a_loop(path: str) -> None:
    """Warn if the calling thread runs an event loop, which is about to stand still. Not in a notebook, whose cells run in one."""
    events = sys.modules.get("asyncio.events")
    if events is None or events._get_running_loop() is None or "ipykernel" in sys.modules:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("parkit", "parkit_async"):
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"a blocking call waits for {path!r} in the thread of a running event loop, which stands still meanwhile: use parkit_async there and await "
        "it, or make the call in another thread (asyncio.to_thread)",
        RuntimeWarning,
        stacklevel=level,
    )


def block(
    binding: Binding, event: int, attempt: Callable[[], Any], deadline: float | None, look: Callable[[], Any] | None = None, also: int = -1
) -> Any:
    """Call ``attempt`` each time that ``event`` happens to the object, until it returns something other than AGAIN, and return that.

    Where an attempt costs more than a look, ``look`` makes those for which nobody rang: the first, and the last. ``also`` is a descriptor whose being
    readable is a reason for an attempt, too, which then must not return AGAIN.

    Blocks the calling thread, asleep on its own socket; returns AGAIN when the deadline has passed.
    """
    namespace = binding.namespace
    bell = thread_bell(namespace.sockets)
    table = namespace.table
    safety = SAFETY
    registered: list[int] = []
    warned = False
    try:
        try:
            table.register(binding.object_id, event, bell.address, registered)
        except TableFullError:
            safety = _UNREGISTERED
        result = (look or attempt)()
        while True:
            if result is not AGAIN:
                return result
            left = remaining(deadline)
            if left is not None and left <= 0:
                return AGAIN
            if not warned:
                warned = True
                _warn_of_a_loop(binding.path)
            if bell.wait(safety if left is None else min(left, safety), also):
                counters.wakeups += 1
                result = attempt()
                continue
            if left is None or left > safety:
                counters.wakeups += 1
                counters.rechecks += 1
            # Nobody rang: who would now ask for the turn could have to wait for it, long after the deadline.
            result = (look or attempt)()
    finally:
        # An interrupt (Ctrl-C) may come here as well, at the first step of the call: so that is made again.
        try:
            for slot in registered:
                table.unregister(slot)
        except BaseException:
            for slot in registered:
                table.unregister(slot)
            raise
