"""One vocabulary for both faces, so that one test is run on each of them.

Tests are written as for the blocking face, ``d["k"] = 1`` and ``with face.transaction(d):``. On the blocking face that is what happens. On the
awaitable one each of these is translated into its coroutine and awaited, and three things must be right for the test to mean the same:

- *One owner.* A transaction belongs to the task that opened it, so all calls of a test are awaited inside one task (:class:`_Owner`), which lives
  as long as the test. The loop runs in the test's own thread, and only while a call is being made.
- *Plain properties too.* ``d.version`` is not awaited, but what it reads depends on the running task: it is evaluated in that task as well.
- *Another owner* is another thread on one face, another task on the other: :meth:`Face.elsewhere`, and :meth:`Face.start` for calls that wait.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import os
import pickle
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import parkit
import parkit_async
from parkit_async import runtime
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.objects import Handle
from parkit_async._core.registry import open_namespace

__all__ = ["FACES", "PATIENCE", "Face", "Job", "calls", "opened"]

FACES: Final = ("blocking", "asyncio", "uvloop")
PATIENCE: Final = 20.0
"""Seconds after which a test that waits for something gives up."""


def calls(*functions: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Return functions that are to be called one after the other; lambdas of different types are of one type here."""
    return functions


class Job(ABC):
    """A call that another thread or task makes meanwhile."""

    @abstractmethod
    def done(self) -> bool:
        """Return whether it has returned or raised."""

    @abstractmethod
    def result(self) -> Any:
        """Return what it returns, or raise what it raises; fail after ``PATIENCE`` seconds."""


