"""Nobody in the pool wakes without a reason: counted by the kernel, which knows how often a thread went to sleep."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parkit import Process, set_pool_size, transaction
from parkit_async._core.waiting import counters
from tests.pool.crashes import PATIENCE, MistreatedPool, mistreated

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@pytest.fixture
def pool(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MistreatedPool]:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    with mistreated(store) as pool:
        yield pool


def run(number: int) -> int:
    process = Process[int](target=abs, args=(number,))
    process.start()
    return process.get_result(PATIENCE)


def rested(pool: MistreatedPool, count: int) -> list[int]:
    """Return the pids of the workers as soon as there are ``count``, all asleep, and the supervisor has nothing to do."""
    workers = sorted(identity.pid for identity in pool.staff(count).values())
    everybody = [*workers, pool.supervisor()]
    seen: list[list[int]] = []

    def settled() -> bool:
        seen.append([pool.switches(pid) for pid in everybody])
        return all(pool.asleep(pid) for pid in workers) and len(seen) > 1 and seen[-1] == seen[-2]

    pool.eventually(settled, "the workers do not rest")
    return workers


@pytest.mark.slow
def test_an_idle_worker_does_not_wake(pool: MistreatedPool) -> None:
    set_pool_size(2)
    assert run(-1) == 1
    workers = rested(pool, 2)
    before = [pool.switches(pid) for pid in workers]
    cpu = [pool.cpu(pid) for pid in workers]
    pool.watched(workers[0], 5.0)
    after = [pool.switches(pid) for pid in workers]
    # Every 30 s it looks whether a ring was lost.
    assert all(now - then <= 1 for now, then in zip(after, before, strict=True)), (before, after)
    assert all(pool.cpu(pid) - then <= 0.02 for pid, then in zip(workers, cpu, strict=True))


def test_a_submission_wakes_one_worker(pool: MistreatedPool) -> None:
    set_pool_size(4)
    assert run(-1) == 1
    for number in range(5):
        workers = rested(pool, 4)
        before = {pid: pool.switches(pid) for pid in workers}
        process = Process[int](target=abs, args=(-number,))
        process.start()
        assert process.get_result(PATIENCE) == number
        woken = [pid for pid in workers if pool.switches(pid) != before[pid]]
        assert woken in ([], [process.pid]), f"{woken} woke for the one submission that {process.pid} ran"  # []: it has not gone to sleep yet


def test_several_submissions_wake_each_no_more_than_they_need(pool: MistreatedPool) -> None:
    set_pool_size(4)
    assert run(-1) == 1
    workers = rested(pool, 4)
    processes = [Process[int](target=abs, args=(-number,)) for number in range(2)]
    before = {pid: pool.switches(pid) for pid in workers}
    with transaction("default"):
        for process in processes:
            process.start()
    assert [process.get_result(PATIENCE) for process in processes] == [0, 1]
    woken = {pid for pid in workers if pool.switches(pid) != before[pid]}
    # One is rung for the commit, and rings another for what it leaves, and that one nobody.
    assert len(woken | {process.pid for process in processes}) <= 2


def test_runs_do_not_wake_the_supervisor(pool: MistreatedPool) -> None:
    set_pool_size(1)
    assert run(-1) == 1
    rested(pool, 1)
    supervisor = pool.supervisor()
    rechecks = counters.rechecks
    before = pool.switches(supervisor)
    for number in range(200):
        assert run(number) == number
    assert pool.switches(supervisor) - before < 50, "the supervisor wakes for runs that are none of its business"
    assert counters.rechecks == rechecks, "a waiter found by looking what it should have been told"
