"""Server-sent events: what a page that is open is told, as it happens.

::

    states      every topic of the hub, each time that it has a new state       no id: the latest state is all that counts
    entries     a log from some entry on                                        id RANGE:INDEX, of the next entry
    output      what a process has written, from some byte on                   id OFFSET, of the next byte

A client that comes back says by ``Last-Event-ID`` where it was, and goes on there without loss. A stream is an asynchronous iterator that makes the
next event when the one before is on its way, so a client that reads slowly holds back nothing but itself.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parkit_async._core import log_ops, process_ops
from parkit_async._core.binding import Binding
from parkit_async._core.doorbell import EVENT_ALL, EVENT_CHANGE
from parkit_async._core.errors import ObjectNotFoundError
from parkit_async._core.filewatch import LOOK, FileWatch
from parkit_async._core.layout import index_key
from parkit_async._core.output import Output
from parkit_async._core.output_files import close as close_output
from parkit_async._core.output_files import create
from parkit_async._core.process_ops import ENDED
from parkit_async._core.transactions import Reading
from parkit_async._core.waiting import AGAIN
from parkit_async.runtime import current_runtime

from .values import NotPlain, load, printable, shown
from .watch import Hub, encode

__all__ = ["EventStream", "entries", "event", "output", "states"]

_FIRST: Final = 200
"""Entries of a log that a page begins with."""
_PORTION: Final = 200
_BYTES: Final = 1 << 16
_FIRST_BYTES: Final = 1 << 17
"""Bytes of an output that a page begins with."""
_REST: Final = 0.1
"""Seconds between two events of one stream."""
_LATEST: Final = 8.64e12
"""Seconds since 1970 with which JavaScript's dates end."""
_LOG_ID: Final = re.compile(r"(\d{1,20}):(\d{1,20})")
_OUTPUT_ID: Final = re.compile(r"\d{1,19}")


def event(name: str, data: bytes, identifier: str | None = None) -> bytes:
    """Return an event as it is sent; ``data`` has no line ends."""
    head = f"event: {name}\n" if identifier is None else f"id: {identifier}\nevent: {name}\n"
    return head.encode() + b"data: " + data + b"\n\n"


