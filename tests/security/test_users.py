"""Two real users on one machine: whatever the second tries, the first one's store is his own.

Where root is needed to be several users, the tests are left out for everybody else; continuous integration runs as root.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import parkit
from parkit_async._core.registry import close_all
from parkit_async.testing import TemporaryPool
from tests.security.conftest import FIRST, ROOT_ONLY, SECOND, As, Start

pytestmark = [ROOT_ONLY, pytest.mark.processes]

SECRET = "s3cret-argument"


@pytest.fixture(params=[0o700, 0o755], ids=["0700", "0755"])
def used(request: pytest.FixtureRequest, open_ground: Path) -> Iterator[Path]:
    """A store of this user's, in a folder that everybody can reach, with a pool, a process that runs, and somebody who waits."""
    store = open_ground / "store"
    store.mkdir()
    store.chmod(request.param)
    parkit.set_storage_path(store)
    parkit.set_namespace_synchronous(None, "off")
    pool = TemporaryPool(store)
    pool.prepare(1)
    queue = parkit.Queue[int]("q")
    waiter = threading.Thread(target=queue.get)
    waiter.start()
    process = parkit.Process("p", target=print, args=(SECRET,))
    process.start()
    process.join(30)
    yield store
    queue.put(1)
    waiter.join()
    assert not pool.end()
    close_all()


GET_NOWHERE = """
    store, pids, files = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    allowed = []

    def attempt(name, call, *arguments):
        try:
            result = call(*arguments)
        except (PermissionError, parkit.StoragePathError):
            return None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
            return None
        allowed.append(name)
        return result

    def lock(path):
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def ring(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", path)

    mine = tempfile.mkdtemp()
    for path in files:
        attempt("read " + path, open, path, "rb")
        attempt("write " + path, open, path, "r+b")
        attempt("append " + path, open, path, "ab")
        attempt("lock " + path, lock, path)
        attempt("ring " + path, ring, path)
        attempt("mode " + path, os.chmod, path, 0o777)
        attempt("owner " + path, os.chown, path, os.getuid(), os.getgid())
        attempt("remove " + path, os.unlink, path)
        attempt("move " + path, os.rename, path, mine + "/stolen")
        attempt("link " + path, os.link, path, mine + "/linked")
        attempt("times " + path, os.utime, path, (1, 1))
    for folder in {os.path.dirname(path) for path in files} | {store}:
        attempt("plant in " + folder, open, folder + "/planted", "xb")
        attempt("link in " + folder, os.symlink, "/etc/passwd", folder + "/planted")
        attempt("make in " + folder, os.mkdir, folder + "/planted")
        attempt("put over " + folder, os.rename, mine, folder)
        if folder != store or os.stat(store).st_mode & 0o777 == 0o700:
            attempt("list " + folder, os.listdir, folder)
            attempt("enter " + folder, os.chdir, folder)
    attempt("move the store", os.rename, store, mine + "/store")
    for pid in pids:
        for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGURG):
            attempt(f"signal {pid} {number}", os.kill, pid, number)
        for file in ("environ", "maps", "mem", "stack", "auxv"):
            attempt(f"read {pid} {file}", lambda pid=pid, file=file: open(f"/proc/{pid}/{file}", "rb").read(1))
        attempt(f"descriptors of {pid}", os.listdir, f"/proc/{pid}/fd")
        attempt(f"root of {pid}", os.listdir, f"/proc/{pid}/cwd")
    parkit.set_storage_path(store)
    for name, use in {
        "Dict": lambda: Dict("p").get("k"),
        "Queue": lambda: Queue("q").put(1),
        "new": lambda: Dict("mine/d"),
        "namespaces": lambda: list(parkit.namespaces()),
        "objects": lambda: list(parkit.objects()),
        "processes": lambda: list(parkit.processes()),
        "pool_status": parkit.pool_status,
        "killall": lambda: parkit.killall(1),
        "set_pool_size": lambda: parkit.set_pool_size(0),
        "size": lambda: parkit.set_namespace_size("default", 1 << 30),
        "start": lambda: parkit.Process("default/mine", target=print).start(),
    }.items():
        attempt("parkit " + name, use)
    shutil.rmtree(mine)
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\\0") for pid in pids]
    print(json.dumps([allowed, lines]))
"""


