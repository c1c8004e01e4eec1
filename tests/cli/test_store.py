"""stat, verify, backup and doctor."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

from parkit import Dict, Log, ParkitError, Queue, set_namespace_size, set_namespace_synchronous
from parkit_async._core import maintenance, paths
from parkit_async._core.registry import close_all, open_namespace
from tests.cli.conftest import Run, document, rows
from tests.conftest import RunScript, Spawn

HOLD = """
import sys
from parkit import Dict, snapshot
with snapshot(sys.argv[1]):
    len(Dict(sys.argv[2]))
    print("reading", flush=True)
    input()
"""

WAIT = """
import sys
from parkit import Queue
queue = Queue(sys.argv[1])
print("waiting", flush=True)
queue.get()
"""


def data_file(store: Path, name: str) -> Path:
    (folder,) = store.glob(f"{name}~*")
    return folder / "data.mdb"


def damage(path: Path) -> None:
    """Overwrite what is behind the two meta pages, so that the file can be opened."""
    close_all()
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 2 * 4096))


# stat


def test_stat_of_all(run: Run) -> None:
    Dict[str, bytes]("shop/stock")["x"] = bytes(1 << 20)
    set_namespace_size("shop", 4 << 20)
    set_namespace_synchronous("shop", "off")
    (found,) = document(run("stat", "--json"))
    assert found["namespace"] == "shop" and found["level"] == "off" and found["limit"] == 4 << 20
    assert 1 << 20 < found["used"] < 2 << 20 and 0.25 < found["full"] < 0.5
    assert found["snapshots"] == found["waiters"] == 0 and found["last commit"] < 30
    assert rows(run("stat"))[0][0] == "shop"


@pytest.mark.processes
def test_stat_of_one_tells_who_reads_and_who_waits(run: Run, spawn: Spawn) -> None:
    stock, _ = Dict[str, int]("shop/stock"), Queue[int]("shop/orders")
    stock["tea"] = 1
    reader, waiter = spawn(HOLD, "shop", "shop/stock"), spawn(WAIT, "shop/orders")
    reader.read_line(), waiter.read_line()
    stock["tea"] = 2
    while not (found := document(run("stat", "shop", "--json")))["waiters"]:
        pass  # it registers behind the line that it wrote
    (snapshot,) = found["snapshots"]
    assert snapshot["pid"] == reader.pid and 0 <= snapshot["age"] < 30 and "script_0" in snapshot["program"]
    assert found["waiters"] == [{"waits for": "shop/orders", "events": ["items"], "pid": waiter.pid, "program": found["waiters"][0]["program"]}]
    if sys.platform == "linux":
        assert found["open in"] == sorted([reader.pid, waiter.pid])
    text = run("stat", "shop").stdout
    assert f"{reader.pid}\t" in text and f"shop/orders\titems\t{waiter.pid}" in text
    reader.send("")
    reader.finish()
    waiter.kill()
    close_all()  # opening the store again removes the socket of a dead waiter; its place in the table is nobody's
    assert document(run("stat", "shop", "--json"))["waiters"][0]["pid"] is None


def test_stat_of_nothing(run: Run) -> None:
    assert "no namespace 'shop'" in run("stat", "shop", code=1).stderr


# verify


def test_verify(run: Run, store: Path) -> None:
    Dict[str, int]("shop/stock").update((str(number), number) for number in range(1000))
    Log[int]("history").extend(range(1000))
    assert rows(run("verify")) == [["default", "sound", "-"], ["shop", "sound", "-"]]
    damage(data_file(store, "shop"))
    found = run("verify", "--json", code=1)
    assert [row["state"] for row in document(found)] == ["sound", "damaged"]
    assert "restore from a backup" in found.stderr
    assert [row[:2] for row in rows(run("verify", "default"))] == [["default", "sound"]]


def test_verify_leaves_nothing_behind(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Log[int]("history").append(1)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    run("verify")
    assert list(folder.iterdir()) == []


def test_verify_of_what_is_not_there(run: Run, store: Path) -> None:
    assert "no namespace 'shop'" in run("verify", "shop", code=1).stderr + run("verify", "shop", code=1).stdout
    store.rmdir()
    assert "there is no store" in run("verify", code=1).stderr


# backup


def test_a_backup_is_a_store(run: Run, tmp_path: Path, store: Path) -> None:
    Dict[str, int]("shop/stock").update((str(number), number) for number in range(1000))
    Queue[int]("orders").put_many(range(10))
    set_namespace_size("shop", 8 << 20)
    set_namespace_synchronous("shop", "normal")
    (store / maintenance.OUTPUT).mkdir(mode=0o700)
    (store / maintenance.OUTPUT / ("0" * 32)).write_text("hello")
    target = tmp_path / "backups" / "monday"
    copied = run("backup", target)
    assert [row[0] for row in rows(copied)] == ["default", "shop"]
    Dict[str, int]("shop/stock")["later"] = 1
    close_all()
    assert document(run("--store", target, "stat", "--json"))[1]["limit"] == 8 << 20
    assert run("--store", target, "get", "shop/stock", "999").stdout == "999\n"
    run("--store", target, "get", "shop/stock", "later", code=1)
    assert [row[1] for row in rows(run("--store", target, "verify"))] == ["sound", "sound"]
    assert (target / maintenance.OUTPUT / ("0" * 32)).read_text() == "hello"
    for path in [target, *target.rglob("*")]:
        assert path.name == "name" or not path.stat().st_mode & 0o077, f"{path} can be read by others"


def test_a_backup_of_some(run: Run, tmp_path: Path) -> None:
    Dict[str, int]("a/d")["x"] = 1
    Dict[str, int]("b/d")["x"] = 1
    run("backup", tmp_path / "copy", "b")
    assert [row[0] for row in rows(run("--store", tmp_path / "copy", "ls"))] == ["b"]


def test_a_backup_overwrites_nothing(run: Run, tmp_path: Path, store: Path) -> None:
    Dict[str, int]("a/d")["x"] = 1
    target = tmp_path / "there"
    target.mkdir()
    assert "overwrites nothing" in run("backup", target, code=1).stderr
    assert "inside the store" in run("backup", store / "copy", code=1).stderr
    assert "no namespace 'b'" in run("backup", tmp_path / "copy", "b", code=1).stderr
    assert list(target.iterdir()) == [] and not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.processes
def test_a_backup_while_others_write_is_of_one_moment(run: Run, spawn: Spawn, tmp_path: Path) -> None:
    writer = spawn("""
        import itertools, select, sys
        from parkit import Dict, Log, transaction
        counts, log = Dict("busy/counts"), Log("busy/log")
        for number in itertools.count(1):
            with transaction("busy"):
                counts["number"] = number
                log.append(bytes(1000))
                log.append(bytes(1000))
            if number == 20:
                print("running", flush=True)
            if select.select([sys.stdin], [], [], 0)[0]:
                break
    """)
    writer.read_line()
    for number in range(3):
        run("backup", tmp_path / f"copy{number}")
    writer.finish()
    for number in range(3):
        close_all()
        os.environ["PARKIT_STORAGE_PATH"] = str(tmp_path / f"copy{number}")
        assert Dict[str, int]("busy/counts")["number"] * 2 == len(Log[bytes]("busy/log")) > 0


# doctor


def states(run: Run, code: int = 0) -> dict[str, list[tuple[str, str, str | None]]]:
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    for row in document(run("doctor", "--json", code=code)):
        found.setdefault(row["state"], []).append((row["check"], row["finding"], row["remedy"]))
    return found


def test_the_doctor_finds_a_healthy_store_healthy(run: Run) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    found = states(run)
    assert set(found) <= {"ok", "warning"} and all(check == "disk" for check, _, _ in found.get("warning", []))  # a memory disk is warned of
    assert {"store", "permissions", "versions", "namespace shop", "pool"} <= {check for check, _, _ in found["ok"]}


def test_the_doctor_of_no_store(run: Run, store: Path) -> None:
    store.rmdir()
    assert "there is none" in states(run)["note"][0][1]
    assert not store.exists()


def test_the_doctor_sees_who_can_look_in_or_write(run: Run, store: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    close_all()
    store.chmod(0o755)
    (warning,) = [finding for finding in states(run)["warning"] if finding[0] == "permissions"]
    assert warning[2] == f"chmod 700 {store}"
    close_all()
    store.chmod(0o777)
    assert "chmod" in states(run, code=1)["problem"][0][1]
    store.chmod(0o700)


def test_the_doctor_sees_a_namespace_fill(run: Run) -> None:
    set_namespace_size("small", 1 << 20)
    Dict[str, bytes]("small/d")["x"] = bytes(930 << 10)
    (finding,) = [finding for finding in states(run)["warning"] if finding[0] == "namespace small"]
    assert "set_namespace_size('small'" in str(finding[2])


def test_the_doctor_sees_damage(run: Run, store: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    Dict[str, int]("well/stock")["tea"] = 1
    close_all()
    data_file(store, "shop").write_bytes(b"nonsense" * 4096)
    found = states(run, code=1)
    assert [check for check, _, _ in found["problem"]] == ["namespace shop"]
    assert "namespace well" in {check for check, _, _ in found["ok"]}


def test_the_doctor_sees_copies_and_leftovers(run: Run, store: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    shutil.copytree(data_file(store, "shop").parent, store / "shop~copy")
    draft = store / ".new-0123456789abcdef"
    draft.mkdir(mode=0o700)
    os.utime(draft, (0, 0))
    found = states(run)
    assert any("shop~copy" in text for _, text, _ in found["warning"])
    assert any(str(remedy) == f"rm -r {draft}" for _, _, remedy in found["note"])


@pytest.mark.processes
def test_the_doctor_sees_the_slots_of_the_dead_and_the_snapshots_of_the_living(run: Run, spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parkit_async.cli.diagnosis._LONG", 0.0)
    stock = Dict[str, int]("shop/stock")
    stock["tea"] = 1
    living, dying = spawn(HOLD, "shop", "shop/stock"), spawn(HOLD, "shop", "shop/stock")
    living.read_line(), dying.read_line()
    stock["tea"] = 2
    close_all()  # a process that has the namespace open frees such slots whenever it looks
    dying.kill()
    found = states(run)
    assert any(f"stale reader slots of dead processes {dying.pid}" in text for _, text, _ in found["note"])
    (warning,) = [finding for finding in found["warning"] if finding[0] == "namespace shop"]
    assert f"process {living.pid} (" in warning[1] and f"kill {living.pid}" in str(warning[2])
    living.send("")
    living.finish()


@pytest.mark.processes
def test_the_doctor_mentions_the_waiters_that_died(run: Run, spawn: Spawn) -> None:
    Queue[int]("shop/orders")
    waiter = spawn(WAIT, "shop/orders")
    waiter.read_line()
    namespace = open_namespace("shop")
    while not namespace.table.anybody():
        pass
    waiter.kill()
    close_all()  # opening the store again removes the dead waiter's socket
    assert any("1 waiter died" in text for _, text, _ in states(run)["note"])


def test_every_namespace_has_the_hidden_ones_last(store: Path) -> None:
    for name in (paths.POOL_NAMESPACE, "zoo", "alps"):
        open_namespace(name)
    assert maintenance.every_namespace(store) == ["alps", "zoo", paths.POOL_NAMESPACE]


@pytest.mark.parametrize("target", ["itself", "nothing"])
def test_the_doctor_sees_a_namespace_that_is_a_link_to_nothing(target: str, run: Run, store: Path) -> None:
    """It ended with an OSError that was not foreseen."""
    Dict[str, int]("shop/stock")
    Dict[str, int]("alps/heights")
    close_all()
    (folder,) = store.glob("shop~*")
    folder.rename(store / "away")
    folder.symlink_to(folder if target == "itself" else "missing")
    assert any(folder.name in text for _, text, _ in states(run)["warning"])
    assert [row[0] for row in rows(run("ls"))] == ["alps"]


@pytest.mark.processes
def test_doctor_is_heard_by_scripts(run_script: RunScript, store: Path) -> None:
    store.chmod(0o777)
    finished = run_script("import sys; from parkit_async.cli import main; sys.exit(main(['doctor']))", check=False)
    assert finished.exitcode == 1


def test_that_somebody_has_it_open_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(maintenance.InUseError("open elsewhere", (1, 2))))
    assert (type(error), str(error), error.pids) == (maintenance.InUseError, "open elsewhere", (1, 2))


def test_a_backup_that_cannot_be_written_leaves_nothing(store: Path, tmp_path: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1

    def in_the_way(name: str) -> None:
        (draft,) = tmp_path.glob(".copy-*")
        (paths.namespace_directory(draft, name) / "data.mdb").touch()

    with pytest.raises(ParkitError, match=r"copying to .*copy-.*exists"):
        maintenance.backup(store, str(tmp_path / "copy"), None, in_the_way)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
    assert Dict[str, int]("shop/stock")["tea"] == 1


def test_a_backup_of_outputs_leaves_out_what_goes_meanwhile_and_what_is_none(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_namespace(paths.POOL_NAMESPACE)  # of a pool that never was
    outputs = store / maintenance.OUTPUT
    (outputs / "folder").mkdir(parents=True)
    for name in ("0", "1"):
        (outputs / name).write_text(name)
    copyfile = shutil.copyfile

    def cleaned_meanwhile(source: str, target: Path) -> None:
        if target.name == "0":
            os.unlink(source)
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", cleaned_meanwhile)
    maintenance.backup(store, str(tmp_path / "copy"), None)
    assert os.listdir(tmp_path / "copy" / maintenance.OUTPUT) == ["1"]
    assert (tmp_path / "copy" / maintenance.OUTPUT / "1").read_text() == "1"
    assert maintenance.every_namespace(tmp_path / "copy") == [paths.POOL_NAMESPACE]
