"""No descriptors left, no memory, no address space, no slots for readers: an error that says so, nothing half done, and on with it afterwards."""

from __future__ import annotations

import sys

import pytest

import parkit_async._core.scopes as scopes
from parkit import Dict, Queue, TransactionError, transaction
from parkit_async._core.registry import close_all
from tests.conftest import RunScript, Spawn

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="limits and their errors are those of Linux")]

BEGIN = """
import asyncio, os, queue, resource, sys, threading
import parkit, parkit_async
from parkit import *
from parkit_async._core.registry import close_all, open_namespace

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def descriptors():
    return len(os.listdir("/proc/self/fd")) - 1


def refusal(call):
    try:
        call()
    except ParkitError as error:
        return str(error)
    return ""
"""


# -- descriptors -------------------------------------------------------------------------------------------------------------------------


def test_without_descriptors_what_needs_one_says_so_and_all_else_goes_on(run_script: RunScript) -> None:
    # Each call that takes a descriptor is made to fail in test_disk; here the system refuses, whatever asks.
    run_script(
        BEGIN
        + """
d, q, log, process = Dict("files/d"), Queue("files/q"), Log("files/log"), Process("files/p", target=abs, args=(-1,))
with transaction(d), snapshot(d):  # loads what is loaded at its first use
    d
d["a"] = 1
resource.setrlimit(resource.RLIMIT_NOFILE, (256, HARD))  # no hole below what is open, or the limit would count from there
filler = []
try:
    while True:
        filler.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass

assert "too many files open" in refusal(lambda: Dict("other/d"))
assert "too many files open" in refusal(lambda: q.get(timeout=1))
d["a"] = 2
with transaction(d):
    d["b"] = d["a"]
    q.put(1)
with snapshot(d):
    assert dict(d.items()) == {"a": 2, "b": 2}
assert q.get() == 1  # there is no wait for it

answers = []
for target in (lambda: q.get(timeout=1), lambda: log.wait(1, timeout=1)):
    thread = threading.Thread(target=lambda target=target: answers.append(refusal(target)))
    thread.start()
    thread.join()
assert all("too many files open" in answer for answer in answers), answers
assert "too many files open" in refusal(process.start) and process.status == "created"
assert "too many files open" in refusal(lambda: process.sentinel)

for descriptor in filler:
    os.close(descriptor)
taken = descriptors()
for number in range(3):
    Dict("other/d")["a"] = number
    try:
        q.get(timeout=0.001)
    except queue.Empty:
        pass
assert not open_namespace("files").turns.holder
close_all()
assert descriptors() < taken
parkit.killall(30)
"""
    )


def test_without_descriptors_an_event_loop_goes_on(run_script: RunScript) -> None:
    run_script(
        BEGIN
        + """
async def main():
    d, q = await parkit_async.Dict("files/d"), await parkit_async.Queue("files/q")
    await d.set("a", 1)
    async with parkit_async.transaction(d):  # loads what is loaded at its first use
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, HARD))
    filler = []
    try:
        while True:
            filler.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for attempt in (lambda: q.get(timeout=1), lambda: parkit_async.Dict("other/d")):
        try:
            await attempt()
        except ParkitError as error:
            assert "too many files open" in str(error), error
        else:
            raise AssertionError("there was a descriptor")
    await d.set("a", 2)
    async with parkit_async.transaction(d):
        await d.set("b", await d["a"])
        await q.put(1)
    assert await q.get() == 1 and await d["b"] == 2
    for descriptor in filler:
        os.close(descriptor)
    task = asyncio.ensure_future(q.get(timeout=10))
    await asyncio.sleep(0)
    await q.put(3)
    assert await task == 3
    await (await parkit_async.Dict("other/d")).set("a", 1)

asyncio.run(main())
""",
        env={"PARKIT_SYNCHRONOUS": "full"},
    )


@pytest.mark.slow
def test_a_supervisor_without_descriptors_replaces_its_workers_when_it_has_some(run_script: RunScript) -> None:
    run_script(
        BEGIN
        + """
import signal
if __name__ == "__main__":
    set_pool_size(1)
    try:
        first = Process("files/first", target=abs, args=(-1,))
        first.start()
        assert first.get_result(timeout=30) == 1
        status = parkit.pool_status()
        open_now = max(map(int, os.listdir(f"/proc/{status['pid']}/fd")))
        resource.prlimit(status["pid"], resource.RLIMIT_NOFILE, (open_now + 1, HARD))
        os.kill(status["workers"][0]["pid"], signal.SIGKILL)
        second = Process("files/second", target=abs, args=(-2,))
        second.start()
        second.join(timeout=3)
        resource.prlimit(status["pid"], resource.RLIMIT_NOFILE, (HARD, HARD))
        assert second.get_result(timeout=40) == 2
        assert parkit.pool_status()["pid"] == status["pid"], "it has died of it"
    finally:
        killall(30)
""",
        timeout=55,
    )