class EventStream(Response):
    """An answer that goes on until the client leaves, the dashboard ends, or the client's token expires.

    Args:
        events: What to send; closed however the answer ends.
        hub: Tells of the end of the dashboard.
        seconds: After which it ends; None is never.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], hub: Hub, seconds: float | None) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._events = events
        self._hub = hub
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":  # which has no body that could end it
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        tasks = [asyncio.ensure_future(ending) for ending in (self._pump(send), _left(receive), self._hub.closing.wait())]
        try:
            await asyncio.wait(tasks, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if tasks[0].done() and not tasks[0].cancelled() and (error := tasks[0].exception()) is not None and not isinstance(error, OSError):
            raise error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        try:
            await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
            async for data in self._events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self._events.aclose()  # type: ignore[attr-defined]  # an asynchronous generator, which lets go of what it listens to


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def states(hub: Hub) -> AsyncIterator[bytes]:
    """Iterate over the events of a page: every topic as it is, and then whenever it has a new state."""
    seen: dict[str, int] = {}
    with hub.client() as changed:
        while True:
            changed.clear()
            for name, topic in list(hub.topics.items()):
                if seen.get(name) != topic.version:
                    # Whatever it has become while the events before were on their way.
                    seen[name], payload = topic.version, topic.payload
                    yield event("state", b'{"topic":%s,"state":%s}' % (encode(name), payload))
            await changed.wait()


# Logs.


async def entries(binding: Binding, last: str | None) -> AsyncIterator[bytes]:
    """Iterate over the events of a log: its last entries, or those behind the one that was seen last, and then those that come."""
    namespace = binding.namespace
    begun, index = _log_place(last)

    def take(reading: Reading) -> Any:
        nonlocal begun, index
        current, length = log_ops.position(reading, binding)
        cleared = begun not in (None, current)
        if begun is None:
            index = max(0, length - _FIRST)
        elif cleared:
            index = 0
        if index >= length and not cleared and begun is not None:
            return AGAIN
        begun = current
        state = reading.state(binding)
        get = reading.transaction.get
        found = [_entry(at, get(index_key(state.prefix, at))) for at in range(index, min(length, index + _PORTION))]
        index += len(found)
        return {"cleared": cleared, "entries": found, "length": length}

    async def look() -> Any:
        return namespace.read(take)

    while True:
        try:
            portion = await current_runtime().wait(binding, EVENT_CHANGE, look, None)
        except ObjectNotFoundError:
            yield event("gone", b"{}")
            return
        yield event("entries", encode(portion), f"{begun}:{index}")
        if index >= portion["length"]:
            await asyncio.sleep(_REST)


def _log_place(last: str | None) -> tuple[int | None, int]:
    match = None if last is None else _LOG_ID.fullmatch(last)
    return (None, 0) if match is None else (int(match[1]), int(match[2]))


def _entry(index: int, frame: bytes | None) -> dict[str, Any]:
    """Return what is shown of an entry: the fields of a log record where it is one (see ``SyslogHandler``), else its text."""
    frame = bytes(frame or b"")
    try:
        record = load(frame)
    except NotPlain:
        record = None
    if (
        isinstance(record, dict)
        and all(isinstance(record.get(name), str) for name in ("level", "message"))
        and _is_number(record.get("time"), _LATEST)
    ):
        # Only words and numbers: a list can be small as a pickle, and endless as a text.
        words = {
            name: printable(str(record[name]))
            for name in ("level", "logger", "message", "pid", "process")
            if isinstance(record.get(name), str) or _is_number(record.get(name), 1 << 64)
        }
        return {"index": index, "time": float(record["time"]), **words}
    return {"index": index, "text": shown(frame)}


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and abs(value) <= most  # which NaN is not, either


# Output.


class _Place:
    """A place in an output, which moves on as text is taken; characters come whole."""

    def __init__(self, output: Output, last: str | None) -> None:
        self._output = output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._next = 0
        self.skipped = 0
        if last is not None and _OUTPUT_ID.fullmatch(last):
            self._next = int(last)
        else:
            size = output.size()
            if size > _FIRST_BYTES:
                data = output.read(size - _FIRST_BYTES, _FIRST_BYTES)
                self._next = self.skipped = size - _FIRST_BYTES + data.find(b"\n") + 1

    @property
    def offset(self) -> int:
        """Of the first byte that was not given out."""
        return self._next - len(self._decoder.getstate()[0])

    def take(self) -> tuple[str, bool]:
        """Return the next text, "" if there is none now, and whether the file was cut before it."""
        data = self._output.read(self._next, _BYTES)
        cut = not data and self._output.size() < self._next
        if cut:
            # At its limit, which its last line says, or by the target.
            self._decoder.reset()
            self._next = max(0, self._output.size() - 256)
            data = self._output.read(self._next, _BYTES)
        self._next += len(data)
        return self._decoder.decode(data), cut


async def output(binding: Binding, last: str | None) -> AsyncIterator[bytes]:
    """Iterate over the events of a process's output, until it has ended, or was dropped."""
    namespace = binding.namespace
    source = Output(namespace.store, binding.entry.uuid)
    place = _Place(source, last)
    if place.skipped:
        yield event("skipped", encode({"bytes": place.skipped}), str(place.offset))

    def ended() -> str | None:
        try:
            status: str = namespace.read(process_ops.run_of, binding).status
        except ObjectNotFoundError:
            return "dropped"
        return status if status in ENDED else None

    watch: FileWatch | None = None
    try:
        while True:
            status = ended()  # before the look, which then finds all that there is
            if watch is not None:
                watch.drain()
            text, cut = place.take()
            if text or cut:
                yield event("text", encode({"text": printable(text, _BYTES), "cut": cut}), str(place.offset))
            elif status is not None:
                yield event("end", encode({"status": status}), str(place.offset))
                return
            elif watch is None:
                close_output(create(source.path))  # so that there is something to watch
                watch = FileWatch(source.path)
            else:
                await _grown(watch, binding, ended)
                await asyncio.sleep(_REST)
    finally:
        if watch is not None:
            watch.close()


async def _grown(watch: FileWatch, binding: Binding, ended: Any) -> None:
    """Wait until an output may have more, or its process has ended."""
    looked = 0

    async def look() -> Any:
        nonlocal looked
        looked += 1
        return AGAIN if looked == 1 and ended() is None else True

    loop = asyncio.get_running_loop()
    grown = asyncio.Event()
    descriptor = watch.fileno()
    if descriptor >= 0:
        loop.add_reader(descriptor, grown.set)
    waits: Iterable[asyncio.Future[Any]] = [
        asyncio.ensure_future(grown.wait()),
        asyncio.ensure_future(current_runtime().wait(binding, EVENT_ALL, look, None)),
    ]
    try:
        await asyncio.wait(waits, timeout=None if descriptor >= 0 else LOOK, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if descriptor >= 0:
            loop.remove_reader(descriptor)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