@pytest.mark.timeout(120)
def test_the_second_user_gets_nowhere(used: Path, as_user: As) -> None:
    status = parkit.pool_status()
    pids = [status["pid"], os.getpid(), *(worker["pid"] for worker in status["workers"])]
    assert all(pids) and len(pids) == 3
    files = [os.path.join(folder, name) for folder, _, names in os.walk(used) for name in names]
    kinds = {os.path.basename(path) for path in files}
    assert {"data.mdb", "lock.mdb", "gate", "turnstile", "shared", "name", "supervisor", "starting", "supervisor.log"} <= kinds
    assert any("/sockets/" in path for path in files) and any("/output/" in path for path in files)
    allowed, lines = json.loads(as_user(SECOND, GET_NOWHERE, used, json.dumps(pids), json.dumps(files)))
    assert allowed == []
    # What everybody can read of this user's processes are their command lines: no argument of a call is in them, nor its name.
    for words in (lines[0], *lines[2:]):
        assert not [word for word in words if SECRET in word or "print" in word]
        assert {word for word in words if word.startswith("--")} <= {"--store", "--starting", "--name", "--epoch"}
    assert parkit.Process[None]("p", create=False).status == "finished"


def test_a_store_of_another_user_is_refused_in_both_directions(open_ground: Path, as_user: As) -> None:
    place = open_ground / "firsts"
    place.mkdir()
    os.chown(place, FIRST, FIRST)
    as_user(FIRST, 'parkit.set_storage_path(sys.argv[1] + "/store"); Dict("ns/d")["k"] = 1', place)
    store = place / "store"
    attempt = """
        parkit.set_storage_path(sys.argv[1])
        for use in (lambda: Dict("ns/d")["k"], lambda: Dict("new/d"), lambda: list(parkit.namespaces())):
            try:
                use()
            except StoragePathError as error:
                print(error)
    """
    told = as_user(SECOND, attempt, store).splitlines()
    assert len(told) == 3
    # The mode alone shuts the second out; where it does not, the owner does.
    store.chmod(0o755)
    told += as_user(SECOND, attempt, store).splitlines()
    assert all(f"belongs to user {FIRST}, and this process runs as user {SECOND}" in line for line in told[3:]) and len(told) == 6
    assert all(f"chown -R {SECOND}" in line for line in told[3:])
    # Root could, and is refused all the same: what it loads from there would run as root.
    parkit.set_storage_path(store)
    with pytest.raises(parkit.StoragePathError, match=f"belongs to user {FIRST}, and this process runs as user 0"):
        parkit.Dict[str, int]("ns/d").get("k")
    # And where only a part of a store is another's.
    store.chmod(0o700)
    data = next(store.glob("ns~*/data.mdb"))
    for part in (data, data.parent):
        os.chown(part, SECOND, SECOND)
        told = as_user(FIRST, attempt, store).splitlines()
        assert f"belongs to user {SECOND}" in told[0] or "Permission denied" in told[0]
        os.chown(part, FIRST, FIRST)
    assert as_user(FIRST, 'parkit.set_storage_path(sys.argv[1]); print(Dict("ns/d")["k"])', store) == "1\n"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777], ids=oct)
def test_a_store_that_another_user_made_first_is_refused(mode: int, open_ground: Path, as_user: As) -> None:
    shared = open_ground / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    # The second makes a store that would run his code, then opens it wide.
    plant = """
        parkit.set_storage_path(sys.argv[1])
        class Payload:
            def __reduce__(self):
                return os.mkdir, (sys.argv[3],)
        Dict("ns/d")["k"] = Payload()
        close_all()
        for folder, _, names in os.walk(sys.argv[1]):
            for name in names:
                os.chmod(os.path.join(folder, name), 0o666)
            os.chmod(folder, 0o777)
        os.chmod(sys.argv[1], int(sys.argv[2]))
    """
    # The class belongs to the script, so cloudpickle carries it.
    as_user(SECOND, plant, shared / "store", mode, open_ground / "run")
    use = """
        parkit.set_storage_path(sys.argv[1])
        try:
            print(Dict("ns/d")["k"])
        except StoragePathError as error:
            print(error)
    """
    assert f"belongs to user {SECOND}" in as_user(FIRST, use, shared / "store")
    assert not (open_ground / "run").exists()


