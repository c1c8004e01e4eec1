"""The wall clock set back and forth: nothing waits by it, and what is told by it is told as it was.

The clock of the machine is left alone. A small library, loaded before the C library's own calls, adds what a file says to whatever a process reads
from the wall clock; the monotonic clocks, by which everything here must wait, it passes on as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.faults.failing_calls import build

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="other systems have no LD_PRELOAD")]

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The seconds to add: a file of 8 bytes, mapped, so that all processes follow at once. */
static volatile long long *shift;

static long long shifted(void)
{
    if (!shift) {
        const char *path = getenv("SHIFT");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
        static long long none;
        shift = mapped == MAP_FAILED ? &none : mapped;
        if (fd >= 0)
            close(fd);
    }
    return *shift;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shifted();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result)
        *result = exact.tv_sec;
    return exact.tv_sec;
}
"""

BEGIN = """
import asyncio, contextlib, mmap, os, queue, struct, sys, threading, time
import parkit, parkit_async
from parkit import *
from parkit_async._core.registry import close_all, open_namespace

HOUR = 3600


def shift(seconds):
    with open(os.environ["SHIFT"], "r+b") as file:
        file.write(struct.pack("q", seconds))


before = time.time()
shift(5 * HOUR)
assert 4.9 * HOUR < time.time() - before < 5.1 * HOUR, "the library is not loaded"
shift(0)


@contextlib.contextmanager
def jumping():
    # Sets the clock back and forth all the time.
    over = threading.Event()

    def jump():
        number = 0
        while not over.wait(0.005):
            number += 1
            shift([-HOUR, HOUR, -30 * 24 * HOUR, 300 * 24 * HOUR][number % 4])

    thread = threading.Thread(target=jump)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shift(0)


@contextlib.contextmanager
def takes(least, most):
    begun = time.monotonic()
    yield
    passed = time.monotonic() - begun
    assert least <= passed < most, f"it took {passed} seconds instead of {least}"
"""


@pytest.fixture
def clock(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose wall clock can be set."""
    file = tmp_path / "shift"
    file.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(build(tmp_path, _SOURCE, "clock")), "SHIFT": str(file), "PARKIT_SYNCHRONOUS": "off"}


def test_waits_keep_their_deadlines_while_the_clock_jumps(run_script: RunScript, clock: dict[str, str]) -> None:
    run_script(
        BEGIN
        + """
q, full, log, d = Queue("clock/q"), Queue("clock/full", maxsize=1), Log("clock/log"), Dict("clock/d")
full.put(1)
with jumping():
    with takes(0.3, 5), contextlib.suppress(queue.Empty):
        q.get(timeout=0.3)
    with takes(0.3, 5), contextlib.suppress(queue.Full):
        full.put(2, timeout=0.3)
    with takes(0.3, 5):
        assert log.wait(1, timeout=0.3) is False

    # Who is woken is woken at once.
    got = []
    thread = threading.Thread(target=lambda: got.append(q.get(timeout=60)))
    thread.start()
    with takes(0, 5):
        q.put("item")
        thread.join()
    assert got == ["item"]


async def main():
    q, d = await parkit_async.Queue("clock/q"), await parkit_async.Dict("clock/d")
    with takes(0.3, 5):
        try:
            await q.get(timeout=0.3)
        except parkit_async.QueueEmpty:
            pass
    task = asyncio.ensure_future(q.get(timeout=60))
    await asyncio.sleep(0.01)
    with takes(0, 5):
        await q.put(1)
        assert await task == 1


with jumping():
    asyncio.run(main())

# Turns: those who wait for each other take theirs, though the millisecond of a streak may never seem to end, or to be over at once.
def count(me):
    for _ in range(100):
        with transaction(d):
            d["count"] = d.get("count", 0) + 1

with jumping():
    threads = [threading.Thread(target=count, args=(me,)) for me in range(3)]
    with takes(0, 20):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
assert d["count"] == 300
""",
        env=clock,
    )


def test_the_age_of_a_snapshot_does_not_follow_the_clock(run_script: RunScript, clock: dict[str, str]) -> None:
    run_script(
        BEGIN
        + """
set_namespace_size("clock", 1 << 20)
d = Dict("clock/d")
d["k"] = b""
iterator = iter(d.items())
for hours in (0, 1000, -2000):
    shift(hours * HOUR)
    try:
        for number in range(100_000):
            d["k"] = number.to_bytes(1500, "big")
    except NamespaceFullError as error:
        assert error.snapshot_age is not None and 0 <= error.snapshot_age < 60, error.snapshot_age
    else:
        raise AssertionError("it was never full")
next(iterator)
""",
        env=clock,
    )


def test_files_that_seem_to_come_from_the_future_are_swept_all_the_same(run_script: RunScript, clock: dict[str, str]) -> None:
    # What looks fresh by the wall clock is spared by a sweep; set back, it made all that was there look fresh for ever.
    run_script(
        BEGIN
        + """
import socket
q = Queue("clock/q")
namespace = open_namespace("clock")
for hours in (-1000, 1000):
    shift(hours * HOUR)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(os.path.join(namespace.sockets.path, "new-0123456789abcdef"))
    dead.close()
    assert namespace.sockets.sweep() == 1
with contextlib.suppress(queue.Empty):
    q.get(timeout=0.001)
assert namespace.sockets.sweep() == 0 and len(os.listdir(namespace.sockets.path)) == 1
""",
        env=clock,
    )


POOL = (
    BEGIN
    + """
def wait(seconds):
    time.sleep(seconds)
    return os.getpid()


def main():
    set_pool_size(2)
    first = Process("clock/first", target=abs, args=(-1,))
    first.start()
    assert first.get_result(timeout=30) == 1
    while len((status := parkit.pool_status())["workers"]) < 2:
        first.join(0.05)
    with jumping():
        processes = [Process(target=wait, args=(0.2,)) for _ in range(4)]
        with takes(0.2, 15):
            for process in processes:
                process.start()
            pids = [process.get_result(timeout=30) for process in processes]
        process = Process("clock/killed", target=wait, args=(60,))
        process.start()
        while process.status != "running":
            process.join(0.05)
        with takes(0.2, 10):
            assert process.join(timeout=0.2) is False
        with takes(0, 10):
            process.kill()
            process.join(timeout=30)
        assert process.status == "crashed"
        last = Process("clock/last", target=wait, args=(0.1,))
        last.start()
        assert last.get_result(timeout=30)
        # Nobody was taken for another because of when it seems to have been started.
        assert parkit.pool_status()["pid"] == status["pid"]
        assert {worker["pid"] for worker in parkit.pool_status()["workers"]} & {worker["pid"] for worker in status["workers"]}
    shift(-1000 * HOUR)
    process = Process("clock/past", target=abs, args=(-2,))
    process.start()
    assert process.get_result(timeout=30) == 2
    info = process.info()
    assert info["submitted"] <= info["started"] <= info["ended"] < first.info()["submitted"], info
    shift(0)


if __name__ == "__main__":
    try:
        main()
    finally:
        killall(30)
"""
)


@pytest.mark.slow
def test_a_pool_goes_on_while_the_clock_jumps(run_script: RunScript, clock: dict[str, str]) -> None:
    run_script(POOL, env=clock, timeout=55)
