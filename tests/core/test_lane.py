"""The writer thread: jobs in order, there while an event loop uses it, gone afterwards."""

from __future__ import annotations

import threading

from parkit_async._core.lane import Lane

DEADLINE = 30


def test_jobs_are_run_in_order_by_one_thread_that_ends_with_the_last_user() -> None:
    lane = Lane("ns")
    lane.acquire()
    lane.acquire()
    ran: list[tuple[int, threading.Thread]] = []
    for number in range(100):
        if number == 50:
            lane.release()
        lane.submit(lambda number=number: ran.append((number, threading.current_thread())))  # type: ignore[misc]
    lane.release(DEADLINE)
    assert [number for number, _ in ran] == list(range(100)) and lane.hops == 100
    (thread,) = {thread for _, thread in ran}
    assert not thread.is_alive()


def test_a_job_that_comes_when_the_last_user_has_gone_is_run_by_a_thread_that_ends_behind_it() -> None:
    # The turn of a write that was revoked may come up when its loop is gone.
    lane = Lane("ns")
    lane.acquire()
    lane.release()
    threads: list[threading.Thread] = []
    done = threading.Event()

    def job() -> None:
        threads.append(threading.current_thread())
        done.set()

    lane.submit(job)
    assert done.wait(DEADLINE)
    (thread,) = threads
    thread.join(DEADLINE)
    assert not thread.is_alive(), "nobody else would end it"
