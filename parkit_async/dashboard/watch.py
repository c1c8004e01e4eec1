"""Know when something in the store has changed, and tell every page that is open.

::

    a commit ──▶ doorbells of what is watched ──┐
             └─▶ data.mdb is written ───────────┼──▶ Watcher ── look, in a thread ──▶ Hub: topic ──▶ each client's stream
    a new namespace ──▶ the store's folder ─────┤                                       latest state, one copy for all
    the supervisor dies ──▶ pidfd ──────────────┘

There is one watcher for each namespace, one for the pool and one for the store, however many pages are open. A watcher listens, looks, publishes what
is new and sleeps. Bells tell exactly, but only of objects that are there; what rings no bell (an object is created, a setting changed) is told by the
kernel, as LMDB writes its file at each commit. Who begins to wait, or opens a snapshot, commits nothing, and is seen at the next look.

Invariants:

* One listens and then looks, so no change falls in between. Nothing is looked at while nothing happens.
* Between two looks a watcher rests: a tenth of a second, one where no page is open, and nine times as long as the look took, so that it uses a tenth
  of a processor at most. Meanwhile it is registered nowhere, and costs writers nothing.
* The file is written a moment before readers see the commit; a look that came too early is repeated, a bounded number of times.
* A topic is a state, not a change: a client that is slow misses states, never the last one, and nothing is queued for it.
* Whatever fails, its topic says so, and its watcher goes on at the next change.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar

from parkit_async._core import paths, supervision
from parkit_async._core.doorbell import EVENT_ALL, Bell
from parkit_async._core.errors import ParkitError
from parkit_async._core.filewatch import FileWatch
from parkit_async._core.namespace import Namespace
from parkit_async._core.settings import get_storage_path
from parkit_async._core.shared import TableFullError
from parkit_async._core.waiting import SAFETY

from . import state
from .state import Document

__all__ = ["Hub", "Topic", "encode"]

T = TypeVar("T")

_log = logging.getLogger("parkit.dashboard")

_REST: Final = 0.1
_UNSEEN: Final = 1.0
_SHARE: Final = 9
"""Times that a look took for which a watcher rests after it."""
_BEHIND: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds to the looks that follow one that came too early. Whoever dies in between leaves readers behind until somebody else commits."""
_MOMENTS: Final = 300
"""Depths of a queue that are remembered, at most one for each second."""


