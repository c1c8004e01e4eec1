"""The awaitable face: what awaiting costs, what tasks gain by committing together, and how late the event loop runs everybody else."""

from __future__ import annotations

import asyncio
import importlib
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Final

import uvloop

from parkit import Dict, set_namespace_synchronous, transaction

from . import bare
from .crew import SPAWN, Crew, duties
from .measure import Budget, Result, Settings, compare, gauge, interleave, microseconds, quantile
from .processes import median_of_first, ping_member, pong_member
from .single import ENTRIES, bare_puts, key_names, per_operation

__all__ = ["face", "gets", "lateness", "missing", "ping_pong", "tasks"]

_stamp = struct.Struct("<Q")
_TICK: Final = 0.002
"""Seconds between the moments at which the event loop is asked to run the observing task."""
_HOLD: Final = 0.05
"""Seconds for which the other process keeps its transaction open."""
_CROWD: Final = 100


def face() -> Any:
    """Return the awaitable face, or None where the package has none."""
    found = importlib.import_module("parkit_async")
    return found if hasattr(found, "Dict") else None


def missing(operation: str, budget: Budget) -> Result:
    """Return the result that says so."""
    return Result(operation, budget, None, note="not there yet: parkit_async has no Dict")


def gets(settings: Settings) -> Iterator[Result]:
    """Await reads of a Dict of 1,000 entries, one after another in one task."""
    operation, budget = "Dict get, awaited", Budget("<=", 2)
    awaitable = face()
    if awaitable is None:
        yield missing(operation, budget)
        return
    names = key_names(ENTRIES)
    Dict("loops/gets").update({name: number for number, name in enumerate(names)})
    random.Random(1).shuffle(names)
    prices = awaitable.Dict("loops/gets")

    async def own() -> float:
        start = perf_counter()
        for name in names:
            await prices.get(name)
        return (perf_counter() - start) / ENTRIES

    with bare.opened(settings.folder / "bare") as environment, asyncio.Runner() as runner:
        bare.update(environment, ((name, number) for number, name in enumerate(names)))

        def reference() -> None:
            for name in names:
                bare.get(environment, name)

        mine, other = interleave(settings.either(101, 31), lambda: runner.run(own()), partial(per_operation, reference, ENTRIES))
    yield compare(operation, budget, mine, other)


def tasks(settings: Settings) -> Iterator[Result]:
    """Have 100 tasks set entries at ``full``, each awaiting one set after another."""
    operation, budget = f"{_CROWD} tasks setting at full, per operation, against a bare durable put", Budget("<=", 1 / 15)
    awaitable = face()
    if awaitable is None:
        yield missing(operation, budget)
        return
    set_namespace_synchronous("tasks", "full")
    prices = awaitable.Dict("tasks/dict")
    names = key_names(ENTRIES)
    each = 10

    async def setting(first: int) -> None:
        for number in range(each):
            await prices.set(names[(first + number * _CROWD) % ENTRIES], number)

    async def own() -> float:
        start = perf_counter()
        await asyncio.gather(*map(setting, range(_CROWD)))
        return (perf_counter() - start) / (each * _CROWD)

    with bare.opened(settings.folder / "bare", "full") as environment, asyncio.Runner() as runner:
        reference = partial(per_operation, partial(bare_puts, environment, names[:20]), 20)
        mine, other = interleave(settings.either(41, 15), lambda: runner.run(own()), reference)
    yield compare(operation, budget, mine, other)


def lateness(settings: Settings) -> Iterator[Result]:
    """Observe how late a task runs that another process wakes every 2 ms, while tasks beside it use parkit.

    The other process stamps each wake-up, and the clock is one for all processes; a wake-up that has to wait makes none of the later ones wait to
    be sent, so no delay hides behind another.
    """
    scenarios: dict[str, Callable[[Any, list[bool]], list[Coroutine[Any, Any, None]]]] = {
        "100 tasks set at full": _setting_durably,
        "one task gets in a tight loop": _getting,
        "another process holds the write turn": _setting_contended,
    }
    budget = Budget("<=", 2, "ms")
    operations = {name: f"lateness of the event loop, p99, while {name}" for name in scenarios}
    awaitable = face()
    if awaitable is None:
        for operation in operations.values():
            yield missing(operation, budget)
        return
    set_namespace_synchronous("lateness-full", "full")
    Dict("lateness-full/dict").update(dict.fromkeys(key_names(ENTRIES), 0))
    Dict("lateness/dict").update(dict.fromkeys(key_names(ENTRIES), 0))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    seconds = 1.0
    with ours, asyncio.Runner() as runner, Crew((_ticking_member, theirs)) as ticker, Crew((_holding_member,)) as holder:
        theirs.close()

        def observe(work: Callable[[Any, list[bool]], list[Coroutine[Any, Any, None]]]) -> list[float]:
            ticker.tell("tick", seconds)
            if work is _setting_contended:
                holder.tell("hold", seconds)
            late = runner.run(_observe(ours, awaitable, work))
            ticker.reports()
            if work is _setting_contended:
                holder.reports()
            return late

        for name, work in scenarios.items():
            idle, busy = [], []
            for _ in range(settings.either(7, 3)):
                idle.append(quantile(observe(_nothing), 0.99))
                busy.append(observe(work))
            figures = [quantile(late, 0.99) * 1e3 for late in busy]
            note = f"with nothing to do, in between: {microseconds(idle)}; median {microseconds([quantile(late, 0.5) for late in busy])}"
            yield gauge(operations[name], budget, figures, note)


