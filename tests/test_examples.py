"""The examples do what they say, run as a reader runs them: real processes, a real terminal, a real HTTP client, real Ctrl-C.

Ctrl-C is SIGINT to the whole process group, as a terminal sends it. Each program is started as the leader of a group, so that the group also tells
whether it has left a process behind. A pool is in groups of its own: its processes are those that work on a store below the test's folder.
"""

from __future__ import annotations

import configparser
import json
import os
import pty
import queue
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from parkit import Dict, Log, Process, Queue, killall, pool_status, processes
from parkit_async._core.registry import close_all
from parkit_async._core.waiting import counters
from tests.conftest import ROOT

pytestmark = pytest.mark.processes

EXAMPLES = ROOT / "examples"
STDLIB = Path(sysconfig.get_path("stdlib"))
PATIENCE = 50.0  # seconds; less than the deadline of a test, so that a failure says what was missing

Start = Callable[..., "Program"]


class Program:
    """An example that runs as the leader of a process group, read line by line."""

    def __init__(self, command: list[str], environment: dict[str, str], errors: Path, merge: bool) -> None:
        self._errors = errors
        with errors.open("wb") as file:
            stderr = subprocess.STDOUT if merge else file
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, process_group=0, bufsize=0
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self._unread = b""

    @property
    def stderr(self) -> str:
        return self._errors.read_text()

    def read_until(self, pattern: str) -> str:
        """Return the output up to the end of the first line in which the pattern is found."""
        deadline, seen = time.monotonic() + PATIENCE, ""
        while not re.search(pattern, seen):
            line, end, rest = self._unread.partition(b"\n")
            if end:
                seen += line.decode() + "\n"
                self._unread = rest
            elif not self._read(deadline):
                pytest.fail(f"the program ended, and never printed {pattern!r}: {seen!r}, stderr: {self.stderr}")
        return seen

    def interrupt(self) -> None:
        """Do what Ctrl-C in its terminal would do."""
        os.killpg(self.process.pid, signal.SIGINT)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and the rest of the output. Fail if the program left a process behind."""
        self.input.close()
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        exitcode = self.process.wait(max(0.0, deadline - time.monotonic()))
        ended = time.monotonic()
        while self._has_group() and time.monotonic() < ended + 5.0:  # what multiprocessing starts ends a moment after its program
            threading.Event().wait(0.01)
        assert not self._has_group(), "the program has left a process behind"
        return exitcode, self._unread.decode()

    def _has_group(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Leave nothing of the program, whatever state it is in."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(PATIENCE)
        self.input.close()
        self.output.close()

    def _read(self, deadline: float) -> bytes:
        if not select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))[0]:
            pytest.fail(f"the program did not go on in time: {self._unread!r}, stderr: {self.stderr}")
        data = os.read(self.output.fileno(), 65536)
        self._unread += data
        return data


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return the folder that the examples take for the system's temporary one."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def start(scratch: Path, tmp_path: Path) -> Iterator[Start]:
    """Start an example on the test's store: ``start("script.py", *arguments, merge=False)``; ``merge`` puts its stderr into its output."""
    programs: list[Program] = []
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def start(name: str, *arguments: object, merge: bool = False) -> Program:
        environment = {**os.environ, "PYTHONPATH": search, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", "TMPDIR": str(scratch)}
        command = [sys.executable, name if name == "-m" else str(EXAMPLES / name), *map(str, arguments)]
        program = Program(command, environment, tmp_path / f"stderr_{len(programs)}", merge)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def no_pool(store: Path, tmp_path: Path) -> Iterator[None]:
    """End the pool of the test's store behind the test; fail if any other is left."""
    yield
    killall(PATIENCE)
    close_all()
    pool_status()  # whoever opens a store removes the sockets that killed workers have left there
    left = pool_of(tmp_path)
    for process in left:
        process.kill()
    assert not left


def pool_of(folder: Path) -> list[psutil.Process]:
    """Return supervisors and workers whose store is below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if "--store" in (line := process.cmdline()) and any(word.startswith(f"{folder}{os.sep}") for word in line):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Make a folder with five text files and a good many others."""
    folder = tmp_path / "texts"
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "one.txt").write_text("the cat and the dog\n")
    (folder / "deep" / "two.txt").write_text("The Über-cat, 42 times\n", encoding="utf-8")
    (folder / "deep" / "deeper" / "latin.txt").write_bytes("le café et le thé\n".encode("latin-1"))
    (folder / "empty.txt").touch()
    (folder / "with space \udcff.txt").write_text("dog")  # a name that is no UTF-8
    (folder / "binary.bin").write_bytes(b"the the the\0the")
    (folder / ".hidden").write_text("the the the")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "module.txt").write_text("the the the")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    return folder


