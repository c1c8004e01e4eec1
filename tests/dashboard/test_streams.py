"""Logs and outputs as they are followed: nothing is lost, nothing comes twice, wherever the connection broke."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parkit import Log, Process, syslog
from parkit_async import aclose
from parkit_async._core import codecs, process_ops
from parkit_async._core.binding import Binding
from parkit_async._core.output_files import create
from parkit_async.dashboard import streams

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    monkeypatch.setattr("parkit.adapters.process.supervision.ensure", lambda *_, **__: None)


class Follower:
    """A client of a stream."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events
        self.last: str | None = None

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(DEADLINE):
            raw = await anext(self._events)
        lines = raw.decode().rstrip("\n").split("\n")
        fields = dict(line.split(": ", 1) for line in lines)
        self.last = fields.get("id", self.last)
        return fields["event"], json.loads(fields["data"])

    async def close(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]


def binding_of(handle: Any) -> Binding:
    binding: Binding = handle._binding
    return binding


async def take(follower: Follower, number: int) -> list[str]:
    """Return the texts of so many entries."""
    found: list[str] = []
    while len(found) < number:
        name, data = await follower.next()
        assert name == "entries"
        found += [entry["text"] for entry in data["entries"]]
    assert len(found) == number
    return found


async def test_a_log_from_its_last_entries_on() -> None:
    log: Log[int] = Log("shop/sales")
    log.extend(range(1000))
    follower = Follower(streams.entries(binding_of(log), None))
    assert await take(follower, 200) == [str(number) for number in range(800, 1000)]
    log.append(1000)
    assert await take(follower, 1) == ["1000"]
    await follower.close()
    await aclose()


async def test_a_log_goes_on_where_the_connection_broke() -> None:
    log: Log[int] = Log("shop/sales")
    log.extend(range(3))
    follower = Follower(streams.entries(binding_of(log), None))
    assert await take(follower, 3) == ["0", "1", "2"]
    await follower.close()
    log.extend(range(3, 1003))
    again = Follower(streams.entries(binding_of(log), follower.last))
    assert await take(again, 1000) == [str(number) for number in range(3, 1003)], "more than a page begins with"
    await again.close()
    log.clear()
    log.append(7)
    once_more = Follower(streams.entries(binding_of(log), again.last))
    name, data = await once_more.next()
    assert name == "entries" and data["cleared"] and [entry["text"] for entry in data["entries"]] == ["7"]
    log.clear()
    name, data = await once_more.next()
    assert data["cleared"] and data["entries"] == []
    log.drop()
    assert await once_more.next() == ("gone", {})
    with pytest.raises(StopAsyncIteration):
        await once_more.next()
    await aclose()


async def test_records_and_other_entries() -> None:
    syslog.append({"time": 12.5, "level": "ERROR", "logger": "shop", "message": "no\ud800 tea", "pid": 7, "process": None})
    syslog.append({"time": "yesterday", "level": 1, "message": 2})
    syslog.append("plain")  # type: ignore[arg-type]
    syslog.append(Exception("not plain"))  # type: ignore[arg-type]
    follower = Follower(streams.entries(binding_of(syslog), "nonsense"))
    _, data = await follower.next()
    first, second, third, fourth = data["entries"]
    assert first == {"index": 0, "time": 12.5, "level": "ERROR", "logger": "shop", "message": "no\\ud800 tea", "pid": "7"}
    assert second["text"].startswith("{'time': 'yesterday'") and third["text"] == "'plain'"
    assert fourth["text"] == "<a builtins.Exception, not loaded>"
    await follower.close()
    await aclose()


