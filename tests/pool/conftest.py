"""A pool to test, which always ends, and leaves nobody.

Most tests of a module share one pool: to start one takes half a second. It has ``POOL_SIZE`` workers (two, where the module does not say). Whoever
changes how the pool behaves, or ends it, takes a pool of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import parkit
from parkit_async._core.registry import close_all
from parkit_async.testing import PATIENCE, TemporaryPool
from tests.faces.face import FACES, Face, opened

__all__ = ["PATIENCE", "SIZE", "Pool", "face", "own_pool", "pool", "shared"]

SIZE = 2

_EVERY_STATUS = ("created", "submitted", "running", "finished", "failed", "crashed")


class Pool(TemporaryPool):
    """The plugin's pool, whose end is a test of its own: nobody may be left."""

    def end(self) -> str:
        """End the pool; fail if anybody is left."""
        left = super().end()
        assert not left, left
        return left


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