class TestWordcount:
    def test_counts_a_folder(self, start: Start, texts: Path, scratch: Path) -> None:
        program = start("wordcount.py", "--folder", texts, "--workers", 3, "--top", 4)
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert f"Counting the words of 6 files in {texts} with 3 processes." in output
        assert "\n15 words, 10 different ones, in 5 text files\n" in output
        assert "\n1 file is not text or cannot be read, and was skipped\n" in output
        assert "\n             3  the\n             2  cat\n" in output
        assert "Every total is equal to the single-process count" in output
        assert "The store is a temporary one" in output
        assert not list(scratch.iterdir())

    def test_counts_a_part_of_the_standard_library(self, start: Start) -> None:
        program = start("wordcount.py", "--folder", STDLIB / "email")
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert "Every total is equal to the single-process count" in output
        assert re.search(r"^ +[\d,]+  self$", output, re.MULTILINE)

    @pytest.mark.slow
    def test_counts_the_standard_library_by_default(self, start: Start, scratch: Path) -> None:
        program = start("wordcount.py")
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert f"files in {STDLIB} with " in output
        assert "Every total is equal to the single-process count" in output
        assert not list(scratch.iterdir())

    def test_keeps_a_store_and_replaces_the_counts_in_it(self, start: Start, texts: Path, store: Path) -> None:
        for _ in range(2):
            program = start("wordcount.py", "--folder", texts, "--store", store)
            exitcode, output = program.finish()
            assert (exitcode, program.stderr) == (0, "")
            assert f"The counts will be kept in the store {store}." in output
            words: Dict[str, int] = Dict("wordcount/words", create=False)
            reports: Log[tuple[str, int | None]] = Log("wordcount/reports", create=False)
            assert words["the"] == 3
            assert words["über"] == 1
            assert len(words) == 10
            assert sorted(number for _, number in reports if number is not None) == [0, 1, 4, 5, 5]

    # The moments: the folder is searched; the workers start; they count; the single process counts.
    @pytest.mark.parametrize("moment", ["The store is", "Counting the words", "  [0-9,]+ of", "words per second"])
    def test_ctrl_c_ends_it_at_any_moment(self, start: Start, scratch: Path, moment: str) -> None:
        program = start("wordcount.py", "--workers", 3)
        program.read_until(moment)
        program.interrupt()
        exitcode, output = program.finish()
        assert exitcode == 130, output
        assert program.stderr == "\nwordcount: interrupted; no process and no store is left\n"
        assert "single-process count" not in output
        assert not list(scratch.iterdir())

    def test_an_interrupted_count_agrees_with_its_reports(self, start: Start, store: Path) -> None:
        program = start("wordcount.py", "--workers", 3, "--store", store)
        program.read_until("  [0-9,]+ of")
        program.interrupt()
        assert program.finish()[0] == 130
        words: Dict[str, int] = Dict("wordcount/words", create=False)
        reports: Log[tuple[str, int | None]] = Log("wordcount/reports", create=False)
        assert sum(words.values()) == sum(number or 0 for _, number in reports) > 0
        assert len({path for path, _ in reports}) == len(reports)

    def test_a_killed_worker_takes_at_most_its_own_file_with_it(self, start: Start) -> None:
        program = start("wordcount.py", "--workers", 3)
        program.read_until("  [0-9,]+ of")
        psutil.Process(program.process.pid).children()[0].kill()
        exitcode, output = program.finish()
        assert "NOT equal" not in output
        if exitcode == 0:  # it was killed between two files
            assert "Every total is equal to the single-process count" in output
        else:
            assert exitcode == 1
            assert re.search(
                r"^wordcount: worker \d+ ended with exit code -9, and with it the file that it was counting$", program.stderr, re.MULTILINE
            )
            assert "Traceback" not in program.stderr

    def test_keeps_one_line_up_to_date_on_a_terminal(self, texts: Path, scratch: Path) -> None:
        terminal, end = pty.openpty()
        command = [sys.executable, str(EXAMPLES / "wordcount.py"), "--folder", str(texts)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=environment) as process:
            os.close(end)
            shown = b""
            while True:
                assert select.select([terminal], [], [], PATIENCE)[0]
                try:
                    data = os.read(terminal, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                shown += data
        os.close(terminal)
        assert process.returncode == 0
        assert b"\r  6 of 6 files, 15 words\x1b[K\r\n" in shown
        assert shown.count(b"\r  ") == shown.count(b"\x1b[K")

    def test_plain_lines_elsewhere(self, start: Start, texts: Path) -> None:
        _, output = start("wordcount.py", "--folder", texts).finish()
        assert "\n  6 of 6 files, 15 words\n" in output
        assert "\x1b" not in output
        assert "\r" not in output

    def test_the_reader_of_its_output_may_leave(self, start: Start, texts: Path) -> None:
        program = start("wordcount.py", "--folder", texts)
        program.read_until("The store is")
        program.output.close()
        assert program.process.wait(PATIENCE) in {0, 1}
        assert "Traceback" not in program.stderr
        assert "BrokenPipe" not in program.stderr

    def test_help(self, start: Start) -> None:
        exitcode, output = start("wordcount.py", "--help").finish()
        assert exitcode == 0
        for word in ("--workers", "--folder", "--store", "--top", "examples:", str(STDLIB)):
            assert word in output.replace("\n" + 24 * " ", "")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--folder", "/not/there"], "'/not/there' is not there; give an existing folder"),
            (["--folder", __file__], "is a file, not a folder"),
            (["--workers", "0"], "argument --workers: '0' is not a whole number from 1 on"),
            (["--workers", "many"], "argument --workers: 'many' is not a whole number from 1 on"),
            (["--top", "-3"], "argument --top: '-3' is not a whole number from 1 on"),
            (["books"], "unrecognized arguments: books"),
        ],
    )
    def test_wrong_arguments_are_explained(self, start: Start, arguments: list[str], message: str) -> None:
        program = start("wordcount.py", *arguments)
        assert program.finish()[0] == 2
        assert message in program.stderr
        assert "usage: wordcount.py" in program.stderr
        assert "Traceback" not in program.stderr

    def test_a_folder_without_files_is_explained(self, start: Start, tmp_path: Path, scratch: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        program = start("wordcount.py", "--folder", empty)
        assert program.finish()[0] == 1
        assert program.stderr.startswith(f"wordcount: there are no files to count in '{empty}'")
        assert not list(scratch.iterdir())

    def test_a_store_that_cannot_be_used_is_explained(self, start: Start, texts: Path) -> None:
        program = start("wordcount.py", "--folder", texts, "--store", texts / "one.txt")
        assert program.finish()[0] == 1
        assert program.stderr.startswith("wordcount: ")
        assert "one.txt" in program.stderr
        assert "Traceback" not in program.stderr


@pytest.mark.usefixtures("no_pool")
class TestQuickstart:
    @pytest.fixture
    def books(self, tmp_path: Path) -> Path:
        """Make a folder of 400 text files, which take a second or two to count."""
        folder = tmp_path / "books"
        folder.mkdir()
        for number in range(400):
            words = (f"word{'abcdefghij'[(number + place) % 10]} chapter the Over " for place in range(2000))
            (folder / f"book {number}.txt").write_text("".join(words))
        (folder / "picture.png").write_bytes(b"the the")
        return folder

    def test_a_killed_workers_files_are_counted_again_once(self, start: Start, books: Path, scratch: Path, tmp_path: Path) -> None:
        program = start("quickstart.py", books, "--workers", 3, "--top", 2)
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert f"Counting the words of 400 files in {books} with 3 processes.\n" in output
        killed = r"  kill -9 \d+: a worker, in the middle of counting\n"
        replaced = r"  quickstart/counter-[123] has crashed, exit code -9: quickstart/counter-4 counts the 10 files that it had taken\n"
        assert re.search(killed + r"(?:  \d+ of 400 files\n)*" + replaced, output)
        assert output.count("crashed") == 1
        assert "\n3,200,000 words, 13 different ones, in 400 files;" in output
        assert re.search(r"\n\n       800,000  \w+\n       800,000  \w+\n\n", output)
        assert "Every file was counted once, and every total is equal to the single-process count." in output
        assert not list(scratch.iterdir())
        assert not pool_of(tmp_path)

    @pytest.mark.slow
    def test_counts_the_standard_library_by_default(self, start: Start, scratch: Path) -> None:
        program = start("quickstart.py")
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert f"files in {STDLIB} with " in output
        assert "has crashed, exit code -9" in output
        assert "Every file was counted once" in output
        assert not list(scratch.iterdir())

    def test_keeps_the_totals_in_a_store_and_replaces_them(self, start: Start, texts: Path, store: Path, tmp_path: Path) -> None:
        for _ in range(2):
            program = start("quickstart.py", texts, "--store", store)
            exitcode, output = program.finish()
            assert (exitcode, program.stderr) == (0, "")
            assert "Every file was counted once" in output
            words: Dict[str, int] = Dict("quickstart/words", create=False)
            reports: Log[tuple[str, int]] = Log("quickstart/reports", create=False)
            assert words["the"] == 3
            assert sorted(number for _, number in reports) == [0, 1, 4, 5, 5]
            assert not list(processes())
            assert not pool_of(tmp_path)

    def test_leaves_a_pool_alone_that_serves_others(self, start: Start, texts: Path, store: Path) -> None:
        other = Process(target=abs, args=(-1,))
        other.start()
        assert other.get_result(PATIENCE) == 1
        supervisor = pool_status()["pid"]
        assert start("quickstart.py", texts, "--store", store).finish()[0] == 0
        assert pool_status()["pid"] == supervisor
        assert [process.name for process in processes()] == [other.name]

    def test_survives_the_death_of_its_supervisor(self, start: Start, books: Path, scratch: Path) -> None:
        program = start("quickstart.py", books)
        program.read_until("  [0-9]+ of")
        (supervisor,) = (process for process in pool_of(scratch) if any("parkit_async.service" in word for word in process.cmdline()))
        supervisor.kill()
        exitcode, output = program.finish()
        assert (exitcode, program.stderr) == (0, "")
        assert "Every file was counted once" in output
        assert not list(scratch.iterdir())

    # The moments: the supervisor starts; the workers count; one was killed; one was replaced.
    @pytest.mark.parametrize("moment", ["Counting the words", "  [0-9]+ of", "  kill -9", "has crashed"])
    def test_ctrl_c_ends_it_at_any_moment(self, start: Start, books: Path, scratch: Path, tmp_path: Path, moment: str) -> None:
        program = start("quickstart.py", books, "--workers", 3)
        program.read_until(moment)
        program.interrupt()
        exitcode, output = program.finish()
        assert exitcode == 130, output
        assert program.stderr == "\nquickstart: interrupted; no process is left\n"
        assert "single-process count" not in output
        assert not pool_of(tmp_path)
        assert not list(scratch.iterdir())

    def test_an_interrupted_count_agrees_with_its_reports(self, start: Start, books: Path, store: Path) -> None:
        program = start("quickstart.py", books, "--store", store)
        program.read_until("  [0-9]+ of")
        program.interrupt()
        assert program.finish()[0] == 130
        words: Dict[str, int] = Dict("quickstart/words", create=False)
        reports: Log[tuple[str, int]] = Log("quickstart/reports", create=False)
        assert sum(words.values()) == sum(number for _, number in reports) > 0
        assert len({path for path, _ in reports}) == len(reports)
        assert not list(processes())

    def test_shows_a_bar_on_a_terminal(self, books: Path, scratch: Path, tmp_path: Path) -> None:
        exitcode, shown = on_terminal([books], scratch)
        assert exitcode == 0
        assert "400/400" in shown
        assert "\x1b[" in shown
        assert "a worker, in the middle of counting" in shown
        assert "Every file was counted once" in shown
        assert not pool_of(tmp_path)

    def test_ctrl_c_typed_on_a_terminal(self, books: Path, scratch: Path, tmp_path: Path) -> None:
        exitcode, shown = on_terminal([books], scratch, {r"[1-9]\d*/400": b"\x03"})
        assert exitcode == 130
        assert "quickstart: interrupted; no process is left" in shown
        assert "\x1b[?25h" in shown  # the cursor is there again
        assert "Traceback" not in shown
        assert not pool_of(tmp_path)
        assert not list(scratch.iterdir())

    def test_the_reader_of_its_output_may_leave(self, start: Start, books: Path, tmp_path: Path) -> None:
        program = start("quickstart.py", books)
        program.read_until("Counting the words")
        program.output.close()
        assert program.process.wait(PATIENCE) == 1
        assert program.stderr == ""
        assert not pool_of(tmp_path)

    def test_help(self, start: Start) -> None:
        exitcode, output = start("quickstart.py", "--help").finish()
        assert exitcode == 0
        for word in ("folder", "--workers", "--store", "--top", str(STDLIB)):
            assert word in output.replace("\n" + 24 * " ", "")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["/not/there"], "'/not/there' is not there; give an existing folder"),
            ([__file__], "is a file, not a folder"),
            (["--workers", "0"], "argument --workers: '0' is not a whole number from 1 on"),
            (["--top", "some"], "argument --top: 'some' is not a whole number from 1 on"),
        ],
    )
    def test_wrong_arguments_are_explained(self, start: Start, arguments: list[str], message: str) -> None:
        program = start("quickstart.py", *arguments)
        assert program.finish()[0] == 2
        assert message in program.stderr
        assert "Traceback" not in program.stderr

    def test_what_cannot_be_counted_is_explained(self, start: Start, texts: Path, tmp_path: Path, scratch: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        program = start("quickstart.py", empty)
        assert program.finish()[0] == 1
        assert program.stderr.startswith(f"quickstart: there are no files to count in '{empty}'")
        program = start("quickstart.py", texts, "--store", texts / "one.txt")
        assert program.finish()[0] == 1
        assert program.stderr.startswith("quickstart: ")
        assert "Traceback" not in program.stderr
        assert not list(scratch.iterdir())


def on_terminal(arguments: list[object], scratch: Path, typed: dict[str, bytes] | None = None) -> tuple[int, str]:
    """Run the quickstart on a terminal of its own; return its exit code and all that it has shown.

    ``typed`` has what is typed, once each, when a pattern has been shown.
    """
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "TERM": "xterm", "COLUMNS": "200"}
    terminal, end = pty.openpty()
    waiting = dict(typed or {})
    try:
        # login_tty makes it the terminal of the program's session, so that what is typed there becomes a signal.
        with subprocess.Popen(command, env=environment, start_new_session=False, preexec_fn=lambda: os.login_tty(end)) as process:
            os.close(end)
            shown = b""
            while True:
                assert select.select([terminal], [], [], PATIENCE)[0], shown
                try:
                    data = os.read(terminal, 65536)
                except OSError:  # the other end is closed
                    break
                if not data:
                    break
                shown += data
                for pattern in [pattern for pattern in waiting if re.search(pattern, shown.decode(errors="replace"))]:
                    os.write(terminal, waiting.pop(pattern))
    finally:
        os.close(terminal)
    return process.returncode, shown.decode()


