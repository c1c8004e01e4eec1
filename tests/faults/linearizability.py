"""Whether a history of concurrent operations can be explained by a sequential model: the search for its linearization.

A history is linearizable if one can give each operation a moment between its invocation and its return, so that, done one after another in the order
of these moments, they return what they have returned (Herlihy & Wing, "Linearizability: a correctness condition for concurrent objects", TOPLAS
12(3), 1990). The search is that of Wing & Gong ("Testing and verifying concurrent objects", JPDC 17, 1993) with Lowe's memory of what was tried
("Testing for linearizability", Concurrency and Computation 29(4), 2017): a set of operations done, together with the state that they lead to, is
looked at once. Where a model says that operations concern different parts, each part is searched by itself (Horn & Kroening, "Faster linearizability
checking via P-compositionality", FORTE 2015).

Invariants:

- An operation that has no return (its client was killed, or does not know) may take effect at any moment after its invocation, or never.
- One that by its contract did not happen (it was cancelled) is not in the history: if it has happened nevertheless, the others cannot be explained.
- The search gives up (:class:`Undecided`) rather than guess.

Pure: no clock, no files, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

__all__ = ["FOREVER", "LIMIT", "Model", "Operation", "Undecided", "explain", "is_linearizable", "shrink", "table"]

FOREVER: Final = 1 << 62
"""The return of an operation that has none."""

LIMIT: Final = 200_000
"""Steps after which a search gives up: a second or two."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one client has asked for and was told. Times are of a clock that all clients share."""

    client: str
    name: str
    arguments: tuple[Any, ...]
    outcome: Any
    invoked: int
    returned: int = FOREVER

    @property
    def pending(self) -> bool:
        """Whether nobody knows what has become of it."""
        return self.returned == FOREVER


