"""Clients that work on the same few objects at once, and note what they were told: the histories that the tests here check.

A conductor (:func:`conduct`, a process of its own) forks a few processes for each round; each has threads that use the blocking face, and an event
loop whose tasks use the awaitable one, with tasks that are cancelled, short timeouts, forks in the middle, and processes killed at random. What each
client does is drawn from the seed, so the same seed repeats the same operations; how they interleave is up to the machine.

The conductor obeys lines: kind of round, level of durability, flaw (see :mod:`tests.faults.flaws`; ``none``), folder for the records.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parkit
import parkit_async
from parkit_async._core.registry import close_all
from tests.faults import flaws
from tests.faults.histories import Recorder
from tests.faults.linearizability import Model
from tests.faults.models import DictModel, LogModel, ObjectModel, QueueModel, Store, raised
from tests.processes.crowd import Member, bury, linger

__all__ = ["KINDS", "conduct", "model"]

MAXSIZE = 3
LIFETIME = 0.1  # seconds after its start within which whoever is killed is killed

OBJECTS: dict[str, dict[str, str]] = {
    "keys": {"d": "Dict"},
    "dict": {"d": "Dict"},
    "attributes": {"o": "Object"},
    "queue": {"q": "Queue"},
    "lifo": {"s": "LifoQueue"},
    "log": {"l": "Log"},
    "store": {"d": "Dict", "l": "Log", "q": "Queue"},
    "lists": {"d": "Dict", "l": "Log", "m": "Log"},
}
KINDS = [kind for kind in OBJECTS if kind != "lists"]
MODELS: dict[str, Model] = {
    "Dict": DictModel(),
    "Object": ObjectModel(),
    "Queue": QueueModel(MAXSIZE),
    "LifoQueue": QueueModel(MAXSIZE, lifo=True),
    "Log": LogModel(),
}


def model(kind: str) -> Model:
    """Return the model for the histories of a kind of round."""
    models = {name: MODELS[class_name] for name, class_name in OBJECTS[kind].items()}
    return Store(models) if kind == "store" else next(iter(models.values()))


# What is to be done.


class Plan:
    """What one client does, drawn from a seed. Every value that is stored is used once."""

    def __init__(self, kind: str, client: str, seed: str) -> None:
        self.rng = random.Random(seed)
        self._kind = kind
        self._client = client
        self._count = 0

    def __iter__(self) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
        for _ in range({"store": 6, "lists": 20, "dict": 10, "queue": 25, "lifo": 25}.get(self._kind, 15)):
            yield getattr(self, f"_{self._kind}")()

    def value(self) -> str:
        """Return a value that nobody else stores."""
        self._count += 1
        return f"{self._client}.{self._count}"

    def _values(self) -> tuple[str, ...]:
        return tuple(self.value() for _ in range(self.rng.randint(1, 2)))

    def _keys(self) -> Any:
        key = self.rng.choice("abcd")
        name = self.rng.choice(["set", "set", "set", "get", "get", "get", "contains", "delete", "pop", "pop", "setdefault"])
        if name == "pop" and self.rng.random() < 0.5:
            return "d", name, (key, None)
        return "d", name, (key, self.value()) if name in ("set", "setdefault") else (key,)

    def _dict(self) -> Any:
        match self.rng.choice(["len", "items", "update", "clear", "popitem", "set", "key", "key"]):
            case "update":
                return "d", "update", (tuple(sorted((key, self.value()) for key in self.rng.sample("abcd", 2))),)
            case "set" | "key":
                return self._keys()
            case name:
                return "d", name, ()

    def _attributes(self) -> Any:
        name = self.rng.choice(["set", "set", "get", "get", "delete"])
        key = self.rng.choice(["red", "green"])
        return "o", name, (key, self.value()) if name == "set" else (key,)

    def _queue(self) -> Any:
        name = self.rng.choice(["put", "put", "put", "get", "get", "get", "put_many", "get_many", "qsize", "empty", "full"])
        return "q", name, (self.value(),) if name == "put" else (self._values(),) if name == "put_many" else (2,) if name == "get_many" else ()

    def _lifo(self) -> Any:
        return "s", *self._queue()[1:]

    def _log(self) -> Any:
        name = self.rng.choice(["append", "append", "append", "extend", "len", "getitem", "items", "items"])
        match name:
            case "append":
                return "l", name, (self.value(),)
            case "extend":
                return "l", name, (self._values(),)
            case "getitem":
                return "l", name, (self.rng.choice([0, -1, 3]),)
        return "l", name, ()

    def _store(self) -> Any:
        end = self.rng.choices(["commit", "rollback", "snapshot"], [5, 2, 3])[0]
        return "transaction", end, self._steps(end)

    def _steps(self, end: str, depth: int = 0) -> tuple[Any, ...]:
        steps: list[Any] = []
        for _ in range(self.rng.randint(1, 4)):
            if end != "snapshot" and not depth and self.rng.random() < 0.15:
                inner = self.rng.choice(["commit", "rollback"])
                steps.append(("savepoint", inner, self._steps(inner, 1)))
                continue
            while True:
                step = self.rng.choice([self._keys, self._queue, self._log])()
                if end != "snapshot" or MODELS[OBJECTS["store"][step[0]]].reads(*step[1:]):
                    steps.append(step)
                    break
        return tuple(steps)

    def _lists(self) -> Any:
        if self.rng.random() < 0.3:
            what = self.rng.choice("lm")
            return "transaction", "alone", ((what, "push", (self.value(),)) if self.rng.random() < 0.5 else (what, "items", ()),)
        end = self.rng.choices(["commit", "rollback", "snapshot"], [5, 2, 4])[0]
        return "transaction", end, self._pushes(end)

    def _pushes(self, end: str, depth: int = 0) -> tuple[Any, ...]:
        steps: list[Any] = []
        for _ in range(self.rng.randint(1, 4) if end != "snapshot" else self.rng.randint(2, 4)):
            if end != "snapshot" and not depth and self.rng.random() < 0.15:
                inner = self.rng.choice(["commit", "rollback"])
                steps.append(("savepoint", inner, self._pushes(inner, 1)))
                continue
            what, *key = self.rng.choice([("d", "a"), ("d", "b"), ("l",), ("m",)])
            if end != "snapshot" and self.rng.random() < 0.5:
                steps.append((what, "push", (*key, self.value())))
            else:
                steps.append((what, "get" if key else "items", tuple(key)))
        return tuple(steps)


# Doing it.

NAMES = {
    ("Object", "set"): "set_attribute",
    ("Object", "get"): "get_attribute",
    ("Object", "delete"): "delete_attribute",
    ("Log", "getitem"): "get",
    ("Log", "push"): "append",
}
TAKES_BLOCK = frozenset({"put", "get", "put_many", "get_many"})
OUTCOMES = (KeyError, IndexError, AttributeError, queue.Empty, queue.Full)


class Rollback(Exception):
    """What leaves a block that is to be undone."""


def refusal(error: Exception) -> str:
    """Return the outcome that an exception of the contract is."""
    return raised(next(kind.__name__ for kind in OUTCOMES if isinstance(error, kind)))


def plain(value: Any) -> Any:
    """Return a value as the models have it."""
    return tuple(value) if isinstance(value, list) else value


class Client:
    """What the clients of both faces have in common."""

    def __init__(self, kind: str, path: str, folder: Path, client: str, seed: str) -> None:
        self.kind = kind
        self.path = path
        self.folder = folder
        self.client = client
        self.seed = seed
        self.plan = Plan(kind, client, f"{seed} {client}")
        self.recorder = Recorder(folder, client)
        self.handles: dict[str, Any] = {}

    def opening(self, face: Any) -> Iterator[tuple[str, Any]]:
        """Yield the handles of the objects, which are created by whoever comes first."""
        for name, class_name in OBJECTS[self.kind].items():
            options = {"maxsize": MAXSIZE} if "Queue" in class_name else {}
            yield name, getattr(face, class_name)(f"{self.path}-{name}", **options)

    def bound(self, what: str, name: str, inside: bool) -> tuple[Any, dict[str, Any]]:
        """Return the method for a call, and how long it may wait."""
        class_name = OBJECTS[self.kind][what]
        method = getattr(self.handles[what], NAMES.get((class_name, name), name))
        if name not in TAKES_BLOCK or "Queue" not in class_name:
            return method, {}
        return method, {"block": False} if inside or self.plan.rng.random() < 0.3 else {"timeout": self.plan.rng.uniform(0, 0.01)}

    @property
    def anything(self) -> Any:
        return next(iter(self.handles.values()))


class Blocking(Client):
    """A client in a thread."""

    def run(self) -> None:
        """Do all that is planned."""
        self.handles.update(self.opening(parkit))
        for number, (what, name, arguments) in enumerate(self.plan):
            if what == "transaction":
                self.recorder.invoke(what, (name, arguments))
                self.recorder.complete(self.block(name, arguments))
            else:
                self.recorder.invoke(name, arguments)
                self.recorder.complete(self.call(what, name, arguments, inside=False))
            if number == 3 and self.plan.rng.random() < 0.2:
                self.fork()
        self.recorder.close()

    def fork(self) -> None:
        """Fork a client in the middle of everything, and wait for its end."""
        pid = os.fork()
        if not pid:
            status = 1
            try:
                child = Blocking(self.kind, self.path, self.folder, f"{self.client}f", self.seed)
                child.opening = lambda face: iter(self.handles.items())  # type: ignore[method-assign]
                child.run()
                close_all()
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0

    def call(self, what: str, name: str, arguments: tuple[Any, ...], inside: bool) -> Any:
        handle = self.handles[what]
        try:
            if name == "items":
                return tuple(handle.items() if isinstance(handle, parkit.Dict) else handle)
            if name == "push" and isinstance(handle, parkit.Dict):
                key, value = arguments
                handle.set(key, (*handle.get(key, ()), value))
                return None
            method, options = self.bound(what, name, inside)
            return plain(method(*arguments, **options))
        except OUTCOMES as error:
            return refusal(error)

    def block(self, end: str, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        if end == "alone":
            return self.steps(steps)
        outcomes: tuple[Any, ...] = ()
        try:
            with parkit.snapshot(self.anything) if end == "snapshot" else parkit.transaction(self.anything):
                if end == "snapshot":
                    self.recorder.opened()
                outcomes = self.steps(steps)
                if end == "rollback":
                    raise Rollback
        except Rollback:
            pass
        return outcomes

    def steps(self, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        outcomes: list[Any] = []
        for what, name, arguments in steps:
            if self.plan.rng.random() < 0.1:
                time.sleep(0.001)  # a long transaction
            if what != "savepoint":
                outcomes.append(self.call(what, name, arguments, inside=True))
                continue
            try:
                with parkit.transaction(self.anything, isolated=True):
                    outcomes.append(self.steps(arguments))
                    if name == "rollback":
                        raise Rollback
            except Rollback:
                pass
        return tuple(outcomes)


class Awaiting(Client):
    """A client in a task, which may be cancelled at any await."""

    async def open(self) -> None:
        """Open the objects; not to be cancelled."""
        for name, handle in self.opening(parkit_async):
            self.handles[name] = await handle

    async def run(self) -> None:
        """Do all that is planned, whatever is cancelled meanwhile."""
        for planned in self.plan:
            limit = self.plan.rng.uniform(0, 0.005) if self.plan.rng.random() < 0.2 else None
            try:
                async with asyncio.timeout(limit):
                    await self.perform(*planned)
                await asyncio.sleep(0)
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
        self.recorder.close()

    async def perform(self, what: str, name: str, arguments: tuple[Any, ...]) -> None:
        if what == "transaction":
            self.recorder.invoke(what, (name, arguments))
        else:
            self.recorder.invoke(name, arguments)
        try:
            outcome = await (self.block(name, arguments) if what == "transaction" else self.call(what, name, arguments, inside=False))
        except asyncio.CancelledError:
            self.recorder.cancel()
            raise
        self.recorder.complete(outcome)

    async def call(self, what: str, name: str, arguments: tuple[Any, ...], inside: bool) -> Any:
        handle = self.handles[what]
        try:
            if name == "items":
                return tuple([each async for each in (handle.items() if isinstance(handle, parkit_async.Dict) else handle)])
            if name == "push" and isinstance(handle, parkit_async.Dict):
                key, value = arguments
                await handle.set(key, (*await handle.get(key, ()), value))
                return None
            method, options = self.bound(what, name, inside)
            outcome = method(*arguments, **options)
            return plain(await outcome if inspect.isawaitable(outcome) else outcome)
        except OUTCOMES as error:
            return refusal(error)

    async def block(self, end: str, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        if end == "alone":
            return await self.steps(steps)
        outcomes: tuple[Any, ...] = ()
        try:
            async with parkit_async.snapshot(self.anything) if end == "snapshot" else parkit_async.transaction(self.anything):
                if end == "snapshot":
                    self.recorder.opened()
                outcomes = await self.steps(steps)
                if end == "rollback":
                    raise Rollback
        except Rollback:
            pass
        return outcomes

    async def steps(self, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        outcomes: list[Any] = []
        for what, name, arguments in steps:
            if self.plan.rng.random() < 0.1:
                await asyncio.sleep(0.001)
            if what != "savepoint":
                outcomes.append(await self.call(what, name, arguments, inside=True))
                continue
            try:
                async with parkit_async.transaction(self.anything, isolated=True):
                    outcomes.append(await self.steps(arguments))
                    if name == "rollback":
                        raise Rollback
            except Rollback:
                pass
        return tuple(outcomes)


async def tasks(clients: list[Awaiting], rng: random.Random) -> None:
    """Run clients as tasks, and cancel one or another of them now and then."""
    for client in clients:
        await client.open()
    running = [asyncio.create_task(client.run()) for client in clients]
    while not all(task.done() for task in running):
        await asyncio.wait(running, timeout=rng.uniform(0, 0.004), return_when=asyncio.ALL_COMPLETED)
        victim = rng.choice(running)
        if not victim.done():
            victim.cancel()
    await asyncio.gather(*running)


def process(report: Any, start: int, kind: str, path: str, flaw: str, folder: Path, me: str, seed: str, threads: int, tasks_: int) -> None:
    """Run the clients of one process, once the conductor has closed the other end of ``start``."""
    flaws.introduce(flaw)
    blocking = [Blocking(kind, path, folder, f"{me}t{number}", seed) for number in range(threads)]
    awaiting = [Awaiting(kind, path, folder, f"{me}a{number}", seed) for number in range(tasks_)]
    failures: list[BaseException] = []

    def guarded(call: Any) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    os.read(start, 1)
    report("started")
    running = [threading.Thread(target=guarded, args=(client.run,)) for client in blocking]
    for thread in running:
        thread.start()
    guarded(lambda: asyncio.run(tasks(awaiting, random.Random(f"{seed} {me}"))))
    for thread in running:
        thread.join()
    if failures:
        raise BaseExceptionGroup(f"clients of {me}", failures)


def conduct(seed: int) -> None:
    """Run a round for each line of standard input; answer with the number of those killed."""
    levels = set()
    for number, line in enumerate(sys.stdin):
        kind, level, flaw, folder = line.split(maxsplit=3)
        rng = random.Random(f"{seed} {number}")
        os.environ["PARKIT_SYNCHRONOUS"] = level
        levels.add(level)
        path = f"{level}/{number}"
        inherited = rng.random() < 0.5  # the processes inherit the namespace open; otherwise the first of them opens, or even makes it
        if inherited:
            parkit.Object(f"{level}/inherited")
        waiting, starting = os.pipe()
        # Where all of an object is one part, many who come at once make long searches.
        shape = (2, 3) if kind in ("keys", "attributes", "log", "lists") else (1, 2)
        members = []
        for index in range(3):
            arguments = (waiting, kind, path, flaw, Path(folder.rstrip("\n")), f"p{index}", f"{seed} {number}", *shape)
            members.append(Member(_closing, starting, arguments))
        os.close(waiting)
        os.close(starting)
        victims = rng.sample(members, rng.choice([0, 0, 1, 1, 2]))
        try:
            for victim in victims:
                victim.read()
                linger(LIFETIME)
                os.kill(victim.pid, signal.SIGKILL)
            for member in members:
                status = ended(member)
                assert status == 0 or (member in victims and status == -signal.SIGKILL), f"process {member.pid} ended with {status}"
        except BaseException:
            for member in members:  # with what they have forked, should that be what does not end
                try:
                    os.killpg(member.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            raise
        close_all()
        print(len(victims), flush=True)
    for level in sorted(levels):
        bury(level)


def ended(member: Member) -> int:
    """Wait until a process and all that it has forked have ended; return how it did."""
    try:
        while True:
            member.read()
    except EOFError:
        return os.waitstatus_to_exitcode(os.waitpid(member.pid, 0)[1])


def _closing(report: Any, starting: int, arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)
    os.close(starting)
    process(report, *arguments)
