"""Cooperative scheduling of work that is done inline.

An awaited operation that completes at once never gives way to the loop: a task that reads in a tight loop would keep all others waiting. So inline
work is metered, and after about half a millisecond of it the next operation yields to the loop once, before it begins (Tokio's cooperative budget).

The meter counts operations, since that is cheap, and looks at the clock only when the count runs out; how many make up half a millisecond is
learnt from the last time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

__all__ = ["BUDGET", "meter", "pause"]

BUDGET: Final = 0.0005
"""Seconds of inline work after which a task gives way."""

_MOST: Final = 32


class _Meter:
    """Operations left before the clock is looked at; one for all loops, which only makes a loop look a little too often, or late."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MOST


meter: Final = _Meter()


class _Clock(threading.local):
    """When the loop of this thread last gave way, and last looked."""

    paused = 0.0
    looked = 0.0
    count = _MOST


_clock = _Clock()


async def pause() -> None:
    """Give way to the loop if it is time; called when ``meter.left`` has run out. Cancelling: nothing has been done yet."""
    now = time.monotonic()
    each = max((now - _clock.looked) / _clock.count, 1e-7)
    if now - _clock.paused >= BUDGET:
        await asyncio.sleep(0)
        now = _clock.paused = time.monotonic()
    _clock.looked = now
    meter.left = _clock.count = max(1, min(_MOST, int(BUDGET / each)))
