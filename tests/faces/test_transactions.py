"""Transactions and snapshots (SEMANTICS 5): what is joined, undone, kept, seen and refused."""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

import parkit
from parkit_async._core.namespace import Namespace
from parkit_async._core.ownership import contexts
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Writing
from tests.faces.face import Face, calls

LARGE = bytes(5000)


class Failed(Exception):
    """What a test raises inside a block."""


class Breaks:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> Any:
        return _broken, ("value",)


def _broken(text: str) -> Any:
    raise RuntimeError(f"cannot load {text}")


@pytest.fixture
def d(face: Face) -> Any:
    return face.Dict("ns/d")


def content(d: Any) -> dict[Any, Any]:
    return dict(d.items())


# All or nothing.


def test_what_is_done_inside_takes_effect_together(face: Face, d: Any) -> None:
    log, q = face.Log("ns/log"), face.Queue("ns/q")
    with face.transaction(d):
        d["a"] = 1
        log.append("a")
        q.put("a")
        assert face.elsewhere(lambda: (len(d), len(log), q.qsize())) == (0, 0, 0)
        assert (d["a"], log[0], q.qsize()) == (1, "a", 1)  # its own changes are seen inside
    assert face.elsewhere(lambda: (len(d), len(log), q.qsize())) == (1, 1, 1)


def test_an_exception_rolls_back_everything_and_propagates_unchanged(face: Face, d: Any) -> None:
    log, q, o = face.Log("ns/log"), face.Queue("ns/q"), face.Object("ns/o")
    d["a"], o.note = 1, 1
    log.append(1)
    q.put(1)
    versions = [x.version for x in (d, log, q, o)]
    error = Failed("mine")
    with pytest.raises(Failed) as caught:
        with face.transaction(d):
            d["a"] = 2
            d.update({"b": 2, "c": 3})
            d.clear()
            d.set("e", 5)
            log.extend([2, 3])
            q.put(2)
            assert q.get() == 1
            q.task_done()
            q.shutdown()
            q.set_maxsize(1)
            o.note = 2
            o.other = 3
            raise error
    assert caught.value is error and error.__cause__ is None
    assert content(d) == {"a": 1} and list(log) == [1] and (o.note, o.attributes()) == (1, ["note"])
    assert (q.qsize(), q.maxsize, q.is_shutdown, q.join(timeout=0)) == (1, 0, False, False)
    assert [x.version for x in (d, log, q, o)] == versions


