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

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ._core import codecs, dict_ops, failures, output, paths, pool_state, process_ops, program, supervision
from ._core.binding import Binding, locate
from ._core.capture import Capture, prepare_streams
from ._core.deaths import open_death_watch
from ._core.doorbell import EVENT_ALL, EVENT_ITEMS, Bell, thread_bell
from ._core.errors import CodecError, NamespaceFullError, ParkitError, TransactionError
from ._core.identity import Identity, current
from ._core.namespace import Namespace
from ._core.process_ops import FAILED, Claim
from ._core.registry import close_all, open_if_there
from ._core.settings import PoolOptions
from ._core.shared import ONE_OF, TableFullError
from ._core.syslog_handler import SyslogHandler
from ._core.transactions import Reading, Writing
from ._core.waiting import AGAIN, SAFETY, block
from .calling import Outcome, call
from .surroundings import Surroundings

__all__ = ["Worker", "main"]

BROKEN: Final = 70
"""Exit code of a worker whose target closed what the worker needs (sysexits' EX_SOFTWARE)."""

_ADOPTION: Final = 15.0
"""Seconds that a worker without a supervisor waits for another one."""

_FULL_DISK: Final = 600.0
"""Seconds for which it tries to store an outcome on a disk that refuses."""

_RELAUNCH: Final = 1.0
"""Seconds after which it looks again whether one is on its way."""

_REFUSED: Final = object()
_LEAVE: Final = object()

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
        self._options = PoolOptions()
        self._capture = Capture(store)
        self._bell: Bell = thread_bell(self._crew.namespace.sockets)
        self._bell_inode = os.fstat(self._bell.fileno()).st_ino
        self._resumed = False
        self._interruptible = False
        self._context: bytes | None = None
        self._program: dict[str, Any] = {}
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
        self._surroundings = Surroundings()
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
                claim: Claim | None = namespace.write_apart(process_ops.claim, (self.name, self._pid))
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
            self._surroundings.spent
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
            anew = claim.context != self._context or self._surroundings.is_outdated()
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
        self._interruptible = True
        outcome = call(claim, path, self.store, self._after_call)
        if not self._is_intact():
            os._exit(BROKEN)
        self._surroundings.close_contexts()
        self._capture.flush()
        with contextlib.suppress(OSError, ParkitError):
            output.enforce(self.store, claim.uuid, self._options.output_limit)  # the supervisor looks at those that run, now and then
        self._runs += 1
        self._surroundings.note_modules(begun)  # before anybody learns of the outcome, and changes a module for the next run
        # Whoever waits for the outcome does not wait for this worker to be as good as new: that comes behind it.
        following = self._settle(namespace, claim, outcome)
        self._surroundings.put_back()
        self._capture.end()
        self._syslog.process = None
        if following is _REFUSED:
            _log.warning("process %s is not this worker's any more; what came of it is dropped", path)
            self._leave()
        if following is _LEAVE:
            self._leave()
        assert following is None or isinstance(following, Claim)
        return following

    def _after_call(self) -> None:
        self._surroundings.outlive_threads()
        self._interruptible = False

    def _is_intact(self) -> bool:
        """Return whether the descriptors that this worker needs are still what they were: LMDB would write into whatever has their numbers now.

        Its bell stands for all: what closes others' descriptors closes every one in a range.
        """
        try:
            return os.fstat(self._bell.fileno()).st_ino == self._bell_inode
        except OSError:
            return False

    def _settle(self, namespace: Namespace, claim: Claim, outcome: Outcome) -> Any:
        """Store the outcome. Return the next claim, taken in the same transaction; None, _LEAVE or _REFUSED."""
        self._notice_crew()
        more = not (self._retired or self._orphaned or self._is_worn())
        if more and len(self._namespaces) > 1:
            more = not any(other is not namespace and other.read(process_ops.anything_submitted) for other in self._namespaces)

        def store(outcome: Outcome) -> Any:
            def operation(writing: Writing) -> Any:
                run = process_ops.finish(writing, claim.process, self.name, *outcome)
                if run is None:
                    return _REFUSED
                if run.request:
                    return _LEAVE  # a signal is on its way
                return process_ops.claim(writing, self.name, self._pid) if more else None

            return namespace.write_apart(operation, ())

        if self._surroundings.spent:
            # A thread that the target has left behind may hold the namespace's turn, and never give it up. Then the process has crashed.
            faulthandler.dump_traceback_later(max(self._options.grace, 1.0), exit=True)
        try:
            return self._store_patiently(lambda: store(outcome))
        except ParkitError as error:
            # The outcome does not fit. That the process has ended, and why nothing is known of it, always does.
            _log.error("the outcome of process %s cannot be stored: %s", process_path(namespace, claim), error)
            return store(Outcome(FAILED, 1, codecs.encode(failures.capture(type(error)(str(error)[:1000])))))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _store_patiently(self, store: Callable[[], Any]) -> Any:
        """Call ``store``, again and again while the disk refuses: the work is done, and there may be room in a moment."""
        deadline = time.monotonic() + _FULL_DISK
        while True:
            try:
                return store()
            except (NamespaceFullError, CodecError):
                raise
            except TransactionError:
                if time.monotonic() > deadline:
                    raise
            self._bell.wait(1.0)

    # Beginning anew, and the end.

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
            if self._crew.namespace.closed:
                return  # the main thread is leaving
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


def _resident() -> int:
    """Return the bytes of memory that this process occupies."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


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
