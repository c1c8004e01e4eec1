"""The pool's rules: each by hand, then all of them against a simulated world in which everything comes late, twice, or in the wrong order."""

from __future__ import annotations

import ast
import inspect
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from parkit_async._core import pool as module
from parkit_async._core.pool import (
    TRANSITIONS,
    Adopted,
    Collect,
    Died,
    Drain,
    End,
    Event,
    Hello,
    Instruction,
    Looked,
    Phase,
    Pool,
    Report,
    Resized,
    Retire,
    Signal,
    Spawn,
    SpawnFailed,
    State,
    Stop,
    Tick,
    WakeAt,
    Worn,
    diagram,
)

GRACE, DRAIN, START_TIMEOUT = 5.0, 10.0, 60.0


def look(busy: Iterable[str] = (), *, terminate: Iterable[str] = (), kill: Iterable[str] = ()) -> Looked:
    return Looked(frozenset(busy), frozenset(terminate), frozenset(kill))


class Timeline:
    """A pool, a clock, and what was last asked to be woken for."""

    def __init__(self, size: int, *, grace: float = GRACE, opened: bool = True) -> None:
        self.pool = Pool(size, "w", grace=grace, drain=DRAIN, start_timeout=START_TIMEOUT)
        self.now = 1000.0
        self.alarm: float | None = None
        self.reports: list[Report] = []
        if opened:
            self.tell(look())

    def tell(self, *events: Event) -> list[Instruction]:
        """Hand over events, and return the instructions but for the wakes and the reports, which are noted."""
        told: list[Instruction] = []
        for event in events:
            if isinstance(event, Tick):
                self.alarm = None
            for instruction in self.pool.handle(event, self.now):
                if isinstance(instruction, WakeAt):
                    self.alarm = instruction.when
                elif isinstance(instruction, Report):
                    self.reports.append(instruction)
                else:
                    told.append(instruction)
            self.pool.validate()
        return told

    def later(self, seconds: float) -> list[Instruction]:
        """Let time pass. Time acts through what was asked for alone: the clock stops at each wake on the way."""
        told: list[Instruction] = []
        end = self.now + seconds
        while self.alarm is not None and self.alarm <= end:
            self.now = max(self.now, self.alarm)
            told += self.tell(Tick())
        self.now = end
        return told

    def ready(self, *workers: str) -> None:
        for worker in workers:
            assert self.tell(Hello(worker)) == []

    def states(self) -> dict[str, State]:
        return {id: worker.state for id, worker in self.pool.workers.items()}


def running(size: int, *, busy: Iterable[str] = ()) -> Timeline:
    """Return a pool of workers w1, w2, ... that have been ready for a long time."""
    time = Timeline(size)
    time.ready(*time.pool.workers)
    time.later(100)
    time.tell(look(busy))
    return time


class TestSize:
    def test_it_fills_up_at_the_first_look(self) -> None:
        time = Timeline(3, opened=False)
        assert time.tell(look()) == [Spawn("w1"), Spawn("w2"), Spawn("w3")]
        assert set(time.states().values()) == {State.STARTING}
        time.ready("w2")
        assert time.states() == {"w1": State.STARTING, "w2": State.READY, "w3": State.STARTING}

    def test_an_empty_pool_rests(self) -> None:
        time = Timeline(0)
        assert (time.tell(look(), Tick()), time.alarm, time.pool.phase) == ([], None, Phase.RUNNING)

    def test_it_grows_by_what_is_missing(self) -> None:
        time = running(2)
        assert time.tell(Resized(4)) == [Spawn("w3"), Spawn("w4")]
        assert time.tell(Resized(4)) == []

    def test_it_shrinks_by_the_idle_newest_first(self) -> None:
        time = running(5, busy=["w2", "w5"])
        assert time.tell(Resized(3)) == [Retire("w4"), Retire("w3")]
        assert time.tell(Resized(1)) == [Retire("w1"), Retire("w5")]
        assert time.tell(Resized(0)) == [Retire("w2")]

    def test_who_is_still_starting_counts_as_idle(self) -> None:
        time = running(1, busy=["w1"])
        time.tell(Resized(2))
        assert time.tell(Resized(1)) == [Retire("w2")]

    def test_who_is_idle_is_as_of_the_last_look(self) -> None:
        time = running(2, busy=["w1", "w2"])
        time.tell(look(["w2"]))
        assert time.tell(Resized(1)) == [Retire("w1")]

    def test_the_retired_are_not_replaced_and_come_back_never(self) -> None:
        time = running(2)
        time.tell(Resized(1))
        assert time.tell(Resized(2)) == [Spawn("w3")]
        assert time.tell(Died("w2", 0)) == [Collect("w2", 0)]
        assert time.states() == {"w1": State.READY, "w3": State.STARTING}

    def test_down_and_up_again_while_all_are_busy(self) -> None:
        time = running(8, busy=[f"w{n}" for n in range(1, 9)])
        assert len(time.tell(Resized(2))) == 6
        assert time.tell(Resized(8)) == [Spawn(f"w{n}") for n in range(9, 15)]

    def test_who_leaves_anyhow_gives_up_its_place_first(self) -> None:
        time = running(4)
        time.tell(Worn("w1"), look(["w2"], terminate=["w2"]))
        assert time.tell(Resized(2)) == []  # the place of one that is worn, and of one that is terminated
        assert time.tell(Died("w1", 0), Died("w2", -15)) == [Collect("w1", 0), Collect("w2", -15)]
        assert time.states() == {"w3": State.READY, "w4": State.READY}


