"""The synchronous writes that each durability level makes, counted where they are made: in the C library, beneath LMDB.

LMDB syncs its data pages by ``fdatasync`` (or ``msync``, ``fsync``) and its meta page by writing it through a descriptor opened with
``O_DSYNC``. A small library, loaded before the C library's own, counts both. It is compiled here, since nothing else sees every call: LMDB's
calls do not go through Python, and not every machine lets a process be traced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.faults.failing_calls import build

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="other systems sync by other calls")]

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long synced;

long parkit_synced(void) { return __atomic_load_n(&synced, __ATOMIC_SEQ_CST); }

static void count(void) { __atomic_add_fetch(&synced, 1, __ATOMIC_SEQ_CST); }

static void count_if_synchronous(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_DSYNC))
        count();
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fdatasync(int fd) { count(); return NEXT(fdatasync)(fd); }
int fsync(int fd) { count(); return NEXT(fsync)(fd); }
int msync(void *start, size_t size, int flags) { count(); return NEXT(msync)(start, size, flags); }
int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags) { count(); return NEXT(sync_file_range)(fd, at, size, flags); }
ssize_t write(int fd, const void *data, size_t size) { count_if_synchronous(fd); return NEXT(write)(fd, data, size); }
ssize_t writev(int fd, const struct iovec *data, int n) { count_if_synchronous(fd); return NEXT(writev)(fd, data, n); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { count_if_synchronous(fd); return NEXT(pwrite)(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { count_if_synchronous(fd); return NEXT(pwrite64)(fd, data, size, at); }
ssize_t pwritev(int fd, const struct iovec *data, int n, off_t at) { count_if_synchronous(fd); return NEXT(pwritev)(fd, data, n, at); }
ssize_t pwritev64(int fd, const struct iovec *data, int n, off64_t at) { count_if_synchronous(fd); return NEXT(pwritev64)(fd, data, n, at); }
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    return build(tmp_path_factory.mktemp("counter"), _SOURCE, "counter")


_COUNT = """
    import asyncio, ctypes, sys, threading
    import parkit, parkit_async as pa
    from parkit_async._core.registry import open_namespace

    library = ctypes.CDLL(sys.argv[1])
    library.parkit_synced.restype = ctypes.c_long

    def counts():
        # What was really made, what parkit says it made, commits and operations.
        statistics = open_namespace("ns").statistics
        return [library.parkit_synced(), statistics.fsyncs, statistics.commits, statistics.operations]

    def tell(name, before):
        print(name, *(now - then for now, then in zip(counts(), before)), flush=True)
"""

_BLOCKING = (
    _COUNT
    + """
    d, q, log, o = parkit.Dict("ns/d"), parkit.Queue("ns/q"), parkit.Log("ns/log"), parkit.Object("ns/o")

    before = counts()
    d["a"] = 1
    tell("set", before)

    before = counts()
    d.update({number: number for number in range(1000)})
    tell("update", before)

    before = counts()
    q.put(1)
    q.get()
    tell("put and get", before)

    before = counts()
    for number in range(10):
        log.append(number)
    tell("ten appends", before)

    before = counts()
    with parkit.transaction(d):
        d["b"] = 2
        q.put(1)
        log.append(1)
        with parkit.transaction(d, isolated=True):
            o.x = 1
    tell("transaction", before)

    before = counts()
    with parkit.transaction(d):
        d["b"]
    with parkit.snapshot(d):
        d["b"]
    d["a"], len(d), list(d), q.qsize(), log[0], o.x, d.version
    try:
        with parkit.transaction(d):
            d["c"] = 1
            raise KeyError
    except KeyError:
        pass
    try:
        q.get(timeout=0), q.get(timeout=0)
    except Exception:
        pass
    tell("nothing, and one get", before)
