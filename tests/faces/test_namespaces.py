"""Namespaces (SEMANTICS 2): what there is, how large and how durable it may be, and what still works when one is full."""

# ruff: noqa: PT012 - a block that fails has a body before it fails

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import parkit
from tests.conftest import RunScript
from tests.faces.face import Face, calls

SMALL = 1 << 20
VALUE = b"x" * 20_000


def fill(d: Any) -> int:
    """Put values until no more fits; return how many there are."""
    with pytest.raises(parkit.NamespaceFullError):
        for number in range(1000):
            d[number] = VALUE
    return len(d)


# What there is.


def test_namespaces_lists_those_of_the_user_in_order(face: Face, store: Path) -> None:
    assert list(face.namespaces()) == []
    for path in ("b/x", "a/x", "x", "a/b/x", "ä/x"):
        face.Dict(path)
    (store / "not a namespace").mkdir()
    (store / "neither~this").mkdir()
    assert list(face.namespaces()) == ["a", "a/b", "b", "default", "ä"]


def test_objects_yields_paths_and_descriptors_in_order(face: Face) -> None:
    for name, kind in (("b", "Dict"), ("a", "Queue"), ("c", "Log"), ("B", "Object"), ("l", "LifoQueue")):
        getattr(face, kind)(f"ns/{name}")
    found = list(face.objects("ns"))
    assert [path for path, _ in found] == ["ns/B", "ns/a", "ns/b", "ns/c", "ns/l"]
    assert [descriptor["type"] for _, descriptor in found] == ["parkit.Object", "parkit.Queue", "parkit.Dict", "parkit.Log", "parkit.LifoQueue"]


def test_objects_without_a_namespace_lists_default(face: Face) -> None:
    face.Dict("plain")
    face.Dict("ns/x")
    assert (
        [path for path, _ in face.objects()] == ["plain"] == [path for path, _ in face.objects("default")] == [path for path, _ in face.objects(None)]
    )


def test_looking_creates_nothing(face: Face, store: Path) -> None:
    assert list(face.objects("nope")) == [] and list(face.objects()) == [] and list(face.namespaces()) == []
    assert not [entry for entry in os.listdir(store) if "~" in entry]


def test_a_nested_namespace_is_not_part_of_the_one_above(face: Face) -> None:
    face.Dict("a/b/x")
    face.Dict("a/b")
    assert [path for path, _ in face.objects("a")] == ["a/b"] and [path for path, _ in face.objects("a/b")] == ["a/b/x"]


def test_a_namespace_is_opened_once_whichever_face_opened_it(face: Face) -> None:
    assert face.raw(face.Dict("ns/d"))._binding.namespace is parkit.Object("ns/other")._binding.namespace


# Size.


def test_the_size_is_a_GiB_unless_it_was_set(face: Face) -> None:
    assert face.get_namespace_size("ns") == face.get_namespace_size() == face.get_namespace_size(None) == 2**30
    face.set_namespace_size("ns", SMALL)
    face.set_namespace_size(None, 2 * SMALL)
    assert (face.get_namespace_size("ns"), face.get_namespace_size(), face.get_namespace_size("default")) == (SMALL, 2 * SMALL, 2 * SMALL)


def test_the_size_is_kept_with_the_namespace(face: Face) -> None:
    from parkit_async._core.registry import close_all

    face.set_namespace_size("ns", SMALL)
    close_all()
    assert face.get_namespace_size("ns") == SMALL
    fill(face.Dict("ns/d"))


@pytest.mark.parametrize("size", [0, -1, 1000, 1 << 60])
def test_a_size_that_none_can_have_is_a_ValueError(face: Face, size: int) -> None:
    with pytest.raises(ValueError):
        face.set_namespace_size("ns", size)
    assert face.get_namespace_size("ns") == 2**30


@pytest.mark.parametrize("size", ["1000000", 1e6, True, None])
def test_a_size_that_is_no_int_is_a_TypeError(face: Face, size: Any) -> None:
    with pytest.raises(TypeError):
        face.set_namespace_size("ns", size)
    assert face.get_namespace_size("ns") == 2**30


def test_shrinking_below_what_is_used_is_a_ValueError(face: Face) -> None:
    d = face.Dict("ns/d")
    d["k"] = b"x" * (2 * SMALL)
    with pytest.raises(ValueError, match=r"uses .* bytes already"):
        face.set_namespace_size("ns", SMALL)
    assert face.get_namespace_size("ns") == 2**30
    d["k"] = b""
    face.set_namespace_size("ns", 3 * SMALL)
    assert face.get_namespace_size("ns") == 3 * SMALL