class TestDeath:
    def test_one_that_was_ready_is_replaced_at_once(self) -> None:
        time = running(2)
        assert time.tell(Died("w1", -11)) == [Collect("w1", -11), Spawn("w3")]
        assert (time.reports, time.alarm) == ([], time.now + START_TIMEOUT)

    def test_one_that_was_busy_is_replaced_at_once_however_young(self) -> None:
        time = Timeline(1)
        for n in range(1, 100):
            time.later(0.01)
            time.tell(Hello(f"w{n}"), look([f"w{n}"]))
            assert time.tell(Died(f"w{n}", 1)) == [Collect(f"w{n}", 1), Spawn(f"w{n + 1}")]
        assert time.reports == []

    def test_who_asked_for_it_does_not_matter(self) -> None:
        """A worker that was told to go has not failed, whenever it goes."""
        time = Timeline(3)
        time.ready("w1", "w2")
        time.tell(Worn("w1"), look(["w2"], kill=["w2"]), Resized(2))
        assert time.states() == {"w1": State.RETIRING, "w2": State.KILLED, "w3": State.STARTING}
        assert time.tell(Died("w1", 0), Died("w2", -9)) == [Collect("w1", 0), Collect("w2", -9), Spawn("w4")]
        assert time.reports == []

    def test_late_and_unknown(self) -> None:
        time = running(1)
        time.tell(Died("w1", 0))
        for event in (Hello("w1"), Died("w1", 0), Worn("w1"), SpawnFailed("w1", "late"), look(["w1"], kill=["w1"]), Hello("x"), Died("x", None)):
            assert time.tell(event) == []
        assert time.states() == {"w2": State.STARTING}

    def test_a_worker_that_spoke_was_started(self) -> None:
        time = running(1)
        assert time.tell(SpawnFailed("w1", "no such thing")) == []
        assert time.states() == {"w1": State.READY}


