"""What the fixtures of the pytest plugin are made of: a pool that surely ends, and one that is no pool. Usable without pytest.

An :class:`InlinePool` is the supervisor of its store in that it holds the supervisor's lock: the kernel tells every program, this one included, that
somebody supervises, so none starts a service, and nothing of parkit needs to be told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._core import codecs, failures, ownership, paths, pool_control, pool_state, process_ops, supervision
from ._core.doorbell import EVENT_ALL, EVENT_ITEMS, Bell
from ._core.errors import ParkitError
from ._core.layout import run_key
from ._core.namespace import Namespace
from ._core.paths import open_store
from ._core.process_ops import FAILED, Claim
from ._core.registry import close_store, open_if_there, open_namespace
from ._core.settings import set_storage_path
from ._core.shared import ONE_OF, TableFullError
from ._core.transactions import Writing
from ._core.waiting import AGAIN, SAFETY, block
from .calling import Outcome, call
from .surroundings import close_contexts

if TYPE_CHECKING:
    import psutil
    import pytest

__all__ = ["PATIENCE", "InlinePool", "TemporaryPool", "leave"]

PATIENCE: Final = 30.0
"""Seconds after which what should happen has not happened."""


def leave(store: str) -> str:
    """Close what this process has open in a store, and end the store's pool if it has one. Return what was left open that should not, or nothing."""
    problems = []
    for owner, contexts in list(ownership.contexts.items()):
        mine = [context for context in contexts if os.path.realpath(store) == os.path.realpath(context.namespace.store)]
        problems += [f"a {'transaction' if context.writes else 'snapshot'} of namespace {context.namespace.name!r}" for context in mine]
        if mine and all(getattr(context, "thread", threading.get_ident()) == threading.get_ident() for context in mine):
            for context in reversed(ownership.contexts.pop(owner)):
                if isinstance(context, Writing):
                    context.namespace.finish(context)
                else:
                    context.end()
    dispatch = sys.modules.get("parkit_async._core.dispatch")
    if dispatch is not None:
        problems += [f"an executor of {name!r} with calls that do not end" for name in dispatch.end_all(store, PATIENCE)]
    if os.path.exists(os.path.join(store, "supervisor.log")):
        left = TemporaryPool(Path(store)).end()
        if left:
            problems.append(left)
    close_store(store)
    return f"the test has left open {', '.join(problems)}" if problems else ""


class TemporaryPool:
    """The pool of a store that is to end, as a test sees it from outside. For one thread.

    Args:
        store: Path of the store; the one that the program uses.
    """

    def __init__(self, store: Path) -> None:
        self.store = store

    def prepare(self, size: int) -> None:
        """Set the number of workers, without starting anybody."""
        with _using(self.store):
            pool_control.set_size(size)

    def resize(self, size: int) -> set[int]:
        """Set the number of workers, and return their process ids as soon as there are so many. Starts the pool if need be."""
        self.prepare(size)
        supervision.ensure(str(self.store), restart=True)
        return self.until_size(size)

    def status(self) -> dict[str, Any]:
        """Return what ``pool_status()`` does."""
        with _using(self.store):
            return pool_control.status()

    def workers(self) -> set[int]:
        """Return the process ids of the workers that have said hello."""
        return {worker["pid"] for worker in self.status()["workers"]}

    def until(self, condition: Callable[[], Any]) -> Any:
        """Return what ``condition`` returns as soon as that is true: asked each time that the pool says something about itself.

        Raises:
            TimeoutError: It was not in half a minute; the message has what supervisor and workers have printed.
        """
        found = block(pool_state.shelf(str(self.store), pool_state.POOL), EVENT_ALL, lambda: condition() or AGAIN, time.monotonic() + PATIENCE)
        if found is AGAIN:
            raise TimeoutError(f"it did not happen in time: {self.status()}\n{self.log()}")
        return found

    def until_size(self, size: int) -> set[int]:
        """Return the process ids of the workers as soon as there are ``size``."""
        self.until(lambda: len(self.workers()) == size)
        return self.workers()

    def members(self) -> list[psutil.Process]:
        """Return the processes that belong to the pool: the supervisor, workers, and whatever targets have started."""
        import psutil

        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid not in own and process.status() != psutil.STATUS_ZOMBIE and self._belongs(process):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def _belongs(self, process: psutil.Process) -> bool:
        return str(self.store) in process.cmdline() or process.environ().get("PARKIT_STORAGE_PATH") == str(self.store)

    def log(self) -> str:
        """Return what the supervisor and its workers have printed."""
        try:
            return (self.store / "supervisor.log").read_text()
        except FileNotFoundError:
            return ""

    def end(self) -> str:
        """End the pool as ``killall()`` does, with half a minute of patience, and then whoever is left. Return who was, or nothing."""
        deadline = time.monotonic() + PATIENCE
        with _using(self.store):
            for watch in pool_control.stopping():
                try:
                    poll = select.poll()
                    poll.register(watch.fileno(), select.POLLIN)
                    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                        break
                finally:
                    watch.close()
        left = self.members()
        for process in left:
            with contextlib.suppress(OSError):
                process.kill()
        sockets = open_namespace(paths.POOL_NAMESPACE, str(self.store)).sockets
        for file in os.listdir(sockets.path):
            if file.startswith("new-"):  # a sweep takes it for one that is being bound, unless it is old
                with contextlib.suppress(FileNotFoundError):
                    os.utime(os.path.join(sockets.path, file), (0, 0))
        sockets.sweep()  # as the next to open the store would: those who were killed have left theirs
        return f"ending the pool has left {left}\n{self.log()}" if left else ""


