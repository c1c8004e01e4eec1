"""A program that opens the states which a power loss could leave, and says of each what was found.

It reads a trace (:mod:`tests.faults.recorder`), and lets :mod:`tests.faults.power` choose what of it reached the disk. Each state becomes a store,
which is opened through parkit in a child: one that dies of a damaged file, or hangs, has an outcome as well. What was found is compared with the
states that the commits made one after another, which are the trace replayed whole::

    python -m tests.faults.states TRACE SECONDS SEED all|acknowledged MUTANT

``acknowledged`` leaves out what is before the first acknowledgement. A mutant is what could be wrong with parkit or LMDB: the trace is changed as if
it were, so that one can see the search find it. Lines of output: one for each state, in JSON, with its recipe and what was :class:`Found`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import lmdb
from lmdb.verify import VerifyError, verify

from parkit import Dict, ParkitError, set_storage_path
from parkit_async._core.registry import close_all, open_namespace
from tests.faults.power import CHOICES, Disk, Folder, everything, nothing
from tests.faults.recorder import Event, Kind, read_trace
from tests.faults.workloads import NAMESPACE, digest

__all__ = ["MUTANTS", "Found", "main"]

BATCH: Final = 32
"""States that one child opens."""
PATIENCE: Final = 20.0
"""Seconds that it may take for one."""
BESIDE: Final = ("lock.mdb", "shared")
"""Files that are mapped and never synchronized, so that a power loss may leave anything in them."""


Events = list[Event]

MUTANTS: Final[dict[str, Callable[[Events], Events]]] = {
    "none": lambda events: events,
    "nothing is synchronized": lambda events: [event._replace(synchronous=False) for event in events if event.kind != Kind.SYNC],
    "the meta page is not synchronized": lambda events: [event._replace(synchronous=False) for event in events],
    "the meta page comes before the data": lambda events: _swapped(events),
    "folders are not synchronized": lambda events: [event for event in events if event.kind != Kind.SYNC or event.inode not in _folders(events)],
}


def _swapped(events: Events) -> Events:
    changed = list(events)
    for at in range(len(changed) - 1):
        if changed[at].kind == Kind.SYNC and changed[at + 1].synchronous:
            changed[at], changed[at + 1] = changed[at + 1], changed[at]
    return changed


def _folders(events: Events) -> set[int]:
    return {event.inode for event in events if event.kind in (Kind.LINK, Kind.RENAME)}


class State(NamedTuple):
    """One state of the disk.

    Attributes:
        recipe: How it was chosen: events that had happened, what was kept, and the seed of that.
        acknowledged: Commits that were acknowledged by then.
        begun: Commits of which the last step was begun by then.
        tree: What is there.
        seed: Of what is chosen besides.
    """

    recipe: str
    acknowledged: int
    begun: int
    tree: Folder
    seed: str

    @property
    def is_sample(self) -> bool:
        """Whether it is one of the samples, which never end."""
        return self.recipe.split("/")[1] != "boundary"


class Found(NamedTuple):
    """What opening a state has shown.

    Attributes:
        outcome: ``commit``: it is the state after a commit; ``refused``: parkit did not open it; ``wrong``: it is none of the states that commits
            made; ``unsound``: it is, and LMDB's verification fails; ``failed``: a write after it fails; ``died`` and ``hung``: so did the process.
        commit: Which one, from 0 on; -1 is what was there before the first one.
        message: What was the matter.
    """

    outcome: str
    commit: int = -1
    message: str = ""


def find_namespace(store: Folder) -> Folder:
    """Return the files of the namespace; empty if it is not there."""
    for name, content in store.items():
        if name.startswith(f"{NAMESPACE}~") and isinstance(content, dict):
            return content
    return {}


class Reference:
    """The states that the commits made, one after another.

    Args:
        events: The trace.
        folder: Where files can be made.
    """

    def __init__(self, root: int, events: list[Event], folder: Path) -> None:
        self.commits: dict[bytes, int] = {}
        self.acknowledged = [-1]  # by how many events have happened
        self.begun = [-1]
        disk = Disk(root)
        last = b""
        for event in events:
            disk.happen(event)
            acknowledged = self.acknowledged[-1]
            if event.kind == Kind.MARK:
                assert event.payload in self.commits, "what was acknowledged is a state that a commit made"
                acknowledged = max(acknowledged, self.commits[event.payload])
            elif event.kind == Kind.RENAME or (event.kind == Kind.WRITE and event.other < 8192):
                found = self._look(disk, folder)
                if found and found != last:
                    last = found
                    self.commits[found] = self.begun[-1] + 1
                    self.begun.append(self.begun[-1] + 1)
                    self.acknowledged.append(acknowledged)
                    continue
            self.begun.append(self.begun[-1])
            self.acknowledged.append(acknowledged)

    def _look(self, disk: Disk, folder: Path) -> bytes:
        data = find_namespace(disk.after(disk.steps)).get("data.mdb")
        if not isinstance(data, bytes) or len(data) < 8192:
            return b""
        path = folder / "reference.mdb"
        path.write_bytes(data)
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as reading:
            if environment.info()["last_txnid"] == 0:
                return b""
            return digest(reading)


class Search:
    """Chooses states.

    Args:
        root: Inode of the store.
        events: The trace.
        reference: What the commits made.
        seed: Of every choice.
        first: Number of the first event after which the power may fail.
    """

    def __init__(self, root: int, events: list[Event], reference: Reference, seed: int, first: int) -> None:
        self._root = root
        self._events = events
        self._reference = reference
        self._seed = seed
        self._first = first

    def states(self) -> Iterator[State]:
        """Every prefix that ends before or after a synchronization, with nothing and with all of the rest; then samples, for ever."""
        boundaries = {
            at + after
            for at, event in enumerate(self._events)
            for after in (0, 1)
            if (event.kind == Kind.SYNC or event.synchronous) and at + after >= self._first
        }
        yield from self._round(sorted(boundaries | {len(self._events)}), ["nothing", "everything"], "boundary")
        number = 0
        choices = [name for name, choice in CHOICES.items() if choice not in (nothing, everything)]
        while True:
            rng = random.Random(f"{self._seed}/{number}")
            points = sorted(rng.randrange(self._first, len(self._events) + 1) for _ in range(BATCH))
            yield from self._round(points, rng.sample(choices, 4), str(number))
            number += 1

    def _round(self, points: list[int], choices: list[str], number: str) -> Iterator[State]:
        disk = Disk(self._root)
        happened = 0
        for point in points:
            while happened < point:
                disk.happen(self._events[happened])
                happened += 1
            if not disk.steps and number != "boundary":
                continue  # there is nothing to choose from
            for choice in choices:
                seed = f"{self._seed}/{number}/{point}/{choice}"
                tree = disk.after(CHOICES[choice](random.Random(seed), disk.steps))
                yield State(
                    f"{choice} at {point} of {len(self._events)}, {seed}",
                    self._reference.acknowledged[point],
                    self._reference.begun[point],
                    tree,
                    seed,
                )


class Opening:
    """Opens states; in a child.

    Args:
        folder: Where stores can be made.
        stale: The files beside the data, as they stood in the end.
        commits: The states that the commits made.
    """

    def __init__(self, folder: Path, stale: dict[str, bytes], commits: dict[bytes, int]) -> None:
        self._folder = folder
        self.scratch = folder / "scratch.mdb"
        self._stale = stale
        self._commits = commits

    def look(self, state: State) -> Found:
        """Make a store of a state, open it, and look."""
        rng = random.Random(f"{state.seed}/beside")
        store = self._folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        namespace = find_namespace(state.tree)
        for name in BESIDE:
            if namespace and name in self._stale:
                self._scramble(namespace, name, rng)
        make(store, state.tree)
        set_storage_path(store)
        try:
            return self._open(store, rng)
        finally:
            close_all()

    def _open(self, store: Path, rng: random.Random) -> Found:
        try:
            namespace = open_namespace(NAMESPACE)
            with namespace.begin_reading() as reading:
                found = digest(reading)
                is_blank = reading.stat()["entries"] == 1
        except ParkitError as error:
            return Found("refused", message=f"{type(error).__name__}: {error}")
        except Exception as error:
            return Found("failed", message=f"{type(error).__name__}: {error}")
        data = namespace.directory / "data.mdb"
        if found not in self._commits and is_blank:
            return Found("commit", 0)
        if found not in self._commits:
            return Found("wrong", message="the state is none that a commit made")
        commit = self._commits[found]
        if rng.random() < 0.25:
            close_all()
            problems = find_problems(data)
            if problems:
                return Found("unsound", commit, problems[0])
        if rng.random() < 0.25:
            try:
                d = Dict[Any, Any](f"{NAMESPACE}/after")
                d.update({number: "w" * (number * 50) for number in range(40)})
                del d[3]
                d[4] = 1
                close_all()
                length = len(Dict[Any, Any](f"{NAMESPACE}/after"))
            except ParkitError as error:
                return Found("failed", commit, f"a write: {error}")
            close_all()
            problems = find_problems(data)
            if problems or length != 39:
                return Found("failed", commit, f"a write: {problems}")
        return Found("commit", commit)

    def _scramble(self, namespace: Folder, name: str, rng: random.Random) -> None:
        stale = self._stale[name]
        match rng.choice(("absent", "empty", "zeros", "stale", "torn", "short", "garbage")):
            case "absent":
                namespace.pop(name, None)
            case "empty":
                namespace[name] = b""
            case "zeros":
                namespace[name] = bytes(len(stale))
            case "stale":
                namespace[name] = stale
            case "torn":
                torn = bytearray(stale)
                for at in range(0, len(torn), 512):
                    if rng.random() < 0.5:
                        torn[at : at + 512] = bytes(len(torn[at : at + 512]))
                namespace[name] = bytes(torn)
            case "garbage":
                namespace[name] = rng.randbytes(len(stale))
            case "short":
                namespace[name] = stale[: rng.randrange(len(stale))]


def find_problems(path: Path) -> list[str]:
    """Return what LMDB's verification finds."""
    try:
        problems: list[str] = verify(str(path))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    return problems