FIRST_RUN = """\
This is run 1.
There is no pepper.
In stock: {'coffee': 1, 'salt': 1, 'tea': 1} in key order, with salt, tea from s on.
Sold in all runs: 3, the last one: 'run 1: sold tea'.
"""


def test_script_remembers(start: Start) -> None:
    program = start("script.py")
    assert program.finish() == (0, FIRST_RUN)
    assert program.stderr == ""
    exitcode, output = start("script.py").finish()
    assert exitcode == 0
    assert "This is run 2." in output
    assert "Sold in all runs: 6, the last one: 'run 2: sold tea'." in output


PROCESSES = """\
10 lines, from 10 processes.
The sum is 10, the mean 2.5.
A coroutine has returned: both are over.
It has failed, exit code 1: this one has no result
It has crashed, exit code 3.
The pool waits for more. `parkit pool stop` ends it.
"""


@pytest.mark.usefixtures("no_pool")
@pytest.mark.untraceable
def test_processes_do_what_is_said(start: Start) -> None:
    for _ in range(2):
        program = start("processes.py")
        assert program.finish() == (0, PROCESSES)
        assert program.stderr == ""
        assert not list(processes())
    assert pool_status()["running"]


@pytest.mark.usefixtures("no_pool")
class TestService:
    @pytest.fixture
    def dispatcher(self, start: Start) -> Program:
        program = start("service/dispatcher.py", merge=True)
        program.read_until("dispatcher: ready")
        return program

    @pytest.fixture
    def requests(self, store: Path) -> Queue[Any]:
        return Queue("service/requests")

    @pytest.fixture
    def reports(self, store: Path) -> Log[dict[str, Any]]:
        return Log("service/reports")

    def test_runs_and_reports_each_request_once(
        self, dispatcher: Program, requests: Queue[Any], reports: Log[dict[str, Any]], tmp_path: Path
    ) -> None:
        (tmp_path / "lines").write_text("1\n2\n3\n")
        asked = [["count_lines", str(tmp_path / "lines")], ["pause", 0.01], ["dance"], 5]
        for request in asked:
            requests.put(request)
        found = {json.dumps(report["request"]): report for _, report in zip(asked, reports.follow(timeout=PATIENCE), strict=False)}
        assert [found[json.dumps(request)]["status"] for request in asked] == ["finished", "finished", "failed", "failed"]
        assert [found[json.dumps(request)]["result"] for request in asked] == [3, "paused for 0.01 s", None, None]
        assert found['["dance"]']["error"] == "KeyError: 'dance'"
        assert found["5"]["error"].startswith("TypeError: ")
        dispatcher.process.terminate()
        assert dispatcher.finish() == (0, "")
        assert len(reports) == len(asked)
        assert not list(processes())

    def test_what_a_killed_dispatcher_has_started_is_reported_by_the_next(
        self, dispatcher: Program, start: Start, requests: Queue[Any], reports: Log[dict[str, Any]], tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)  # reading it waits for a writer
        version = requests.version
        requests.put(["count_lines", str(pipe)])
        while requests.qsize():
            assert requests.wait_changed(version, PATIENCE)
            version = requests.version
        dispatcher.process.kill()
        assert dispatcher.finish()[0] == -signal.SIGKILL
        assert len(reports) == 0
        second = start("service/dispatcher.py", merge=True)
        second.read_until("dispatcher: ready")
        pipe.write_text("1\n2\n")
        report = next(reports.follow(timeout=PATIENCE))
        assert (report["status"], report["result"]) == ("finished", 2)
        second.interrupt()
        assert second.finish() == (0, "")
        assert len(reports) == 1

    def test_a_killed_workers_request_is_reported_as_crashed(
        self, dispatcher: Program, requests: Queue[Any], reports: Log[dict[str, Any]], tmp_path: Path
    ) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        requests.put(["count_lines", str(pipe)])
        with pipe.open("w"):  # returns when the worker has opened the other end, which it reads until this is closed
            (process,) = processes("running")
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            report = next(reports.follow(timeout=PATIENCE))
        assert report["status"] == "crashed"
        assert "SIGKILL" in report["error"]
        dispatcher.interrupt()
        assert dispatcher.finish() == (0, "")

    def test_the_unit_is_what_the_supervisor_does(self, tmp_path: Path, store: Path) -> None:
        unit = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(EXAMPLES / "service" / "parkit.service")
        service = unit["Service"]
        assert service["Type"] == "notify"
        assert "HUP" in service["ExecReload"]
        parkit, *arguments = shlex.split(service["ExecStart"])
        assert Path(parkit).name == "parkit"
        told = tmp_path / "told"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, (tmp_path / "log").open("wb") as log:
            listener.settimeout(PATIENCE)
            listener.bind(str(told))
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(told), "WATCHDOG_USEC": "100000"}
            with subprocess.Popen([sys.executable, "-m", "parkit", *arguments], env=environment, stdout=log, stderr=log, cwd=tmp_path) as supervisor:
                try:
                    assert listener.recv(100) == b"READY=1"
                    assert [listener.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
                    assert pool_status()["pid"] == supervisor.pid
                    supervisor.send_signal(signal.SIGHUP)
                    supervisor.send_signal(signal.SIGTERM)
                    while (message := listener.recv(100)) == b"WATCHDOG=1":
                        pass
                    assert message == b"STOPPING=1"
                    assert supervisor.wait(PATIENCE) == 0
                finally:
                    supervisor.kill()

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
    @pytest.mark.parametrize("name", ["parkit.service", "dispatcher.service"])
    def test_systemd_understands_the_units(self, tmp_path: Path, name: str) -> None:
        for unit in ("parkit.service", "dispatcher.service"):
            text = (EXAMPLES / "service" / unit).read_text()
            (tmp_path / unit).write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
        done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


class TestWebQueue:
    @pytest.fixture
    def server(self, start: Start) -> Iterator[Program]:
        server = start("web_queue.py", "--port", 0, merge=True)
        yield server
        if server.process.poll() is None:
            server.process.terminate()
            server.finish()

    @pytest.fixture
    def browser(self, server: Program) -> Iterator[httpx.Client]:
        address = re.search(r"http://127\.0\.0\.1:\d+", server.read_until("Uvicorn running on"))
        assert address is not None
        with httpx.Client(base_url=address[0], timeout=PATIENCE, trust_env=False) as client:
            yield client

    def test_shows_a_page_that_listens(self, browser: httpx.Client) -> None:
        answer = browser.get("/")
        assert answer.status_code == 200
        assert 'new EventSource("/events")' in answer.text

    def test_streams_what_another_process_puts(self, browser: httpx.Client, start: Start) -> None:
        with browser.stream("GET", "/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            items = items_of(stream)
            producer = start("web_producer.py")
            for line in ("first", "<b>second</b>", "drītais"):
                producer.input.write(f"{line}\n".encode())
                assert next(items) == line  # it comes while the producer goes on
            assert producer.finish() == (0, "3 lines are in the queue, or were fetched from it already.\n")

    def test_two_browsers_get_each_item_once(self, server: Program, browser: httpx.Client, start: Start) -> None:
        lines = [str(number) for number in range(200)]
        seen: queue.SimpleQueue[str] = queue.SimpleQueue()
        with browser.stream("GET", "/events") as one, browser.stream("GET", "/events") as other, ThreadPoolExecutor(2) as threads:
            readers = [threads.submit(collect, stream, seen) for stream in (one, other)]
            producer = start("web_producer.py")
            producer.input.write("".join(f"{line}\n" for line in lines).encode())
            assert producer.finish()[0] == 0
            arrived = [seen.get(timeout=PATIENCE) for _ in lines]
            server.process.terminate()
            for reader in readers:
                reader.result()  # the streams came to a regular end
        assert sorted(arrived, key=int) == lines
        assert seen.empty()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_ends_it_while_browsers_are_connected(self, server: Program, browser: httpx.Client, number: signal.Signals) -> None:
        with browser.stream("GET", "/events") as one, browser.stream("GET", "/events") as other:
            first = [next(stream.iter_lines()) for stream in (one, other)]
            assert first == [": connected"] * 2
            os.killpg(server.process.pid, number)
            exitcode, output = server.finish()
        assert exitcode == (0 if number == signal.SIGINT else -signal.SIGTERM)
        assert "Finished server process" in output
        assert "Traceback" not in output
        assert "ERROR" not in output

    def test_ctrl_c_ends_a_producer_that_waits_for_room(self, start: Start, store: Path) -> None:
        producer = start("web_producer.py")
        producer.input.write(b"line\n" * 101)
        lines: Queue[str] = Queue("web/queue", maxsize=100)
        rechecks, version = counters.rechecks, lines.version
        while lines.qsize() < 100:
            assert lines.wait_changed(version)
            version = lines.version
        assert counters.rechecks == rechecks  # a queue's changes once woke nobody who waited for a change
        producer.interrupt()
        assert producer.finish() == (130, "")
        assert re.fullmatch(r"\nweb_producer: interrupted, at line 10[01]\n", producer.stderr)  # maybe it had not noticed yet that the 100th is in
        assert lines.qsize() == 100


@pytest.mark.usefixtures("no_pool")
class TestWebOrders:
    """The service with a consumer, in one process and in several."""

    @pytest.mark.parametrize("processes", [1, 2])
    def test_every_order_is_packed_once(self, start: Start, store: Path, processes: int) -> None:
        if processes == 1:
            server = start("web_orders.py", "--port", 0, merge=True)
            address = re.search(r"http://[\d.]+:\d+", server.read_until("Uvicorn running on"))
        else:
            options = ["--app-dir", EXAMPLES, "--port", 0, "--workers", processes]
            server = start("-m", "uvicorn", "web_orders:app", *options, merge=True)
            address = re.search(r"http://[\d.]+:\d+", server.read_until("Uvicorn running on"))
            for _ in range(processes):
                server.read_until("Application startup complete")
        assert address is not None
        with httpx.Client(base_url=address[0], timeout=PATIENCE, trust_env=False) as client:
            assert client.post("/orders/tea", params={"count": 0}).status_code == 422
            with ThreadPoolExecutor(4) as threads:
                posted = list(threads.map(lambda _: client.post("/orders/tea", params={"count": 2}), range(12)))
            assert {response.status_code for response in posted} == {202}
            waiting: Queue[Any] = Queue("orders/orders")
            assert waiting.join(timeout=PATIENCE)
            assert client.get("/stock/tea").json() == {"stock": 100 - 24, "packed": 24.0}
        server.interrupt()
        exitcode, output = server.finish()
        assert exitcode in {0, -signal.SIGINT}, output
        assert "Traceback" not in output and "ERROR" not in output
        assert not list(processes_of("executor"))


def processes_of(namespace: str) -> list[str]:
    return [process.name for process in processes() if process.namespace == namespace]


class TestWebPrefork:
    def test_counts_are_exact_over_processes_and_threads(self, start: Start) -> None:
        server = start("web_prefork.py", "--port", 0, "--processes", 3)
        address = server.read_until("http://").strip()
        visits = 60

        def visit(_: int) -> tuple[int, int]:
            # A connection for each visit: the kernel gives each to one of the processes.
            answer = httpx.post(address, timeout=PATIENCE, trust_env=False).json()
            return answer["total"], answer["process"]

        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(visit, range(visits)))
        assert sorted(total for total, _ in answers) == list(range(1, visits + 1))
        shown = httpx.get(address, timeout=PATIENCE, trust_env=False).json()
        answered = [process for _, process in answers]
        assert shown == {"total": visits, **{f"by process {process}": answered.count(process) for process in set(answered)}}
        # One dies in the middle of whatever it does; the others go on.
        os.kill(answered[0], signal.SIGKILL)
        if len(set(answered)) > 1:
            assert httpx.post(address, timeout=PATIENCE, trust_env=False).json()["total"] > visits
        server.process.send_signal(signal.SIGTERM)
        exitcode, _ = server.finish()
        assert (exitcode, server.stderr) == (0, "")


def items_of(stream: httpx.Response) -> Iterator[str]:
    """Iterate over the items in a stream of events."""
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def collect(stream: httpx.Response, seen: queue.SimpleQueue[str]) -> None:
    """Put the items of a stream into ``seen`` until it ends."""
    for item in items_of(stream):
        seen.put(item)
