"""Following what processes do: a bell for many of them, and their output as it is written."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from typing import Any, Final, Self

from parkit import Process
from parkit_async._core.binding import Binding
from parkit_async._core.doorbell import EVENT_DONE, Bell, thread_bell
from parkit_async._core.output import Follower, Output, follow_blocking
from parkit_async._core.process_ops import CREATED, ENDED
from parkit_async._core.shared import TableFullError

from . import render

__all__ = ["Alarm", "show_output"]


class Alarm:
    """Rings when something happens to one of several objects of a store. For the thread that makes it."""

    def __init__(self) -> None:
        self._slots: list[tuple[Any, int]] = []
        self._bell: Bell | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for table, slot in self._slots:
            table.unregister(slot)

    def listen(self, binding: Binding, events: int) -> None:
        """Ring for an object, too; look at it after this."""
        namespace = binding.namespace
        self._bell = thread_bell(namespace.sockets)
        slots: list[int] = []
        try:
            namespace.table.register(binding.object_id, events, self._bell.address, slots)
        except TableFullError:
            pass  # the slow look will do
        finally:
            self._slots += [(namespace.table, slot) for slot in slots]

    @property
    def descriptor(self) -> int:
        """What becomes readable; -1 while nothing is listened to."""
        return -1 if self._bell is None else self._bell.fileno()

    def wait(self, timeout: float) -> None:
        """Sleep until it rings, ``timeout`` seconds at most."""
        if self._bell is None:
            time.sleep(timeout)
        else:
            self._bell.wait(timeout)

    def drain(self) -> None:
        """Take what has rung."""
        if self._bell is not None:
            self._bell.drain()


def show_output(process: Process[Any], follow: bool, count: int | None = None) -> None:
    """Write the output of a process as it is; ``count`` is how many of its last lines to begin with, None all."""
    output = process.output
    live = _Live(output, _begin(output, count))
    if not follow:
        for texts in live.rest():
            render.write("".join(texts))
        return
    with Alarm() as alarm:
        alarm.listen(process._binding, EVENT_DONE)

        def ended() -> bool:
            alarm.drain()
            status = process.status
            return status in ENDED or status == CREATED

        for text in follow_blocking(live, ended, alarm.descriptor):  # type: ignore[arg-type]
            render.write(text)
            render.flush()


_LOOK_BACK: Final = 1 << 16


def _begin(output: Output, count: int | None) -> int:
    """Return at which byte the last ``count`` lines begin."""
    if count is None:
        return 0
    at = size = output.size()
    left = count
    while at and left >= 0:
        start = max(0, at - _LOOK_BACK)
        data = output.read(start, at - start)
        if at == size and data.endswith(b"\n"):
            data = data[:-1]
        while left > 0 and (found := data.rfind(b"\n")) >= 0:
            left -= 1
            if left == 0:
                return start + found + 1
            data = data[:found]
        if left == 0:
            return size
        at = start
    return 0


class _Live:
    """A place in an output, like ``output.Follower``, but for whoever looks on: parts of lines are seen as they are written."""

    def __init__(self, output: Output, place: int) -> None:
        self._output = output
        self._place = place
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._follower = Follower(output)

    @property
    def watch(self) -> Any:
        """As of ``Follower``."""
        return self._follower.watch

    def take(self) -> list[str]:
        """Return what there is, as one text in a list, or an empty list."""
        data = self._output.read(self._place, 1 << 16)
        if not data:
            size = self._output.size()
            if size < self._place:
                # It was cut, at its limit (the last line says so) or by the target.
                last = self._output.read(-_LOOK_BACK).rstrip(b"\n").rpartition(b"\n")[2]
                self._place = size
                return [f"\n{last.decode('utf-8', 'replace')}\n"]
            return []
        self._place += len(data)
        text = self._decoder.decode(data)
        return [text] if text else self.take()

    def rest(self) -> Iterator[list[str]]:
        """Iterate over what is left."""
        end = self._output.size()
        while self._place < end and (found := self.take()):
            yield found

    def close(self) -> None:
        """Close the watch."""
        self._follower.close()