async def test_records_that_a_page_could_not_show_are_shown_as_text() -> None:
    def endless() -> list[Any]:
        found: list[Any] = []
        for _ in range(22):
            found = [found, found]
        return found

    def without_number() -> uuid.UUID:
        found = uuid.uuid4()
        object.__setattr__(found, "int", "seven")
        return found

    times: list[Any] = [float("inf"), float("nan"), 1e300, 10**400, None]
    words: list[Any] = [endless(), without_number(), 10**5000, None, 1]
    log: Log[Any] = Log("shop/odd")
    log.extend({"time": time, "level": "INFO", "message": "tea"} for time in times)
    log.extend({"time": 1.0, "level": "INFO", "message": word} for word in words)
    log.append({"time": 1, "level": None, "message": "tea"})
    log.append({"time": 1, "level": "INFO", "message": "tea", "logger": endless(), "pid": 10**5000, "process": "shop/report"})
    follower = Follower(streams.entries(binding_of(log), None))
    _, data = await follower.next()
    assert len(data["entries"]) == 12 and all(len(entry["text"]) <= 2000 for entry in data["entries"][:-1])
    assert data["entries"][-1] == {"index": 11, "time": 1.0, "level": "INFO", "message": "tea", "process": "shop/report"}
    await follower.close()
    await aclose()


# Output.


def started(name: str = "shop/report") -> Process[Any]:
    """Return a process that runs, as far as the store knows."""
    process: Process[Any] = Process(name, target=abs)
    process.start()
    process._binding.namespace.write_apart(process_ops.claim, ("w", 4711))
    return process


def finish(process: Process[Any]) -> None:
    process._binding.namespace.write_apart(process_ops.finish, (process._binding, "w", "finished", 0, codecs.encode(1)))


class Writer:
    def __init__(self, process: Process[Any]) -> None:
        self.descriptor = create(process.output.path)

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def close(self) -> None:
        os.close(self.descriptor)


async def test_output_is_followed_to_its_end() -> None:
    process = started()
    follower = Follower(streams.output(binding_of(process), None))
    first = asyncio.ensure_future(follower.next())
    await asyncio.sleep(0.05)  # it waits for the first bytes
    writer = Writer(process)
    writer.write("tee – ".encode() + b"\xe2\x82")
    assert await first == ("text", {"text": "tee – ", "cut": False})
    assert follower.last == str(len("tee – ".encode())), "half a character is not given out"
    writer.write(b"\xac\n")
    assert await follower.next() == ("text", {"text": "€\n", "cut": False})
    finish(process)
    assert await follower.next() == ("end", {"status": "finished"})
    writer.close()
    await aclose()


async def test_output_goes_on_where_the_connection_broke() -> None:
    process = started()
    writer = Writer(process)
    writer.write(b"one\xe2\x82")
    follower = Follower(streams.output(binding_of(process), None))
    assert (await follower.next())[1]["text"] == "one"
    await follower.close()
    writer.write(b"\xac two")
    again = Follower(streams.output(binding_of(process), follower.last))
    assert (await again.next())[1]["text"] == "€ two"
    process.terminate()
    process._binding.namespace.write_apart(process_ops.crash, (process._binding, "w", -15))
    assert await again.next() == ("end", {"status": "crashed"})
    writer.close()
    await aclose()


async def test_of_a_long_output_the_end_is_shown_and_a_cut_is_told() -> None:
    process = started()
    writer = Writer(process)
    line = b"x" * 99 + b"\n"
    writer.write(line * 5000)
    follower = Follower(streams.output(binding_of(process), None))
    name, data = await follower.next()
    assert name == "skipped" and 300_000 < data["bytes"] < 500_000 and data["bytes"] % 100 == 0
    size = data["bytes"]
    while size < 500_000:
        size += len((await follower.next())[1]["text"])
    assert size == 500_000
    os.ftruncate(writer.descriptor, 1000)
    name, data = await follower.next()
    assert data["cut"] and data["text"].endswith("x\n")
    finish(process)
    assert (await follower.next())[0] == "end"
    writer.close()
    await aclose()


async def test_a_process_that_is_dropped_ends_its_stream() -> None:
    process = started()
    follower = Follower(streams.output(binding_of(process), None))
    waiting = asyncio.ensure_future(follower.next())
    await asyncio.sleep(0.05)
    finish(process)
    process.drop()
    assert (await waiting)[0] == "end"
    await aclose()


async def test_a_stream_that_is_left_leaves_nothing() -> None:
    process = started()
    follower = Follower(streams.output(binding_of(process), None))
    waiting = asyncio.ensure_future(follower.next())
    await asyncio.sleep(0.1)
    table = binding_of(process).namespace.table
    assert table._active
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await follower.close()
    assert not table._active
    await aclose()
