"""What the Process classes of both faces share: how one is declared, created and restored, and what can be read of it without waiting."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from . import codecs, failures, object_ops, output, pool_state, process_ops
from .binding import Binding
from .doorbell import EVENT_DONE, Bell
from .errors import CodecError, ProcessCrashedError, ProcessError
from .namespace import Namespace
from .objects import Declaration, Handle
from .output import Output
from .process_ops import CRASHED, CREATED, ENDED, FAILED, FINISHED, STATUSES, Listed, Run
from .program import program
from .registry import open_if_there
from .transactions import Reading
from .waiting import AGAIN

if TYPE_CHECKING:
    from .layout import Entry

__all__ = ["UNKNOWN_EXIT", "ProcessHandle", "check_statuses", "describe", "listed", "restore"]

UNKNOWN_EXIT: Final = 255
"""Exit code of a worker that died while no supervisor was its parent, so that nobody could learn it (multiprocessing's forkserver says the same)."""


class ProcessHandle(Handle):
    """Base of both Process classes, besides their face's Dict."""

    _call: tuple[Callable[..., Any] | None, tuple[Any, ...], dict[str, Any]] | None = None
    _sentinel: Bell | None = None
    _sentinel_slot = -1
    _closed = False

    def _declare_process(
        self,
        path: str | None,
        create: bool,
        bind: bool,
        versioned: bool,
        target: Callable[..., Any] | None,
        args: Iterable[Any],
        kwargs: Mapping[str, Any] | None,
    ) -> None:
        """Check the arguments of a constructor and remember them; raise TypeError or ValueError for what cannot be."""
        if target is not None and not callable(target):
            raise TypeError(f"target must be callable, not {type(target).__name__}")
        if isinstance(args, str | bytes):
            raise TypeError(f"args is a sequence of arguments, not {type(args).__name__}: for one argument write args=({args!r},)")
        self._set("_call", (target, tuple(args), dict(kwargs or {})))
        self._declare(f"process-{uuid4()}" if path is None else path, create, bind, versioned)

    def _creation(self) -> tuple[Any, ...]:
        if self._call is None:
            # Restored from a pickle, or named by a list: it was there, and must not be made again without what it is to call.
            raise self._missing()
        try:
            frame = codecs.encode((type(self), *self._call))
        except Exception as error:
            error.add_note(
                f"while pickling what process {self.path!r} is to call: it runs in another process, so target and arguments must be such as can be "
                "pickled. Pass what they are made of, or open it in the target (parkit's objects travel as arguments)"
            )
            raise
        operation, *arguments = super()._creation()
        assert operation is object_ops.create
        return (process_ops.create, *arguments, frame)

    def _check_namespace(self, namespace: Namespace) -> None:
        """Raise CodecError where a process cannot live: its call is a pickle, which runs code when it is loaded."""
        if namespace.settings().codecs is not None:
            raise CodecError(
                f"namespace {namespace.name!r} is limited to codecs that run no code, and what a process calls is pickled: "
                "keep processes in another namespace",
                self.path,
            )

    # What can be read.

    @property
    def name(self) -> str:
        """The whole path."""
        return self._declaration.path

    def _open_binding(self) -> Binding:
        if self._closed:
            raise ValueError(f"this handle of process {self.path!r} was closed; make another one: Process({self.path!r}, create=False)")
        return self._bound()

    def _run(self) -> Run:
        binding = self._open_binding()
        run: Run = binding.namespace.read(process_ops.run_of, binding)
        return run

    @property
    def status(self) -> str:
        """One of created, submitted, running, finished, failed and crashed."""
        return self._run().status

    @property
    def exitcode(self) -> int | None:
        """None until the end. 0: finished; 1, or what ``sys.exit`` was given: failed. Of a crashed one the negative number of the signal, or what
        the worker left with (255 where nobody could see that)."""
        return self._run().exitcode

    @property
    def pid(self) -> int | None:
        """Id of the operating system's process that runs it, or ran it; None before."""
        return self._run().pid or None

    ident = pid

    @property
    def daemon(self) -> bool:
        """True: a process runs in the pool, and keeps no program that started it from ending."""
        return True

    @property
    def result(self) -> Any:
        """What the target returned; None until then, and if it did not."""
        run, frame, binding = self._outcome()
        if run.status != FINISHED or frame is None:
            return None
        return binding.decode(frame, "result")

    @property
    def error(self) -> Exception | None:
        """What the target raised, with its remote traceback as the cause, or a ProcessCrashedError; None until then, and if it finished."""
        run, frame, binding = self._outcome()
        return self._error_of(run, frame, binding)

    def _outcome(self) -> tuple[Run, bytes | None, Binding]:
        binding = self._open_binding()
        run, frame = binding.namespace.read(process_ops.outcome, binding)
        return run, frame, binding

    def _error_of(self, run: Run, frame: bytes | None, binding: Binding) -> Exception | None:
        if run.status == FAILED and frame is not None:
            captured = binding.decode(frame, "error")
            try:
                return failures.restore(captured)
            except ValueError as error:
                raise binding.undecodable("error", error) from error
        if run.status == CRASHED:
            exitcode = None if run.exitcode == UNKNOWN_EXIT else run.exitcode
            return ProcessCrashedError(self.path, exitcode, output.output_path(binding.namespace.store, binding.entry.uuid))
        return None

    @property
    def output(self) -> Output:
        """What the run has written to its standard output and error so far, its children and C code included. See :class:`parkit.Output`."""
        binding = self._open_binding()
        return Output(binding.namespace.store, binding.entry.uuid)

    def info(self) -> dict[str, Any]:
        """Return name, status, pid, exitcode and the times (ISO 8601, UTC) at which it was submitted, started and ended, of one moment."""
        return describe(self.path, self._run())

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process ends, for ``multiprocessing.connection.wait`` and ``select``; see :meth:`close`."""
        binding = self._open_binding()
        if self._sentinel is None or self._sentinel.closed:
            namespace = binding.namespace
            bell = Bell(namespace.sockets)
            slots: list[int] = []
            try:
                namespace.table.register(binding.object_id, EVENT_DONE, bell.address, slots)
                # Registered first, so that no end falls in between; nobody drains this bell, so it stays readable.
                if self._run().status in ENDED:
                    namespace.sockets.send(bell.address)
            except BaseException:
                for slot in slots:
                    namespace.table.unregister(slot)
                bell.close()
                raise
            self._set("_sentinel_slot", slots[0])
            self._set("_sentinel", bell)
        assert self._sentinel is not None
        return self._sentinel.fileno()

    def _close(self) -> None:
        """Do what ``close()`` of both faces does."""
        if not self._closed:
            if self._run().status == process_ops.RUNNING_STATUS:
                raise ValueError(f"process {self.path!r} is still running; terminate() and join() it first, or just forget the handle")
            self._forget_sentinel()
            self._set("_closed", True)

    def _forget_sentinel(self) -> None:
        bell, slot = self._sentinel, self._sentinel_slot
        self._set("_sentinel", None)
        if bell is not None:
            self._bound().namespace.table.unregister(slot)
            bell.close()

    # What the faces do with a turn, or wait for.

    def _start(self, binding: Binding) -> tuple[Any, ...]:
        """Return the operation that submits the process, and its arguments."""
        digest, description = program()
        return process_ops.start, binding, binding.entry.uuid, self._declaration.name, digest, description

    def _ended(self, binding: Binding) -> Callable[[], Any]:
        """Return an attempt (see ``waiting``) to find the process ended: its run and outcome."""

        def attempt() -> Any:
            run, frame = binding.namespace.read(process_ops.outcome, binding)
            if run.status == CREATED:
                raise ProcessError(f"process {self.path!r} was not started, so its end would never come; start() it first")
            return (run, frame) if run.status in ENDED else AGAIN

        return attempt

    def _delivered(self, binding: Binding, run: Run, frame: bytes | None) -> Any:
        """Return the result of a run that has ended, or raise its error."""
        error = self._error_of(run, frame, binding)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here: they would keep each other
        return None if frame is None else binding.decode(frame, "result")

    def _remove_output(self, binding: Binding) -> None:
        output.remove(binding.namespace.store, binding.entry.uuid)


def describe(path: str, run: Run) -> dict[str, Any]:
    """Return what is known of a run, for people."""
    return {
        "name": path,
        "status": run.status,
        "pid": run.pid or None,
        "exitcode": run.exitcode,
        "submitted": _time(run.submitted),
        "started": _time(run.started),
        "ended": _time(run.ended),
    }


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def check_statuses(status_filter: str | Iterable[str] | None, default: Collection[str] | None = None) -> frozenset[str] | None:
    """Return the statuses that a filter names; ``default`` for None.

    Raises:
        ValueError: One of them is no status.
    """
    if status_filter is None:
        return None if default is None else frozenset(default)
    found = frozenset((status_filter,) if isinstance(status_filter, str) else status_filter)
    for status in found:
        if status not in STATUSES:
            raise ValueError(f"{status!r} is not a status of processes; there are {', '.join(STATUSES)}")
    return found


def listed(store: str, statuses: frozenset[str] | None) -> Iterator[tuple[Namespace, Listed, Entry]]:
    """Iterate over the processes of a store, namespace by namespace, each as it is when the iteration comes to it."""
    if not os.path.isdir(store):
        return

    def read(reading: Reading) -> list[tuple[Listed, Entry]]:
        found = []
        for process in process_ops.processes(reading, statuses):
            entry = object_ops.find(reading, process.name)
            if entry is not None and entry.uuid == process.uuid:
                found.append((process, entry))
        return found

    for name in pool_state.known_namespaces(store):
        namespace = open_if_there(name, store)
        if namespace is not None:
            for process, entry in namespace.read(read):
                yield namespace, process, entry


def restore(cls: type[ProcessHandle], namespace: Namespace, entry: Entry, name: str) -> Any:
    """Return a handle of a process that a list names, whatever its own class."""
    handle = cls.__new__(cls)
    declaration = Declaration(str(namespace.store), namespace.name, name, False, True, entry.versioned, None, 0, {}, entry.uuid)
    handle._set("_declaration", declaration)
    handle._set("_binding", Binding(namespace, declaration.path, entry, None))
    return handle
