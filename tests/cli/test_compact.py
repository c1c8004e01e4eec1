"""compact: alone or not at all, and whatever happens in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from parkit import Dict, Log, Queue, snapshot, transaction
from parkit_async._core import engine, maintenance
from parkit_async._core.inspection import openers
from parkit_async._core.registry import close_all, open_namespace
from tests.cli.conftest import Run, document
from tests.conftest import RunScript, Spawn

OPEN = """
import sys
from parkit import Dict
stock = Dict("shop/stock")
print(len(stock), flush=True)
for line in sys.stdin:
    stock[line.strip()] = 1
    print(len(stock), flush=True)
"""


@pytest.fixture
def folder(store: Path) -> Path:
    """Return the folder of a namespace whose file is mostly free, and which nobody has open."""
    stock = Dict[str, bytes]("shop/stock")
    stock.update((f"{number:04}", bytes(1000)) for number in range(4000))
    with transaction(stock):
        for number in range(3900):
            del stock[f"{number:04}"]
    queue = Queue[int]("shop/orders")
    queue.put_many(range(10))
    directory = open_namespace("shop").directory
    close_all()
    return directory


def size(folder: Path) -> int:
    return (folder / "data.mdb").stat().st_size


def content() -> tuple[list[str], int]:
    return list(Dict[str, bytes]("shop/stock")), Queue[int]("shop/orders").qsize()


EXPECTED = [f"{number:04}" for number in range(3900, 4000)], 10


def leftovers(store: Path) -> list[str]:
    return [path.name for path in store.iterdir() if path.name.startswith(".")]


def test_free_pages_go_back_to_the_disk(run: Run, folder: Path, store: Path) -> None:
    before = size(folder)
    (row,) = document(run("compact", "shop", "--json"))
    assert row["before"] == before and row["after"] == size(folder) < before / 5
    assert content() == EXPECTED
    assert oct((folder / "data.mdb").stat().st_mode & 0o777) == "0o600"
    assert leftovers(store) == []
    # Numbers of commits begin anew; nothing that was known by the old ones is believed.
    assert open_namespace("shop").engine.usage().last_transaction < 10
    Dict[str, bytes]("shop/stock")["after"] = b""
    with snapshot("shop"):
        assert "after" in Dict[str, bytes]("shop/stock")
    close_all()
    assert engine.verify_file(folder / "data.mdb") == []


def test_what_the_table_knew_of_old_commits_is_forgotten(run: Run, folder: Path) -> None:
    run("compact", "shop")
    namespace = open_namespace("shop")
    Dict[str, bytes]("shop/stock").update((f"new {number}", bytes(1000)) for number in range(100))
    with snapshot("shop"):
        Dict[str, bytes]("shop/stock")
    last = namespace.engine.usage().last_transaction
    assert namespace.table.commit_time(last, last) is not None
    for number in range(last + 1, last + 50):
        assert not namespace.table._commits[number & 4095], "the time of a commit of before"


@pytest.mark.processes
def test_it_refuses_while_somebody_has_the_namespace_open(run: Run, folder: Path, store: Path, spawn: Spawn) -> None:
    user = spawn(OPEN)
    assert user.read_line() == "100"
    before = size(folder)
    refused = run("compact", "shop", code=1)
    assert f"open in process {user.pid}" in refused.stderr and refused.stdout == ""
    assert size(folder) == before and leftovers(store) == []
    user.send("x")
    assert user.read_line() == "101"
    user.finish()
    run("compact", "shop")


@pytest.mark.processes
def test_all_that_nobody_uses(run: Run, folder: Path, spawn: Spawn) -> None:
    Log[int]("history").append(1)
    close_all()
    user = spawn(OPEN)
    user.read_line()
    done = run("compact", "--json", code=1)
    assert [row["namespace"] for row in document(done)] == ["default"]
    assert "'shop' is open" in done.stderr
    user.finish()


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a file mapped")
def test_a_forked_child_that_has_not_used_it_yet_counts(run: Run, folder: Path, spawn: Spawn) -> None:
    # It holds no lock, but goes by what its parent knew of commits.
    parent = spawn("""
        import os, sys
        from parkit import Dict
        stock = Dict("shop/stock")
        len(stock)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        print(child, flush=True)
        input()
        from parkit_async._core.registry import close_all
        close_all()
        print("closed", flush=True)
        input()
        os.close(writing)
        os.waitpid(child, 0)
    """)
    child = int(parent.read_line())
    parent.send("")
    parent.read_line()
    assert openers([folder]) == {folder: {child}}
    assert f"open in process {child}" in run("compact", "shop", code=1).stderr
    parent.send("")
    parent.finish()
    run("compact", "shop")


@pytest.mark.processes
def test_whoever_opens_it_in_the_middle_waits_and_sees_the_new_file(store: Path, folder: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    users = []
    rename = os.rename

    def rename_while_somebody_comes(source: Path, target: Path) -> None:
        users.append(spawn(OPEN))
        # It waits where it holds nothing; that it came that far shows in the lock file being open.
        while sys.platform == "linux" and not _has_open(users[0].pid, folder / "lock.mdb"):
            pass
        rename(source, target)

    monkeypatch.setattr("parkit_async._core.maintenance.os.rename", rename_while_somebody_comes)
    maintenance.compact(store, "shop")
    (user,) = users
    assert user.read_line() == "100"
    user.send("x")
    assert user.read_line() == "101"
    assert len(Dict[str, bytes]("shop/stock")) == 101
    user.finish()


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(os.readlink(f"/proc/{pid}/fd/{number}") == str(path) for number in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


@pytest.mark.processes
def test_a_write_between_copy_and_swap_is_not_lost(store: Path, folder: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = engine.copy_settled
    copies = 0

    def copy_and_let_somebody_write(directory: Path, target: Path) -> int:
        nonlocal copies
        copies += 1
        number = copy(directory, target)
        if copies == 1:
            run_script("from parkit import Dict; Dict('shop/stock')['late'] = 1")
        return number

    monkeypatch.setattr(engine, "copy_settled", copy_and_let_somebody_write)
    maintenance.compact(store, "shop")
    assert copies == 2
    assert "late" in Dict[str, bytes]("shop/stock")


def test_it_refuses_in_a_process_that_has_it_open_itself(store: Path, folder: Path) -> None:
    len(Dict[str, bytes]("shop/stock"))
    with pytest.raises(maintenance.InUseError, match="open in this process") as caught:
        maintenance.compact(store, "shop")
    assert caught.value.pids == (os.getpid(),)


def test_it_gives_up_when_others_write_all_the_time(store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = size(folder)
    monkeypatch.setattr(engine, "last_commit", lambda directory: -1)
    with pytest.raises(maintenance.InUseError, match="wrote"):
        maintenance.compact(store, "shop")
    assert size(folder) == before and leftovers(store) == []


# Killed, with SIGKILL, at each step that changes something. What is called is put in the place of the step.

KILLED = """
import os, signal, sys
from parkit_async._core import engine, maintenance, paths
from pathlib import Path

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

