"""There is one supervisor for a store, and it is there when it is needed.

Who supervises holds the record lock on the file ``supervisor`` in the store. The kernel drops it however the holder ends, and tells everybody else
who it is, without anybody trying to take it (``F_GETLK``), so asking costs a microsecond and disturbs nobody.

A record lock goes when its process closes *any* descriptor of the file. So in the supervisor nobody but :class:`SupervisorLock` opens it, and asking
there answers from memory.

Starting: whoever finds no supervisor locks the file ``starting``, starts the service, and leaves the lock to it, which drops it when it holds the
other one. So a hundred programs that start processes at one moment start one service.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import threading
from pathlib import Path
from typing import Any, Final

from . import fork, pool_state, record_lock, registry
from .deaths import DeathWatch, open_death_watch
from .errors import ProcessError, StoragePathError, remedy
from .identity import identity_of
from .private_files import open_file
from .settings import default_pool_options, default_pool_size

__all__ = ["DIED", "Lookout", "StartWatch", "SupervisorLock", "begin_starting", "check", "command", "ensure", "launch", "running_supervisor"]

_LOCK: Final = "supervisor"
_STARTING: Final = "starting"
_LOG: Final = "supervisor.log"
_ROOT: Final = str(Path(__file__).resolve().parent.parent.parent)

_held: dict[str, SupervisorLock] = {}


class SupervisorLock:
    """What makes a process the supervisor of a store.

    Args:
        store: Path of the store, which exists.
    """

    def __init__(self, store: str) -> None:
        self._store = os.path.realpath(store)
        self._descriptor = -1

    def acquire(self) -> bool:
        """Become the supervisor; return False if there is another one. Never waits."""
        if self._store in _held:
            return False
        descriptor = _open(os.path.join(self._store, _LOCK))
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        self._descriptor = descriptor
        _held[self._store] = self
        return True

    def release(self) -> None:
        """Stop being the supervisor. Idempotent."""
        if self._descriptor >= 0:
            _held.pop(self._store, None)
            os.close(self._descriptor)
            self._descriptor = -1


def is_lost(store: str) -> bool:
    """Return whether the lock that makes this process the supervisor of a store is there no more: the store was deleted, or moved away."""
    lock = _held.get(os.path.realpath(store))
    if lock is None:
        return False
    try:
        return not os.path.samestat(os.fstat(lock._descriptor), os.stat(os.path.join(store, _LOCK)))
    except FileNotFoundError:
        return True


class _Inquiry:
    """A descriptor to ask by, kept open for each store."""

    def __init__(self, store: str) -> None:
        self.real = os.path.realpath(store)
        self.descriptor = _open(os.path.join(self.real, _LOCK))


_inquiries: dict[str, _Inquiry] = {}


def _close_inquiries() -> None:
    while _inquiries:
        with contextlib.suppress(OSError):  # closed by somebody's target
            os.close(_inquiries.popitem()[1].descriptor)


registry.on_close(_close_inquiries)


def running_supervisor(store: str) -> int | None:
    """Return the process id of the supervisor of a store, which exists; None if there is none. Never waits; any thread may call it."""
    if _held and os.path.realpath(store) in _held:
        return os.getpid()
    inquiry = _inquiries.get(store)
    if inquiry is None:
        made = _Inquiry(store)
        inquiry = _inquiries.setdefault(store, made)
        if inquiry is not made:  # another thread has come first
            os.close(made.descriptor)
    try:
        return record_lock.holder(inquiry.descriptor)
    except OSError:  # somebody's target has closed every descriptor
        inquiry = _inquiries[store] = _Inquiry(store)
        return record_lock.holder(inquiry.descriptor)


DIED: Final = object()
"""What an attempt to find a process ended returns when the supervisor has died meanwhile."""


class Lookout:
    """Watches the supervisor of a store for somebody who waits for a process: should it die with all its workers, nobody else would see that.

    It costs as much as a commit, so it is for those who wait for longer. For one thread or event loop.

    Args:
        store: Path of the store, which exists.
    """

    FIRST: Final = 1.0
    """Seconds to wait without one, at first, and while there is no supervisor; then twice as long each time."""

    def __init__(self, store: str) -> None:
        self._watch: DeathWatch | None = None
        pid = running_supervisor(store)
        if pid:
            try:
                identity = identity_of(pid)
                self._watch = None if identity is None else open_death_watch(identity)
            except (OSError, ProcessError):
                pass  # it cannot be seen from here

    def fileno(self) -> int:
        """Return a descriptor that is readable when the supervisor is dead; -1 if there was none."""
        return -1 if self._watch is None else self._watch.fileno()

    def died(self) -> bool:
        """Return whether the supervisor has died."""
        if self._watch is None:
            return False
        poll = select.poll()
        poll.register(self._watch.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self._watch is not None:
            self._watch.close()


def check(store: str) -> None:
    """Raise ValueError if a supervisor that is still to be started would end at once, for a wrong setting in the environment. Never waits."""
    if running_supervisor(store) is None:
        default_pool_size()
        default_pool_options()


def ensure(store: str, *, restart: bool) -> None:
    """See that the store has a supervisor, or soon will: start the service if it has none. Blocks for some milliseconds when it does that.

    Args:
        store: Path of the store, which exists.
        restart: Also when the pool was stopped.

    Raises:
        StoragePathError: The service cannot be started.
        ValueError: It would end at once: a variable of the pool's settings is wrong.
    """
    if running_supervisor(store) is not None:
        return
    if pool_state.get(pool_state.shelf(store, pool_state.POOL), "stopped"):
        if restart:
            launch(store, restart=True)
        return
    last = pool_state.get(pool_state.shelf(store, pool_state.CREW), "supervisor")
    if last is None or last["respawn"]:
        launch(store)
    # Else it has died under a service manager, which is about to start it anew.


def launch(store: str, restart: bool = False) -> bool:
    """Start the service, detached from this process: it goes on when this one ends. Return False if somebody has started it, or is about to.

    Args:
        store: Path of the store, which exists.
        restart: The pool was stopped, and is to be so no more. That is said only while nobody supervises or begins to: a supervisor that was told
            to end must not lose sight of it. So this waits for whoever has the lock; it may be a killall() that looks whether it has come to its end.
    """
    import subprocess  # only here: few programs start the service, and they need not all pay for this

    check(store)  # what is wrong would be said in the service's log, and here nothing would ever run
    starting = begin_starting(store, wait=restart)
    if starting is None:
        return False
    try:
        if running_supervisor(store) is not None:
            return False
        if restart:
            pool_state.change(pool_state.shelf(store, pool_state.POOL), {"stopped": False})
        with open(_open(os.path.join(store, _LOG), os.O_APPEND), "ab") as log:
            # A shell in between: the service's parent is then nobody who would have to wait for it.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command("service", "--store", store, "--starting", str(starting))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=(starting,),
                start_new_session=True,
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoragePathError(f"the pool's supervisor cannot be started: {error}; see that {sys.executable!r} and /bin/sh can be run") from error
    finally:
        os.close(starting)
    return True


def begin_starting(store: str, wait: bool = False) -> int | None:
    """Return a descriptor with the lock of who starts the service, or None if somebody has it and ``wait`` is false."""
    descriptor = _open(os.path.join(store, _STARTING))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class StartWatch:
    """Waits until a service that is being started is there, or has failed to start: ``fileno()`` is readable then, as that of a DeathWatch.

    A lock cannot be waited for by descriptor, so a thread does it, and ends with the start.

    Args:
        store: Path of the store, which exists.
    """

    def __init__(self, store: str) -> None:
        starting = _open(os.path.join(store, _STARTING))
        self._descriptor, ready = os.pipe()

        def wait() -> None:
            try:
                fcntl.flock(starting, fcntl.LOCK_EX)
            finally:
                os.close(starting)
                os.close(ready)

        threading.Thread(target=wait, name="parkit start watch", daemon=True).start()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def close(self) -> None:
        """Close it. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of parkit's own programs with this interpreter, and with this very parkit, wherever it was imported from.

    The working folder is not searched for modules (``-P``), and parkit's own folder only for parkit, so that neither hides anything.
    """
    code = (
        f"import sys; sys.path.insert(0, {_ROOT!r}); import parkit, parkit_async; del sys.path[0]; "
        f"from parkit_async.{module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-P", "-c", code, *arguments]


def _open(path: str, flags: int = 0) -> int:
    try:
        return open_file(path, os.O_RDWR | os.O_CREAT | flags)
    except OSError as error:
        raise StoragePathError(f"{path!r} cannot be opened: {error.strerror}; {remedy(error, 'see that the store belongs to this user')}") from error


class _ForkHook:
    def forked(self) -> None:
        # Record locks are not inherited, and what a child forgets here it does not close: that would drop nothing of the parent's.
        _held.clear()


_hook: Any = _ForkHook()
fork.on_fork(_hook)
