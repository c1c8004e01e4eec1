"""Programs that write in a namespace, recorded by :mod:`tests.faults.recorder`: what a power loss interrupts.

Each runs in a process of its own, begins with an empty store, and acknowledges: whenever a call that commits has returned, it notes the state that it
sees then. Where one thread writes, that is also compared with a model, a plain dict of plain lists, so that what is noted is what the calls promise::

    python -m tests.faults.workloads NAME
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import parkit_async
from parkit import Dict, LifoQueue, Log, Object, Queue, set_namespace_size, set_namespace_synchronous, transaction
from parkit_async._core import paths
from parkit_async._core.maintenance import compact
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.settings import Synchronous, get_storage_path
from tests.faults.recorder import mark

__all__ = ["NAMESPACE", "digest", "main"]

NAMESPACE = "power"


def digest(transaction: Any) -> bytes:
    """Return a digest of all that a state of a namespace consists of, parkit's own records included."""
    found = hashlib.blake2b(digest_size=16)
    for key, value in transaction.cursor():
        found.update(b"%d %d " % (len(key), len(value)))
        found.update(key)
        found.update(value)
    return found.digest()


def acknowledge(name: str = NAMESPACE) -> None:
    """Note the state that is there, as one that a call has returned for."""
    with open_namespace(name).begin_reading() as reading:
        seen = digest(reading)
    mark(seen)


def drain(q: Queue[Any]) -> list[Any]:
    """Return what is in a queue, which stays there."""
    found: list[Any] = []

    class Undo(Exception):
        pass

    try:
        with transaction(q):
            while not q.empty():
                found.append(q.get_nowait())
            raise Undo
    except Undo:
        return found


def calls() -> None:
    """Calls of all objects, each its own commit, and transactions over several."""
    d, q, lifo, log, o = Dict[Any, Any]("power/d"), Queue[Any]("power/q"), LifoQueue[Any]("power/l"), Log[Any]("power/log"), Object("power/o")
    expected: dict[Any, Any] = {}
    items: list[Any] = []
    entries: list[Any] = []
    stack: list[Any] = []

    def done() -> None:
        acknowledge()
        assert (dict(d.items()), drain(q), list(log), lifo.qsize()) == (expected, items, entries, len(stack))

    done()
    for number in range(8):
        d[number % 5] = expected[number % 5] = "x" * (number * 40)
        done()
        q.put(number)
        items.append(number)
        done()
        log.append(number)
        entries.append(number)
        done()
        if number % 2:
            assert q.get() == items.pop(0)
            done()
            del d[number % 5], expected[number % 5]
            done()
            lifo.put_many([number, -number])
            stack += [number, -number]
            done()
            assert lifo.get() == stack.pop()
            done()
        with transaction(d):
            d["both"] = expected["both"] = number
            q.put(q.get())
            items.append(items.pop(0))
            log.extend([number, number])
            entries += [number, number]
            o.number = number
            try:
                with transaction(d, isolated=True):
                    d["never"] = 1
                    raise KeyError
            except KeyError:
                pass
        done()
        assert o.number == number


def pages() -> None:
    """Big values, what is cleared and dropped, pages that are freed and used again, and a reader that keeps some of them."""
    d, big = Dict[Any, Any]("power/d"), Dict[Any, Any]("power/big")
    sizes = itertools.cycle((100, 5_000, 30_000, 9_000, 600, 60_000))
    big.update(dict.fromkeys(range(600), "y" * 100))
    acknowledge()
    for number in range(24):
        d[number % 4] = bytes([number]) * next(sizes)
        acknowledge()
        if number % 6 == 5:
            del d[number % 4]
            acknowledge()
        if number == 8:
            held = d.items().__iter__()  # a reader of this moment, that pages freed since then are kept for
            next(held)
            before = dict(d.items())
        if number == 16:
            assert dict(held) == dict(list(before.items())[1:]), "the iterator is of its moment"
            big.clear()
            acknowledge()
            while open_namespace(NAMESPACE).reclaim():
                acknowledge()
            acknowledge()
    big.drop()
    acknowledge()


