"""The blocking functions about the process pool."""

# No `from __future__ import annotations`: help() shall print types, not their source.

import select
from collections.abc import Iterable, Iterator
from typing import Any

from parkit.adapters.process import Process
from parkit_async._core import pool_control
from parkit_async._core import processes as _processes
from parkit_async._core.errors import ObjectNotFoundError
from parkit_async._core.pool_control import ProcessPriority
from parkit_async._core.process_ops import ENDED
from parkit_async._core.waiting import deadline_of, remaining

__all__ = [
    "ProcessPriority",
    "clean",
    "get_pool_options",
    "get_pool_size",
    "killall",
    "pool_status",
    "processes",
    "set_pool_options",
    "set_pool_size",
    "set_process_priority",
]


def processes(status_filter: str | Iterable[str] | None = None) -> Iterator[Process[Any]]:
    """Iterate over the processes of the store, namespace by namespace, in order of creation.

    Args:
        status_filter: A status, or several; None is every process.

    Raises:
        ValueError: There is no such status.
    """
    statuses = _processes.check_statuses(status_filter)
    return (
        _processes.restore(Process, namespace, entry, found.name) for namespace, found, entry in _processes.listed(pool_control.store(), statuses)
    )


def clean(status_filter: str | Iterable[str] | None = None) -> int:
    """Drop processes with all they hold, their output too. One that runs is terminated first, which is waited for.

    Args:
        status_filter: A status, or several; None is those that have ended: finished, failed and crashed.

    Returns:
        How many were dropped.

    Raises:
        ValueError: There is no such status.
    """
    count = 0
    for process in processes(_processes.check_statuses(status_filter, ENDED)):
        try:
            process.drop()
        except ObjectNotFoundError:
            continue  # somebody else cleans as well
        count += 1
    return count


def get_pool_size() -> int:
    """Return how many workers the pool has, or would have if it ran: as was set, else ``PARKIT_PROCESS_POOL_SIZE``, else one for each processor."""
    return pool_control.get_size()


def set_pool_size(size: int) -> None:
    """Set how many workers the pool has; kept in the store, and in effect at once. A running process is never interrupted.

    Args:
        size: 0 keeps everything that is submitted waiting.

    Raises:
        ValueError: It is negative, or beyond reason.
    """
    pool_control.set_size(size)


def get_pool_options() -> dict[str, Any]:
    """Return how the pool behaves: as was set, else as the environment says. See :func:`set_pool_options`."""
    return pool_control.get_options()


def set_pool_options(**options: Any) -> None:
    """Set how the pool behaves; kept in the store. What is not named stays as it was; None goes back to what the environment says.

    Args:
        options: ``grace``: seconds between SIGTERM and SIGKILL. ``drain``: seconds that a stopping supervisor lets processes run. ``max_tasks``,
            ``max_age`` (seconds), ``max_growth`` (bytes of memory): when a worker is replaced; 0 is never. ``output_limit``: bytes of output that are
            kept of a run. ``log_level``: least level of the log records that workers keep. Workers that run already go on as they began; ``grace``
            and ``drain`` are those of the next supervisor.

    Raises:
        TypeError, ValueError: There is no such option, or it cannot have that value.
    """
    pool_control.set_options(options)


def killall(timeout: float | None = None) -> None:
    """End the pool: running processes are terminated and crash, submitted ones stay submitted for the next pool. Returns when all workers are gone.

    The next ``start()`` starts another pool.

    Args:
        timeout: Seconds to wait; None waits for ever. SIGTERM is followed by SIGKILL after the grace period, so it ends.

    Raises:
        TimeoutError: Somebody is still there.
    """
    deadline = deadline_of(timeout)
    for watch in pool_control.stopping():
        try:
            poll = select.poll()
            poll.register(watch.fileno(), select.POLLIN)
            left = remaining(deadline)
            if left == 0 or not poll.poll(None if left is None else left * 1000):  # also when it is one dead worker after another
                raise TimeoutError(f"the pool has not ended within {timeout} seconds")
        finally:
            watch.close()


def pool_status() -> dict[str, Any]:
    """Return what there is of the pool.

    ``running`` tells whether it has a supervisor, whose ``pid`` and ``epoch`` are there; ``size`` how many workers there shall be; ``workers`` who
    they are: for each ``id``, ``pid``, ``state`` (idle, busy, retiring), and the path of the ``process`` that it runs with the time ``started``.
    """
    return pool_control.status()


def set_process_priority(priority: ProcessPriority) -> None:
    """Set the priority of the calling process, also of a process of the pool from inside it. Raising it again takes privileges on Unix.

    Raises:
        PermissionError: The system does not allow it.
        TypeError: It is no ProcessPriority.
    """
    pool_control.set_priority(priority)
