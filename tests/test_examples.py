"""The examples do what they say, run as a reader runs them: real processes, a real terminal, a real HTTP client, real Ctrl-C.

Ctrl-C is SIGINT to the whole process group, as a terminal sends it. Each program is started as the leader of a group, so that the group also tells
whether it has left a process behind.
"""

from __future__ import annotations

import json
import os
import pty
import queue
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from parkit import Dict, Log, Queue
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
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return exitcode, self._unread.decode()

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
        command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
        program = Program(command, environment, tmp_path / f"stderr_{len(programs)}", merge)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.close()


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


def items_of(stream: httpx.Response) -> Iterator[str]:
    """Iterate over the items in a stream of events."""
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def collect(stream: httpx.Response, seen: queue.SimpleQueue[str]) -> None:
    """Put the items of a stream into ``seen`` until it ends."""
    for item in items_of(stream):
        seen.put(item)
