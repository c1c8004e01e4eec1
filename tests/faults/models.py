"""Sequential models of parkit's objects: what each call returns when nobody else is there.

States are immutable values, outcomes are what a recorded call returned, or :func:`raised`. A model is a rule for one object; :class:`Store` puts
several together, so that a transaction over them is one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from tests.faults.linearizability import Model, Operation

__all__ = ["DictModel", "LogModel", "ObjectModel", "QueueModel", "Store", "raised"]


def raised(name: str) -> str:
    """Return the outcome of a call that an exception of this name came out of."""
    return f"raised {name}"


class DictModel:
    """A Dict. Each key is a part of its own, unless a call concerns all of them."""

    initial: Hashable = ()
    whole = frozenset({"len", "items", "update", "clear", "popitem"})
    pure = frozenset({"get", "contains", "len", "items"})

    def apply(self, state: tuple[tuple[Any, Any], ...], name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        entries = dict(state)
        outcome = self.change(entries, name, arguments)
        return tuple(sorted(entries.items())), outcome

    def change(self, entries: dict[Any, Any], name: str, arguments: tuple[Any, ...]) -> Any:
        """Do to a dict what the call does."""
        match name, arguments:
            case "set", (key, value):
                entries[key] = value
            case "get", (key,):
                return entries.get(key)
            case "contains", (key,):
                return key in entries
            case "delete", (key,):
                if key not in entries:
                    return raised("KeyError")
                del entries[key]
            case "pop", (key,):
                return entries.pop(key) if key in entries else raised("KeyError")
            case "pop", (key, default):
                return entries.pop(key, default)
            case "setdefault", (key, value):
                return entries.setdefault(key, value)
            case "len", ():
                return len(entries)
            case "items", ():
                return tuple(sorted(entries.items()))
            case "update", (pairs,):
                entries.update(pairs)
            case "clear", ():
                entries.clear()
            case "popitem", ():
                if not entries:
                    return raised("KeyError")
                key = max(entries)
                return key, entries.pop(key)
            case _:
                raise NotImplementedError(name, arguments)
        return None

    def part(self, operation: Operation) -> Hashable:
        return None if operation.name in self.whole else operation.arguments[0]

    def reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        return name in self.pure

    def guide(self, history: Sequence[Operation]) -> Callable[[Any], bool] | None:
        return None


class ObjectModel(DictModel):
    """Attributes of an Object: those of a dict whose keys are their names."""

    def change(self, entries: dict[Any, Any], name: str, arguments: tuple[Any, ...]) -> Any:
        if name in ("get", "delete") and arguments[0] not in entries:
            return raised("AttributeError")
        return super().change(entries, name, arguments)


class QueueModel:
    """A Queue or, ``lifo``, a LifoQueue, of at most ``maxsize`` items (0: any number)."""

    initial: Hashable = ()
    pure = frozenset({"qsize", "empty", "full"})

    def __init__(self, maxsize: int = 0, lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.lifo = lifo

    def apply(self, state: tuple[Any, ...], name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        match name, arguments:
            case "put", (item,):
                return self._put(state, (item,))
            case "put_many", (items,):
                return self._put(state, items)
            case "get", ():
                after, taken = self._get(state, 1)
                return after, taken[0] if taken else raised("Empty")
            case "get_many", (n,):
                after, taken = self._get(state, n)
                return after, taken or raised("Empty")
            case "qsize", ():
                return state, len(state)
            case "empty", ():
                return state, not state
            case "full", ():
                return state, 0 < self.maxsize <= len(state)
            case "clear", ():
                return (), None
        raise NotImplementedError(name, arguments)

    def _put(self, state: tuple[Any, ...], items: tuple[Any, ...]) -> tuple[Hashable, Any]:
        if 0 < self.maxsize < len(state) + len(items):
            return state, raised("Full")
        return (*state, *items), None

    def _get(self, state: tuple[Any, ...], n: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        if self.lifo:
            return state[: max(0, len(state) - n)], state[::-1][:n]
        return state[n:], state[:n]

    def part(self, operation: Operation) -> Hashable:
        return None

    def reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        return name in self.pure

    def guide(self, history: Sequence[Operation]) -> Callable[[Any], bool] | None:
        return None


class LogModel:
    """A Log."""

    initial: Hashable = ()
    pure = frozenset({"len", "getitem", "items"})

    def apply(self, state: tuple[Any, ...], name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        match name, arguments:
            case "append", (value,):
                return (*state, value), None
            case "extend", (values,):
                return (*state, *values), None
            case "len", ():
                return state, len(state)
            case "getitem", (index,):
                return state, state[index] if -len(state) <= index < len(state) else raised("IndexError")
            case "items", ():
                return state, state
            case "clear", ():
                return (), None
        raise NotImplementedError(name, arguments)

    def part(self, operation: Operation) -> Hashable:
        return None

    def reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        return name in self.pure

    def guide(self, history: Sequence[Operation]) -> Callable[[Any], bool] | None:
        if any(operation.name == "clear" for operation in history):
            return None
        # A log that only grows begins with all that was ever read of it.
        reads = (each.outcome for each in history if each.name == "items" and isinstance(each.outcome, tuple))
        longest: tuple[Any, ...] = max(reads, key=len, default=())
        return lambda state: state[: len(longest)] == longest[: len(state)]


Step = tuple[str, str, tuple[Any, ...]]
"""Object, call and its arguments; or ``"savepoint"``, how it ended, and its steps."""


class Store:
    """Several objects, by name. Its operations are transactions: ``("transaction", (end, steps), outcomes)``.

    ``end`` is ``commit``, ``rollback`` or ``snapshot``. Steps are made in order; what is rolled back has read what was there, and changed nothing.
    A single call is a transaction of one step. A step ``("savepoint", end, steps)`` is a block of its own in it.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.models = dict(models)
        self.names = sorted(models)

    @property
    def initial(self) -> Hashable:
        return tuple(self.models[name].initial for name in self.names)

    def apply(self, state: tuple[Any, ...], name: str, arguments: tuple[Any, ...]) -> tuple[Hashable, Any]:
        end, steps = arguments
        states = dict(zip(self.names, state, strict=True))
        outcomes = self._run(states, steps)
        return (tuple(states[each] for each in self.names) if end == "commit" else state), outcomes

    def _run(self, states: dict[str, Any], steps: tuple[Step, ...]) -> tuple[Any, ...]:
        outcomes = []
        for what, name, arguments in steps:
            if what == "savepoint":
                before = dict(states)
                outcomes.append(self._run(states, arguments))
                if name == "rollback":
                    states.update(before)
            else:
                states[what], outcome = self.models[what].apply(states[what], name, arguments)
                outcomes.append(outcome)
        return tuple(outcomes)

    def part(self, operation: Operation) -> Hashable:
        return None

    def reads(self, name: str, arguments: tuple[Any, ...]) -> bool:
        end, steps = arguments
        return end != "commit" or all(what != "savepoint" and self.models[what].reads(call, given) for what, call, given in steps)

    def guide(self, history: Sequence[Operation]) -> Callable[[Any], bool] | None:
        return None
