"""What happens to a process, as functions of a transaction.

::

                 start()              a worker claims it           the worker stores the outcome
    created ───────────▶ submitted ─────────────────────▶ running ───────────────────────────────▶ finished, failed
                             │ terminate()                   │ the worker died
                             └───────────────▶ crashed ◀─────┘

A process is a Dict that runs. Its *run* (see :class:`Run`) is one small record beside the Dict's header; what it calls, and what came of it, are
two more. Each namespace lists its processes (in order of creation), those submitted (the queue that workers take from), and those running.

Invariants:

* A process is in the list SUBMITTED exactly while it is submitted, in RUNNING exactly while it is running: every change is one transaction.
* Only the worker that claimed a run can store its outcome, and only while it is running: the run names the worker, and a worker's name is
  never given twice. So a worker that was taken for dead, and lives, is refused (:func:`finish` returns None).
* Once a signal was asked for, the worker takes nothing else after this run. A signal that arrives late hits a worker that is leaving.
* A process of an executor (see ``executor_ops``) is gone when it has ended, however it ended: that transaction leaves its outcome to the executor.
"""

from __future__ import annotations

import signal
import struct
import time
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from . import object_ops
from .doorbell import EVENT_CHANGE, EVENT_DONE, EVENT_ITEMS
from .errors import CodecError, ObjectNotFoundError, ProcessError, TransactionError
from .layout import (
    OUTCOMES,
    PROCESSES,
    RUNNING,
    SUBMITTED,
    Entry,
    State,
    call_key,
    context_key,
    damaged,
    header_key,
    outcome_key,
    owner_key,
    process_key,
    run_key,
    text,
)
from .output_files import UUID
from .shared import ONE_OF, SUPERVISOR
from .transactions import Identity, Reading, Writing

__all__ = [
    "CRASHED",
    "CREATED",
    "ENDED",
    "FAILED",
    "FINISHED",
    "RUNNING_STATUS",
    "SMALL",
    "STATUSES",
    "SUBMITTED_STATUS",
    "Claim",
    "Ending",
    "Listed",
    "Run",
    "announce",
    "anything_submitted",
    "claim",
    "claimed",
    "crash",
    "create",
    "drop",
    "finish",
    "outcome",
    "processes",
    "remove",
    "request",
    "run_of",
    "running",
    "start",
]

CREATED: Final = "created"
SUBMITTED_STATUS: Final = "submitted"
RUNNING_STATUS: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CRASHED: Final = "crashed"
STATUSES: Final = (CREATED, SUBMITTED_STATUS, RUNNING_STATUS, FINISHED, FAILED, CRASHED)
ENDED: Final = frozenset((FINISHED, FAILED, CRASHED))

SMALL: Final = 4096
"""Bytes of an outcome for which no room is asked."""

_CODES: Final = {status: code for code, status in enumerate(STATUSES)}
_NO_EXIT: Final = -(1 << 31)
_LATEST: Final = 253_402_300_799.0
"""The end of the year 9999, in seconds since 1970."""
_record = struct.Struct("<BBiIdddQ8s")
_ending = struct.Struct("<Bi32s")
_NO_CONTEXT: Final = bytes(8)


