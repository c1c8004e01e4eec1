"""Dict, Queue, LifoQueue and Log against dict, queue.Queue, queue.LifoQueue and list, whatever order things are done in.

Each machine keeps one object and its model through implicit calls, transactions, joined blocks, savepoints, snapshots, failures of any of these,
iterators that are read later, others who look meanwhile, being dropped and created again, and closing and opening the store. The models are the
standard library's own classes; what they raise, parkit must raise.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import parkit
from parkit_async._core.registry import close_all
from tests.faces.face import Face

bounded = settings(
    max_examples=30, stateful_step_count=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
numbers = count()


class Failed(Exception):
    """What ends a block that fails."""


def outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """Return what a call returns, or the kind of exception that it raises, in a form that can be compared."""
    try:
        return "returned", call()
    except (KeyError, IndexError, ValueError) as error:
        return "raised", type(error)
    except (queue.Empty, queue.Full, parkit.ShutDown) as error:
        return "raised", next(kind for kind in (queue.Empty, queue.Full, parkit.ShutDown) if isinstance(error, kind))


class Block:
    """A transaction or snapshot that is open."""

    def __init__(self, kind: str, context: Any, before: tuple[Any, Any, int, bool]) -> None:
        self.kind = kind
        self.context = context
        self.before = before


class Machine(RuleBasedStateMachine):
    """What is common: the blocks, the versions, the iterators, and who else looks."""

    face: Face
    kind: str

    def empty(self) -> Any:
        """Return a new model."""
        raise NotImplementedError

    def copy(self, model: Any) -> Any:
        """Return a model that stays as it is."""
        raise NotImplementedError

    def read(self, x: Any) -> Any:
        """Return the whole content of an object, without changing it."""
        raise NotImplementedError

    def content(self, model: Any) -> Any:
        """Return what :meth:`read` must return."""
        raise NotImplementedError

    @initialize(level=st.sampled_from(["full", "off"]))
    def begin(self, level: str) -> None:
        self.face.set_namespace_synchronous(level, level)
        self.path = f"{level}/{self.kind}-{next(numbers)}"
        self.x = getattr(self.face, self.kind)(self.path)
        self.model = self.empty()
        self.version = 0
        self.changed = False
        self.blocks: list[Block] = []
        self.commit()
        self.iterators: list[tuple[Any, list[Any]]] = []

    def write(self, call: Callable[[], Any], apply: Callable[[], Any], changes: bool) -> None:
        """Make a change to both, and compare what comes of it; in a snapshot it must be refused."""
        if self.in_snapshot():
            with pytest.raises(parkit.ContextError):
                call()
            return
        expected = outcome(apply)
        assert outcome(call) == expected
        self.changed |= changes
        if not self.blocks:
            self.commit()

    def commit(self) -> None:
        self.version += self.changed
        self.changed = False
        self.committed = self.state()

    def state(self) -> tuple[Any, Any, int, bool]:
        """Return what a block that fails goes back to."""
        return self.x, self.copy(self.model), self.version, self.changed

    def in_snapshot(self) -> bool:
        return any(block.kind == "snapshot" for block in self.blocks)

    # Blocks.

    @rule(isolated=st.booleans())
    def enter_transaction(self, isolated: bool) -> None:
        context = self.face.transaction(self.x, isolated=isolated)
        if self.in_snapshot():
            with pytest.raises(parkit.ContextError):
                context.__enter__()
            return
        if len(self.blocks) >= 4:
            return
        context.__enter__()
        kind = "outermost" if not self.blocks else "savepoint" if isolated else "joined"
        self.blocks.append(Block(kind, context, self.state()))

    @rule()
    def enter_snapshot(self) -> None:
        if len(self.blocks) < 4:
            context = self.face.snapshot(self.x)
            context.__enter__()
            self.blocks.append(Block("snapshot", context, self.state()))

    @precondition(lambda self: self.blocks)
    @rule(fails=st.booleans())
    def leave(self, fails: bool) -> None:
        block = self.blocks.pop()
        if fails:
            error = Failed()
            assert not block.context.__exit__(Failed, error, None)
            if block.kind in {"outermost", "savepoint"}:
                self.x, self.model, self.version, self.changed = block.before
        else:
            block.context.__exit__(None, None, None)
        if block.kind == "outermost":
            self.commit()

    @rule()
    def drop_and_create(self) -> None:
        if self.in_snapshot():
            with pytest.raises(parkit.ContextError):
                self.x.drop()
            return
        old = self.x
        old.drop()
        self.x = getattr(self.face, self.kind)(self.path, bind=False)
        self.model, self.version, self.changed = self.empty(), 0, False
        if not self.blocks:
            self.commit()
        assert not old.exists
        with pytest.raises(parkit.ObjectNotFoundError):
            old.clear()

    # Others.

    @rule()
    def others_see_what_is_committed(self) -> None:
        x, model, version, _ = self.committed
        assert self.face.elsewhere(lambda: self.read(x)) == self.content(model)
        assert self.face.elsewhere(lambda: self.face.clone(x).version) == version

    @precondition(lambda self: not self.blocks)
    @rule()
    def reopen(self) -> None:
        self.iterators_give_what_was_there()
        close_all()
        self.x = getattr(self.face, self.kind)(self.path, create=False)
        self.committed = self.state()

    # Iterators.

    @precondition(lambda self: self.kind in {"Dict", "Log"} and not self.in_snapshot() and len(self.iterators) < 5)
    @rule()
    def iterate_later(self) -> None:
        self.iterators.append((iter(self.x), list(self.content(self.model))))

    @precondition(lambda self: bool(self.iterators))
    @rule()
    def iterate_one_step(self) -> None:
        iterator, expected = self.iterators[0]
        if expected:
            assert next(iterator) == expected.pop(0)

    @precondition(lambda self: bool(self.iterators))
    @rule()
    def iterators_give_what_was_there(self) -> None:
        iterators, self.iterators = self.iterators, []
        for iterator, expected in iterators:
            assert list(iterator) == expected

    @invariant()
    def it_is_its_model(self) -> None:
        if hasattr(self, "x"):
            assert self.read(self.x) == self.content(self.model)
            if not self.blocks:
                assert self.x.version == self.version

    def teardown(self) -> None:
        if hasattr(self, "x"):
            while self.blocks:
                self.leave(fails=True)
            self.iterators_give_what_was_there()
            self.x.drop()


KEYS = st.integers(-2, 2) | st.sampled_from(["", "a", "ab", "b", "a" * 490, "a" * 490 + "b"]) | st.tuples(st.integers(0, 1))
VALUES = st.integers(0, 99) | st.just("x" * 5000)


def in_order(keys: Any) -> list[Any]:
    return sorted(keys, key=lambda key: ((int, str, tuple).index(type(key)), key))


class DictMachine(Machine):
    kind = "Dict"

    def empty(self) -> dict[Any, Any]:
        return {}

    def copy(self, model: dict[Any, Any]) -> dict[Any, Any]:
        return dict(model)

    def read(self, x: Any) -> Any:
        return dict(x.items())

    def content(self, model: dict[Any, Any]) -> dict[Any, Any]:
        return {key: model[key] for key in in_order(model)}

    @invariant()
    def all_views_agree(self) -> None:
        if hasattr(self, "x"):
            keys = in_order(self.model)
            assert len(self.x) == len(keys) and list(self.x) == keys and list(self.x.values()) == [self.model[key] for key in keys]

    @rule(key=KEYS, value=VALUES)
    def set(self, key: Any, value: Any) -> None:
        self.write(lambda: self.x.set(key, value), lambda: self.model.__setitem__(key, value), True)

    @rule(key=KEYS)
    def delete(self, key: Any) -> None:
        self.write(lambda: self.x.delete(key), lambda: self.model.__delitem__(key), key in self.model)

    @rule(key=KEYS)
    def pop(self, key: Any) -> None:
        self.write(lambda: self.x.pop(key), lambda: self.model.pop(key), key in self.model)

    @rule(key=KEYS)
    def pop_default(self, key: Any) -> None:
        self.write(lambda: self.x.pop(key, "default"), lambda: self.model.pop(key, "default"), key in self.model)

    @rule()
    def popitem(self) -> None:
        def last() -> Any:
            if not self.model:
                raise KeyError
            key = in_order(self.model)[-1]
            return key, self.model.pop(key)

        self.write(self.x.popitem, last, bool(self.model))

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: Any, value: Any) -> None:
        self.write(lambda: self.x.setdefault(key, value), lambda: self.model.setdefault(key, value), key not in self.model)

    @rule(entries=st.dictionaries(KEYS, VALUES, max_size=5))
    def update(self, entries: dict[Any, Any]) -> None:
        self.write(lambda: self.x.update(entries), lambda: self.model.update(entries), bool(entries))

    @rule()
    def clear(self) -> None:
        self.write(self.x.clear, self.model.clear, bool(self.model))

    @rule(key=KEYS)
    def look(self, key: Any) -> None:
        assert outcome(lambda: self.x[key]) == outcome(lambda: self.model[key])
        assert self.x.get(key, "default") == self.model.get(key, "default") and (key in self.x) == (key in self.model)

    @rule(low=KEYS, high=KEYS, reverse=st.booleans())
    def walk(self, low: Any, high: Any, reverse: bool) -> None:
        keys = in_order({*self.model, low, high})
        found = [key for key in keys[keys.index(low) : keys.index(high) + 1] if key in self.model]  # nothing, where low is above high
        assert list(self.x.irange(low, high, reverse=reverse)) == (found[::-1] if reverse else found)


class LogMachine(Machine):
    kind = "Log"

    def empty(self) -> list[Any]:
        return []

    def copy(self, model: list[Any]) -> list[Any]:
        return list(model)

    def read(self, x: Any) -> Any:
        return list(x)

    def content(self, model: list[Any]) -> list[Any]:
        return list(model)

    @rule(value=VALUES)
    def append(self, value: Any) -> None:
        self.write(lambda: self.x.append(value), lambda: self.model.append(value), True)

    @rule(values=st.lists(VALUES, max_size=5))
    def extend(self, values: list[Any]) -> None:
        self.write(lambda: self.x.extend(values), lambda: self.model.extend(values), bool(values))

    @rule()
    def clear(self) -> None:
        self.write(self.x.clear, self.model.clear, bool(self.model))

    @rule(index=st.integers(-8, 8))
    def look(self, index: int) -> None:
        assert outcome(lambda: self.x[index]) == outcome(lambda: self.model[index])

    @rule(start=st.none() | st.integers(-8, 8), stop=st.none() | st.integers(-8, 8), step=st.sampled_from([None, 1, -1, 2, -3]))
    def cut(self, start: int | None, stop: int | None, step: int | None) -> None:
        assert self.x[start:stop:step] == self.model[start:stop:step] and len(self.x) == len(self.model)

    @rule(value=VALUES)
    def find(self, value: Any) -> None:
        assert self.x.count(value) == self.model.count(value) and (value in self.x) == (value in self.model)
        assert outcome(lambda: self.x.index(value)) == outcome(lambda: self.model.index(value))

    @rule(start=st.integers(-3, 3))
    def follow(self, start: int) -> None:
        if not self.blocks:
            assert list(self.x.follow(start, timeout=0)) == self.model[start:]


class QueueModel:
    """queue.Queue, or queue.LifoQueue, with what parkit's have besides; ``shutdown`` as in Python 3.13."""

    def __init__(self, cls: Any) -> None:
        self.queue = cls()
        self.closed = False

    def copy(self) -> QueueModel:
        twin = QueueModel(type(self.queue))
        twin.queue.maxsize = self.queue.maxsize
        twin.queue.queue = type(self.queue.queue)(self.queue.queue)
        twin.queue.unfinished_tasks = self.queue.unfinished_tasks
        twin.closed = self.closed
        return twin

    def put_many(self, items: list[Any]) -> None:
        if self.closed:
            raise parkit.ShutDown
        maxsize = self.queue.maxsize
        if maxsize and len(items) > maxsize:
            raise ValueError
        if maxsize and self.queue.qsize() + len(items) > maxsize and items:
            raise queue.Full
        for item in items:
            self.queue.put_nowait(item)

    def get_many(self, n: int) -> list[Any]:
        if self.queue.empty():
            raise parkit.ShutDown if self.closed else queue.Empty
        return [self.queue.get_nowait() for _ in range(min(n, self.queue.qsize()))]

    def clear(self) -> None:
        self.queue.unfinished_tasks = max(0, self.queue.unfinished_tasks - self.queue.qsize())
        self.queue.queue.clear()

    def shut_down(self, immediate: bool) -> None:
        self.closed = True
        if immediate:
            self.clear()