def encode(value: Any) -> bytes:
    """Return JSON, in one line; surrogates are escaped, as JSON has it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


class Topic:
    """A document that is kept up to date.

    Attributes:
        document: Its latest state.
        payload: The same, as JSON.
        version: Counts its states.
    """

    __slots__ = ("document", "payload", "version")

    def __init__(self) -> None:
        self.document: Document = {}
        self.payload = b""
        self.version = 0


class Hub:
    """What all pages share: the topics, who looks at them, and the watchers. Only its event loop's thread may use it.

    Attributes:
        topics: By name: ``store``, ``pool``, and ``namespace:NAME`` for each.
        looks: How often the store was looked at, for tests that demand that nobody looks while nothing happens.
        closing: Set when the dashboard ends.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.looks = 0
        self.closing = asyncio.Event()
        self._history: dict[str, dict[str, deque[tuple[float, int]]]] = {}
        self._clients: set[asyncio.Event] = set()
        self._watchers: dict[str, _Watcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Look at everything once, and go on watching."""
        self._add("store", _StoreWatcher(self))
        self._add("pool", _PoolWatcher(self))
        await self._watchers["store"].look_anew()

    async def close(self) -> None:
        """Stop watching. Idempotent."""
        self.closing.set()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _add(self, name: str, watcher: _Watcher) -> None:
        self._watchers[name] = watcher
        task = asyncio.create_task(watcher.run(), name=f"parkit dashboard: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Clients.

    @contextmanager
    def client(self) -> Iterator[asyncio.Event]:
        """Have an event set whenever a topic has a new state; for a page that is open."""
        changed = asyncio.Event()
        self._clients.add(changed)
        self.refresh()  # who waits and who reads rings no bell, so at least a page that opens sees them as they are
        try:
            yield changed
        finally:
            self._clients.discard(changed)

    @property
    def clients(self) -> int:
        """How many pages are open."""
        return len(self._clients)

    def refresh(self) -> None:
        """Look at everything again."""
        for watcher in self._watchers.values():
            watcher.hurry()

    async def settled(self) -> None:
        """Look at everything again, and wait until that has been done: what was committed before the call is seen after it."""
        await self._watchers["store"].look_anew()  # namespaces that are new have watchers then
        await asyncio.gather(*(watcher.look_anew() for name, watcher in self._watchers.items() if name != "store"))

    # Topics.

    def publish(self, name: str, document: Document) -> bool:
        """Give a topic a new state, unless it is the one that it has. Return whether it was new."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic()
        elif topic.document == document:
            return False
        topic.document = document
        topic.payload = encode(document)
        topic.version += 1
        for changed in self._clients:
            changed.set()
        return True

    def watch_namespaces(self, names: Iterable[str]) -> None:
        """Watch the namespaces that there are now."""
        for name in names:
            key = f"namespace:{name}"
            if key not in self._watchers:
                self._add(key, _NamespaceWatcher(self, name))

    def namespace_changed(self, name: str, before: Document | None, after: Document) -> None:
        """Have the pool looked at, if what it does may have changed."""
        if name == paths.POOL_NAMESPACE or before is None or before.get("processes") != after.get("processes"):
            self._watchers["pool"].ring()

    def history(self) -> dict[str, list[tuple[float, int]]]:
        """Return the depths of the queues since the dashboard began, or as far back as is remembered: moments and depths, by path."""
        return {path: list(points) for queues in self._history.values() for path, points in queues.items()}

    def note_depths(self, namespace: str, queues: Iterable[Document]) -> None:
        """Remember the depths of a namespace's queues, as of now."""
        now = round(time.time(), 2)
        before = self._history.get(namespace, {})
        noted = self._history[namespace] = {}
        for queue in queues:
            depth = queue["depth"]
            points = noted[queue["path"]] = before.get(queue["path"]) or deque([(now, depth)], maxlen=_MOMENTS)
            if points[-1][1] == depth:
                continue
            if len(points) > 1 and now - points[-2][0] < 1.0:
                points[-1] = (now, depth)
            else:
                points.append((now, depth))


class _Watcher:
    """Looks when something has rung. Subclasses say where to listen and what to look at."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()
        self._hurried = asyncio.Event()
        self._early = 0
        self._asked: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Look, after a rest."""
        self._rung.set()

    def hurry(self) -> None:
        """Look now."""
        self._rung.set()
        self._hurried.set()

    async def look_anew(self) -> None:
        """Look now, and wait until a look that begins after this call has ended."""
        asked = self._loop.create_future()
        self._asked.append(asked)
        self.hurry()
        await asked

    async def run(self) -> None:
        """Watch until cancelled."""
        answered: list[asyncio.Future[None]] = []
        try:
            while True:
                self._rung.clear()
                self._hurried.clear()
                answered += self._asked
                self._asked = []
                began = time.monotonic()
                try:
                    self.listen()
                    self.hub.looks += 1
                    again = await self.look()
                except Exception as error:
                    if not isinstance(error, ParkitError | OSError):
                        _log.exception("the dashboard failed to look at the store")
                    self.failed(error)
                    self._early, again = 0, False
                if again:
                    continue
                _answer(answered)
                took = time.monotonic() - began
                await self._sleep()
                self.unlisten()
                await self._rest(took)
        finally:
            self.unlisten()
            self.close()
            _answer(answered)
            _answer(self._asked)

    async def _sleep(self) -> None:
        limit = SAFETY if self.hub.clients else None
        if 0 < self._early <= len(_BEHIND):
            limit = _BEHIND[self._early - 1]
        try:
            async with asyncio.timeout(limit):
                await self._rung.wait()
        except TimeoutError:
            pass

    async def _rest(self, took: float) -> None:
        try:
            async with asyncio.timeout((_REST if self.hub.clients else _UNSEEN) + _SHARE * took):
                await self._hurried.wait()
        except TimeoutError:
            pass

    async def apart(self, call: Callable[[], T]) -> T:
        """Call what takes time in a thread."""
        return await asyncio.to_thread(call)

    def readable(self, descriptor: int) -> None:
        """Ring when a descriptor becomes readable, once."""
        if descriptor >= 0:
            self._loop.add_reader(descriptor, self._heard, descriptor)

    def unreadable(self, descriptor: int) -> None:
        """Do not listen to a descriptor any more."""
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)

    def _heard(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)  # it stays readable until the next look drains it
        self._rung.set()

    def listen(self) -> None:
        """Have whatever tells of a change ring from now on. Idempotent."""

    def unlisten(self) -> None:
        """Undo it. Idempotent."""

    async def look(self) -> bool:
        """Look, and publish what is new. Return whether to look once more at once."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """Say what went wrong."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what was needed to listen."""


