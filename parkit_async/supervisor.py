"""The supervisor of the pool: an actor that keeps as many workers alive as there should be, and sees to what becomes of their processes.

::

    what happens                          │ messages        decides             performs
    a worker dies          pidfd ─────────┤
    pool, crew change      doorbell ──────┼──▶ Supervisor ──▶ Pool ──▶ instructions ──▶ spawn, signal, retire, collect
    a signal is asked for  doorbell ──────┤      (actor)     (pure, core)
    time passes            timer ─────────┘

It is level-triggered: whatever woke it, it compares what the store says with what is. So a message that is lost costs time, never truth, and a
supervisor that dies half-way leaves nothing that the next one does not find.

There is one for a store: whoever holds the :class:`.supervision.SupervisorLock`. It never runs a user's code, so it is killed only from outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ._core import output, paths, pool_state, process_ops, supervision
from ._core.binding import Binding
from ._core.deaths import DeathWatch, open_death_watch
from ._core.doorbell import EVENT_ALL, EVENT_CHANGE, EVENT_ITEMS
from ._core.errors import ParkitError, ProcessError
from ._core.identity import Identity, Liveness, current, identity_of, liveness, signal_exactly
from ._core.namespace import Namespace
from ._core.pool import (
    Adopted,
    Collect,
    Died,
    Drain,
    End,
    Event,
    Hello,
    Instruction,
    Looked,
    Pool,
    Report,
    Resized,
    Retire,
    Signal,
    Spawn,
    SpawnFailed,
    Stop,
    Tick,
    WakeAt,
    Worn,
)
from ._core.processes import UNKNOWN_EXIT, listed
from ._core.registry import open_if_there
from ._core.settings import PoolOptions, default_pool_options, default_pool_size
from ._core.shared import ONE_OF, SUPERVISOR
from ._core.transactions import Reading
from ._core.waiting import AGAIN
from .actor import Actor, Envelope, Verdict
from .operations import write
from .runtime import current_runtime

__all__ = ["Chore", "Look", "Notice", "Supervisor"]

_IDLE: Final = 5.0
"""Seconds between two rounds of chores while nothing runs."""

_BUSY: Final = 1.0
"""The same while something does: its output must not grow without bound."""

_READERS: Final = 60.0
"""Seconds between two looks for the reader slots of dead processes."""

_log = logging.getLogger("parkit.supervisor")


@dataclass(slots=True, frozen=True)
class Notice:
    """Something in the pool's own dicts has changed."""


@dataclass(slots=True, frozen=True)
class Look:
    """A signal was asked for, or somebody wants the store to be looked into."""


@dataclass(slots=True, frozen=True)
class Chore:
    """The slow timer."""


@dataclass(slots=True, frozen=True)
class Ended:
    """The process of a worker is dead."""

    worker: str


class _Place(NamedTuple):
    """Where the supervisor waits to be told of signals in a namespace; see ``runtime.Place``."""

    namespace: Namespace
    object_id: int


@dataclass(slots=True)
class _Employee:
    """A worker's process.

    Attributes:
        child: Whether it is this process's own.
        greeted: Whether its hello was heard.
        signalled: The last signal that it was sent, or 0.
    """

    identity: Identity
    watch: DeathWatch
    child: bool
    greeted: bool = False
    signalled: int = 0


Message = Event | Notice | Look | Chore | Ended