def test_a_link_that_another_user_put_in_a_shared_folder_is_not_followed(open_ground: Path, as_user: As) -> None:
    shared, own = open_ground / "shared", open_ground / "own"
    shared.mkdir()
    shared.chmod(0o1777)
    own.mkdir(mode=0o700)
    os.chown(own, FIRST, FIRST)
    plant = """
        shared, own = sys.argv[1:]
        os.mkdir(shared + "/theirs")
        os.chmod(shared + "/theirs", 0o777)
        for name, target in (("a", own + "/store"), ("b", shared + "/theirs"), ("c", shared + "/missing"), ("way", own)):
            os.symlink(target, shared + "/" + name)
    """
    as_user(SECOND, plant, shared, own)
    use = """
        parkit.set_storage_path(sys.argv[2] + "/store")
        Dict("ns/d")["k"] = 1
        for name in ("a", "b", "c", "way/store"):
            parkit.set_storage_path(sys.argv[1] + "/" + name)
            try:
                print(Dict("ns/d")["k"])
            except StoragePathError as error:
                print(error)
    """
    told = as_user(FIRST, use, shared, own).splitlines()
    assert [f"belongs to user {SECOND}, who can turn it elsewhere" in line for line in told] == [True] * 4, told
    assert sorted(os.listdir(shared)) == ["a", "b", "c", "theirs", "way"]
    assert os.listdir(shared / "theirs") == []


def test_a_namespace_that_is_a_link(open_ground: Path, as_user: As) -> None:
    """One's own link was followed also where it leads over a link of another user's."""
    names = ("followed", "theirs", "open", "turned", "way")
    store, shared = open_ground / "store", open_ground / "shared"
    for place, user in ((store, FIRST), (shared, SECOND)):
        parkit.set_storage_path(place)
        for name in names:
            parkit.Dict[str, str](f"{name}/d")["k"] = f"{name} of {user}"
        close_all()
        for file in (place, *place.rglob("*")):
            os.chown(file, user, user)
    away = store / "away"
    away.mkdir(mode=0o700)
    os.chown(away, FIRST, FIRST)
    shared.chmod(0o1777)
    (shared / "way").symlink_to(away)
    os.chown(shared / "way", SECOND, SECOND, follow_symlinks=False)
    for name in names:
        (own,), (theirs,) = store.glob(f"{name}~*"), shared.glob(f"{name}~*")
        theirs.chmod(0o777 if name == "open" else 0o755)
        (theirs / "name").chmod(0o644)
        own.rename(away / own.name)
        own.symlink_to({"theirs": theirs, "open": theirs, "way": shared / "way" / own.name}.get(name, away / own.name))
        user = SECOND if name == "turned" else FIRST
        os.chown(own, user, user, follow_symlinks=False)
    before = {file: file.lstat()[:7] for file in shared.rglob("*")}  # all but the times
    use = """
        parkit.set_storage_path(sys.argv[1])
        print(list(parkit.namespaces()))
        for name in sys.argv[2:]:
            try:
                print(Dict(name + "/d")["k"])
            except StoragePathError as error:
                print(error)
    """
    listed, *told = as_user(FIRST, use, store, *names).splitlines()
    assert listed == "['followed', 'turned', 'way']"  # a look at names alone, which are the user's own
    assert told[0] == f"followed of {FIRST}"
    assert all(f"belongs to user {SECOND}" in line for line in told[1:]), told
    assert all("who can turn it elsewhere" in line for line in told[3:]), told
    assert {file: file.lstat()[:7] for file in shared.rglob("*")} == before