@contextlib.contextmanager
def _using(store: Path) -> Iterator[None]:
    """Have a store be the program's for a moment, whatever a test has set."""
    before = os.environ.get("PARKIT_STORAGE_PATH")
    set_storage_path(store)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PARKIT_STORAGE_PATH"]
        else:
            os.environ["PARKIT_STORAGE_PATH"] = before


class InlinePool:
    """Runs the processes of a store in threads of this process, from its making on until :meth:`end`.

    What cannot be had so: ``terminate()`` and ``kill()`` do not interrupt a target that runs (its process has crashed when it returns); ``killall()``
    raises; what a target does to the interpreter (``os._exit``, its working folder) it does to the test's; what it prints is not kept.

    Args:
        store: Path of the store, which no pool works for.
        workers: How many processes run at once. One that waits for another needs a second.

    Raises:
        RuntimeError: A pool works for it.
    """

    def __init__(self, store: Path, workers: int = 1) -> None:
        self.store = str(open_store(str(store)))
        self._lock = supervision.SupervisorLock(self.store)
        if not self._lock.acquire():
            raise RuntimeError(f"a pool works for {self.store!r} already; end it with killall(), or give the test a store of its own")
        self._paused = 0
        self._ending = False
        self._bells: list[int] = []
        self._running: dict[str, str] = {}
        self._errors: list[BaseException] = []
        self._crew = pool_state.shelf(self.store, pool_state.CREW)
        self._threads = [threading.Thread(target=self._work, name=f"parkit-inline-{number}", daemon=True) for number in range(1, workers + 1)]
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have no further process begin inside the block: what is submitted stays so until its end."""
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            self._wake()

    def replace_killall(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have ``killall()`` raise instead of waiting for the end of this very process."""

        def stopping() -> Any:
            raise RuntimeError("processes run in this very process, which killall() would have to end; use the fixture parkit_pool")

        monkeypatch.setattr(pool_control, "stopping", stopping)

    def end(self, patience: float = PATIENCE) -> str:
        """Let what runs end, for ``patience`` seconds, and begin nothing more. Return what went wrong, or nothing."""
        self._ending = True
        self._wake()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._lock.release()
        if self._errors:
            return f"a thread that runs processes has failed: {self._errors[0]!r}"
        return f"process {', '.join(self._running.values())} still runs when the test ends; have it end" if self._running else ""

    def _wake(self) -> None:
        for address in list(self._bells):
            self._crew.namespace.sockets.send(address)

    # What a worker does, see ``worker``, without what it does to its interpreter.

    def _work(self) -> None:
        name = f"inline.{uuid.uuid4().hex}"
        bell = Bell(self._crew.namespace.sockets)
        self._bells.append(bell.address)
        try:
            while not self._ending:
                taken = None if self._paused else self._take(name)
                if taken is None:
                    self._sleep(bell)
                else:
                    self._run(name, *taken)
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._bells.remove(bell.address)
            bell.close()

    def _namespaces(self) -> list[Namespace]:
        found = (open_if_there(name, self.store) for name in pool_state.known_namespaces(self.store))
        return [namespace for namespace in found if namespace is not None]

    def _take(self, name: str) -> tuple[Namespace, Claim] | None:
        for namespace in self._namespaces():
            if namespace.read(process_ops.anything_submitted):
                claim: Claim | None = namespace.write_apart(process_ops.claim, (name, os.getpid()))
                if claim is not None:
                    return namespace, claim
        return None

    def _run(self, name: str, namespace: Namespace, claim: Claim) -> None:
        path = self._running[name] = paths.join(namespace.name, claim.name)
        try:
            outcome = call(claim, path, self.store, close_contexts)
            try:
                namespace.write_apart(_settle, (claim, name, outcome))
            except ParkitError as error:
                refusal = Outcome(FAILED, 1, codecs.encode(failures.capture(type(error)(str(error)[:1000]))))
                namespace.write_apart(_settle, (claim, name, refusal))
        finally:
            del self._running[name]

    def _sleep(self, bell: Bell) -> None:
        """Sleep until there may be something to take: registered first, then one more look."""
        registered: list[tuple[Namespace, int]] = []
        try:
            places = [(self._crew.namespace, self._crew.object_id, EVENT_ALL)]
            places += [(namespace, ONE_OF, EVENT_ITEMS) for namespace in self._namespaces()]
            for namespace, object_id, event in places:
                with contextlib.suppress(TableFullError):
                    registered.append((namespace, namespace.table.register(object_id, event, bell.address)))
            if self._ending or len(self._namespaces()) >= len(places):
                return
            if not self._paused and any(namespace.read(process_ops.anything_submitted) for namespace in self._namespaces()):
                return
            bell.wait(SAFETY)
        finally:
            for namespace, slot in registered:
                namespace.table.unregister(slot)


def _settle(writing: Writing, claim: Claim, name: str, outcome: Outcome) -> None:
    run = process_ops.Run.unpack(writing.transaction.get(run_key(claim.process.object_id)))
    if run.request:
        process_ops.crash(writing, claim.process, name, -run.request)
    else:
        process_ops.finish(writing, claim.process, name, *outcome)
