"""A namespace that is limited to codecs that run no code runs none, whatever is in it and however it is looked at."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import queue
import sys
from collections.abc import Callable
from functools import partial
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path
from typing import Any

import cloudpickle
import lmdb
import numpy as np
import pytest

import parkit
import parkit_async
from parkit_async._core import codecs, failures, layout, pool_state, process_ops
from parkit_async._core.registry import close_all
from parkit_async.cli import main
from parkit_async.testing import InlinePool

EXPECTED = (parkit.ParkitError, KeyError, TypeError, AttributeError, queue.Empty, ValueError)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 7


class Evil:
    """A codec of which the pickle, which is kept with an object that is created with it, runs code."""

    name = "evil"

    def __init__(self, folder: Path) -> None:
        self._payload = Payload(folder)

    def dumps(self, value: Any, /) -> bytes:
        return b"x"

    def loads(self, data: memoryview, /) -> Any:
        raise AssertionError("loaded")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """The folder that is there as soon as any code has run."""
    return tmp_path / "code-has-run"


def frames(trap: Path) -> dict[str, bytes]:
    """Return each kind of frame that loads as code."""
    payload = Payload(trap)
    plain = pickle.dumps(payload, 5)
    array = np.array([payload, 1], dtype=object)
    buffered = codecs.encode([np.arange(100), payload])
    return {
        "pickle": plain,
        "protocol 0": pickle.dumps(payload, 0),
        "cloudpickle": b"\1" + cloudpickle.dumps(payload),
        "pickle with buffers": buffered,
        "cloudpickle with buffers": b"\3" + buffered[1:],
        "objects in an array": codecs.encode(array),
        "behind a key": codecs.encode_keyed(payload, None, b"k" * 600, None),
        "as a key": codecs.key_frame(None, plain) + b"\4" + b"1",
        "named by a codec": codecs._encode_custom(Evil(trap), b"x"),
        "an exception": codecs.encode(failures.capture(ValueError("x")) | {"pickled": plain}),
    }


def environment(store: Path, namespace: str) -> Any:
    (folder,) = store.glob(f"{namespace}~*")
    return lmdb.open(str(folder), map_size=1 << 24)


def plant(store: Path, trap: Path, module: str) -> None:
    """Fill a limited namespace with objects, then put code wherever there is a place for it."""
    parkit.set_namespace_synchronous("safe", "off")
    parkit.set_namespace_codecs("safe", ["json", "raw"])
    d = parkit.Dict[Any, Any]("safe/d", codec=parkit.json_codec)
    log = parkit.Log[Any]("safe/log", codec=parkit.json_codec)
    q: parkit.Queue[Any] = parkit.Queue("safe/q", codec=parkit.json_codec)
    lifo: parkit.LifoQueue[Any] = parkit.LifoQueue("safe/lifo", codec=parkit.json_codec)
    for name in ("custom", "class", "evil"):
        parkit.Dict[Any, Any](f"safe/{name}", codec=parkit.json_codec)["k"] = 1
    every = frames(trap)
    for n, name in enumerate(every):
        d[name] = n
        d["long" * 200, n] = n
        log.append(n)
        q.put(n)
        lifo.put(n)
        setattr(d, f"a{n}", n)
    # A process, as it is when it was made in a namespace that was not limited yet.
    for n in range(2):
        parkit.set_namespace_codecs("safe", None)
        process = parkit.Process[Any](f"safe/p{n}", target=print)
        binding = process._bound()
        operation, *arguments = process._start(binding)
        binding.namespace.write_apart(operation, tuple(arguments))  # start(), without a pool
        parkit.set_namespace_codecs("safe", ["json", "raw"])
    pool_state.add_namespace(str(store), "safe")
    close_all()
    with environment(store, "safe") as opened, opened.begin(write=True) as transaction:
        names = {key[9:].decode(): layout.Entry.unpack(raw) for key, raw in transaction.cursor() if key.startswith(layout.directory_prefix())}
        for name in ("d", "log", "q", "lifo"):
            state = layout.State(transaction.get(layout.header_key(names[name].object_id)))
            for number, (key, _) in enumerate([each for each in transaction.cursor() if each[0].startswith(layout.data_prefix(state.range))]):
                transaction.put(key, list(every.values())[number % len(every)])
        for key in [key for key, _ in transaction.cursor() if key.startswith(layout.attribute_prefix(names["d"].object_id))]:
            transaction.put(key, every["pickle"])
        for n, status in enumerate(("submitted", "failed")):
            process_id = names[f"p{n}"].object_id
            transaction.put(layout.call_key(process_id), every["pickle"])
            transaction.put(layout.outcome_key(process_id), every["an exception"])
            run = process_ops.Run.unpack(transaction.get(layout.run_key(process_id)))
            transaction.put(layout.run_key(process_id), run._replace(status=status).pack())
        evil = base64.b64encode(pickle.dumps(Payload(trap), 5)).decode()
        for name, changed in {
            "custom": names["custom"]._replace(codec="evil", custom={"_codec": evil}),
            "class": names["class"]._replace(type=f"{module}.Class"),
            "evil": names["evil"]._replace(codec="pickle"),
        }.items():
            transaction.put(layout.directory_key(name), changed.pack())


Use = Callable[[Any], Any]


def uses_of(cls: type[Any]) -> list[Use]:
    """Return every way of using an object of a class."""
    if cls in (parkit.Queue, parkit.LifoQueue):
        return [
            lambda q: q.qsize(),
            lambda q: q.get_nowait(),
            lambda q: q.get_many(4),
            *[lambda q: q.get(timeout=0)] * 12,
            lambda q: q.dead_letters(),
        ]
    uses: list[Use] = [list, len, lambda thing: thing.descriptor, lambda thing: thing.attributes(), *map(attrgetter, ("a0", "a1", "a2"))]
    if cls is parkit.Log:
        uses += [*map(itemgetter, range(10)), itemgetter(slice(None)), itemgetter(slice(None, None, 3))]
        return [*uses, lambda log: log.index(1), lambda log: log.count(1), lambda log: list(reversed(log))]
    names = ["k", *frames(Path("unused"))]
    uses += [*map(itemgetter, names), *(itemgetter(("long" * 200, n)) for n in range(len(names)))]
    uses += [lambda d: list(d.items()), lambda d: list(d.values()), lambda d: list(d.keys()), lambda d: list(d.irange("a")), dict, repr]
    uses += [lambda d: d == {"k": 1}, lambda d: list(reversed(d.keys())), lambda d: d.pop("pickle"), lambda d: d.popitem()]
    return [*uses, lambda d: d.setdefault("cloudpickle", 1), lambda d: d.get("as a key")]


def look(cls: type[Any], path: str) -> list[Callable[[], Any]]:
    """Return every way of looking at an object: as it is, as views, and by a handle that comes out of a pickle."""

    def plain(use: Use) -> Any:
        return use(cls(path, create=False))

    def zero_copy(use: Use) -> Any:
        thing = cls(path, create=False)
        with parkit.snapshot(thing, zero_copy=True):
            return use(thing)

    def pickled(use: Use) -> Any:
        return use(pickle.loads(pickle.dumps(cls(path, create=False))))

    uses = uses_of(cls)
    views = [] if issubclass(cls, (parkit.Queue, parkit.LifoQueue)) else uses
    return [*(partial(plain, use) for use in uses), *(partial(zero_copy, use) for use in views), partial(pickled, list)]


MODULE = """
import os
os.mkdir({trap!r})