class Model(Protocol):
    """An object as one thread would know it. States are immutable, hashable values."""

    @property
    def initial(self) -> Hashable:
        """The state before the first operation."""

    def apply(self, state: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        """Return the state after an operation, and what it returns."""

    def part(self, operation: Operation) -> Hashable:
        """Return which part of the object an operation concerns; None if it is all of it."""

    def reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        """Return whether an operation never changes anything."""

    def guide(self, history: Sequence[Operation]) -> Callable[[Any], bool] | None:
        """Return what says of a state whether a linearization of the history may come through it; None if nothing can be said.

        It makes the search short, and must not refuse a state that is right.
        """


class Undecided(Exception):
    """The search has taken too many steps."""


def parts(model: Model, history: Iterable[Operation]) -> list[list[Operation]]:
    """Divide a history into what can be explained independently."""
    operations = list(history)
    found: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        part = model.part(operation)
        if part is None:
            return [operations]
        found.setdefault(part, []).append(operation)
    return list(found.values())


def is_linearizable(model: Model, history: Iterable[Operation], limit: int = LIMIT) -> bool:
    """Return whether every part of a history has a linearization. Raises Undecided after ``limit`` steps in a part."""
    return all(explain(model, part, limit) is not None for part in parts(model, history))


class _Event:
    """The invocation or the return of an operation, in a list from which both are lifted out and put back in constant time."""

    __slots__ = ("following", "invokes", "number", "previous", "return_of")

    def __init__(self, number: int, invokes: bool) -> None:
        self.number = number
        self.invokes = invokes
        self.previous: _Event | None = None
        self.following: _Event | None = None
        self.return_of: _Event | None = None  # of an invocation: its return


def _events(operations: Sequence[Operation]) -> _Event:
    """Return the head of the list of all events in the order of time."""
    moments: list[tuple[int, int, _Event]] = []
    for number, operation in enumerate(operations):
        invocation = _Event(number, True)
        # At equal times the invocation comes first: what may have overlapped is taken to have.
        moments.append((operation.invoked, 0, invocation))
        if not operation.pending:
            invocation.return_of = _Event(number, False)
            moments.append((operation.returned, 1, invocation.return_of))
    moments.sort(key=lambda moment: moment[:2])
    head = last = _Event(-1, False)
    for _, _, event in moments:
        last.following, event.previous = event, last
        last = event
    return head


def _lift(event: _Event) -> None:
    assert event.previous is not None
    event.previous.following = event.following
    if event.following is not None:
        event.following.previous = event.previous


def _put_back(event: _Event) -> None:
    assert event.previous is not None
    event.previous.following = event
    if event.following is not None:
        event.following.previous = event


def explain(model: Model, history: Iterable[Operation], limit: int = LIMIT) -> list[Operation] | None:
    """Return a linearization of a history, or None if there is none. Those without a return that it does not need are left out.

    Raises:
        Undecided: It took more than ``limit`` steps.
    """
    # Reads without a return explain nothing.
    operations = [each for each in history if not (each.pending and model.reads(each.name, each.arguments))]
    possible = model.guide(operations)
    head = _events(operations)
    left = sum(not each.pending for each in operations)
    state: Any = model.initial
    done = 0
    lost = sum(1 << number for number, operation in enumerate(operations) if operation.pending)
    # By what is done of those that have returned, and the state: which of the others that took. Whoever got there with fewer can do all that one
    # can who needed these and more.
    seen: dict[tuple[int, Any], list[int]] = {(0, state): [0]}
    path: list[tuple[_Event, Any]] = []
    event = head.following
    steps = 0
    while left:
        if event is not None and event.invokes:
            steps += 1
            if steps > limit:
                raise Undecided(f"no linearization of {len(operations)} operations, and no proof that there is none, after {limit} steps")
            operation = operations[event.number]
            after, outcome = model.apply(state, operation.name, operation.arguments)
            if (operation.pending or outcome == operation.outcome) and (possible is None or possible(after)):
                reached = done | 1 << event.number
                used = seen.setdefault((reached & ~lost, after), [])
                if not any(fewer & reached == fewer for fewer in used):
                    used.append(reached & lost)
                    path.append((event, state))
                    done, state = reached, after
                    _lift(event)
                    if event.return_of is not None:
                        _lift(event.return_of)
                        left -= 1
                    event = head.following
                    continue
            event = event.following
            continue
        # A return of what is not done, or the end: the last choice was wrong.
        if not path:
            return None
        event, state = path.pop()
        done ^= 1 << event.number
        if event.return_of is not None:
            _put_back(event.return_of)
            left += 1
        _put_back(event)
        event = event.following
    return [operations[event.number] for event, _ in path]


def shrink(model: Model, history: Iterable[Operation], limit: int = 20_000) -> list[Operation]:
    """Return a small part of a history that has no linearization, for people to read.

    The history ends as soon as it has gone wrong, reads that are not needed are left out, and so are calls that stored what nobody has seen; others
    become calls of which nobody knows the outcome. What is left has no linearization either, and every value seen in it has its origin in it: it
    shows what to look for. The proof is the whole.
    """

    def fails(operations: list[Operation]) -> bool:
        try:
            return explain(model, operations, limit) is None
        except Undecided:
            return False

    smallest = next((part for part in parts(model, history) if fails(part)), list(history))
    smallest.sort(key=lambda operation: operation.invoked)
    ends = sorted(operation.returned for operation in smallest if not operation.pending)
    low, high = 0, len(ends) - 1
    while low < high:  # the earliest moment at which it has gone wrong
        middle = (low + high) // 2
        low, high = (low, middle) if fails(_until(smallest, ends[middle])) else (middle + 1, high)
    if ends and fails(ended := _until(smallest, ends[low])):
        smallest = ended
    # Where it has gone wrong with a value that was seen, what stored others is no part of the story; where it is a number, everything counts.
    last = max((operation for operation in smallest if not operation.pending), key=lambda operation: operation.returned, default=None)
    of_value = last is not None and any(True for _ in _seen(last))
    for operation in list(smallest):
        without = [each for each in smallest if each is not operation]
        if not model.reads(operation.name, operation.arguments):
            stored = set(_values(operation.arguments))
            if operation.pending or not of_value or any(value in stored for each in without for value in _seen(each)):
                without.append(replace(operation, outcome=None, returned=FOREVER))
        if fails(without) and not operation.pending:
            smallest = without
    return smallest


def _seen(operation: Operation) -> Iterable[str]:
    """Yield the values that an operation has returned: text, as the clients store it, and no name of an exception."""
    return (value for value in _values(operation.outcome) if isinstance(value, str) and not value.startswith("raised "))


def _until(operations: Iterable[Operation], end: int) -> list[Operation]:
    """Return a history as it was at a moment: what came later is not there, and what had not returned has not."""
    return [
        operation if operation.returned <= end else replace(operation, outcome=None, returned=FOREVER)
        for operation in operations
        if operation.invoked <= end
    ]


def table(history: Iterable[Operation]) -> str:
    """Return a history as a table, in the order of the invocations, with times in microseconds since the first.

    Of those whose outcome is not known, or not needed, only those are shown that have a value in common with one whose outcome is.
    """
    operations = sorted(history, key=lambda operation: operation.invoked)
    values = {value for operation in operations if not operation.pending for value in _values((operation.arguments, operation.outcome))}
    shown = [each for each in operations if not each.pending or values & set(_values(each.arguments))]
    first = operations[0].invoked if operations else 0
    steps: list[str] = []
    rows = [("invoked", "returned", "client", "operation", "outcome")]
    for each in shown:
        call = f"{each.name}({', '.join(map(repr, each.arguments))})"
        if each.name == "transaction":  # too long for a column; its steps follow the table
            call = f"{each.arguments[0]} {len(steps) + 1}"
            steps.append(f"{call}: " + "; ".join(_steps(each.arguments[1], each.outcome)))
        returned, outcome = f"{(each.returned - first) / 1000:.1f}", "see below" if each.name == "transaction" else repr(each.outcome)
        if each.pending:
            returned, outcome = "?", "has happened or not"
        rows.append((f"{(each.invoked - first) / 1000:.1f}", returned, each.client, call, outcome))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([cell.rjust(width) if column < 2 else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))])
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    if len(shown) < len(operations):
        lines.append(f"and {len(operations) - len(shown)} others, which may have happened or not: that does not help")
    return "\n".join(lines + steps)


def _steps(steps: tuple[Any, ...], outcomes: Any) -> Iterable[str]:
    """Yield the steps of a transaction with what each has returned, as far as that is known."""
    for number, (what, name, arguments) in enumerate(steps):
        outcome = None if outcomes is None else outcomes[number]
        if what == "savepoint":
            yield f"[savepoint, {name}: {'; '.join(_steps(arguments, outcome))}]"
        else:
            yield f"{what}.{name}({', '.join(map(repr, arguments))})" + ("" if outcomes is None else f" = {outcome!r}")


def _values(nested: Any) -> Iterable[Any]:
    if isinstance(nested, tuple):
        for each in nested:
            yield from _values(each)
    elif isinstance(nested, Hashable) and nested is not None and not isinstance(nested, bool):
        yield nested