def test_a_store_that_another_user_exchanges_under_a_running_program(open_ground: Path, start_as: Start, as_user: As) -> None:
    # Who may write in the folder above a store can rename it away, and put one of his own in its place.
    place = open_ground / "loose"
    place.mkdir()
    place.chmod(0o777)
    running = start_as(
        FIRST,
        """
        from parkit_async._core import output_files, supervision
        store = sys.argv[1]
        parkit.set_storage_path(store)
        held = Dict("ns/d")
        held["k"] = 1
        print("open")
        input()

        def told(use):
            try:
                print("did", use())
            except (StoragePathError, PermissionError) as error:
                print("refused", error)

        held["k"] = 2  # goes where the folder went
        for use in (
            lambda: Dict("new/d"),
            lambda: Dict("planted/d")["k"],
            lambda: output_files.create(output_files.output_path(store, "0" * 32)),
            lambda: output_files.create(output_files.output_path(store, "1" * 32)),
            lambda: output_files.open_existing(output_files.output_path(store, "0" * 32), os.O_RDONLY),
            lambda: supervision.running_supervisor(store),
            lambda: supervision.begin_starting(store),
            lambda: supervision.launch(store),
        ):
            told(use)
        close_all()
        told(lambda: Dict("ns/d")["k"])
        print("end")
        """,
        place / "store",
    )
    assert running.read_line() == "open"
    as_user(
        SECOND,
        """
        place = sys.argv[1]
        os.rename(place + "/store", place + "/away")
        parkit.set_storage_path(place + "/store")
        Dict("planted/d")["k"] = 1
        Dict("ns/d")["k"] = 3
        close_all()
        os.mkdir(place + "/store/output")
        open(place + "/store/output/" + "0" * 32, "w").close()
        os.mkfifo(place + "/store/output/" + "1" * 32)
        for name in ("supervisor", "starting", "supervisor.log"):
            open(place + "/store/" + name, "w").close()
        for folder, _, names in os.walk(place + "/store"):
            for name in names:
                os.chmod(os.path.join(folder, name), 0o666)
            os.chmod(folder, 0o777)
        """,
        place,
    )
    running.send("go")
    told = []
    while (line := running.read_line()) != "end":
        told.append(line)
    assert [line.split()[0] for line in told] == ["refused"] * 9, told
    running.finish()
    away = as_user(FIRST, 'parkit.set_storage_path(sys.argv[1]); print(Dict("ns/d")["k"])', place / "away")
    assert away == "2\n"  # what was stored is where the folder is


def test_a_name_in_tmp_that_another_user_has_taken_costs_nothing(open_ground: Path, start_as: Start, as_user: As) -> None:
    # Where there is no /proc, the sockets of a store that lies deep are in a folder under /tmp.
    shared, own = open_ground / "shared", open_ground / "own"
    shared.mkdir()
    shared.chmod(0o1777)
    own.mkdir(mode=0o700)
    os.chown(own, FIRST, FIRST)
    deep = own / ("x" * 100)
    prepare = """
        from parkit_async._core import doorbell
        doorbell._DESCRIPTORS, doorbell._SHARED_TEMPORARY = "/missing", sys.argv[2]
        parkit.set_storage_path(sys.argv[1] + "/store")
    """
    as_user(FIRST, prepare + '    Queue("ns/q").put(0)\n', deep, shared)
    (first,) = os.listdir(shared)
    assert first.startswith("parkit-") and len(first) == len("parkit-") + 16
    taken = """
        try:
            os.rename(sys.argv[1] + "/" + sys.argv[2], sys.argv[1] + "/mine")
        except PermissionError:
            print("cannot be moved")
        try:
            print(os.listdir(sys.argv[1] + "/" + sys.argv[2]))
        except PermissionError:
            print("cannot be read")
    """
    assert as_user(SECOND, taken, shared, first) == "cannot be moved\ncannot be read\n"
    # Say it was removed for its age, and the second was quick.
    (shared / first).rmdir()
    as_user(SECOND, "os.mkdir(sys.argv[1]); os.chmod(sys.argv[1], 0o777)", shared / first)
    take = prepare + '    queue = Queue("ns/q"); queue.get(); print("waits"); print(queue.get(timeout=30))\n'
    waiting = start_as(FIRST, take, deep, shared)
    assert waiting.read_line() == "waits"
    as_user(FIRST, prepare + '    Queue("ns/q").put(7)\n', deep, shared)
    assert waiting.read_line() == "7"
    waiting.finish()
    assert os.listdir(shared / first) == []
    (second,) = set(os.listdir(shared)) - {first}
    assert (shared / second).stat().st_uid == FIRST
