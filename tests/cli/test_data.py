"""ls, get, put and tail, in a pipe's manner."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parkit import Dict, LifoQueue, Log, Object, Queue, json_codec, raw_codec
from tests.cli.conftest import Run, document, rows


class Gone:
    """Pickled by name; the tests take the name away."""


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Loud:
    def __repr__(self) -> str:
        return "one\ntwo\x1b[31m"


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store a Dict, a Log and a Queue with a value each that cannot be decoded any more."""
    Dict[str, object]("bad/dict").update({"a": 1, "b": Gone(), "c": 3})
    Log[object]("bad/log").extend([1, Gone(), 3])
    Queue[object]("bad/queue").put_many([1, Gone(), 3])
    Object("bad/object").set_attribute("gone", Gone())
    monkeypatch.delattr(sys.modules[__name__], "Gone")


# ls


def test_a_store_that_is_not_there_has_no_namespaces(run: Run, store: Path) -> None:
    store.rmdir()
    assert rows(run("ls")) == []
    assert document(run("ls", "--json")) == []
    assert not store.exists(), "looking must not create anything"


def test_ls_lists_namespaces(run: Run) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    Log[int]("history").append(1)
    Log[int]("other").append(1)
    listed = run("ls")
    assert listed.stdout.splitlines()[0] == "namespace\tobjects\tused\tfile\tlimit"
    assert [row[:2] for row in rows(listed)] == [["default", "2"], ["shop", "1"]]
    assert [row["limit"] for row in document(run("ls", "--json"))] == [1 << 30, 1 << 30]


def test_ls_lists_objects(run: Run) -> None:
    stock = Dict[str, int]("shop/stock")
    stock.update(a=1, b=2)
    stock.colour = "red"
    Queue[int]("shop/orders", versioned=False).put(1)
    Object("shop/thing").value = 1
    found = document(run("ls", "shop", "--json"))
    assert [(row["path"], row["type"], row["version"], row["length"]) for row in found] == [
        ("shop/orders", "Queue", None, 1),
        ("shop/stock", "Dict", 2, 2),
        ("shop/thing", "Object", 1, None),
    ]
    assert rows(run("ls", "shop"))[0][:4] == ["shop/orders", "Queue", "-", "1"]


def test_ls_says_what_a_name_is_that_is_no_namespace(run: Run) -> None:
    Dict[str, int]("stock")["tea"] = 1
    assert "no namespace 'nothing'" in run("ls", "nothing", code=1).stderr
    assert "It is an object: parkit get stock" in run("ls", "stock", code=1).stderr


def test_ls_goes_on_behind_a_namespace_that_cannot_be_opened(run: Run, store: Path) -> None:
    Dict[str, int]("a/d")["x"] = 1
    Dict[str, int]("b/d")["x"] = 1
    from parkit_async._core.registry import close_all

    close_all()
    (broken,) = store.glob("a~*")
    (broken / "data.mdb").write_bytes(b"nonsense" * 4096)
    listed = run("ls", code=1)
    assert [row[0] for row in rows(listed)] == ["a", "b"]
    assert "cannot open" in rows(listed)[0][-1]


# get


def test_get_shows_entries_by_repr(run: Run) -> None:
    stock: Dict[object, object] = Dict("shop/stock")
    stock["tea"] = 12
    stock["a", 1] = {"x": [1, 2]}
    stock[None] = "text"
    assert sorted(rows(run("get", "shop/stock"))) == sorted([["'tea'", "12"], ["('a', 1)", "{'x': [1, 2]}"], ["None", "'text'"]])
    assert run("get", "shop/stock", "tea").stdout == "12\n"
    assert run("get", "shop/stock", '["a", 1]').stdout == "{'x': [1, 2]}\n"
    assert document(run("get", "shop/stock", '["a", 1]', "--json")) == {"x": [1, 2]}


def test_a_key_is_json_first_and_text_second(run: Run) -> None:
    both: Dict[object, object] = Dict("both")
    both["1"] = "text"
    assert run("get", "both", "1").stdout == "'text'\n"
    both[1] = "number"
    assert run("get", "both", "1").stdout == "'number'\n"
    assert run("get", "both", '"1"').stdout == "'text'\n"


