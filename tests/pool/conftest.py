"""A pool to test, which always ends, and leaves nobody.

Most tests of a module share one pool: to start one takes half a second. It has ``POOL_SIZE`` workers (two, where the module does not say). Whoever
changes how the pool behaves, or ends it, takes a pool of its own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parkit
from parkit_async._core import pool_state
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.registry import close_all, open_namespace
from parkit_async._core.waiting import AGAIN, block
from tests.faces.face import FACES, Face, opened

PATIENCE = 30.0
"""Seconds after which what should happen has not happened."""

SIZE = 2

_EVERY_STATUS = ("created", "submitted", "running", "finished", "failed", "crashed")


class Pool:
    """The pool of a store, for the blocking test that looks at it from outside.

    Attributes:
        store: Path of the store.
    """

    def __init__(self, store: Path) -> None:
        self.store = store

    def status(self) -> dict[str, Any]:
        return parkit.pool_status()

    def workers(self) -> set[int]:
        """Return the process ids of the workers that have said hello."""
        return {worker["pid"] for worker in self.status()["workers"]}

    def until(self, condition: Callable[[], Any]) -> Any:
        """Return what ``condition`` returns as soon as that is true: asked each time that the pool says something about itself."""

        def attempt() -> Any:
            return condition() or AGAIN

        found = block(pool_state.shelf(str(self.store), pool_state.POOL), EVENT_ALL, attempt, time.monotonic() + PATIENCE)
        assert found is not AGAIN, f"it did not happen in time: {self.status()}\n{self.log()}"
        return found

    def until_size(self, size: int) -> set[int]:
        """Return the workers as soon as there are ``size``."""
        self.until(lambda: len(self.workers()) == size)
        return self.workers()

    def members(self) -> list[psutil.Process]:
        """Return the processes that belong to the pool: the supervisor, workers, and whatever targets have started."""
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

    def end(self) -> None:
        """End the pool; fail if anybody is left."""
        parkit.killall(PATIENCE)
        left = self.members()
        for process in left:
            process.kill()
        assert not left, f"killall() has left {left}\n{self.log()}"
        sockets = open_namespace("default").sockets
        for file in os.listdir(sockets.path):
            if file.startswith("new-"):  # a sweep takes it for one that is being bound, unless it is old
                os.utime(os.path.join(sockets.path, file), (0, 0))
        sockets.sweep()  # as the next to open the store would: those who were killed have left theirs


def _ending(pool: Pool) -> Iterator[Pool]:
    parkit.set_storage_path(pool.store)
    parkit.set_pool_size(SIZE)
    parkit.set_namespace_synchronous(None, "off")
    close_all()  # some tests fork, and others count descriptors
    yield pool
    parkit.set_storage_path(pool.store)
    pool.end()
    close_all()


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """The pool of a module; tests take ``pool``."""
    before = os.environ.get("PARKIT_STORAGE_PATH")
    store = tmp_path_factory.mktemp("pool")
    store.chmod(0o700)
    for pool in _ending(Pool(store)):
        parkit.set_pool_size(getattr(request.module, "POOL_SIZE", SIZE))
        yield pool
    shutil.rmtree(store)
    if before is None:
        os.environ.pop("PARKIT_STORAGE_PATH", None)
    else:
        os.environ["PARKIT_STORAGE_PATH"] = before


@pytest.fixture
def pool(shared: Pool, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """The module's pool, with no process in its store before and after the test."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    parkit.set_storage_path(shared.store)
    yield shared
    assert not (store / "supervisor.log").exists(), "the test has started another pool, which nobody ends"
    parkit.set_storage_path(shared.store)
    for process in parkit.processes("running"):
        process.kill()
    parkit.clean(_EVERY_STATUS)
    for namespace in list(parkit.namespaces()):
        for path, descriptor in list(parkit.objects(namespace)):
            getattr(parkit, descriptor["type"].removeprefix("parkit."))(path).drop()


@pytest.fixture
def own_pool(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of the test's own."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    yield from _ending(Pool(store))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """A face of parkit, on the pool that the test has."""
    request.getfixturevalue("own_pool" if "own_pool" in request.fixturenames else "pool")
    with opened(request.param) as face:
        yield face
