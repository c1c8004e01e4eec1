"""What the page's buttons do. Each is a call of parkit's own, and says in one sentence what it has done.

A process is named by its path and its uuid, so that a button never hits a later process of the same name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from parkit_async import Process, clean, killall, set_pool_size
from parkit_async._core import supervision
from parkit_async._core.paths import open_store
from parkit_async._core.processes import restore
from parkit_async._core.settings import get_storage_path

from .state import find_process

__all__ = ["ACTIONS", "Gone"]

_END: Final = 30.0
"""Seconds for which the end of the pool is waited for; it goes on ending after that."""


class Gone(Exception):
    """What an action is about is not there any more."""


def _find(name: str, uuid: str) -> Process[Any]:
    found = find_process(name)
    if found is None or found[1].uuid != uuid:
        raise Gone(f"There is no process {name!r} any more.")
    namespace, entry, listed = found
    process: Process[Any] = restore(Process, namespace, entry, listed.name)
    return process


async def _terminate(name: str, uuid: str) -> str:
    await _find(name, uuid).terminate()
    return f"{name} was asked to end."


async def _kill(name: str, uuid: str) -> str:
    await _find(name, uuid).kill()
    return f"{name} is killed."


async def _forget(name: str, uuid: str) -> str:
    process = _find(name, uuid)
    if await process.is_alive():
        raise ValueError(f"{name} has not ended; terminate it first.")
    await process.drop()
    return f"{name} is forgotten."


async def _clean(statuses: list[str] | None = None) -> str:
    number = await clean(statuses)
    return f"{number} process{'' if number == 1 else 'es'} forgotten."


async def _resize(size: int) -> str:
    await set_pool_size(size)
    return f"The pool has {size} worker{'' if size == 1 else 's'} from now on."


async def _start() -> str:
    store = str(open_store(get_storage_path()))
    await asyncio.to_thread(supervision.ensure, store, restart=True)
    return "The pool starts."


async def _stop() -> str:
    await killall(_END)
    return "The pool has ended."


ACTIONS: Final[dict[str, Callable[..., Awaitable[str]]]] = {
    "terminate": _terminate,
    "kill": _kill,
    "forget": _forget,
    "clean": _clean,
    "resize": _resize,
    "start": _start,
    "stop": _stop,
}
