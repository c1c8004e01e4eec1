"""What is left to the garbage collector, counted: what an operation has used shall be freed when it is over, with its last reference."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ROUNDS", "garbage_counted", "of_each_round"]

ROUNDS = 20


@contextmanager
def garbage_counted() -> Iterator[Counter[str]]:
    """Count, by type, what only the garbage collector can free of what is made inside."""
    counts: Counter[str] = Counter()
    gc.disable()
    gc.freeze()  # what was there before is not looked at, which would take longer than the test
    try:
        yield counts
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        counts.update(type(garbage).__qualname__ for garbage in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def of_each_round(counts: Counter[str]) -> dict[str, int]:
    """Return what there is for each of ``ROUNDS``; a bystander, pytest say, may leave something, too, and a thread may not be done with the last."""
    return {name: count for name, count in counts.items() if count >= ROUNDS // 2}
