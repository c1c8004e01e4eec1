"""The awaitable functions about the process pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from ._core import pool_control
from ._core import processes as _processes
from ._core.administration import refuse_context
from ._core.deaths import DeathWatch
from ._core.errors import ObjectNotFoundError
from ._core.ownership import contexts, innermost
from ._core.pool_control import ProcessPriority
from ._core.process_ops import ENDED
from ._core.supervision import StartWatch
from ._core.waiting import deadline_of, remaining
from .process import Process
from .runtime import current_runtime

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

T = TypeVar("T")


async def _apart(call: Callable[[], T]) -> T:
    """Call what may open a namespace or wait for a turn, in a thread of its own. Cancelling does not stop it."""
    return await current_runtime().in_thread(object(), call)


async def processes(status_filter: str | Iterable[str] | None = None) -> AsyncIterator[Process[Any]]:
    """Iterate over the processes of the store, namespace by namespace, in order of creation.

    Args:
        status_filter: A status, or several; None is every process.

    Raises:
        ValueError: There is no such status.
    """
    statuses = _processes.check_statuses(status_filter)

    def look() -> list[Any]:
        return list(_processes.listed(pool_control.store(), statuses))

    # Inside a transaction or snapshot the task sees that.
    for namespace, found, entry in look() if contexts and innermost() is not None else await _apart(look):
        yield _processes.restore(Process, namespace, entry, found.name)


async def clean(status_filter: str | Iterable[str] | None = None) -> int:
    """Drop processes with all they hold, their output too. One that runs is terminated first, which is waited for.

    Cancelled, it has dropped some of them.

    Args:
        status_filter: A status, or several; None is those that have ended: finished, failed and crashed.

    Returns:
        How many were dropped.

    Raises:
        ValueError: There is no such status.
    """
    count = 0
    async for process in processes(_processes.check_statuses(status_filter, ENDED)):
        try:
            await process.drop()
        except ObjectNotFoundError:
            continue  # somebody else cleans as well
        count += 1
    return count


async def get_pool_size() -> int:
    """Return how many workers the pool has, or would have if it ran: as was set, else ``PARKIT_PROCESS_POOL_SIZE``, else one for each processor."""
    return await _apart(pool_control.get_size)


async def set_pool_size(size: int) -> None:
    """Set how many workers the pool has; kept in the store, and in effect at once. A running process is never interrupted.

    Args:
        size: 0 keeps everything that is submitted waiting.

    Raises:
        ValueError: It is negative, or beyond reason.
    """
    refuse_context("set_pool_size()")
    await _apart(lambda: pool_control.set_size(size))


async def get_pool_options() -> dict[str, Any]:
    """Return how the pool behaves: as was set, else as the environment says. See :func:`set_pool_options`."""
    return await _apart(pool_control.get_options)


async def set_pool_options(**options: Any) -> None:
    """Set how the pool behaves; kept in the store. What is not named stays as it was; None goes back to what the environment says.

    Args:
        options: ``grace``: seconds between SIGTERM and SIGKILL. ``drain``: seconds that a stopping supervisor lets processes run. ``max_tasks``,
            ``max_age`` (seconds), ``max_growth`` (bytes of memory): when a worker is replaced; 0 is never. ``output_limit``: bytes of output that are
            kept of a run. ``log_level``: least level of the log records that workers keep. Workers that run already go on as they began; ``grace``
            and ``drain`` are those of the next supervisor.

    Raises:
        TypeError, ValueError: There is no such option, or it cannot have that value.
    """
    refuse_context("set_pool_options()")
    await _apart(lambda: pool_control.set_options(options))


async def killall(timeout: float | None = None) -> None:
    """End the pool: running processes are terminated and crash, submitted ones stay submitted for the next pool. Returns when all workers are gone.

    The next ``start()`` starts another pool. Cancelled, the pool ends all the same.

    Args:
        timeout: Seconds to wait; None waits for ever. SIGTERM is followed by SIGKILL after the grace period, so it ends.

    Raises:
        TimeoutError: Somebody is still there.
    """
    deadline = deadline_of(timeout)
    refuse_context("killall()")
    watches = pool_control.stopping()
    while (watch := await _apart(lambda: next(watches, None))) is not None:
        try:
            await asyncio.wait_for(_dead(watch), remaining(deadline))
        except TimeoutError:
            raise TimeoutError(f"the pool has not ended within {timeout} seconds") from None
        finally:
            watch.close()


async def _dead(watch: DeathWatch | StartWatch) -> None:
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    loop.add_reader(watch.fileno(), dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(watch.fileno())


async def pool_status() -> dict[str, Any]:
    """Return what there is of the pool.

    ``running`` tells whether it has a supervisor, whose ``pid`` and ``epoch`` are there; ``size`` how many workers there shall be; ``workers`` who
    they are: for each ``id``, ``pid``, ``state`` (idle, busy, retiring), and the path of the ``process`` that it runs with the time ``started``.
    """
    return await _apart(pool_control.status)


async def set_process_priority(priority: ProcessPriority) -> None:
    """Set the priority of the calling process, also of a process of the pool from inside it. Raising it again takes privileges on Unix.

    Raises:
        PermissionError: The system does not allow it.
        TypeError: It is no ProcessPriority.
    """
    pool_control.set_priority(priority)
