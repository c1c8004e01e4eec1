"""Bad input of every kind in SEMANTICS 2 to 4: a clear error, and nothing changed. And the tree of exceptions."""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import copy
import os
import pickle
import queue
from pathlib import Path
from typing import Any

import pytest

import parkit
import parkit_async
from parkit_async._core.registry import close_all
from tests.faces.face import Face, calls

BAD_PATHS = [
    "", "/", "/x", "x/", "a//b", ".", "..", "a/../b", "../x", "./x", "a/.", "a\0b", "a\nb", "\x1b", "a\x7f", "\x85", "x" * 129, "ns/" + "x" * 129,
    "x" * 129 + "/n", "__x__", "ns/__x__", "__x__/n", "a/__hidden__/b", "\ud800",
]  # fmt: skip
GOOD_PATHS = [
    "x",
    "ns/x",
    "a/b/c/d",
    "x" * 128,
    "ns/" + "é" * 128,
    "with space/and.dot",
    "a:b",
    "...",
    "..a",
    "__x",
    "x__",
    "____",
    "_",
    "~",
    "CON",
    "ns/\N{HEAVY BLACK HEART}",
    "a\\b",
]


def nothing_was_made(store: Path) -> bool:
    return not [entry for entry in os.listdir(store) if "~" in entry]


# Paths.


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
@pytest.mark.parametrize("kind", ["Dict", "Queue"])
def test_a_bad_path_is_a_ValueError_that_names_the_rule(face: Face, store: Path, kind: str, path: str) -> None:
    with pytest.raises(ValueError, match="is not a path: its segment"):
        getattr(face, kind)(path)
    assert nothing_was_made(store)


@pytest.mark.parametrize("path", [None, 7, b"ns/x", Path("ns/x"), ["ns", "x"]])
def test_a_path_that_is_no_str_is_a_TypeError(face: Face, store: Path, path: Any) -> None:
    with pytest.raises(TypeError, match="path is a str"):
        face.Dict(path)
    assert nothing_was_made(store)


@pytest.mark.parametrize("path", GOOD_PATHS, ids=ascii)
def test_a_good_path_is_kept_as_it_is(face: Face, store: Path, path: str) -> None:
    d = face.Dict(path)
    d["k"] = path
    close_all()
    assert face.Dict(path, create=False)["k"] == path and d.path == path
    namespace = path.rpartition("/")[0] or "default"
    assert list(face.namespaces()) == [namespace] and [found for found, _ in face.objects(namespace)] == [path]
    assert all(entry.parent == store for entry in store.iterdir())


@pytest.mark.parametrize(
    "call", ["objects", "get_namespace_size", "get_namespace_synchronous", "get_namespace_codecs", "statistics", "transaction", "snapshot"]
)
@pytest.mark.parametrize("name", ["", "a//b", "..", "__x__", "a\0", "x" * 129], ids=ascii)
def test_a_bad_namespace_is_a_ValueError_everywhere(face: Face, store: Path, call: str, name: str) -> None:
    with pytest.raises(ValueError, match="is not a namespace"):
        result = getattr(face, call)(name)
        if call == "objects":
            list(result)
        elif call in {"transaction", "snapshot"}:
            with result:
                pass
    assert nothing_was_made(store)


@pytest.mark.parametrize(
    ("left", "right"), [("A/x", "a/x"), ("é/x", "e\u0301/x"), ("a b/x", "a-b/x"), ("a/b/x", "a-b/x"), ("a" * 128 + "/x", "a" * 127 + "/x")]
)
def test_no_two_namespaces_collide(face: Face, left: str, right: str) -> None:
    face.Dict(left)["k"] = "left"
    face.Dict(right)["k"] = "right"
    assert (face.Dict(left)["k"], face.Dict(right)["k"]) == ("left", "right")
    assert len(list(face.namespaces())) == 2


def test_names_that_look_alike_are_different_objects(face: Face) -> None:
    for name in ("x", "X", "x ", "é", "e\u0301"):
        face.Dict(f"ns/{name}")["k"] = name
    assert [face.Dict(path)["k"] for path, _ in face.objects("ns")] == sorted(["x", "X", "x ", "é", "e\u0301"])


