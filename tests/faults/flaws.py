"""Flaws that can be put into parkit, to see whether the checkers of the histories notice them. Nothing but the tests here uses them.

Each is a mistake that an implementation like this one could make, and is made in the process that asks for it alone.
"""

from __future__ import annotations

import asyncio
import queue
import random
import time
from collections.abc import Callable
from typing import Any

import parkit
import parkit_async
from parkit_async import dict as awaitable_dict
from parkit_async import log as awaitable_log
from parkit_async import queue as awaitable_queue
from parkit_async._core import dict_ops, log_ops, queue_ops
from parkit_async._core.ownership import contexts
from parkit_async._core.transactions import Writing

__all__ = ["FLAWS", "introduce"]

STALE = 0.005  # seconds for which something is remembered


class _Nothing:
    """A block that does nothing, for both faces."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass


def _patch(target: object, name: str, value: object) -> None:
    setattr(target, name, value)


def unprotected_transactions() -> None:
    """A transaction neither keeps others out nor undoes anything."""
    for face in (parkit, parkit_async):
        _patch(face, "transaction", _Nothing)


def latest_snapshots() -> None:
    """A snapshot reads the latest state each time."""
    for face in (parkit, parkit_async):
        _patch(face, "snapshot", _Nothing)


def kept_after_failure() -> None:
    """A transaction that an exception leaves is committed."""
    leave, leave_async = parkit.transaction.__exit__, parkit_async.transaction.__aexit__

    async def committing(block: Any, *error: object) -> None:
        await leave_async(block, None, None, None)

    _patch(parkit.transaction, "__exit__", lambda block, *error: leave(block, None, None, None))
    _patch(parkit_async.transaction, "__aexit__", committing)


def kept_after_failed_savepoint() -> None:
    """A savepoint that fails undoes nothing."""
    end = Writing.end_savepoint
    _patch(Writing, "end_savepoint", lambda writing, keep: end(writing, keep=True))


def _remember(module: object, name: str) -> None:
    real: Callable[..., Any] = getattr(module, name)
    known: dict[Any, tuple[float, Any]] = {}

    def remembering(*arguments: Any) -> Any:
        place = next(number for number, each in enumerate(arguments) if hasattr(each, "object_id"))
        key = arguments[place].object_id, *arguments[place + 1 :]
        until, value = known.get(key, (0.0, None))
        now = time.monotonic()
        if now > until:
            value = real(*arguments)
            known[key] = now + STALE, value
        return value

    _patch(module, name, remembering)


def stale_values() -> None:
    """A process remembers the value of a key, whoever has changed it since."""
    _remember(dict_ops, "lookup")


def stale_headers() -> None:
    """A process remembers how long a queue or log is."""
    _remember(queue_ops, "size")
    _remember(log_ops, "length")


def _replace_write(early: bool) -> None:
    for module in (awaitable_dict, awaitable_queue, awaitable_log):
        _delay(module, early)


def _delay(module: object, early: bool) -> None:
    real: Callable[..., Any] = getattr(module, "write")  # noqa: B009 (what is not exported)
    under_way: set[asyncio.Task[Any]] = set()

    async def write(namespace: Any, call: Any, *arguments: Any) -> Any:
        if contexts:
            return await real(namespace, call, *arguments)

        async def later() -> Any:
            await asyncio.sleep(0.001)
            return await real(namespace, call, *arguments)

        task = asyncio.ensure_future(later())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        if early and call.__name__ in ("put", "append", "extend"):
            return None
        return await asyncio.shield(task)

    _patch(module, "write", write)


def answered_too_early() -> None:
    """An awaited call that stores something is answered before it has happened."""
    _replace_write(early=True)


def cancelled_and_done() -> None:
    """An awaited call that is cancelled happens nevertheless."""
    _replace_write(early=False)


def delivered_twice() -> None:
    """Taking an item is a look and a removal, in two transactions."""
    real = parkit.Queue.get

    class Undo(Exception):
        pass

    def get(self: Any, block: bool = True, timeout: float | None = None) -> Any:
        try:
            with parkit.transaction(self):
                item = real(self, block=False)
                raise Undo
        except Undo:
            pass
        try:
            real(self, block=False)
        except queue.Empty:
            pass
        return item

    _patch(parkit.Queue, "get", get)


def out_of_order() -> None:
    """A queue gives the last item instead of the first, one time in ten."""
    real = queue_ops.get
    _patch(queue_ops, "get", lambda writing, binding, lifo: real(writing, binding, lifo != (random.random() < 0.1)))


def popped_in_two() -> None:
    """``pop`` is a read and a deletion, in two transactions."""

    def pop(self: Any, key: Any, *default: Any) -> Any:
        value = self.get(key)
        if value is None and not default:
            raise KeyError(key)
        try:
            self.delete(key)
        except KeyError:
            pass
        return value

    _patch(parkit.Dict, "pop", pop)


def updated_one_by_one() -> None:
    """``update`` is a transaction for each entry."""

    def update(self: Any, pairs: Any) -> None:
        for key, value in pairs:
            self[key] = value

    _patch(parkit.Dict, "update", update)


FLAWS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        unprotected_transactions,
        latest_snapshots,
        kept_after_failure,
        kept_after_failed_savepoint,
        stale_values,
        stale_headers,
        answered_too_early,
        cancelled_and_done,
        delivered_twice,
        out_of_order,
        popped_in_two,
        updated_one_by_one,
    )
}


def introduce(flaw: str) -> None:
    """Put a flaw into parkit, in this process; ``none`` is none."""
    if flaw != "none":
        FLAWS[flaw]()
