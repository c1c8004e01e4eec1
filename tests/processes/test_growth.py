"""Growth, and its end: a larger map under many processes, a maximum size with pinned pages, a disk that is really full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lmdb.verify import verify

from parkit import Dict, NamespaceFullError, Queue, get_namespace_size, set_namespace_size, snapshot
from tests.conftest import RunScript, Spawn
from tests.processes.conftest import Verify

pytestmark = pytest.mark.processes

OFF = {"PARKIT_SYNCHRONOUS": "off"}

SCRIPT = """
import os, random, select, sys

# A map that is as small as the namespace allows makes what is rare with the usual reservation happen all the time.
import parkit_async._core.engine as engine
reservation, reserve, first, last, seed = map(int, sys.argv[1:])
if reservation:
    engine.RESERVATION, engine.RESERVE = reservation, reserve

from parkit import *
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import close_all, open_namespace
from tests.processes.crowd import Member

random.seed(seed)
remapped = []


def counting(self, remap=Namespace.remap):
    remap(self)
    remapped.append(self.engine.map_size)


Namespace.remap = counting
stopping, stop = os.pipe()


def stopped():
    return bool(select.select([stopping], [], [], 0)[0])


def writer(report, me):
    os.close(stop)
    random.seed(seed + me)
    d, written, refused = Dict(f"grow/d{me}"), 0, 0
    while not stopped():
        try:
            d[written] = bytes([written % 256]) * random.randrange(1000, 100_000)
        except NamespaceFullError:
            # The maximum size will be raised; what is there can be deleted meanwhile, at the expense of the reserve.
            size = get_namespace_size("grow")
            if size != refused and len(d) > 3:
                gone = next(iter(d))
                del d[gone]
                report(("gone", gone))
            if size != refused:
                report(("full", size))
            refused = size
            continue
        report(("set", written))
        written += 1
    report(("remapped", len(remapped)))


def opener(report, me):
    os.close(stop)
    opened = 0
    while not stopped():
        for key, value in Dict(f"grow/d{me}").items():
            assert value == bytes([key % 256]) * len(value)
        close_all()
        opened += 1
    report(("opened", opened))
    report(("remapped", len(remapped)))


def holder(report):
    os.close(stop)
    d, held = Dict("grow/d0"), 0
    while not stopped():
        with snapshot(d):
            before = dict(d.items())
            report(("held", len(before)))
            # Until the maximum size has been raised once more.
            size = get_namespace_size("grow")
            while get_namespace_size("grow") == size and not stopped():
                assert dict(d.items()) == before
        held += 1
    report(("remapped", len(remapped)))


set_namespace_size("grow", first)
for me in range(8):
    Dict(f"grow/d{me}")
close_all()
writers = [Member(writer, me) for me in range(8)]
openers = [Member(opener, me) for me in range(4)]
held = Member(holder)
size = first
while size < last:
    while not any(("full", size) in member.reports for member in writers):
        Member.listen(1)
    size = min(last, size * 2)
    set_namespace_size("grow", size)
os.close(stop)
everything = [member.wait() for member in [*writers, *openers, held]]
assert get_namespace_size("grow") == last
for me, reports in enumerate(everything[:8]):
    d = Dict(f"grow/d{me}")
    gone = {key for what, key in reports if what == "gone"}
    written = {key for what, key in reports if what == "set"}
    assert set(d) == written - gone, f"acknowledged and not stored: {written - gone - set(d)}"
    assert all(d[key] == bytes([key % 256]) * len(d[key]) for key in d)
