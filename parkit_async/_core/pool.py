"""How many workers there should be, and what is to be done so that there are.

Rules, and nothing else: events go in, instructions come out. This module starts no process, sends no signal, reads no clock and knows nothing of
the store; whoever feeds it (the supervisor) says what happened and when, and performs what it answers. So it is tested by calling it.

::

            Spawn               Hello             Adopted
    (none) ───────▶ STARTING ──────────▶ READY ◀────────── (none)
                     │ │ │               │ │ │
                     │ │ └──▶ RETIRING ◀─┘ │ │             too many; worn
                     │ │       │     │     │ │
                     │ └─▶ TERMINATING ◀───┘ │             terminate asked for; End; drained for long enough
                     │       │       │       │
                     └────▶ KILLED ◀─┴───────┘             kill asked for; the grace period is over; no Hello in time
                             │
                             ▼ Died (from every state), SpawnFailed
                            DEAD

* STARTING: its process was started and has not said hello.
* READY: it claims and runs what is submitted, when it likes; whether it is busy right now is known only as of the last look into the store.
* RETIRING: it was told to claim nothing more, and exits when it has finished what it runs.
* TERMINATING: its process group got SIGTERM; when the grace period is over, it gets SIGKILL.
* KILLED: its process group got SIGKILL; nothing is left but to hear of its death.
* DEAD: its death was heard of; it is collected and forgotten, and its id is never given again.

:data:`TRANSITIONS` is the whole truth, and :func:`diagram` draws it.

Places. There are as many as the pool's size, and each worker is born into one. It gives its place up by dying, or when the pool has become too
small for it. So a worker that is terminated, or replaced because it is worn, keeps its place until it is dead: as long as it runs something, its
successor would be one too many. One that retires because the pool shrank has no place: it costs nobody who comes when the pool grows again his own.

Backoff. A worker that could not be started, died before it was ready, or soon after and idle, *failed*: the next would probably fail as well. All
starts are then held for a while, twice as long each time. Workers that were started together fail together, which counts once: only the failure of
one that was started after the last failure makes the wait longer. When such a one has got ready, and ten seconds have passed without a failure, all
is forgiven. Who dies at work did not fail: that is the user's code, which cost the pool one submitted process and can go on only as long as there
are more of them.

Invariants:

* Places in use never outnumber the size, and fall short of it only while starts are held.
* Each worker is told at most once to retire, gets each signal at most once, and is collected exactly once; nothing is asked of it after its death.
* A worker is told to retire before it is terminated: should it survive its signal, it must not claim what would then be killed for no fault of its
  own.
* While anything waits for a time to come, a wake is asked for, and it is for the earliest. Time acts through :class:`Tick` alone: an event that
  comes late, but before it, still counts.
* An event about a worker that is not known (any more) changes nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, assert_never

__all__ = [
    "TRANSITIONS",
    "Adopted",
    "Collect",
    "Died",
    "Drain",
    "End",
    "Event",
    "Hello",
    "Instruction",
    "Looked",
    "Phase",
    "Pool",
    "Report",
    "Resized",
    "Retire",
    "Signal",
    "Spawn",
    "SpawnFailed",
    "State",
    "Stop",
    "Tick",
    "WakeAt",
    "Worker",
    "Worn",
    "diagram",
]

FIRST_DELAY: Final = 0.1  # seconds that starts are held after the first failure
LONGEST_DELAY: Final = 30.0  # seconds; what the doubling ends at
EARLY: Final = 1.0  # seconds of readiness: an idle worker that dies before has failed
FORGIVEN: Final = 10.0  # seconds without a failure, counted from when a worker got ready, that end the backoff


class State(enum.Enum):
    """Of a worker; see the module's drawing."""

    NEW = "new"  # not known yet: where the table begins
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    TERMINATING = "terminating"
    KILLED = "killed"
    DEAD = "dead"  # forgotten: where it ends