before, after = sys.argv[1].split(":")
module = {"engine": engine, "maintenance": maintenance, "os": os, "paths": paths}[before]
setattr(module, after, die)
maintenance.compact(Path(os.environ["PARKIT_STORAGE_PATH"]), "shop")
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("step", "compacted"),
    [
        ("engine:verify_file", False),
        ("engine:last_commit", False),
        ("maintenance:_forget_commits", False),
        ("os:pwrite", False),
        ("os:rename", False),
        ("paths:sync_directory", True),
        ("engine:settle_locks", True),
    ],
)
def test_killed_at_a_step_it_is_done_or_not_done(run: Run, folder: Path, run_script: RunScript, step: str, compacted: bool) -> None:
    before = size(folder)
    assert run_script(KILLED, step, check=False).exitcode == -signal.SIGKILL
    assert (size(folder) < before) is compacted
    assert content() == EXPECTED
    Dict[str, bytes]("shop/stock")["x"] = b"y"
    close_all()
    assert engine.verify_file(folder / "data.mdb") == []
    run("compact", "shop")
    assert content() == ([*EXPECTED[0], "x"], 10)


@pytest.mark.processes
def test_whoever_waited_for_one_that_was_killed_reads_no_wrong_state(folder: Path, spawn: Spawn) -> None:
    # Between the rename and the new lock file: who waits gets in without LMDB's own preparation. It may fail, but must not read what is not there.
    compacting = spawn("""
        import os, sys
        from parkit_async._core import engine, maintenance
        from pathlib import Path
        def stop(directory):
            print("swapped", flush=True)
            input()
        engine.settle_locks = stop
        maintenance.compact(Path(os.environ["PARKIT_STORAGE_PATH"]), "shop")
    """)
    assert compacting.read_line() == "swapped"
    user = spawn(OPEN)
    while sys.platform == "linux" and not _has_open(user.pid, folder / "lock.mdb"):
        pass
    compacting.kill()
    outcome = user.finish(check=False)
    assert (outcome.exitcode == 0 and outcome.stdout == "100\n") or "StoragePathError" in outcome.stderr
    assert content() == EXPECTED


def test_damage_is_refused(run: Run, folder: Path) -> None:
    with (folder / "data.mdb").open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (size(folder) - 2 * 4096))
    content_before = (folder / "data.mdb").read_bytes()
    run("compact", "shop", code=1)
    assert (folder / "data.mdb").read_bytes() == content_before


def test_a_copy_that_is_not_sound_takes_no_ones_place(run: Run, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "data.mdb").read_bytes()
    monkeypatch.setattr(engine, "verify_file", lambda path: ["page 7 is used twice"])
    assert "not sound (page 7 is used twice), so nothing was changed" in run("compact", "shop", code=1).stderr
    assert (folder / "data.mdb").read_bytes() == before
    assert leftovers(store) == [] and content() == EXPECTED


def test_a_namespace_on_another_disk_is_compacted_there(run: Run, folder: Path, store: Path) -> None:
    """It was an OSError, after all the copying: a file cannot be renamed from one disk to another."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(store).st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        shutil.move(folder, f"{other}/shop")
        folder.symlink_to(f"{other}/shop")
        before = size(folder)
        run("compact", "shop")
        assert size(folder) < before / 5 and content() == EXPECTED
        assert leftovers(store) == leftovers(folder) == []
        close_all()
