"""Disks that are full, read-only or broken: an error that says so, never a signal, nothing half done, and on with it once there is room."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from lmdb.verify import verify

from parkit import Dict, StoragePathError, set_storage_path
from parkit_async._core.engine import MAX_READERS
from parkit_async._core.paths import namespace_directory
from parkit_async._core.registry import close_all
from tests.conftest import RunScript
from tests.faults.failing_calls import DESCRIPTOR, MEMORY, ROOM, SYNC, build

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="other systems have neither tmpfs nor LD_PRELOAD")]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets calls fail."""
    return build(tmp_path_factory.mktemp("library"))


# -- every call, one after another -------------------------------------------------------------------------------------------------------

EVERY_CALL = "import sys; from tests.faults.every_call import main; main(*sys.argv[1:])"


def sweep(run_script: RunScript, library: Path, store: Path, level: str, error: str, kinds: int, *options: str) -> int:
    """Let every call fail; return in how many runs an operation failed."""
    finished = run_script(EVERY_CALL, library, level, error, kinds, *options, env={"LD_PRELOAD": str(library)}, timeout=55)
    points, failed, survived = map(int, finished.stdout.split())
    assert points <= failed + survived
    for data in store.glob("*~*/data.mdb"):
        assert verify(str(data)) == []  # type: ignore[no-untyped-call]
    return failed