from parkit import Dict

class Class(Dict):
    pass
"""

NAMES = ("d", "log", "q", "lifo", "custom", "class", "evil", "p0", "p1")
COMMANDS = [
    *(["get", f"safe/{name}"] for name in NAMES),
    *(["get", "safe/d", *rest] for rest in (["pickle"], ["--attributes"], ["--json"])),
    *(["get", "safe/log", "3"], ["get", "safe/q", "0"], ["tail", "safe/log", "-n", "5"], ["logs", "safe/p1"]),
    *(["ls"], ["ls", "safe"], ["ls", "-a"], ["stat"], ["stat", "safe"], ["ps", "-a"], ["ps", "--json"], ["verify"], ["doctor"]),
]
OBJECTS: list[tuple[type[Any], str]] = [
    *((parkit.Dict, name) for name in ("d", "custom", "class", "evil")),
    *((parkit.Log, "log"), (parkit.Queue, "q"), (parkit.LifoQueue, "lifo")),
]


def test_nothing_is_run(store: Path, trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = "parkit_test_module_of_the_stores"
    (tmp_path / f"{module}.py").write_text(MODULE.format(trap=str(trap)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    plant(store, trap, module)
    pool = InlinePool(store)  # else whoever waits for a process would start one in other processes
    for command in COMMANDS:
        main(command)
        assert not trap.exists(), command
        assert "Traceback" not in capsys.readouterr().err, command
    for cls, name in OBJECTS:
        for number, call in enumerate(look(cls, f"safe/{name}")):
            try:
                call()
            except EXPECTED:
                pass
            assert not trap.exists(), (name, number)
    letters = parkit.Queue[Any]("safe/q", create=False).dead_letters()
    assert letters and not trap.exists()
    for n in range(2):
        process = parkit.Process[Any](f"safe/p{n}", create=False)
        uses: list[Use] = [*map(attrgetter, ("status", "result", "error", "output")), methodcaller("info"), methodcaller("get_result", 0)]
        for use in uses:
            try:
                use(process)
            except (*EXPECTED, TimeoutError):
                pass
            assert not trap.exists()
    assert [process.status for process in parkit.processes()]
    list(parkit.objects("safe"))
    asyncio.run(look_asynchronously())
    assert not trap.exists()
    # A worker takes nothing from there.
    other = parkit.Process("other/p", target=len, args=("abc",))
    other.start()
    assert other.get_result(timeout=20) == 3
    assert parkit.Process("safe/p0", create=False).status == "submitted"
    with pytest.raises(parkit.CodecError):
        parkit.Process("safe/p2", target=print)
    assert not pool.end()
    assert not trap.exists()
    assert module not in sys.modules


async def look_asynchronously() -> None:
    d: Any = await parkit_async.Dict("safe/d", create=False)
    log: Any = await parkit_async.Log("safe/log", create=False)
    q: Any = await parkit_async.Queue("safe/q", create=False)

    async def all_of(things: Any) -> list[Any]:
        return [thing async for thing in things]

    for call in (
        lambda: all_of(d),
        lambda: all_of(d.items()),
        lambda: d["cloudpickle"],
        lambda: d.get("objects in an array"),
        lambda: all_of(log),
        lambda: log[0],
        lambda: q.get_nowait(),
        lambda: q.dead_letters(),
    ):
        try:
            await call()
        except EXPECTED:
            pass


def test_without_the_limit_it_would_be(store: Path, trap: Path, tmp_path: Path) -> None:
    """A trap that never closes catches nothing."""
    closed = []
    for name, frame in frames(trap).items():
        d = parkit.Dict[str, Any]("open/d")
        d["k"] = 1
        close_all()
        with environment(store, "open") as opened, opened.begin(write=True) as transaction:
            (key,) = (key for key, _ in transaction.cursor() if key[8] == layout.DATA and key[:8] != bytes(8))
            transaction.put(key, frame)
        try:
            found = parkit.Dict[str, Any]("open/d")["k"]
            if name == "an exception":
                failures.restore(found)
        except parkit.CodecError:
            pass
        if trap.exists():
            closed.append(name)
            trap.rmdir()
        close_all()
    # Of the others one needs its class's codec, one is found by iterating, and what is not protocol 5 is no frame.
    buffered = ["pickle with buffers", "cloudpickle with buffers", "objects in an array"]
    assert closed == ["pickle", "cloudpickle", *buffered, "behind a key", "an exception"]


def test_keys_of_any_type_are_read_without_their_pickle(store: Path, trap: Path) -> None:
    # A key whose encoding does not give it back is stored with its pickle elsewhere. Here it comes back as the plain value that it equals, or not.
    parkit.set_namespace_codecs("safe", ["json"])
    d = parkit.Dict[Any, int]("safe/d", codec=parkit.json_codec)
    d[True] = 1
    d[2.0] = 2
    d["text"] = 3
    assert [type(key) for key in d if not isinstance(key, str)] == [int, int]
    assert d[True] == 1 and d[2] == 2
    d[Payload(trap)] = 4
    with pytest.raises(parkit.CodecError):
        list(d)
    assert d["text"] == 3 and not trap.exists()


def test_the_limit_can_be_lifted_and_is_kept_with_the_namespace(store: Path) -> None:
    parkit.set_namespace_codecs("safe", ["json"])
    close_all()
    (folder,) = store.glob("safe~*")
    (folder / "shared").unlink()  # it is in the data file, and the rest is made anew
    assert parkit.get_namespace_codecs("safe") == ["json"]
    close_all()
    with environment(store, "safe") as opened, opened.begin() as transaction:
        assert json.loads(transaction.get(layout.META_KEY))["codecs"] == ["json"]
