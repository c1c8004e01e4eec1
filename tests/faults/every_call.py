"""A program that makes every system call of an operation fail, one after another, and looks at what each failure leaves.

It runs with the library of :mod:`tests.faults.failing_calls` loaded. For each operation: bring the store into a known state, let the n-th call fail,
do it, and see that it has either happened, or failed with an error of parkit's own that says why, and changed nothing, neither in memory nor, opened
anew, on the disk. Then do it again, without a failure. Then the same with the next call, until there is none::

    python -m tests.faults.every_call LIBRARY LEVEL ERROR KINDS once|on [partly] [anew]

``once`` lets one call fail, ``on`` all from that one on; ``partly`` lets writes do half of what they should; ``anew`` opens the namespace in the
operation, so that the calls of opening it are among those that fail.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import inspect
import os
import queue
import sys
from collections.abc import Callable
from typing import Any

import parkit
import parkit_async
from parkit import Dict, LifoQueue, Log, Object, ParkitError, Process, Queue, transaction
from parkit_async._core.registry import close_all, open_namespace
from tests.faults.failing_calls import FOR_EVER, MEMORY, FailingCalls

State = dict[str, Any]

LARGE = bytes(30_000)
MANY = 1500
"""Entries of a dict that clearing does not delete at once."""

WORDS = {
    errno.ENOSPC: ("disk is full",),
    errno.EDQUOT: ("quota", "disk is full"),  # of half a file
    errno.EIO: ("disk",),
    errno.EROFS: ("read-only",),
    errno.EMFILE: ("too many files open",),
    errno.ENFILE: ("too many files open",),
    errno.ENOMEM: ("memory", "address space"),
}
"""What an error must say, by its cause."""

made = 0


class _Undo(Exception):
    pass


def items(q: Queue[Any]) -> list[Any]:
    """Return what is in a queue, which stays there."""
    found: list[Any] = []
    try:
        with transaction(q):
            while not q.empty():
                found.append(q.get_nowait())
            raise _Undo
    except _Undo:
        return found


def observe() -> State:
    """Return all that a user can see of the namespace, but for what no operation repeats: versions, and what has another name each time."""
    d, q, lifo, log, o = Dict[Any, Any]("disk/d"), Queue[Any]("disk/q"), LifoQueue[Any]("disk/lifo"), Log[Any]("disk/log"), Object("disk/o")
    return {
        "d": dict(d.items()),
        "big": len(Dict[int, int]("disk/big")),
        "q": items(q),
        "lifo": items(lifo),
        "log": list(log),
        "o": {name: getattr(o, name) for name in o.attributes()},
        "objects": sorted(path for path, _ in parkit.objects("disk")),
        "size": parkit.get_namespace_size("disk"),
        "level": parkit.get_namespace_synchronous("disk"),
    }


def versions() -> list[int]:
    """Return the versions of the objects, each of which grows by one with a transaction that changes it."""
    return [
        version for kind, name in ((Dict, "d"), (Queue, "q"), (LifoQueue, "lifo"), (Log, "log")) if (version := kind(f"disk/{name}").version) >= 0
    ]


def reset(level: Any) -> None:
    """Bring the namespace into the state that every operation begins with."""
    d, q, lifo, log, o = Dict[Any, Any]("disk/d"), Queue[Any]("disk/q"), LifoQueue[Any]("disk/lifo"), Log[Any]("disk/log"), Object("disk/o")
    Queue[Any]("disk/empty")
    big = Dict[int, int]("disk/big")
    if len(big) < MANY:
        big.update({number: number for number in range(MANY)})
    with transaction(d):
        d.clear()
        d.update({"a": 1, "b": 2})
        q.clear()
        q.put_many([1, 2, 3])
        lifo.clear()
        lifo.put_many([1, 2])
        log.clear()
        log.extend([1, 2])
        for name in list(o.attributes()):
            delattr(o, name)
        o.colour = "red"
        for path, _ in list(parkit.objects("disk")):
            if path.startswith("disk/new"):
                (Process if path.endswith("process") else Dict)(path, create=False).drop()
    if parkit.get_namespace_size("disk") != 1 << 30:
        parkit.set_namespace_size("disk", 1 << 30)
    if parkit.get_namespace_synchronous("disk") != level:
        parkit.set_namespace_synchronous("disk", level)


# The operations, in both faces.


def set_one() -> None:
    Dict[Any, Any]("disk/d")["c"] = 3


def set_large() -> None:
    Dict[Any, Any]("disk/d")["c"] = LARGE


def delete() -> None:
    del Dict[Any, Any]("disk/d")["a"]


def update() -> None:
    Dict[Any, Any]("disk/d").update({number: number for number in range(500)})


def clear_big() -> None:
    Dict[int, int]("disk/big").clear()


def put_many() -> None:
    Queue[Any]("disk/q").put_many([4, LARGE])


def get() -> None:
    assert Queue[Any]("disk/q").get(timeout=5) == 1


def pop() -> None:
    assert LifoQueue[Any]("disk/lifo").get(timeout=5) == 2


def append() -> None:
    Log[Any]("disk/log").append(3)


def attribute() -> None:
    Object("disk/o").size = 5


def create() -> None:
    Dict[Any, Any]("disk/new")


def create_process() -> None:
    Process("disk/new-process", target=abs, args=(-1,))


def together() -> None:
    d, q, log, o = Dict[Any, Any]("disk/d"), Queue[Any]("disk/q"), Log[Any]("disk/log"), Object("disk/o")
    with transaction(d):
        d["c"] = LARGE
        q.put(q.get())
        with transaction(d, isolated=True):
            log.append(LARGE)
            Dict[Any, Any]("disk/new")["x"] = 1
        o.size = 5


def resize() -> None:
    parkit.set_namespace_size("disk", 3 << 30)


def change_level() -> None:
    parkit.set_namespace_synchronous("disk", "normal" if parkit.get_namespace_synchronous("disk") == "full" else "full")


def begin_a_namespace() -> None:
    Dict[Any, Any](f"fresh{made}/d")["a"] = 1


def wait() -> None:
    try:
        Queue[Any]("disk/empty").get(timeout=0.001)
    except queue.Empty:
        pass


async def awaited_set() -> None:
    await (await parkit_async.Dict[Any, Any]("disk/d")).set("c", 3)


async def awaited_together() -> None:
    """Three calls that share a commit, of which each is answered for itself."""
    d, q = await parkit_async.Dict[Any, Any]("disk/d"), await parkit_async.Queue[Any]("disk/q")
    outcomes = await asyncio.gather(d.set("c", 3), d.set("d", LARGE), q.put(4), return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        raise Apart([outcome is None for outcome in outcomes], errors)


class Apart(Exception):
    """Some of the calls of :func:`awaited_together` have failed."""

    def __init__(self, done: list[bool], errors: list[BaseException]) -> None:
        super().__init__(errors)
        self.done = done
        self.errors = errors

    def expected(self, base: State) -> State:
        """Return what must be there, then."""
        first, second, third = self.done
        d = base["d"] | ({"c": 3} if first else {}) | ({"d": LARGE} if second else {})
        return {**base, "d": d, "q": base["q"] + ([4] if third else [])}


async def awaited_transaction() -> None:
    d, q, log = await parkit_async.Dict[Any, Any]("disk/d"), await parkit_async.Queue[Any]("disk/q"), await parkit_async.Log[Any]("disk/log")
    async with parkit_async.transaction(d):
        await d.set("c", LARGE)
        await q.put(await q.get())
        async with parkit_async.transaction(d, isolated=True):
            await log.append(LARGE)


async def awaited_clear() -> None:
    await (await parkit_async.Dict[Any, Any]("disk/big")).clear()


async def awaited_wait() -> None:
    q = await parkit_async.Queue[Any]("disk/empty")
    try:
        await q.get(timeout=0.001)
    except parkit_async.QueueEmpty:
        pass


BLOCKING: list[Callable[[], None]] = [
    set_one,
    set_large,
    delete,
    update,
    clear_big,
    put_many,
    get,
    pop,
    append,
    attribute,
    create,
    create_process,
    together,
    resize,
    change_level,
    begin_a_namespace,
    wait,
]
AWAITED: list[Callable[[], Any]] = [awaited_set, awaited_together, awaited_transaction, awaited_clear, awaited_wait]


class Sweep:
    """Lets each call of an operation fail in turn.

    Args:
        calls: The library.
        level: Durability of the namespace.
        error: What the calls fail with.
        kinds: Which calls.
        on: Not only one call fails, but all from there on, until the operation has ended.
        partly: Writes do half.
        anew: The operation begins with everything closed.
    """

    def __init__(self, calls: FailingCalls, level: str, error: int, kinds: int, on: bool, partly: bool, anew: bool) -> None:
        self.calls = calls
        self.level = level
        self.error = error
        self.kinds = kinds
        self.on = on
        self.partly = partly
        self.anew = anew
        self.failed = 0
        self.survived = 0

    def run(self, operation: Callable[[], Any]) -> int:
        """Try every call; return how many there are.

        Raises:
            AssertionError: One has left what it must not.
        """
        global made
        self.prepare()
        base, before = observe(), versions()
        self.do(operation)
        after, growth = observe(), [now - then for now, then in zip(versions(), before, strict=True)]
        close_all()
        descriptors = len(os.listdir("/proc/self/fd"))
        number = 0
        while True:
            number += 1
            made += 1
            self.prepare()
            assert observe() == base, "what is reset is as it was"
            before = versions()
            error, where = self.fail(operation, number)
            if not where:
                break
            about = f"{operation.__name__}, call {number}, {where}: {error!r}"
            self.look(about)
            expected = base if error is not None else after
            if isinstance(error, Apart):
                expected = error.expected(base)
                for each in error.errors:
                    self.judge(about, each)
            elif error is not None:
                self.judge(about, error)
                assert versions() == before, f"a version has grown: {about}"
            assert observe() == expected, f"half done: {about}"
            close_all()
            assert observe() == expected, f"half done on the disk: {about}"
            if error is not None:
                self.prepare()
                before = versions()
                self.do(operation)  # there is room again
                assert observe() == after, f"not done the second time: {about}"
            assert [now - then for now, then in zip(versions(), before, strict=True)] == growth, f"a version has grown otherwise: {about}"
        close_all()
        left = len(os.listdir("/proc/self/fd"))
        assert left == descriptors, f"{left - descriptors} descriptors were left open by {operation.__name__}"
        return number - 1

    def prepare(self) -> None:
        reset(self.level)
        if self.anew:
            close_all()

    def fail(self, operation: Callable[[], Any], number: int) -> tuple[BaseException | None, str]:
        """Do the operation, with a failure; return its error, and the call that failed."""
        raised: BaseException | None = None
        observe()
        if self.anew:
            close_all()

        def arm() -> None:
            self.calls.arm(number, self.error, self.kinds, FOR_EVER if self.on else None, self.partly)

        try:
            self.do(operation, arm)
        except Exception as error:
            raised = error
        where = self.calls.disarm()
        if raised is None:
            self.survived += bool(where)
        else:
            self.failed += 1
        return raised, where

    def do(self, operation: Callable[[], Any], first: Callable[[], object] = lambda: None) -> None:
        """Do the operation, after ``first``; where it is awaited, on an event loop of its own, which is there before."""
        if not inspect.iscoroutinefunction(operation):
            first()
            operation()
            return

        async def main() -> None:
            first()
            try:
                await operation()
            finally:
                self.calls.pause()

        asyncio.run(main())

    def judge(self, about: str, error: BaseException) -> None:
        """See that an error says what was the matter."""
        if self.error == errno.ENOMEM and isinstance(error, MemoryError):
            return  # Python's own, which any line can raise
        assert isinstance(error, ParkitError), f"not an error of parkit's: {about}"
        assert error.__cause__ is not None, f"without its cause: {about}"
        places = (os.environ["PARKIT_STORAGE_PATH"], "namespace '")
        assert any(place in str(error) for place in places), f"does not say where: {about}"
        words = (*WORDS[self.error], "Input/output error") if self.partly else WORDS[self.error]  # LMDB's word for half a write, whatever came of it
        assert any(word in str(error) for word in words), f"does not say why: {about}"

    def look(self, about: str) -> None:
        """See that nothing is held."""
        namespace = open_namespace("disk")
        assert namespace.turns.holder is None and len(namespace.turns) == 0, f"the turn is held: {about}"
        assert not any(namespace.table._occupancy), f"a wait is registered: {about}"
        assert namespace.pinned() == [], f"a snapshot is open: {about}"
        gate = os.open(namespace.directory / "gate", os.O_RDWR)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AssertionError(f"the gate is held: {about}") from None
        finally:
            os.close(gate)


def main(library: str, level: str, error: str, kinds: str, *options: str) -> None:
    """Run every operation; print how many calls there were, how often an operation failed, and how often it did what it should all the same."""
    os.environ["PARKIT_SYNCHRONOUS"] = level
    calls = FailingCalls(library, os.path.realpath(os.environ["PARKIT_STORAGE_PATH"]))
    sweep = Sweep(calls, level, getattr(errno, error), int(kinds), "on" in options, "partly" in options, "anew" in options)
    operations = [*BLOCKING, *AWAITED]
    if sweep.kinds & MEMORY:
        # LMDB 0.9 itself frees twice when it finds no memory for a nested transaction, and the process is aborted.
        operations = [operation for operation in operations if operation not in (together, awaited_transaction)]
    points = sum(sweep.run(operation) for operation in operations)
    print(points, sweep.failed, sweep.survived)


if __name__ == "__main__":
    main(*sys.argv[1:])
