"""A datagram is a hint and the shared table is a list of hints: whatever they hold, the worst of it is a look for nothing."""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import random
import select
import socket
import threading
from pathlib import Path

import pytest

import parkit
from parkit_async._core.doorbell import Bell, SocketDirectory, ring
from parkit_async._core.registry import close_all
from parkit_async._core.shared import SLOTS, SharedTable

_WORDS, _OCCUPANCY, _SLOTS = 4096, 69632, 73728  # where they begin in the file, see ``shared``


def _sent(sender: socket.socket, path: str) -> bool:
    try:
        sender.sendto(b"flood", path)
    except BlockingIOError:
        return False
    return True


def test_datagrams_of_any_content_are_rings(store: Path) -> None:
    directory = SocketDirectory(store / "sockets")
    bell = Bell(directory)
    path = f"{directory.path}/{bell.address:016x}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for data in (b"\0", b"\xff" * 100, b"x" * 60_000, os.urandom(1000)):
            sender.sendto(data, path)
            assert bell.wait(5)
            assert not bell.wait(0)
        sender.sendto(b"", path)  # ends nothing but this wait: what came with it is found at the next
        sender.sendto(b"x", path)
        assert bell.wait(5)
        bell.drain()
        sent = 0
        while select.select([], [sender], [], 0)[1] and sent < 100_000 and _sent(sender, path):
            sent += 1
        assert 0 < sent < 100_000
        assert directory.send(bell.address)  # a bell that is full rings
        assert bell.wait(5)
        assert not bell.wait(0)
    bell.close()
    directory.close()


def test_a_waiter_that_is_flooded_takes_its_item_and_nothing_else(store: Path) -> None:
    q = parkit.Queue[int]("ns/q")
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.append(q.get(timeout=30)))
    waiter.start()
    sockets = store / "sockets"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(10)
        sent = 0
        while sent < 2000:
            for name in os.listdir(sockets):
                with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):  # not bound yet, or already renamed
                    sender.sendto(b"\xff" * 64, f"{sockets}/{name}")
                    sent += 1
    assert waiter.is_alive() and not found
    q.put(7)
    waiter.join(10)
    assert found == [7]


def test_a_datagram_wakes_an_event_loop_for_nothing(store: Path) -> None:
    import asyncio

    import parkit_async

    async def main() -> None:
        q: parkit_async.Queue[int] = await parkit_async.Queue("ns/q")
        waiting = asyncio.ensure_future(q.get())
        sockets = store / "sockets"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sent = 0
            while sent < 200:
                await asyncio.sleep(0)
                for name in os.listdir(sockets):
                    try:
                        sender.sendto(b"" if sent % 2 else b"\0" * 5000, f"{sockets}/{name}")
                        sent += 1
                    except BlockingIOError:
                        await asyncio.sleep(0)
        assert not waiting.done()
        await q.put(1)
        assert await asyncio.wait_for(waiting, 10) == 1

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(4))
def test_a_table_of_any_content_leads_nowhere_else(seed: int, store: Path) -> None:
    """Addresses are numbers, and a number names a file in the store's own folder; whatever else a slot holds is a look for nothing."""
    chance = random.Random(seed)
    place = store / "sockets"
    directory = SocketDirectory(place)
    table = SharedTable(store / "shared")
    outside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    outside.bind(str(store / "outside"))
    outside.setblocking(False)
    (place / "0000000000000007").symlink_to(store / "outside")
    with outside, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(place / "new-0000000000000008"))
        bound.setblocking(False)
        for slot in range(64):
            table._slots[4 * slot] = chance.choice((1, 2, (1 << 63) - 1, chance.randrange(1 << 64)))
            table._slots[4 * slot + 1] = chance.choice((0, 7, 8, (1 << 64) - 1, chance.randrange(1 << 64)))
            table._slots[4 * slot + 2] = chance.randrange(1 << 64)
            table._slots[4 * slot + 3] = chance.randrange(1 << 64)
            table._occupancy[slot] = chance.choice((0, 1, 1, 255))
        assert ring(table, directory, {1: 15, 2: 15, (1 << 63) - 1: 1}) == 0
        for socket_ in (outside, bound):
            with pytest.raises(BlockingIOError):
                socket_.recv(1)
    # What led nowhere was struck off, so it costs nothing the next time.
    assert table.waiters({1: 15, 2: 15}) == []
    (place / "0000000000000007").unlink()
    (place / "new-0000000000000008").unlink()
    table.close()
    directory.close()


def overwrite(path: Path, chance: random.Random, start: int, stop: int) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for at in range(start, stop, 8):
            data[at : at + 8] = chance.choice((bytes(8), b"\xff" * 8, chance.randbytes(8), chance.randrange(1 << 20).to_bytes(8, "little")))


@pytest.mark.parametrize("part", ["words", "everything"])
@pytest.mark.parametrize("seed", range(6))
def test_a_namespace_works_on_with_a_table_of_any_content(part: str, seed: int, store: Path) -> None:
    """Nobody synchronizes the table, so a power loss may leave anything in it, too."""
    chance = random.Random(seed)
    parkit.set_namespace_synchronous("ns", "off")
    d, q = parkit.Dict[str, int]("ns/d"), parkit.Queue[int]("ns/q")
    d["k"] = 1
    close_all()
    (table,) = store.glob("ns~*/shared")
    overwrite(table, chance, 0, _WORDS if part == "words" else table.stat().st_size)
    if part == "everything":
        with table.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            data[_OCCUPANCY:_SLOTS] = bytes(chance.choice((0, 1, 2, 255)) for _ in range(SLOTS))
    d, q = parkit.Dict[str, int]("ns/d"), parkit.Queue[int]("ns/q")
    assert d["k"] == 1
    d["k"] = 2
    assert parkit.get_namespace_size("ns") == 1 << 30
    assert parkit.get_namespace_synchronous("ns") == "off"
    with parkit.transaction(d):
        d["k"] = 3
        q.put(1)
    found: list[int] = []
    waiter = threading.Thread(target=lambda: found.extend((q.get(timeout=20), q.get(timeout=20))))
    waiter.start()
    q.put(2)
    waiter.join(25)
    assert found == [1, 2]
    with parkit.snapshot(d):
        assert d["k"] == 3
    parkit.set_namespace_size("ns", 1 << 26)
    assert parkit.get_namespace_size("ns") == 1 << 26
    with pytest.raises(queue.Empty):
        q.get_nowait()
