"""Whatever parkit makes belongs to this user alone, whatever the umask."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

import parkit
from parkit_async._core import private_files
from parkit_async._core.registry import close_all
from tests.conftest import RunScript
from tests.security.conftest import FIRST, ROOT_ONLY, SECOND, As

FILES = ("name", "data.mdb", "lock.mdb", "shared", "gate", "turnstile")

USE_EVERYTHING = """
    import json, os, stat, sys, threading
    from pathlib import Path
    import parkit
    from parkit import Dict, Log, Process, Queue, syslog
    from parkit_async._core import maintenance
    from parkit_async._core.registry import close_all

    def work():
        print("printed")
        return 1

    if __name__ == "__main__":
        os.umask(int(sys.argv[1], 8))
        place = Path(sys.argv[2])
        parkit.set_storage_path(place / "missing" / "parents" / "store")
        store = Path(parkit.get_storage_path())
        parkit.set_namespace_synchronous(None, "off")
        parkit.set_pool_size(1)
        Dict("d").update({n: "x" * 100 for n in range(100)})
        Log("deep/er/log").append(1)
        queue = Queue("q")
        waiting = threading.Thread(target=queue.get)
        waiting.start()
        process = Process("p", target=work)
        process.start()
        assert process.get_result(timeout=40) == 1
        syslog.append({"time": 0.0, "level": "INFO", "logger": "x", "message": "said", "pid": 0, "process": None})
        seen = {}

        def look(folder):
            for parent, folders, files in os.walk(folder):
                for name in ("", *folders, *files):
                    path = os.path.join(parent, name) if name else parent
                    try:
                        status = os.lstat(path)
                    except FileNotFoundError:  # a socket that is being closed
                        continue
                    seen[os.path.relpath(path, place)] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid)

        look(store)
        queue.put(1)
        waiting.join()
        parkit.killall(20)
        maintenance.backup(store, str(place / "else" / "where" / "backup"), None)
        assert maintenance.verify(store, "default") == []
        close_all()
        maintenance.compact(store, "default")
        look(store)
        look(place / "else" / "where" / "backup")
        assert Dict("d")[7] == "x" * 100
        for parent in ("missing", "missing/parents", "else", "else/where"):
            seen["parent " + parent] = (0, stat.S_IMODE(os.stat(place / parent).st_mode), os.geteuid())
        print(json.dumps(seen))