class Phase(enum.Enum):
    """Of the pool, in this order and never back."""

    RUNNING = "running"
    DRAINING = "draining"  # all retire, nobody is started
    ENDING = "ending"  # all are terminated
    OVER = "over"  # Stop was given; every event is ignored


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Resized:
    """There should be ``size`` workers: 0 or more. Remembered, but without effect, while the pool stops."""

    size: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A started worker is ready. May be said again."""

    worker: str


@dataclass(frozen=True, slots=True)
class Adopted:
    """A live worker of a predecessor was found.

    To be given before the first :class:`Looked`: until then the pool neither starts nor retires anybody, so that it knows all who are there before
    it counts, and who is idle before it chooses.

    Attributes:
        ready: Whether it has said hello to the predecessor; if not, it has ``start_timeout`` seconds from now to say it.
    """

    worker: str
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Looked:
    """What the store says at this moment, all of it from one snapshot. To be given again after every change; what was seen before costs nothing.

    Attributes:
        busy: Workers that run something. One that died still does, until it is collected.
        terminate: Those of them whose process is to be terminated.
        kill: Those of them whose process is to be killed.
    """

    busy: frozenset[str] = frozenset()
    terminate: frozenset[str] = frozenset()
    kill: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process has ended.

    Look first: whether it was busy then tells a crash of what it ran from a worker that cannot live, and only the latter holds the pool up.

    Attributes:
        exitcode: Negative for a signal; None where it is not to be had, as of another's child.
    """

    worker: str
    exitcode: int | None


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """A worker that :class:`Spawn` asked for could not be started, and there is no process of it."""

    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Worn:
    """A worker has run enough processes, grown too old or too large, and should be replaced as soon as it is idle."""

    worker: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The pool is to stop, and gives what runs ``drain`` seconds to finish. Once is enough."""


@dataclass(frozen=True, slots=True)
class End:
    """The pool is to stop at once, also when it is draining. Once is enough."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The time has come that :class:`WakeAt` named. Too early or too often does no harm: it is asked for again."""


Event = Resized | Hello | Adopted | Looked | Died | SpawnFailed | Worn | Drain | End | Tick


