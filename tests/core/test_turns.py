"""The order of writers in one process: at most one holder, first come first served, nobody forgotten, whatever the order of events."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from parkit_async._core.turns import Operation, Request, TurnQueue

DEADLINE = 30


def nothing(*arguments: object) -> None:
    """The operation, and the wake, of a test that looks at neither."""


def operations(count: int) -> list[Operation]:
    return [Operation(nothing, ()) for _ in range(count)]


def lease() -> Request:
    return Request(nothing, None)


def batch(count: int = 1) -> Request:
    return Request(nothing, operations(count))


class Turns(RuleBasedStateMachine):
    """Drives a queue beside a model of it: who holds the turn, who stands in line, whose operations the holder has taken over."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = TurnQueue()
        self.holder: object | None = None
        self.line: list[Request] = []
        self.collected: list[Request] = []
        self.past: list[Request] = []
        self.woken: list[Request] = []

    def request(self, count: int | None) -> Request:
        return Request(self.woken.append, None if count is None else operations(count))

    @rule()
    def take(self) -> None:
        token = object()
        free = self.holder is None
        assert self.queue.take(token) is free
        if free:
            self.holder = token

    @precondition(lambda self: self.holder is not None)
    @rule()
    def take_again(self) -> None:
        assert self.queue.take(self.holder)

    @rule(count=st.none() | st.integers(1, 4))
    def enqueue(self, count: int | None) -> None:
        request = self.request(count)
        free = self.holder is None
        assert self.queue.enqueue(request) is free
        assert request.granted is free
        if free:
            self.holder = request
        else:
            self.line.append(request)

    @precondition(lambda self: self.holder is not None)
    @rule()
    def release(self) -> None:
        for request in self.collected:  # the holder owes them an outcome first
            request.rouse()
        self.past += self.collected
        self.collected.clear()
        assert self.holder is not None
        if isinstance(self.holder, Request):
            self.past.append(self.holder)
        successor = self.queue.release(self.holder)
        expected = self.line.pop(0) if self.line else None
        assert successor is expected, "not first come, first served"
        self.holder = expected
        if successor is not None:
            assert successor.granted
            assert successor not in self.woken, "waking is the caller's, outside of the lock"
            successor.rouse()

    @rule()
    def release_by_a_stranger(self) -> None:
        assert self.queue.release(object()) is None

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def release_by_a_waiter(self, data: st.DataObject) -> None:
        assert self.queue.release(data.draw(st.sampled_from(self.line))) is None

    @precondition(lambda self: self.holder is not None)
    @rule(limit=st.integers(0, 8))
    def collect(self, limit: int) -> None:
        expected: list[Request] = []
        room = limit
        for request in self.line:
            if request.operations is None or len(request.operations) > room:
                break
            room -= len(request.operations)
            expected.append(request)
        found = self.queue.collect(limit, [])
        assert found == expected
        del self.line[: len(expected)]
        self.collected += expected

    @precondition(lambda self: self.collected)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        first = data.draw(st.integers(0, len(self.collected) - 1))
        unfinished = self.collected[first:]
        del self.collected[first:]
        self.queue.restore(unfinished)
        self.line = unfinished + self.line

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.line))
        assert self.queue.withdraw(request)
        self.line.remove(request)
        assert not request.granted and not request.collected

    @precondition(lambda self: self.collected or isinstance(self.holder, Request))
    @rule(data=st.data())
    def withdraw_too_late(self, data: st.DataObject) -> None:
        settled = [*self.collected, *([self.holder] if isinstance(self.holder, Request) else [])]
        assert not self.queue.withdraw(data.draw(st.sampled_from(settled)))

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.queue.validate()
        assert self.queue.holder is self.holder
        assert len(self.queue) == len(self.line)
        assert self.holder is not None or not self.line
        assert all(request.collected for request in self.collected)
        assert not any(request.granted or request.collected or request in self.woken for request in self.line)

    def teardown(self) -> None:
        while self.holder is not None:
            self.release()
            self.queue.validate()
        assert len(self.queue) == 0
        waited = [request for request in self.past if request in self.woken]
        assert len(self.woken) == len(set(map(id, self.woken))) == len(waited), "somebody was woken twice, or for nothing"


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_first_come_first_served() -> None:
    queue = TurnQueue()
    holder = object()
    assert queue.take(holder)
    line = [batch(), lease(), batch(3), lease()]
    assert not any(queue.enqueue(request) for request in line)
    order = []
    successor = queue.release(holder)
    while successor is not None:
        assert queue.holder is successor
        assert not queue.take(object()), "a newcomer overtook those in line"
        order.append(successor)
        successor = queue.release(successor)
    assert order == line
    assert queue.holder is None


def test_a_lease_is_never_collected_nor_is_anybody_behind_it() -> None:
    queue = TurnQueue()
    queue.take(holder := object())
    before, between, behind = batch(), lease(), batch()
    for request in (before, between, behind):
        queue.enqueue(request)
    assert queue.collect(100, []) == [before]
    assert queue.collect(100, []) == []
    assert queue.release(holder) is between
    assert queue.collect(100, []) == [behind]


