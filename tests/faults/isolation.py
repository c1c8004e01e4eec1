"""Whether a history of transactions is serializable, and if not, which anomaly it shows.

Objects are lists to which transactions append values that are never used twice, so a list that was read tells its own history: which transaction
wrote each version, and in which order. From that follow the dependencies between transactions (Adya, Liskov & O'Neil, "Generalized isolation level
definitions", ICDE 2000, section 4): ``ww`` to whoever appended next, ``wr`` to whoever read it, ``rw`` from whoever read a version to whoever
appended the next. The history is serializable if they have no cycle. This is the inference of Elle (Kingsbury & Alvaro, "Elle: inferring isolation
anomalies from experimental observations", PVLDB 14(3), 2020), which takes time linear in the size of the history.

parkit promises more: one writer at a time, and a snapshot of the moment of its creation. So the order of time (``rt``: one has returned before the
other was invoked) is a dependency like the others, which makes it strict serializability (Papadimitriou, "The serializability of concurrent database
updates", JACM 26(4), 1979).

Anomalies, by Adya's names: G0, a cycle of ``ww``; G1a, what a transaction read was rolled back; G1b, it is not the last that its transaction
appended; G1c, a cycle of ``ww`` and ``wr``; G-single, a cycle with one ``rw`` (lost update, fractured read, stale read); G2, one with more (write
skew). Besides these: ``internal``, a transaction does not see its own appends, or reads twice and differently; ``garbage``, nobody has appended that;
``duplicate``, an append that happened twice; ``incompatible``, two reads of one list of which neither begins with the other.

Pure, like :mod:`tests.faults.linearizability`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

__all__ = ["Anomaly", "Append", "Read", "Transaction", "anomalies"]

COMMITTED: Final = "committed"
ABORTED: Final = "aborted"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Append:
    """A value put at the end of a list."""

    key: Hashable
    value: Hashable


@dataclass(frozen=True, slots=True)
class Read:
    """A list as it was seen."""

    key: Hashable
    seen: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Transaction:
    """What one client did together. One that is aborted has read, and appended nothing; of one that is unknown the appends may be there or not.

    A snapshot has returned as soon as it is open: what it reads later it reads as of then.
    """

    client: str
    steps: tuple[Append | Read, ...]
    status: Literal["committed", "aborted", "unknown"]
    invoked: int
    returned: int

    def __str__(self) -> str:
        steps = "; ".join(
            f"append {each.key} {each.value}" if isinstance(each, Append) else f"read {each.key} {list(each.seen)}" for each in self.steps
        )
        return f"{self.client} [{self.invoked}, {self.returned}] {self.status}: {steps}"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """What cannot be, with the transactions that show it and how each depends on the one before."""

    name: str
    text: str
    transactions: tuple[Transaction, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.name}: {self.text}", *map(str, self.transactions)])


Edges = dict[int, dict[int, str]]
"""By the numbers of two transactions, the strongest reason why the second comes after the first."""

_STRENGTH: Final = ("ww", "wr", "rt", "rw")


def anomalies(history: Iterable[Transaction]) -> list[Anomaly]:
    """Return what of a history cannot be if it is strictly serializable; nothing, if it may be."""
    transactions = list(history)
    writers: dict[tuple[Hashable, Hashable], int] = {}
    for number, transaction in enumerate(transactions):
        for step in transaction.steps:
            if isinstance(step, Append):
                assert (step.key, step.value) not in writers, "values are used once"
                writers[step.key, step.value] = number
    found = [*_internal(transactions), *_values(transactions, writers)]
    versions, more = _versions(transactions)
    found += more
    if any(each.name in ("internal", "garbage", "duplicate", "incompatible") for each in found):
        return found  # there is no order of versions to reason about
    return found + _cycles(transactions, _dependencies(transactions, writers, versions))


def _own(transaction: Transaction) -> dict[Hashable, list[Hashable]]:
    """Return what a transaction has appended to each list, in order."""
    own: dict[Hashable, list[Hashable]] = defaultdict(list)
    for step in transaction.steps:
        if isinstance(step, Append):
            own[step.key].append(step.value)
    return own


def _outside(transaction: Transaction) -> Iterable[Read]:
    """Yield what a transaction saw of others: its reads without what it had appended itself."""
    own: dict[Hashable, int] = defaultdict(int)
    for step in transaction.steps:
        if isinstance(step, Append):
            own[step.key] += 1
        else:
            yield Read(step.key, step.seen[: len(step.seen) - own[step.key]])


def _internal(transactions: Sequence[Transaction]) -> Iterable[Anomaly]:
    for transaction in transactions:
        expected: dict[Hashable, tuple[Any, ...]] = {}
        own: dict[Hashable, tuple[Any, ...]] = defaultdict(tuple)
        for step in transaction.steps:
            if isinstance(step, Append):
                own[step.key] += (step.value,)
                if step.key in expected:
                    expected[step.key] += (step.value,)
            else:
                mine = own[step.key]
                if expected.get(step.key, step.seen) != step.seen or (mine and step.seen[-len(mine) :] != mine):
                    yield Anomaly("internal", f"a read of {step.key} does not go with what the transaction read or appended before", (transaction,))
                expected[step.key] = step.seen


def _values(transactions: Sequence[Transaction], writers: dict[tuple[Hashable, Hashable], int]) -> Iterable[Anomaly]:
    for number, transaction in enumerate(transactions):
        for read in _outside(transaction):
            if len(set(read.seen)) < len(read.seen):
                yield Anomaly("duplicate", f"a value is in {read.key} twice", (transaction,))
            for value in read.seen:
                writer = writers.get((read.key, value))
                if writer is None:
                    yield Anomaly("garbage", f"nobody has appended {value} to {read.key}", (transaction,))
                elif transactions[writer].status == ABORTED and writer != number:
                    yield Anomaly("G1a", f"{value} in {read.key} was rolled back", (transaction, transactions[writer]))
            last = writers.get((read.key, read.seen[-1])) if read.seen else None
            if last is not None and last != number and _own(transactions[last])[read.key][-1] != read.seen[-1]:
                yield Anomaly(
                    "G1b", f"{read.seen[-1]} is not the last that its transaction appended to {read.key}", (transaction, transactions[last])
                )


def _versions(transactions: Sequence[Transaction]) -> tuple[dict[Hashable, tuple[Any, ...]], list[Anomaly]]:
    """Return the longest that was seen of each list, and the reads that it does not begin with."""
    longest: dict[Hashable, tuple[tuple[Any, ...], Transaction]] = {}
    for transaction in transactions:
        for read in _outside(transaction):
            if read.key not in longest or len(read.seen) > len(longest[read.key][0]):
                longest[read.key] = read.seen, transaction
    found = []
    for transaction in transactions:
        for read in _outside(transaction):
            seen, other = longest[read.key]
            if seen[: len(read.seen)] != read.seen:
                found.append(Anomaly("incompatible", f"two reads of {read.key} of which neither begins with the other", (transaction, other)))
    return {key: seen for key, (seen, _) in longest.items()}, found


def _dependencies(
    transactions: Sequence[Transaction], writers: dict[tuple[Hashable, Hashable], int], versions: dict[Hashable, tuple[Any, ...]]
) -> Edges:
    edges: Edges = defaultdict(dict)

    def depend(before: int, after: int, reason: str) -> None:
        known = edges[before].get(after)
        if before != after and (known is None or _STRENGTH.index(reason) < _STRENGTH.index(known)):
            edges[before][after] = reason

    # What was appended for certain and never seen was appended behind all that was seen, in an order that nobody knows. It is certain of a
    # transaction that has committed, and of one that is unknown if anything of it was seen.
    happened = {writers[key, value] for key, version in versions.items() for value in version}
    unseen: dict[Hashable, set[int]] = defaultdict(set)
    for (key, value), writer in writers.items():
        if (transactions[writer].status == COMMITTED or writer in happened) and value not in versions.get(key, ()):
            unseen[key].add(writer)
    for key in {**versions, **unseen}:
        order = [writers[key, value] for value in versions.get(key, ())]
        for before, after in pairwise(order):
            depend(before, after, "ww")
        if order:
            for after in unseen[key]:
                depend(order[-1], after, "ww")
    for number, transaction in enumerate(transactions):
        for read in _outside(transaction):
            if read.seen:
                depend(writers[read.key, read.seen[-1]], number, "wr")
            whole = versions[read.key]
            # Those of its own are skipped: it read before it appended.
            following = (writers[read.key, value] for value in whole[len(read.seen) :])
            follower = next((writer for writer in following if writer != number), None)
            for after in unseen[read.key] if follower is None else (follower,):
                depend(number, after, "rw")
    for before, after in _real_time(transactions):
        depend(before, after, "rt")
    return edges


def _real_time(transactions: Sequence[Transaction]) -> Iterable[tuple[int, int]]:
    """Yield who has returned before whom was invoked, without what follows from others.

    The frontier is those that have returned, and after which nobody was invoked who has returned, too.
    """
    moments = [(transaction.invoked, 0, number) for number, transaction in enumerate(transactions)]
    moments += [(transaction.returned, 1, number) for number, transaction in enumerate(transactions) if transaction.status != UNKNOWN]
    frontier: set[int] = set()
    behind: dict[int, set[int]] = {}
    for _, returns, number in sorted(moments):
        if returns:
            frontier -= behind[number]
            frontier.add(number)
        else:
            behind[number] = set(frontier)
            for before in behind[number]:
                yield before, number


def _cycles(transactions: Sequence[Transaction], edges: Edges) -> list[Anomaly]:
    """Return a shortest cycle of each kind, the worst kind first, out of each set of transactions that depend on one another."""
    found = []
    for group in _components(len(transactions), edges):
        members = set(group)
        for name, kinds, last in (
            ("G0", "ww", "ww"),
            ("G1c", "ww wr", "wr"),
            ("G0", "ww rt", "ww"),
            ("G1c", "ww wr rt", "wr"),
            ("G-single", "ww wr rt", "rw"),
            ("G2", "ww wr rt rw", "rw"),
        ):
            cycle = _cycle(members, edges, kinds.split(), last)
            if cycle is not None:
                reasons = [edges[before][after] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
                timed = ", with the order of time" if "rt" in reasons else ""
                text = " ".join(f"T{number} -{reason}->" for number, reason in enumerate(reasons, 1)) + " T1" + timed
                found.append(Anomaly(name, text, tuple(transactions[number] for number in cycle)))
                break
    return found


def _cycle(members: set[int], edges: Edges, kinds: Sequence[str], last: str) -> list[int] | None:
    """Return a shortest cycle that ends with an edge of kind ``last`` and otherwise has edges of ``kinds``."""
    best: list[int] | None = None
    for start in sorted(members):
        for end, reason in edges[start].items():
            if reason != last or end not in members:
                continue
            path = _path(end, start, members, edges, kinds)
            if path is not None and (best is None or len(path) < len(best)):
                best = path
    return best


def _path(start: int, end: int, members: set[int], edges: Edges, kinds: Sequence[str]) -> list[int] | None:
    came_from = {start: start}
    line = deque([start])
    while line:
        here = line.popleft()
        if here == end:
            path = [here]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            return path[::-1]
        for after, reason in edges[here].items():
            if reason in kinds and after in members and after not in came_from:
                came_from[after] = here
                line.append(after)
    return None


def _components(count: int, edges: Edges) -> list[list[int]]:
    """Return the sets of more than one that can be reached from each other (Tarjan, SIAM J. Comput. 1(2), 1972), without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found = []
    for root in range(count):
        if root in index:
            continue
        work = [(root, iter(list(edges[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            here, successors = work[-1]
            for after in successors:
                if after not in index:
                    index[after] = low[after] = len(index)
                    stack.append(after)
                    on_stack.add(after)
                    work.append((after, iter(list(edges[after]))))
                    break
                if after in on_stack:
                    low[here] = min(low[here], index[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[here])
                if low[here] == index[here]:
                    component: list[int] = []
                    while not component or component[-1] != here:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    if len(component) > 1:
                        found.append(component)
    return found
