"""Items that cannot be loaded, in any way there is: neighbours are delivered, nothing is lost, and no taker is killed for ever."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable

import pytest

from parkit import CodecError, LifoQueue, Queue, TransactionError, transaction
from parkit_async._core import queue_ops
from parkit_async._core.doorbell import EVENT_SPACE
from parkit_async._core.layout import dead_prefix, index_key
from parkit_async._core.registry import open_namespace
from parkit_async._core.shared import WORD_ATTEMPTED, WORD_ATTEMPTS
from parkit_async._core.transactions import Writing
from tests.conftest import RunScript


class Gone:
    """Stands for a class that was there when the item was put; see :func:`frame`."""


class Raises:
    """Raises when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return explode, ("a message from the load",)


class Exits:
    """Ends the process that loads it."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (7,)


class Awkward(Exception):
    """An exception that pickles and does not unpickle."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def explode(message: str) -> object:
    raise RuntimeError(message)


def frame(kind: str) -> bytes:
    """Return the bytes of a bad item, as a queue stores them."""
    if kind == "truncated":
        return pickle.dumps(list(range(1000)), 5)[:500]
    if kind == "empty":
        return b"\x80"
    if kind == "noise":
        return b"\x80\x05\xff\xfe\xfd"
    if kind == "codec":
        return b"\x7f???"
    if kind == "class":
        return pickle.dumps(Gone(), 5).replace(b"Gone", b"Went")
    if kind == "raises":
        return pickle.dumps(Raises(), 5)
    return pickle.dumps(Awkward(1, "x"), 5)


def put_raw(q: Queue[object], raw: bytes) -> None:
    q._home.write(queue_ops.put, q._binding, raw)


