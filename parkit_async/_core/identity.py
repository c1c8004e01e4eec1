"""Who a process is. A pid alone says nothing: the kernel gives it out again, and another boot or container has its own.

::

    Identity       pid      started                        boot
    Linux          4711     ticks from the boot on         boot id / inode of the pid namespace
    elsewhere      4711     moment of the calendar         "clock"

    liveness       what was found
    ALIVE          this very process, and it runs
    DEAD           nobody has the pid; or somebody who started at another time; or a zombie; or it belongs to another boot
    UNKNOWN        none of these was seen: the pid is of another pid namespace, or the system would not let us look

Invariants:

* Only what was seen makes a process dead. A probe that fails (no permission, no descriptors left, a ``/proc`` that hides the process) never does.
* A signal goes to the process that was meant, or nowhere. Where the kernel has pidfds not even a pid that is given out again at that very moment
  can change this: the descriptor is opened first and its process identified afterwards.
* Elsewhere no boot is compared. A start time that is a moment of the calendar does not come again after a boot, and the time of the boot itself is
  reckoned from the clock, so that it moves whenever the clock is set.

``/proc`` is enough on Linux; psutil is imported where there is none.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
import sys
from typing import Final, NamedTuple

from . import fork

__all__ = ["Identity", "Liveness", "current", "identity_of", "is_unreaped_child", "liveness", "open_pidfd", "signal_exactly"]

_PROC = "/proc"
_HAS_PIDFD = hasattr(os, "pidfd_open")
_CLOCK: Final = "clock"
_LARGEST_PID: Final = 2**31 - 1

_NO_PIDFD = (errno.ENOSYS, errno.EPERM, errno.EACCES)
"""The kernel is older than 5.3, or a sandbox forbids the call."""
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
"""The last two, by kernel version: the number is now that of a thread inside some process."""


class Identity(NamedTuple):
    """What tells a process from every other that ever ran here. ``Identity(*json.loads(json.dumps(identity)))`` is equal to it.

    Attributes:
        pid: Its number in its own pid namespace.
        started: When it was started, as text that is only compared.
        boot: Where the other two mean something, as text that is only compared.
    """

    pid: int
    started: str
    boot: str


class Liveness(enum.Enum):
    """What is known of a process, see the module's table."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


class _Sighting(NamedTuple):
    """A process as the system shows it now."""

    started: str
    zombie: bool
    parent: int


_cached: tuple[int, Identity] | None = None
"""Fork generation and identity. The pid is compared as well, yet is not enough: the first process of every pid namespace is number 1."""


def current() -> Identity:
    """Return who this process is. Any thread may call it, and a forked child; found out once in each process.

    Raises:
        OSError: The system would not tell, or ``/proc`` shows another pid namespace than this process is in.
    """
    global _cached
    pid, generation = os.getpid(), fork.generation()
    if _cached is None or _cached[0] != generation or _cached[1].pid != pid:
        boot = _boot()
        seen = _look(pid, boot)
        if seen is None:
            raise ProcessLookupError(errno.ESRCH, f"the system does not show this process, {pid}")
        _cached = generation, Identity(pid, seen.started, boot)
    return _cached[1]


def identity_of(pid: int) -> Identity | None:
    """Return who has a pid now, or None if nobody has, or a zombie. Any thread may call it.

    Raises:
        OSError: The system would not tell.
    """
    boot = current().boot
    seen = _look(pid, boot)
    return None if seen is None or seen.zombie else Identity(pid, seen.started, boot)


def liveness(identity: Identity) -> Liveness:
    """Look whether a process lives. Never raises for what it cannot see: that is UNKNOWN. Any thread may call it."""
    try:
        seen = _find(identity)
    except OSError:
        return Liveness.UNKNOWN
    return Liveness.DEAD if seen is None or seen.zombie else Liveness.ALIVE


def is_unreaped_child(identity: Identity) -> bool:
    """Tell whether a process is dead and this one's child, its exit status not fetched yet. Until it is, nobody else gets the pid."""
    try:
        seen = _find(identity)
    except OSError:
        return False
    return seen is not None and seen.zombie and seen.parent == os.getpid()