class Face(ABC):
    """A face of parkit, spoken to as if it were the blocking one.

    Public names of the face are attributes: ``face.Dict("ns/x")``, ``face.namespaces()``, ``face.transaction(d)``.

    Attributes:
        name: One of ``FACES``.
        module: ``parkit`` or ``parkit_async``, for what must be done with the real classes.
    """

    name: str
    module: Any

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if isinstance(value, type) and issubclass(value, Handle):
            return functools.partial(self.open, value)
        return value

    @abstractmethod
    def open(self, cls: Any, /, *path: str | None, **options: Any) -> Any:
        """Return an object of ``cls``, a class of this face or a subclass of one, bound to its path; a Process can do without one."""

    @abstractmethod
    def transaction(self, obj: Any, zero_copy: bool = False, isolated: bool = False) -> Any:
        """Return the context manager of that name."""

    @abstractmethod
    def snapshot(self, obj: Any, zero_copy: bool = False) -> Any:
        """Return the context manager of that name."""

    @abstractmethod
    def elsewhere(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` as another thread or task, and return what it returns, or raise what it raises."""

    @abstractmethod
    def start(self, method: Callable[..., Any], /, *arguments: Any, **options: Any) -> Job:
        """Have another thread or task call a method of an object, or ``__next__`` of an iterator, and do not wait for it."""

    @abstractmethod
    def raw(self, obj: Any) -> Any:
        """Return parkit's own object behind what this face has opened."""

    @abstractmethod
    def wrap(self, value: Any) -> Any:
        """Return a handle in the form that the test uses; anything else as it is."""

    @abstractmethod
    def breathe(self) -> None:
        """Let others run."""

    def clone(self, obj: Any) -> Any:
        """Return another handle to an object: one that was pickled, and unpickled, and binds when it is used."""
        return self.wrap(pickle.loads(pickle.dumps(self.raw(obj))))

    def until(self, condition: Callable[[], object]) -> None:
        """Return as soon as ``condition`` holds; fail after ``PATIENCE`` seconds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.breathe()

    @abstractmethod
    def waiters(self, obj: Any) -> int:
        """Return how many threads or tasks wait for something of an object."""

    def until_waiting(self, obj: Any, count: int = 1) -> None:
        """Return as soon as that many wait for something of an object: they are woken by what follows, or not at all."""
        self.until(lambda: self.waiters(obj) >= count)

    def until_in_line(self, namespace: str, before: int) -> None:
        """Return as soon as more than ``before`` threads or tasks have had to wait for the turn to write (``statistics().waits``)."""
        home = open_namespace(namespace)
        self.until(lambda: home.statistics.waits > before)


# The blocking face: nothing to translate.


class _Blocking(Face):
    name = "blocking"
    module = parkit

    def open(self, cls: Any, /, *path: str | None, **options: Any) -> Any:
        return cls(*path, **options)

    def transaction(self, obj: Any, zero_copy: bool = False, isolated: bool = False) -> Any:
        return parkit.transaction(obj, zero_copy, isolated)

    def snapshot(self, obj: Any, zero_copy: bool = False) -> Any:
        return parkit.snapshot(obj, zero_copy)

    def elsewhere(self, function: Callable[[], Any]) -> Any:
        return _ThreadJob(function).result()

    def start(self, method: Callable[..., Any], /, *arguments: Any, **options: Any) -> Job:
        return _ThreadJob(functools.partial(method, *arguments, **options))

    def raw(self, obj: Any) -> Any:
        return obj

    def wrap(self, value: Any) -> Any:
        return value

    def waiters(self, obj: Any) -> int:
        # Looking as a writer does. A waiter that this disturbs looks, and sleeps again.
        return len(open_namespace(obj.namespace).table.waiters({obj._binding.object_id: EVENT_ALL}))

    def breathe(self) -> None:
        os.sched_yield()


class _ThreadJob(Job):
    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call did not return in time"
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._value


# The awaitable face.


async def _outcome(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """Call a function in the running task, await what it returns if that is to be awaited, and return the result and the exception."""
    try:
        result = function(*arguments, **options)
        return (await result if inspect.isawaitable(result) else result), None
    except Exception as error:
        return None, error


class _Owner:
    """A task that makes one call after the other: to parkit they all have one owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: asyncio.Queue[Any] = asyncio.Queue()
        self._task = loop.create_task(self._work())

    async def _work(self) -> None:
        while (call := await self._calls.get()) is not None:
            *call, answer = call
            answer.set_result(await _outcome(*call))
            del call, answer  # an iterator that the test drops must not live on here

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        answer = self._loop.create_future()
        self._calls.put_nowait((function, arguments, options, answer))
        # Awaiting a future starts no task.
        result, error = self._loop.run_until_complete(answer)
        if error is not None:
            try:
                raise error
            finally:
                del error  # or the exception would keep this frame, and this frame the exception
        return result

    def stop(self) -> None:
        self._calls.put_nowait(None)
        self._loop.run_until_complete(self._task)


class _Awaitable(Face):
    module = parkit_async

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.loop = loop
        self._owner = _Owner(loop)

    def close(self) -> None:
        self._owner.stop()

    def run(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        """Call, and await, in the present owner's task."""
        return self.wrap(self._owner.run(function, tuple(map(self.raw, arguments)), {name: self.raw(value) for name, value in options.items()}))

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return _Call(self, value) if inspect.isfunction(value) else self.wrap(value)

    def open(self, cls: Any, /, *path: str | None, **options: Any) -> Any:
        return self.run(lambda: cls(*path, **options))

    def transaction(self, obj: Any, zero_copy: bool = False, isolated: bool = False) -> Any:
        return _Context(self, self.module.transaction(self.raw(obj), zero_copy, isolated))

    def snapshot(self, obj: Any, zero_copy: bool = False) -> Any:
        return _Context(self, self.module.snapshot(self.raw(obj), zero_copy))

    def elsewhere(self, function: Callable[[], Any]) -> Any:
        other, own = _Owner(self.loop), self._owner
        self._owner = other
        try:
            return function()
        finally:
            self._owner = own
            other.stop()

    def start(self, method: Callable[..., Any], /, *arguments: Any, **options: Any) -> Job:
        step = getattr(method, "__self__", None)
        function = step.step if isinstance(step, _Iterator) else method.function  # type: ignore[attr-defined]
        return _TaskJob(self, functools.partial(function, *map(self.raw, arguments), **options))

    def raw(self, obj: Any) -> Any:
        return obj._target if isinstance(obj, _Object) else obj

    def wrap(self, value: Any) -> Any:
        if isinstance(value, Handle):
            return _Object(self, value)
        return _Stream(self, value) if hasattr(type(value), "__aiter__") else value

    def waiters(self, obj: Any) -> int:
        # The waiters of a loop share a registration; how many they are its runtime knows.
        wanted = self.raw(obj)._binding.object_id
        waiting = runtime._runtimes[self.loop]._waiters if self.loop in runtime._runtimes else {}
        return sum(waiters.users for (_, object_id, _), waiters in waiting.items() if object_id == wanted)

    def breathe(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))


class _TaskJob(Job):
    def __init__(self, face: _Awaitable, function: Callable[[], Any]) -> None:
        self._face = face
        self._task = face.loop.create_task(_outcome(function, (), {}))

    def done(self) -> bool:
        self._face.breathe()
        return self._task.done()

    def result(self) -> Any:
        result, error = self._face.loop.run_until_complete(asyncio.wait_for(self._task, PATIENCE))
        if isinstance(error, StopAsyncIteration):
            raise StopIteration
        if error is not None:
            raise error
        return self._face.wrap(result)


class _Call:
    """A function or method of the awaitable face, to be called as that of the blocking one."""

    def __init__(self, face: _Awaitable, function: Callable[..., Any]) -> None:
        self._face = face
        self.function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._face.run(self.function, *arguments, **options)


class _Context:
    def __init__(self, face: _Awaitable, context: Any) -> None:
        self._face = face
        self._context = context

    def __enter__(self) -> Any:
        return self._face.run(self._context.__aenter__)

    def __exit__(self, *error: object) -> Any:
        return self._face.run(self._context.__aexit__, *error)


class _Stream:
    """Something to iterate over: a view, or an asynchronous iterator."""

    def __init__(self, face: _Awaitable, target: Any) -> None:
        self._face = face
        self._target = target

    def __iter__(self) -> _Iterator:
        return _Iterator(self._face, self._face._owner.run(self._target.__aiter__, (), {}))


class _Iterator:
    def __init__(self, face: _Awaitable, iterator: Any) -> None:
        self._face = face
        self.step = iterator.__anext__

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        try:
            return self._face.run(self.step)
        except StopAsyncIteration:
            raise StopIteration from None


class _Object:
    """A handle of the awaitable face with the operators of the blocking one."""

    __slots__ = ("_face", "_target")

    def __init__(self, face: _Awaitable, target: Any) -> None:
        object.__setattr__(self, "_face", face)
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        if inspect.isroutine(getattr(type(self._target), name, None)):
            return _Call(self._face, getattr(self._target, name))
        return self._face.run(getattr, self._target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "maxsize":
            self._face.run(self._target.set_maxsize, value)
        elif name.startswith("_") or hasattr(type(self._target), name):
            setattr(self._target, name, value)
        else:
            self._face.run(self._target.set_attribute, name, value)

    def __delattr__(self, name: str) -> None:
        if name.startswith("_") or hasattr(type(self._target), name):
            delattr(self._target, name)
        else:
            self._face.run(self._target.delete_attribute, name)

    def __getitem__(self, key: Any) -> Any:
        return self._face.run(operator.getitem, self._target, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._face.run(self._target.set, key, value)

    def __delitem__(self, key: Any) -> None:
        self._face.run(self._target.delete, key)

    def __contains__(self, key: Any) -> bool:
        return self._face.run(self._target.contains, key)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self._face.run(self._target.len)  # type: ignore[no-any-return]

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> _Iterator:
        return iter(_Stream(self._face, self._target))

    def __eq__(self, other: object) -> bool:
        return self._face.run(operator.eq, self._target, other)  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return self._face.run(hash, self._target)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return repr(self._target)


@contextmanager
def opened(name: str) -> Iterator[Face]:
    """Have the use of a face; for the awaitable one, of an event loop that is closed at the end with everything that ran on it."""
    if name == "blocking":
        yield _Blocking()
        return
    factory = None
    if name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        face = _Awaitable(name, runner.get_loop())
        yield face
        face.close()