def fingerprint(tree: Folder) -> bytes:
    """Return a digest of files and folders."""
    found = hashlib.blake2b(digest_size=16)
    for name, content in sorted(tree.items()):
        found.update(name.encode() + b"/%d/" % len(content))
        found.update(content if isinstance(content, bytes) else fingerprint(content))
    return found.digest()


def make(folder: Path, tree: Folder) -> None:
    """Make files and folders."""
    folder.mkdir(0o700)
    for name, content in tree.items():
        if isinstance(content, dict):
            make(folder / name, content)
        else:
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o600)


def open_batch(opening: Opening, batch: list[State]) -> Iterator[Found]:
    """Have children open states; yield what was found of each."""
    done = 0
    while done < len(batch):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                for state in batch[done:]:
                    os.write(writer, json.dumps(opening.look(state)).encode() + b"\n")
                os._exit(0)
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(70)
        os.close(writer)
        with open(reader, "rb", buffering=0) as lines:
            rest = b""
            while True:
                ready, _, _ = select.select([lines], [], [], PATIENCE)
                if not ready:
                    os.kill(child, signal.SIGKILL)
                    break
                read = lines.read(65536)
                if not read:
                    break
                *whole, rest = (rest + read).split(b"\n")
                for line in whole:
                    done += 1
                    yield Found(*json.loads(line))
        _, status = os.waitpid(child, 0)
        if done < len(batch):
            code = os.waitstatus_to_exitcode(status)
            assert code != 0
            done += 1
            yield Found("hung" if code == -signal.SIGKILL else "died", message=f"exit code {code}")


