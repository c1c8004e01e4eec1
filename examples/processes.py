"""What a Process can do, in fifty lines: share data, run coroutines, return results, and raise what went wrong where it is asked for."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from parkit import Log, Process


def append(log: Log[str], number: int) -> None:
    """Append a line to a log that other processes append to as well."""
    log.append(f"hello from process {number}")


class Summary(Process[int]):
    """A Process is a Dict: what is assigned to it is there in the worker, and what the worker assigns is there for everybody."""

    def run(self) -> int:
        """Sum up the numbers that were assigned, and assign the mean."""
        self["mean"] = sum(self["numbers"]) / len(self["numbers"])
        return sum(self["numbers"])


async def wait_for_both(first: float, second: float) -> str:
    """Run on an event loop of its own, in a worker."""
    await asyncio.gather(asyncio.sleep(first), asyncio.sleep(second))
    return "both are over"


def fail() -> None:
    """Raise an error that is to be seen by whoever asks for the result."""
    raise ValueError("this one has no result")


def main() -> None:
    """Run all of them."""
    # Ten processes, one log. start() returns at once; join() waits.
    log: Log[str] = Log("demo/hellos")
    log.clear()
    greeters = [Process(target=append, args=(log, number)) for number in range(10)]
    for greeter in greeters:
        greeter.start()
    for greeter in greeters:
        greeter.join()
    print(f"{len(log)} lines, from {len(set(log))} processes.")

    summary = Summary()
    summary["numbers"] = [1, 2, 3, 4]
    summary.start()
    print(f"The sum is {summary.get_result()}, the mean {summary['mean']}.")

    waiting = Process(target=wait_for_both, args=(0.02, 0.01))
    waiting.start()
    print(f"A coroutine has returned: {waiting.get_result(timeout=30)}.")

    failing = Process(target=fail)
    failing.start()
    try:
        failing.get_result()
    except ValueError as error:
        print(f"It has {failing.status}, exit code {failing.exitcode}: {error}")  # its traceback in the worker is error.__cause__

    dying = Process(target=os._exit, args=(3,))
    dying.start()
    dying.join()
    print(f"It has {dying.status}, exit code {dying.exitcode}.")

    everything: list[Process[Any]] = [*greeters, summary, waiting, failing, dying]
    for process in everything:
        process.drop()  # else they are kept, with their results and output: `parkit ps` lists them, and `parkit clean` drops those that have ended


if __name__ == "__main__":
    main()
    print("The pool waits for more. `parkit pool stop` ends it.")