class TestBackoff:
    def fail(self, time: Timeline) -> float:
        """Have the one worker that is starting die, and return how long it takes until the next is started."""
        (worker,) = (id for id, state in time.states().items() if state is State.STARTING)
        assert time.tell(Died(worker, 3)) == [Collect(worker, 3)]
        died, number = time.now, int(worker[1:])
        assert time.alarm is not None
        assert time.later(time.alarm - time.now) == [Spawn(f"w{number + 1}")]
        return time.now - died

    def test_it_doubles_up_to_half_a_minute(self) -> None:
        time = Timeline(1)
        delays = [self.fail(time) for _ in range(12)]
        assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30])

    def test_it_warns_once_for_each_doubling(self) -> None:
        time = Timeline(1)
        for _ in range(2000):  # a float doubled as often would overflow
            self.fail(time)
        assert len(time.reports) == 10
        assert {report.level for report in time.reports} == {"warning"}
        assert [report.message for report in time.reports][:2] == [
            "w1 exited with code 3 before it was ready; the next is started in 0.1 s",
            "workers keep dying: w2 exited with code 3 before it was ready; the next is started in 0.2 s",
        ]

    def test_what_counts_as_a_failure(self) -> None:
        time = Timeline(1)
        time.tell(SpawnFailed("w1", "out of memory"))
        time.later(0.1)
        time.ready("w2")
        time.later(0.9)
        time.tell(Died("w2", -9))
        time.later(0.2)
        time.tell(Died("w3", None))
        assert [report.message for report in time.reports] == [
            "w1 could not be started: out of memory; the next is started in 0.1 s",
            "workers keep dying: w2 was killed by signal 9 within 1 s of getting ready; the next is started in 0.2 s",
            "workers keep dying: w3 died before it was ready; the next is started in 0.4 s",
        ]

    def test_a_second_of_readiness_is_enough(self) -> None:
        time = Timeline(1)
        time.ready("w1")
        time.later(1)
        assert time.tell(Died("w1", 1)) == [Collect("w1", 1), Spawn("w2")]

    def test_workers_started_together_fail_together(self) -> None:
        time = Timeline(8)
        for n in range(1, 9):
            assert time.tell(Died(f"w{n}", 1)) == [Collect(f"w{n}", 1)]
            time.later(0.001)
        assert len(time.reports) == 1
        assert time.later(0.1) == [Spawn(f"w{n}") for n in range(9, 17)]
        time.tell(*(Died(f"w{n}", 1) for n in range(9, 17)))
        assert len(time.reports) == 2
        assert time.later(0.19) == []
        assert len(time.later(0.02)) == 8

    def test_one_of_them_that_fails_later_is_replaced_at_once(self) -> None:
        time = Timeline(2)
        time.tell(Died("w1", 1))
        time.later(1)
        assert time.tell(Died("w2", 1)) == [Collect("w2", 1), Spawn("w4")]

    def test_nobody_is_started_while_starts_are_held(self) -> None:
        time = running(2)
        time.tell(Resized(3), Died("w3", 1))
        assert time.tell(Resized(4), Died("w1", 0), look(), Hello("w2")) == [Collect("w1", 0)]
        assert time.later(0.1) == [Spawn("w4"), Spawn("w5"), Spawn("w6")]

    def test_recovery(self) -> None:
        time = Timeline(1)
        for _ in range(5):
            self.fail(time)
        del time.reports[:]
        time.ready("w6")
        time.later(9.9)
        assert time.reports == []
        time.later(0.1)
        assert time.reports == [Report("info", "workers stay alive again")]
        assert time.alarm is None
        time.tell(Resized(2))
        assert self.fail(time) == pytest.approx(0.1)

    def test_old_workers_prove_nothing(self) -> None:
        """Only one that was started since shows that the trouble is over."""
        time = Timeline(3)
        time.ready("w1")
        time.later(50)
        time.tell(Died("w2", 1))
        time.ready("w3")
        time.later(100)
        time.tell(Died("w4", 1))
        assert [report.level for report in time.reports] == ["warning", "warning"]

    def test_a_failure_puts_recovery_off(self) -> None:
        time = Timeline(3)
        time.tell(Died("w1", 1))
        time.later(0.1)  # w4
        time.ready("w4")
        time.later(9)
        time.tell(Died("w2", 1))  # an old one: the wait is not longer, but all is not well
        time.later(9)
        assert len(time.reports) == 1
        time.later(1)
        assert time.reports[1:] == [Report("info", "workers stay alive again")]

    def test_workers_that_live_shortly_and_well_end_it(self) -> None:
        """None lives for ten seconds where each runs one process, and yet the pool is in good health."""
        time = Timeline(1)
        self.fail(time)
        for n in range(2, 14):
            time.ready(f"w{n}")
            time.later(1)
            time.tell(look([f"w{n}"]), Worn(f"w{n}"), Died(f"w{n}", 0))
        assert time.reports[1:] == [Report("info", "workers stay alive again")]

    @pytest.mark.parametrize("size", [1, 8, 64])
    def test_no_storm(self, size: int) -> None:
        """An hour in which nothing can be started costs a bounded number of attempts."""
        time = Timeline(size)
        attempts, end = size, time.now + 3600
        while time.now < end:
            time.tell(*(SpawnFailed(worker, "no") for worker in list(time.pool.workers)))
            assert time.alarm is not None
            assert time.alarm - time.now <= 30.001
            attempts += len(time.later(time.alarm - time.now))
        assert attempts <= size * (10 + 3600 / 30)

    def test_it_is_of_no_concern_to_a_pool_that_stops(self) -> None:
        time = Timeline(2)
        time.tell(Died("w1", 1), Drain())
        assert time.tell(Died("w2", 1)) == [Collect("w2", 1), Stop()]
        assert len(time.reports) == 1

    def test_nor_is_one_that_hung_before(self) -> None:
        time = Timeline(2)
        time.later(60)
        time.tell(End(), Died("w1", -9))
        assert time.reports == []

    def test_the_failure_of_one_that_was_adopted_while_it_started(self) -> None:
        time = Timeline(1, opened=False)
        assert time.tell(Adopted("old", ready=False), look(), Died("old", 1)) == [Collect("old", 1)]
        assert time.later(0.1) == [Spawn("w1")]

    def test_one_that_fails_after_all_is_forgiven_begins_anew(self) -> None:
        """It was started before the failure that was forgiven, and hung all the while."""
        time = Timeline(2)
        time.tell(Died("w1", 1))
        time.later(0.1)
        time.ready("w3")
        assert time.later(60) == [Signal("w2", "KILL")]
        assert time.tell(Died("w2", -9)) == [Collect("w2", -9)]
        assert [report.level for report in time.reports] == ["warning", "info", "warning"]


class TestStart:
    def test_one_that_does_not_get_ready_is_killed_and_has_failed(self) -> None:
        time = Timeline(1)
        assert time.later(59.9) == []
        assert time.later(0.1) == [Signal("w1", "KILL")]
        assert time.alarm is None
        assert time.tell(Died("w1", -9)) == [Collect("w1", -9)]
        assert time.reports[0].message == "w1 was killed by signal 9, not ready after 60 s; the next is started in 0.1 s"

    def test_a_hello_that_comes_before_the_tick_counts(self) -> None:
        time = Timeline(1)
        time.now += 61
        assert time.tell(Hello("w1"), Tick()) == []
        assert time.states() == {"w1": State.READY}

    def test_one_that_is_at_work_needs_no_hello(self) -> None:
        time = Timeline(1)
        assert time.tell(look(["w1"])) == []
        assert time.states() == {"w1": State.READY}
        assert time.later(100) == []

    def test_one_that_retires_has_no_longer_to_get_ready(self) -> None:
        time = Timeline(3)
        time.tell(Resized(0))
        time.tell(Hello("w1"), look(["w2"]))
        assert time.later(60) == [Signal("w3", "KILL")]
        time.tell(Died("w3", -9))
        assert time.reports == []

    def test_a_lost_start_of_one_that_was_told_to_go(self) -> None:
        time = Timeline(2)
        time.tell(Resized(1))
        assert time.tell(SpawnFailed("w2", "too many processes")) == [Collect("w2", None)]
        assert time.reports == []