def signal_exactly(identity: Identity, number: int, group: bool = False) -> bool:
    """Send a signal to one process, or to the group it leads; never to anybody who has its pid by now. Any thread may call it.

    Args:
        identity: The process.
        number: The signal; 0 sends none, but tells whether it could be sent.
        group: Send it to everybody in the process group that the process leads. It may be a zombie, if it is this process's child: a group
            outlives its leader, and its number is reserved until the leader is reaped.

    Returns:
        True if it was sent. False if the process is dead, cannot be told to be alive, or leads no group.

    Raises:
        PermissionError: The process is there, and belongs to another user.
        OSError: There is no such signal, or the process is out of descriptors.
    """
    if not 0 < identity.pid <= _LARGEST_PID:
        return False  # to the kernel 0 and what lies below are whole groups
    try:
        return _signal_group(identity, number) if group else _signal_process(identity, number)
    except ProcessLookupError:
        return False


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor of whoever has a pid now, closed on exec; None where the system has no such thing. The caller closes it.

    It becomes readable when the process ends, and never refers to another one. Identify the process afterwards.

    Raises:
        ProcessLookupError: No process has the pid.
        OSError: The process is out of descriptors.
    """
    if sys.platform == "linux" and _HAS_PIDFD:
        try:
            return os.pidfd_open(pid)
        except OSError as error:
            if error.errno in _NO_PROCESS:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from error
            if error.errno not in _NO_PIDFD:
                raise
    return None


def _signal_process(identity: Identity, number: int) -> bool:
    descriptor = open_pidfd(identity.pid)
    try:
        if liveness(identity) is not Liveness.ALIVE:
            return False
        if sys.platform == "linux" and descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(identity.pid, number)
        return True
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _signal_group(identity: Identity, number: int) -> bool:
    pid = identity.pid
    orphaned = is_unreaped_child(identity)
    if pid == 1 or not (orphaned or liveness(identity) is Liveness.ALIVE):
        return False  # kill(-1) would reach every process there is
    try:
        if os.getpgid(pid) != pid:
            return False
    except ProcessLookupError:
        if not orphaned:
            return False
        # macOS tells no group of a zombie. While the pid is reserved no one else's group can have it for its number.
    try:
        os.killpg(pid, number)
    except PermissionError:
        if not orphaned:
            raise
        return False  # what macOS says of a group that has only zombies left
    return True


# -- looking -----------------------------------------------------------------------------------------------------------------------------


def _find(identity: Identity) -> _Sighting | None:
    """Return that very process as it is now, a zombie included, or None if it is gone; raise OSError where this cannot be told."""
    boot = current().boot
    if identity.boot != boot:
        if _CLOCK in (boot, identity.boot) or boot.partition("/")[0] == identity.boot.partition("/")[0]:
            raise OSError(errno.EXDEV, f"process {identity.pid} belongs to another pid namespace")
        return None
    seen = _look(identity.pid, boot)
    return seen if seen is not None and seen.started == identity.started else None


def _boot() -> str:
    try:
        with open(f"{_PROC}/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except FileNotFoundError:
        return _CLOCK
    # A container that was given no /proc of its own sees that of its host: right names, all of them of others.
    try:
        shown = os.readlink(f"{_PROC}/self")
    except FileNotFoundError:
        shown = "nobody"
    if shown != str(os.getpid()):
        raise OSError(
            errno.EXDEV,
            f"{_PROC} belongs to another pid namespace: it shows process {os.getpid()} as {shown}; "
            f"mount one of its own in the container (mount -t proc proc {_PROC})",
        )
    try:
        namespace = os.stat(f"{_PROC}/self/ns/pid").st_ino
    except FileNotFoundError:
        namespace = 0  # a kernel built without them
    return f"{boot}/{namespace}"


def _look(pid: int, boot: str) -> _Sighting | None:
    if not 0 < pid <= _LARGEST_PID:
        return None
    return _look_through_psutil(pid) if boot == _CLOCK else _look_into_proc(pid)


def _look_into_proc(pid: int) -> _Sighting | None:
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as file:
            line = file.read()
    except ProcessLookupError:
        return None  # it ended between open and read
    except FileNotFoundError:
        if _has_process(pid):
            raise PermissionError(errno.EACCES, f"{_PROC} hides process {pid}") from None
        return None
    # The second field is the program's name in parentheses, and may itself hold blanks and parentheses.
    fields = line[line.rfind(b")") + 1 :].split()
    try:
        state, parent, threads, started = fields[0], int(fields[1]), int(fields[17]), str(int(fields[19]))
    except (IndexError, ValueError) as error:
        raise OSError(errno.EIO, f"{_PROC}/{pid}/stat makes no sense: {line!r}") from error
    # A main thread that has ended is shown as a zombie as well, while the others go on.
    return _Sighting(started, state in (b"Z", b"X") and threads <= 1, parent)


def _has_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _look_through_psutil(pid: int) -> _Sighting | None:
    import psutil

    try:
        process = psutil.Process(pid)
        # What psutil itself compares. create_time() of some versions follows the clock when that is set, and would make another process of it.
        _, started = process._ident  # type: ignore[attr-defined]
        return _Sighting(repr(started), process.status() == psutil.STATUS_ZOMBIE, process.ppid())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error as error:
        raise PermissionError(errno.EACCES, f"the system does not show process {pid}: {error}") from error