def together() -> None:
    """Threads and tasks, whose calls share commits."""
    twin = Dict[Any, Any]("power/d")
    acknowledge()

    def write(first: int) -> None:
        for number in range(first, first + 6):
            twin[number] = number
            acknowledge()

    async def main() -> None:
        d, q = await parkit_async.Dict[Any, Any]("power/d"), await parkit_async.Queue[Any]("power/q")

        async def each(number: int) -> None:
            await d.set(number, "z" * number)
            acknowledge()
            await q.put(number)
            acknowledge()

        threads = [threading.Thread(target=write, args=(first,)) for first in (1000, 2000)]
        for thread in threads:
            thread.start()
        for first in (0, 30, 60):
            await asyncio.gather(*(each(number) for number in range(first, first + 20)))
            async with parkit_async.transaction(d):
                await d.set("in", first)
                await q.put(await q.get())
            acknowledge()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert await d.len() == 73
        assert await q.qsize() == 60

    asyncio.run(main())


def processes() -> None:
    """Two processes that write by turns."""
    d, log = Dict[Any, Any]("power/d"), Log[Any]("power/log")
    acknowledge()
    other = subprocess.Popen([sys.executable, "-m", "tests.faults.workloads", "second"])
    for number in range(12):
        d[number % 7] = "a" * (number * 90)
        acknowledge()
        log.append(number)
        acknowledge()
    assert other.wait(30) == 0
    assert len(log) == 24


def second() -> None:
    """The other process of :func:`processes`."""
    log, d = Log[Any]("power/log"), Dict[Any, Any]("power/second")
    for number in range(12):
        log.append(-number)
        acknowledge()
        d[number % 5] = "b" * (number * 70)
        acknowledge()


def files() -> None:
    """What concerns the files: beginning a namespace, opening it again, growing the map, compacting, changing the level."""
    d = Dict[Any, Any]("power/d")
    acknowledge()
    d["a"] = 1
    acknowledge()
    set_namespace_size(NAMESPACE, 65 << 30)
    acknowledge()
    d["b"] = bytes(100_000)
    acknowledge()
    d["b"] = 2
    acknowledge()
    close_all()
    compact(Path(os.path.realpath(get_storage_path())), NAMESPACE)
    d = Dict[Any, Any]("power/d")
    acknowledge()
    for number in range(4):
        d[number] = "c" * 3000
        acknowledge()
    if os.environ["PARKIT_SYNCHRONOUS"] == "normal":
        levels: list[Synchronous] = ["full", "normal", "full"]
        for level in levels:
            set_namespace_synchronous(NAMESPACE, level)
            acknowledge()
            d["level"] = level
            acknowledge()


def strengthened() -> None:
    """A namespace that was ``off`` becomes ``full``: what counts is from then on."""
    d = Dict[Any, Any]("power/d")
    for number in range(12):
        d[number % 5] = "d" * (number * 300)
    set_namespace_synchronous(NAMESPACE, "full")
    acknowledge()
    for number in range(12):
        d[number % 5] = "e" * (number * 300)
        acknowledge()


def inherited() -> None:
    """A namespace whose folder another process has made, and was killed before it had synchronized the store."""
    real = paths.sync_directory
    paths.sync_directory = lambda path: None if os.path.samefile(path, get_storage_path()) else real(path)
    paths.namespace_directory(paths.open_store(get_storage_path()), NAMESPACE)
    paths.sync_directory = real
    d = Dict[Any, Any]("power/d")
    for number in range(10):
        d[number] = number
        acknowledge()


WORKLOADS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (calls, pages, together, processes, second, files, strengthened, inherited)
}


def main(name: str) -> None:
    """Run a workload; as the test's script, stay until the files that go with it were copied."""
    WORKLOADS[name]()
    if name != "second":
        print("done", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1])