@pytest.mark.parametrize(
    ("level", "error", "kinds", "options"),
    [
        ("full", "ENOSPC", ROOM + SYNC, ["once"]),
        ("full", "EIO", SYNC, ["on"]),
        ("normal", "ENOSPC", ROOM, ["on", "partly", "anew"]),
        ("off", "EDQUOT", ROOM, ["once", "partly"]),
        ("off", "EMFILE", DESCRIPTOR, ["once", "anew"]),
        ("off", "ENOMEM", MEMORY, ["once"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_whichever_call_fails_it_is_done_or_it_is_not(
    run_script: RunScript, library: Path, store: Path, level: str, error: str, kinds: int, options: list[str]
) -> None:
    assert sweep(run_script, library, store, level, error, kinds, *options) > 20


def test_whichever_call_fails_in_any_way(run_script: RunScript, library: Path, store: Path, rng: random.Random, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kinds = rng.choice([ROOM, SYNC, ROOM + SYNC, DESCRIPTOR, MEMORY])
        errors = {DESCRIPTOR: ["EMFILE", "ENFILE"], MEMORY: ["ENOMEM"]}.get(kinds, ["ENOSPC", "EDQUOT", "EIO", "EROFS"])
        options = [rng.choice(["once", "on"]), *(option for option in ("partly", "anew") if rng.random() < 0.5)]
        level, error = rng.choice(["full", "normal", "off"]), rng.choice(errors)
        print(level, error, kinds, *options)
        sweep(run_script, library, store, level, error, kinds, *options)
        close_all()
        shutil.rmtree(store)
        store.mkdir(mode=0o700)


# -- what these sweeps have found, one by one ---------------------------------------------------------------------------------------------

CALLS = """
import errno, os, sys
from parkit import *
from parkit_async._core.registry import close_all, open_namespace
from tests.faults.failing_calls import FOR_EVER, ROOM, SYNC, FailingCalls

calls = FailingCalls(sys.argv[1], os.path.realpath(os.environ["PARKIT_STORAGE_PATH"]))


def refusal(call):
    try:
        call()
    except TransactionError as error:
        return str(error)
    raise AssertionError("it was not refused")
"""


def test_after_a_meta_page_could_not_be_written_the_namespace_is_opened_anew(run_script: RunScript, library: Path) -> None:
    # LMDB refuses every later transaction of that environment. It was taken for damage of the file, and lasted as long as the process.
    finished = run_script(
        CALLS
        + """
d = Dict("disk/d")
d["a"] = 0
engines, waited = set(), 0
for number in range(40):
    iterator = iter(d.items()) if number % 2 else None
    calls.arm(number // 2 + 1, errno.EIO, ROOM)
    try:
        d["a"] = 1
    except TransactionError as error:
        assert "disk" in str(error)
    if not calls.disarm():
        break
    if iterator is not None:
        try:
            d["b"] = number
        except TransactionError as error:
            assert "close them" in str(error), error
            assert "close them" in refusal(lambda: d["a"])
            assert next(iterator) == ("a", 0)
            waited += 1
    iterator = None
    d["a"] = 0
    with transaction(d):
        d.pop("b", None)
    engines.add(open_namespace("disk").engine)
print(len(engines) > 2, waited > 0)
""",
        library,
        env={"LD_PRELOAD": str(library), "PARKIT_SYNCHRONOUS": "full"},
    )
    assert finished.stdout.split() == ["True", "True"]


@pytest.mark.parametrize("begun", [False, True], ids=["never written", "written once"])
def test_a_data_file_whose_very_first_write_was_cut_short_is_begun_anew(store: Path, begun: bool) -> None:
    # The namespace could not be opened any more: "not an LMDB file".
    directory = namespace_directory(store, "disk")
    with lmdb.open(str(directory)) as environment:
        for number in range(2 * begun):
            with environment.begin(write=True) as transaction:
                transaction.put(b"k", b"%d" % number)
    data = directory / "data.mdb"
    os.truncate(data, 4096)
    if begun:  # that is another matter: something was stored there once
        with pytest.raises(StoragePathError, match="damaged"):
            Dict("disk/d")
        assert data.stat().st_size == 4096
    else:
        Dict[str, int]("disk/d")["a"] = 1
        close_all()
        assert Dict[str, int]("disk/d")["a"] == 1


def test_no_mapped_file_has_a_hole(store: Path) -> None:
    # What is first written into a hole, on a full disk, ends the process by a signal.
    Dict("disk/d")
    for name in ("lock.mdb", "shared"):
        (path,) = store.glob(f"disk~*/{name}")
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 100_000, name
    assert path.parent.joinpath("lock.mdb").stat().st_size == 64 * MAX_READERS + 128, "what LMDB makes it; else there would be more readers"


# -- disks that are full -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | None]:
    """Mount a file system of a few MiB; None where that is not allowed, and calls that fail must stand for it."""
    place = tmp_path / "disk"
    place.mkdir()
    commands = [["mount", "-t", "tmpfs", "-o", f"size=4m,mode=0700,uid={os.geteuid()}", "tmpfs", str(place)]]
    if request.param == "ext4":
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(8 << 20)
        # Without a journal, which would take most of it, and with nothing set aside for root.
        commands = [
            ["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-E", f"root_owner={os.geteuid()}:{os.getegid()}", str(image)],
            ["mount", "-o", "loop", str(image), str(place)],
        ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"cannot mount a small {request.param} ({getattr(error, 'stderr', error)}): calls that fail stand for it")
        yield None
        return
    place.chmod(0o700)
    yield place
    subprocess.run(["umount", str(place)], check=True)


FULL_DISK = (
    CALLS
    + """
place = sys.argv[2]
ballast = os.path.join(place, "ballast") if place != "-" else None


def fill(spare=0):
    # Take all room on the disk but for so many pages.
    if ballast is None:
        return calls.arm(spare + 1, errno.ENOSPC, ROOM + SYNC, FOR_EVER)
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
        os.fsync(file.fileno())
        file.truncate(max(0, os.path.getsize(ballast) // 4096 - spare) * 4096)


def free():
    if ballast is None:
        calls.disarm()
    elif os.path.exists(ballast):
        os.unlink(ballast)
"""
)


def on_small_disk(run_script: RunScript, library: Path, disk: Path | None, store: Path, script: str, level: str = "full") -> str:
    """Run a script on a store on the small disk, and return what it printed."""
    if disk is not None:
        store = disk / "store"
        store.mkdir(mode=0o700)
    environment = {"LD_PRELOAD": str(library), "PARKIT_STORAGE_PATH": str(store), "PARKIT_SYNCHRONOUS": level}
    finished = run_script(FULL_DISK + script, library, disk or "-", env=environment)
    assert not finished.stderr
    for data in store.glob("*~*/data.mdb"):
        assert verify(str(data)) == []  # type: ignore[no-untyped-call]
    return finished.stdout


def test_a_namespace_is_begun_with_any_number_of_pages_left(run_script: RunScript, library: Path, small_disk: Path | None, store: Path) -> None:
    # From none to as many as it takes: an error or success, never a signal, and nothing that is in the way later.
    output = on_small_disk(
        run_script,
        library,
        small_disk,
        store,
        """
failed = succeeded = 0
for spare in range(0, 140, 1 if ballast is None else 3):
    name = f"ns{spare}"
    fill(spare)
    try:
        Dict(f"{name}/d")["a"] = 1
    except (StoragePathError, TransactionError) as error:
        assert error.__cause__ is not None and "disk" in str(error), error
        failed += 1
    else:
        succeeded += 1
    free()
    d = Dict(f"{name}/d")
    d["b"] = 2
    assert d["b"] == 2 and name in list(namespaces())
    close_all()
    folder = next(entry.path for entry in os.scandir(os.environ["PARKIT_STORAGE_PATH"]) if entry.name.startswith(name + "~"))
    if spare < 130:
        for entry in list(os.scandir(folder)):
            os.unlink(entry.path)
        os.rmdir(folder)
print(failed, succeeded)
""",
        "off",
    )
    failed, succeeded = map(int, output.split())
    assert failed > 5 and succeeded > 2


def test_on_a_full_disk_one_reads_waits_and_takes_turns(run_script: RunScript, library: Path, small_disk: Path | None, store: Path) -> None:
    # The mapped files are touched all over: slots of readers, of waiters, commit times.
    on_small_disk(
        run_script,
        library,
        small_disk,
        store,
        """
import queue, threading
d, q = Dict("disk/d"), Queue("disk/q")
d["a"] = 1
q.put_many([1, 2, 3])
if ballast is not None:
    close_all()
    d, q = Dict("disk/d"), Queue("disk/q")
fill()
namespace = open_namespace("disk")
iterators = [iter(d.items()) for _ in range(1500)]
assert all(next(iterator) == ("a", 1) for iterator in iterators)
slots = [namespace.table.register(7, 8, 9) for _ in range(4096)]
for slot in slots:
    namespace.table.unregister(slot)
for number in range(10_000):
    namespace.table.note_commit(number, 1)
iterators.clear()
for _ in range(20):
    try:
        d["large"] = bytes(500_000)
    except TransactionError as error:
        assert "disk" in str(error), error
    else:
        raise AssertionError("there is no room for this")
assert d["a"] == 1 and "large" not in d and q.qsize() == 3
free()
d["large"] = bytes(500_000)
assert q.get_many(3) == [1, 2, 3]
try:
    q.get(timeout=0.01)
except queue.Empty:
    pass
""",
    )


def test_a_disk_that_is_read_only_is_an_error_that_says_so(run_script: RunScript, library: Path, small_disk: Path | None, store: Path) -> None:
    on_small_disk(run_script, library, small_disk, store, 'Dict("disk/d")["a"] = 1')
    if small_disk is not None:
        store = small_disk / "store"
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    elif os.geteuid():
        store.chmod(0o500)
    else:
        pytest.fail("a superuser who may not mount can write everywhere: give the container CAP_SYS_ADMIN, or run the tests as a user")
    try:
        set_storage_path(store)
        with pytest.raises(StoragePathError, match="read-only"):
            Dict("disk/d")
        with pytest.raises(StoragePathError, match="read-only"):
            Dict("other/d")
        assert not list(store.glob("other*"))
    finally:
        if small_disk is not None:
            subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        store.chmod(0o700)
    assert Dict[str, int]("disk/d")["a"] == 1
    close_all()


POOL = """
import errno, os, resource, signal, sys
import parkit
from parkit import *

place = sys.argv[1]
ballast = os.path.join(place, "ballast")


def members():
    return [parkit.pool_status()["pid"], *(worker["pid"] for worker in parkit.pool_status()["workers"]), os.getpid()]


def limit(most):
    for pid in members():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def fill():
    if place == "-":
        return limit(0)
    with open(ballast, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def free():
    if place == "-":
        limit(resource.RLIM_INFINITY)
    else:
        os.unlink(ballast)


def begin(go):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    go.get(timeout=30)
    signal.sigwait({signal.SIGUSR1})


def chatty(go):
    begin(go)
    try:
        while True:
            print("x" * 1000, flush=True)
    except OSError as error:
        return error.errno


def large(go):
    begin(go)
    return bytes(500_000)


def main():
    set_pool_size(2)
    go = Queue("disk/go")
    processes = [Process("disk/chatty", target=chatty, args=(go,)), Process("disk/large", target=large, args=(go,))]
    for process in processes:
        process.start()
        while process.status != "running":
            process.join(0.05)
    go.put_many([1, 2])
    while go.qsize():
        pass
    fill()
    for process in processes:
        os.kill(process.pid, signal.SIGUSR1)
    try:
        with transaction("disk"):
            Process("disk/late", target=abs, args=(-1,)).start()
            go.put(bytes(500_000))
    except TransactionError as error:
        print("refused", "disk" in str(error))
    assert [path for path, _ in objects("disk")] == ["disk/chatty", "disk/go", "disk/large"]
    print("waits", processes[1].join(2.5), processes[1].status)
    free()
    print(processes[0].get_result(timeout=30) in (errno.ENOSPC, errno.EFBIG), processes[1].get_result(timeout=30) == bytes(500_000))
    last = Process("disk/last", target=abs, args=(-1,))
    last.start()
    print(last.get_result(timeout=30))


if __name__ == "__main__":
    try:
        main()
    finally:
        killall(30)
"""


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
def test_a_pool_on_a_full_disk_goes_on_when_there_is_room(run_script: RunScript, small_disk: Path | None, store: Path) -> None:
    # What had been done while the disk was full was lost: the worker tried once to store the outcome, and died.
    if small_disk is not None:
        store = small_disk / "store"
        store.mkdir(mode=0o700)
    finished = run_script(POOL, small_disk or "-", env={"PARKIT_STORAGE_PATH": str(store), "PARKIT_SYNCHRONOUS": "off"}, timeout=55)
    assert finished.stdout.splitlines() == ["refused True", "waits False running", "True True", "1"]
