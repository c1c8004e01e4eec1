"""What a run prints and logs: kept, whole and in its order, readable while it runs and after any end."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

import parkit
from tests.faces.face import Face

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes


def ended(face: Face, target: Any, *args: Any, path: str | None = None) -> Any:
    process = face.Process(path, target=target, args=args)
    process.start()
    assert process.join(PATIENCE)
    return process


def test_every_way_to_write_is_kept_in_order(face: Face) -> None:
    lines = list(ended(face, targets.say_in_every_way).output.lines())
    logged = lines.pop(7)
    assert lines == ["print", "stderr", "no end of line", "os.write", "subprocess", "complaint", "C stdio", "\N{SNOWMAN} \\udcff"]
    assert re.fullmatch(r"[-\d]+ [:,\d]+ WARNING tests\.pool: logged 1", logged)


def test_output_as_bytes_text_and_lines(face: Face) -> None:
    output = ended(face, targets.say, "one", "two").output
    assert output.text() == str(output) == "one\ntwo\n"
    assert output.read() == b"one\ntwo\n" and output.read(4) == output.read(-4) == b"two\n" and output.read(0, 3) == b"one"
    assert list(output.lines()) == ["one", "two"] and output.size() == 8
    assert Path(output.path).read_text() == "one\ntwo\n"
    assert isinstance(output, parkit.Output)


@pytest.mark.parametrize("status", ["created", "finished"])
def test_no_output_is_empty(face: Face, status: str) -> None:
    process = face.Process(target=targets.nothing) if status == "created" else ended(face, targets.nothing)
    assert (process.output.text(), process.output.size(), list(process.output.lines())) == ("", 0, [])


def test_the_output_of_a_crashed_process_is_kept(face: Face) -> None:
    process = ended(face, targets.say_and_crash)
    assert (process.status, process.exitcode) == ("crashed", 9)
    assert process.output.text() == "before the end\n"
    assert Path(process.error.output).read_text() == "before the end\n"


def test_an_exception_is_printed_as_multiprocessing_does(face: Face) -> None:
    process = ended(face, targets.say_without_end_and_fail, path="ns/p")
    text = process.output.text()
    assert text.startswith("half a line") and "Process ns/p:\nTraceback (most recent call last):\n" in text and text.endswith("ValueError: oops\n")


def test_no_output_reaches_the_next_process(face: Face) -> None:
    processes = [ended(face, targets.say, f"number {number}") for number in range(6)]
    assert [process.output.text() for process in processes] == [f"number {number}\n" for number in range(6)]


# Following.


def test_output_is_read_while_the_process_runs(face: Face) -> None:
    process = face.Process(target=targets.say_and_hold, args=("ns/x",))
    process.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    assert process.output.text() == "first\n" and process.status == "running"
    face.Queue("ns/x-gate").put(None)
    assert process.join(PATIENCE) and process.output.text() == "first\nsecond\n"


def test_output_is_followed_while_it_runs_and_ends_with_it(face: Face) -> None:
    process = face.Process(target=targets.say_and_hold, args=("ns/x",))
    lines = iter(process.follow()) if face.name == "blocking" else None
    process.start()
    lines = lines or iter(process.follow())
    assert next(lines) == "first"
    assert process.status == "running"
    face.Queue("ns/x-gate").put(None)
    assert list(lines) == ["second"]
    assert process.status == "finished"


def test_following_gives_up_after_a_timeout_without_a_line(face: Face) -> None:
    process = face.Process(target=targets.say_and_hold, args=("ns/x",))
    process.start()
    face.Queue("ns/x-running").get(timeout=PATIENCE)
    assert list(process.follow(timeout=0.05)) == ["first"]
    assert process.status == "running"
    process.kill()


@pytest.mark.parametrize(
    ("target", "args", "expected"),
    [(targets.say, ("one", "two"), ["one", "two"]), (targets.nothing, (), []), (targets.say_and_crash, (), ["before the end"])],
    ids=["finished", "silent", "crashed"],
)
def test_following_what_has_ended_gives_all_and_ends(face: Face, target: Any, args: Any, expected: list[str]) -> None:
    assert list(ended(face, target, *args).follow()) == expected


def test_following_ends_when_the_process_is_killed(face: Face) -> None:
    process = face.Process(target=targets.say_and_hold, args=("ns/x",))
    process.start()
    lines = iter(process.follow())
    assert next(lines) == "first"
    process.kill()
    assert list(lines) == [] and process.exitcode == -9


def test_a_long_output_is_followed_whole(face: Face) -> None:
    process = face.Process(target=targets.say_much, args=("ns/x", 20_000))
    process.start()
    face.Queue("ns/x-gate").put(None)
    lines = list(process.follow())
    assert len(lines) == 20_001 and lines[:2] == ["0000000", "0000001"] and lines[-2:] == ["0019999", "last"]


def test_an_abandoned_follower_leaves_nothing(face: Face) -> None:
    process = ended(face, targets.say, "one", "two")
    lines = iter(process.follow())
    assert next(lines) == "one"
    del lines  # the search for leaks behind the test does the rest


# Log records.


def test_log_records_go_to_the_output_and_to_syslog(face: Face) -> None:
    process = ended(face, targets.log_all_levels, path=f"ns/logs-{face.name}")
    assert [line.split(" ", 2)[2] for line in process.output.lines()] == ["INFO tests.pool: an info record", "ERROR tests.pool: an error record"]
    records = [record for record in face.syslog if record["process"] == process.path]
    assert [(record["level"], record["logger"], record["message"], record["pid"]) for record in records] == [
        ("INFO", "tests.pool", "an info record", process.pid),
        ("ERROR", "tests.pool", "an error record", process.pid),
    ]


def test_syslog_keeps_tracebacks(face: Face) -> None:
    process = ended(face, targets.log_exception, path=f"ns/fails-{face.name}")
    [record] = [record for record in face.syslog if record["process"] == process.path]
    assert record["message"].startswith("it failed\nTraceback") and record["message"].endswith("ValueError: oops")


def test_syslog_tells_of_crashes(face: Face) -> None:
    process = ended(face, targets.say_and_crash, path=f"ns/crashes-{face.name}")
    face.until(lambda: any(process.path in record["message"] for record in face.syslog))  # whoever waits for the end is told first
    [record] = [record for record in face.syslog if process.path in record["message"]]
    assert (record["level"], record["logger"]) == ("WARNING", "parkit.supervisor")
    assert str(process.pid) in record["message"] and "left with 9" in record["message"]


def test_a_program_feeds_syslog_with_a_handler(face: Face) -> None:
    logger = logging.getLogger("tests.pool.program")
    logger.propagate = False
    handler = face.module.SyslogHandler(logging.WARNING)
    logger.addHandler(handler)
    before = len(face.syslog)
    try:
        logger.info("not this")
        logger.warning("this, %s", "formatted")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert len(face.syslog) == before + 1
    record = face.syslog[-1]
    assert (record["level"], record["logger"], record["message"], record["process"]) == (
        "WARNING", "tests.pool.program", "this, formatted", None,
    )  # fmt: skip


def test_syslog_is_a_Log_that_no_list_shows(face: Face, pool: Pool) -> None:
    face.Dict("ns/d")
    ended(face, targets.log_all_levels)
    assert isinstance(face.raw(face.syslog), face.module.Log)
    assert not [path for namespace in face.namespaces() for path, _ in face.objects(namespace) if "syslog" in path]
    assert not [name for name in face.namespaces() if name.startswith("_")]


def test_importing_parkit_changes_no_logging_configuration(run_script: Any) -> None:
    found = run_script("""
        import logging
        before = dict(logging.root.__dict__), logging.getLogger().handlers[:]
        import parkit, parkit_async
        [getattr(module, name) for module in (parkit, parkit_async) for name in module.__all__]
        after = dict(logging.root.__dict__), logging.getLogger().handlers[:]
        print(before == after, [name for name in logging.root.manager.loggerDict if name.startswith("parkit") and logging.getLogger(name).handlers])
    """)
    assert found.stdout == "True []\n"
