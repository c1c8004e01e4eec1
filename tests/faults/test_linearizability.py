"""Histories of concurrent calls against the sequential models; and the checker against histories that are known to be right or wrong.

The same seed repeats what each client does. How they interleave differs from run to run, so a failure that does not come again at once is none the
less one: the table is its proof.
"""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.clients import KINDS, model
from tests.faults.linearizability import FOREVER, Model, Operation, Undecided, explain, is_linearizable, shrink, table
from tests.faults.models import DictModel, LogModel, QueueModel, Store, raised
from tests.faults.rounds import Rounds

LEVELS = ["off", "normal", "full"]
UNDECIDED = 0.02
"""Part of the rounds whose search may be given up."""


@pytest.mark.processes
def test_every_history_has_a_linearization(rounds: Rounds, seconds: float) -> None:
    checked = undecided = 0
    began = time.monotonic()
    for number, (kind, level) in enumerate(itertools.cycle((kind, level) for level in LEVELS for kind in KINDS)):
        if time.monotonic() > began + seconds:
            break
        history = rounds.run(kind, level)
        try:
            assert is_linearizable(model(kind), history), f"round {number}, {kind} at {level}:\n{table(shrink(model(kind), history))}"
        except Undecided:
            undecided += 1
        checked += len(history)
    took = time.monotonic() - began
    print(f"{checked} operations in {number} rounds, {checked / took * 60:.0f} a minute; {rounds.killed} processes killed; {undecided} undecided")
    assert checked > 0
    assert undecided <= max(1, UNDECIDED * number)


FLAWED = [
    ("stale_values", "keys"),
    ("stale_headers", "log"),
    ("stale_headers", "queue"),
    ("answered_too_early", "keys"),
    ("answered_too_early", "log"),
    ("cancelled_and_done", "keys"),
    ("cancelled_and_done", "queue"),
    ("delivered_twice", "queue"),
    ("out_of_order", "queue"),
    ("popped_in_two", "keys"),
    ("updated_one_by_one", "dict"),
    ("unprotected_transactions", "store"),
    ("latest_snapshots", "store"),
    ("kept_after_failure", "store"),
    ("kept_after_failed_savepoint", "store"),
]


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(("flaw", "kind"), FLAWED, ids=[f"{flaw}-{kind}" for flaw, kind in FLAWED])
def test_a_flaw_is_noticed(rounds: Rounds, flaw: str, kind: str) -> None:
    for number in range(60):
        history = rounds.run(kind, "off", flaw)
        try:
            if not is_linearizable(model(kind), history):
                print(f"noticed in round {number}:\n{table(shrink(model(kind), history))}")
                return
        except Undecided:
            pass
    pytest.fail(f"60 rounds with {flaw}, and nothing was noticed")


# The checker.


def operations(*lines: tuple[Any, ...]) -> list[Operation]:
    """Return operations from (invoked, returned, name, arguments, outcome); ``None`` for returned is one without."""
    return [
        Operation(f"c{number}", name, arguments, outcome, invoked, FOREVER if returned is None else returned)
        for number, (invoked, returned, name, arguments, outcome) in enumerate(lines)
    ]