@pytest.mark.parametrize("context", ["transaction", "snapshot"])
def test_settings_cannot_be_changed_in_a_transaction_or_snapshot(face: Face, context: str) -> None:
    face.Dict("ns/d")
    with getattr(face, context)("ns"):
        for namespace in ("ns", "other"):
            for call in calls(
                lambda n=namespace: face.set_namespace_size(n, SMALL),
                lambda n=namespace: face.set_namespace_synchronous(n, "off"),
                lambda n=namespace: face.set_namespace_codecs(n, ["json"]),
            ):
                with pytest.raises(parkit.ContextError, match="outside"):
                    call()
        assert face.get_namespace_size("ns") == 2**30 and face.get_namespace_synchronous("ns") == "full"
    assert face.get_namespace_size("ns") == 2**30 and face.get_namespace_synchronous("ns") == "full" and face.get_namespace_codecs("ns") is None


# Fullness.


def test_a_write_that_does_not_fit_is_a_NamespaceFullError_that_says_what_to_do(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d = face.Dict("small/d")
    count = fill(d)
    assert 20 < count < 60
    with pytest.raises(parkit.NamespaceFullError) as caught:
        d["one more"] = VALUE * 10
    error = caught.value
    assert isinstance(error, parkit.TransactionError)
    assert (error.namespace, error.size, error.snapshot_pid, error.snapshot_age) == ("small", SMALL, None, None)
    for part in ("'small'", "1,048,576", "No snapshot", "delete", "set_namespace_size"):
        assert part in str(error)
    assert len(d) == count and "one more" not in d


def test_a_full_namespace_names_the_oldest_snapshot(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d = face.Dict("small/d")
    d.update(dict.fromkeys(range(15), VALUE))
    iterator = iter(d.items())
    next(iterator)
    with pytest.raises(parkit.NamespaceFullError) as caught:
        for _ in range(20):
            d.update(dict.fromkeys(range(15), VALUE))  # takes no more room, were it not for the iterator
    error = caught.value
    assert error.snapshot_pid == os.getpid() and error.snapshot_age is not None and error.snapshot_age >= 0
    assert "this process" in str(error) and "seconds" in str(error) and "close" in str(error)
    del iterator
    for _ in range(20):
        d.update(dict.fromkeys(range(15), VALUE))
    assert len(d) == 15


def test_reads_deletes_and_get_still_work_in_a_full_namespace(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d, q, log, o = face.Dict("small/d"), face.Queue("small/q"), face.Log("small/log"), face.Object("small/o")
    q.put_many([VALUE, 2, 3])
    log.extend([1, VALUE])
    o.note = VALUE
    d["small"] = 1
    count = fill(d)
    with pytest.raises(parkit.NamespaceFullError):
        for _ in range(10_000):
            q.put(VALUE[:1000])
    assert d["small"] == 1 and log[1] == VALUE and o.note == VALUE and len(list(d)) == count
    assert q.get() == VALUE and q.get_many(2) == [2, 3]
    q.task_done()
    assert d.pop(0) == VALUE
    d.delete("small")
    assert d.popitem() == (count - 2, VALUE)
    del o.note
    log.clear()
    with face.transaction(d):
        d.delete(1)
        q.get()
    d.clear()
    q.drop()
    assert len(d) == 0 and not q.exists


def test_space_that_was_given_back_can_be_used_again(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d = face.Dict("small/d")
    first = fill(d)
    for _ in range(3):
        for number in range(10):
            d.delete(number)
        for number in range(9):
            d[number] = VALUE
        d[9] = b""
        d[9] = VALUE[:5000]
    d.clear()
    assert fill(d) >= first - 5


def test_a_full_namespace_takes_more_once_it_may_be_larger(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d = face.Dict("small/d")
    count = fill(d)
    face.set_namespace_size("small", 2 * SMALL)
    assert fill(d) > count + 20


def test_a_transaction_that_does_not_fit_leaves_no_trace(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d, log = face.Dict("small/d"), face.Log("small/log")
    d["k"] = 1
    with pytest.raises(parkit.NamespaceFullError):
        with face.transaction(d):
            log.append("trace")
            d["k"] = 2
            for number in range(1000):
                d[number] = VALUE
    assert dict(d.items()) == {"k": 1} and len(log) == 0 and (d.version, log.version) == (1, 0)


def test_what_did_not_fit_leaves_the_rest_of_the_transaction_usable(face: Face) -> None:
    face.set_namespace_size("small", SMALL)
    d = face.Dict("small/d")
    with face.transaction(d):
        d["a"] = 1
        with pytest.raises(parkit.NamespaceFullError):
            d["huge"] = b"x" * (2 * SMALL)
        d["b"] = 2
    assert dict(d.items()) == {"a": 1, "b": 2}


@pytest.mark.parametrize("kind", ["Dict", "Queue", "Log", "Object"])
def test_one_value_larger_than_the_namespace(face: Face, kind: str) -> None:
    face.set_namespace_size("small", SMALL)
    x = getattr(face, kind)("small/x")
    huge = b"x" * (2 * SMALL)
    call = {
        "Dict": lambda: x.set("k", huge),
        "Queue": lambda: x.put(huge),
        "Log": lambda: x.append(huge),
        "Object": lambda: x.set_attribute("k", huge),
    }
    with pytest.raises(parkit.NamespaceFullError):
        call[kind]()
    assert x.version == 0 and x.attributes() == []


# Durability.


@pytest.mark.parametrize(("level", "fsyncs"), [("full", 2), ("normal", 1), ("off", 0)])
def test_each_level_makes_its_fsyncs(face: Face, level: str, fsyncs: int) -> None:
    face.set_namespace_synchronous("ns", level)
    d = face.Dict("ns/d")
    d["k"] = 0
    assert face.get_namespace_synchronous("ns") == level
    before = face.statistics("ns")
    for number in range(3):
        d["k"] = number
    after = face.statistics("ns")
    assert (after.commits - before.commits, after.fsyncs - before.fsyncs) == (3, 3 * fsyncs)


def test_statistics_show_what_they_count(face: Face) -> None:
    face.Dict("ns/d")["a"] = 1
    found = face.statistics("ns")
    assert found.commits >= 1
    assert repr(found).startswith(f"Statistics(commits={found.commits}, fsyncs=") and repr(found).endswith(f"waits={found.waits})")


def test_the_level_is_full_unless_it_was_set(face: Face) -> None:
    assert face.get_namespace_synchronous() == face.get_namespace_synchronous("ns") == "full"


def test_PARKIT_SYNCHRONOUS_is_the_level_of_new_namespaces(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    face.Dict("old/d")
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "normal")
    assert (face.get_namespace_synchronous("new"), face.get_namespace_synchronous("old")) == ("normal", "full")
    monkeypatch.delenv("PARKIT_SYNCHRONOUS")
    assert face.get_namespace_synchronous("new") == "normal"


def test_a_PARKIT_SYNCHRONOUS_that_is_no_level_is_a_ValueError(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "sometimes")
    with pytest.raises(ValueError, match=r"PARKIT_SYNCHRONOUS.*sometimes.*full"):
        face.Dict("ns/d")
    monkeypatch.delenv("PARKIT_SYNCHRONOUS")
    face.Dict("ns/d")["k"] = 1


@pytest.mark.parametrize("level", ["", "FULL", "sometimes", None, 2, True, ["full"]])
def test_a_level_that_is_none_is_a_ValueError(face: Face, level: Any) -> None:
    with pytest.raises(ValueError, match="durability"):
        face.set_namespace_synchronous("ns", level)
    assert face.get_namespace_synchronous("ns") == "full"


def test_the_level_changes_while_the_namespace_is_in_use(face: Face) -> None:
    d = face.Dict("ns/d")
    d["k"] = 0
    iterator = iter(d)
    for number, level in enumerate(["off", "normal", "full", "off"]):
        face.set_namespace_synchronous("ns", level)
        d["k"] = number
        assert (face.get_namespace_synchronous("ns"), d["k"]) == (level, number)
    assert list(iterator) == ["k"]
    d["k"] = "end"
    assert d["k"] == "end"


# Other processes.


@pytest.mark.processes
def test_settings_made_here_are_seen_by_another_process(face: Face, run_script: RunScript) -> None:
    face.set_namespace_size("ns", SMALL)
    face.set_namespace_synchronous("ns", "normal")
    face.set_namespace_codecs("ns", ["json"])
    seen = run_script(
        """
        from parkit import get_namespace_codecs, get_namespace_size, get_namespace_synchronous
        print(get_namespace_size("ns"), get_namespace_synchronous("ns"), get_namespace_codecs("ns"))
        """
    )
    assert seen.stdout.strip() == f"{SMALL} normal ['json']"


@pytest.mark.processes
def test_settings_made_by_another_process_hold_here_where_the_namespace_is_open(face: Face, run_script: RunScript) -> None:
    d = face.Dict("ns/d")
    d["k"] = 1
    run_script(
        """
        from parkit import set_namespace_size, set_namespace_synchronous, set_namespace_codecs
        set_namespace_size("ns", 1 << 20)
        set_namespace_synchronous("ns", "off")
        """
    )
    assert (face.get_namespace_size("ns"), face.get_namespace_synchronous("ns"), d["k"]) == (SMALL, "off", 1)
    fill(d)
    run_script('import parkit; parkit.set_namespace_size("ns", 4 << 20)')
    before = face.statistics("ns").fsyncs
    d["more"] = b"x" * (2 * SMALL)
    assert face.statistics("ns").fsyncs == before and len(d["more"]) == 2 * SMALL
    run_script('import parkit; parkit.set_namespace_codecs("ns", ["json"])')
    with pytest.raises(parkit.CodecError):
        face.Dict("ns/d")["k"]