class Supervisor(Actor[Message]):
    """See the module.

    Args:
        store: Path of the store, whose lock the caller holds.
        respawn: Whether workers and clients start another supervisor should this one die; not under a service manager, which does that.
        foreground: Whether it is in the foreground; a detached one leaves its pool to one that is.
    """

    def __init__(self, store: str, *, respawn: bool, foreground: bool = False) -> None:
        super().__init__("parkit supervisor")
        self.store = store
        self.epoch = 0
        self.over = asyncio.Event()
        self._respawn = respawn
        self._foreground = foreground
        self._pool: Binding
        self._crew: Binding
        self._machine: Pool
        self._options = PoolOptions()
        self._size = 0
        self._staff: dict[str, _Employee] = {}
        self._uncollected: dict[str, int | None] = {}
        self._untold: set[str] = set()  # who shall retire, and could not be told yet
        self._namespaces: dict[str, Namespace] = {}
        self._listeners: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._chores: asyncio.TimerHandle | None = None
        self._readers_checked = 0.0
        self._ran: set[str] = set()

    # The beginning.

    async def begin(self) -> None:
        """Take over the store: count the epoch, adopt the workers that live, collect those that do not, and start what is missing."""
        runtime = current_runtime()
        self._pool = await runtime.in_thread(object(), lambda: pool_state.shelf(self.store, pool_state.POOL))
        self._crew = await runtime.in_thread(object(), lambda: pool_state.shelf(self.store, pool_state.CREW))
        self.epoch = pool_state.get(self._pool, "epoch", 0) + 1
        self._read_settings()
        await self._change(self._pool, {"epoch": self.epoch})
        await self._publish()
        self._machine = Pool(self._size, f"{self.epoch:x}.", grace=self._options.grace, drain=self._options.drain)
        await self._meet_namespaces()
        await self._adopt()
        if pool_state.get(self._pool, "stopped"):
            await self._handle(End())  # killall() found workers without a supervisor: nobody else shall be started
        await self._handle(self._looked())
        await runtime.in_thread(object(), self._sweep_outputs)
        self._listen(self._versions(self._pool))
        self._listen(self._versions(self._crew))
        self._rest()

    def _read_settings(self) -> None:
        size = pool_state.get(self._pool, "size")
        self._size = default_pool_size() if size is None else size
        self._options = default_pool_options()._replace(**pool_state.get(self._pool, "options", {}))

    async def _publish(self) -> None:
        """Tell the workers who supervises them, and how."""
        who = {"identity": list(current()), "epoch": self.epoch, "respawn": self._respawn, "foreground": self._foreground}
        entries = {"supervisor": who, "options": self._options._asdict()}
        if any(pool_state.get(self._crew, key) != value for key, value in entries.items()):
            await self._change(self._crew, entries)

    async def _adopt(self) -> None:
        records = pool_state.prefixed(self._pool, "worker:")
        for worker, record in records.items():
            identity = Identity(*record["identity"])
            found = liveness(identity)
            if found is Liveness.ALIVE:
                try:
                    self._employ(worker, identity, child=False).greeted = True
                except ProcessError:
                    found = Liveness.UNKNOWN
                else:
                    await self._handle(Adopted(worker))
            if found is Liveness.DEAD:
                self._uncollected[worker] = None
            elif found is Liveness.UNKNOWN:
                _log.warning("worker %s, process %s, cannot be seen from here; what it runs is left alone", worker, identity.pid)
        await self._collect_all()

    # Listening.

    def _listen(self, listening: Awaitable[None]) -> None:
        async def listen() -> None:
            await listening

        task = asyncio.ensure_future(listen())
        task.add_done_callback(self._listened)
        self._listeners.append(task)

    def _listened(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self.stopped:
            _log.error("the supervisor does not hear a doorbell any more and goes on by its timer", exc_info=task.exception())

    async def _versions(self, binding: Binding) -> None:
        """Say :class:`Notice` whenever a dict changes."""
        seen = -1

        async def look() -> Any:
            version: int = binding.namespace.read(_version, binding)
            return version if version != seen else AGAIN

        while True:
            seen = await current_runtime().wait(binding, EVENT_ALL, look, None)
            self._tell_if_alive(Notice())

    async def _requests(self, namespace: Namespace) -> None:
        """Say :class:`Look` whenever another signal is asked for in a namespace."""
        seen: frozenset[Any] = frozenset()

        async def look() -> Any:
            asked = frozenset((found.uuid, found.run.request) for found in namespace.read(process_ops.running) if found.run.request)
            return asked if asked != seen else AGAIN

        while True:
            seen = await current_runtime().wait(_Place(namespace, SUPERVISOR), EVENT_CHANGE, look, None)
            self._tell_if_alive(Look())

    # Messages.

    async def receive(self, envelope: Envelope[Any]) -> Any:
        message = envelope.message
        if isinstance(message, Notice):
            await self._notice()
        elif isinstance(message, Look):
            await self._handle(self._looked())
        elif isinstance(message, Chore):
            await self._do_chores()
        elif isinstance(message, Ended):
            await self._bury(message.worker)
        else:
            if isinstance(message, Drain | End):
                # Before the workers see their supervisor go: they shall not start another one.
                await self._change(self._pool, {"stopped": "drains" if isinstance(message, Drain) else True})
            await self._handle(message)
        return None

    def supervise(self, message: Message, error: Exception) -> Verdict:
        """A failure (a full disk, say) is logged; the next round of chores tries again whatever is left to do."""
        _log.error("the supervisor failed at %r, and will try again", message, exc_info=error)
        return Verdict.RESUME

    async def _notice(self) -> None:
        size, options = self._size, self._options
        try:
            self._read_settings()
        except (ValueError, TypeError) as error:
            _log.error("the pool's settings are wrong, and are left as they were: %s", error)
            self._size, self._options = size, options
        await self._publish()
        await self._meet_namespaces()
        for worker, record in pool_state.prefixed(self._pool, "worker:").items():
            employee = self._staff.get(worker)
            if employee is not None and not employee.greeted:
                employee.greeted = True
                await self._handle(Hello(worker))
            if record["worn"]:
                await self._handle(Worn(worker))
        if self._size != self._machine.size:
            await self._handle(self._looked())
            await self._handle(Resized(self._size))
        if pool_state.get(self._pool, "stopped") is True:
            await self._handle(End())
        elif pool_state.get(self._pool, "handover") == self.epoch and not self._foreground:
            _log.info("the pool is left, with its workers, to a supervisor in the foreground")
            self.over.set()

    async def _meet_namespaces(self) -> None:
        for name in pool_state.known_namespaces(self.store):
            if name not in self._namespaces:
                namespace = await current_runtime().in_thread(object(), lambda name=name: open_if_there(name, self.store))  # type: ignore[misc]
                if namespace is not None:
                    self._namespaces[name] = namespace
                    self._listen(self._requests(namespace))

    def _running(self) -> list[process_ops.Listed]:
        return [found for namespace in self._namespaces.values() for found in namespace.read(process_ops.running)]

    def _looked(self) -> Looked:
        found = [process.run for process in self._running()]
        return Looked(
            frozenset(run.worker for run in found),
            frozenset(run.worker for run in found if run.request and run.request != signal.SIGKILL),
            frozenset(run.worker for run in found if run.request == signal.SIGKILL),
        )

    # Chores.

    def _rest(self) -> None:
        if self._chores is not None:
            self._chores.cancel()
        self._chores = self._loop.call_later(_BUSY if self._running() else _IDLE, self._tell_if_alive, Chore())

    def _tell_if_alive(self, message: Message) -> None:
        if self._stopping is None and not self.stopped:
            self.tell(message)

    async def _do_chores(self) -> None:
        if supervision.is_lost(self.store):
            _log.error("the store %s is gone from under its supervisor, so its pool ends", self.store)
            await self._handle(End())
        try:
            await self._meet_namespaces()
            await self._tell_retiring()
            await self._collect_all()
            await self._handle(self._looked())
            await self._notice()
            self._limit_outputs()
            self._nudge()
            if self._loop.time() >= self._readers_checked + _READERS:
                self._check_readers()
        finally:
            self._rest()

    def _nudge(self) -> None:
        """Wake all idle workers of a namespace where something is submitted: the one that a commit chose may have died, or been stopped, or whoever
        chose it died before ringing."""
        for namespace in self._namespaces.values():
            if namespace.read(process_ops.anything_submitted):
                namespace.ring({ONE_OF: EVENT_ITEMS}, everybody=True)

    def _limit_outputs(self) -> None:
        """Cut the outputs that are too long: of what runs, and of what ran the last time and has ended since."""
        running = {process.uuid for process in self._running()}
        for uuid in running | self._ran:
            self._limit_output(uuid)
        self._ran = running

    def _limit_output(self, uuid: str) -> None:
        try:
            output.enforce(self.store, uuid, self._options.output_limit)
        except (ParkitError, OSError) as error:
            _log.error("the output of a process cannot be limited: %s", error)

    def _sweep_outputs(self) -> None:
        """Remove the outputs of processes that are no more. In a thread of its own."""
        known = {found.uuid for _, found, _ in listed(self.store, None)}
        removed = output.sweep(self.store, known)
        if removed:
            _log.info("%s outputs of processes that were dropped are removed", removed)

    def _check_readers(self) -> None:
        self._readers_checked = self._loop.time()
        for namespace in (self._pool.namespace, *self._namespaces.values()):
            namespace.engine.check_readers()
        self._pool.namespace.sockets.sweep()  # what the dead have left there, too

    # What the machine says.

    async def _handle(self, event: Event) -> None:
        for instruction in self._machine.handle(event, self._loop.time()):
            try:
                await self._perform(instruction)
            except Exception:
                # The others must be performed all the same: the machine says nothing twice. What can be tried again is noted, for the chores.
                _log.exception("the supervisor failed at %r", instruction)

    async def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case Spawn(worker):
                await self._spawn(worker)
            case Retire(worker):
                self._untold.add(worker)
                await self._tell_retiring()
            case Signal(worker, name):
                self._signal(worker, signal.SIGTERM if name == "TERM" else signal.SIGKILL)
            case Collect(worker, exitcode):
                # What targets have left running in its group ends with it, however it has ended: nobody would know of it any more, nor killall().
                self._signal(worker, signal.SIGKILL)
                self._dismiss(worker)
                self._uncollected[worker] = exitcode
                await self._collect_all()
                self._check_readers()
            case WakeAt(when):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = None if when is None else self._loop.call_at(when, self._tell_if_alive, Tick())
            case Report(level, message):
                _log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", message)
            case Stop():
                self.over.set()

    async def _spawn(self, worker: str) -> None:
        command = supervision.command("worker", "--store", self.store, "--name", worker, "--epoch", str(self.epoch))
        try:
            # Takes a millisecond or two, in which nobody else needs this loop.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)  # noqa: ASYNC220
        except OSError as error:
            await self._handle(SpawnFailed(worker, str(error)))
            return
        process.returncode = 0  # who waits for it is the watch below
        try:
            identity = identity_of(process.pid)
            if identity is not None:
                self._employ(worker, identity, child=True)
                return
        except (OSError, ProcessError) as error:
            # Out of descriptors, say. Nobody would see the death of one that cannot be watched.
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)  # noqa: ASYNC222
            await self._handle(SpawnFailed(worker, str(error)))
            return
        # It is dead already, and a child whose status was not fetched.
        _, status = os.waitpid(process.pid, 0)  # noqa: ASYNC222
        await self._handle(Died(worker, os.waitstatus_to_exitcode(status)))

    def _employ(self, worker: str, identity: Identity, child: bool) -> _Employee:
        employee = self._staff[worker] = _Employee(identity, open_death_watch(identity), child)
        self._loop.add_reader(employee.watch.fileno(), self._rung, worker)
        return employee

    def _rung(self, worker: str) -> None:
        self._loop.remove_reader(self._staff[worker].watch.fileno())
        self._tell_if_alive(Ended(worker))

    async def _bury(self, worker: str) -> None:
        employee = self._staff.get(worker)
        if employee is not None:
            await self._meet_namespaces()  # it may have died in one whose bell has not been heard yet
            # Its status is only looked at: until it is reaped, its group cannot become another's.
            if employee.child:
                exitcode = _exit_code(employee.identity.pid)
                if exitcode is None:
                    exitcode = employee.watch.reap()  # where a status cannot be looked at
            else:
                exitcode = -employee.signalled if employee.signalled else None  # another's child: nobody can see what it left with
            await self._handle(self._looked())
            await self._handle(Died(worker, exitcode))
            self._nudge()

    def _signal(self, worker: str, number: int) -> None:
        employee = self._staff.get(worker)
        if employee is not None:
            with contextlib.suppress(PermissionError):
                if signal_exactly(employee.identity, number, group=True):
                    employee.signalled = number

    def _dismiss(self, worker: str) -> None:
        employee = self._staff.pop(worker, None)
        if employee is not None:
            self._loop.remove_reader(employee.watch.fileno())
            employee.watch.reap()
            employee.watch.close()

    async def _tell_retiring(self) -> None:
        """Tell workers to retire. What fails (a full disk, say) is tried again with the next chores; nothing else that is to be done waits for it."""
        for worker in list(self._untold):
            try:
                await self._change(self._crew, {f"retire:{worker}": True})
            except Exception:
                _log.exception("worker %s cannot be told to retire yet", worker)
            else:
                self._untold.discard(worker)

    async def _collect_all(self) -> None:
        """Mark as crashed what dead workers ran, and forget them. What fails is tried again with the next chores."""
        running = self._running()
        records = pool_state.prefixed(self._pool, "worker:")  # read after what runs: a worker says hello before it claims anything
        for process in running:
            if process.run.worker not in records and process.run.worker not in self._staff:
                self._uncollected.setdefault(process.run.worker, None)  # somebody's collection was interrupted
        for worker, exitcode in list(self._uncollected.items()):
            try:
                await self._collect(worker, UNKNOWN_EXIT if exitcode is None else exitcode)
            except Exception:
                _log.exception("what worker %s, which is dead, has left cannot be put in order yet", worker)
            else:
                self._uncollected.pop(worker, None)

    async def _collect(self, worker: str, code: int) -> None:
        for namespace in list(self._namespaces.values()):
            for found in namespace.read(process_ops.running):
                if found.run.worker == worker:
                    self._limit_output(found.uuid)  # while nobody knows of its end, after which nobody would
                    if await write(namespace, process_ops.crash, found.process, worker, code):
                        path = paths.join(namespace.name, found.name)
                        _log.warning("process %s crashed: its worker %s (%s) left with %s", path, worker, found.run.pid, code)
        await self._change(self._pool, remove=(f"worker:{worker}",))
        self._untold.discard(worker)
        await self._change(self._crew, remove=(f"retire:{worker}",))

    async def _change(self, binding: Binding, entries: dict[str, Any] | None = None, remove: tuple[str, ...] = ()) -> None:
        call: Callable[..., bool] = pool_state.apply
        await write(binding.namespace, call, binding, binding.encode_many(entries or {}), remove, None)

    async def on_stop(self) -> None:
        for timer in (self._timer, self._chores):
            if timer is not None:
                timer.cancel()
        for listener in self._listeners:
            listener.cancel()
        for worker in list(self._staff):
            employee = self._staff.pop(worker)
            self._loop.remove_reader(employee.watch.fileno())
            employee.watch.close()


def _version(reading: Reading, binding: Binding) -> int:
    return reading.state(binding).version


def _exit_code(pid: int) -> int | None:
    """Return the exit code of a child that is dead, without reaping it."""
    try:
        info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):
        return None
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