WRONG: dict[str, tuple[Model, list[Operation]]] = {
    "stale read": (DictModel(), operations((0, 1, "set", ("a", 1), None), (2, 3, "set", ("a", 2), None), (4, 5, "get", ("a",), 1))),
    "new value, then the old one": (
        DictModel(),
        operations((0, 1, "set", ("a", 1), None), (2, 9, "set", ("a", 2), None), (3, 4, "get", ("a",), 2), (5, 6, "get", ("a",), 1)),
    ),
    "value that nobody has set": (DictModel(), operations((0, 9, "set", ("a", 1), None), (1, 2, "get", ("a",), 7))),
    "one entry taken by two": (
        DictModel(),
        operations((0, 1, "set", ("a", 1), None), (2, 9, "pop", ("a",), 1), (3, 8, "pop", ("a",), 1)),
    ),
    "two who both set the default": (DictModel(), operations((0, 5, "setdefault", ("a", 1), 1), (1, 4, "setdefault", ("a", 2), 2))),
    "update in two halves": (
        DictModel(),
        operations((0, 9, "update", ((("a", 1), ("b", 1)),), None), (2, 3, "items", (), (("a", 1),))),
    ),
    "cancelled, and yet done": (DictModel(), operations((0, 1, "set", ("a", 1), None), (4, 5, "get", ("a",), 2))),
    "killed, undone after it was seen": (
        DictModel(),
        operations((0, None, "set", ("a", 1), None), (1, 2, "get", ("a",), 1), (3, 4, "get", ("a",), None)),
    ),
    "double delivery": (QueueModel(), operations((0, 1, "put", ("x",), None), (2, 5, "get", (), "x"), (3, 6, "get", (), "x"))),
    "reordered": (
        QueueModel(),
        operations((0, 1, "put", ("x",), None), (2, 3, "put", ("y",), None), (4, 5, "get", (), "y"), (6, 7, "get", (), "x")),
    ),
    "reordered, last in first out": (
        QueueModel(lifo=True),
        operations((0, 1, "put", ("x",), None), (2, 3, "put", ("y",), None), (4, 5, "get", (), "x")),
    ),
    "lost item": (QueueModel(), operations((0, 1, "put", ("x",), None), (2, 3, "get", (), raised("Empty")))),
    "full with room": (QueueModel(2), operations((0, 1, "put", ("x",), None), (2, 3, "put", ("y",), raised("Full")))),
    "more than there is room for": (QueueModel(1), operations((0, 5, "put", ("x",), None), (1, 5, "put", ("y",), None), (6, 7, "qsize", (), 2))),
    "log overwritten": (LogModel(), operations((0, 5, "append", ("x",), None), (1, 5, "append", ("y",), None), (6, 7, "len", (), 1))),
    "fractured snapshot": (
        Store({"d": DictModel(), "l": LogModel()}),
        operations(
            (0, 9, "transaction", ("commit", (("d", "set", ("a", 1)), ("l", "append", (1,)))), (None, None)),
            (1, 2, "transaction", ("snapshot", (("d", "get", ("a",)), ("l", "len", ()))), (1, 0)),
        ),
    ),
    "lost update": (
        Store({"d": DictModel()}),
        operations(
            (0, 1, "transaction", ("commit", (("d", "set", ("n", 0)),)), (None,)),
            (2, 5, "transaction", ("commit", (("d", "get", ("n",)), ("d", "set", ("n", 1)))), (0, None)),
            (3, 6, "transaction", ("commit", (("d", "get", ("n",)), ("d", "set", ("n", 2)))), (0, None)),
        ),
    ),
    "write skew": (
        Store({"d": DictModel()}),
        operations(
            (0, 5, "transaction", ("commit", (("d", "get", ("a",)), ("d", "set", ("b", 1)))), (None, None)),
            (1, 6, "transaction", ("commit", (("d", "get", ("b",)), ("d", "set", ("a", 1)))), (None, None)),
        ),
    ),
    "rolled back, and yet seen": (
        Store({"d": DictModel()}),
        operations(
            (0, 1, "transaction", ("rollback", (("d", "set", ("a", 1)),)), (None,)),
            (2, 3, "transaction", ("snapshot", (("d", "get", ("a",)),)), (1,)),
        ),
    ),
    "undone by a savepoint, and yet seen": (
        Store({"d": DictModel()}),
        operations(
            (0, 1, "transaction", ("commit", (("savepoint", "rollback", (("d", "set", ("a", 1)),)), ("d", "get", ("a",)))), ((None,), 1)),
        ),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name: str) -> None:
    model, history = WRONG[name]
    assert not is_linearizable(model, history)
    smallest = shrink(model, history)
    assert not is_linearizable(model, smallest)
    assert "operation" in table(smallest)


def test_what_has_no_return_happens_at_any_moment_or_never() -> None:
    killed = (0, None, "set", ("a", 1), None)
    histories: list[list[tuple[Any, ...]]] = [
        [killed],
        [killed, (1, 2, "get", ("a",), None)],
        [killed, (1, 2, "get", ("a",), 1)],
        [killed, (1, 2, "get", ("a",), None), (3, 4, "set", ("a", 2), None), (5, 6, "get", ("a",), 2), (7, 8, "get", ("a",), 1)],
    ]
    for lines in histories:
        assert is_linearizable(DictModel(), operations(*lines))


def test_what_is_shrunk_is_small_and_names_the_culprits() -> None:
    noise: list[tuple[Any, ...]] = [(10 * number, 10 * number + 9, "set", ("a", f"v{number}"), None) for number in range(50)]
    later = [(600 + number, 700 + number, "get", ("a",), "new") for number in range(20)]
    wrong = [(500, 501, "set", ("a", "new"), None), (502, 503, "get", ("a",), "v49")]
    history = operations(*noise, (1, 3, "set", ("b", "other"), None), *wrong, *later)
    smallest = [operation for operation in shrink(DictModel(), history) if not operation.pending]
    assert [operation.arguments for operation in smallest] == [("a", "v49"), ("a", "new"), ("a",)]
    shown = table(shrink(DictModel(), history))
    assert shown.count("\n") == 3
    assert "v49" in shown
    assert "v48" not in shown


def test_too_long_a_search_is_given_up() -> None:
    history = operations(*((0, 100, "put", (number,), None) for number in range(12)), (101, 102, "qsize", (), 11))
    with pytest.raises(Undecided):
        explain(QueueModel(), history, limit=1000)


MODELS: dict[str, Model] = {
    "dict": DictModel(),
    "queue": QueueModel(2),
    "lifo": QueueModel(2, lifo=True),
    "log": LogModel(),
}
CALLS: dict[str, Any] = {
    "dict": st.one_of(
        st.tuples(st.just("set"), st.tuples(st.sampled_from("ab"), st.integers(0, 2))),
        st.tuples(st.sampled_from(["get", "pop", "delete", "contains"]), st.tuples(st.sampled_from("ab"))),
        st.tuples(st.sampled_from(["len", "items", "clear", "popitem"]), st.just(())),
    ),
    "queue": st.one_of(
        st.tuples(st.just("put"), st.tuples(st.integers(0, 2))), st.tuples(st.sampled_from(["get", "qsize", "empty", "full"]), st.just(()))
    ),
    "log": st.one_of(
        st.tuples(st.just("append"), st.tuples(st.integers(0, 2))),
        st.tuples(st.just("getitem"), st.tuples(st.integers(-1, 1))),
        st.tuples(st.sampled_from(["len", "items"]), st.just(())),
    ),
}
CALLS["lifo"] = CALLS["queue"]
searched = settings(max_examples=60, deadline=None, database=None)


def brute_force(model: Model, history: list[Operation]) -> bool:
    """Return whether any order at all of any choice of what has no return explains a history."""
    done = [operation for operation in history if not operation.pending]
    optional = [operation for operation in history if operation.pending]
    for count in range(len(optional) + 1):
        for chosen in itertools.combinations(optional, count):
            for order in itertools.permutations([*done, *chosen]):
                if any(after.returned < before.invoked for before, after in itertools.combinations(order, 2)):
                    continue
                state: Any = model.initial
                for operation in order:
                    state, outcome = model.apply(state, operation.name, operation.arguments)
                    if not operation.pending and outcome != operation.outcome:
                        break
                else:
                    return True
    return False


@pytest.mark.parametrize("name", MODELS)
def test_it_agrees_with_trying_everything(name: str) -> None:
    """Histories of up to five operations with arbitrary outcomes, right or wrong."""
    model = MODELS[name]
    verdicts = set()

    lines = st.lists(st.tuples(CALLS[name], st.integers(0, 12), st.integers(1, 6), st.booleans(), st.integers(0, 3)), max_size=5)

    @searched
    @given(lines, st.randoms(use_true_random=False))
    def agree(calls: list[Any], rng: random.Random) -> None:
        history, state = [], model.initial
        for number, ((call, arguments), invoked, length, pending, kind) in enumerate(calls):
            state, outcome = model.apply(state, call, arguments)
            if kind == 0:
                outcome = rng.choice([None, 0, 1, 2, raised("Empty"), raised("Full"), raised("KeyError"), ()])
            lost = pending and kind == 1
            history.append(Operation(f"c{number}", call, arguments, None if lost else outcome, invoked, FOREVER if lost else invoked + length))
        verdict = brute_force(model, history)
        verdicts.add(verdict)
        assert is_linearizable(model, history) == verdict

    agree()
    assert verdicts == {True, False}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_linearizable_by_construction_is_accepted(name: str) -> None:
    """A sequential run whose moments are then stretched to intervals, some of which lose their end."""
    model = MODELS[name]

    @searched
    @given(st.lists(st.tuples(CALLS[name], st.integers(0, 30), st.integers(0, 30), st.integers(0, 9)), max_size=30))
    def accepted(calls: list[Any]) -> None:
        history, state = [], model.initial
        for number, ((call, arguments), before, behind, fate) in enumerate(calls):
            if fate != 1:  # of those without an end some never happen
                state, outcome = model.apply(state, call, arguments)
            moment = 10 * number
            lost = fate in (0, 1)
            history.append(Operation(f"c{number}", call, arguments, None if lost else outcome, moment - before, FOREVER if lost else moment + behind))
        assert is_linearizable(model, history)

    accepted()