def test_get_of_indices(run: Run) -> None:
    Log[int]("log").extend(range(5))
    queue = Queue[str]("queue")
    queue.put_many(["taken", "a", "b", "c"])
    queue.get()
    assert run("get", "log", "-1").stdout == "4\n"
    assert run("get", "log", "0").stdout == "0\n"
    assert run("get", "queue", "0").stdout == "'a'\n"
    assert run("get", "queue", "-3").stdout == "'a'\n"
    assert rows(run("get", "queue")) == [["0", "'a'"], ["1", "'b'"], ["2", "'c'"]]
    assert queue.qsize() == 3
    for wrong in ("5", "-6"):
        assert "no index" in run("get", "log", wrong, code=1).stderr
    assert "no index" in run("get", "queue", "-4", code=1).stderr
    assert "KEY is an index" in run("get", "log", "first", code=2).stderr


def test_get_of_attributes(run: Run) -> None:
    Object("thing").value = [1]
    log = Log[int]("log")
    log.owner = "me"
    assert rows(run("get", "thing")) == [["value", "[1]"]]
    assert run("get", "thing", "value").stdout == "[1]\n"
    assert rows(run("get", "log", "--attributes")) == [["owner", "'me'"]]
    assert "no attribute 'x'" in run("get", "thing", "x", code=1).stderr


def test_get_says_what_is_near(run: Run) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    assert "Did you mean 'shop/stock'?" in run("get", "shop/stok", code=1).stderr
    assert "no key 'coffee'" in run("get", "shop/stock", "coffee", code=1).stderr


def test_a_limit_says_what_it_left_out(run: Run) -> None:
    Log[int]("log").extend(range(2000))
    shown = run("get", "log", "--limit", 10)
    assert len(rows(shown)) == 10
    assert "10 of 2,000" in shown.stderr
    assert len(rows(run("get", "log"))) == 2000


def test_what_cannot_be_decoded_is_shown_as_such(run: Run, undecodable: None) -> None:
    for path in ("bad/dict", "bad/log", "bad/queue"):
        cells = [row[1] for row in rows(run("get", path))]
        assert cells[0] == "1" and cells[2] == "3"
        assert cells[1].startswith("<cannot be decoded: AttributeError"), cells
        assert "undecodable" in document(run("get", path, "--json"))[1]["value"]
    assert run("get", "bad/dict", "b").stdout.startswith("<cannot be decoded")
    assert "undecodable" in document(run("get", "bad/dict", "b", "--json"))
    assert run("get", "bad/object", "gone").stdout.startswith("<cannot be decoded")
    assert run("tail", "bad/log").stdout.splitlines()[2] == "3"


def test_a_value_whose_repr_fails_or_moves_the_cursor_harms_nobody(run: Run) -> None:
    Log[object]("log").extend([Rude(), Loud(), "tab\there"])
    shown = [row[1] for row in rows(run("get", "log"))]
    assert shown[0] == "<Rude, whose repr fails: RuntimeError>"
    assert shown[1] == r"one\ntwo\x1b[31m"
    assert shown[2] == r"'tab\there'"


def test_json_of_values_that_json_has_not(run: Run) -> None:
    values = [float("nan"), float("inf"), b"bytes", (1, 2), {1: {2: 3}}, "\ud800", 2**80, {1, 2}]
    Log[object]("log").extend(values)
    found = [row["value"] for row in document(run("get", "log", "--json"))]
    assert found == ["nan", "inf", "b'bytes'", [1, 2], {"1": {"2": 3}}, "\\ud800", 2**80, "{1, 2}"]


def test_other_codecs(run: Run) -> None:
    Dict[str, object]("json", codec=json_codec)["a"] = {"b": 1}
    Log[bytes]("raw", codec=raw_codec).append(b"abc")
    assert run("get", "json", "a").stdout == "{'b': 1}\n"
    assert run("get", "raw", "0").stdout == "b'abc'\n"


