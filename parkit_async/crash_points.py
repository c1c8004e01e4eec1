"""Death at a chosen step: SIGKILL to a child of a test, or to a worker of its pool, when it comes to a named point.

::

    before-commit    the transaction's writes are made, and not committed
    after-commit     it is committed, and nobody knows of it
    before-ring      its turn is given up, and those who wait for what it has changed are not woken
    worker-start     a worker is about to say hello
    after-claim      a worker has claimed a process, and not called its target
    before-outcome   the target has ended, and its outcome is not stored
    after-outcome    it is stored, and the worker is not ready for the next one

Nothing waits for a flag: in the process that is to die, and in no other, the function at the point is replaced by one that counts. A child of the
test is told so by its command; workers by a ``sitecustomize`` in a folder that comes first in PYTHONPATH, which also passes on to the one that it
hides. Commits are counted where they concern the user's namespaces; how often workers may pass is counted by files, one for each time.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["POINTS", "CrashPoints", "Point"]


class Point(NamedTuple):
    """Where a point is.

    Attributes:
        module: Of the function.
        name: Of the function in it.
        after: Whether it is behind the function, not before it.
        namespace: Returns the name of the namespace that it concerns, of the function's arguments; None where that does not matter.
    """

    module: str
    name: str
    after: bool = False
    namespace: Callable[..., str] | None = None


def _folder(table: Any, *_: Any) -> str:
    return os.path.basename(os.path.dirname(str(table.path)))


POINTS: Final = {
    "before-commit": Point("parkit_async._core.transactions", "Writing.write_headers", namespace=lambda writing: str(writing.namespace.name)),
    "after-commit": Point("parkit_async._core.shared", "SharedTable.note_commit", namespace=_folder),
    "before-ring": Point("parkit_async._core.namespace", "Namespace.ring", namespace=lambda namespace, *_: str(namespace.name)),
    "worker-start": Point("parkit_async.worker", "Worker._hello"),
    "after-claim": Point("parkit_async.worker", "call"),
    "before-outcome": Point("parkit_async.worker", "Worker._settle"),
    "after-outcome": Point("parkit_async.worker", "Worker._settle", after=True),
}

_ROOT: Final = str(Path(__file__).resolve().parent.parent)

_SITECUSTOMIZE: Final = """\
import os, sys

_folder = os.path.dirname(os.path.abspath(__file__))
if "parkit_async.worker" in " ".join(sys.orig_argv):
    sys.path.insert(0, {root!r})
    from parkit_async import crash_points
    crash_points.arm_worker(_folder)
    del sys.path[0]
_path, _own = list(sys.path), sys.modules.pop("sitecustomize", None)
sys.path[:] = [_entry for _entry in _path if os.path.abspath(_entry or ".") != _folder]
try:
    import sitecustomize
except ImportError:
    sys.modules["sitecustomize"] = _own
sys.path[:] = _path
"""

_CHILD: Final = "import sys; sys.path[:] = eval(sys.argv[1]); from parkit_async.crash_points import run_child; run_child(sys.argv[2])"


class CrashPoints:
    """See the module. For one test, and its thread.

    Args:
        folder: Where to keep what tells the processes; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._armed: list[str] = []
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(root=_ROOT))

    def search_path(self, before: str | None) -> str:
        """Return what PYTHONPATH must be for workers of pools that start from then on."""
        return os.pathsep.join(filter(None, [str(self._folder), before]))

    def run(self, function: Callable[..., object], /, *args: object, at: str, nth: int = 1, timeout: float = 30.0) -> str:
        """Run ``function(*args)`` in a child of this process, which is killed when it comes to a point; return what it has printed until then.

        Args:
            function: It travels with the module that it is in, by cloudpickle, so it may be one of the test's own.
            args: Its arguments.
            at: The point.
            nth: At which time that it comes there.
            timeout: Seconds within which it must.

        Raises:
            AssertionError: It ended without coming there.
            ValueError: There is no such point.
        """
        __tracebackhide__ = True
        _check(at, nth)
        payload = self._folder / f"child-{len(os.listdir(self._folder))}"
        payload.write_bytes(_dump((at, nth, function, args)))
        command = [sys.executable, "-c", _CHILD, repr([_ROOT, *sys.path]), str(payload)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            raise AssertionError(f"the child did not come to {at!r} within {timeout} seconds; it printed {expired.stdout!r}") from None
        if child.returncode != -signal.SIGKILL:
            times = "" if nth == 1 else f" {nth} times"
            raise AssertionError(
                f"the child ended, with exit code {child.returncode}, without coming to {at!r}{times}; it printed {child.stdout!r}\n{child.stderr}"
            )
        return child.stdout

    def worker(self, at: str, nth: int = 1) -> None:
        """Have the worker killed that comes to a point next, or as the ``nth`` one from now on. Workers must have started with the fixture in place.

        Raises:
            ValueError: There is no such point.
        """
        _check(at, nth)
        self._armed.append(at)
        for number in range(nth, 0, -1):  # the last one decides, so it is there before the first is
            (self._folder / f"{at}.{number}{'.last' if number == nth else ''}").touch()

    def unreached(self, patience: float = 5.0) -> str:
        """Return which points no worker has come to, or nothing. One that is on its way there has ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while left := sorted({at for at in self._armed if list(self._folder.glob(f"{at}.*"))}):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)  # a worker takes its file away and is dead: nothing else tells
        return f"no worker has come to {', '.join(map(repr, left))} (often enough), so the test has shown nothing of it" if left else ""


def _check(at: str, nth: int) -> None:
    if at not in POINTS:
        raise ValueError(f"there is no crash point {at!r}; there are {', '.join(POINTS)}")
    if nth < 1:
        raise ValueError(f"nth is {nth}, and counts from 1")


def _dump(value: Any) -> bytes:
    import cloudpickle

    module = sys.modules.get(getattr(value[2], "__module__", None) or "")
    own = module is not None and module.__name__.partition(".")[0] not in {"parkit", "parkit_async", "builtins", "__main__"}
    if not own:
        return bytes(cloudpickle.dumps(value))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(value))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def die() -> None:
    """End this process at once, as the system would."""
    os.kill(os.getpid(), signal.SIGKILL)


def replace(at: str, passed: Callable[[], None]) -> None:
    """Have ``passed`` called in this process each time that it comes to a point."""
    point = POINTS[at]
    owner: Any = importlib.import_module(point.module)
    *outer, name = point.name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def replaced(*args: Any, **kwargs: Any) -> Any:
        concerned = point.namespace is None or not point.namespace(*args).startswith("__")
        if concerned and not point.after:
            passed()
        result = original(*args, **kwargs)
        if concerned and point.after:
            passed()
        return result

    setattr(owner, name, replaced)


def run_child(payload: str) -> None:
    """Be the child that :meth:`CrashPoints.run` starts."""
    with open(payload, "rb") as file:
        at, nth, function, args = pickle.load(file)
    passes = count(1)

    def passed() -> None:
        if next(passes) == nth:
            sys.stdout.flush()
            die()

    replace(at, passed)
    function(*args)


def arm_worker(folder: str) -> None:
    """Have this worker look, at each point, whether it is to die there. Called as its interpreter starts."""
    for at in POINTS:
        replace(at, _worker_passes(folder, at))


def _worker_passes(folder: str, at: str) -> Callable[[], None]:
    def passed() -> None:
        tokens = [name for name in os.listdir(folder) if name.startswith(f"{at}.")]
        for name in sorted(tokens, key=lambda name: int(name.split(".")[1])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))  # whoever removes it has passed
                if name.endswith(".last"):
                    die()
                return

    return passed
