"""A Queue in one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from parkit import Queue

from . import bare
from .measure import Budget, Result, Settings, compare, interleave
from .single import per_operation

__all__ = ["put_and_get"]


def put_and_get(settings: Settings) -> Iterator[Result]:
    """Put an item and take it again, with ten others in the queue."""
    jobs: Queue[int] = Queue("queues/jobs")
    jobs.put_many(range(10))
    pairs = 500
    with bare.opened(settings.folder / "bare-queue") as environment:
        bare.enqueue_many(environment, range(10))

        def own() -> None:
            for number in range(pairs):
                jobs.put(number)
                jobs.get()

        def reference() -> None:
            for number in range(pairs):
                bare.enqueue(environment, number)
                bare.dequeue(environment)

        mine, other = interleave(settings.either(51, 15), partial(per_operation, own, pairs), partial(per_operation, reference, pairs))
    yield compare("Queue put + get in one process", Budget("<=", 1.6), mine, other)