# Instructions: what is to be done, in the order given. Doing one twice must be the same as doing it once: who does it may die half-way.


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for a new worker of this id, and say :class:`SpawnFailed` if it cannot be done."""

    worker: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Tell a worker to claim nothing more and to exit when it is idle. It may not have said hello yet."""

    worker: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Send SIGTERM or SIGKILL to the whole process group of a worker."""

    worker: str
    signal: Literal["TERM", "KILL"]


@dataclass(frozen=True, slots=True)
class Collect:
    """Kill what is left of a dead worker's process group, mark what it ran as crashed, and forget its record."""

    worker: str
    exitcode: int | None


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Say :class:`Tick` when it is ``when``, and at no other time that was asked for before; None for never."""

    when: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Write a line to the log of the service."""

    level: Literal["info", "warning"]
    message: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Nobody is left, and nobody will come: the service may end."""


Instruction = Spawn | Retire | Signal | Collect | WakeAt | Report | Stop


# By state and kind of event: what a worker may become. It need not be the event's subject: Drain concerns all, and where one died, another is born.
# A state that leads to itself takes note of the event and stays. What does not stand here is ignored.
TRANSITIONS: Final[Mapping[tuple[State, type[Event]], tuple[State, ...]]] = MappingProxyType(
    {
        (State.NEW, Looked): (State.STARTING,),
        (State.NEW, Resized): (State.STARTING,),
        (State.NEW, Died): (State.STARTING,),
        (State.NEW, SpawnFailed): (State.STARTING,),
        (State.NEW, Tick): (State.STARTING,),  # starts are held no longer
        (State.NEW, Adopted): (State.STARTING, State.READY),
        (State.STARTING, Hello): (State.READY,),
        # Ready: it is at work, so its hello is late or lost.
        (State.STARTING, Looked): (State.READY, State.RETIRING, State.TERMINATING, State.KILLED),
        (State.STARTING, Resized): (State.RETIRING,),
        (State.STARTING, Adopted): (State.RETIRING, State.TERMINATING),
        (State.STARTING, Drain): (State.RETIRING,),
        (State.STARTING, End): (State.TERMINATING,),
        (State.STARTING, Tick): (State.KILLED,),  # it never got ready
        (State.STARTING, Died): (State.DEAD,),
        (State.STARTING, SpawnFailed): (State.DEAD,),
        (State.READY, Looked): (State.RETIRING, State.TERMINATING, State.KILLED),
        (State.READY, Resized): (State.RETIRING,),
        (State.READY, Adopted): (State.RETIRING, State.TERMINATING),
        (State.READY, Worn): (State.RETIRING,),
        (State.READY, Drain): (State.RETIRING,),
        (State.READY, End): (State.TERMINATING,),
        (State.READY, Died): (State.DEAD,),
        (State.RETIRING, Hello): (State.RETIRING,),
        (State.RETIRING, Looked): (State.RETIRING, State.TERMINATING, State.KILLED),
        (State.RETIRING, End): (State.TERMINATING,),
        (State.RETIRING, Tick): (State.TERMINATING, State.KILLED),  # it was drained for long enough; it never got ready
        (State.RETIRING, Died): (State.DEAD,),
        (State.RETIRING, SpawnFailed): (State.DEAD,),
        (State.TERMINATING, Looked): (State.KILLED,),
        (State.TERMINATING, Tick): (State.KILLED,),
        (State.TERMINATING, Died): (State.DEAD,),
        (State.TERMINATING, SpawnFailed): (State.DEAD,),
        (State.KILLED, Died): (State.DEAD,),
        (State.KILLED, SpawnFailed): (State.DEAD,),
    }
)


def diagram() -> str:
    """Return the transitions as the text of a Mermaid diagram, for the documentation."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), successors in TRANSITIONS.items():
        for successor in successors:
            arrows.setdefault((state, successor), []).append(event.__name__)

    def name(state: State) -> str:
        return "[*]" if state in (State.NEW, State.DEAD) else state.name

    lines = [f"    {name(state)} --> {name(successor)} : {', '.join(events)}" for (state, successor), events in arrows.items()]
    return "\n".join(["stateDiagram-v2", *lines]) + "\n"


@dataclass(slots=True)
class Worker:
    """What the pool knows of a worker. To be read; only the pool writes.

    Attributes:
        placed: Whether it has one of the pool's places.
        busy: Whether it ran something when the store was last looked into.
        ready_at: When it said hello; None if it has not, minus infinity if it said it to a predecessor.
        deadline: When its patience is over: that for its hello, or the grace period; None if there is none.
        generation: How many failures there had been when it was started; -1 if it was adopted.
        hung: Whether it was killed because it never got ready.
    """

    id: str
    state: State = State.NEW
    placed: bool = True
    busy: bool = False
    ready_at: float | None = None
    deadline: float | None = None
    generation: int = -1
    hung: bool = False