def test_a_request_is_collected_whole_or_not_at_all() -> None:
    queue = TurnQueue()
    queue.take(object())
    for request in (first := batch(2), second := batch(3), third := batch(1)):
        queue.enqueue(request)
    assert queue.collect(4) == [first]
    assert queue.collect(4) == [second, third]


def test_restored_requests_are_first_again_and_in_order() -> None:
    queue = TurnQueue()
    queue.take(holder := object())
    line = [batch() for _ in range(4)]
    for request in line[:3]:
        queue.enqueue(request)
    collected = queue.collect(100)
    queue.enqueue(line[3])
    queue.restore(collected[1:])
    queue.validate()
    assert queue.release(holder) is line[1]
    assert queue.release(line[1]) is line[2]
    assert queue.release(line[2]) is line[3]


def test_releasing_twice_does_not_take_the_turn_from_the_successor() -> None:
    queue = TurnQueue()
    queue.take(holder := object())
    queue.enqueue(successor := lease())
    assert queue.release(holder) is successor
    assert queue.release(holder) is None
    assert queue.holder is successor


class Racing(deque[Request]):
    """A line that lets something happen right after somebody has looked whether it is empty."""

    def __init__(self, races: Iterator[Callable[[], None]]) -> None:
        super().__init__()
        self.races = races

    def __bool__(self) -> bool:
        found = len(self) > 0
        next(self.races, nothing)()
        return found


def test_whoever_stands_in_line_during_a_release_is_granted_by_it() -> None:
    # release() has seen nobody and is about to give up the turn; enqueue() still sees it taken.
    queue = TurnQueue()
    late = lease()
    queue.take(holder := object())

    def stand_in_line() -> None:
        assert not queue.enqueue(late)

    queue.waiting = Racing(iter([stand_in_line]))
    assert queue.release(holder) is late
    assert late.granted
    queue.validate()


def test_a_newcomer_between_the_two_looks_of_a_release_holds_the_turn_alone() -> None:
    # The turn is free for a moment; one enters, another stands in line behind it. The release must not grant the turn a second time.
    queue = TurnQueue()
    newcomer, waiter = object(), lease()
    queue.take(holder := object())

    def arrive() -> None:
        assert queue.take(newcomer)
        queue.waiting = Racing(iter([]))
        assert not queue.enqueue(waiter)

    class Slot(dict[int, object]):
        def __delitem__(self, key: int) -> None:
            super().__delitem__(key)
            if not self.get(1):
                super().__setitem__(1, "arrived")
                arrive()

    slot = Slot()
    slot[0] = holder
    queue.slot = slot
    assert queue.release(holder) is None
    assert queue.holder is newcomer
    assert not waiter.granted
    assert queue.release(newcomer) is waiter


@pytest.mark.parametrize("withdrawing", [False, True])
def test_many_threads_exclude_each_other_and_all_get_their_turn(withdrawing: bool) -> None:
    queue = TurnQueue()
    inside: list[int] = []
    held, taken, withdrawn, overlaps = [0] * 6, [0] * 6, [0] * 6, []
    rounds = 400

    def hold(number: int, token: object) -> None:
        inside.append(number)
        if inside != [number]:
            overlaps.append(list(inside))
        held[number] += 1
        inside.remove(number)
        successor = queue.release(token)
        if successor is not None:
            successor.rouse()

    def work(number: int) -> None:
        for turn in range(rounds):
            token = object()
            if turn % 3 == 0 and queue.take(token):
                taken[number] += 1
                hold(number, token)
                continue
            bell = threading.Semaphore(0)
            request = Request(lambda request, bell=bell: bell.release(), None)  # type: ignore[misc]
            if not queue.enqueue(request):
                if withdrawing and turn % 2 and queue.withdraw(request):
                    withdrawn[number] += 1
                    continue
                assert bell.acquire(timeout=DEADLINE), "whoever stands in line is never woken"
            hold(number, request)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    finally:
        sys.setswitchinterval(interval)
    assert not overlaps
    assert [mine + gone for mine, gone in zip(held, withdrawn, strict=True)] == [rounds] * 6
    assert queue.holder is None and len(queue) == 0
    queue.validate()


def test_an_operation_is_either_claimed_or_revoked() -> None:
    run = Operation(nothing, ())
    assert run.claim() and run.claim(), "who claimed it may claim it again: a group commit that failed is run one by one"
    assert not run.revoke() and not run.done
    gone = Operation(nothing, ())
    assert gone.revoke() and gone.done
    assert not gone.claim() and gone.revoke(), "whoever was interrupted asks again"


def test_outcome_is_the_result_or_the_error() -> None:
    operation = Operation(nothing, ())
    operation.result = 5
    assert operation.outcome() == 5
    operation.error = KeyError("absent")
    with pytest.raises(KeyError, match="absent"):
        operation.outcome()


def test_a_grant_is_acted_on_once() -> None:
    request = lease()
    assert request.claim() and not request.claim()