async def _observe(bell: socket.socket, awaitable: Any, work: Callable[[Any, list[bool]], list[Coroutine[Any, Any, None]]]) -> list[float]:
    loop = asyncio.get_running_loop()
    over: list[bool] = []
    others = [asyncio.ensure_future(task) for task in work(awaitable, over)]
    late = []
    while True:
        (sent,) = _stamp.unpack(await loop.sock_recv(bell, _stamp.size))
        if not sent:
            break
        late.append((time.monotonic_ns() - sent) / 1e9)
    over.append(True)
    await asyncio.gather(*others)
    return late


def _nothing(awaitable: Any, over: list[bool]) -> list[Coroutine[Any, Any, None]]:
    return []


def _setting_durably(awaitable: Any, over: list[bool]) -> list[Coroutine[Any, Any, None]]:
    prices = awaitable.Dict("lateness-full/dict")
    return [_repeat(partial(prices.set, name, 1), over) for name in key_names(_CROWD)]


def _getting(awaitable: Any, over: list[bool]) -> list[Coroutine[Any, Any, None]]:
    return [_repeat(partial(awaitable.Dict("lateness/dict").get, key_names(1)[0]), over)]


def _setting_contended(awaitable: Any, over: list[bool]) -> list[Coroutine[Any, Any, None]]:
    prices = awaitable.Dict("lateness/dict")
    return [_repeat(partial(prices.set, name, 1), over) for name in key_names(10)]


async def _repeat(call: Callable[[], Awaitable[object]], over: list[bool]) -> None:
    while not over:
        await call()


def _ticking_member(connection: Connection, bell: socket.socket) -> None:
    def tick(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(_TICK)
            bell.sendall(_stamp.pack(time.monotonic_ns()))
        bell.sendall(_stamp.pack(0))

    with bell:
        duties(connection, {"tick": tick})


def _holding_member(connection: Connection) -> None:
    prices: Dict[str, int] = Dict("lateness/dict")

    def hold(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with transaction(prices):
                prices["held"] = 1
                time.sleep(_HOLD)

    duties(connection, {"hold": hold})


def ping_pong(settings: Settings) -> Iterator[Result]:
    """Play ping-pong between two processes, each awaiting on uvloop."""
    operation, budget = "ping-pong awaited on uvloop, p50, against multiprocessing.Queue", Budget("<=", 1.5)
    if face() is None:
        yield missing(operation, budget)
        return
    turns = settings.either(2_000, 500)
    there, back = SPAWN.Queue(), SPAWN.Queue()
    with (
        Crew((_ping_member,), (_pong_member,)) as own,
        Crew((ping_member, there, back), (pong_member, there, back)) as theirs,
    ):
        awaited, blocking = interleave(
            settings.either(7, 5), partial(median_of_first, own, "parkit", turns), partial(median_of_first, theirs, "multiprocessing", turns)
        )
    for pipe in (there, back):
        pipe.close()
    yield compare(operation, budget, awaited, blocking)


def _ping_member(connection: Connection) -> None:
    ping, pong = _tables()

    async def play(turns: int) -> list[float]:
        times = []
        for number in range(turns):
            start = perf_counter()
            await ping.put(number)
            await pong.get()
            times.append(perf_counter() - start)
        return times

    _play(connection, play)


def _pong_member(connection: Connection) -> None:
    ping, pong = _tables()

    async def answer(turns: int) -> None:
        for _ in range(turns):
            await pong.put(await ping.get())

    _play(connection, answer)


def _tables() -> tuple[Any, Any]:
    awaitable = face()
    return awaitable.Queue("awaited/ping"), awaitable.Queue("awaited/pong")


def _play(connection: Connection, part: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        duties(connection, {"parkit": lambda turns: runner.run(part(turns))})