class TestRequests:
    def test_terminate_then_kill_after_grace(self) -> None:
        time = running(2, busy=["w1"])
        asked = look(["w1"], terminate=["w1"])
        assert time.tell(asked) == [Retire("w1"), Signal("w1", "TERM")]
        assert time.alarm == time.now + GRACE
        assert time.tell(asked, asked, Hello("w1")) == []
        assert time.later(4.9) == []
        assert time.later(0.1) == [Signal("w1", "KILL")]
        assert time.tell(asked) == []
        assert time.later(100) == []
        assert time.tell(Died("w1", -9)) == [Collect("w1", -9), Spawn("w3")]

    def test_the_successor_waits_for_the_death(self) -> None:
        time = running(1, busy=["w1"])
        time.tell(look(["w1"], terminate=["w1"]))
        assert time.tell(Resized(1), look(["w1"])) == []
        assert time.tell(Died("w1", -15)) == [Collect("w1", -15), Spawn("w2")]

    def test_kill_at_once(self) -> None:
        time = running(1, busy=["w1"])
        asked = look(["w1"], kill=["w1"])
        assert time.tell(asked, asked) == [Signal("w1", "KILL")]
        assert time.alarm is None

    def test_kill_overtakes_terminate(self) -> None:
        time = running(2, busy=["w1", "w2"])
        time.tell(look(["w1"], terminate=["w1"]))
        assert time.tell(look(["w1", "w2"], terminate=["w1", "w2"], kill=["w1", "w2"])) == [Signal("w1", "KILL"), Signal("w2", "KILL")]
        assert time.later(100) == []

    def test_one_that_retires_is_not_told_twice(self) -> None:
        time = running(1, busy=["w1"])
        time.tell(Resized(0))
        assert time.tell(look(["w1"], terminate=["w1"])) == [Signal("w1", "TERM")]

    def test_one_that_nobody_heard_of_yet(self) -> None:
        time = Timeline(2)
        assert time.tell(look(["w1", "w2"], terminate=["w1"], kill=["w2"])) == [Retire("w1"), Signal("w1", "TERM"), Signal("w2", "KILL")]

    def test_nothing_it_says_or_does_lengthens_the_grace(self) -> None:
        """It was told to end while it was starting, and gets ready all the same."""
        time = Timeline(2)
        time.tell(End())
        time.later(4)
        assert time.tell(Hello("w1"), look(["w2"])) == []
        assert time.later(1) == [Signal("w1", "KILL"), Signal("w2", "KILL")]

    def test_no_grace(self) -> None:
        time = Timeline(1, grace=0)
        time.ready("w1")
        time.tell(look(["w1"], terminate=["w1"]))
        assert time.later(0) == [Signal("w1", "KILL")]


class TestWorn:
    def test_it_retires_and_keeps_its_place_until_it_is_dead(self) -> None:
        time = running(2, busy=["w1"])
        assert time.tell(Worn("w1"), Worn("w1"), Resized(2), look(["w1"])) == [Retire("w1")]
        assert time.tell(Died("w1", 0)) == [Collect("w1", 0), Spawn("w3")]

    def test_its_place_is_not_counted_twice(self) -> None:
        time = running(2)
        assert time.tell(Worn("w1"), Resized(3)) == [Retire("w1"), Spawn("w3")]

    @pytest.mark.parametrize("state", [State.STARTING, State.RETIRING, State.TERMINATING, State.KILLED])
    def test_who_is_not_ready_is_left_alone(self, state: State) -> None:
        assert (state, Worn) not in TRANSITIONS


class TestAdoption:
    def test_those_who_are_there_count(self) -> None:
        time = Timeline(3, opened=False)
        assert time.tell(Adopted("old1"), Adopted("old2"), Adopted("old1")) == []
        assert time.tell(look(["old1"])) == [Spawn("w1")]

    def test_too_many(self) -> None:
        time = Timeline(2, opened=False)
        assert time.tell(*(Adopted(f"old{n}") for n in range(4)), Resized(1)) == []
        assert time.tell(look(["old3", "old0"])) == [Retire("old2"), Retire("old1"), Retire("old3")]
        assert time.tell(Adopted("old4")) == [Retire("old4")]
        assert time.tell(Adopted("old4"), Adopted("old0")) == []

    def test_a_death_before_the_first_look_is_made_up_for_after_it(self) -> None:
        time = Timeline(2, opened=False)
        assert time.tell(Adopted("old1"), Adopted("old2"), Died("old1", None)) == [Collect("old1", None)]
        assert time.tell(look()) == [Spawn("w1")]
        assert time.reports == []  # it had been ready for who knows how long

    def test_one_that_was_just_started(self) -> None:
        time = Timeline(2, opened=False)
        time.tell(Adopted("old1", ready=False), Adopted("old2", ready=False), look(), Hello("old1"))
        assert time.later(100) == [Signal("old2", "KILL")]

    def test_requests_of_before_are_heeded(self) -> None:
        time = Timeline(1, opened=False)
        time.tell(Adopted("old"))
        assert time.tell(look(["old"], terminate=["old"])) == [Retire("old"), Signal("old", "TERM")]

    def test_by_a_pool_that_stops(self) -> None:
        time = Timeline(1, opened=False)
        time.tell(Drain())
        assert time.tell(Adopted("old1")) == [Retire("old1")]
        assert time.tell(Adopted("old2", ready=False), End()) == [Retire("old2"), Signal("old1", "TERM"), Signal("old2", "TERM")]
        assert time.tell(Adopted("old3"), Adopted("old4", ready=False)) == [
            Retire("old3"),
            Signal("old3", "TERM"),
            Retire("old4"),
            Signal("old4", "TERM"),
        ]

    def test_an_id_is_never_given_twice(self) -> None:
        time = Timeline(1, opened=False)
        time.tell(Adopted("w1"), Resized(2))
        with pytest.raises(AssertionError, match="not this pool's alone"):
            time.tell(look())