print(sum(count for reports in everything for what, count in reports if what == "remapped"), sum(len(reports) for reports in everything[:8]))
"""


@pytest.mark.parametrize("tiny", [False, True])
def test_size_raised_while_many_write_open_and_hold(run_script: RunScript, verified: Verify, tiny: bool) -> None:
    grow(run_script, verified, tiny, 16 << 20)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tiny", [False, True])
def test_size_raised_far_while_many_write_open_and_hold(run_script: RunScript, verified: Verify, tiny: bool) -> None:
    grow(run_script, verified, tiny, 64 << 20)


def grow(run_script: RunScript, verified: Verify, tiny: bool, last: int) -> None:
    # A quarter: deletes take from the reserve, and free pages in pieces too small for a large value are no use to it.
    reservation, reserve = (last // 4, last // 4) if tiny else (0, 0)
    finished = run_script(SCRIPT, reservation, reserve, 256 << 10, last, os.getpid(), timeout=110, env=OFF)
    assert not finished.stderr
    remapped, operations = map(int, finished.stdout.split())
    assert operations > 20
    if tiny:
        assert remapped > 0, "no process has met a larger map, so this shows nothing"
    verified("grow")


def test_map_of_another_process_is_met_at_begin_at_write_and_at_open(run_script: RunScript, verified: Verify) -> None:
    finished = run_script(
        '''
        import subprocess, sys, textwrap
        import parkit_async._core.engine as engine
        engine.RESERVATION = engine.RESERVE = 512 << 10
        from parkit import *
        from parkit_async._core.namespace import Namespace
        from parkit_async._core.registry import close_all, open_namespace

        remapped = []
        def counting(self, remap=Namespace.remap):
            remap(self)
            remapped.append(self.engine.map_size)
        Namespace.remap = counting

        def elsewhere(size):
            source = f"""
                from parkit import *
                set_namespace_size("grow", {size})
                d = Dict("grow/d")
                while len(d) < {size} // 80_000:
                    d[len(d)] = bytes(50_000)
                print(len(d))
            """
            return int(subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True, capture_output=True, text=True).stdout)

        set_namespace_size("grow", 256 << 10)
        close_all()  # a new namespace is mapped for the default size
        d = Dict("grow/d")
        d["own"] = 0
        assert elsewhere(4 << 20) == len(d)
        assert len(remapped) == 1, "at begin"
        elsewhere(16 << 20)
        d["own"] = 1
        assert len(remapped) == 2, "at a write"
        elsewhere(32 << 20)
        with transaction(d):
            d["own"] += 1
        assert len(remapped) == 3, "at a transaction"
        elsewhere(64 << 20)
        close_all()
        d = Dict("grow/d")
        assert d["own"] == 2

        iterator = iter(d.items())
        next(iterator)
        elsewhere(128 << 20)
        for call in (lambda: d["own"], lambda: d.update(own=3)):
            try:
                call()
            except TransactionError as error:
                assert "snapshot" in str(error) and not isinstance(error, NamespaceFullError)
            else:
                raise AssertionError("the map was replaced under an open iterator")
        assert sum(1 for _ in iterator) > 0
        d["own"] = 3
        assert d["own"] == 3
        ''',
        env=OFF,
        timeout=50,
    )
    assert not finished.stderr
    verified("grow")


def test_pinned_pages_fill_a_small_namespace_and_come_back(spawn: Spawn, monkeypatch: pytest.MonkeyPatch, verified: Verify) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    set_namespace_size("cap", 1 << 20)
    d, q = Dict[str, bytes]("cap/d"), Queue[int]("cap/q")
    q.put_many(range(5))
    d["k"] = b"old"
    d["other"] = b"here"
    holder = spawn("""
        import sys
        from parkit import Dict, snapshot
        d = Dict("cap/d")
        with snapshot(d):
            print(d["k"])
            sys.stdin.readline()
            last = d["k"]
        print(last)  # only now: whoever reads it finds the snapshot closed
        sys.stdin.readline()
    """)
    assert holder.read_line() == "b'old'"
    stored: list[bytes] = []

    def overwrite() -> None:
        for number in range(100_000):
            d["k"] = number.to_bytes(1500, "big")
            stored.append(d["k"])

    with pytest.raises(NamespaceFullError) as caught:
        overwrite()
    assert caught.value.snapshot_pid == holder.pid
    assert caught.value.snapshot_age is not None and caught.value.snapshot_age > 0
    assert f"process {holder.pid}" in str(caught.value)
    assert d["k"] == stored[-1] and len(d) == 2
    assert [q.get_nowait() for _ in range(5)] == list(range(5))
    del d["other"]
    with pytest.raises(NamespaceFullError):
        d["k"] = bytes(1500)
    with snapshot(d):
        assert d["k"] == stored[-1]
    holder.send("leave")
    assert holder.read_line() == "b'old'"
    for number in range(3000):
        d["k"] = number.to_bytes(1500, "big")
    q.put(1)
    holder.finish()
    assert get_namespace_size("cap") == 1 << 20
    verified("cap")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """Mount a file system of 3 MiB; None where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size=3m,mode=0700,uid={os.geteuid()}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        print(f"cannot mount a small file system ({mounted.stderr.strip()}): the test limits the size of files instead")
        yield None
    else:
        yield place
        subprocess.run(["umount", str(place)], check=True)


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from parkit import *

place, level = Path(sys.argv[1]), sys.argv[2]
limited = sys.argv[3] == "limit"
set_namespace_synchronous("disk", level)
d, q = Dict("disk/d"), Queue("disk/q")
q.put_many(range(10))
if limited:
    # No room for a file to grow: EFBIG instead of ENOSPC, from the same system call at the same place.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
else:
    ballast = place / "ballast"
    ballast.write_bytes(bytes(1 << 20))

acknowledged = 0
try:
    for number in range(100_000):
        d[number] = bytes([number % 256]) * 2000
        acknowledged = number + 1
except TransactionError as error:
    assert not isinstance(error, NamespaceFullError), "the namespace is far from its maximum size"
    assert error.__cause__ is not None
    assert "disk" in str(error), error
else:
    raise AssertionError("the disk was never full")
assert acknowledged > 50

# Reading works, and every acknowledged value is there; more writing fails likewise, and kills nobody.
assert len(d) == acknowledged
assert all(d[number] == bytes([number % 256]) * 2000 for number in range(acknowledged))
for _ in range(20):
    try:
        with transaction(d):
            d["large"] = bytes(500_000)
    except TransactionError:
        pass
    else:
        raise AssertionError("there is no room for this")
assert "large" not in d and len(d) == acknowledged

if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    ballast.unlink()
d["after"] = bytes(500_000)
assert q.get_many(10) == list(range(10))
del d[0]
assert len(d) == acknowledged
"""


@pytest.mark.parametrize("level", ["full", "off"])
def test_a_full_disk_is_an_error_and_not_a_signal(
    run_script: RunScript, verified: Verify, small_disk: Path | None, tmp_path: Path, level: str
) -> None:
    if small_disk is not None:
        store = small_disk / "store"
        store.mkdir(mode=0o700)
        finished = run_script(FULL_DISK, small_disk, level, "mount", env={"PARKIT_STORAGE_PATH": str(store)})
        data = next(store.glob("*/data.mdb"))
        assert verify(str(data)) == []  # type: ignore[no-untyped-call]
    else:
        finished = run_script(FULL_DISK, tmp_path, level, "limit")
        verified("disk")
    assert not finished.stderr


def test_a_file_that_may_not_grow_is_an_error_and_not_a_signal(run_script: RunScript, verified: Verify, tmp_path: Path) -> None:
    finished = run_script(FULL_DISK, tmp_path, "normal", "limit")
    assert not finished.stderr
    verified("disk")
