"""What is in a store cannot make a terminal do anything: names, values, records and errors are shown with their control characters spelled out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import parkit
from parkit_async.cli import main

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b2J\x7f\u202e"
HARMFUL = [character for character in ESCAPES if not character.isprintable()]


class Unreadable:
    """Fails to be unpickled, with a message that would clear the screen."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ValueError(ESCAPES)


@pytest.fixture(autouse=True)
def full(store: Path) -> None:
    d = parkit.Dict[Any, Any]("ns/d")
    d[ESCAPES] = ESCAPES
    d["bad"] = Unreadable()
    d.colour = ESCAPES
    parkit.Log[Any]("ns/log").append({ESCAPES: ESCAPES})
    parkit.Queue[Any]("ns/q").put(ESCAPES)
    message = f"first\n\tsecond {ESCAPES}"
    parkit.syslog.append({"time": time.time(), "level": "INFO", "logger": ESCAPES, "message": message, "pid": 1, "process": ESCAPES})
    somebodys_own: Any = ESCAPES
    parkit.syslog.append(somebodys_own)


@pytest.mark.parametrize(
    "command",
    [
        ["get", "ns/d"],
        ["get", "ns/d", "--json"],
        ["get", "ns/d", ESCAPES],
        ["get", "ns/d", "bad"],
        ["get", "ns/d", "missing" + ESCAPES],
        ["get", "ns/d", "--attributes"],
        ["get", "ns/log"],
        ["get", "ns/q"],
        ["tail", "ns/log"],
        ["tail", "ns/log", "--json"],
        ["logs", "--system"],
        ["logs", "--system", "--json"],
        ["logs", ESCAPES],
        ["ls", ESCAPES],
        ["verify", ESCAPES],
        [ESCAPES],
        ["stat", "ns"],
    ],
    ids=lambda words: " ".join(words).replace(ESCAPES, "ESC"),
)
def test_no_escape_sequence_reaches_a_terminal(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(command)
    told = capsys.readouterr()
    # \u202e is left to the terminal in JSON, where text is text; it moves no cursor.
    allowed = "\u202e" if "--json" in command else ""
    assert not [character for character in HARMFUL if character in told.out + told.err and character not in allowed]
    assert told.out or told.err


def test_a_record_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--system"]) == 0
    assert "first\n\tsecond \\x1b]0;title" in capsys.readouterr().out
