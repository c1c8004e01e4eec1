"""Assignments in a transaction go a short way where nothing is unusual (``dict_ops.assign``): here is what must not go it, each beside what does."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

import pytest

import parkit
from parkit import ContextError, Dict, NamespaceFullError, transaction
from parkit_async._core.keys import LONG_PREFIX


def test_keys_of_every_kind_by_turns() -> None:
    stock: Dict[object, object] = Dict("assignment/stock")
    unusual = [
        "\ud800",
        "long" * LONG_PREFIX,
        "long" * LONG_PREFIX + "er",
        1,
        2.5,
        ("a", 1),
        None,
        "",
        "é" * (LONG_PREFIX // 2),
        "x" * (LONG_PREFIX - 1),
    ]
    expected: dict[object, object] = {}
    with transaction(stock):
        for number in range(3):
            for key in unusual:
                stock["plain"] = expected["plain"] = number
                stock[key] = expected[key] = [number, key]
                stock[f"plain {number}"] = expected[f"plain {number}"] = "value"
    assert dict(stock.items()) == expected
    assert len(stock) == len(expected)


def test_two_handles_and_two_dicts_by_turns() -> None:
    one, other, another = Dict[str, int]("assignment/one"), Dict[str, int]("assignment/one"), Dict[str, int]("assignment/another")
    with transaction(one):
        for number in range(3):
            one[f"one {number}"] = number
            one["same"] = number
            other[f"other {number}"] = number
            another["same"] = -number
            other["same"] = number + 10
        assert one["same"] == 12 and len(one) == len(other) == 7
    assert len(one) == len(other) == 7 and dict(another.items()) == {"same": -2}


def test_an_iterator_made_in_between_keeps_what_it_saw() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")
    with transaction(stock):
        stock["a"] = stock["b"] = 1
        items = iter(stock.items())
        assert next(items) == ("a", 1)
        stock["b"] = 2
        stock["c"] = 3
        assert list(items) == [("b", 1)]
    assert dict(stock.items()) == {"a": 1, "b": 2, "c": 3}


def test_what_a_savepoint_takes_back_is_taken_back() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")
    with transaction(stock):
        stock["a"] = 1
        with suppress(ZeroDivisionError), transaction(stock, isolated=True):
            stock["a"] = 2
            stock["b"] = 1 // 0
        assert dict(stock.items()) == {"a": 1}
        stock["c"] = 3
        with transaction(stock, isolated=True):
            stock["c"] = 4
            stock["d"] = 5
        stock["d"] = 6
    assert dict(stock.items()) == {"a": 1, "c": 4, "d": 6} and len(stock) == 3


def test_a_dict_that_was_cleared_or_dropped_in_between() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")
    with transaction(stock):
        stock["a"] = stock["b"] = 1
        stock.clear()
        stock["c"] = 1
        assert dict(stock.items()) == {"c": 1}
        stock.drop()
        with pytest.raises(parkit.ObjectNotFoundError):
            stock["d"] = 1


def test_another_thread_does_not_assign_in_this_ones_transaction() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")
    begun = threading.Event()

    def assign() -> None:
        begun.set()
        stock["theirs"] = 1

    thread = threading.Thread(target=assign)
    with suppress(ZeroDivisionError), transaction(stock):
        stock["mine"] = 1
        thread.start()
        assert begun.wait(10)
        stock["mine"] = 1 // 0
    thread.join(10)
    assert dict(stock.items()) == {"theirs": 1}


def test_nor_does_a_task_that_runs_inside_of_it() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")

    async def assign() -> None:
        stock["task"] = 1

    with transaction(stock):
        stock["mine"] = 1
        with pytest.raises(ContextError):
            asyncio.run(assign())
        stock["mine"] = 2
    assert dict(stock.items()) == {"mine": 2}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nor_does_a_forked_child() -> None:
    stock: Dict[str, int] = Dict("assignment/stock")
    with transaction(stock):
        stock["parent"] = 1
        pid = os.fork()
        if not pid:
            try:
                stock["child"] = 1
            except ContextError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        stock["parent"] = 2
    assert dict(stock.items()) == {"parent": 2}


def test_a_full_namespace_refuses_and_keeps_what_fitted() -> None:
    parkit.set_namespace_size("assignment", 1 << 20)
    stock: Dict[str, bytes] = Dict("assignment/stock")
    stored = 0
    with transaction(stock):
        with suppress(NamespaceFullError):
            while stored < 10_000:
                stock[f"key {stored}"] = b"x" * 1000
                stored += 1
        assert len(stock) == stored < 10_000
    assert len(stock) == stored > 100


def test_a_codec_of_its_own_and_a_limited_namespace() -> None:
    texts: Dict[str, str] = Dict("assignment/texts", codec=parkit.json_codec)
    with transaction(texts):
        texts["a"] = texts["b"] = "plain"
    assert dict(texts.items()) == {"a": "plain", "b": "plain"}
    parkit.set_namespace_codecs("assignment", ["json"])
    limited: Dict[str, int] = Dict("assignment/limited")
    with transaction(limited), pytest.raises(parkit.CodecError):
        limited["a"] = 1
