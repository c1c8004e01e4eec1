"""Queue and LifoQueue follow queue.Queue: its whole protocol, and what SEMANTICS 4 adds."""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import queue
from typing import Any

import pytest

import parkit
from parkit_async._core.layout import index_key
from parkit_async._core.registry import open_namespace
from parkit_async._core.shared import SharedTable, TableFullError
from parkit_async._core.transactions import Writing
from parkit_async._core.waiting import counters
from tests.faces.face import Face, calls, opened

BOTH = pytest.mark.parametrize("kind", ["Queue", "LifoQueue"])


class Breaks:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _broken, ("value",)


def _broken(text: str) -> Any:
    raise RuntimeError(f"cannot load {text}")


@pytest.fixture
def q(face: Face) -> Any:
    return face.Queue("ns/q")


# Order.


def test_a_Queue_gives_what_was_put_first(q: Any) -> None:
    for item in (1, "two", None):
        q.put(item)
    assert [q.get() for _ in range(3)] == [1, "two", None]


def test_a_LifoQueue_gives_what_was_put_last(face: Face) -> None:
    q = face.LifoQueue("ns/q")
    for item in (1, "two", None):
        q.put(item)
    assert [q.get() for _ in range(3)] == [None, "two", 1]
    q.put_many([1, 2, 3])
    assert q.get_many(2) == [3, 2]
    q.put(4)
    assert q.get_many(5) == [4, 1]


def test_the_kinds_do_not_open_each_other(face: Face, q: Any) -> None:
    with pytest.raises(TypeError, match=r"holds a parkit\.Queue"):
        face.LifoQueue("ns/q")


# Sizes.