KINDS = {
    "truncated": "UnpicklingError|EOFError",
    "empty": "EOFError|UnpicklingError",
    "noise": "UnpicklingError",
    "codec": "codec",
    "class": "AttributeError",
    "raises": "RuntimeError: a message from the load",
    "awkward": "TypeError",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lifo", [False, True])
def test_bad_item_is_set_aside_and_its_neighbours_are_delivered(kind: str, lifo: bool) -> None:
    q: Queue[object] = LifoQueue("poison/q") if lifo else Queue("poison/q")
    q.put("before")
    put_raw(q, frame(kind))
    q.put("behind")
    first, last = ("behind", "before") if lifo else ("before", "behind")
    assert q.get_nowait() == first
    with pytest.raises(CodecError, match="poison/q") as caught:
        q.get_nowait()
    assert caught.value.__cause__ is not None or "cannot be decoded" in str(caught.value)
    assert caught.value.path == "poison/q" and caught.value.key == 1
    assert q.get_nowait() == last
    assert q.empty()
    (letter,) = q.dead_letters()
    assert letter.raw == frame(kind)
    assert re.search(KINDS[kind], letter.reason)
    assert letter.when.endswith("+00:00")
    if kind == "raises":
        assert "Traceback" in letter.reason and "in explode" in letter.reason
    for _ in range(3):
        q.task_done()
    assert q.join(timeout=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bulk_get_ends_before_a_bad_item_and_sets_it_aside_when_it_is_first(kind: str) -> None:
    q = Queue[object]("poison/q")
    q.put_many(["a", "b"])
    put_raw(q, frame(kind))
    q.put_many(["c", "d"])
    assert q.get_many(10) == ["a", "b"]
    assert q.dead_letters() == [] and q.qsize() == 3
    with pytest.raises(CodecError):
        q.get_many(10)
    assert [letter.raw for letter in q.dead_letters()] == [frame(kind)]
    assert q.get_many(10) == ["c", "d"]


def test_many_bad_items_are_all_kept_in_order() -> None:
    q = Queue[object]("poison/q")
    for number in range(30):
        put_raw(q, frame("raises") + bytes([number]))
        q.put(number)
    got = []
    for _ in range(60):
        try:
            got.append(q.get_nowait())
        except CodecError:
            got.append(None)
    assert got == [value for number in range(30) for value in (None, number)]
    assert [letter.raw[-1] for letter in q.dead_letters()] == list(range(30))


def test_a_transaction_that_meets_a_bad_item_decides_what_becomes_of_it() -> None:
    q = Queue[object]("poison/q")
    put_raw(q, frame("raises"))
    with pytest.raises(CodecError), transaction(q):
        q.get_nowait()
    assert q.qsize() == 1 and q.dead_letters() == [], "the transaction was rolled back, and the item is where it was"
    with transaction(q):
        with pytest.raises(CodecError):
            q.get_nowait()
        q.put("instead")
    assert q.get_nowait() == "instead"
    assert len(q.dead_letters()) == 1


EXITS = """
import os, sys
from parkit import Queue

class Exits:
    def __reduce__(self):
        return os._exit, (7,)

q = Queue("poison/q")
"""


@pytest.mark.processes
@pytest.mark.parametrize("call", ["get(timeout=30)", "get_many(5, timeout=30)"])
@pytest.mark.untraceable
def test_item_that_kills_its_takers_is_set_aside_after_three(run_script: RunScript, call: str) -> None:
    run_script(EXITS + "q.put(Exits()); q.put('good')")
    q = Queue[object]("poison/q")
    for attempt in range(1, queue_ops.ATTEMPTS + 1):
        finished = run_script(EXITS + f"print(q.{call})", check=False)
        assert (finished.exitcode, finished.stdout) == (7, "")
        assert q.qsize() == 2, "a taker that died has taken nothing"
        assert open_namespace("poison").table.words[WORD_ATTEMPTS] == attempt
    with pytest.raises(CodecError, match="processes died"):
        q.get_nowait()
    assert q.get_nowait() == "good"
    (letter,) = q.dead_letters()
    assert "3 processes died while they decoded it" in letter.reason
    assert pickle.dumps(os._exit)[-20:] in letter.raw or b"_exit" in letter.raw


@pytest.mark.processes
def test_takers_of_good_items_that_are_killed_are_not_counted(run_script: RunScript) -> None:
    q = Queue[object]("poison/q")
    for number in range(10):
        q.put(number)
        run_script(
            """
            import os, signal
            from parkit import Queue, transaction
            q = Queue("poison/q")
            with transaction(q):
                q.get_nowait()
                os.kill(os.getpid(), signal.SIGKILL)
        """,
            check=False,
        )
        assert open_namespace("poison").table.words[WORD_ATTEMPTS] == 0
        assert q.get_nowait() == number
    assert q.dead_letters() == []


@pytest.mark.processes
def test_waiting_consumers_get_past_poison(run_script: RunScript) -> None:
    finished = run_script("""
        import os
        from parkit import CodecError, Queue
        from parkit_async._core import queue_ops
        from tests.processes.crowd import Member

        def consumer(report):
            q = Queue("poison/q")
            while True:
                try:
                    item = q.get()
                except CodecError as error:
                    item = "bad"
                report(item)
                if item is None:
                    return

        class Raises:
            def __reduce__(self):
                return int, ("no number",)

        members = [Member(consumer) for _ in range(2)]
        q = Queue("poison/q")
        for number in range(100):
            q.put(Raises() if number % 3 == 0 else number)
        for _ in members:
            q.put(None)
        reports = [report for member in members for report in member.wait()]
        assert reports.count("bad") == 34, reports
        assert sorted(report for report in reports if isinstance(report, int)) == [number for number in range(100) if number % 3]
        assert len(q.dead_letters()) == 34
    """)
    assert not finished.stderr


def test_the_count_of_attempts_is_per_item() -> None:
    q = Queue[object]("poison/q")
    words = open_namespace("poison").table.words
    q.put("one")
    q.put("two")
    words[WORD_ATTEMPTED] = 12345
    words[WORD_ATTEMPTS] = 3
    assert [q.get_nowait(), q.get_nowait()] == ["one", "two"]


class Interrupts:
    """Ends whoever loads it, in an orderly way."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _interrupt, ()


def _interrupt() -> object:
    raise KeyboardInterrupt


@pytest.mark.parametrize("many", [False, True])
def test_item_that_ends_its_takers_in_order_is_set_aside_after_three_as_well(many: bool) -> None:
    q = Queue[object]("poison/q")
    q.put_many([Interrupts(), "good"])
    for attempt in range(1, queue_ops.ATTEMPTS + 1):
        with pytest.raises(KeyboardInterrupt):
            q.get_many(5) if many else q.get_nowait()
        assert q.qsize() == 2 and open_namespace("poison").table.words[WORD_ATTEMPTS] == attempt
    with pytest.raises(CodecError, match="processes died"):
        q.get_many(5) if many else q.get_nowait()
    assert q.get_nowait() == "good"
    (letter,) = q.dead_letters()
    assert b"_interrupt" in letter.raw


@pytest.mark.parametrize("stored", [b"", b"\0\0\0\x05{}", b"\0\0\0\2{}raw", b"\xff\xff\xff\xff[]", b"\0\0\0\4\xff\xff\xff\xff"])
def test_a_damaged_dead_letter_is_named_and_the_queue_usable(stored: bytes) -> None:
    q = Queue[object]("poison/q")
    q.put_many([Interrupts(), "good"])
    binding = q._binding

    def damage(writing: Writing) -> None:
        state = writing.change(binding, EVENT_SPACE)
        state.dead = 1
        if stored:
            writing.transaction.put(index_key(dead_prefix(binding.object_id), 0), stored)

    open_namespace("poison").write(damage)
    with pytest.raises(TransactionError, match="dead letter 0 of 'poison/q'"):
        q.dead_letters()
    q.put("more")
    assert q.qsize() == 3