"""
)

_AWAITED = (
    _COUNT
    + """
    async def main():
        d, q, log, o = await pa.Dict("ns/d"), await pa.Queue("ns/q"), await pa.Log("ns/log"), await pa.Object("ns/o")

        before = counts()
        await d.set("a", 1)
        tell("set", before)

        before = counts()
        await d.update({number: number for number in range(1000)})
        tell("update", before)

        before = counts()
        await q.put(1)
        await q.get()
        tell("put and get", before)

        before = counts()
        for number in range(10):
            await log.append(number)
        tell("ten appends", before)

        before = counts()
        async with pa.transaction(d):
            await d.set("b", 2)
            await q.put(1)
            await log.append(1)
            async with pa.transaction(d, isolated=True):
                await o.set_attribute("x", 1)
        tell("transaction", before)

        before = counts()
        async with pa.transaction(d):
            await d["b"]
        async with pa.snapshot(d):
            await d["b"]
        await d["a"], await d.len(), [k async for k in d], await q.qsize(), await log[0], await o.x, d.version
        try:
            async with pa.transaction(d):
                await d.set("c", 1)
                raise KeyError
        except KeyError:
            pass
        try:
            await q.get(timeout=0), await q.get(timeout=0)
        except pa.QueueEmpty:
            pass
        tell("nothing, and one get", before)

    if sys.argv[2] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
"""
)

LEVELS = {"full": 2, "normal": 1, "off": 0}
"""Synchronous writes of one commit."""

COMMITS = {"set": 1, "update": 1, "put and get": 2, "ten appends": 10, "transaction": 1, "nothing, and one get": 1}


@pytest.mark.parametrize("face", ["blocking", "asyncio", "uvloop"])
@pytest.mark.parametrize("level", LEVELS)
def test_each_level_makes_exactly_its_synchronous_writes(run_script: RunScript, counter: Path, level: str, face: str) -> None:
    environment = {"LD_PRELOAD": str(counter), "PARKIT_SYNCHRONOUS": level}
    finished = run_script(_BLOCKING if face == "blocking" else _AWAITED, counter, face, env=environment)
    found = {}
    for line in finished.stdout.splitlines():
        name, *numbers = line.rsplit(" ", 4)
        found[name] = list(map(int, numbers))
    assert found == {name: [commits * LEVELS[level], commits * LEVELS[level], commits, commits] for name, commits in COMMITS.items()}


_TOGETHER = (
    _COUNT
    + """
    async def main():
        d = await pa.Dict("ns/d")
        twin = parkit.Dict("ns/d")
        threads = [threading.Thread(target=twin.__setitem__, args=(-number, number)) for number in range(1, 9)]
        before = counts()
        for thread in threads:
            thread.start()
        for _ in range(3):
            await asyncio.gather(*(d.set(number, number) for number in range(100)))
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        tell("together", before)
        assert await d.len() == 108

    asyncio.run(main())
"""
)


@pytest.mark.parametrize("level", LEVELS)
def test_writes_that_share_a_commit_share_its_synchronous_writes(run_script: RunScript, counter: Path, level: str) -> None:
    finished = run_script(_TOGETHER, counter, env={"LD_PRELOAD": str(counter), "PARKIT_SYNCHRONOUS": level})
    synced, fsyncs, commits, operations = map(int, finished.stdout.split()[1:])
    assert operations == 308
    assert synced == fsyncs == commits * LEVELS[level]
    if level != "off":
        assert commits <= 60, "a hundred tasks at once, three times, and eight threads"


_CHANGED = (
    _COUNT
    + """
    d = parkit.Dict("ns/d")
    for level in ("full", "off", "normal", "full"):
        parkit.set_namespace_synchronous("ns", level)
        d["settle"] = level
        before = counts()
        d["a"] = level
        with parkit.transaction(d):
            d["b"] = level
        asyncio.run(pa.Dict("ns/d").set("c", level))
        tell(level, before)

    # While a snapshot keeps the process on the weaker level, what is acknowledged must be durable all the same.
    parkit.set_namespace_synchronous("ns", "normal")
    d["settle"] = 1
    with parkit.snapshot(d):
        change = threading.Thread(target=parkit.set_namespace_synchronous, args=("ns", "full"))
        change.start()
        change.join()
        before = library.parkit_synced()
        write = threading.Thread(target=d.__setitem__, args=("a", 1))
        write.start()
        write.join()
        print("pinned", library.parkit_synced() - before)
"""
)


def test_a_change_of_the_level_takes_effect(run_script: RunScript, counter: Path) -> None:
    finished = run_script(_CHANGED, counter, env={"LD_PRELOAD": str(counter), "PARKIT_SYNCHRONOUS": "full"})
    *lines, pinned = finished.stdout.splitlines()
    assert lines == [f"{level} {3 * LEVELS[level]} {3 * LEVELS[level]} 3 3" for level in ("full", "off", "normal", "full")]
    assert pinned == "pinned 2", "the commit, and all of it again"