@BOTH
def test_sizes_are_exact(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q", maxsize=2)
    assert (q.qsize(), q.empty(), q.full(), q.maxsize) == (0, True, False, 2)
    q.put(1)
    assert (q.qsize(), q.empty(), q.full()) == (1, False, False)
    q.put(2)
    assert (q.qsize(), q.empty(), q.full()) == (2, False, True)


def test_without_maxsize_a_queue_is_never_full(q: Any) -> None:
    q.put_many(range(100))
    assert (q.maxsize, q.full()) == (0, False)


# Not waiting.


@BOTH
def test_an_empty_queue_raises_Empty(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    for call in calls(
        q.get_nowait, lambda: q.get(block=False), lambda: q.get(timeout=0), lambda: q.get(timeout=0.01), lambda: q.get_many(3, block=False)
    ):
        with pytest.raises(queue.Empty):
            call()
    assert q.version == 0


@BOTH
def test_a_full_queue_raises_Full_and_keeps_what_it_has(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q", maxsize=1)
    q.put("first")
    for call in calls(
        lambda: q.put_nowait("x"), lambda: q.put("x", block=False), lambda: q.put("x", timeout=0), lambda: q.put("x", timeout=0.01),
        lambda: q.put_many(["x"], block=False),
    ):  # fmt: skip
        with pytest.raises(queue.Full):
            call()
    assert (q.qsize(), q.get(), q.version) == (1, "first", 2)


@pytest.mark.parametrize("call", ["get", "put", "get_many", "put_many", "join"])
def test_a_negative_timeout_is_a_ValueError(q: Any, call: str) -> None:
    arguments = {"put": (1,), "get_many": (1,), "put_many": ([1],)}.get(call, ())
    with pytest.raises(ValueError, match="non-negative"):
        getattr(q, call)(*arguments, timeout=-1)
    assert (q.qsize(), q.version) == (0, 0)


def test_timeout_is_ignored_where_the_call_does_not_block(q: Any) -> None:
    q.put(1, block=False, timeout=-1)
    assert q.get(block=False, timeout=-1) == 1


# Waiting.


@BOTH
def test_get_waits_for_an_item(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    job = face.start(q.get, timeout=30)
    face.until_waiting(q)
    assert not job.done()
    q.put("item")
    assert job.result() == "item" and q.empty()


@BOTH
def test_put_waits_for_room(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q", maxsize=1)
    q.put(1)
    job = face.start(q.put, 2)
    face.until_waiting(q)
    assert q.get() == 1
    assert job.result() is None and q.get(timeout=30) == 2


def test_get_many_waits_for_the_first_item_alone(face: Face, q: Any) -> None:
    job = face.start(q.get_many, 10)
    face.until_waiting(q)
    q.put_many([1, 2])
    assert job.result() == [1, 2]


def test_put_many_waits_for_room_for_all(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=3)
    q.put_many([1, 2])
    job = face.start(q.put_many, [3, 4, 5])
    face.until_waiting(q)
    assert q.get() == 1
    assert not job.done()
    assert q.get() == 2
    job.result()
    assert q.get_many(10) == [3, 4, 5]


def test_one_item_wakes_waiters_and_is_given_once(face: Face, q: Any) -> None:
    jobs = [face.start(q.get, timeout=30) for _ in range(3)]
    face.until_waiting(q, 3)
    q.put_many(["a", "b", "c"])
    assert sorted(job.result() for job in jobs) == ["a", "b", "c"]


# put_many, get_many.


@BOTH
def test_put_many_and_get_many_are_one_transaction_each(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    q.put_many(range(300))
    assert (q.qsize(), q.version) == (300, 1)
    assert len(q.get_many(299)) == 299
    assert (q.qsize(), q.version) == (1, 2)


def test_put_many_of_nothing_changes_nothing(q: Any) -> None:
    q.put_many([])
    assert (q.qsize(), q.version) == (0, 0)


def test_put_many_is_all_or_nothing(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=3)
    with pytest.raises(ValueError, match="never fit"):
        q.put_many(range(4))
    q.put(0)
    with pytest.raises(queue.Full):
        q.put_many(range(3), block=False)
    with pytest.raises(TypeError):
        q.put_many([1, (number for number in range(2))])  # a generator does not pickle
    assert (q.qsize(), q.version) == (1, 1)


@pytest.mark.parametrize("n", ["1", 1.5, None])
def test_get_many_of_what_is_no_int_is_a_TypeError(q: Any, n: Any) -> None:
    q.put(1)
    with pytest.raises(TypeError):
        q.get_many(n)
    assert q.qsize() == 1


@pytest.mark.parametrize("n", [0, -1])
def test_get_many_of_less_than_one_is_a_ValueError(q: Any, n: int) -> None:
    q.put(1)
    with pytest.raises(ValueError):
        q.get_many(n)
    assert q.qsize() == 1


# maxsize.


def test_maxsize_can_be_set_and_holds_for_every_handle(face: Face, q: Any) -> None:
    twin = face.Queue("ns/q", maxsize=99)  # the creation won
    assert twin.maxsize == 0
    q.maxsize = 1
    assert twin.maxsize == 1
    twin.put(1)
    with pytest.raises(queue.Full):
        q.put_nowait(2)


def test_a_larger_maxsize_wakes_who_waits_for_room(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=1)
    q.put(1)
    job = face.start(q.put, 2)
    face.until_waiting(q)
    q.set_maxsize(2)
    job.result()
    assert q.get_many(5) == [1, 2]


def test_a_smaller_maxsize_keeps_the_items(q: Any) -> None:
    q.put_many([1, 2, 3])
    q.set_maxsize(1)
    assert (q.qsize(), q.full()) == (3, True)
    with pytest.raises(queue.Full):
        q.put_nowait(4)
    assert q.get_many(5) == [1, 2, 3]


def test_a_maxsize_that_is_negative_or_too_large_is_a_ValueError(face: Face, q: Any) -> None:
    with pytest.raises(ValueError):
        q.set_maxsize(-1)
    with pytest.raises(ValueError):
        q.set_maxsize(1 << 64)
    with pytest.raises(ValueError):
        face.Queue("ns/new", maxsize=-1)
    assert q.maxsize == 0 and not [path for path, _ in face.objects("ns") if path == "ns/new"]


@pytest.mark.parametrize("maxsize", ["1", 1.5, None])
def test_a_maxsize_that_is_no_int_is_a_TypeError(face: Face, q: Any, maxsize: Any) -> None:
    with pytest.raises(TypeError):
        q.set_maxsize(maxsize)
    with pytest.raises(TypeError):
        face.Queue("ns/new", maxsize=maxsize)
    assert q.maxsize == 0 and q.version == 0


# task_done, join.


@BOTH
def test_join_returns_once_every_item_is_done(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    assert q.join() is True
    q.put_many([1, 2])
    assert q.join(timeout=0) is False and q.join(timeout=0.01) is False
    job = face.start(q.join)
    face.until_waiting(q)
    for _ in range(2):
        assert not job.done()
        q.get()
        q.task_done()
    assert job.result() is True


def test_the_count_behind_task_done_is_shared(face: Face, q: Any) -> None:
    q.put(1)
    twin = face.clone(q)
    twin.get()
    assert q.join(timeout=0) is False
    face.elsewhere(twin.task_done)
    assert q.join(timeout=0) is True


def test_task_done_more_often_than_put_is_a_ValueError(q: Any) -> None:
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()
    q.put(1)
    q.task_done()  # as in queue.Queue, the count does not ask whether the item was taken
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()


def test_clear_drops_the_items_and_counts_them_as_done(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=2)
    q.put_many([1, 2])
    joining, putting = face.start(q.join), face.start(q.put, 3)
    face.until_waiting(q, 2)
    q.clear()
    putting.result()
    assert q.get() == 3
    q.task_done()
    assert joining.result() is True


def test_clear_leaves_what_was_taken_unfinished(q: Any) -> None:
    q.put_many(range(2500))
    q.get()
    q.clear()
    assert (q.qsize(), q.join(timeout=0)) == (0, False)
    q.task_done()
    assert q.join(timeout=0) is True


# shutdown.


@BOTH
def test_shutdown_refuses_items_and_hands_out_the_rest(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    q.put_many([1, 2])
    before = q.is_shutdown
    q.shutdown()
    assert (before, q.is_shutdown) == (False, True)
    for call in calls(lambda: q.put(3), lambda: q.put_nowait(3), lambda: q.put_many([3])):
        with pytest.raises(parkit.ShutDown):
            call()
    assert sorted(q.get_many(5)) == [1, 2]
    for call in calls(q.get, q.get_nowait, lambda: q.get_many(2)):
        with pytest.raises(parkit.ShutDown):
            call()
    assert q.join(timeout=0) is False
    q.task_done()
    q.task_done()
    assert q.join() is True


def test_shutdown_at_once_drops_the_rest_and_counts_it_as_done(q: Any) -> None:
    q.put_many([1, 2, 3])
    q.get()
    q.shutdown(immediate=True)
    with pytest.raises(parkit.ShutDown):
        q.get()
    assert (q.qsize(), q.join(timeout=0)) == (0, False)
    q.task_done()
    assert q.join(timeout=0) is True


def test_shutdown_wakes_whoever_waits(face: Face) -> None:
    empty, full = face.Queue("ns/empty"), face.Queue("ns/full", maxsize=1)
    full.put(1)
    getting, putting, joining = face.start(empty.get), face.start(full.put, 2), face.start(full.join)
    face.until_waiting(empty)
    face.until_waiting(full, 2)
    empty.shutdown()
    full.shutdown(immediate=True)
    for job in (getting, putting):
        with pytest.raises(parkit.ShutDown):
            job.result()
    assert joining.result() is True


def test_shutdown_twice_and_at_once_after_all(q: Any) -> None:
    q.put(1)
    q.shutdown()
    version = q.version
    q.shutdown()
    assert (q.version, q.qsize()) == (version, 1)
    q.shutdown(immediate=True)
    assert q.qsize() == 0


def test_the_exceptions_are_those_of_queue(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=1)
    with pytest.raises(queue.Empty) as empty:
        q.get_nowait()
    q.put(1)
    with pytest.raises(queue.Full) as full:
        q.put_nowait(2)
    q.shutdown()
    with pytest.raises(parkit.ShutDown) as shut_down:
        q.put(2)
    if hasattr(queue, "ShutDown"):
        assert parkit.ShutDown is queue.ShutDown
    if face.name != "blocking":
        import asyncio

        assert isinstance(empty.value, asyncio.QueueEmpty) and isinstance(full.value, asyncio.QueueFull)
        if hasattr(asyncio, "QueueShutDown"):
            assert isinstance(shut_down.value, asyncio.QueueShutDown)


# Transactions, and calls that would wait in them.


def test_an_item_is_back_when_the_transaction_that_took_it_rolls_back(face: Face, q: Any) -> None:
    q.put_many([1, 2])
    with pytest.raises(RuntimeError):
        with face.transaction(q):
            assert (q.get(), q.qsize()) == (1, 1)
            q.task_done()
            raise RuntimeError
    assert q.get_many(5) == [1, 2] and q.join(timeout=0) is False


def test_a_call_that_would_wait_in_a_transaction_or_snapshot_is_a_ContextError(face: Face) -> None:
    q = face.Queue("ns/q", maxsize=1)
    for context in (face.transaction, face.snapshot):
        with context("ns"), pytest.raises(parkit.ContextError):
            q.get() if context is face.transaction else q.wait_changed(99)
    q.put(1)
    with face.transaction(q):
        for call in calls(lambda: q.put(2), lambda: q.put(2, timeout=5), q.join, lambda: q.wait_changed(99)):
            with pytest.raises(parkit.ContextError, match="wait"):
                call()
        with pytest.raises(queue.Full):
            q.put(2, timeout=0)
        assert q.join(timeout=0) is False
        assert q.get() == 1
        q.put(3)
    assert q.get() == 3


def test_an_open_transaction_of_another_namespace_forbids_waiting_too(face: Face, q: Any) -> None:
    with face.transaction("other"), pytest.raises(parkit.ContextError):
        q.get(timeout=5)


# Dead letters.


@BOTH
def test_an_item_that_cannot_be_decoded_is_set_aside(face: Face, kind: str) -> None:
    q = getattr(face, kind)("ns/q")
    q.put_many(["a", Breaks(), "b"])
    found: list[Any] = []
    for _ in range(3):
        try:
            found.append(q.get())
        except parkit.CodecError as error:
            found.append(error)
    assert [item if isinstance(item, str) else "dead" for item in found] == (["a", "dead", "b"] if kind == "Queue" else ["b", "dead", "a"])
    dead = found[1]
    assert dead.path == "ns/q" and isinstance(dead.__cause__, RuntimeError) and "cannot load value" in str(dead)
    assert q.empty()
    (letter,) = q.dead_letters()
    assert b"_broken" in letter.raw and "cannot load value" in letter.reason and letter.when.endswith("+00:00")


def test_get_many_gives_what_stands_before_an_item_that_cannot_be_decoded(q: Any) -> None:
    q.put_many([1, 2, Breaks(), 3])
    assert q.get_many(10) == [1, 2]
    assert q.dead_letters() == []
    with pytest.raises(parkit.CodecError):
        q.get_many(10)
    assert q.get_many(10) == [3] and len(q.dead_letters()) == 1


def test_dead_letters_come_oldest_first_and_stay(q: Any) -> None:
    for _ in range(2):
        q.put(Breaks())
        with pytest.raises(parkit.CodecError):
            q.get()
    letters = q.dead_letters()
    assert len(letters) == 2 and letters == sorted(letters, key=lambda letter: letter.when)
    q.clear()
    assert q.dead_letters() == letters


def test_an_item_taken_in_vain_counts_as_unfinished(q: Any) -> None:
    q.put(Breaks())
    with pytest.raises(parkit.CodecError):
        q.get()
    assert q.join(timeout=0) is False
    q.task_done()
    assert q.join(timeout=0) is True


def test_a_waiter_is_told_of_an_item_that_cannot_be_decoded(face: Face, q: Any) -> None:
    job = face.start(q.get)
    face.until_waiting(q)
    q.put(Breaks())
    with pytest.raises(parkit.CodecError):
        job.result()


def test_what_does_not_pickle_is_not_put(q: Any) -> None:
    with pytest.raises(TypeError, match="generator"):
        q.put(number for number in range(2))
    assert (q.qsize(), q.version) == (0, 0)


# Ends.


def test_dropping_wakes_whoever_waits(face: Face, q: Any) -> None:
    job = face.start(q.get)
    face.until_waiting(q)
    q.drop()
    with pytest.raises(parkit.ObjectNotFoundError):
        job.result()


def test_an_item_that_is_gone_from_the_file_is_told_and_the_next_one_comes(face: Face, q: Any) -> None:
    q.put_many(["lost", "there"])
    binding = face.raw(q)._binding

    def damage(writing: Writing) -> None:
        state = writing.change(binding, 0)
        assert writing.transaction.delete(index_key(state.prefix, state.head))

    open_namespace("ns").write(damage)
    with face.transaction(q):
        with pytest.raises(parkit.CodecError, match="'ns/q' cannot be decoded"):
            q.get_nowait()
        assert q.get_nowait() == "there"
    assert q.empty() and [letter.raw for letter in q.dead_letters()] == [b""]


def test_a_thread_that_finds_no_slot_for_its_doorbell_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    q: parkit.Queue[int] = parkit.Queue("ns/q")

    def full(self: SharedTable, *arguments: Any) -> int:
        raise TableFullError("all slots are taken")

    monkeypatch.setattr(SharedTable, "register", full)
    rechecks = counters.rechecks
    with opened("blocking") as face:
        job = face.start(q.get)
        face.until(lambda: counters.rechecks > rechecks)
        assert not job.done()
        q.put(1)  # which rings for nobody
        assert job.result() == 1