def test_long_keys(run: Run) -> None:
    long: Dict[str, int] = Dict("long")
    long["k" * 2000] = 1
    assert rows(run("get", "long")) == [[repr("k" * 2000), "1"]]


# put


def test_put(run: Run) -> None:
    stock: Dict[object, object] = Dict("shop/stock")
    queue, log, thing = Queue[object]("queue"), Log[object]("log"), Object("thing")
    run("put", "shop/stock", "tea", "12")
    run("put", "shop/stock", '"1"', "-5")
    run("put", "shop/stock", "[1, 2]", "[1, 2]")
    run("put", "queue", '{"item": "tea"}')
    run("put", "log", "plain text")
    run("put", "log", "NaN")
    run("put", "log", "-1")
    run("put", "thing", "value", "null")
    assert dict(stock.items()) == {"tea": 12, "1": -5, (1, 2): [1, 2]}
    assert queue.get(block=False) == {"item": "tea"}
    assert list(log) == ["plain text", "NaN", -1]
    assert thing.get_attribute("value") is None


@pytest.mark.parametrize(("path", "values"), [("d", ["1"]), ("d", ["1", "2", "3"]), ("q", ["1", "2"]), ("log", ["1", "2"]), ("d", ["{}", "1"])])
def test_put_of_too_much_or_too_little(run: Run, path: str, values: list[str]) -> None:
    Dict[object, object]("d"), Queue[object]("q"), Log[object]("log")
    run("put", path, *values, code=2)
    assert len(Dict[object, object]("d")) == Queue[object]("q").qsize() == len(Log[object]("log")) == 0


def test_put_creates_only_what_it_is_told_to(run: Run) -> None:
    assert "--create" in run("put", "new", "x", code=1).stderr
    for kind, cls in (("log", Log), ("queue", Queue), ("lifo", LifoQueue)):
        run("put", "--create", kind, kind, "x")
        assert type(cls(kind, create=False)) is cls
    run("put", "--create", "dict", "dict", "k", "v")
    assert Dict[str, str]("dict", create=False)["k"] == "v"


def test_put_into_a_queue_that_is_full_or_shut_down(run: Run) -> None:
    queue = Queue[int]("q", maxsize=1)
    queue.put(1)
    assert "is full (1 items)" in run("put", "--timeout", "0.01", "q", "2", code=1).stderr
    queue.shutdown()
    assert "was shut down" in run("put", "q", "2", code=1).stderr


# Classes of the user's.


def test_objects_of_other_classes_are_what_they_are_based_on(run: Run) -> None:
    class Inventory(Dict[str, int]):
        pass

    Inventory.__module__, Inventory.__qualname__ = "a_module_that_is_nowhere", "Inventory"
    Inventory("inventory")["tea"] = 1
    assert rows(run("get", "inventory")) == [["'tea'", "1"]]
    assert run("ls", "default", "--json").stdout.count("a_module_that_is_nowhere.Inventory") == 1


class Ledger(Log[int]):
    pass


def test_a_class_that_can_be_imported_is_known_even_when_it_is_empty(run: Run) -> None:
    Ledger("ledger")
    run("put", "ledger", "5")
    assert list(Ledger("ledger")) == [5]


# tail


def test_tail(run: Run) -> None:
    Log[object]("log").extend(range(20))
    queue = Queue[object]("q")
    queue.put_many(range(20))
    queue.get()
    assert run("tail", "log").stdout.split() == [str(number) for number in range(10, 20)]
    assert run("tail", "-n", 2, "q").stdout.split() == ["18", "19"]
    assert run("tail", "-n", 0, "log").stdout == ""
    assert run("tail", "-n", 100, "q").stdout.split() == [str(number) for number in range(1, 20)]
    assert run("tail", "-n", "2", "log", "--json").stdout == "18\n19\n"
    assert queue.qsize() == 19


def test_tail_of_what_has_no_end(run: Run) -> None:
    Dict[str, int]("d")["x"] = 1
    assert "parkit get d" in run("tail", "d", code=1).stderr