class Pool:
    """The state machine. Belongs to one task; :meth:`handle` is all that changes it.

    Args:
        size: How many workers there should be.
        prefix: What the ids of workers begin with. Each supervisor of a store has its own, or it would give a new worker the id of an adopted one.
        grace: Seconds from SIGTERM to SIGKILL.
        drain: Seconds that what runs gets to finish after :class:`Drain`.
        start_timeout: Seconds within which a worker must say hello.
    """

    def __init__(self, size: int, prefix: str, *, grace: float = 5.0, drain: float = 10.0, start_timeout: float = 60.0) -> None:
        self.size = size
        self.phase = Phase.RUNNING
        self._prefix = prefix
        self._grace = grace
        self._drain = drain
        self._start_timeout = start_timeout
        self._workers: dict[str, Worker] = {}  # in order of birth
        self._born = 0
        self._looked = False
        self._drained_at: float | None = None
        self._alarm: float | None = None  # what the last WakeAt said
        # Of the backoff:
        self._delay = 0.0  # how long starts were held the last time; 0 while all is well
        self._generation = 0  # how many failures have lengthened it
        self._held_until: float | None = None
        self._forgiven_at: float | None = None
        # Of the event being handled:
        self._kind: type[Event] = Tick
        self._now = -math.inf
        self._instructions: list[Instruction] = []

    @property
    def workers(self) -> Mapping[str, Worker]:
        """Who is alive, by id, oldest first. A view that follows what happens; only to be read."""
        return MappingProxyType(self._workers)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take note of an event, and return what is to be done about it, in this order.

        The next event may be handed over while it is being done, as when a start fails; what that one asks for is done first.

        Args:
            event: What happened. Whatever is unknown, late or said twice is ignored.
            now: Seconds on a clock that never goes back.
        """
        if self.phase is Phase.OVER:
            return []
        self._kind, self._now, self._instructions = type(event), now, []
        match event:
            case Looked():
                self._look(event)
            case Resized(size):
                self.size = size
            case Hello(id):
                if worker := self._concerned(id):
                    self._ready(worker)
            case Adopted(id, ready):
                if id not in self._workers:
                    self._adopt(id, ready)
            case Died(id, exitcode):
                if worker := self._concerned(id):
                    self._bury(worker, exitcode, _cause_of(exitcode))
            case SpawnFailed(id, error):
                if worker := self._concerned(id):
                    self._bury(worker, None, f"could not be started: {error}")
            case Worn(id):
                if worker := self._concerned(id):
                    self._retire(worker)
            case Drain():
                if self.phase is Phase.RUNNING:
                    self._leave_running(Phase.DRAINING)
                    self._drained_at = now + self._drain
            case End():
                self._end()
            case Tick():
                self._tick()
            case _:  # pragma: no cover - as mypy sees to
                assert_never(event)
        self._settle()
        return self._instructions

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold. For tests, after every event."""
        placed = [worker for worker in self._workers.values() if worker.placed]
        if self.phase is Phase.RUNNING and self._looked:
            assert len(placed) <= self.size, "more workers have a place than there are places"
            assert len(placed) == self.size or self._held_until is not None, "a place is free although starts are not held"
        if self.phase is not Phase.RUNNING:
            assert not placed, "a worker has a place although the pool stops"
            assert self._delay == 0, "starts are held although there will be none"
        assert self.phase is not Phase.OVER or not self._workers, "the pool is over and somebody is left"
        assert (self.phase is Phase.DRAINING) is (self._drained_at is not None), "the pool drains without a deadline, or has one and does not drain"
        for id, worker in self._workers.items():
            state = worker.state
            assert worker.id == id, "a worker is listed under another's id"
            assert state not in (State.NEW, State.DEAD), "a worker is kept that is not alive"
            assert worker.placed or state not in (State.STARTING, State.READY), "a worker without a place was not told to retire"
            assert state is not State.STARTING or not worker.busy, "a worker is at work and not ready"
            assert (worker.ready_at is None) or state is not State.STARTING, "a worker has said hello and is still starting"
            assert (worker.ready_at is not None) or state is not State.READY, "a worker is ready and has not said hello"
            patience = state is State.TERMINATING or (state in (State.STARTING, State.RETIRING) and worker.ready_at is None)
            assert (worker.deadline is not None) is patience, f"a worker that is {state.value} has the wrong patience: {worker.deadline}"
            assert self.phase is not Phase.ENDING or state in (State.TERMINATING, State.KILLED), "the pool ends and a worker was not told"
        assert 0 <= self._delay <= LONGEST_DELAY, "starts are held for too long"
        assert self._held_until is None or self._held_until <= self._now + self._delay, "starts are held for longer than the delay"
        assert self._delay > 0 or self._held_until is self._forgiven_at is None, "starts are held for no reason"
        assert self._held_until is None or self._forgiven_at is None, "forgiveness is in sight although starts are held"
        assert self._alarm == min(self._times(), default=None), "the next wake is not at the earliest time that matters"

    # What an event does.

    def _look(self, look: Looked) -> None:
        self._looked = True
        for worker in self._workers.values():
            worker.busy = worker.id in look.busy
            if worker.busy and worker.state in (State.STARTING, State.RETIRING):
                self._ready(worker)
            if worker.id in look.kill:
                self._signal(worker, "KILL")
            elif worker.id in look.terminate:
                self._signal(worker, "TERM")

    def _ready(self, worker: Worker) -> None:
        if worker.ready_at is not None:
            return
        worker.ready_at = self._now
        worker.deadline = None
        if worker.state is State.STARTING:
            self._move(worker, State.READY)
            if self._delay and self._forgiven_at is None and worker.generation == self._generation:
                self._forgiven_at = self._now + FORGIVEN

    def _adopt(self, id: str, ready: bool) -> None:
        worker = self._workers[id] = Worker(id)
        if ready:
            self._move(worker, State.READY)
            worker.ready_at = -math.inf
        else:
            self._start(worker)
        if self.phase is Phase.ENDING:
            self._signal(worker, "TERM")

    def _bury(self, worker: Worker, exitcode: int | None, cause: str) -> None:
        trouble = self._failure(worker)
        self._move(worker, State.DEAD)
        del self._workers[worker.id]
        self._instructions.append(Collect(worker.id, exitcode))
        if trouble is not None and self.phase is Phase.RUNNING:
            self._back_off(worker, f"{worker.id} {cause}{trouble}")

    def _end(self) -> None:
        self._leave_running(Phase.ENDING)
        for worker in self._workers.values():
            self._signal(worker, "TERM")

    def _tick(self) -> None:
        self._alarm = None  # spent. Timers may go off a little too early, and what is still to come must be asked for again.
        for worker in self._workers.values():
            if worker.deadline is not None and worker.deadline <= self._now:
                worker.hung = worker.state is State.STARTING
                self._signal(worker, "KILL")
        if self._drained_at is not None and self._drained_at <= self._now:
            self._report("warning", f"still there {self._drain:g} s after the pool was asked to stop, and terminated: {', '.join(self._workers)}")
            self._end()
        if self._held_until is not None and self._held_until <= self._now:
            self._held_until = None
        if self._forgiven_at is not None and self._forgiven_at <= self._now:
            self._forgive()
            self._report("info", "workers stay alive again")

    # What follows from it.

    def _settle(self) -> None:
        """Compare what should be with what is, whatever the event was."""
        if self.phase is not Phase.RUNNING:
            self._fit(0)
            if self._looked and not self._workers:
                self.phase = Phase.OVER
                self._drained_at = None
        elif self._looked:
            self._fit(self.size)
        alarm = min(self._times(), default=None)
        if alarm != self._alarm:
            self._alarm = alarm
            # First of all: if a start fails, that may be handled before the rest of these is done, and this wake must not overwrite that one.
            self._instructions.insert(0, WakeAt(alarm))
        if self.phase is Phase.OVER:
            self._instructions.append(Stop())

    def _fit(self, size: int) -> None:
        """Give up the places that are too many, or have workers born into those that are free."""
        placed = [worker for worker in reversed(self._workers.values()) if worker.placed]  # newest first
        excess = len(placed) - size
        if excess > 0:
            placed.sort(key=lambda worker: (worker.state in (State.STARTING, State.READY), worker.busy))  # who leaves anyhow, the idle, the busy
            for worker in placed[:excess]:
                worker.placed = False
                if worker.state in (State.STARTING, State.READY):
                    self._retire(worker)
        elif self._held_until is None:
            for _ in range(-excess):
                self._spawn()

    def _spawn(self) -> None:
        self._born += 1
        worker = Worker(f"{self._prefix}{self._born}", generation=self._generation)
        assert worker.id not in self._workers, f"the prefix {self._prefix!r} is not this pool's alone"
        self._workers[worker.id] = worker
        self._start(worker)
        self._instructions.append(Spawn(worker.id))

    def _start(self, worker: Worker) -> None:
        self._move(worker, State.STARTING)
        worker.deadline = self._now + self._start_timeout

    def _retire(self, worker: Worker) -> None:
        self._move(worker, State.RETIRING)
        self._instructions.append(Retire(worker.id))

    def _signal(self, worker: Worker, signal: Literal["TERM", "KILL"]) -> None:
        """Send a signal, unless it or a stronger one was sent before."""
        state = State.TERMINATING if signal == "TERM" else State.KILLED
        if not self._may_become(worker, state):
            return
        if signal == "TERM" and worker.state is not State.RETIRING:
            self._instructions.append(Retire(worker.id))
        self._move(worker, state)
        worker.deadline = self._now + self._grace if signal == "TERM" else None
        self._instructions.append(Signal(worker.id, signal))

    def _leave_running(self, phase: Phase) -> None:
        self.phase = phase
        self._drained_at = None
        self._forgive()

    # Backoff.

    def _failure(self, worker: Worker) -> str | None:
        """Return in which way a worker that is about to be buried has failed, or None if its death was asked for or is the user's code's."""
        if worker.hung:
            return f", not ready after {self._start_timeout:g} s"
        if worker.state is State.STARTING:
            return " before it was ready" if self._kind is Died else ""
        if worker.state is State.READY and not worker.busy and worker.ready_at is not None and self._now - worker.ready_at < EARLY:
            return f" within {EARLY:g} s of getting ready"
        return None

    def _back_off(self, worker: Worker, what: str) -> None:
        if self._forgiven_at is not None:
            self._forgiven_at = self._now + FORGIVEN
        if self._delay and worker.generation != self._generation:
            return  # started together with one that failed before: the same failure
        delay = min(max(FIRST_DELAY, self._delay * 2), LONGEST_DELAY)
        if delay != self._delay:
            self._report("warning", f"{'workers keep dying: ' if self._delay else ''}{what}; the next is started in {delay:g} s")
        self._delay = delay
        self._generation += 1
        self._held_until = self._now + delay
        self._forgiven_at = None

    def _forgive(self) -> None:
        self._delay = 0.0
        self._held_until = self._forgiven_at = None

    # The table, the log, the clock.

    def _concerned(self, id: str) -> Worker | None:
        """Return the worker that an event is about, if it is known and the event can mean anything to it."""
        worker = self._workers.get(id)
        return worker if worker is not None and (worker.state, self._kind) in TRANSITIONS else None

    def _may_become(self, worker: Worker, state: State) -> bool:
        return state in TRANSITIONS.get((worker.state, self._kind), ())

    def _move(self, worker: Worker, state: State) -> None:
        assert self._may_become(worker, state), f"{worker.id} is {worker.state.value} and cannot become {state.value} by {self._kind.__name__}"
        worker.state = state

    def _report(self, level: Literal["info", "warning"], message: str) -> None:
        self._instructions.append(Report(level, message))

    def _times(self) -> Iterator[float]:
        """Yield when something is to happen unless something else does before."""
        for time in (self._drained_at, self._held_until, self._forgiven_at, *(worker.deadline for worker in self._workers.values())):
            if time is not None:
                yield time


def _cause_of(exitcode: int | None) -> str:
    if exitcode is None:
        return "died"
    return f"was killed by signal {-exitcode}" if exitcode < 0 else f"exited with code {exitcode}"
