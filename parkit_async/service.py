"""The supervisor as a service: a program of its own that hosts the actor on an event loop, detached or in the foreground.

Signals: SIGTERM and SIGINT drain (no process is claimed any more, those that run have some seconds to finish), a second one ends at once; SIGHUP
rereads the settings. Where systemd asks for it (``Type=notify``, ``WatchdogSec=``) it is told READY, STOPPING and WATCHDOG.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
from typing import Final

from ._core import pool_state, supervision
from ._core.deaths import open_death_watch
from ._core.errors import ParkitError
from ._core.identity import Identity
from ._core.paths import open_store
from ._core.pool import Drain, End
from ._core.settings import get_storage_path
from ._core.syslog_handler import SyslogHandler
from .supervisor import Notice, Supervisor

__all__ = ["main", "notify", "run_foreground"]

_HANDOVER: Final = 30
"""Seconds that a detached supervisor gets to leave its pool to one in the foreground."""

_log = logging.getLogger("parkit.supervisor")


def run_foreground(store: str | None = None) -> int:
    """Be the supervisor of a store until told to stop; for a terminal, a service manager or a container. Return the exit code.

    Args:
        store: Path of the store; by default that of the process. It is created if it does not exist.
    """
    path = str(open_store(store or get_storage_path()))
    lock = supervision.SupervisorLock(path)
    if not lock.acquire() and not _take_over(path, lock):
        pid = supervision.running_supervisor(path)
        print(
            f"process {pid} supervises {path} already; stop it with `parkit pool stop`, or leave the pool to it",
            file=sys.stderr,
        )
        return 1
    # A service manager starts this service anew when it dies. Elsewhere, as on a terminal, the workers start a detached one.
    managed = any(os.environ.get(name) for name in ("NOTIFY_SOCKET", "INVOCATION_ID"))
    try:
        return _serve(path, respawn=not managed, foreground=True)
    finally:
        lock.release()


def _take_over(store: str, lock: supervision.SupervisorLock) -> bool:
    """Have a detached supervisor leave its pool to this process, workers and all; return False where the one that is there is none of these."""
    pid = supervision.running_supervisor(store)
    pool, crew = pool_state.shelf(store, pool_state.POOL), pool_state.shelf(store, pool_state.CREW)
    found = pool_state.get(crew, "supervisor")
    if found is None or found["foreground"] or found["identity"][0] != pid:
        return False
    print(f"taking the pool over from the detached supervisor, process {pid}", file=sys.stderr)
    starting = supervision.begin_starting(store, wait=True)  # so that no worker that sees its supervisor go starts another one
    try:
        pool_state.change(pool, {"handover": found["epoch"]})
        with contextlib.closing(open_death_watch(Identity(*found["identity"]))) as watch:
            poll = select.poll()
            poll.register(watch.fileno(), select.POLLIN)
            poll.poll(_HANDOVER * 1000)
        return lock.acquire()
    finally:
        if starting is not None:
            os.close(starting)


def main(arguments: list[str]) -> int:
    """Run the detached service; started by whoever starts a process and finds no supervisor."""
    parser = argparse.ArgumentParser(prog="parkit service")
    parser.add_argument("--store", required=True)
    parser.add_argument("--starting", type=int, default=-1)
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # a shell ignores them in what it runs in the background
    lock = supervision.SupervisorLock(options.store)
    try:
        if not lock.acquire():
            return 0
    finally:
        if options.starting >= 0:
            with contextlib.suppress(OSError):
                os.close(options.starting)
    # The lock goes with the process: whoever finds no supervisor, as killall() does, shall find none on its way out either.
    return _serve(options.store, respawn=True, foreground=False)


def _serve(store: str, respawn: bool, foreground: bool) -> int:
    os.environ["PARKIT_STORAGE_PATH"] = store
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    try:
        pool = pool_state.shelf(store, pool_state.POOL)  # before there is a log in the store: whatever is wrong with the store is said here
        if foreground:
            pool_state.change(pool, {"stopped": False})
        root.addHandler(SyslogHandler(store=store))
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            runner.run(_supervise(store, respawn, foreground))
        return 0
    except ParkitError as error:
        _log.error("%s", error)
        return 1
    except ValueError as error:  # a setting in the environment
        _log.error("%s", error)
        return 2


async def _supervise(store: str, respawn: bool, foreground: bool) -> None:
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(store, respawn=respawn, foreground=foreground)
    begun = False
    asked = 0

    def say(message: Drain | End | Notice) -> None:
        if begun and not supervisor.over.is_set():
            supervisor.tell(message)

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            notify("STOPPING=1")
        say(Drain() if asked == 1 else End())

    # From the beginning: a signal that ended the service now would leave the workers that it has just started.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, say, Notice())
    await supervisor.begin()
    begun = True
    if asked:
        say(Drain() if asked == 1 else End())
    _log.info("process %s supervises %s", os.getpid(), store)
    notify("READY=1")
    watchdog = asyncio.ensure_future(_watchdog())
    try:
        await supervisor.over.wait()
    finally:
        watchdog.cancel()
        await supervisor.stop()
    _log.info("the pool of %s has ended", store)


async def _watchdog() -> None:
    """Tell systemd that the loop goes round, twice as often as it asks for; do nothing if it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    if microseconds and os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(int(microseconds) / 2_000_000)


def notify(state: str) -> None:
    """Tell systemd something, if it asked to be told (sd_notify(3)). Never fails, and never waits for one that does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address)


def _new_loop() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