class TestStopping:
    def test_drain_retires_all_and_waits(self) -> None:
        time = running(2, busy=["w2"])
        assert time.tell(Drain(), Drain()) == [Retire("w1"), Retire("w2")]
        assert time.alarm == time.now + DRAIN
        assert time.tell(Died("w1", 0)) == [Collect("w1", 0)]
        assert time.pool.phase is Phase.DRAINING
        assert time.pool.handle(Died("w2", 0), time.now) == [WakeAt(None), Collect("w2", 0), Stop()]

    def test_drain_is_patient_for_so_long(self) -> None:
        time = running(2, busy=["w1", "w2"])
        time.tell(Drain())
        time.later(6)
        assert time.tell(Drain(), look(["w1"], terminate=["w1"])) == [Signal("w1", "TERM")]  # its own grace runs from here
        assert time.later(4) == [Signal("w2", "TERM")]
        assert "w1, w2" in time.reports[0].message
        assert time.pool.phase is Phase.ENDING
        assert time.later(1) == [Signal("w1", "KILL")]
        assert time.later(4) == [Signal("w2", "KILL")]
        assert time.tell(Died("w1", -9), Died("w2", -9))[-1] == Stop()

    def test_end_terminates_all_at_once(self) -> None:
        time = running(3, busy=["w1"])
        time.tell(Worn("w1"), Resized(4), look(["w1", "w2"], kill=["w2"]))
        assert time.tell(End(), End()) == [Signal("w1", "TERM"), Retire("w3"), Signal("w3", "TERM"), Retire("w4"), Signal("w4", "TERM")]
        assert time.later(GRACE) == [Signal("w1", "KILL"), Signal("w3", "KILL"), Signal("w4", "KILL")]

    def test_end_wins_over_drain(self) -> None:
        time = running(1, busy=["w1"])
        time.tell(Drain())
        assert time.tell(End(), Drain()) == [Signal("w1", "TERM")]
        assert time.later(100) == [Signal("w1", "KILL")]

    def test_resized_is_remembered_and_nobody_started(self) -> None:
        time = running(1)
        time.tell(Drain())
        assert time.tell(Resized(5)) == []
        assert time.pool.size == 5
        assert time.tell(Died("w1", 0)) == [Collect("w1", 0), Stop()]

    @pytest.mark.parametrize("event", [Drain(), End()])
    def test_an_empty_pool_stops_at_once_and_once(self, event: Event) -> None:
        time = Timeline(0)
        assert time.tell(event) == [Stop()]
        assert time.tell(event, End(), Resized(3), Adopted("late"), look(["late"], kill=["late"]), Tick()) == []
        assert (dict(time.pool.workers), time.alarm) == ({}, None)

    @pytest.mark.parametrize("event", [Drain(), End()])
    def test_nobody_is_declared_gone_before_the_first_look(self, event: Event) -> None:
        time = Timeline(1, opened=False)
        assert time.tell(event) == []
        assert time.tell(Adopted("old"))[0] == Retire("old")
        assert time.tell(look()) == []
        assert time.tell(Died("old", 0))[-1] == Stop()

    def test_a_start_that_fails_while_the_pool_stops(self) -> None:
        time = Timeline(2)
        time.tell(End())
        assert time.tell(SpawnFailed("w1", "no"), Died("w2", -15))[-1] == Stop()
        assert time.reports == []