# -- the table of readers ----------------------------------------------------------------------------------------------------------------


def test_a_full_table_of_readers_is_an_error_and_its_holders_death_frees_it(spawn: Spawn) -> None:
    d, q = Dict[str, int]("readers/d"), Queue[int]("readers/q")
    d.update(a=1, b=2)
    holder = spawn("""
        import sys
        from parkit import Dict, TransactionError
        d = Dict("readers/d")
        held = []
        try:
            while True:
                held.append(iter(d.items()))
        except TransactionError as error:
            print("reader slots are taken" in str(error) and "close some" in str(error))
        print(len(held))
        sys.stdin.readline()
        del held[:3]
        print("three")
        sys.stdin.readline()
    """)
    assert holder.read_line(60) == "True"
    assert int(holder.read_line()) > 2000

    def views(isolated: bool) -> None:
        with transaction(d, zero_copy=True, isolated=isolated):
            raise AssertionError("there was a slot")

    for attempt in (lambda: d["a"], lambda: list(d), lambda: q.get(timeout=0.01), lambda: views(False)):
        with pytest.raises(TransactionError, match="reader slots are taken"):
            attempt()
    d["a"] = 3  # writing takes no slot
    with transaction(d):
        d["b"] = d["a"] + 1
        with pytest.raises(TransactionError, match="reader slots are taken"):
            views(True)
        d["c"] = 5
    holder.send("")
    assert holder.read_line() == "three"
    assert (d["a"], d["b"], d["c"]) == (3, 4, 5), "what surrounds a savepoint that could not be begun is stored"
    with transaction(d, zero_copy=True):
        assert d["a"] == 3
    iterators = [iter(d.items()) for _ in range(3)]
    with pytest.raises(TransactionError, match="reader slots are taken"):
        len(d)
    holder.kill()
    assert len(d) == 3, "the slots of the dead are free for whoever needs one"
    del iterators
    close_all()


@pytest.mark.parametrize("error", [TransactionError("no slot"), KeyboardInterrupt()], ids=repr)
def test_a_savepoint_that_could_not_be_entered_takes_nothing_along(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    # It stayed open, was what the outer block committed, and the outer block's own changes were lost without an error.
    d = Dict[str, int]("readers/d")
    with transaction(d):
        d["before"] = 1
        with monkeypatch.context() as patch:

            def fail(*arguments: object) -> None:
                raise error

            patch.setattr(scopes, "map_views", fail)
            with pytest.raises(type(error)), transaction(d, isolated=True, zero_copy=True):
                pass
        d["after"] = 2
    close_all()
    assert dict(Dict[str, int]("readers/d").items()) == {"before": 1, "after": 2}


def test_a_savepoint_that_nobody_closed_is_the_outer_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if Ctrl-C had come between its beginning and the first step of its block.
    d = Dict[str, int]("readers/d")
    with transaction(d):
        d["before"] = 1
        scope = scopes.TransactionScope(d._home, False, True)
        assert scope.join()
        d["after"] = 2
    close_all()
    assert dict(Dict[str, int]("readers/d").items()) == {"before": 1, "after": 2}


# -- memory and address space ------------------------------------------------------------------------------------------------------------


def test_a_limit_of_address_space_is_an_error_that_names_it(run_script: RunScript) -> None:
    run_script(
        BEGIN
        + """
def allow(mebibytes):
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), resource.RLIM_INFINITY))


before = descriptors()
for mebibytes in (200, 1000):
    allow(mebibytes)
    answer = refusal(lambda: Dict("space/d"))
    assert "address space" in answer and "ulimit -v" in answer and "1,140,850,688 bytes" in answer, answer
    close_all()
assert descriptors() == before
allow(1300)  # what the namespace may grow to, and some more
d, q = Dict("space/d"), Queue("space/q")
d["a"] = 1

# No memory in the middle of something: whoever had none to give, nothing is stored, and what is smaller goes on.
parkit.set_namespace_size("space", 900 << 20)
allow(150)
for size in (40 << 20, 70 << 20, 120 << 20):
    for store in (lambda: d.set("large", b"x" * size), lambda: q.put_many([b"x" * size, b"y" * size])):
        version, held = d.version, q.qsize()
        try:
            store()
        except (MemoryError, TransactionError) as error:
            assert not isinstance(error, TransactionError) or "memory" in str(error), error
            assert "large" not in d and d.version == version and q.qsize() == held
        else:
            d.pop("large", None)
            q.clear()
        d["a"] += 1
        with transaction(d):
            q.put(1)
            assert q.get() == 1
try:
    b"x" * (1 << 40)
except MemoryError:
    pass
assert d["a"] == 7
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
d["large"] = b"x" * (40 << 20)
assert len(d["large"]) == 40 << 20
""",
        env={"PARKIT_SYNCHRONOUS": "off"},
    )
