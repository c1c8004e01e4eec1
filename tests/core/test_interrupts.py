"""Ctrl-C at every point where CPython can deliver it: nothing stays locked, open or pinned, and no interrupt is swallowed.

CPython looks for signals when a function begins, after a call, and when a loop jumps back. A trace function raises KeyboardInterrupt at each of these
points in parkit's own code, one after another, in an operation that is run once for each. The tests with real signals are in ``tests/processes``.
"""

from __future__ import annotations

import contextlib
import dis
import fcntl
import functools
import gc
import os
import queue
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

import parkit
from parkit import Dict, Log, Queue, snapshot, transaction
from parkit_async._core.gate import Gate
from parkit_async._core.namespace import Namespace
from parkit_async._core.ownership import contexts
from parkit_async._core.shared import WORD_RETIRED

pytestmark = pytest.mark.untraceable

_ROOT = os.path.dirname(os.path.dirname(parkit.__file__))


@functools.cache
def _opcodes(code: CodeType) -> dict[int, str]:
    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


def _delivers(opcode: str | None) -> bool:
    return opcode is not None and (opcode in ("RESUME", "JUMP_BACKWARD") or (opcode.startswith("CALL") and "INTRINSIC" not in opcode))


class Interrupter:
    """Raises KeyboardInterrupt at the n-th point of what is called under it; ``where`` tells where that was."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._previous: dict[FrameType, str | None] = {}
        self.where: str | None = None

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith((os.path.join(_ROOT, "parkit"), os.path.join(_ROOT, "parkit_async"))):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            self._previous[frame] = "RESUME"  # has no event of its own, though CPython looks for signals there
        if event == "opcode":
            opcode = _opcodes(frame.f_code).get(frame.f_lasti)
            previous = self._previous.get(frame)
            self._previous[frame] = opcode
            if _delivers(previous):
                self._left -= 1
                if not self._left:
                    self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                    raise KeyboardInterrupt
        return self.trace

    def call(self, operation: Callable[[], object]) -> bool:
        """Call ``operation``; return whether the interrupt came out of it."""
        sys.settrace(self.trace)
        try:
            operation()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
            self.forget()
        return False

    def forget(self) -> None:
        """Let go of the frames that were traced."""
        self._previous.clear()


def is_free(gate: str) -> bool:
    descriptor = os.open(gate, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@pytest.mark.parametrize("contended", [False, True], ids=["free", "contended"])
@pytest.mark.parametrize(
    "what",
    ["set", "transaction", "savepoint", "snapshot", "queue", "wait", "iterate", pytest.param("clear", marks=pytest.mark.slow), "reclaim"],
)
def test_an_interrupt_at_any_point_leaves_nothing_behind(what: str, contended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    d: Dict[str, int] = Dict("i/d")
    q: Queue[int] = Queue("i/q")
    log: Log[int] = Log("i/log")
    d["a"] = 0
    namespace = d._binding.namespace
    if contended:
        # As if another process had the gate at the first look, so that the long way is taken.
        monkeypatch.setattr(Gate, "try_enter", lambda self: False)

    def in_transaction() -> None:
        with transaction(d):
            d["a"] = 2
            log.append(1)

    def in_savepoint() -> None:
        with transaction(d):
            d["a"] = 2
            with transaction(d, isolated=True):
                log.append(1)

    def in_snapshot() -> None:
        with snapshot(d):
            d.get("a")

    def through_queue() -> None:
        q.put(1)
        q.get()

    def wait_in_vain() -> None:
        with contextlib.suppress(queue.Empty):
            q.get(timeout=0.0002)

    def reclaim() -> None:
        # As after the clearing of a big object, whose entries the next write deletes.
        namespace.table.words[WORD_RETIRED] = 1
        d["a"] = 4

    operations: dict[str, Callable[[], object]] = {
        "set": lambda: d.set("a", 1),
        "transaction": in_transaction,
        "savepoint": in_savepoint,
        "snapshot": in_snapshot,
        "queue": through_queue,
        "wait": wait_in_vain,
        "iterate": lambda: list(d.items()),
        "clear": log.clear,
        "reclaim": reclaim,
    }
    operation = operations[what]
    log.append(0)
    operation()  # makes what is made once: a waiting thread's socket
    log.append(0)
    q.clear()
    gc.freeze()  # so that collecting looks at what is made from here on only
    try:
        points = run_at_every_point(operation, namespace, d, q, log)
    finally:
        gc.unfreeze()
    assert points > 20


def run_at_every_point(operation: Callable[[], object], namespace: Namespace, d: Dict[str, int], q: Queue[int], log: Log[int]) -> int:
    """Run ``operation`` once for each point; return how many there are."""
    points = 0
    while True:
        points += 1
        for _ in range(5):
            interrupter = Interrupter(points)
            interrupted = interrupter.call(operation)
            if interrupter.where is not None:
                break
            # From Python 3.12 on opcodes are traced only in code that was traced before, and a trace function that raises ends that now and then.
        else:
            return points
        where = interrupter.where
        del interrupter
        gc.collect()  # the tracing itself makes cycles of frames
        assert interrupted, f"swallowed at {where}"
        assert namespace.turns.holder is None, f"the turn is held after {where}"
        assert len(namespace.turns) == 0, f"somebody stands in line after {where}"
        assert not contexts, f"a context is open after {where}"
        assert not any(namespace.table._occupancy), f"a wait is registered after {where}"
        assert namespace.pinned() == [], f"a snapshot is open after {where}"
        assert is_free(str(namespace.directory / "gate")), f"the gate is held after {where}"
        d["after"] = points
        q.clear()
        log.append(0)
