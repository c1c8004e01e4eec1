"""A worker of the pool: a fresh interpreter that takes submitted processes and runs them, one at a time, in its main thread.

::

    hello ──▶ take ──────────────▶ run ──────────▶ settle ──▶ leave
               ▲  asleep on the    │ the target    │  outcome stored, and the next one taken, in one transaction
               │  doorbell         │ may do what   │
               └───────────────────│ it likes      ┘
                                   ▼ dies: the supervisor sees it

* Nobody hands out work: an idle worker is registered in the table of each namespace that has processes, and a commit that submits one rings one of
  those who wait. It wakes the next if there is more.
* A worker has a name that is never given twice. Only who claimed a run under its name can store its outcome; where that is refused (the worker was
  taken for dead) it leaves.
* It runs what comes from one program (see ``program``). For another one, or when a module that was loaded has been changed on the disk, it begins
  anew: the same operating system's process, another interpreter (``execv``), which goes on with the claim that it already has.
* After a run everything is put back that can be: output, working folder, environment, signal handlers. A worker that cannot be put back (threads or
  children are left, descriptors are gone) stores the outcome if it still can, and leaves; another one takes its place.
* The death of the supervisor is seen by a thread that sleeps on its pidfd. The worker starts another one, unless somebody else is to do that,
  finishes what it runs, and leaves when no supervisor has adopted it in time.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C functions themselves: the standard module's, which make enums, cost ten times as much
import argparse
import contextlib
import faulthandler
import gc
import inspect
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ._core import codecs, dict_ops, failures, objects, output, ownership, paths, pool_state, process_ops, program, supervision
from ._core.binding import Binding, locate
from ._core.deaths import open_death_watch
from ._core.doorbell import EVENT_ALL, EVENT_ITEMS, Bell, thread_bell
from ._core.errors import ParkitError
from ._core.identity import Identity, current
from ._core.namespace import Namespace
from ._core.output import Capture, prepare_streams
from ._core.process_ops import FAILED, FINISHED, Claim
from ._core.registry import close_all, open_if_there
from ._core.settings import PoolOptions
from ._core.shared import ONE_OF, TableFullError
from ._core.syslog_handler import SyslogHandler
from ._core.transactions import Reading, Writing
from ._core.waiting import AGAIN, SAFETY, block

if TYPE_CHECKING:
    import asyncio

__all__ = ["Worker", "main"]

BROKEN: Final = 70
"""Exit code of a worker whose target closed what the worker needs (sysexits' EX_SOFTWARE)."""

_ADOPTION: Final = 15.0
"""Seconds that a worker without a supervisor waits for another one."""

_RELAUNCH: Final = 1.0
"""Seconds after which it looks again whether one is on its way."""

_TICK: Final = 20_000_000
"""Nanoseconds by which the time of a file's change may lag behind the clock: the kernel's tick."""

_UNKNOWN: Final = -1

_REFUSED: Final = object()
_LEAVE: Final = object()

_RESTORED_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")

_log = logging.getLogger("parkit.worker")


class Worker:
    """See the module.

    Args:
        store: Path of the store.
        name: What the supervisor calls it.
        epoch: The supervisor's.
        arguments: What this interpreter was started with, to begin anew with.
    """

    def __init__(self, store: str, name: str, epoch: int, arguments: list[str]) -> None:
        self.store = store
        self.name = name
        self.epoch = epoch
        self._arguments = arguments
        self._pid = os.getpid()
        self._pool = pool_state.shelf(store, pool_state.POOL)
        self._crew = pool_state.shelf(store, pool_state.CREW)
        self._crew_version = -1
        self._namespaces: list[Namespace] = []
        self._retired = False
        self._orphaned = False
        self._spent = False
        self._options = PoolOptions()
        self._capture = Capture(store)
        self._bell: Bell = thread_bell(self._crew.namespace.sockets)
        self._bell_inode = os.fstat(self._bell.fileno()).st_ino
        self._resumed = False
        self._interruptible = False
        self._context: bytes | None = None
        self._program: dict[str, Any] = {}
        self._sources: dict[str, int] = {}
        self._modules = len(sys.modules)
        self._known_modules = set(sys.modules)
        self._runs = 0
        self._born = time.monotonic()
        self._memory = 0
        self._syslog = SyslogHandler(store=store)

    # Its life.

    def work(self) -> None:
        """Say hello, run what comes, and leave when it is time to."""
        claim = self._claimed()
        self._resumed = claim is not None
        if claim is None and not self._hello():
            return
        self._prepare()
        while claim is not None or (claim := self._take()) is not None:
            claim = self._run(claim)
        self._leave()

    def _hello(self) -> bool:
        """Tell the supervisor that this worker is ready; return False if another one has taken over, who does not know it, or the pool has ended."""
        record = {"identity": list(current()), "worn": False}

        def is_mine(reading: Reading) -> bool:
            return bool(_entry(reading, self._pool, "epoch") == self.epoch and not _entry(reading, self._pool, "stopped"))

        return pool_state.change(self._pool, {f"worker:{self.name}": record}, when=is_mine)

    def _claimed(self) -> Claim | None:
        """Return what this worker had claimed when it began anew."""
        for name in pool_state.known_namespaces(self.store):
            namespace = open_if_there(name, self.store)
            if namespace is not None:
                claim: Claim | None = namespace.read(process_ops.claimed, self.name)
                if claim is not None:
                    self._home = namespace
                    return claim
        return None

    def _prepare(self) -> None:
        prepare_streams()
        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, self._interrupted)
        self._notice_crew()
        self._options = PoolOptions(**(pool_state.get(self._crew, "options") or {}))
        root = logging.getLogger()
        root.setLevel(self._options.log_level)
        handler = logging.StreamHandler(_Stderr())
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.addHandler(self._syslog)
        threading.Thread(target=self._watch_supervisor, name="parkit supervisor watch", daemon=True).start()
        self._handlers = {int(number): _signal.getsignal(number) for name in _RESTORED_SIGNALS if (number := getattr(signal, name, None)) is not None}
        self._environment = dict(_environment())
        self._niceness = os.getpriority(os.PRIO_PROCESS, 0)
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self._threads = threading.active_count()
        self._memory = _resident()
        gc.collect()
        gc.freeze()

    def _interrupted(self, number: int, frame: Any) -> None:
        """What SIGINT does: interrupt the target, as in any Python program; nothing else."""
        if self._interruptible:
            raise KeyboardInterrupt

    # Taking.

    def _take(self) -> Claim | None:
        """Return the next process to run, asleep until there is one; None if it is time to leave."""
        while True:
            self._notice_crew()
            if self._retired or self._orphaned:
                self._pass_on()
                return None
            worn = self._is_worn()
            if worn:
                self._pass_on()
                self._say_worn()
            else:
                claim = self._look()
                if claim is not None:
                    return claim
            self._sleep(look=not worn)

    def _pass_on(self) -> None:
        """Wake another worker, as this one may have been chosen by a commit that rang one of them, and takes nothing any more."""
        for namespace in self._namespaces:
            if namespace.read(process_ops.anything_submitted):
                namespace.ring({ONE_OF: EVENT_ITEMS})

    def _look(self) -> Claim | None:
        namespaces = self._namespaces
        for _ in range(len(namespaces)):
            # Each is looked at first in turn, so that none has to wait for another to be empty.
            namespace = namespaces.pop(0)
            namespaces.append(namespace)
            if namespace.read(process_ops.anything_submitted):
                claim: Claim | None = namespace.write_apart(process_ops.claim, self.name, self._pid)
                if claim is not None:
                    self._home = namespace
                    return claim
        return None

    def _sleep(self, look: bool) -> None:
        """Sleep until there may be something to take, or to notice: registered first, then one more look."""
        registered: list[tuple[Namespace, int]] = []
        try:
            places = [(self._crew.namespace, self._crew.object_id, EVENT_ALL)]
            if look:
                places += [(namespace, ONE_OF, EVENT_ITEMS) for namespace in self._namespaces]
            safety = SAFETY
            for namespace, object_id, event in places:
                try:
                    registered.append((namespace, namespace.table.register(object_id, event, self._bell.address)))
                except TableFullError:
                    safety = 1.0
            if (
                self._orphaned
                or self._crew_moved()
                or (look and any(namespace.read(process_ops.anything_submitted) for namespace in self._namespaces))
            ):
                return
            self._bell.wait(safety)
        finally:
            for namespace, slot in registered:
                namespace.table.unregister(slot)

    def _crew_moved(self) -> bool:
        version: int = self._crew.namespace.read(_version, self._crew)
        return version != self._crew_version

    def _notice_crew(self) -> None:
        version: int = self._crew.namespace.read(_version, self._crew)
        if version == self._crew_version:
            return
        self._crew_version = version
        self._retired = pool_state.get(self._crew, f"retire:{self.name}") is not None
        known = {namespace.name for namespace in self._namespaces}
        for name in pool_state.known_namespaces(self.store):
            if name not in known:
                namespace = open_if_there(name, self.store)
                if namespace is not None:
                    self._namespaces.append(namespace)

    # Being replaced.

    def _is_worn(self) -> bool:
        options = self._options
        return bool(
            self._spent
            or (options.max_tasks and self._runs >= options.max_tasks)
            or (options.max_age and self._runs and time.monotonic() - self._born >= options.max_age)  # not before it was of any use
            or (options.max_growth and _resident() - self._memory > options.max_growth)
        )

    def _say_worn(self) -> None:
        record = {"identity": list(current()), "worn": True}
        if pool_state.get(self._pool, f"worker:{self.name}") != record:
            pool_state.change(self._pool, {f"worker:{self.name}": record})

    # Running.

    def _run(self, claim: Claim) -> Claim | None:
        """Run a process, store what came of it, and return the next one if it could be taken along."""
        if self._context is None:
            self._context, self._program = claim.context, json.loads(claim.program)
            anew = not self._resumed and self._program["executable"] != sys.executable
        else:
            anew = claim.context != self._context or self._is_outdated()
        if anew:
            self._begin_anew(claim)
        program.enter(self._program)
        namespace = self._home
        path = process_path(namespace, claim)
        self._syslog.process = path
        try:
            self._capture.begin(claim.uuid)
        except (OSError, ParkitError):
            _log.exception("the output of process %s cannot be kept", path)
        begun = time.time_ns()
        status, exitcode, frame = self._call(namespace, claim, path)
        if not self._is_intact():
            os._exit(BROKEN)
        self._close_contexts()
        if os.getpriority(os.PRIO_PROCESS, 0) != self._niceness:
            self._spent = True  # to raise it again takes privileges
        self._capture.flush()
        with contextlib.suppress(OSError, ParkitError):
            output.enforce(self.store, claim.uuid, self._options.output_limit)  # the supervisor looks at those that run, now and then
        self._runs += 1
        self._note_modules(begun)  # before anybody learns of the outcome, and changes a module for the next run
        # Whoever waits for the outcome does not wait for this worker to be as good as new: that comes behind it.
        following = self._settle(namespace, claim, status, exitcode, frame)
        self._put_back()
        if following is _REFUSED:
            _log.warning("process %s is not this worker's any more; what came of it is dropped", path)
            self._leave()
        if following is _LEAVE:
            self._leave()
        assert following is None or isinstance(following, Claim)
        return following

    def _call(self, namespace: Namespace, claim: Claim, path: str) -> tuple[str, int, bytes]:
        """Call what there is to call. Return status, exit code, and the frame of the result or error."""
        try:
            self._interruptible = True
            handle = self._handle(namespace, claim, path)
            try:
                result = _invoke(handle)
            finally:
                self._outlive_threads()
            try:
                frame = codecs.encode(result)
            except Exception as error:
                raise TypeError(
                    f"the result of process {path!r}, of type {type(result).__name__}, cannot be pickled; return plain data, or store it"
                ) from error
            return FINISHED, 0, frame
        except SystemExit as leaving:
            code = _exit_code(leaving)
            return (FINISHED, 0, codecs.encode(None)) if code == 0 else (FAILED, code, codecs.encode(failures.capture(leaving)))
        except BaseException as error:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"Process {path}:\n")
                traceback.print_exception(error)
            return FAILED, 1, codecs.encode(failures.capture(error))
        finally:
            self._interruptible = False
            if os.getpid() != self._pid:
                os._exit(0)  # the target has forked, and this is the child

    def _handle(self, namespace: Namespace, claim: Claim, path: str) -> Any:
        cls, target, args, kwargs = codecs.decode(claim.call)
        handle = objects.restored(cls, path, claim.uuid, self.store)
        handle._set("_call", (target, args, kwargs))
        return handle

    def _outlive_threads(self) -> None:
        """Wait for the threads and children that multiprocessing would wait for at a process's end; after them this interpreter is spent."""
        left = self._threads_left()
        if left:
            self._spent = True
            if not all(thread.daemon for thread in left):
                _end_interpreter_threads()
        if _has_children():
            self._spent = True
            if "multiprocessing.process" in sys.modules:
                from multiprocessing import util

                util._exit_function()  # type: ignore[attr-defined]

    def _threads_left(self) -> list[threading.Thread]:
        if threading.active_count() <= self._threads:
            return []
        return [thread for thread in threading.enumerate() if not thread.name.startswith("parkit ") and thread is not threading.main_thread()]

    def _put_back(self) -> None:
        """Undo what a target may have changed of the process that it ran in."""
        for number, handler in self._handlers.items():
            if _signal.getsignal(number) is not handler:
                _signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.umask(self._mask)
        self._capture.end()
        self._syslog.process = None
        if _environment() != self._environment:
            os.environ.clear()
            os.environb.update(self._environment)

    def _close_contexts(self) -> None:
        """Roll back a transaction that the target has left open: it would be everybody's from now on, and nobody could write."""
        for owner in list(ownership.contexts):
            if owner is ownership.thread_owner() or _is_task_of_the_past(owner):
                for context in ownership.contexts.pop(owner, []):
                    if isinstance(context, Writing):
                        context.namespace.finish(context)
                    else:
                        context.end()

    def _is_intact(self) -> bool:
        """Return whether the descriptors that this worker needs are still what they were: LMDB would write into whatever has their numbers now.

        Its bell stands for all: what closes others' descriptors closes every one in a range.
        """
        try:
            return os.fstat(self._bell.fileno()).st_ino == self._bell_inode
        except OSError:
            return False

    def _settle(self, namespace: Namespace, claim: Claim, status: str, exitcode: int, frame: bytes) -> Any:
        """Store the outcome. Return the next claim, taken in the same transaction; None, _LEAVE or _REFUSED."""
        self._notice_crew()
        more = not (self._retired or self._orphaned or self._is_worn())
        if more and len(self._namespaces) > 1:
            more = not any(other is not namespace and other.read(process_ops.anything_submitted) for other in self._namespaces)

        def store(frame: bytes, status: str, exitcode: int) -> Any:
            def operation(writing: Writing) -> Any:
                run = process_ops.finish(writing, claim.process, self.name, status, exitcode, frame)
                if run is None:
                    return _REFUSED
                if run.request:
                    return _LEAVE  # a signal is on its way
                return process_ops.claim(writing, self.name, self._pid) if more else None

            return namespace.write_apart(operation)

        try:
            return store(frame, status, exitcode)
        except ParkitError as error:
            # The outcome does not fit. That the process has ended, and why nothing is known of it, always does.
            _log.error("the outcome of process %s cannot be stored: %s", process_path(namespace, claim), error)
            short = codecs.encode(failures.capture(type(error)(str(error)[:1000])))
            return store(short, FAILED, 1)

    # Beginning anew, and the end.

    def _is_outdated(self) -> bool:
        """Return whether a module of the program was changed since it was loaded."""
        for path, modified in self._sources.items():
            try:
                if os.stat(path).st_mtime_ns != modified:
                    return True
            except OSError:
                return True
        return False

    def _note_modules(self, begun: int) -> None:
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        new = set(sys.modules) - self._known_modules
        self._known_modules |= new
        for name in new:
            path = getattr(sys.modules.get(name), "__file__", None)
            if isinstance(path, str) and not path.startswith(_installed()):
                with contextlib.suppress(OSError):
                    modified = os.stat(path).st_mtime_ns
                    # One that was changed during the run may have been loaded before that.
                    self._sources[path] = modified if modified < begun - _TICK else _UNKNOWN

    def _begin_anew(self, claim: Claim) -> None:
        """Become a fresh interpreter that goes on with ``claim``. Does not return."""
        executable = json.loads(claim.program)["executable"]
        self._capture.close()
        close_all()
        command = supervision.command("worker", *self._arguments)
        try:
            os.execv(executable, [executable, *command[1:]])
        except OSError:
            # That interpreter is gone: run it with this one.
            os.execv(sys.executable, command)

    def _leave(self) -> None:
        """End at once, without waiting for whatever the targets have left running."""
        close_all()
        logging.shutdown()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)

    # The supervisor's death.

    def _watch_supervisor(self) -> None:
        try:
            while True:
                supervisor = pool_state.get(self._crew, "supervisor")
                if not self._outlives(supervisor):
                    break
        except Exception:
            _log.exception("the supervisor cannot be watched")
        self._orphaned = True
        self._crew.namespace.sockets.send(self._bell.address)

    def _outlives(self, supervisor: Any) -> bool:
        """Sleep until a supervisor dies; return whether another one has come in time."""
        watch = open_death_watch(Identity(*supervisor["identity"]))
        try:
            poll = select.poll()
            poll.register(watch.fileno(), select.POLLIN)
            poll.poll()
        finally:
            watch.close()

        def changed() -> Any:
            now = pool_state.get(self._crew, "supervisor")
            return now if now["epoch"] != supervisor["epoch"] else AGAIN

        deadline = time.monotonic() + _ADOPTION
        while changed() is AGAIN:
            now = time.monotonic()
            if now >= deadline:
                return False
            if supervisor["respawn"] and not pool_state.get(self._pool, "stopped"):
                supervision.launch(self.store)  # again and again: that one may die as well, before it has told anybody of itself
            block(self._crew, EVENT_ALL, changed, min(deadline, now + _RELAUNCH))
        return True


