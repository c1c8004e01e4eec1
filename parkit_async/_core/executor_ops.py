"""What an executor does in its namespace, as functions of a transaction; and what a worker runs on its behalf.

::

    submit()                       a worker, the supervisor                        outcomes()          forget()
    process, owned by ──▶ ... ──▶  ends: the process is removed, its outcome ──▶  read in the   ──▶   deleted, by the
    the executor                   listed under the executor, which is rung       order of ends       next submit()

An executor is an id of the namespace, listed with the program that it belongs to. What ends is listed under its id and the number of the transaction,
so that it is found by what is new, not by looking through all that is outstanding, and one ring stands for all that has ended meanwhile.

Invariants:

* A process of an executor is there exactly until it has ended; then its outcome is, until the executor has read it.
* What a program leaves that was killed is removed by the next executor of the namespace (:func:`bury`), and nothing that still runs or waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

from . import object_ops
from .doorbell import EVENT_ITEMS
from .identity import Identity
from .layout import OUTCOMES, OWNERS, PROCESSES, SUBMITTED, call_key, context_key, damaged, owner_key, process_key, run_key
from .process_ops import RUNNING_STATUS, SUBMITTED_STATUS, Ending, Found, Run, announce, processes, remove
from .processes import ProcessHandle
from .reclaim import delete_prefix
from .shared import ONE_OF
from .transactions import Reading, Writing

__all__ = [
    "SLICE",
    "Call",
    "Submitted",
    "Task",
    "Told",
    "bury",
    "call_each",
    "call_initialized",
    "enrol",
    "forget",
    "is_claimed",
    "leave",
    "outcomes",
    "owners",
    "submit",
    "withdraw",
]

T = TypeVar("T")

SLICE: Final = 256
"""Outcomes that are read, or deleted, at once."""

_FRAMES: Final = 4 << 20
"""Bytes of outcomes that are read at once, about."""


_UNENDED: Final = frozenset((SUBMITTED_STATUS, RUNNING_STATUS))


class Task(ProcessHandle):
    """A process of an executor, as the worker sees it: it calls its target, and has no data of its own."""

    type_name = "parkit.Process"

    def run(self) -> Any:
        """Call the target."""
        assert self._call is not None
        target, args, kwargs = self._call
        assert target is not None
        return target(*args, **kwargs)


class Call(NamedTuple):
    """What an executor has run.

    Attributes:
        name: What its process's name begins with.
        frame: Class, target and arguments.
        context: Digest of ``program``.
        program: What the worker must know of the submitting program; JSON, see ``program``.
    """

    name: str
    frame: bytes
    context: bytes
    program: bytes


class Submitted(NamedTuple):
    """A process that was submitted.

    Attributes:
        object_id: Of the object that it is.
        uuid: The same's.
        name: In the namespace.
    """

    object_id: int
    uuid: str
    name: str


class Told(NamedTuple):
    """An outcome, as it was left to an executor.

    Attributes:
        number: Of the transaction that ended the process.
        object_id: The process.
        ending: What came of it.
    """

    number: int
    object_id: int
    ending: Ending


def enrol(writing: Writing, program: Identity) -> int:
    """List an executor of a program; return its id."""
    owner = writing.new_id()
    writing.touched += 1
    writing.transaction.put(process_key(OWNERS, owner), json.dumps(program).encode())
    return owner


def leave(writing: Writing, owner: int) -> None:
    """Strike an executor off the list, with what was left to it. It has no process any more."""
    writing.touched += 1
    writing.transaction.delete(process_key(OWNERS, owner))
    delete_prefix(writing, process_key(OUTCOMES, owner), SLICE)


def submit(writing: Writing, owner: int, seen: int, calls: Sequence[Call]) -> list[Submitted]:
    """Create processes and submit them; delete outcomes that the executor has read.

    Args:
        writing: The transaction.
        owner: The executor.
        seen: Number of the last transaction whose outcomes it has read.
        calls: What to run.

    Returns:
        What was submitted, in the same order.

    Raises:
        NamespaceFullError: They do not fit.
    """
    transaction = writing.transaction
    forget(writing, owner, seen)
    made = []
    now, mark, known = time.time(), owner.to_bytes(8, "big"), b""
    for name, frame, context, program in calls:
        writing.reserve(len(frame) + 1024)
        if context != known and transaction.get(context_key(context)) is None:
            writing.reserve(len(program))
            transaction.put(context_key(context), program)
        known = context
        name = f"{name}-{uuid4().hex}"
        entry, _ = object_ops.create(writing, name, Task.type_name, False, None, 0, {})
        object_id, label = entry.object_id, (entry.uuid + name).encode()
        transaction.put(run_key(object_id), Run(SUBMITTED_STATUS, submitted=now, order=writing.number, context=context).pack())
        transaction.put(call_key(object_id), frame)
        transaction.put(owner_key(object_id), mark)
        transaction.put(process_key(PROCESSES, object_id), label)
        transaction.put(process_key(SUBMITTED, writing.number, object_id), label)
        made.append(Submitted(object_id, entry.uuid, name))
    announce(writing, ONE_OF, EVENT_ITEMS)
    return made


def withdraw(writing: Writing, tasks: Iterable[Submitted]) -> list[int]:
    """Remove those processes that no worker has claimed yet; return their ids."""
    removed = []
    transaction = writing.transaction
    for object_id, uuid, name in tasks:
        raw = transaction.get(run_key(object_id))
        run = None if raw is None else Run.unpack(raw)
        if run is not None and run.status == SUBMITTED_STATUS:
            transaction.delete(process_key(SUBMITTED, run.order, object_id))
            remove(writing, Found(object_id, uuid, name), name)
            removed.append(object_id)
    return removed


def is_claimed(reading: Reading, object_id: int) -> bool:
    """Return whether a process is not submitted any more: a worker has claimed it, or it has ended."""
    raw = reading.transaction.get(run_key(object_id))
    return raw is None or Run.unpack(raw).status != SUBMITTED_STATUS


def outcomes(reading: Reading, owner: int, seen: int) -> list[Told]:
    """Return what has ended since the transaction ``seen``, in order, whole transactions of it, up to about SLICE outcomes."""
    found: list[Told] = []
    size = 0
    prefix = process_key(OUTCOMES, owner)
    cursor = reading.transaction.cursor()
    if cursor.set_range(process_key(prefix, seen + 1)):
        for key, raw in cursor.iternext():
            number = int.from_bytes(key[-16:-8], "big")
            if not key.startswith(prefix) or ((len(found) >= SLICE or size >= _FRAMES) and number != found[-1].number):
                break
            found.append(Told(number, int.from_bytes(key[-8:], "big"), Ending.unpack(raw)))
            size += len(raw)
    return found


def forget(writing: Writing, owner: int, seen: int) -> bool:
    """Delete outcomes up to the transaction ``seen``, SLICE at most; return whether that were all."""
    keys: list[bytes] = []
    prefix, end = process_key(OUTCOMES, owner), process_key(OUTCOMES, owner, seen + 1)
    cursor = writing.transaction.cursor()
    if cursor.set_range(prefix):
        for key in cursor.iternext(keys=True, values=False):
            if not prefix <= key < end or len(keys) == SLICE:
                break
            keys.append(key)
    cursor.close()
    for key in keys:
        writing.touched += 1
        writing.transaction.delete(key)
    return len(keys) < SLICE


def owners(reading: Reading) -> list[tuple[int, Identity]]:
    """Return the executors of the namespace, and their programs."""
    found = []
    cursor = reading.transaction.cursor()
    if cursor.set_range(OWNERS):
        for key, raw in cursor.iternext():
            if not key.startswith(OWNERS):
                break
            try:
                program = Identity(*json.loads(bytes(raw)))
            except (TypeError, ValueError, RecursionError) as error:
                raise damaged("an entry in the list of executors") from error
            found.append((int.from_bytes(key[-8:], "big"), program))
    return found


def bury(writing: Writing, owner: int) -> list[str]:
    """Delete outcomes that were left to an executor whose program is dead, SLICE at most, and strike it off the list if it has no more process.

    Return the uuids under which outputs lie.
    """
    left = outcomes(writing, owner, 0)
    mark = owner.to_bytes(8, "big")
    for told in left:
        writing.touched += 1
        writing.transaction.delete(process_key(OUTCOMES, owner, told.number, told.object_id))
    if not left and not any(writing.transaction.get(owner_key(found.process.object_id)) == mark for found in processes(writing, _UNENDED)):
        leave(writing, owner)
    return [told.ending.uuid for told in left]


# What runs in a worker.


def call_each(fn: Callable[..., T], chunk: Sequence[tuple[Any, ...]]) -> list[T]:
    return [fn(*arguments) for arguments in chunk]


_initialized: set[bytes] = set()
"""The executors whose initializer this worker has called."""


def call_initialized(
    key: bytes, initializer: Callable[..., object], initargs: tuple[Any, ...], fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if key not in _initialized:
        try:
            initializer(*initargs)
        except Exception as error:
            from concurrent.futures.process import BrokenProcessPool

            raise BrokenProcessPool(f"the initializer of the executor failed in a worker: {type(error).__name__}: {error}") from error
        _initialized.add(key)
    return fn(*args, **kwargs)