class Run(NamedTuple):
    """The state of a process.

    Attributes:
        status: One of STATUSES.
        request: The number of the signal that was asked for while it ran, or 0.
        exitcode: None until the end.
        pid: Of the worker, once it runs; 0 before.
        submitted: When it was started, claimed and ended, in seconds since 1970; 0.0 for what has not happened.
        started: See ``submitted``.
        ended: See ``submitted``.
        order: Number of the transaction that submitted it.
        context: Digest of what is known of the program that submitted it.
        worker: Name of the worker that runs it, or ran it.
    """

    status: str = CREATED
    request: int = 0
    exitcode: int | None = None
    pid: int = 0
    submitted: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    order: int = 0
    context: bytes = _NO_CONTEXT
    worker: str = ""

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return (
            _record.pack(
                _CODES[self.status],
                self.request,
                _NO_EXIT if self.exitcode is None else self.exitcode,
                self.pid,
                self.submitted,
                self.started,
                self.ended,
                self.order,
                self.context,
            )
            + self.worker.encode()
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Run:
        """Read a record; raise TransactionError if it is none."""
        try:
            status, request, exitcode, pid, submitted, started, ended, order, context = _record.unpack_from(raw)
            if not (0.0 <= submitted <= _LATEST and 0.0 <= started <= _LATEST and 0.0 <= ended <= _LATEST):
                raise damaged("the state of a process")
            return cls(
                STATUSES[status],
                request,
                None if exitcode == _NO_EXIT else exitcode,
                pid,
                submitted,
                started,
                ended,
                order,
                context,
                raw[_record.size :].decode(),
            )
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise damaged("the state of a process") from error


class Claim(NamedTuple):
    """What a worker took to run.

    Attributes:
        process: The process, as transactions know it.
        uuid: Of the object.
        name: In the namespace.
        call: The frame of what to call.
        context: Digest of the submitting program's context.
        program: That context; JSON, see ``program``.
    """

    process: Found
    uuid: str
    name: str
    call: bytes
    context: bytes
    program: bytes


class Found:
    """A process known by its id alone: what transactions need of an object (``transactions.Identity``)."""

    __slots__ = ("header", "latest", "nonce", "object_id", "path")

    def __init__(self, object_id: int, uuid: str, path: str) -> None:
        self.object_id = object_id
        self.header = header_key(object_id)
        self.nonce = int(uuid[:15], 16)
        self.path = path
        self.latest: tuple[int, State] | None = None


class Listed(NamedTuple):
    """A process in one of the lists of its namespace."""

    process: Found
    uuid: str
    name: str
    run: Run


class Ending(NamedTuple):
    """What is left of a process of an executor.

    Attributes:
        status: One of ENDED.
        exitcode: As :class:`Run` has it.
        uuid: Of the object that it was; its output still lies under it.
        frame: Of its result or error, if it has one.
    """

    status: str
    exitcode: int
    uuid: str
    frame: bytes | None

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return _ending.pack(_CODES[self.status], self.exitcode, self.uuid.encode()) + (self.frame or b"")

    @classmethod
    def unpack(cls, raw: bytes) -> Ending:
        """Read a record; raise TransactionError if it is none."""
        try:
            status, exitcode, uuid = _ending.unpack_from(raw)
            return cls(STATUSES[status], exitcode, _checked(uuid.decode()), bytes(raw[_ending.size :]) or None)
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise damaged("the outcome of a process") from error


def _label(uuid: str, name: str) -> bytes:
    return uuid.encode() + name.encode()


def _unlabel(label: bytes) -> tuple[str, str]:
    name = text(label, "an entry in a list of processes")
    return _checked(name[:32]), name[32:]


def _checked(uuid: str) -> str:
    """Return the uuid of a process, which becomes a file name; raise TransactionError if it is none."""
    if UUID.fullmatch(uuid) is None:
        raise damaged("an entry in a list of processes")
    return uuid


# Made, started, dropped: on behalf of users.


def create(
    writing: Writing, name: str, type_name: str, versioned: bool, codec: str | None, maxsize: int, custom: dict[str, Any], call: bytes
) -> tuple[Entry, bool]:
    """Create a process, unless there is an object of that name. Return its entry, and whether it was created."""
    writing.reserve(len(call))
    entry, created = object_ops.create(writing, name, type_name, versioned, codec, maxsize, custom)
    if created:
        put = writing.transaction.put
        put(run_key(entry.object_id), Run().pack())
        put(call_key(entry.object_id), call)
        put(process_key(PROCESSES, entry.object_id), _label(entry.uuid, name))
    return entry, created


def start(writing: Writing, identity: Identity, uuid: str, name: str, context: bytes, program: bytes) -> None:
    """Submit a process.

    Args:
        writing: The transaction.
        identity: The process.
        uuid: Of the object.
        name: In the namespace.
        context: Digest of ``program``.
        program: What the worker must know of the submitting program; JSON, stored once.

    Raises:
        CodecError: The namespace is limited to codecs that run no code.
        ProcessError: It was started before.
    """
    if writing.namespace.settings().codecs is not None:
        raise CodecError(f"namespace {writing.namespace.name!r} is limited to codecs that run no code, so nothing is run in it", identity.path)
    run = run_of(writing, identity)
    if run.status != CREATED:
        raise ProcessError(
            f"{identity.path!r} was started already (it is {run.status}), and a process runs once; make another Process for another run"
        )
    writing.reserve(512 + len(program))
    writing.change(identity, EVENT_CHANGE)
    transaction = writing.transaction
    if transaction.get(context_key(context)) is None:
        transaction.put(context_key(context), program)
    transaction.put(
        run_key(identity.object_id), run._replace(status=SUBMITTED_STATUS, submitted=time.time(), order=writing.number, context=context).pack()
    )
    transaction.put(process_key(SUBMITTED, writing.number, identity.object_id), _label(uuid, name))
    announce(writing, ONE_OF, EVENT_ITEMS)


def announce(writing: Writing, whom: int, event: int) -> None:
    """Have one idle worker (ONE_OF), the supervisor or an executor (its id) woken by the commit."""
    if writing.announced is None:
        writing.announced = {}
    writing.announced[whom] = event


def request(writing: Writing, identity: Identity, number: int) -> str:
    """Ask for a signal to a process, and return its status. One that is still submitted is taken off the queue: it has crashed, of that signal.

    Raises:
        ProcessError: It was never started.
    """
    run = run_of(writing, identity)
    if run.status == CREATED:
        raise ProcessError(f"{identity.path!r} was not started, so there is nothing to end")
    if run.status == SUBMITTED_STATUS:
        writing.transaction.delete(process_key(SUBMITTED, run.order, identity.object_id))
        _end(writing, identity, run._replace(status=CRASHED, exitcode=-number, ended=time.time()))
        return CRASHED
    if run.status == RUNNING_STATUS and run.request != number:
        writing.change(identity, EVENT_CHANGE)
        writing.transaction.put(run_key(identity.object_id), run._replace(request=number).pack())
        announce(writing, SUPERVISOR, EVENT_CHANGE)
    return run.status


def drop(writing: Writing, binding: Any, name: str) -> None:
    """Remove a process that does not run, with all it holds.

    Raises:
        ProcessError: It runs.
    """
    run = run_of(writing, binding)
    if run.status == RUNNING_STATUS:
        raise ProcessError(f"{binding.path!r} is running in process {run.pid}; terminate() and join() it first")
    if run.status == SUBMITTED_STATUS:
        writing.transaction.delete(process_key(SUBMITTED, run.order, binding.object_id))
        if writing.transaction.get(owner_key(binding.object_id)) is not None:  # who waits for it shall learn what became of it
            _end(writing, binding, run._replace(status=CRASHED, exitcode=-signal.SIGTERM))
            return
    remove(writing, binding, name)


def remove(writing: Writing, process: Any, name: str) -> None:
    """Remove a process, in whatever state, but for its place in the list of its status."""
    for key in (
        run_key(process.object_id),
        call_key(process.object_id),
        outcome_key(process.object_id),
        owner_key(process.object_id),
        process_key(PROCESSES, process.object_id),
    ):
        writing.transaction.delete(key)
    object_ops.drop(writing, process, name)


# Looking.


def run_of(reading: Reading, identity: Identity) -> Run:
    """Return the state of a process; raise ObjectNotFoundError if it was dropped."""
    reading.state(identity)
    return _run_at(reading, identity.object_id)


def _run_at(reading: Reading, object_id: int) -> Run:
    raw = reading.transaction.get(run_key(object_id))
    if raw is None:
        raise damaged("the state of a process")
    return Run.unpack(raw)


def outcome(reading: Reading, identity: Identity) -> tuple[Run, bytes | None]:
    """Return the state of a process and the frame of its result or error, if it has one."""
    run = run_of(reading, identity)
    return run, reading.transaction.get(outcome_key(identity.object_id))


def processes(reading: Reading, statuses: Collection[str] | None = None) -> list[Listed]:
    """Return the processes of a namespace, in order of creation; only those of certain statuses, or all."""
    found = []
    for object_id, label in _list(reading, PROCESSES):
        raw = reading.transaction.get(run_key(object_id))
        if raw is None:
            continue
        run = Run.unpack(raw)
        if statuses is None or run.status in statuses:
            uuid, name = _unlabel(label)
            found.append(Listed(Found(object_id, uuid, name), uuid, name, run))
    return found


def running(reading: Reading) -> list[Listed]:
    """Return the processes of a namespace that run."""
    found = []
    for object_id, label in _list(reading, RUNNING):
        uuid, name = _unlabel(label)
        found.append(Listed(Found(object_id, uuid, name), uuid, name, _run_at(reading, object_id)))
    return found


def anything_submitted(reading: Reading) -> bool:
    """Return whether a process of the namespace waits for a worker."""
    return _first_submitted(reading) is not None


def _list(reading: Reading, prefix: bytes) -> Iterator[tuple[int, bytes]]:
    cursor = reading.transaction.cursor()
    if cursor.set_range(prefix):
        for key, label in cursor.iternext():
            if not key.startswith(prefix):
                return
            yield int.from_bytes(key[-8:], "big"), label


def _first_submitted(reading: Reading) -> bytes | None:
    cursor = reading.transaction.cursor()
    if not cursor.set_range(SUBMITTED):
        return None
    key: bytes = cursor.key()
    # In a namespace that is limited to codecs that run no code nothing is ever called, whoever may have put it there.
    return key if key.startswith(SUBMITTED) and reading.namespace.settings().codecs is None else None


# Run: on behalf of workers and of the supervisor.


def claim(writing: Writing, worker: str, pid: int) -> Claim | None:
    """Take the process that was submitted first, and run it from now on; None if there is none.

    What is damaged is struck off the queue, or it would end every worker that comes to it.
    """
    while (key := _first_submitted(writing)) is not None:
        transaction = writing.transaction
        label = transaction.pop(key)
        object_id = int.from_bytes(key[-8:], "big")
        try:
            uuid, name = _unlabel(label)
            process = Found(object_id, uuid, name)
            run = run_of(writing, process)
            found = _claim_of(writing, process, uuid, name, run)
        except (ObjectNotFoundError, TransactionError):
            writing.touched += 1
            continue
        writing.change(process, EVENT_CHANGE)
        transaction.put(run_key(object_id), run._replace(status=RUNNING_STATUS, pid=pid, worker=worker, started=time.time()).pack())
        transaction.put(process_key(RUNNING, object_id), label)
        if _first_submitted(writing) is not None:
            announce(writing, ONE_OF, EVENT_ITEMS)  # one worker is woken for all that was submitted at once: each wakes the next
        return found
    return None


def claimed(reading: Reading, worker: str) -> Claim | None:
    """Return what a worker has claimed and not ended, for one that begins anew."""
    for process, uuid, name, run in running(reading):
        if run.worker == worker:
            return _claim_of(reading, process, uuid, name, run)
    return None


def _claim_of(reading: Reading, process: Found, uuid: str, name: str, run: Run) -> Claim:
    call = reading.transaction.get(call_key(process.object_id))
    program = reading.transaction.get(context_key(run.context))
    if call is None or program is None:
        raise damaged("what a process is to call")
    return Claim(process, uuid, name, bytes(call), run.context, bytes(program))


def finish(writing: Writing, process: Identity, worker: str, status: str, exitcode: int, frame: bytes | None) -> Run | None:
    """Store the outcome of a run, and return what was known of it; None, with nothing stored, if it is not the worker's any more.

    Raises:
        NamespaceFullError: The outcome does not fit. One of up to SMALL bytes always does: that a process has ended must be storable.
    """
    raw = writing.transaction.get(run_key(process.object_id))
    run = None if raw is None else Run.unpack(raw)
    if run is None or run.status != RUNNING_STATUS or run.worker != worker:
        return None
    if frame is not None and len(frame) > SMALL:
        writing.reserve(len(frame))
    _end(writing, process, run._replace(status=status, exitcode=exitcode, ended=time.time()), frame)
    return run


def crash(writing: Writing, process: Identity, worker: str, exitcode: int) -> bool:
    """Note that the worker that ran a process has died. Return False, with nothing changed, if the run had ended or was another's."""
    raw = writing.transaction.get(run_key(process.object_id))
    run = None if raw is None else Run.unpack(raw)
    if run is None or run.status != RUNNING_STATUS or run.worker != worker:
        return False
    _end(writing, process, run._replace(status=CRASHED, exitcode=exitcode, ended=time.time()))
    return True


def _end(writing: Writing, process: Identity, run: Run, frame: bytes | None = None) -> None:
    transaction, object_id = writing.transaction, process.object_id
    writing.change(process, EVENT_CHANGE | EVENT_DONE)
    transaction.delete(process_key(RUNNING, object_id))
    owner = transaction.get(owner_key(object_id))
    if owner is None:
        transaction.put(run_key(object_id), run.pack())
        if frame is not None:
            transaction.put(outcome_key(object_id), frame)
        return
    uuid, name = _unlabel(transaction.get(process_key(PROCESSES, object_id)))
    number = int.from_bytes(owner, "big")
    transaction.put(process_key(OUTCOMES, number, writing.number, object_id), Ending(run.status, run.exitcode or 0, uuid, frame).pack())
    announce(writing, number, EVENT_DONE)
    remove(writing, process, name)