class TestWake:
    def test_the_earliest_is_asked_for_once(self) -> None:
        pool = Pool(1, "w")
        assert pool.handle(Looked(), 0) == [WakeAt(60), Spawn("w1")]
        assert pool.handle(Resized(2), 1) == [Spawn("w2")]
        assert pool.handle(Hello("w1"), 2) == [WakeAt(61)]
        assert pool.handle(Looked(frozenset({"w1"}), frozenset({"w1"})), 3) == [WakeAt(8), Retire("w1"), Signal("w1", "TERM")]
        assert pool.handle(Died("w1", 0), 4) == [WakeAt(61), Collect("w1", 0), Spawn("w3")]
        assert pool.handle(Hello("w2"), 5) == [WakeAt(64)]
        assert pool.handle(Hello("w3"), 6) == [WakeAt(None)]

    def test_a_tick_that_came_too_early_is_asked_for_again(self) -> None:
        """Event loops run a timer up to one resolution of their clock before its time; the wake must not be lost then."""
        pool = Pool(1, "w")
        pool.handle(Looked(), 0)
        assert pool.handle(Tick(), 59.9999) == [WakeAt(60)]
        assert pool.handle(Tick(), 60) == [Signal("w1", "KILL")]
        assert pool.handle(Tick(), 61) == []

    def test_a_start_that_fails_while_others_are_to_be_made(self) -> None:
        """Its failure is handled in the middle of what the look asked for, and the wake of the look must not overwrite that of the backoff."""
        pool = Pool(2, "w")
        wakes: list[float | None] = []

        def perform(instructions: list[Instruction]) -> None:
            for instruction in instructions:
                if isinstance(instruction, WakeAt):
                    wakes.append(instruction.when)
                elif isinstance(instruction, Spawn):
                    perform(pool.handle(SpawnFailed(instruction.worker, "no"), 0))

        perform(pool.handle(Looked(), 0))
        pool.validate()
        assert wakes[-1] == pytest.approx(0.1)

    def test_time_that_jumps_does_all_that_is_due(self) -> None:
        time = running(3, busy=["w1"])
        time.tell(look(["w1"], terminate=["w1"]), Resized(4), Drain())
        time.now += 1e6
        told = time.tell(Tick())
        assert [told.count(Signal(worker, "KILL")) for worker in ("w1", "w4")] == [1, 1]
        assert [told.count(Signal(worker, "TERM")) for worker in ("w2", "w3")] == [1, 1]


class TestTable:
    def test_every_state_is_reached_and_left(self) -> None:
        reached = {successor for successors in TRANSITIONS.values() for successor in successors}
        assert reached == set(State) - {State.NEW}
        assert {state for state, _ in TRANSITIONS} == set(State) - {State.DEAD}

    def test_every_event_concerns_some_worker(self) -> None:
        assert {event for _, event in TRANSITIONS} == set(get_args(Event))

    @pytest.mark.parametrize("state", [state for state in State if state not in (State.NEW, State.DEAD)], ids=lambda state: state.name)
    def test_every_worker_can_die(self, state: State) -> None:
        assert TRANSITIONS[state, Died] == (State.DEAD,)

    def test_a_move_that_is_not_in_it_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TRANSITIONS", {key: to for key, to in TRANSITIONS.items() if key != (State.READY, Resized)})
        time = running(1)
        with pytest.raises(AssertionError, match="w1 is ready and cannot become retiring by Resized"):
            time.tell(Resized(0))

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(TypeError):
            cast(Any, TRANSITIONS)[State.NEW, Drain] = ()
        with pytest.raises(TypeError):
            del cast(Any, running(1).pool.workers)["w1"]

    def test_the_diagram(self) -> None:
        lines = diagram().splitlines()
        assert lines[0] == "stateDiagram-v2"
        assert "    [*] --> READY : Adopted" in lines
        assert "    READY --> TERMINATING : Looked, Adopted, End" in lines
        assert "    KILLED --> [*] : Died, SpawnFailed" in lines
        assert len(lines) == len(set(lines))

    def test_it_imports_nothing_that_could_act(self) -> None:
        tree = ast.parse(inspect.getsource(module))
        imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= {"__future__", "collections.abc", "dataclasses", "enum", "math", "types", "typing"}


# The world in which anything may happen.


@dataclass
class Process:
    """A worker's process, as it really is."""

    alive: bool = True
    hello: bool = False
    retired: bool = False
    busy: bool = False
    requests: set[str] = field(default_factory=set)
    signals: list[str] = field(default_factory=list)
    born: float = 0.0
    termed: float | None = None
    doomed: bool = False  # it will end without ever getting ready


