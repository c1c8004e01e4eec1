"""Transactions over several objects, snapshots of them, and the checker of both against anomalies that are known.

The same seed repeats what each client does; how they interleave differs from run to run.
"""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.histories import transactions
from tests.faults.isolation import Append, Read, Transaction, anomalies
from tests.faults.rounds import Rounds


@pytest.mark.processes
def test_transactions_and_snapshots_are_strictly_serializable(rounds: Rounds, seconds: float) -> None:
    checked = 0
    began = time.monotonic()
    for level in itertools.cycle(["off", "normal", "full"]):
        if time.monotonic() > began + seconds:
            break
        history = transactions(rounds.run("lists", level))
        found = anomalies(history)
        assert not found, f"at {level}:\n" + "\n".join(map(str, found))
        checked += len(history)
    took = time.monotonic() - began
    print(f"{checked} transactions, {checked / took * 60:.0f} a minute; {rounds.killed} processes killed")
    assert checked > 0


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        ("unprotected_transactions", {"G1a", "G0", "G1c", "G-single", "G2", "incompatible", "internal"}),
        ("latest_snapshots", {"G-single", "G2", "G1c", "internal"}),
        ("kept_after_failure", {"G1a"}),
        ("kept_after_failed_savepoint", {"G1a"}),
        ("stale_values", {"G-single", "incompatible", "internal"}),
        ("answered_too_early", {"G-single"}),
    ],
    ids=["unprotected_transactions", "latest_snapshots", "kept_after_failure", "kept_after_failed_savepoint", "stale_values", "answered_too_early"],
)
def test_a_flaw_is_noticed(rounds: Rounds, flaw: str, expected: set[str]) -> None:
    for number in range(60):
        found = anomalies(transactions(rounds.run("lists", "off", flaw)))
        if names := {anomaly.name for anomaly in found} & expected:
            print(f"{sorted(names)} in round {number}:\n{found[0]}")
            return
    pytest.fail(f"60 rounds with {flaw}, and nothing was noticed")


# The checker.

X, Y = "x", "y"


def committed(invoked: int, returned: int, *steps: Append | Read) -> Transaction:
    return Transaction(f"c{invoked}", steps, "committed", invoked, returned)


def aborted(invoked: int, returned: int, *steps: Append | Read) -> Transaction:
    return Transaction(f"c{invoked}", steps, "aborted", invoked, returned)