# Arguments.


@pytest.mark.parametrize("kind", ["Dict", "Queue", "LifoQueue", "Log", "Object"])
def test_only_the_path_is_positional(face: Face, kind: str) -> None:
    cls = getattr(face.module, kind)
    with pytest.raises(TypeError):
        cls("ns/x", True)
    with pytest.raises(TypeError):
        cls(path="ns/x")
    with pytest.raises(TypeError):
        cls("ns/x", unknown=1)
    with pytest.raises(TypeError):
        cls()


def test_methods_refuse_wrong_arguments_and_change_nothing(face: Face) -> None:
    d, q, log = face.Dict("ns/d"), face.Queue("ns/q"), face.Log("ns/log")
    for call in calls(
        lambda: d.update(7), lambda: d.update([1]), lambda: d.update([("a",)]), lambda: d.update([("a", 1, 2)]), lambda: d.update({}, {}),
        lambda: d.get(), lambda: d.pop(), lambda: q.put(), lambda: q.put_many(7), lambda: log.extend(7), lambda: log.append(), lambda: log.wait("7"),
        lambda: q.get(timeout="7"), lambda: d.wait_changed(0, timeout="7"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            call()
    assert [x.version for x in (d, q, log)] == [0, 0, 0]


def test_a_timeout_may_be_infinite(face: Face) -> None:
    q = face.Queue("ns/q")
    job = face.start(q.get, timeout=float("inf"))
    face.until_waiting(q)
    q.put(1)
    assert job.result() == 1


@pytest.mark.parametrize("timeout", [float("nan"), -0.1, -1])
def test_a_timeout_that_is_no_span_of_time_is_a_ValueError(face: Face, timeout: float) -> None:
    q, log = face.Queue("ns/q"), face.Log("ns/log")
    for call in calls(lambda: q.get(timeout=timeout), lambda: log.wait(timeout=timeout), lambda: log.wait_changed(0, timeout=timeout)):
        with pytest.raises(ValueError, match="timeout"):
            call()


# Stores.


def test_a_store_that_others_may_write_to_is_refused_and_left_alone(face: Face, tmp_path: Path) -> None:
    store = tmp_path / "open"
    store.mkdir()
    store.chmod(0o777)
    face.set_storage_path(store)
    with pytest.raises(parkit.StoragePathError, match="chmod"):
        face.Dict("ns/d")
    assert list(store.iterdir()) == []


def test_a_store_that_is_a_file_is_refused_and_left_alone(face: Face, tmp_path: Path) -> None:
    store = tmp_path / "file"
    store.write_text("mine")
    face.set_storage_path(store)
    with pytest.raises(parkit.StoragePathError, match="file"):
        face.Dict("ns/d")
    assert store.read_text() == "mine"


def test_a_new_store_has_mode_0700(face: Face, tmp_path: Path) -> None:
    store = tmp_path / "new" / "store"
    face.set_storage_path(store)
    assert face.get_storage_path() == str(store) and list(face.namespaces()) == [] and list(face.objects("ns")) == [] and not store.exists()
    face.Dict("ns/d")
    assert {folder.stat().st_mode & 0o777 for folder in [store, *store.rglob("*")] if folder.is_dir()} == {0o700}


@pytest.mark.parametrize("path", ["", "a\0b", b"bytes", 7, None])
def test_what_is_no_storage_path_is_refused(face: Face, store: Path, path: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        face.set_storage_path(path)
    assert face.get_storage_path() == str(store)


def test_objects_stay_on_the_store_they_were_opened_in(face: Face, store: Path, tmp_path: Path) -> None:
    d = face.Dict("ns/d")
    d["k"] = "first"
    face.set_storage_path(tmp_path / "second")
    assert list(face.namespaces()) == [] and d["k"] == "first"
    other = face.Dict("ns/d")
    other["k"] = "second"
    assert (d["k"], other["k"], face.clone(d)["k"]) == ("first", "second", "first")
    face.set_storage_path(store)
    assert face.Dict("ns/d")["k"] == "first"


def test_however_a_store_is_spelled_it_is_one(face: Face, store: Path) -> None:
    d = face.Dict("ns/d")
    link = store.parent / "link"
    link.symlink_to(store)
    face.set_storage_path(link)
    twin = face.Dict("ns/d")
    with face.transaction(d):
        twin["k"] = 1
    assert d["k"] == 1 and face.raw(d)._binding.namespace is face.raw(twin)._binding.namespace


def test_a_torn_data_file_is_refused_and_left_alone(face: Face, store: Path) -> None:
    d = face.Dict("ns/d")
    d.update(dict.fromkeys(range(500), "x" * 500))
    close_all()
    (file,) = store.glob("*/data.mdb")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    torn = file.read_bytes()
    with pytest.raises(parkit.StoragePathError, match=r"damaged|cut off"):
        face.Dict("ns/d")
    assert file.read_bytes() == torn


@pytest.mark.parametrize("content", [b"garbage" * 2000, bytes(1 << 20)], ids=["garbage", "zeros"])
def test_a_data_file_that_is_none_is_refused_and_left_alone(face: Face, store: Path, content: bytes) -> None:
    face.Dict("ns/d")
    close_all()
    (file,) = store.glob("*/data.mdb")
    file.write_bytes(content)
    with pytest.raises(parkit.StoragePathError):
        face.Dict("ns/d")
    assert file.read_bytes() == content


def test_a_newer_format_is_refused_and_left_alone(face: Face, store: Path) -> None:
    from parkit_async._core.engine import Engine
    from parkit_async._core.layout import FORMAT_VERSION, META_KEY, Meta

    face.Dict("ns/d")["k"] = 1
    close_all()
    (file,) = store.glob("*/data.mdb")
    engine = Engine(file.parent, "full", 1 << 30)
    with engine.begin_write() as transaction:
        meta = Meta.unpack(transaction.get(META_KEY))
        meta.format = FORMAT_VERSION + 1
        transaction.put(META_KEY, meta.pack())
    engine.close()
    before = file.read_bytes()
    with pytest.raises(parkit.StoragePathError, match=r"newer parkit.*upgrade"):
        face.Dict("ns/d")
    assert file.read_bytes() == before


# Exceptions.


def test_the_exceptions_are_one_tree(face: Face) -> None:
    tree = {
        "ParkitError": Exception, "TransactionError": parkit.ParkitError, "ContextError": parkit.ParkitError, "ObjectExistsError": parkit.ParkitError,
        "ObjectNotFoundError": parkit.ParkitError, "StoragePathError": parkit.ParkitError, "NamespaceFullError": parkit.TransactionError,
        "CodecError": parkit.TransactionError,
    }  # fmt: skip
    for name, base in tree.items():
        cls = getattr(face.module, name)
        assert cls is getattr(parkit, name) and cls.__bases__ == (base,)


@pytest.mark.parametrize(
    "error",
    [
        parkit.NamespaceFullError("full", "ns", 7, 8, 9.5), parkit.CodecError("bad", "ns/d", ("k", 1)), parkit.TransactionError("t"),
        parkit.ContextError("c"), parkit.ObjectNotFoundError("n"), parkit.ObjectExistsError("e"), parkit.StoragePathError("s"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_exceptions_pickle_and_copy_with_all_they_say(error: Exception) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error) and str(twin) == str(error) and vars(twin) == vars(error)


def test_the_queue_exceptions_of_the_awaitable_face_derive_from_both() -> None:
    import asyncio

    assert issubclass(parkit_async.QueueEmpty, asyncio.QueueEmpty) and issubclass(parkit_async.QueueEmpty, queue.Empty)
    assert issubclass(parkit_async.QueueFull, asyncio.QueueFull) and issubclass(parkit_async.QueueFull, queue.Full)
    assert issubclass(parkit_async.QueueShutDown, parkit.ShutDown)
    for cls in (parkit_async.QueueEmpty, parkit_async.QueueFull, parkit_async.QueueShutDown):
        assert type(pickle.loads(pickle.dumps(cls()))) is cls