def _answer(asked: list[asyncio.Future[None]]) -> None:
    while asked:
        future = asked.pop()
        if not future.done():
            future.set_result(None)


class _NamespaceWatcher(_Watcher):
    def __init__(self, hub: Hub, name: str) -> None:
        super().__init__(hub)
        self._name = name
        self._topic = f"namespace:{name}"
        self._namespace: Namespace | None = None
        self._objects: frozenset[int] = frozenset()
        self._slots: dict[int, int] = {}
        self._bell: Bell | None = None
        self._file: FileWatch | None = None

    def listen(self) -> None:
        namespace = self._namespace
        if namespace is None:
            return
        if self._bell is None or self._bell.closed:
            self._bell = Bell(namespace.sockets)
        if self._file is None:
            self._file = FileWatch(namespace.directory / "data.mdb")
        self._bell.drain()
        self._file.drain()
        self.readable(self._bell.fileno())
        self.readable(self._file.fileno())
        self._register(namespace, self._bell)

    def _register(self, namespace: Namespace, bell: Bell) -> None:
        table = namespace.table
        for object_id in self._objects - self._slots.keys():
            try:
                self._slots[object_id] = table.register(object_id, EVENT_ALL, bell.address)
            except TableFullError:
                break  # the file tells
        for object_id in self._slots.keys() - self._objects:
            table.unregister(self._slots.pop(object_id))

    def unlisten(self) -> None:
        if self._namespace is not None:
            while self._slots:
                self._namespace.table.unregister(self._slots.popitem()[1])
        for watched in (self._bell, self._file):
            if watched is not None:
                self.unreadable(watched.fileno())

    async def look(self) -> bool:
        if self._namespace is None:
            self._namespace = await self.apart(lambda: state.named_namespace(self._name))
            return self._namespace is not None
        namespace = self._namespace
        found = await self.apart(lambda: state.namespace_document(namespace))
        self._early = self._early + 1 if found.behind else 0
        topic = self.hub.topics.get(self._topic)
        before = None if topic is None else topic.document
        self.hub.note_depths(self._name, found.document["queues"])
        if self.hub.publish(self._topic, found.document):
            self.hub.namespace_changed(self._name, before, found.document)
        fresh = not found.objects <= self._objects
        self._objects = found.objects
        return fresh

    def failed(self, error: Exception) -> None:
        self.hub.publish(self._topic, {"name": self._name, "error": str(error)})

    def close(self) -> None:
        for watched in (self._bell, self._file):
            if watched is not None:
                watched.close()


class _StoreWatcher(_Watcher):
    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._folder: FileWatch | None = None

    def listen(self) -> None:
        if self._folder is None:
            self._folder = FileWatch(get_storage_path())
        self._folder.drain()
        self.readable(self._folder.fileno())

    def unlisten(self) -> None:
        if self._folder is not None:
            self.unreadable(self._folder.fileno())

    async def look(self) -> bool:
        document = await self.apart(state.store_document)
        self.hub.watch_namespaces(document["namespaces"])
        self.hub.publish("store", document)
        return False

    def failed(self, error: Exception) -> None:
        self.hub.publish("store", {"path": get_storage_path(), "namespaces": [], "pid": os.getpid(), "error": str(error)})

    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()


class _PoolWatcher(_Watcher):
    """Is rung by the watchers of namespaces, and by the death of the supervisor, which rings nobody."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._lookout: supervision.Lookout | None = None

    def listen(self) -> None:
        self.unlisten()
        self._lookout = supervision.Lookout(str(paths.open_store(get_storage_path())))
        self.readable(self._lookout.fileno())

    def unlisten(self) -> None:
        if self._lookout is not None:
            with closing(self._lookout) as lookout:
                self.unreadable(lookout.fileno())
            self._lookout = None

    async def look(self) -> bool:
        self.hub.publish("pool", await self.apart(state.pool_document))
        return False

    def failed(self, error: Exception) -> None:
        self.hub.publish("pool", {"running": False, "pid": None, "epoch": 0, "size": 0, "workers": [], "error": str(error)})