class QueueMachine(Machine):
    kind = "Queue"
    model_class: Any = queue.Queue
    model: QueueModel

    def empty(self) -> QueueModel:
        return QueueModel(self.model_class)

    def copy(self, model: QueueModel) -> QueueModel:
        return model.copy()

    def read(self, x: Any) -> Any:
        return x.qsize(), x.empty(), x.full(), x.maxsize, x.is_shutdown, x.join(timeout=0)

    def content(self, model: QueueModel) -> Any:
        inner = model.queue
        return inner.qsize(), inner.empty(), inner.full(), inner.maxsize, model.closed, not inner.unfinished_tasks

    @rule(item=VALUES)
    def put(self, item: Any) -> None:
        changes = not self.model.closed and not self.model.queue.full()
        self.write(lambda: self.x.put_nowait(item), lambda: self.model.put_many([item]), changes)

    @rule(items=st.lists(VALUES, max_size=4))
    def put_many(self, items: list[Any]) -> None:
        inner = self.model.queue
        room = inner.maxsize - inner.qsize() if inner.maxsize else 99
        if inner.maxsize and not items and room < 0:
            return
        self.write(lambda: self.x.put_many(items, block=False), lambda: self.model.put_many(items), 0 < len(items) <= room and not self.model.closed)

    @rule()
    def get(self) -> None:
        self.write(self.x.get_nowait, lambda: self.model.get_many(1)[0], not self.model.queue.empty())

    @rule(n=st.integers(1, 4))
    def get_many(self, n: int) -> None:
        self.write(lambda: self.x.get_many(n, block=False), lambda: self.model.get_many(n), not self.model.queue.empty())

    @rule()
    def task_done(self) -> None:
        self.write(self.x.task_done, self.model.queue.task_done, self.model.queue.unfinished_tasks > 0)

    @rule()
    def clear(self) -> None:
        self.write(self.x.clear, self.model.clear, not self.model.queue.empty())

    @rule(maxsize=st.integers(0, 5))
    def set_maxsize(self, maxsize: int) -> None:
        self.write(lambda: self.x.set_maxsize(maxsize), lambda: setattr(self.model.queue, "maxsize", maxsize), maxsize != self.model.queue.maxsize)

    @precondition(lambda self: self.version > 5)
    @rule(immediate=st.booleans())
    def shutdown(self, immediate: bool) -> None:
        changes = not self.model.closed or (immediate and not self.model.queue.empty())
        self.write(lambda: self.x.shutdown(immediate), lambda: self.model.shut_down(immediate), changes)

    def teardown(self) -> None:
        if hasattr(self, "x"):
            while self.blocks:
                self.leave(fails=True)
            # What was never taken is compared last.
            assert outcome(lambda: self.x.get_many(999, block=False)) == outcome(lambda: self.model.get_many(999))
        super().teardown()


class LifoQueueMachine(QueueMachine):
    kind = "LifoQueue"
    model_class = queue.LifoQueue


@pytest.mark.parametrize("machine", [DictMachine, LogMachine, QueueMachine, LifoQueueMachine], ids=lambda machine: machine.kind)
def test_it_is_what_its_model_is(face: Face, machine: type[Machine]) -> None:
    run_state_machine_as_test(type(machine.__name__, (machine,), {"face": face}), settings=bounded)
