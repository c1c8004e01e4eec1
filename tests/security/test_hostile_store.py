"""A data file in which somebody has put anything: whoever uses it gets the errors that are documented, and what was not touched is as it was.

Nobody but the store's owner can write in it, so this is not about attackers first: it is what a bad disk, a restored fragment or another program
leaves. LMDB's own pages are whole here; ``parkit verify`` finds those that are not.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import pytest

import parkit
import parkit_async
from parkit_async._core import layout, pool_state
from parkit_async._core.registry import close_all
from parkit_async.cli import main
from parkit_async.testing import InlinePool

NAMESPACE = "ns"
ROUNDS = int(os.environ.get("PARKIT_TEST_ROUNDS", "12"))
GOOD = {n: f"value {n}" for n in range(20)}


def fill() -> None:
    """Make one object of each kind, in all its states, beside the good ones."""
    parkit.set_namespace_synchronous(NAMESPACE, "off")
    parkit.Dict[int, str]("ns/good").update(GOOD)
    d = parkit.Dict[Any, Any]("ns/d")
    d.update({"a": 1, 2: [1], ("t", 1): "x" * 3000, "long" * 300: 1, frozenset({1}): 2.5, True: 1})
    d.colour = "red"
    parkit.Dict[str, Any]("ns/json", codec=parkit.json_codec)["k"] = {"a": [1]}
    parkit.Dict[str, bytes]("ns/raw", codec=parkit.raw_codec)["k"] = b"x" * 2000
    parkit.Log[int]("ns/log").extend(range(30))
    q: parkit.Queue[Any] = parkit.Queue("ns/q")
    q.put_many(range(10))
    lifo: parkit.LifoQueue[Any] = parkit.LifoQueue("ns/lifo")
    lifo.put_many(range(10))
    parkit.Object("ns/object").size = 3
    parkit.Process("ns/p", target=print)


def contents(store: Path) -> dict[bytes, bytes]:
    (folder,) = store.glob(f"{NAMESPACE}~*")
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin() as transaction:
        return dict(transaction.cursor())


def put_back(store: Path, entries: dict[bytes, bytes]) -> None:
    (folder,) = store.glob(f"{NAMESPACE}~*")
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(), delete=False)
        for key, value in entries.items():
            transaction.put(key, value)


def untouchable(entries: dict[bytes, bytes]) -> set[bytes]:
    """Return the keys of what must stay: the namespace's own record, and all of the good object's."""
    entry = layout.Entry.unpack(entries[layout.directory_key("good")])
    header = layout.State(entries[layout.header_key(entry.object_id)])
    prefixes = (layout.header_key(entry.object_id), layout.data_prefix(header.range))
    return {key for key in entries if key == layout.META_KEY or key == layout.directory_key("good") or key.startswith(prefixes)}


def mangle(chance: random.Random, data: bytes) -> bytes:
    """Change some bytes. A pickle only loses its end: what may be in its middle is for pickle to say, and it says anything."""
    if data[:1] in (b"\x80", b"\1", b"\2", b"\3"):
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        match chance.randrange(5):
            case 0:
                del changed[chance.randint(0, len(changed)) :]
            case 1 if changed:
                changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
            case 2:
                changed += chance.randbytes(chance.randint(1, 20))
            case 3:
                changed[:] = chance.randbytes(len(changed))
            case _:
                at = chance.randint(0, len(changed))
                changed[at : at + 8] = b"\xff" * 8
    if changed and changed[0] in b"\x80\1\2\3":  # has become one
        changed[0] = 0xEE
    return bytes(changed)


def spoil(chance: random.Random, entries: dict[bytes, bytes]) -> dict[bytes, bytes]:
    kept = untouchable(entries)
    good = layout.State(entries[layout.header_key(layout.Entry.unpack(entries[layout.directory_key("good")]).object_id)])
    spoilt = dict(entries)
    candidates = sorted(spoilt.keys() - kept)
    for _ in range(chance.randint(1, 5)):
        key = chance.choice(candidates)
        match chance.randrange(6):
            case 0:
                spoilt.pop(key, None)
            case 1:
                moved = key[:9] + mangle(chance, key[9:] or b"\0")
                if moved not in kept and len(moved) <= 511:
                    spoilt[moved] = entries[key]
            case 2:
                spoilt[key[: chance.randint(1, 9)] + chance.randbytes(chance.randint(0, 12))] = chance.randbytes(chance.randint(0, 90))
            case _:
                spoilt[key] = mangle(chance, entries[key])
    for key in [key for key in spoilt if key not in kept]:
        if len(key) == 9 and key[8] == 0 and len(spoilt[key]) == 80:
            # A header that names another object's range is that object's second name, and no decoder can know.
            if int.from_bytes(spoilt[key][:8], "little") == good.range:
                spoilt[key] = b"cut"
        elif (key.startswith(layout.retired_prefix()) and key[9:17] == good.range.to_bytes(8, "big")) or key.startswith(
            (layout.data_prefix(good.range), kept_id(entries))
        ):
            del spoilt[key]
    return {**spoilt, **{key: entries[key] for key in kept}}


def kept_id(entries: dict[bytes, bytes]) -> bytes:
    return layout.header_key(layout.Entry.unpack(entries[layout.directory_key("good")]).object_id)[:8]


EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "get": (KeyError,),
    "item": (IndexError,),
    "take": (queue.Empty,),
    "attribute": (AttributeError,),
    "task": (ValueError,),
}


Use = Callable[[Any], Any]


def each(open_it: Callable[[], Any], *uses: tuple[str, Use]) -> list[tuple[str, Callable[[], Any]]]:
    """Return calls that open something, as what is open already may know more than the file, and use it; each with what else it may raise."""

    def call(use: Use) -> Callable[[], Any]:
        return lambda: use(open_it())

    return [(kind, call(use)) for kind, use in uses]


def every_call() -> list[tuple[str, Callable[[], Any]]]:
    """Return calls of all kinds."""
    calls: list[tuple[str, Callable[[], Any]]] = []
    for name in ("ns/d", "ns/json", "ns/raw"):
        calls += each(
            partial(parkit.Dict[Any, Any], name, create=False),
            ("get", lambda d: d["a"]),
            ("get", lambda d: d["long" * 300]),
            ("get", lambda d: d.get(2)),
            ("", list),
            ("", lambda d: list(d.items())),
            ("", lambda d: list(reversed(d.keys()))),
            ("", lambda d: list(d.irange("a", "z"))),
            ("", lambda d: len(d.values())),
            ("", len),
            ("", lambda d: d == {}),
            ("", lambda d: "a" in d),
            ("", lambda d: d.attributes()),
            ("attribute", lambda d: d.colour),
            ("", lambda d: d.version),
            ("", lambda d: d.descriptor),
            ("", lambda d: d.exists),
        )
    calls += each(
        partial(parkit.Log[Any], "ns/log", create=False),
        ("item", lambda log: log[0]),
        ("item", lambda log: log[-1]),
        ("", lambda log: log[3:9:2]),
        ("", lambda log: log[:5]),
        ("", len),
        ("", lambda log: list(islice(log, 100))),
        ("", lambda log: list(islice(reversed(log), 100))),
        ("", lambda log: log.append(1)),
        ("task", lambda log: log.index(5, 0, 50)),
    )
    calls += each(
        partial(parkit.Process[Any], "ns/p", create=False),
        ("", lambda p: p.status),
        ("", lambda p: p.result),
        ("", lambda p: p.error),
        ("", lambda p: p.info()),
        ("", lambda p: p.output.text()),
    )
    calls += each(
        lambda: None,
        ("attribute", lambda _: parkit.Object("ns/object", create=False).size),
        ("", lambda _: list(parkit.objects("ns"))),
        ("", lambda _: list(parkit.processes())),
        ("", lambda _: parkit.pool_status()),
        ("", lambda _: parkit.get_namespace_size("ns")),
    )
    for open_it in (partial(parkit.Queue[Any], "ns/q", create=False), partial(parkit.LifoQueue[Any], "ns/lifo", create=False)):
        calls += each(
            open_it,
            ("", lambda q: q.qsize()),
            ("", lambda q: q.full()),
            ("", lambda q: q.dead_letters()),
            ("take", lambda q: q.get_nowait()),
            ("take", lambda q: q.get_many(3)),
            ("", lambda q: q.put_nowait("new")),
            ("task", lambda q: q.task_done()),
        )
    calls += each(
        lambda: None,
        ("", lambda _: parkit.Dict[Any, Any]("ns/d", create=False).update({"b": 1, 3: 4})),
        ("", lambda _: parkit.Dict[Any, Any]("ns/d", create=False).clear()),
        ("", lambda _: parkit.Dict[Any, Any]("ns/new")),
        ("", lambda _: parkit.Process("ns/new-process", target=print)),
        ("", lambda _: parkit.Object("ns/object", create=False).drop()),
        ("", lambda _: parkit.Log[Any]("ns/log", create=False).drop()),
        ("", lambda _: parkit.Queue[Any]("ns/q", create=False).drop()),
    )
    return calls


def check_error(error: BaseException) -> None:
    """See that an error is for people: short, and a TypeError is that of another class than the directory says."""
    assert len(str(error)) < 20_000
    assert type(error) is not TypeError or "open it with its own class" in str(error), error


def try_every_call() -> None:
    for kind, call in every_call():
        expected: tuple[type[Exception], ...] = (parkit.ParkitError, TypeError, *EXPECTED.get(kind, ()))
        try:
            call()
        except expected as error:
            check_error(error)


COMMANDS = [
    *(["get", f"ns/{name}"] for name in ("d", "json", "raw", "log", "q", "lifo", "object", "p")),
    ["get", "ns/d", "--attributes", "--json"],
    ["ls", "ns"],
    ["ls", "--json"],
    ["stat"],
    ["stat", "ns"],
    ["ps", "-a"],
    ["verify"],
    ["doctor"],
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_whatever_is_in_the_data_file_its_neighbours_are_usable(seed: int, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(seed)
    fill()
    close_all()
    entries = contents(store)
    for _ in range(6):
        put_back(store, spoil(chance, entries))
        for command in chance.sample(COMMANDS, 5):
            assert main(command) in (0, 1, 2), command
            told = capsys.readouterr()
            assert "Traceback" not in told.err, told.err
            close_all()
        try_every_call()
        good = parkit.Dict[int, str]("ns/good")
        assert dict(good) == GOOD
        good[7] = GOOD[7]
        with parkit.transaction(good):
            good.update(GOOD)
        assert list(good.items()) == list(GOOD.items())
        asyncio.run(asynchronously())
        close_all()


async def asynchronously() -> None:
    good: parkit_async.Dict[int, str] = await parkit_async.Dict("ns/good")
    assert [(key, value) async for key, value in good.items()] == list(GOOD.items())
    classes: list[tuple[type[Any], str]] = [(parkit_async.Dict, "ns/d"), (parkit_async.Log, "ns/log"), (parkit_async.Queue, "ns/q")]
    for cls, name in classes:
        try:
            thing: Any = await cls(name, create=False)
            if isinstance(thing, parkit_async.Queue):
                await thing.get_nowait()
            else:
                async for _ in thing:
                    break
        except (parkit.ParkitError, TypeError, queue.Empty) as error:
            check_error(error)


def test_a_mark_of_what_is_to_be_reclaimed_cannot_name_anything_else(store: Path) -> None:
    fill()
    close_all()
    entries = contents(store)
    good = layout.Entry.unpack(entries[layout.directory_key("good")]).object_id
    marks = [b"", b"\0", bytes(8) + b"\0", bytes(8) + b"\1", layout.header_key(good), layout.header_key(good)[:8], layout.run_key(good)]
    put_back(store, entries | {layout.retired_prefix() + mark: b"" for mark in marks})
    d = parkit.Dict[str, int]("ns/new")
    for n in range(2 * len(marks)):
        d["k"] = n  # what is to be reclaimed is, behind a write
    assert parkit.Dict[int, str]("ns/good") == GOOD
    close_all()
    left = contents(store)
    assert entries.keys() <= left.keys() and not [key for key in left if key.startswith(layout.retired_prefix())]


@pytest.mark.parametrize("count", [b"", b"\0", bytes(8), (1).to_bytes(8, "big"), b"\xff" * 8, bytes(7) + b"\1\0"], ids=bytes.hex)
def test_a_count_of_objects_that_is_wrong_gives_no_id_twice(count: bytes, store: Path) -> None:
    fill()
    close_all()
    put_back(store, contents(store) | {layout.NEXT_KEY: count})
    with pytest.raises(parkit.TransactionError, match="count of objects"):
        parkit.Dict("ns/new")
    assert parkit.Dict[int, str]("ns/good") == GOOD
    parkit.Dict[int, str]("ns/good")[3] = GOOD[3]


def test_what_is_damaged_in_the_queue_of_processes_keeps_nobody_waiting(store: Path) -> None:
    fill()
    process = parkit.Process[int]("ns/real", target=len, args=("abc",))
    binding = process._bound()
    operation, *arguments = process._start(binding)
    binding.namespace.write_apart(operation, tuple(arguments))  # start(), without a pool
    close_all()
    entries = contents(store)
    dropped = layout.process_key(layout.SUBMITTED, 0, 1 << 40)
    spoilt = {layout.process_key(layout.SUBMITTED, 0, n): bytes([n]) * n for n in range(40)}
    put_back(store, entries | spoilt | {dropped: b"0" * 32 + b"gone"})
    pool_state.add_namespace(str(store), "ns")
    pool = InlinePool(store)
    assert parkit.Process[int]("ns/real", create=False).get_result(timeout=20) == 3
    assert not pool.end()
    close_all()
    assert not [key for key in contents(store) if key.startswith(layout.SUBMITTED)]