"""


@pytest.mark.timeout(120)
@pytest.mark.processes
@pytest.mark.parametrize("umask", ["000", "777"])
def test_everything_that_is_made_is_this_users_alone(umask: str, run_script: RunScript, tmp_path: Path) -> None:
    seen = json.loads(run_script(USE_EVERYTHING, umask, tmp_path, timeout=100).stdout.splitlines()[-1])
    parents = {path.removeprefix("parent "): seen.pop(path) for path in list(seen) if path.startswith("parent ")}
    assert all(mode & 0o722 == 0o700 for _, mode, _ in parents.values()), parents
    expected = {stat.S_IFDIR: 0o700, stat.S_IFREG: 0o600, stat.S_IFSOCK: 0o600}
    loose = {path: (oct(kind), oct(mode), user) for path, (kind, mode, user) in seen.items() if (mode, user) != (expected[kind], os.geteuid())}
    assert not loose
    found = {Path(path).name for path in seen}
    assert {*FILES, "output", "sockets", "supervisor", "starting", "supervisor.log", "backup"} <= found
    assert stat.S_IFSOCK in [kind for kind, _, _ in seen.values()]


@ROOT_ONLY
@pytest.mark.processes
def test_a_umask_that_leaves_its_owner_nothing_is_not_in_the_way(open_ground: Path, as_user: As) -> None:
    # For root no mode is in the way, so this takes another user.
    os.chown(open_ground, FIRST, FIRST)
    source = """
        from queue import Empty
        os.umask(0o777)
        parkit.set_storage_path(sys.argv[1] + "/a/b/store")
        with parkit.transaction("ns"):
            Dict("ns/d")["k"] = 1
        close_all()
        queue = Queue("ns/q")
        try:
            queue.get(timeout=0.01)  # binds a socket
            raise AssertionError
        except Empty:
            pass
        assert Dict("ns/d")["k"] == 1
        close_all()
        from parkit_async._core import maintenance, output_files
        os.close(output_files.create(output_files.output_path(parkit.get_storage_path(), "0" * 32)))
        maintenance.compact(Path(parkit.get_storage_path()), "ns")
        assert Dict("ns/d")["k"] == 1
        print("done")
    """
    assert as_user(FIRST, source, open_ground) == "done\n"


@ROOT_ONLY
@pytest.mark.processes
def test_a_file_whose_maker_was_killed_under_such_a_umask_is_opened(open_ground: Path, as_user: As) -> None:
    os.chown(open_ground, FIRST, FIRST)
    source = """
        from parkit_async._core.private_files import open_file
        path = sys.argv[1] + "/file"
        os.close(os.open(path, os.O_CREAT, 0))
        os.close(open_file(path))
        print(oct(os.stat(path).st_mode & 0o777))
    """
    assert as_user(FIRST, source, open_ground) == "0o600\n"


@ROOT_ONLY
def test_only_a_file_of_ones_own_is_mended(open_ground: Path) -> None:
    paths = [open_ground / name for name in ("own", "theirs", "link")]
    for path, user in zip(paths[:2], (FIRST, SECOND), strict=True):
        path.touch()
        path.chmod(0)
        os.chown(path, user, user)
    paths[2].symlink_to("own")
    os.seteuid(FIRST)
    try:
        with pytest.raises(parkit.StoragePathError, match="link"):
            private_files.open_file(paths[2])
        with pytest.raises(PermissionError):
            private_files.open_file(paths[1])
        os.close(private_files.open_file(paths[0]))
    finally:
        os.seteuid(0)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths[:2]] == [0o600, 0]
    with pytest.raises(parkit.StoragePathError, match=f"belongs to user {FIRST}, and this process runs as user 0"):
        private_files.open_file(paths[0])


@pytest.mark.parametrize("file", FILES)
def test_what_others_could_read_is_closed_to_them(file: str, store: Path) -> None:
    parkit.Dict[str, int]("ns/d")["k"] = 1
    close_all()
    (path,) = store.glob(f"ns~*/{file}")
    path.chmod(0o644)
    path.parent.chmod(0o755)
    assert parkit.Dict[str, int]("ns/d")["k"] == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("mode", [0o620, 0o602], ids=oct)
def test_what_others_could_write_is_refused(file: str, mode: int, store: Path) -> None:
    parkit.Dict[str, int]("ns/d")["k"] = 1
    close_all()
    (path,) = store.glob(f"ns~*/{file}")
    path.chmod(mode)
    with pytest.raises(parkit.StoragePathError, match=rf"mode {mode:04o}.*chmod go-rwx"):
        parkit.Dict[str, int]("ns/d").get("k")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    path.chmod(0o600)
    assert parkit.Dict[str, int]("ns/d")["k"] == 1


def test_opening_a_file_leaves_nothing_open_when_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o666)
    with pytest.raises(parkit.StoragePathError):
        private_files.open_file(path)
    with pytest.raises(FileNotFoundError):
        private_files.open_file(tmp_path / "missing", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        private_files.open_file(path / "below")


def test_a_file_can_be_opened_while_somebody_has_a_lease_on_it(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    if not hasattr(fcntl, "F_SETLEASE"):
        pytest.skip("leases are Linux's")
    import signal
    import threading

    path = tmp_path / "file"
    held = private_files.open_file(path, os.O_RDONLY | os.O_CREAT)
    fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    opened: list[int] = []
    other = threading.Thread(target=lambda: opened.append(private_files.open_file(path)))
    other.start()
    other.join(0.2)
    assert not opened  # it waits for the lease: capture gives it up at once, and so does this
    os.close(held)
    other.join(10)
    assert len(opened) == 1
    os.close(opened[0])
