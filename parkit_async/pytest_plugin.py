"""The pytest plugin: a store of the test's own, a pool that ends with it, processes that run in the test's process, and deaths at chosen moments.

pytest imports this in every run, whether a test uses parkit or not. So it imports nothing of parkit's; a fixture that is used does.

::

    parkit_store     an empty store for the test and whatever it starts; closed, and its pool ended, behind it
      parkit_pool    a pool of two workers on it; @pytest.mark.parkit(workers=n) for another number
      parkit_inline  processes run in threads of the test's own process: monkeypatch, coverage and debuggers reach them
      parkit_crash   kill -9 at a named step, in a child of the test or in a worker
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .crash_points import CrashPoints
    from .testing import InlinePool, TemporaryPool

__all__ = ["parkit_crash", "parkit_inline", "parkit_pool", "parkit_store"]

_STORAGE_PATH = "PARKIT_STORAGE_PATH"
_SETTINGS = ("PARKIT_SYNCHRONOUS", "PARKIT_PROCESS_", "PARKIT_LOG_LEVEL")
_ISOLATED = pytest.StashKey[tuple[str, str | None]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "parkit_isolate",
        "use a temporary store for the whole run, from before test modules are imported, so that nothing reaches the user's own",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "parkit(workers): how many workers parkit_pool or parkit_inline has; 2 and 1, where this does not say")
    if config.getini("parkit_isolate"):
        folder = tempfile.mkdtemp(prefix="parkit-tests-")
        config.stash[_ISOLATED] = folder, os.environ.get(_STORAGE_PATH)
        os.environ[_STORAGE_PATH] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    folder, before = config.stash.get(_ISOLATED, ("", None))
    if folder:
        if "parkit_async._core.registry" in sys.modules:
            from .testing import leave

            leave(folder)
        if before is None:
            os.environ.pop(_STORAGE_PATH, None)
        else:
            os.environ[_STORAGE_PATH] = before
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def parkit_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store for the test, and for whatever it starts; returns its path. All settings are the defaults.

    Behind the test everything that it has opened in the store is closed, and its pool ended, if it has started one. A transaction or snapshot that it
    has left open fails it.

    It is the store of objects that are opened during the test. One that a module opens when it is imported was opened before: in the store of the
    user, unless ``parkit_isolate = true`` in pytest's configuration names a temporary one for the whole run.
    """
    path = tmp_path / "store"
    path.mkdir(mode=0o700)
    for name in [name for name in os.environ if name.startswith(_SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(_STORAGE_PATH, str(path))
    yield path
    if "parkit_async._core.registry" in sys.modules:  # else nothing was opened
        from .testing import leave

        problem = leave(str(path))
        if problem:
            pytest.fail(problem, pytrace=False)


@pytest.fixture
def parkit_pool(request: pytest.FixtureRequest, parkit_store: Path) -> Iterator[TemporaryPool]:
    """A pool on :func:`parkit_store`: real workers in processes of their own, which start with the first ``start()`` and end with the test.

    Two workers; ``@pytest.mark.parkit(workers=n)`` says otherwise. What still runs behind the test is ended, and nobody is left: where somebody is,
    the test fails. What supervisor and workers have printed is shown if it does. See :class:`parkit_async.testing.TemporaryPool`.
    """
    from .testing import TemporaryPool

    if "parkit_inline" in request.fixturenames:
        raise pytest.UsageError("a test has either parkit_pool or parkit_inline: processes run in workers, or in its own process")
    pool = TemporaryPool(parkit_store)
    pool.prepare(_workers(request, 2))
    yield pool
    print(pool.log())
    problem = pool.end()
    if problem:
        pytest.fail(problem, pytrace=False)


@pytest.fixture
def parkit_inline(request: pytest.FixtureRequest, parkit_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InlinePool]:
    """Have processes run in threads of the test's own process, on :func:`parkit_store`; no pool is started.

    They are claimed, called, and their outcomes stored, by the transactions that workers make; so ``start()``, ``get_result()``, ProcessPoolExecutor
    and all else are the real ones. But what is monkeypatched is patched for them, coverage and debuggers see them, and what they print is the test's
    own output. One runs at a time; ``@pytest.mark.parkit(workers=n)`` says otherwise. See :class:`parkit_async.testing.InlinePool`.
    """
    from .testing import InlinePool

    pool = InlinePool(parkit_store, _workers(request, 1))
    pool.replace_killall(monkeypatch)
    yield pool
    problem = pool.end()
    if problem:
        pytest.fail(problem, pytrace=False)


@pytest.fixture
def parkit_crash(request: pytest.FixtureRequest, parkit_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CrashPoints]:
    """Kill processes at named steps of what parkit does: ``parkit_crash.run(function, at="after-commit")`` runs a function in a child of the test
    which is killed there, by SIGKILL; ``parkit_crash.worker(at="before-outcome")`` has the next worker that comes there killed.

    A test that arms a point which is never reached fails. Nothing is patched in the test's own process. See
    :class:`parkit_async.crash_points.CrashPoints`.
    """
    from .crash_points import CrashPoints

    points = CrashPoints(tmp_path / "crash-points")
    monkeypatch.setenv("PYTHONPATH", points.search_path(os.environ.get("PYTHONPATH")))
    if "parkit_pool" in request.fixturenames:
        request.getfixturevalue("parkit_pool")  # ends behind this, so that a worker on its way to a point comes there
    yield points
    problem = points.unreached()
    if problem:
        pytest.fail(problem, pytrace=False)


def _workers(request: pytest.FixtureRequest, default: int) -> int:
    marker = request.node.get_closest_marker("parkit")
    if marker is None:
        return default
    try:
        return int(_signature(*marker.args, **marker.kwargs))
    except TypeError as error:
        raise pytest.UsageError(f"@pytest.mark.parkit takes workers=n: {error}") from None


def _signature(workers: int) -> int:
    return workers