def process_path(namespace: Namespace, claim: Claim) -> str:
    """Return the whole path of a claimed process."""
    return paths.join(namespace.name, claim.name)


def _invoke(handle: Any) -> Any:
    """Call ``run``, and await what it returns, on a loop of its own, if that can be awaited."""
    face = sys.modules.get("parkit_async.process")
    if face is not None and type(handle).run is face.Process.run:
        # Not overridden: a target that is no coroutine function shall not run on an event loop.
        target, args, kwargs = handle._call
        result = None if target is None else target(*args, **kwargs)
    else:
        result = handle.run()
    if not inspect.isawaitable(result):
        return result

    async def main() -> Any:
        return await result

    import asyncio

    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        return runner.run(main())


def _environment() -> dict[bytes, bytes]:
    """Return the environment as the interpreter keeps it; comparing ``os.environ`` itself decodes every entry, and costs as much as a commit."""
    found: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return found


def _is_task_of_the_past(owner: Any) -> bool:
    """Return whether what has a context open is a task, whose loop is closed."""
    get_loop = getattr(owner, "get_loop", None)
    return get_loop is not None and get_loop().is_closed()


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _exit_code(leaving: SystemExit) -> int:
    """Return the exit code that the interpreter would leave with, after printing what it would print."""
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(Exception):
        sys.stderr.write(f"{code}\n")
    return 1


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    except (AttributeError, OSError):
        return False
    return True


def _end_interpreter_threads() -> None:
    """Wait for all threads that are no daemons, as an interpreter does when it ends, and as multiprocessing has its processes do."""
    shutdown: Callable[[], None] = threading._shutdown  # type: ignore[attr-defined]
    shutdown()


def _resident() -> int:
    """Return the bytes of memory that this process occupies."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def _installed() -> tuple[str, ...]:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return (sys.base_prefix, sys.prefix, os.path.join(root, "parkit"))


def _entry(reading: Reading, binding: Binding, key: str) -> Any:
    return dict_ops.get(reading, binding, locate(key), key, None)


def _version(reading: Reading, binding: Binding) -> int:
    return reading.state(binding).version


class _Stderr:
    """Whatever ``sys.stderr`` is at the moment."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def main(arguments: list[str]) -> int:
    """Run a worker; for the supervisor only."""
    parser = argparse.ArgumentParser(prog="parkit worker")
    parser.add_argument("--store", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--epoch", type=int, required=True)
    options = parser.parse_args(arguments)
    os.environ["PARKIT_STORAGE_PATH"] = options.store
    Worker(options.store, options.name, options.epoch, arguments).work()
    return 0