KNOWN: dict[str, tuple[str, list[Transaction]]] = {
    "dirty write": (
        "G0",
        [
            committed(0, 9, Append(X, 1), Append(Y, 1)),
            committed(1, 8, Append(X, 2), Append(Y, 2)),
            committed(10, 11, Read(X, (1, 2)), Read(Y, (2, 1))),
        ],
    ),
    "aborted read": ("G1a", [aborted(0, 1, Append(X, 1)), committed(2, 3, Read(X, (1,)))]),
    "aborted read beneath a committed append": (
        "G1a",
        [aborted(0, 1, Append(X, 1)), committed(2, 3, Append(X, 2)), committed(4, 5, Read(X, (1, 2)))],
    ),
    "intermediate read": ("G1b", [committed(0, 9, Append(X, 1), Append(X, 2)), committed(1, 8, Read(X, (1,)))]),
    "circular information flow": ("G1c", [committed(0, 9, Append(X, 1), Read(Y, (1,))), committed(1, 8, Append(Y, 1), Read(X, (1,)))]),
    "read from the future": ("G1c", [committed(0, 1, Read(X, (1,))), committed(2, 3, Append(X, 1))]),
    "lost update": (
        "G-single",
        [
            committed(0, 8, Read(X, ()), Append(X, 1)),
            committed(1, 9, Read(X, ()), Append(X, 2)),
            committed(10, 11, Read(X, (1, 2))),
        ],
    ),
    "append that a later one has overwritten": ("G0", [committed(0, 1, Append(X, 1)), committed(2, 3, Append(X, 2)), committed(4, 5, Read(X, (2,)))]),
    "fractured snapshot": ("G-single", [committed(0, 9, Append(X, 1), Append(Y, 1)), committed(1, 8, Read(X, (1,)), Read(Y, ()))]),
    "stale read": ("G-single", [committed(0, 1, Append(X, 1)), committed(2, 3, Read(X, ()))]),
    "write skew": (
        "G2",
        [
            committed(0, 8, Read(X, ()), Append(Y, 1)),
            committed(1, 9, Read(Y, ()), Append(X, 1)),
            committed(10, 11, Read(X, (1,)), Read(Y, (1,))),
        ],
    ),
    "long fork": (
        "G2",
        [
            committed(0, 9, Append(X, 1)),
            committed(1, 9, Append(Y, 1)),
            committed(2, 8, Read(X, (1,)), Read(Y, ())),
            committed(3, 8, Read(X, ()), Read(Y, (1,))),
        ],
    ),
    "rolled back, having read an impossible state": (
        "G-single",
        [committed(0, 9, Append(X, 1), Append(Y, 1)), aborted(1, 8, Read(X, (1,)), Read(Y, ()))],
    ),
    "own append not seen": ("internal", [committed(0, 1, Append(X, 1), Read(X, ()))]),
    "read twice, and differently": ("internal", [committed(0, 9, Read(X, ()), Read(X, (1,))), committed(1, 2, Append(X, 1))]),
    "nobody's value": ("garbage", [committed(0, 1, Read(X, (1,)))]),
    "appended twice": ("duplicate", [committed(0, 1, Append(X, 1)), committed(2, 3, Read(X, (1, 1)))]),
    "two histories of one list": (
        "incompatible",
        [committed(0, 9, Append(X, 1)), committed(0, 9, Append(X, 2)), committed(1, 8, Read(X, (1, 2))), committed(1, 8, Read(X, (2, 1)))],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_an_anomaly_is_called_by_its_name(name: str) -> None:
    expected, history = KNOWN[name]
    found = anomalies(history)
    assert expected in {anomaly.name for anomaly in found}, [str(anomaly) for anomaly in found]
    assert expected in str(found[0]) or len(found) > 1


def test_what_may_or_may_not_have_happened() -> None:
    lost = Transaction("killed", (Append(X, 1), Append(Y, 1)), "unknown", 0, 1 << 62)
    assert anomalies([lost, committed(5, 6, Read(X, ()), Read(Y, ()))]) == []
    assert anomalies([lost, committed(5, 6, Read(X, (1,)), Read(Y, (1,)))]) == []
    assert [anomaly.name for anomaly in anomalies([lost, committed(5, 6, Read(X, (1,)), Read(Y, ()))])] == ["G-single"]


def run_serially(rng: random.Random, count: int, width: int) -> tuple[list[Transaction], list[int]]:
    """Return transactions that were run one after another, and whose intervals overlap, with the order in which they were run."""
    lists: dict[Any, tuple[Any, ...]] = {X: (), Y: ()}
    history, values = [], itertools.count()
    for number in range(count):
        status: Any = rng.choice(["committed"] * 4 + ["aborted"])
        before = dict(lists)
        steps: list[Append | Read] = []
        for _ in range(rng.randint(1, 3)):
            key = rng.choice([X, Y])
            if rng.random() < 0.5:
                steps.append(Append(key, next(values)))
                lists[key] += (steps[-1].value,)  # type: ignore[union-attr]
            else:
                steps.append(Read(key, lists[key]))
        if status == "aborted":
            lists = before
        history.append(Transaction(f"c{number}", tuple(steps), status, 10 * number - rng.randint(0, width), 10 * number + rng.randint(0, width)))
    return history, list(range(count))


@settings(max_examples=100, deadline=None, database=None)
@given(st.randoms(use_true_random=False), st.integers(0, 25), st.integers(0, 60))
def test_what_is_serial_by_construction_is_accepted(rng: random.Random, count: int, width: int) -> None:
    history, _ = run_serially(rng, count, width)
    rng.shuffle(history)
    assert anomalies(history) == []


def is_serializable(history: list[Transaction]) -> bool:
    """Return whether any order of the transactions that respects time gives each what it has read; by trying all."""
    for order in itertools.permutations(history):
        if any(after.returned < before.invoked for before, after in itertools.combinations(order, 2)):
            continue
        lists: dict[Any, tuple[Any, ...]] = {X: (), Y: ()}
        for transaction in order:
            before = dict(lists)
            for step in transaction.steps:
                if isinstance(step, Append):
                    lists[step.key] += (step.value,)
                elif lists[step.key] != step.seen:
                    break
            else:
                if transaction.status == "aborted":
                    lists = before
                continue
            break
        else:
            return True
    return False


def test_it_agrees_with_trying_every_order() -> None:
    """A serial history of up to five transactions, of which some reads are changed. What is refused must have no order.

    The other direction holds where every append was seen in the end: the order of the versions is known then.
    """
    verdicts = set()

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.randoms(use_true_random=False), st.integers(1, 5), st.integers(0, 3))
    def agree(rng: random.Random, count: int, changes: int) -> None:
        history, _ = run_serially(rng, count, 30)
        for _ in range(changes):
            number = rng.randrange(count)
            steps = list(history[number].steps)
            position = rng.randrange(len(steps))
            step = steps[position]
            if isinstance(step, Read):
                steps[position] = Read(step.key, rng.choice([step.seen[:-1], (), step.seen[::-1]]))
                old = history[number]
                history[number] = Transaction(old.client, tuple(steps), old.status, old.invoked, old.returned)
        final: dict[Any, tuple[Any, ...]] = {X: (), Y: ()}
        for transaction in history:
            if transaction.status == "committed":
                for step in transaction.steps:
                    if isinstance(step, Append):
                        final[step.key] += (step.value,)
        history.append(committed(1000, 1001, Read(X, final[X]), Read(Y, final[Y])))
        verdict = is_serializable(history)
        verdicts.add(verdict)
        assert (anomalies(history) == []) == verdict

    agree()
    assert verdicts == {True, False}
