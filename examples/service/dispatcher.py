"""A service that waits for requests in a Queue, runs each as a Process, and reports what came of it to a Log.

::

    anybody ──▶ Queue service/requests ──▶ dispatcher ──▶ Process ──▶ a worker of the pool
                                               ▲                            │
                Log service/reports  ◀─────────┴──── when it has ended ─────┘

A request is ``[what, *arguments]``, and ``what`` is one of :data:`HANDLERS`. Each is run once and reported once, also when this service, the pool's
supervisor or a worker is killed in between: a request leaves the queue in the transaction that starts its process, and a process is dropped in the
transaction that reports it. What an earlier dispatcher has started, and not reported, is taken over by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from parkit_async import Log, ObjectNotFoundError, ParkitError, Process, Queue, QueueEmpty, processes, transaction

__all__ = ["HANDLERS", "main"]

Request = list[Any]

RUN = "service/run-"  # what the names of the processes begin with; all is in one namespace, so that one transaction reaches all


# What runs in the workers.


def count_lines(path: str) -> int:
    """Return how many lines a file has."""
    with Path(path).open("rb") as file:
        return sum(1 for _ in file)


async def pause(seconds: float) -> str:
    """Do nothing for a while."""
    await asyncio.sleep(seconds)
    return f"paused for {seconds} s"


HANDLERS = {"count_lines": count_lines, "pause": pause}


def perform(request: Request) -> Any:
    """Do what a request asks for. What is wrong with it is an error of this process, not of the service."""
    what, *arguments = request
    return HANDLERS[what](*arguments)  # type: ignore[operator]  # where that is a coroutine, the worker awaits it


# What runs in the service.


class Dispatcher:
    """See the module."""

    def __init__(self) -> None:
        self.requests: Queue[Request] = Queue("service/requests")
        self.reports: Log[dict[str, Any]] = Log("service/reports")

    async def run(self) -> None:
        """Serve until cancelled. What runs then goes on in the pool, and the next dispatcher reports it."""
        await self.requests
        await self.reports
        async with asyncio.TaskGroup() as attending:
            async for process in processes():
                if process.name.startswith(RUN):
                    attending.create_task(self.attend(process))
            print("dispatcher: ready", flush=True)
            while True:
                seen = self.requests.version  # before looking, so that no request falls in between
                if (started := await self.start_next()) is not None:
                    attending.create_task(self.attend(started))
                else:
                    await self.requests.wait_changed(seen)

    async def start_next(self) -> Process[Any] | None:
        """Start the process of the next request; return None if there is no request."""
        try:
            async with transaction(self.requests):
                request = await self.requests.get_nowait()
                process: Process[Any] = await Process(f"{RUN}{uuid4()}", target=perform, args=(request,))
                await process.set("request", request)
                await process.start()
        except QueueEmpty:
            return None
        return process

    async def attend(self, process: Process[Any]) -> None:
        """Report the end of a process, and drop it."""
        with contextlib.suppress(ObjectNotFoundError):  # somebody else has dropped it: `parkit clean`, for one
            await process.join()
            error = process.error
            report = {
                "request": await process.get("request"),
                "status": process.status,
                "result": process.result,
                "error": None if error is None else f"{type(error).__name__}: {error}",
            }
            async with transaction(self.reports):
                await self.reports.append(report)
                await process.drop()


async def serve() -> None:
    """Run a dispatcher until SIGTERM or Ctrl-C."""
    serving = asyncio.ensure_future(Dispatcher().run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> int:
    """Run the service and return its exit status."""
    status = 0
    try:
        asyncio.run(serve())
    except* ParkitError as group:
        for error in group.exceptions:
            print(f"dispatcher: {error}", file=sys.stderr)
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
