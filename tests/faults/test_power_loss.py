"""Power losses: of everything that one could leave, parkit makes what the durability level promises.

A workload is recorded (:mod:`.recorder`, :mod:`.workloads`); from the record come the states in which a power loss could leave the disk
(:mod:`.power`), thousands of them, and each is opened (:mod:`.states`). What must be found:

========== ===============================================================================================================
``full``   the state after a commit, no earlier one than the last that was acknowledged
``normal`` the state after a commit, no earlier one than that before the last that was acknowledged
``off``    if what was written reached the disk in its order, the state after a commit; otherwise anything: see the test
========== ===============================================================================================================
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest

from parkit import (
    Dict,
    Queue,
    StoragePathError,
    TransactionError,
    get_namespace_size,
    get_namespace_synchronous,
    set_namespace_size,
    set_namespace_synchronous,
)
from parkit_async._core.paths import namespace_directory
from parkit_async._core.registry import close_all
from tests.conftest import RunScript, Spawn
from tests.faults.recorder import build_recorder
from tests.faults.states import BESIDE, MUTANTS
from tests.faults.workloads import NAMESPACE

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have no LD_PRELOAD, and LMDB writes by other calls"),
]

WORKLOAD = "import sys; from tests.faults.workloads import main; main(*sys.argv[1:])"
STATES = "import sys; from tests.faults.states import main; main(*sys.argv[1:])"


class Looked(NamedTuple):
    """A state, and what was found: see :class:`tests.faults.states.Found`."""

    recipe: str
    acknowledged: int
    begun: int
    outcome: str
    commit: int
    message: str
    verified: bool | None

    def is_commit(self, lost: int) -> bool:
        """Whether it is the state after a commit, and at most ``lost`` of those that were acknowledged are missing."""
        return self.outcome == "commit" and self.acknowledged - lost <= self.commit <= max(self.begun, 0)  # opening it makes the first


Search = Callable[..., list[Looked]]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that records calls."""
    return build_recorder(tmp_path_factory.mktemp("library"))


@pytest.fixture
def search(spawn: Spawn, run_script: RunScript, recorder: Path, store: Path, tmp_path: Path, seed: int) -> Search:
    """Record a workload, once, and open states: ``search(workload, level, seconds, first="all", mutant="none")`` returns what was found."""
    folder = tmp_path / "trace"

    def record(workload: str, level: str) -> None:
        folder.mkdir()
        (folder / "root").write_text(str(os.stat(store).st_ino))
        environment = {"LD_PRELOAD": str(recorder), "RECORDER_TRACE": str(folder / "trace"), "RECORDER_FOLDER": str(store)}
        script = spawn(WORKLOAD, workload, env={**environment, "PARKIT_SYNCHRONOUS": level})
        assert script.read_line() == "done"
        for name in BESIDE:  # by another process: to close such a file drops the locks that one's own has on it
            shutil.copy(next(store.glob(f"{NAMESPACE}~*/{name}")), folder / name)
        script.finish()

    def run(workload: str, level: str, seconds: float, first: str = "all", mutant: str = "none") -> list[Looked]:
        if not folder.exists():
            record(workload, level)
        arguments = folder / "trace", seconds, seed, first, mutant
        finished = run_script(STATES, *arguments, timeout=seconds + 50, env={"PARKIT_SYNCHRONOUS": level})
        found = [Looked(**json.loads(line)) for line in finished.stdout.splitlines()]
        print(f"{workload} at {level}, {mutant}: {len(found)} states, {max(each.begun for each in found) + 1} commits; trace {folder}")
        return found

    return run


def check(found: list[Looked], lost: int) -> None:
    """Fail with the recipes of the states that are not what was promised."""
    bad = [each for each in found if not each.is_commit(lost)]
    assert not bad, f"{len(bad)} of {len(found)}:\n" + "\n".join(map(str, bad[:5]))
    assert max(each.acknowledged for each in found) >= 8, "there was something to lose"


@pytest.mark.parametrize("workload", ["calls", "pages", "together", "processes", "files"])
def test_at_full_every_acknowledged_commit_is_there(search: Search, seconds: float, workload: str) -> None:
    check(search(workload, "full", seconds / 4), lost=0)


@pytest.mark.parametrize("workload", ["pages", "together", "files"])
def test_at_normal_the_file_is_sound_and_at_most_the_last_commit_is_lost(search: Search, seconds: float, workload: str) -> None:
    found = search(workload, "normal", seconds / 4)
    check(found, lost=1)
    assert not all(each.is_commit(lost=0) for each in found), "at this level one is lost, or the states are not those that come about"


def test_from_off_to_full_everything_counts_once_the_call_has_returned(search: Search, seconds: float) -> None:
    # What had been committed at `off` was not synchronized, nor was the commit that changed the level: a power loss soon after it left an unusable
    # file. And the folder's entries for a namespace that was begun at `off` never were, so all could be lost even later.
    check(search("strengthened", "off", seconds / 4, first="acknowledged"), lost=0)


def test_a_folder_that_a_killed_process_has_made_is_synchronized_by_who_uses_it(search: Search, seconds: float) -> None:
    # Its entry in the store was left to whoever had made it, so everything could be lost with the folder.
    check(search("inherited", "full", seconds / 4, first="acknowledged"), lost=0)