def test_an_exception_caught_inside_does_not_end_the_transaction(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["a"] = 1
        with pytest.raises(KeyError):
            d["nope"]
        with pytest.raises(KeyError):
            d.delete("nope")
        with pytest.raises(TypeError):
            d.set([], 1)
        with pytest.raises(TypeError):
            d.set("generator", (number for number in range(2)))
        d["b"] = 2
    assert content(d) == {"a": 1, "b": 2}


def test_a_namespace_may_be_named_instead_of_an_object(face: Face, d: Any) -> None:
    with face.transaction("ns"):
        d["a"] = 1
        assert face.elsewhere(lambda: len(d)) == 0
    plain = face.Dict("plain")
    with pytest.raises(Failed):
        with face.transaction("default"):
            plain["a"] = 1
            raise Failed
    assert len(d) == 1 and len(plain) == 0


def test_a_context_manager_can_be_used_again(face: Face, d: Any) -> None:
    context = face.transaction(d)
    for number in range(3):
        with context:
            d[number] = number
            with context:
                d[-number] = number
    assert len(d) == 5 and d.version == 3


# Joining.


def test_a_nested_transaction_joins_the_outer_one(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["a"] = 1
        with face.transaction("ns"):
            assert d["a"] == 1
            d["b"] = 2
        assert face.elsewhere(lambda: len(d)) == 0  # the inner end committed nothing
    assert content(d) == {"a": 1, "b": 2} and d.version == 1


def test_an_exception_that_leaves_the_inner_block_undoes_nothing_by_itself(face: Face, d: Any) -> None:
    with face.transaction(d):
        with pytest.raises(Failed):
            with face.transaction(d):
                d["a"] = 1
                raise Failed
        assert d["a"] == 1
    assert content(d) == {"a": 1}


def test_the_outer_rollback_takes_the_joined_block_with_it(face: Face, d: Any) -> None:
    with pytest.raises(Failed):
        with face.transaction(d):
            with face.transaction(d):
                d["a"] = 1
            raise Failed
    assert len(d) == 0


# Savepoints.


def test_a_savepoint_that_fails_undoes_its_own_changes_alone(face: Face, d: Any) -> None:
    q = face.Queue("ns/q")
    with face.transaction(d):
        d["a"] = 1
        q.put(1)
        with pytest.raises(Failed):
            with face.transaction(d, isolated=True):
                d["a"] = 2
                d["b"] = 2
                assert q.get() == 1
                q.put_many([2, 3])
                raise Failed
        assert content(d) == {"a": 1} and q.qsize() == 1
        d["c"] = 3
    assert content(d) == {"a": 1, "c": 3} and q.get_many(5) == [1]
    assert (d.version, q.version) == (1, 2)


def test_a_savepoint_that_succeeds_is_kept(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["a"] = 1
        with face.transaction(d, isolated=True):
            d["b"] = 2
            assert face.elsewhere(lambda: len(d)) == 0
        assert content(d) == {"a": 1, "b": 2}
    assert content(d) == {"a": 1, "b": 2} and d.version == 1


def test_a_savepoint_does_not_outlive_the_outer_rollback(face: Face, d: Any) -> None:
    with pytest.raises(Failed):
        with face.transaction(d):
            with face.transaction(d, isolated=True):
                d["a"] = 1
            raise Failed
    assert (len(d), d.version) == (0, 0)


def test_an_isolated_transaction_on_its_own_is_an_ordinary_one(face: Face, d: Any) -> None:
    with face.transaction(d, isolated=True):
        d["a"] = 1
    with pytest.raises(Failed):
        with face.transaction(d, isolated=True):
            d["b"] = 1
            raise Failed
    assert content(d) == {"a": 1}


@pytest.mark.parametrize("fails", range(8))
def test_nested_savepoints_each_undo_their_own(face: Face, d: Any, fails: int) -> None:
    outer, middle, inner = bool(fails & 4), bool(fails & 2), bool(fails & 1)

    def level(name: str, fail: bool, then: Any) -> None:
        try:
            with face.transaction(d, isolated=True):
                d[name] = 1
                then()
                d[name + "+"] = 1
                if fail:
                    raise Failed
        except Failed:
            pass

    with face.transaction(d):
        d["0"] = 1
        level("1", outer, lambda: level("2", middle, lambda: level("3", inner, lambda: None)))
    kept = {"0"}
    if not outer:
        kept |= {"1", "1+"}
        if not middle:
            kept |= {"2", "2+"}
            if not inner:
                kept |= {"3", "3+"}
    assert set(d) == kept and len(d) == len(kept)


def test_what_a_savepoint_cleared_or_dropped_is_back_when_it_fails(face: Face, d: Any) -> None:
    log = face.Log("ns/log")
    d.update({number: number for number in range(1500)})
    log.extend(range(1500))
    with face.transaction(d):
        for change in (d.clear, log.clear, d.drop, log.drop):
            with pytest.raises(Failed):
                with face.transaction(d, isolated=True):
                    change()
                    raise Failed
            assert (len(d), len(log), d[1499], log[1499]) == (1500, 1500, 1499, 1499)
    assert (len(d), len(log), d.version, log.version) == (1500, 1500, 1, 1)


def test_a_joined_block_inside_a_savepoint_belongs_to_it(face: Face, d: Any) -> None:
    with face.transaction(d):
        with pytest.raises(Failed):
            with face.transaction(d, isolated=True):
                with face.transaction(d):
                    d["a"] = 1
                raise Failed
        assert len(d) == 0


# Objects that come and go.


def test_an_object_created_in_a_transaction_that_rolls_back_does_not_exist(face: Face, d: Any) -> None:
    with pytest.raises(Failed):
        with face.transaction(d):
            new = face.Dict("ns/new")
            new["a"] = 1
            new.note = 1
            assert new.exists and new["a"] == 1
            raise Failed
    assert new.exists is False
    for call in calls(lambda: new["a"], lambda: new.set("a", 1), lambda: new.note, lambda: len(new)):
        with pytest.raises(parkit.ObjectNotFoundError, match="rolled back"):
            call()
    assert [path for path, _ in face.objects("ns")] == ["ns/d"]
    again = face.Queue("ns/new")  # of any class
    assert again.qsize() == 0 and again.attributes() == [] and new.exists is False


def test_an_object_created_in_a_transaction_is_seen_by_others_once_it_is_committed(face: Face, d: Any) -> None:
    with face.transaction(d):
        face.Dict("ns/new").set("a", 1)
        with pytest.raises(parkit.ObjectNotFoundError):
            face.elsewhere(lambda: face.Dict("ns/new", create=False))
        assert [path for path, _ in face.objects("ns")] == ["ns/d", "ns/new"]
        assert face.elsewhere(lambda: [path for path, _ in face.objects("ns")]) == ["ns/d"]
    assert face.elsewhere(lambda: face.Dict("ns/new", create=False)["a"]) == 1


def test_a_dropped_object_exists_again_after_a_rollback(face: Face, d: Any) -> None:
    d.update({number: number for number in range(1500)})
    d.note = "kept"
    uuid, version = d.uuid, d.version
    with pytest.raises(Failed):
        with face.transaction(d):
            d.drop()
            assert d.exists is False
            with pytest.raises(parkit.ObjectNotFoundError):
                d.set("a", 1)
            raise Failed
    assert d.exists and (len(d), d[7], d.note, d.uuid, d.version) == (1500, 7, "kept", uuid, version)


def test_dropped_and_created_again_in_one_transaction(face: Face, d: Any) -> None:
    d["old"] = 1
    with face.transaction(d):
        d.drop()
        new = face.Dict("ns/d")
        new["new"] = 1
        assert not d.exists
    assert content(new) == {"new": 1} and not d.exists and new.uuid != d.uuid


def test_created_and_dropped_in_one_transaction(face: Face, d: Any) -> None:
    with face.transaction(d):
        new = face.Log("ns/new")
        new.append(1)
        new.drop()
    assert not new.exists and [path for path, _ in face.objects("ns")] == ["ns/d"]


def test_an_object_created_in_a_failed_savepoint_does_not_exist(face: Face, d: Any) -> None:
    with face.transaction(d):
        with pytest.raises(Failed):
            with face.transaction(d, isolated=True):
                new = face.Dict("ns/new")
                new["a"] = 1
                raise Failed
        assert not new.exists
        d["a"] = 1
    assert not new.exists and content(d) == {"a": 1}


# Versions.


def test_a_transaction_is_one_version_of_each_object_it_changed(face: Face, d: Any) -> None:
    log, untouched = face.Log("ns/log"), face.Dict("ns/untouched")
    with face.transaction(d):
        before = d.version
        d["a"] = 1
        d["b"] = 2
        log.append(1)
        assert len(untouched) == 0
    assert before == 0
    assert (d.version, log.version, untouched.version) == (1, 1, 0)


def test_a_transaction_that_changes_nothing_leaves_the_versions_alone(face: Face, d: Any) -> None:
    d["a"] = 1
    with face.transaction(d):
        assert d["a"] == 1
        d.get("nope")
        d.pop("nope", None)
        d.setdefault("a", 2)
        d.update({})
    with face.transaction(d), pytest.raises(KeyError):
        d.delete("nope")
    assert d.version == 1


# Iterators.


def test_an_iterator_inside_a_transaction_sees_the_state_at_its_creation(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": 2})
    with face.transaction(d):
        d["c"] = 3
        items = iter(d.items())
        assert next(items) == ("a", 1)
        d["d"] = 4
        d["b"] = "changed"
        del d["c"]
        assert list(items) == [("b", 2), ("c", 3)]
        assert list(d.items()) == [("a", 1), ("b", "changed"), ("d", 4)]


def test_what_is_iterated_over_inside_a_transaction_may_be_changed(face: Face, d: Any) -> None:
    log = face.Log("ns/log")
    with face.transaction(d):
        d.update({str(number): number for number in range(20)})
        log.extend(range(20))
        for key in d:
            d[key + "x"] = 0
            del d[key]
        for entry in log:
            log.append(entry)
    assert len(d) == 20 and list(log) == [*range(20), *range(20)]


@pytest.mark.parametrize("fails", [False, True])
def test_an_iterator_goes_on_across_a_savepoint(face: Face, d: Any, fails: bool) -> None:
    d.update({"a": 1, "b": 2, "c": 3})
    with face.transaction(d):
        outside = iter(d)
        assert next(outside) == "a"
        try:
            with face.transaction(d, isolated=True):
                inside = iter(d)
                d.clear()
                if fails:
                    raise Failed
        except Failed:
            pass
        assert list(outside) == ["b", "c"] and list(inside) == ["a", "b", "c"]
        assert len(d) == (3 if fails else 0)


def test_an_iterator_begun_before_the_transaction_goes_on(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": 2})
    before = iter(d)
    with face.transaction(d):
        d["c"] = 3
        assert next(before) == "a"
    assert list(before) == ["b"]


def test_an_iterator_begun_in_a_transaction_that_changes_is_whole_after_it(face: Face, d: Any) -> None:
    with face.transaction(d):
        d.update({"a": 1, "b": 2})
        keys = iter(d)
    assert list(keys) == ["a", "b"]


def test_an_iterator_begun_in_a_snapshot_ends_with_it_by_an_error(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": 2})
    with face.snapshot(d):
        keys = iter(d)
        assert next(keys) == "a"
    with pytest.raises(parkit.ContextError, match="over"):
        next(keys)


def test_an_iterator_begun_in_a_snapshot_of_a_snapshot_lasts_as_long_as_the_outer_one(face: Face, d: Any) -> None:
    d.update({"a": 1, "b": 2, "c": 3})
    with face.snapshot(d):
        with face.snapshot(d):
            keys, unused = iter(d), iter(d)
            assert next(keys) == "a"
        assert next(keys) == "b"
    for iterator in (keys, unused):
        with pytest.raises(parkit.ContextError, match="over"):
            next(iterator)


def test_what_cannot_be_decoded_is_told_when_its_turn_comes_also_where_the_transaction_changes_it(face: Face) -> None:
    log = face.Log("ns/log")
    log.extend([1, 2, Breaks(), 4])
    with face.transaction(log):
        entries = iter(log)
        assert next(entries) == 1
        log.append(5)
        assert next(entries) == 2
        with pytest.raises(parkit.CodecError, match="cannot load value"):
            next(entries)
        assert list(entries) == []
    assert len(log) == 5


# Snapshots.


def test_everything_in_a_snapshot_is_of_one_moment(face: Face, d: Any) -> None:
    log = face.Log("ns/log")
    d["a"] = 1
    with face.snapshot(d):
        assert d["a"] == 1
        face.elsewhere(lambda: (d.set("a", 2), log.append(1), d.drop()))
        assert (d["a"], len(log), d.version, d.exists) == (1, 0, 1, True)
        assert list(d.items()) == [("a", 1)]
    assert not d.exists and len(log) == 1


def test_changing_anything_of_a_namespace_in_a_snapshot_of_it_is_a_ContextError(face: Face, d: Any) -> None:
    q, log, o, other = face.Queue("ns/q"), face.Log("ns/log"), face.Object("ns/o"), face.Dict("other/d")
    q.put(1)
    with face.snapshot(d):
        for call in calls(
            lambda: d.set("a", 1), lambda: d.update(a=1), d.clear, lambda: d.pop("a", None), lambda: d.setdefault("a"), lambda: q.put(1), q.get,
            q.task_done, q.shutdown, lambda: log.append(1), lambda: o.set_attribute("x", 1), o.drop, lambda: face.Dict("ns/new"),
        ):  # fmt: skip
            with pytest.raises(parkit.ContextError):
                call()
        with pytest.raises(parkit.ContextError):
            with face.transaction(d):
                pass
        with pytest.raises(parkit.ContextError):
            with face.transaction("ns", isolated=True):
                pass
        other["a"] = 1  # not of this namespace
        with face.transaction(other):
            other["b"] = 2
        assert face.Dict("ns/d") == {}  # opening what exists changes nothing
    assert [x.version for x in (d, log, o)] == [0, 0, 0] and q.qsize() == 1
    assert content(other) == {"a": 1, "b": 2} and [path for path, _ in face.objects("ns")] == ["ns/d", "ns/log", "ns/o", "ns/q"]


def test_a_snapshot_inside_a_transaction_sees_the_transaction(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["a"] = 1
        with face.snapshot(d):
            assert d["a"] == 1
            with pytest.raises(parkit.ContextError):
                d.set("b", 2)
        d["b"] = 2
        with face.snapshot("ns"):
            assert content(d) == {"a": 1, "b": 2}
    assert content(d) == {"a": 1, "b": 2}


def test_nor_does_such_a_snapshot_see_what_the_transaction_has_dropped(face: Face, d: Any) -> None:
    other = face.Dict("ns/other")
    with face.transaction(d):
        d["a"] = 1
        other.drop()
        with face.snapshot(d):
            assert d["a"] == 1
            with pytest.raises(parkit.ObjectNotFoundError, match="'ns/other'"):
                other.len()


def test_a_snapshot_with_views_is_of_one_moment_also_where_others_commit_as_it_begins(face: Face, d: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Views are read through a second transaction, which must see what the first one sees.
    d["raw"], d["version"] = pickle.PickleBuffer(LARGE), 0
    begin = Namespace.begin_reading
    writer: parkit.Dict[str, Any] = parkit.Dict("ns/d")
    versions = iter(range(1, 4))

    def begin_reading(self: Namespace, buffers: bool = False) -> Any:
        version = next(versions, None) if buffers else None
        if version is not None:
            thread = threading.Thread(target=writer.update, kwargs={"raw": pickle.PickleBuffer(bytes((version,)) * 5000), "version": version})
            thread.start()
            thread.join()
        return begin(self, buffers)

    monkeypatch.setattr(Namespace, "begin_reading", begin_reading)
    with face.snapshot(d, zero_copy=True):
        assert next(versions, None) is None, "nobody committed as it began"
        assert d["version"] == 3 and bytes(d["raw"]) == b"\3" * 5000


def test_snapshots_nest_and_see_the_outer_one(face: Face, d: Any) -> None:
    with face.snapshot(d):
        face.elsewhere(lambda: d.set("a", 1))
        with face.snapshot(d):
            assert len(d) == 0
        assert len(d) == 0
    assert len(d) == 1


def test_a_snapshot_of_another_namespace_inside_a_transaction(face: Face, d: Any) -> None:
    other = face.Dict("other/d")
    with face.transaction(d):
        with face.snapshot(other):
            face.elsewhere(lambda: other.set("a", 1))
            assert len(other) == 0
            d["b"] = 1
        assert len(other) == 1
    assert content(d) == {"b": 1}


def test_an_exception_leaves_a_snapshot_unchanged(face: Face, d: Any) -> None:
    error = Failed()
    with pytest.raises(Failed) as caught, face.snapshot(d):
        raise error
    assert caught.value is error
    d["a"] = 1


def test_readers_do_not_wait_for_a_writer(face: Face, d: Any) -> None:
    d["a"] = 1
    with face.transaction(d):
        d["a"] = 2

        def read() -> Any:
            with face.snapshot(d):
                return d["a"], list(d), face.Dict("ns/d").version

        assert face.elsewhere(read) == (1, ["a"], 1)


# Other namespaces.


def test_changing_an_object_of_another_namespace_is_a_ContextError(face: Face, d: Any) -> None:
    other, q = face.Dict("other/d"), face.Queue("other/q")
    q.put(1)
    with face.transaction(d):
        d["a"] = 1
        for call in calls(lambda: other.set("a", 1), q.get, other.drop, lambda: other.set_attribute("x", 1), lambda: face.Dict("other/new")):
            with pytest.raises(parkit.ContextError, match="other"):
                call()
        with pytest.raises(parkit.ContextError, match="other"):
            with face.transaction(other):
                pass
        d["b"] = 2
    assert content(d) == {"a": 1, "b": 2} and (other.version, q.qsize()) == (0, 1)


def test_reading_another_namespace_gives_its_latest_committed_state(face: Face, d: Any) -> None:
    other = face.Dict("other/d")
    with face.transaction(d):
        d["mine"] = other.get("a")
        face.elsewhere(lambda: other.set("a", 1))
        assert (other["a"], list(other), other.version) == (1, ["a"], 1)
    assert content(d) == {"mine": None}


# Threads and tasks.


def test_threads_and_tasks_started_inside_do_not_join(face: Face, d: Any) -> None:
    before = parkit.statistics("ns").waits
    with face.transaction(d):
        d["a"] = 1
        job = face.start(d.set, "b", 2)
        face.until_in_line("ns", before)
        assert not job.done() and "b" not in d
    job.result()
    assert content(d) == {"a": 1, "b": 2} and d.version == 2


def test_a_writer_in_line_is_not_undone_by_the_rollback_before_it(face: Face, d: Any) -> None:
    before = parkit.statistics("ns").waits
    with pytest.raises(Failed):
        with face.transaction(d):
            d["a"] = 1
            jobs = [face.start(d.set, number, number) for number in range(3)]
            face.until_in_line("ns", before)
            raise Failed
    for job in jobs:
        job.result()
    assert content(d) == {0: 0, 1: 1, 2: 2}


def test_one_that_fails_in_line_fails_alone(face: Face, d: Any) -> None:
    before = parkit.statistics("ns").waits
    with face.transaction(d):
        good, bad, also = face.start(d.set, "a", 1), face.start(d.delete, "nope"), face.start(d.set, "b", 2)
        face.until_in_line("ns", before)
    good.result()
    also.result()
    with pytest.raises(KeyError):
        bad.result()
    assert content(d) == {"a": 1, "b": 2}


def test_a_transaction_left_by_another_thread_or_task_is_rolled_back(face: Face, d: Any) -> None:
    context = face.transaction(d)
    face.elsewhere(context.__enter__)
    with pytest.raises(parkit.ContextError, match="another thread or task"):
        context.__exit__(None, None, None)
    d["a"] = 1  # and the turn was given up
    assert content(d) == {"a": 1}


def test_and_with_it_what_it_has_open(face: Face, d: Any) -> None:
    d["raw"] = pickle.PickleBuffer(LARGE)
    context, savepoint = face.transaction(d, zero_copy=True), face.transaction(d, isolated=True)

    def enter() -> Any:
        context.__enter__()
        view = d["raw"]
        d["a"] = 1
        savepoint.__enter__()
        d["b"] = 2
        return view

    view = face.elsewhere(enter)
    assert bytes(view) == LARGE
    with pytest.raises(parkit.ContextError, match="another thread or task"):
        context.__exit__(None, None, None)
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    assert open_namespace("ns").pinned() == []
    d["c"] = 3
    assert set(d) == {"raw", "c"}


def test_a_snapshot_that_is_still_open_ends_with_the_transaction_around_it(face: Face, d: Any) -> None:
    other = face.Dict("other/d")
    transaction, snapshot = face.transaction(d), face.snapshot(other)
    transaction.__enter__()
    snapshot.__enter__()
    d["a"] = 1
    assert len(open_namespace("other").pinned()) == 1
    transaction.__exit__(None, None, None)
    assert open_namespace("other").pinned() == [] and not contexts
    snapshot.__exit__(None, None, None)
    other["b"] = 2
    assert content(d) == {"a": 1} and content(other) == {"b": 2}


def test_what_an_interrupted_savepoint_left_open_belongs_to_the_outer_block(face: Face, d: Any) -> None:
    # As Ctrl-C leaves it, where it comes between the savepoint's begin and the block, and is caught there.
    with face.transaction(d):
        d["a"] = 1
        writing_of(d).begin_savepoint()
        d["b"] = 2
    assert content(d) == {"a": 1, "b": 2}
    with pytest.raises(Failed), face.transaction(d):
        writing_of(d).begin_savepoint()
        d["c"] = 3
        raise Failed
    assert content(d) == {"a": 1, "b": 2}


def writing_of(d: Any) -> Writing:
    """Return the one transaction that is open."""
    ((writing,),) = contexts.values()
    assert isinstance(writing, Writing)
    return writing


def test_a_transaction_belongs_to_who_opened_it(face: Face, d: Any) -> None:
    with face.transaction(d):
        d["a"] = 1
        assert face.elsewhere(lambda: d.get("a")) is None

        def refuse_to_wait() -> None:
            with pytest.raises(parkit.ContextError):
                with face.snapshot(d):
                    d.set("b", 1)

        face.elsewhere(refuse_to_wait)
    assert content(d) == {"a": 1}


def test_both_faces_in_one_process_take_turns(face: Face, d: Any) -> None:
    blocking: parkit.Dict[str, int] = parkit.Dict("ns/d")
    with face.transaction(d):
        d["a"] = 1
        assert "a" not in blocking or face.name == "blocking"
    blocking["b"] = 2
    assert content(d) == {"a": 1, "b": 2}


def test_a_blocking_call_that_would_wait_for_its_own_loop_is_a_ContextError(face: Face, d: Any) -> None:
    blocking: parkit.Dict[str, int] = parkit.Dict("ns/d")
    if face.name == "blocking":
        with face.transaction(d):
            blocking["a"] = 1  # the thread's own transaction
        assert content(d) == {"a": 1}
        return
    with face.transaction(d), pytest.raises(parkit.ContextError, match="wait"):
        blocking["a"] = 1  # this thread, but not the task that has the transaction
    assert len(d) == 0


# What is refused.


@pytest.mark.parametrize("obj", [1, b"ns", pytest.param(object(), id="object")])
def test_a_transaction_is_of_an_object_or_a_name(face: Face, obj: Any) -> None:
    for context in (face.transaction, face.snapshot):
        with pytest.raises(TypeError, match="namespace"):
            with context(obj):
                pass


@pytest.mark.parametrize("name", ["", "a//b", "..", "__x__", "a\0"])
def test_a_transaction_on_a_name_that_is_none_is_a_ValueError(face: Face, name: str) -> None:
    for context in (face.transaction, face.snapshot):
        with pytest.raises(ValueError, match="namespace"):
            with context(name):
                pass
    assert list(face.namespaces()) == []


def test_a_transaction_on_a_dropped_object_is_one_on_its_namespace(face: Face, d: Any) -> None:
    log = face.Log("ns/log")
    d.drop()
    with face.transaction(d):
        log.append(1)
    assert list(log) == [1]