def main(trace: str, seconds: str, seed: str, first: str, mutant: str = "none") -> None:
    """Open each prefix, and then samples for some seconds."""
    folder = Path(trace).parent
    root = int((folder / "root").read_text())
    events = MUTANTS[mutant](list(read_trace(Path(trace))))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        reference = Reference(root, events, Path(scratch))
        begin = next((at for at, event in enumerate(events) if event.kind == Kind.MARK), 0) if first == "acknowledged" else 0
        search = Search(root, events, reference, int(seed), begin)
        stale = {name: (folder / name).read_bytes() for name in BESIDE}
        commits = dict(reference.commits)
        with lmdb.open(f"{scratch}/empty.mdb", subdir=False, lock=False) as environment, environment.begin() as reading:
            commits.setdefault(digest(reading), -1)
        opening = Opening(Path(scratch), stale, commits)
        batch: list[State] = []
        seen: set[tuple[int, bytes]] = set()
        deadline = 0.0
        for state in search.states():
            if state.is_sample:
                deadline = deadline or time.monotonic() + float(seconds)
                if time.monotonic() >= deadline:
                    break
            known = len(seen)
            seen.add((state.acknowledged, fingerprint(state.tree)))
            if len(seen) == known:
                continue
            batch.append(state)
            if len(batch) == BATCH:
                report(opening, batch)
                batch = []
        report(opening, batch)


def report(opening: Opening, batch: list[State]) -> None:
    """Open states, and print what was found; of what is not as it should be also what LMDB's verification says, which opens nothing."""
    for state, found in zip(batch, open_batch(opening, batch), strict=True):
        line = {"recipe": state.recipe, "acknowledged": state.acknowledged, "begun": state.begun, **found._asdict(), "verified": None}
        data = find_namespace(state.tree).get("data.mdb")
        if found.outcome != "commit" and isinstance(data, bytes):
            opening.scratch.write_bytes(data)
            line["verified"] = not find_problems(opening.scratch)
        print(json.dumps(line))
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
