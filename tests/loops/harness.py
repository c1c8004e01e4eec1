"""What the tests of the awaitable face share: how to wait without a clock, how to hold a namespace, and how to cancel at a chosen await.

Nothing here sleeps: what is waited for is a condition, looked at each time that the loop has gone round, or an event.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import parkit
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import open_namespace
from tests.conftest import Script, Spawn

__all__ = ["PATIENCE", "Outcome", "cancelled_at", "free", "holding_process", "holding_thread", "spin", "until"]

PATIENCE = 20.0
"""Seconds after which a test that waits for something gives up."""


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as ``condition`` holds; fail after ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0)


async def spin(rounds: int) -> None:
    """Let the loop go round so many times."""
    for _ in range(rounds):
        await asyncio.sleep(0)


def free(name: str) -> None:
    """Fail unless the turn and the gate of a namespace are free: somebody who does not wait for either can write."""
    namespace: Namespace = open_namespace(name)
    deadline = time.monotonic() + PATIENCE
    while True:
        # The writer thread gives up what it holds behind the answer, so the answer may be here first.
        if namespace.turns.holder is None and namespace.gate.try_enter():
            namespace.gate.leave()
            break
        assert time.monotonic() < deadline, f"turn held by {namespace.turns.holder!r}, or the gate is not free"
    namespace.turns.validate()


@contextmanager
def holding_thread(name: str) -> Iterator[Callable[[], None]]:
    """Have another thread hold a transaction of a namespace, to the block's end at most; give a function that ends it and waits for that."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with parkit.transaction(name):
            held.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)

    def let_go() -> None:
        release.set()
        thread.join(PATIENCE)

    try:
        yield let_go
    finally:
        let_go()


_HOLDER = """
    import sys
    import parkit

    for line in sys.stdin:
        with parkit.transaction(line.strip()):
            print("held", flush=True)
            sys.stdin.readline()
        print("released", flush=True)
"""


class HoldingProcess:
    """Another process that holds a transaction of a namespace when it is told to. Every call here blocks, but :meth:`release`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.pid = script.pid

    def hold(self, name: str) -> None:
        """Have it open a transaction; return when that is open."""
        self._script.send(name)
        while self._script.read_line() != "held":
            pass  # the end of a transaction that nobody waited for

    def let_go(self) -> None:
        """Have it end the transaction; return when that is over."""
        self._script.send("")
        assert self._script.read_line() == "released"

    def release(self) -> None:
        """Have it end the transaction, and do not wait for that."""
        self._script.send("")


def holding_process(spawn: Spawn) -> HoldingProcess:
    """Start such a process."""
    return HoldingProcess(spawn(_HOLDER))


@dataclass
class Outcome:
    """What became of a call that was cancelled at its ``k``-th suspension.

    Attributes:
        reached: Whether it suspended that often; if not, it was not cancelled.
        value: What it returned.
        error: What it raised: CancelledError, or an error of its own.
        later: Whether the cancellation was delivered at the first await behind it.
    """

    reached: bool = False
    value: Any = None
    error: BaseException | None = None
    later: bool = False
    suspensions: int = field(default=0)

    @property
    def happened(self) -> bool:
        """What the call claims: that it has happened."""
        return self.error is None


class _Counted:
    """An awaitable that runs a coroutine step by step, and cancels the task around it right behind its ``k``-th suspension."""

    def __init__(self, call: Awaitable[Any], k: int, outcome: Outcome, meanwhile: Callable[[], None]) -> None:
        self._call = call
        self._k = k
        self._outcome = outcome
        self._meanwhile = meanwhile

    def __await__(self) -> Any:
        outcome = self._outcome
        steps = self._call.__await__()
        send: Callable[[], Any] = steps.__next__
        while True:
            try:
                future = send()
            except StopIteration as stop:
                return stop.value
            outcome.suspensions += 1
            if outcome.suspensions == self._k:
                outcome.reached = True
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(_cancel, task, self._meanwhile)
            try:
                received = yield future
                send = lambda received=received: steps.send(received)  # type: ignore[misc]  # noqa: E731
            except BaseException as error:
                send = lambda error=error: steps.throw(error)  # type: ignore[misc]  # noqa: E731


def _cancel(task: asyncio.Task[Any], meanwhile: Callable[[], None]) -> None:
    task.cancel()
    # Behind the cancellation, so that what the call waits for cannot come before it.
    meanwhile()


async def cancelled_at(k: int, call: Callable[[], Awaitable[Any]], meanwhile: Callable[[], None] = lambda: None) -> Outcome:
    """Await what ``call`` returns in a task of its own, cancel that at its ``k``-th suspension, then call ``meanwhile``; return the outcome."""
    outcome = Outcome()

    async def run() -> None:
        try:
            outcome.value = await _Counted(call(), k, outcome, meanwhile)
        except (asyncio.CancelledError, Exception) as error:
            outcome.error = error
            return
        if outcome.reached:
            try:
                # A call that ended although it was cancelled: nothing else may keep the cancellation from arriving here.
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                outcome.later = True

    task = asyncio.ensure_future(run())
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
    return outcome