class World(RuleBasedStateMachine):
    """Processes that live and die as they like, messages that arrive late, twice and in any order, and a performer that does as it is told."""

    @initialize(size=st.integers(0, 4))
    def begin(self, size: int) -> None:
        self.pool = Pool(size, "w", grace=GRACE, drain=DRAIN, start_timeout=START_TIMEOUT)
        self.now = 0.0
        self.size = size
        self.alarm: float | None = None
        self.processes: dict[str, Process] = {}
        self.mail: list[Event] = []
        self.heard_dead: set[str] = set()
        self.heard_hello: set[str] = set()
        self.collected: Counter[str] = Counter()
        self.retired: Counter[str] = Counter()
        self.looked = False
        self.stops = 0
        self.drained: float | None = None
        self.ended = False
        self.spawn_fails = ""

    # What the performer does.

    def tell(self, event: Event) -> None:
        over = self.stops > 0
        if isinstance(event, Tick):
            self.alarm = None  # a timer goes off once
        if isinstance(event, Died | SpawnFailed):
            self.heard_dead.add(event.worker)
        if isinstance(event, Hello):
            self.heard_hello.add(event.worker)
        instructions = self.pool.handle(event, self.now)
        assert not (over and instructions), "an instruction after Stop"
        for instruction in instructions:
            self.perform(instruction)

    def perform(self, instruction: Instruction) -> None:
        assert self.stops == 0, "Stop is not the last instruction"
        match instruction:
            case Spawn(id):
                assert id not in self.processes, "an id was given twice"
                assert self.drained is None, "started while the pool stops"
                assert not self.ended, "started while the pool ends"
                self.processes[id] = Process(alive=not self.spawn_fails, born=self.now)
                if self.spawn_fails == "at once":
                    self.tell(SpawnFailed(id, "no room"))
                elif self.spawn_fails:
                    self.mail.append(SpawnFailed(id, "no room"))
            case Retire(id):
                assert id not in self.heard_dead, "told to retire after its death"
                self.retired[id] += 1
                assert self.retired[id] == 1, "told to retire twice"
                self.processes[id].retired = True
            case Signal(id, name):
                assert id not in self.heard_dead, "signalled after its death"
                process = self.processes[id]
                assert name not in process.signals, "signalled twice"
                assert "KILL" not in process.signals, "terminated after it was killed"
                assert name == "KILL" or process.retired, "terminated, and may claim another"
                process.signals.append(name)
                if name == "TERM":
                    process.termed = self.now
                elif process.alive:
                    self.dies(id, -9)
            case Collect(id, _):
                assert id in self.heard_dead, "collected alive"
                self.collected[id] += 1
                assert self.collected[id] == 1, "collected twice"
                self.processes[id].busy = False
            case WakeAt(when):
                self.alarm = when
            case Report(level, message):
                assert level in ("info", "warning")
                assert message
            case Stop():
                self.stops += 1
                assert self.drained is not None or self.ended, "stopped without being asked"
                assert not [id for id in self.processes if id not in self.heard_dead], "stopped, and somebody is left"

    def dies(self, id: str, exitcode: int) -> None:
        process = self.processes[id]
        process.alive = False
        self.mail.append(Died(id, exitcode))

    def living(self) -> list[str]:
        return [id for id, process in self.processes.items() if process.alive]

    # What happens. Each rule picks by number, so that examples shrink well.

    number = st.integers(0, 7)

    def pick(self, number: int, ids: list[str]) -> str | None:
        return ids[number % len(ids)] if ids else None

    @rule(number=number)
    def says_hello(self, number: int) -> None:
        if id := self.pick(number, [id for id in self.living() if not self.processes[id].hello and not self.processes[id].doomed]):
            self.processes[id].hello = True
            self.mail.append(Hello(id))

    @rule(number=number)
    def never_gets_ready(self, number: int) -> None:
        if id := self.pick(number, [id for id in self.living() if not self.processes[id].hello]):
            self.processes[id].doomed = True

    @rule(number=number)
    def claims(self, number: int) -> None:
        if id := self.pick(number, [id for id in self.living() if self.processes[id].hello and not self.processes[id].retired]):
            self.processes[id].busy = True

    @rule(number=number)
    def finishes(self, number: int) -> None:
        if id := self.pick(number, [id for id in self.living() if self.processes[id].busy]):
            self.processes[id].busy = False
            self.processes[id].requests.clear()

    @rule(number=number, exitcode=st.sampled_from([0, 1, -9, -11]))
    def dies_of_itself(self, number: int, exitcode: int) -> None:
        if id := self.pick(number, self.living()):
            self.dies(id, exitcode)

    @rule(number=number)
    def obeys(self, number: int) -> None:
        if id := self.pick(number, [id for id in self.living() if self.processes[id].termed is not None or self.may_leave(id)]):
            self.dies(id, 0 if self.processes[id].termed is None else -15)

    def may_leave(self, id: str) -> bool:
        process = self.processes[id]
        return process.retired and not process.busy and process.hello

    @rule(number=number, request=st.sampled_from(["terminate", "kill"]))
    def request(self, number: int, request: str) -> None:
        if id := self.pick(number, [id for id in self.living() if self.processes[id].busy]):
            self.processes[id].requests.add(request)

    @rule()
    def look(self) -> None:
        self.looked = True
        busy = {id for id, process in self.processes.items() if process.busy}
        terminate, kill = ({id for id in busy if request in self.processes[id].requests} for request in ("terminate", "kill"))
        self.tell(look(busy, terminate=terminate, kill=kill))
        if not self.stops:
            for id in busy - self.heard_dead:
                assert self.pool.workers[id].busy
                signals = self.processes[id].signals
                assert signals or id not in terminate | kill, "a request was overlooked"
                assert "KILL" in signals or id not in kill, "a request to kill was overlooked"

    @rule(number=number)
    def delivery(self, number: int) -> None:
        if self.mail:
            self.tell(self.mail.pop(number % len(self.mail)))

    @rule(number=number, kind=st.sampled_from([Hello, Worn]))
    def old_news(self, number: int, kind: type[Hello | Worn]) -> None:
        if id := self.pick(number, [id for id in self.processes if id in self.heard_dead]):
            self.tell(kind(id))
            self.tell(Died(id, None))

    @rule(number=number)
    def worn(self, number: int) -> None:
        if id := self.pick(number, self.living()):
            self.tell(Worn(id))

    @rule(size=st.integers(0, 5))
    def resize(self, size: int) -> None:
        self.size = size
        before = dict(self.retired)
        self.tell(Resized(size))
        sent_away = self.retired.keys() - before.keys()
        staying = [worker for worker in self.pool.workers.values() if worker.placed]
        if any(self.pool.workers[id].busy for id in sent_away):
            assert all(worker.busy and worker.state is State.READY for worker in staying), "sent away from its work, and an idle one stays"

    @precondition(lambda self: self.stops == 0)
    @rule(ready=st.booleans())
    def adopt(self, ready: bool) -> None:
        id = f"old{len(self.processes)}"
        self.processes[id] = Process(hello=ready, born=self.now)
        if ready:
            self.heard_hello.add(id)
        self.tell(Adopted(id, ready))

    @rule(number=number, ready=st.booleans())
    def adopt_again(self, number: int, ready: bool) -> None:
        if id := self.pick(number, [id for id in self.processes if id not in self.heard_dead]):
            self.tell(Adopted(id, ready))

    @rule(fails=st.sampled_from(["", "at once", "later"]))
    def room(self, fails: str) -> None:
        self.spawn_fails = fails

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        if self.alarm is not None and self.alarm <= self.now:
            self.tell(Tick())

    @rule()
    def tick_out_of_turn(self) -> None:
        self.tell(Tick())

    @precondition(lambda self: self.drained is None and not self.ended)
    @rule(sure=st.integers(0, 9))
    def drain(self, sure: int) -> None:
        if sure == 9:  # rarely, or no example would get anywhere else
            self.drained = self.now
            self.tell(Drain())

    @precondition(lambda self: self.drained is not None)
    @rule()
    def drain_again(self) -> None:
        self.tell(Drain())

    @rule(sure=st.integers(0, 19))
    def end(self, sure: int) -> None:
        if sure == 19:
            self.ended = True
            self.tell(End())

    @precondition(lambda self: self.ended)
    @rule()
    def end_again(self) -> None:
        self.tell(End())

    # What must be so after each step.

    @invariant()
    def it_is_valid(self) -> None:
        self.pool.validate()

    @invariant()
    def it_knows_the_living(self) -> None:
        if not self.stops:
            assert set(self.pool.workers) == set(self.processes) - self.heard_dead
        assert set(self.collected) == self.heard_dead & set(self.collected)

    @invariant()
    def it_wakes_in_time(self) -> None:
        """Told from the world's side alone: whatever is unfinished has a wake before it, or a message on its way."""
        if self.stops:
            return
        limit = math.inf
        for id, process in self.processes.items():
            if id in self.heard_dead or "KILL" in process.signals:
                continue
            if process.termed is not None:
                limit = min(limit, process.termed + GRACE)
            elif id not in self.heard_hello and self.pool.workers[id].ready_at is None:
                limit = min(limit, process.born + START_TIMEOUT)
        if self.drained is not None and not self.ended and self.pool.phase is Phase.DRAINING:
            limit = min(limit, self.drained + DRAIN)
        if self.looked and self.drained is None and not self.ended and self.staff() < self.size:
            limit = min(limit, self.now + 30.0)
        if limit < math.inf:
            assert self.alarm is not None, "something is pending and no wake is asked for"
            assert self.alarm <= limit, "the wake is too late"

    def staff(self) -> int:
        """Who is there and was not sent away, or whose successor may not come yet."""
        return sum(worker.placed for worker in self.pool.workers.values())

    # And in the end.

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.spawn_fails = ""
        self.look()
        began = self.now
        for _ in range(1000):
            if not self.calm_down():
                break
        else:
            raise AssertionError("it does not come to rest")
        assert self.alarm is None
        assert self.collected.keys() == self.heard_dead
        if self.drained is not None or self.ended:
            assert self.stops == 1, "asked to stop, and it did not"
            assert not self.living()
        else:
            assert self.stops == 0
            workers = self.pool.workers.values()
            assert [worker.state for worker in workers] == [State.READY] * self.size
            assert sorted(self.living()) == sorted(self.pool.workers)
        assert self.now - began <= START_TIMEOUT + 30 + DRAIN + GRACE + 10 + 1, "starts were held for longer than half a minute"

    def calm_down(self) -> bool:
        """Let all take its good course for a while. Return whether anything was left to do."""
        busy = False
        for id in self.living():
            process = self.processes[id]
            if process.busy and self.drained is None and not self.ended:
                busy = True
                process.busy = False
                process.requests.clear()
            if not process.hello and not process.doomed:
                busy = True
                process.hello = True
                self.mail.append(Hello(id))
            if self.may_leave(id):
                busy = True
                self.dies(id, 0)
        while self.mail:
            busy = True
            self.tell(self.mail.pop(0))
        self.look()
        if self.alarm is not None and not busy:
            busy = True
            self.now = max(self.now, self.alarm)
            self.tell(Tick())
        self.it_is_valid()
        self.it_wakes_in_time()
        return busy


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