def test_at_off_what_reaches_the_disk_in_order_is_sound_and_nothing_else_is_promised(search: Search, seconds: float) -> None:
    """What holds at ``off``, exactly.

    If the system writes in order, the namespace is as after one of its commits, perhaps one long ago; the last write may be torn. If it does not,
    the file may be damaged. Some damage is seen when the file is opened, and it is refused. Some is seen when what is damaged is read, which is an
    error, or ends the process (LMDB checks itself by assertions); all of this LMDB's verification sees before (``parkit verify``), which maps
    nothing. And parts of several commits may fit together by chance: then the content is wrong, and nothing tells.
    """
    found = search("pages", "off", seconds / 2)
    in_order = [each for each in found if each.recipe.startswith(("nothing", "everything", "in_order"))]
    assert all(each.is_commit(lost=10**9) for each in in_order), next(each for each in in_order if not each.is_commit(lost=10**9))
    outcomes = Counter(each.outcome + (" though verified" if each.verified else "") for each in found)
    print(dict(outcomes))
    assert outcomes["refused"] > 0, "in another order files are damaged, or these states are not those that come about"
    unseen = [each for each in found if each.verified and each.outcome in ("failed", "unsound", "died", "hung")]
    assert not unseen, unseen[:5]
    assert outcomes["hung"] == 0


@pytest.mark.slow
def test_the_search_finds_what_it_looks_for(search: Search) -> None:
    for mutant in MUTANTS:
        found = search("calls", "full", 0.3, mutant=mutant)
        assert all(each.is_commit(lost=0) for each in found) == (mutant == "none"), mutant


# -- what these searches have found, one by one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 15, 16], ids="{} sectors".format)
@pytest.mark.parametrize("size", [100, 8192, 16384])
def test_a_namespace_whose_beginning_was_torn_is_begun_anew(tmp_path: Path, store: Path, kept: int, size: int) -> None:
    # Half of the first two pages was mended for full disks; with their size on the disk, and not all of their content, the file was refused for ever.
    folder = namespace_directory(store, "torn")
    with lmdb.open(str(tmp_path / "new"), subdir=False, lock=False) as environment:
        del environment
    beginning = (tmp_path / "new").read_bytes()[: kept * 512]
    (folder / "data.mdb").write_bytes(beginning.ljust(size, b"\0")[:size])
    Dict[str, int]("torn/d")["a"] = 1
    close_all()
    assert Dict[str, int]("torn/d") == {"a": 1}


@pytest.mark.parametrize("page", [0, 1])
def test_a_file_that_has_lost_one_meta_page_is_refused_and_left_alone(store: Path, page: int) -> None:
    d = Dict[str, int]("torn/d")
    d["a"] = 1
    close_all()
    data = namespace_directory(store, "torn") / "data.mdb"
    damaged = bytearray(data.read_bytes())
    damaged[page * 4096 : (page + 1) * 4096] = bytes(4096)
    data.write_bytes(damaged)
    with pytest.raises(StoragePathError):
        Dict[str, int]("torn/d")
    assert data.read_bytes() == damaged


def test_garbage_in_the_shared_table_is_no_obstacle(store: Path, rng: random.Random) -> None:
    # A maximum size read from there was asked of the system as it was, and the namespace could not be opened again.
    Dict[str, int]("shared/d")["a"] = 1
    set_namespace_size("shared", 100 << 30)
    close_all()
    table = namespace_directory(store, "shared") / "shared"
    for _ in range(20):
        table.write_bytes(rng.randbytes(table.stat().st_size))
        d, q = Dict[str, int]("shared/d"), Queue[int]("shared/q")
        q.put(1)
        assert d == {"a": 1}
        assert q.get(timeout=0) == 1
        assert get_namespace_size("shared") == 100 << 30
        assert get_namespace_synchronous("shared") == "full"
        close_all()


def test_a_snapshot_from_before_the_level_was_raised_from_off_holds_up_writing() -> None:
    # Such a process wrote on without synchronizing in order, and did so afterwards: a power loss in between damaged a file of a namespace at `full`.
    d = Dict[str, int]("ns/d")
    set_namespace_synchronous("ns", "off")
    d["a"] = 1
    iterator = iter(d)
    with pytest.raises(TransactionError, match="close them and try again"):
        set_namespace_synchronous("ns", "full")
    assert get_namespace_synchronous("ns") == "off"
    d["b"] = 2
    assert list(iterator) == ["a"]
    set_namespace_synchronous("ns", "full")
    assert get_namespace_synchronous("ns") == "full"
    d["c"] = 3
    assert d == {"a": 1, "b": 2, "c": 3}


def test_the_same_where_another_process_raises_the_level(run_script: RunScript) -> None:
    d = Dict[str, int]("ns/d")
    set_namespace_synchronous("ns", "off")
    d["a"] = 1
    iterator = iter(d)
    run_script("import parkit; parkit.set_namespace_synchronous('ns', 'normal'); parkit.Dict('ns/d')['b'] = 2")
    for _ in range(2):
        with pytest.raises(TransactionError, match="close them and try again"):
            d["c"] = 3
    assert d == {"a": 1, "b": 2}
    assert list(iterator) == ["a"]
    d["c"] = 3
    assert d == {"a": 1, "b": 2, "c": 3}
