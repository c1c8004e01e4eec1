"""The command in a real terminal: tables and colours where eyes read, Ctrl-C typed by a hand."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from parkit import Dict, Log, Queue
from parkit_async._core.registry import open_namespace
from tests.cli.conftest import Pipe, Terminal

pytestmark = pytest.mark.processes

Terminals = Callable[..., Terminal]
Pipes = Callable[..., Pipe]


def test_a_table_on_a_terminal(terminal: Terminals) -> None:
    Dict[str, bytes]("shop/stock")["tea"] = bytes(100_000)
    shown = terminal("ls")
    assert shown.finish() == 0
    title, row = shown.text.splitlines()
    assert re.split(" {2,}", title.strip()) == ["namespace", "objects", "used", "file", "limit"]
    assert re.fullmatch(r"shop +1 +1\d\d\.\d KiB +\d+\.\d KiB +1\.0 GiB *", row)
    assert "\x1b[1m" in shown.raw, "titles are bold"


def test_no_colours_where_none_are_wanted(terminal: Terminals) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    plain = terminal("doctor", NO_COLOR="1")
    assert plain.finish() == 0
    assert "\x1b[32m" not in plain.raw
    letters = terminal("ls", TERM="dumb")
    assert letters.finish() == 0
    assert "\x1b" not in letters.raw and "shop\t1\t" in letters.raw


def test_json_on_a_terminal_has_no_colours(terminal: Terminals) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    shown = terminal("get", "shop/stock", "--json")
    assert shown.finish() == 0
    assert shown.raw.replace("\r", "").startswith('[\n  {\n    "key": "tea",')
    assert "\x1b" not in shown.raw


def test_values_cannot_move_the_cursor(terminal: Terminals) -> None:
    Dict[str, str]("shop/stock")["[bold]\x1b[2J"] = "\x1b]0;title\x07 [red]not markup[/red]"
    shown = terminal("get", "shop/stock")
    assert shown.finish() == 0
    assert "\x1b[2J" not in shown.raw and "\x07" not in shown.raw
    assert "[bold]" in shown.text and "[red]not markup[/red]" in shown.text


def test_long_tables_are_cut_and_say_so(terminal: Terminals) -> None:
    Log[int]("log").extend(range(1500))
    shown = terminal("get", "log")
    assert shown.finish() == 0
    assert "1,000 of 1,500 are shown; --limit 0 shows all." in shown.text


def test_nothing_is_said_on_a_terminal_where_there_is_nothing(terminal: Terminals) -> None:
    shown = terminal("ls")
    assert shown.finish() == 0
    assert shown.text.startswith("There are no namespaces in ")


def test_wrong_usage_on_a_terminal(terminal: Terminals) -> None:
    shown = terminal("gett", "x")
    assert shown.finish() == 2
    assert shown.text == "parkit: there is no command 'gett'. Did you mean 'get'? See: parkit --help.\n"


# Following, and Ctrl-C.


def waiting(name: str) -> None:
    """Return when somebody waits in a namespace."""
    table = open_namespace(name).table
    while not table.anybody():
        pass


def test_tail_follows_a_log_until_ctrl_c(terminal: Terminals) -> None:
    log = Log[str]("log")
    log.append("before")
    shown = terminal("tail", "-f", "log")
    shown.wait_for("'before'\n")
    waiting("default")
    log.append("after")
    shown.wait_for("'after'\n")
    log.clear()
    log.append("anew")
    shown.wait_for("'anew'\n")
    shown.type("\x03")
    assert shown.finish() == 130
    assert "Traceback" not in shown.text and shown.text.endswith("^C\n")


def test_tail_of_a_queue_looks_and_takes_nothing(pipe: Pipes) -> None:
    queue = Queue[int]("orders")
    queue.put_many([1, 2, 3])
    shown = pipe("tail", "-n", 2, "-f", "orders")
    assert [shown.read_line(), shown.read_line()] == ["2", "3"]
    waiting("default")
    queue.put(4)
    assert shown.read_line() == "4"
    assert [queue.get() for _ in range(4)] == [1, 2, 3, 4]
    queue.put_many([5, 6])
    assert [shown.read_line(), shown.read_line()] == ["5", "6"]
    queue.clear()
    queue.put(7)
    assert shown.read_line() == "7"
    finished = shown.interrupt()
    assert (finished.exitcode, finished.stdout, finished.stderr) == (130, "", "")


def test_tail_goes_on_behind_what_cannot_be_decoded(pipe: Pipes) -> None:
    class Local:
        pass

    Local.__module__, Local.__qualname__ = "nowhere", "Local"
    log = Log[object]("log")
    shown = pipe("tail", "-f", "--json", "log")
    log.append(1)
    assert shown.read_line() == "1"
    from parkit_async._core import log_ops

    # A pickle of a class that is nowhere.
    frame = b"\x80\x05\x8c\x07nowhere\x8c\x05Local\x93."
    binding = log._binding
    binding.namespace.write(log_ops.append, binding, frame)
    log.append(2)
    assert "undecodable" in shown.read_line()
    assert shown.read_line() == "2"
    assert shown.interrupt().exitcode == 130


def test_tail_of_what_is_dropped_ends(pipe: Pipes) -> None:
    log = Log[int]("log")
    log.append(1)
    shown = pipe("tail", "-f", "log")
    assert shown.read_line() == "1"
    waiting("default")
    log.drop()
    finished = shown.finish()
    assert finished.exitcode == 1 and finished.stderr.startswith("parkit: ") and finished.stderr.count("\n") == 1


def test_put_that_waits_for_room_can_be_interrupted(terminal: Terminals) -> None:
    queue = Queue[int]("q", maxsize=1)
    queue.put(1)
    shown = terminal("put", "q", "2")
    waiting("default")
    shown.type("\x03")
    assert shown.finish() == 130
    assert queue.get() == 1 and queue.empty()
