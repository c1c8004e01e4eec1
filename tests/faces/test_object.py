"""Objects: how they are opened, what they are called, their attributes and versions, and their end (SEMANTICS 3)."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import parkit
import parkit_async
from parkit_async._core.layout import directory_key
from parkit_async._core.registry import open_namespace
from tests.faces.face import FACES, Face, calls

KINDS = ("Dict", "Queue", "LifoQueue", "Log", "Object")


# Opening.


@pytest.mark.parametrize("kind", KINDS)
def test_open_or_create(face: Face, kind: str) -> None:
    first = getattr(face, kind)("ns/x")
    second = getattr(face, kind)("ns/x")
    assert first.uuid == second.uuid and first.exists and second.version == 0


@pytest.mark.parametrize("kind", KINDS)
def test_without_create_an_absent_path_is_ObjectNotFoundError(face: Face, kind: str) -> None:
    with pytest.raises(parkit.ObjectNotFoundError, match="ns/x"):
        getattr(face, kind)("ns/x", create=False)
    assert list(face.namespaces()) == []  # not even the namespace was made
    face.Object("ns/y")
    with pytest.raises(parkit.ObjectNotFoundError, match="ns/x"):
        getattr(face, kind)("ns/x", create=False)
    assert [path for path, _ in face.objects("ns")] == ["ns/y"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_bind_a_path_that_is_taken_is_ObjectExistsError(face: Face, kind: str) -> None:
    first = getattr(face, kind)("ns/x", bind=False)
    with pytest.raises(parkit.ObjectExistsError, match="ns/x"):
        getattr(face, kind)("ns/x", bind=False)
    assert getattr(face, kind)("ns/x", create=False).uuid == first.uuid


@pytest.mark.parametrize("kind", KINDS)
def test_neither_create_nor_bind_is_a_ValueError(face: Face, kind: str) -> None:
    with pytest.raises(ValueError, match="create"):
        getattr(face, kind)("ns/x", create=False, bind=False)
    assert list(face.namespaces()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_another_class_at_the_path_is_a_TypeError(face: Face, kind: str, other: str) -> None:
    getattr(face, kind)("ns/x")
    if kind == other:
        assert getattr(face, other)("ns/x").exists
    else:
        with pytest.raises(TypeError, match=f"holds a parkit.{kind}"):
            getattr(face, other)("ns/x")


def test_the_arguments_of_the_creation_win(face: Face) -> None:
    face.Dict("ns/d", versioned=False, codec=parkit.json_codec)
    d = face.Dict("ns/d", versioned=True, codec=parkit.pickle_codec)
    d["k"] = (1,)
    assert (d.version, d["k"], d.descriptor["versioned"], d.descriptor["codec"]) == (0, [1], False, "json")
    face.Queue("ns/q", maxsize=3)
    assert face.Queue("ns/q", maxsize=7).maxsize == 3


def test_both_faces_open_the_same_object(face: Face) -> None:
    d: parkit.Dict[str, str] = parkit.Dict("ns/d")
    d["k"] = "blocking"
    twin = face.Dict("ns/d", create=False)
    assert twin["k"] == "blocking" and twin.uuid == d.uuid
    twin["k"] = face.name
    assert d["k"] == face.name


# What an object is called.


def test_path_name_and_namespace(face: Face) -> None:
    d = face.Dict("a/b/c")
    assert (d.path, d.namespace, d.name) == ("a/b/c", "a/b", "c")
    d = face.Dict("plain")
    assert (d.path, d.namespace, d.name) == ("plain", "default", "plain")
    assert face.Dict("default/plain").uuid == d.uuid and face.Dict("default/plain").path == "plain"
    assert repr(d) == f"<{face.module.__name__}.Dict 'plain'>"


def test_a_descriptor_tells_what_an_object_is(face: Face) -> None:
    before = datetime.now(UTC)
    d = face.Dict("ns/d")
    descriptor = d.descriptor
    assert {"type", "uuid", "versioned", "created", "custom"} <= descriptor.keys()
    assert (descriptor["type"], descriptor["uuid"], descriptor["versioned"], descriptor["custom"]) == ("parkit.Dict", d.uuid, True, {})
    created = datetime.fromisoformat(descriptor["created"])
    assert created.utcoffset() == timedelta(0) and before <= created <= datetime.now(UTC)
    assert dict(face.objects("ns"))["ns/d"] == descriptor


# Attributes.


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_persistent_and_shared(face: Face, kind: str) -> None:
    x = getattr(face, kind)("ns/x")
    x.colour = {"red": 1}
    x.set_attribute("size", 2)
    twin = getattr(face, kind)("ns/x")
    assert twin.colour == {"red": 1} == twin.get_attribute("colour") and twin.size == 2
    assert twin.attributes() == ["colour", "size"]
    del twin.size
    twin.delete_attribute("colour")
    assert x.attributes() == []


def test_an_absent_attribute_is_an_AttributeError(face: Face) -> None:
    o = face.Object("ns/o")
    for call in calls(lambda: o.nope, lambda: o.get_attribute("nope"), lambda: o.delete_attribute("nope"), lambda: delattr(o, "nope")):
        with pytest.raises(AttributeError, match="nope"):
            call()
    assert getattr(o, "nope", 7) == 7 and o.version == 0


def test_attributes_do_not_mix_with_content(face: Face) -> None:
    d = face.Dict("ns/d")
    d["k"] = 1
    d.k = 2
    d.clear()
    assert d.k == 2 and len(d) == 0
    del d.k
    assert "k" not in d


def test_an_attribute_beginning_with_an_underscore_is_local(face: Face) -> None:
    o = face.Object("ns/o")
    face.raw(o)._note = "mine"
    twin = face.Object("ns/o")
    assert face.raw(o)._note == "mine" and not hasattr(face.raw(twin), "_note")
    assert o.attributes() == [] and o.version == 0
    with pytest.raises(AttributeError, match="underscore"):
        o.set_attribute("_note", 1)


def test_an_attribute_that_the_class_defines_is_local(face: Face) -> None:
    class Counter(face.module.Object):  # type: ignore[name-defined, misc]
        step = 1

    c = face.open(Counter, "ns/c")
    c.step = 5
    c.total = 7
    twin = face.open(Counter, "ns/c")
    assert (c.step, twin.step, twin.total, c.attributes()) == (5, 1, 7, ["total"])


def test_names_that_the_class_defines_and_that_only_read_cannot_be_set(face: Face) -> None:
    o = face.Object("ns/o")
    for name in ("version", "uuid", "exists", "path"):
        with pytest.raises(AttributeError):
            setattr(o, name, 1)
    assert o.attributes() == []


def test_an_attribute_of_the_awaitable_face_cannot_be_assigned() -> None:
    o = parkit_async.Object("ns/o")
    with pytest.raises(AttributeError, match="set_attribute"):
        o.colour = 1
    with pytest.raises(AttributeError, match="delete_attribute"):
        del o.colour


def test_what_does_not_pickle_is_no_attribute(face: Face) -> None:
    o = face.Object("ns/o")
    with pytest.raises(TypeError, match="generator"):
        o.set_attribute("x", (number for number in range(2)))
    assert (o.attributes(), o.version) == ([], 0)


@pytest.mark.parametrize("name", ["é", "x" * 256, "with space"])
def test_an_attribute_may_have_any_name_that_fits(face: Face, name: str) -> None:
    o = face.Object("ns/o")
    o.set_attribute(name, 1)
    assert o.attributes() == [name] and o.get_attribute(name) == 1


def test_the_name_of_an_attribute_that_is_too_long_is_refused(face: Face) -> None:
    o = face.Object("ns/o")
    with pytest.raises(AttributeError, match="256"):
        o.set_attribute("x" * 257, 1)
    with pytest.raises(AttributeError):
        o.get_attribute("x" * 5000)
    with pytest.raises(AttributeError):
        o.delete_attribute("x" * 5000)
    assert o.version == 0


# Versions.


def test_version_starts_at_0_and_counts_transactions_that_changed_the_object(face: Face) -> None:
    d = face.Dict("ns/d")
    assert d.version == 0
    d["a"] = 1
    assert d.version == 1
    d.note = 1
    assert d.version == 2
    with face.transaction(d):
        d["b"] = 2
        d["c"] = 3
        d.note = 2
    assert d.version == 3
    assert (d["a"], len(d), d.version) == (1, 3, 3)


def test_an_unversioned_object_stays_at_0(face: Face) -> None:
    d = face.Dict("ns/d", versioned=False)
    d["a"] = 1
    d.note = 2
    assert (d.version, d["a"]) == (0, 1)
    with pytest.raises(ValueError, match="versioned"):
        d.wait_changed(0, timeout=0)


# The end.


@pytest.mark.parametrize("kind", KINDS)
def test_drop_removes_state_attributes_and_all(face: Face, kind: str) -> None:
    x, twin = getattr(face, kind)("ns/x"), getattr(face, kind)("ns/x")
    x.note = 1
    x.drop()
    for handle in (x, twin):
        assert handle.exists is False
        for call in calls(
            lambda h=handle: h.version,
            lambda h=handle: h.note,
            lambda h=handle: h.set_attribute("note", 2),
            lambda h=handle: h.drop(),
            lambda h=handle: h.attributes(),
        ):
            with pytest.raises(parkit.ObjectNotFoundError, match="ns/x"):
                call()
    assert list(face.objects("ns")) == []
    again = getattr(face, kind)("ns/x")
    assert again.attributes() == [] and again.version == 0 and again.uuid != x.uuid
    assert x.exists is False  # the handle does not mean the new one
    with pytest.raises(parkit.ObjectNotFoundError):
        x.set_attribute("note", 3)
    assert again.attributes() == []


def test_every_call_of_a_handle_to_a_dropped_object_fails(face: Face) -> None:
    d, q, log = face.Dict("ns/d"), face.Queue("ns/q"), face.Log("ns/log")
    d.update({"a": 1})
    q.put(1)
    log.append(1)
    for x in (d, q, log):
        x.drop()
    every = calls(
        lambda: d["a"], lambda: d.get("a"), lambda: d.set("a", 1), lambda: d.delete("a"), lambda: "a" in d, lambda: len(d), lambda: list(d),
        lambda: list(d.items()), lambda: d.pop("a"), d.popitem, lambda: d.setdefault("a", 1), lambda: d.update(a=1), d.clear,
        lambda: list(d.irange()),
        lambda: q.put(1), q.get, q.get_nowait, lambda: q.put_many([1]), lambda: q.get_many(1), q.qsize, q.empty, q.full, lambda: q.maxsize,
        lambda: q.set_maxsize(1), q.task_done, q.join, q.shutdown, lambda: q.is_shutdown, q.clear, q.dead_letters,
        lambda: log.append(1), lambda: log.extend([1]), log.clear, lambda: log[0], lambda: log[:], lambda: len(log), lambda: list(log),
        lambda: log.index(1), lambda: log.count(1), lambda: log.wait(), lambda: next(iter(log.follow())), lambda: log.wait_changed(0),
    )  # fmt: skip
    for call in every:
        with pytest.raises(parkit.ObjectNotFoundError):
            call()
    assert list(face.objects("ns")) == []


def test_drop_of_a_large_object(face: Face) -> None:
    d = face.Dict("ns/d")
    d.update({number: number for number in range(3000)})
    d.drop()
    again = face.Dict("ns/d")
    assert len(again) == 0 and list(again) == []


def test_dropping_wakes_who_waits_for_a_change(face: Face) -> None:
    o = face.Object("ns/o")
    job = face.start(o.wait_changed, 0)
    face.until_waiting(o)
    o.drop()
    with pytest.raises(parkit.ObjectNotFoundError):
        job.result()


# Comparison.


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "Log", "Object"])
def test_objects_compare_by_identity_of_state_and_hash(face: Face, kind: str) -> None:
    make = getattr(face, kind)
    a, b, other = make("ns/x"), make("ns/x"), make("ns/y")
    assert a == b and hash(a) == hash(b) and a != other and a != "ns/x"
    assert face.clone(a) == a


def test_an_object_equals_itself_seen_through_the_other_face(face: Face) -> None:
    o = face.Object("ns/o")
    twin = parkit.Object("ns/o")
    assert o == twin and hash(o) == hash(twin)


# Pickling.


@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_pickles_as_class_path_and_uuid(face: Face, kind: str) -> None:
    x = getattr(face, kind)("ns/x")
    x.note = 1
    twin = face.clone(x)
    assert twin.note == 1 and twin.uuid == x.uuid and type(face.raw(twin)) is type(face.raw(x))


def test_an_object_whose_entry_is_gone_is_damaged_and_its_neighbours_are_not(face: Face) -> None:
    d, other = face.Dict("ns/d"), face.Dict("ns/other")
    other["k"] = 1
    with open_namespace("ns").engine.begin_write() as transaction:
        transaction.delete(directory_key("d"))
    with pytest.raises(face.TransactionError, match=r"directory is damaged.*restore the namespace from a backup"):
        calls(lambda: d.descriptor)[0]()
    assert other.descriptor["uuid"] == other.uuid and other["k"] == 1


def test_a_handle_to_a_dropped_object_unpickles_and_fails_on_use(face: Face) -> None:
    d = face.Dict("ns/d")
    data = pickle.dumps(face.raw(d))
    d.drop()
    twin = face.wrap(pickle.loads(data))
    assert (twin.path, twin.exists) == ("ns/d", False)
    with pytest.raises(parkit.ObjectNotFoundError):
        twin["k"]
    face.Dict("ns/d")  # another object at the path is not the one that was meant
    twin = face.wrap(pickle.loads(data))
    assert twin.exists is False
    with pytest.raises(parkit.ObjectNotFoundError):
        twin.set("k", 1)


def test_a_handle_can_be_a_value(face: Face) -> None:
    d, q = face.Dict("ns/d"), face.Queue("ns/q")
    q.put("item")
    d.set("queue", q)
    assert d["queue"].get() == "item"


def test_copying_a_handle_copies_no_state(face: Face) -> None:
    d = face.raw(face.Dict("ns/d"))
    assert copy.copy(d) is d and copy.deepcopy(d) is d


def _put(q: Any, item: Any) -> None:
    q.put(item)


@pytest.mark.processes
def test_a_handle_travels_to_another_process() -> None:
    q: parkit.Queue[int] = parkit.Queue("ns/q")
    process = multiprocessing.get_context("spawn").Process(target=_put, args=(q, 7))
    process.start()
    assert q.get(timeout=30) == 7
    process.join(30)
    assert process.exitcode == 0
    process.close()


# Subclasses.


class Prices(parkit.Dict[str, int]):
    """A subclass with neither ``__init__`` nor state."""

    currency = "EUR"

    def total(self) -> int:
        return sum(self.values())


def test_a_subclass_without___init___opens_like_its_base(face: Face) -> None:
    class Stack(face.module.Log):  # type: ignore[name-defined, misc]
        pass

    s = face.open(Stack, "ns/s", create=True, bind=True, versioned=False)
    s.append(1)
    assert list(face.open(Stack, "ns/s", create=False)) == [1] and s.version == 0
    with pytest.raises(parkit.ObjectExistsError):
        face.open(Stack, "ns/s", bind=False)
    with pytest.raises(TypeError, match="Stack"):
        face.Log("ns/s")
    assert s.descriptor["type"].endswith("Stack")


def test_a_subclass_with___init___calls_that_of_its_base(face: Face) -> None:
    class Counter(face.module.Dict):  # type: ignore[name-defined, misc]
        def __init__(self, path: str, /, *, step: int) -> None:
            super().__init__(path, versioned=False)
            self._step = step

    c = face.open(Counter, "ns/c", step=3)
    c["n"] = c._step
    assert c["n"] == 3 and c.version == 0 and c.attributes() == []


def test_a_subclass_pickles() -> None:
    prices = Prices("ns/prices")
    prices["apple"] = 3
    twin = pickle.loads(pickle.dumps(prices))
    assert type(twin) is Prices and twin.total() == 3 and twin.currency == "EUR"


def test_a_class_is_no_other_class_of_the_same_base(face: Face) -> None:
    class A(face.module.Dict):  # type: ignore[name-defined, misc]
        pass

    class B(face.module.Dict):  # type: ignore[name-defined, misc]
        pass

    face.open(A, "ns/x")
    with pytest.raises(TypeError, match="holds a"):
        face.open(B, "ns/x")


def test_the_faces_are_tested_under_every_loop() -> None:
    assert FACES == ("blocking", "asyncio", "uvloop")
