"""ps, run, kill, logs, clean, pool and supervisor, with real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import parkit
from parkit import Process, syslog
from parkit_async._core import supervision
from parkit_async._core.doorbell import SocketDirectory
from parkit_async._core.registry import close_all
from parkit_async.cli import following
from parkit_async.cli.following import _Live
from parkit_async.script import run_script
from tests.cli.conftest import COMMAND, Pipe, Run, Terminal, document, environment, rows
from tests.pool.conftest import Pool

pytestmark = pytest.mark.processes

Terminals = Callable[..., Terminal]
Pipes = Callable[..., Pipe]

JOBS = '''
import os, signal, sys
from parkit import Queue

def add(*numbers):
    return sum(numbers)

def shout(*words):
    print(*map(repr, words))

def fail():
    raise ValueError("no way")

def leave(code):
    sys.exit(code)

def crash():
    os.kill(os.getpid(), signal.SIGKILL)

def talk(path):
    """Say what comes from a queue, until it is None."""
    orders = Queue(path)
    print("ready", flush=True)
    while (word := orders.get()) is not None:
        print(word, end="", flush=True)

class Jobs:
    @staticmethod
    def inner():
        return "inner"

NUMBER = 5
'''


@pytest.fixture
def folder(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, which has a module ``jobs``."""
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# run


def test_run_of_a_function(folder: Path, pipe: Pipes) -> None:
    finished = pipe("run", "jobs:add", "1", "2.5").finish()
    assert (finished.exitcode, finished.stdout, finished.stderr) == (0, "3.5\n", "")
    finished = pipe("run", "jobs:shout", "text", "[1]", '{"a": null}', "--flag").finish()
    assert (finished.exitcode, finished.stdout) == (0, "'text' [1] {'a': None} '--flag'\n")
    assert pipe("run", "jobs:Jobs.inner").finish().stdout == "'inner'\n"
    assert pipe("run", "math:sqrt", "16").finish().stdout == "4.0\n"


def test_run_ends_as_the_process_does(folder: Path, pipe: Pipes) -> None:
    failed = pipe("run", "jobs:fail").finish()
    assert failed.exitcode == 1 and "ValueError: no way" in failed.stdout
    assert pipe("run", "jobs:leave", "7").finish().exitcode == 7
    assert pipe("run", "jobs:leave", "0").finish().exitcode == 0
    crashed = pipe("run", "jobs:crash").finish()
    assert crashed.exitcode == 128 + signal.SIGKILL and "SIGKILL" in crashed.stderr


def test_run_of_a_script(folder: Path, pipe: Pipes) -> None:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "near.py").write_text("WORD = 'near'")
    (folder / "scripts" / "report.py").write_text(
        "import os, sys, near\nprint(__name__, near.WORD, sys.argv, os.getcwd())\nif __name__ == '__main__':\n    sys.exit(3)\n"
    )
    finished = pipe("run", "scripts/report.py", "--year", "2025", "x").finish()
    script = str(folder / "scripts" / "report.py")
    assert finished.exitcode == 3
    assert finished.stdout == f"__main__ near {[script, '--year', '2025', 'x']} {folder}\n"


def test_a_script_leaves_no_trace_in_its_worker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.path.append('x')\nraise KeyError(sys.argv[1])\n")
    before = sys.argv, list(sys.path), sys.modules["__main__"]
    with pytest.raises(KeyError, match="argument"):
        run_script(str(script), ["argument"])
    assert before == (sys.argv, sys.path, sys.modules["__main__"])


def test_running_a_script_costs_the_worker_no_click(folder: Path, pipe: Pipes) -> None:
    (folder / "look.py").write_text("import sys\nprint([name for name in sys.modules if name.split('.')[0] in ('click', 'rich')])\n")
    assert pipe("run", "look.py").finish().stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere:f"], 1, "'nowhere' cannot be imported"),
        (["jobs:ad"], 1, "Did you mean 'add'?"),
        (["jobs:NUMBER"], 1, "is a int, which cannot be called"),
        (["nothing.py"], 1, "there is no script 'nothing.py'; a function is named MODULE:FUNCTION"),
        (["jobs"], 1, "MODULE:FUNCTION"),
        ([":f"], 2, "is not the name of a module"),
        (["--name", "a//b", "jobs:add"], 2, "--name"),
        (["--rm", "--detach", "jobs:add"], 2, "--rm"),
        ([], 2, "Missing argument"),
    ],
)
def test_run_of_what_cannot_be(folder: Path, pipe: Pipes, arguments: list[str], code: int, said: str) -> None:
    finished = pipe("run", *arguments).finish()
    assert finished.exitcode == code and finished.stdout == "" and finished.stderr.count("\n") == 1
    assert said in finished.stderr
    assert list(parkit.processes()) == []


def test_run_shows_output_as_it_is_written_parts_of_lines_too(folder: Path, terminal: Terminals) -> None:
    words = parkit.Queue[str | None]("words")
    shown = terminal("run", "--name", "talker", "jobs:talk", "words")
    shown.wait_for("ready\n")
    for word in ("one ", "two ", "ä"):
        words.put(word)
        shown.wait_for(word)
    words.put(None)
    assert shown.finish() == 0
    assert shown.text == "ready\none two ä"
    assert Process[None]("talker", create=False).status == "finished"


def test_a_name_is_used_once(folder: Path, pipe: Pipes) -> None:
    assert pipe("run", "--name", "mine", "jobs:add").finish().exitcode == 0
    again = pipe("run", "--name", "mine", "jobs:add").finish()
    assert again.exitcode == 1 and "exists already" in again.stderr


def test_run_can_forget(folder: Path, pipe: Pipes) -> None:
    assert pipe("run", "--rm", "jobs:shout", "x").finish().stdout == "'x'\n"
    assert list(parkit.processes()) == []


def test_ctrl_c_terminates_what_runs(folder: Path, terminal: Terminals) -> None:
    shown = terminal("run", "--name", "talker", "jobs:talk", "words")
    shown.wait_for("ready\n")
    shown.type("\x03")
    assert shown.finish() == 130
    assert "terminating talker; Ctrl-C once more leaves it alone" in shown.text and "Traceback" not in shown.text
    talker = Process[None]("talker", create=False)
    assert (talker.status, talker.exitcode) == ("crashed", -signal.SIGTERM)


def test_detached(folder: Path, pipe: Pipes) -> None:
    words = parkit.Queue[str | None]("words")
    finished = pipe("run", "--detach", "jobs:talk", "words").finish()
    name = finished.stdout.strip()
    assert finished.exitcode == 0 and name.startswith("process-")
    words.put(None)
    assert Process[None](name, create=False).join(30)


# ps


def talker(name: str = "talker") -> Process[None]:
    """Start a process that waits for words."""
    process: Process[None] = Process(name, target=run_script, args=(str(Path("talk.py").absolute()), [name]))
    Path("talk.py").write_text("import sys, jobs\njobs.talk(sys.argv[1] + '-words')\n")
    process.start()
    lines = process.follow(30)
    assert next(lines) == "ready"
    return process


def test_ps(folder: Path, run: Run) -> None:
    one, _ = talker(), Process("other/never", target=print)
    found = document(run("ps", "--json"))
    assert [(row["name"], row["status"], row["pid"], row["exit"]) for row in found] == [
        ("talker", "running", one.pid, None),
        ("other/never", "created", None, None),
    ]
    assert found[0]["ran"] >= 0 and found[0]["submitted"] is not None and found[1]["ran"] is None
    assert [row[0] for row in rows(run("ps", "--status", "running"))] == ["talker"]
    assert [row[0] for row in rows(run("ps", "-s", "created", "-s", "failed"))] == ["other/never"]
    assert "not one of" in run("ps", "-s", "idle", code=2).stderr
    one.kill()
    assert one.join(30)
    assert rows(run("ps", "-s", "crashed"))[0][3] == "-9"


def test_ps_watches_in_a_pipe(folder: Path, pipe: Pipes) -> None:
    import json

    process = talker()
    shown = pipe("ps", "--watch", "--json")
    assert [row["status"] for row in json.loads(shown.read_line())] == ["running"]
    process.kill()
    while [row["status"] for row in json.loads(shown.read_line())] != ["crashed"]:
        pass
    Process("another", target=print)
    assert [row["name"] for row in json.loads(shown.read_line())] == ["talker", "another"]
    assert shown.interrupt().exitcode == 130


def test_ps_watches_on_a_terminal(folder: Path, terminal: Terminals) -> None:
    process = talker()
    shown = terminal("ps", "--watch")
    shown.wait_for("running")
    process.kill()
    shown.wait_for("crashed")
    shown.type("\x03")
    assert shown.finish() == 130
    assert "Traceback" not in shown.text
    assert shown.raw.rfind("\x1b[?1049l") > shown.raw.rfind("\x1b[?1049h") >= 0, "the screen of before is back"


# kill


def test_kill(folder: Path, run: Run, pool: Pool) -> None:
    terminated, killed = talker("one"), talker("two")
    run("kill", "--wait", "one")
    run("kill", "-9", "--wait", "two")
    assert (terminated.exitcode, killed.exitcode) == (-signal.SIGTERM, -signal.SIGKILL)
    run("kill", "one")  # it has ended: nothing to do
    waiting = [talker("three"), talker("four")]
    submitted: Process[None] = Process("five", target=print)
    submitted.start()
    run("kill", "--signal", "kill", "five")
    assert submitted.status == "crashed"
    run("kill", "--signal", "TERM", "--wait", "three", "four")
    assert [process.exitcode for process in waiting] == [-signal.SIGTERM, -signal.SIGTERM]


def test_kill_of_what_cannot_be(folder: Path, run: Run) -> None:
    Process("never", target=print)
    parkit.Dict[str, int]("stock")["tea"] = 1
    assert "Did you mean 'never'?" in run("kill", "nevr", code=1).stderr
    assert "was not started" in run("kill", "never", code=1).stderr
    assert "holds a parkit.Dict" in run("kill", "stock", code=1).stderr
    assert "'HUP' is not one of" in run("kill", "--signal", "HUP", "never", code=2).stderr
    run("kill", code=2)


# logs


def test_logs(folder: Path, run: Run, pipe: Pipes) -> None:
    process: Process[None] = Process("counter", target=run_script, args=(str(folder / "count.py"),))
    (folder / "count.py").write_text("for number in range(20): print(number)")
    assert run("logs", "counter").stdout == ""
    process.start()
    assert process.join(30)
    assert run("logs", "counter").stdout == "".join(f"{number}\n" for number in range(20))
    assert run("logs", "-n", 2, "counter").stdout == "18\n19\n"
    assert run("logs", "-n", 0, "counter").stdout == ""
    assert run("logs", "-n", 100, "-f", "counter").stdout.startswith("0\n")
    assert "there is no process 'count'" in run("logs", "count", code=1).stderr
    assert "--json goes with --system" in run("logs", "counter", "--json", code=2).stderr
    assert "NAME" in run("logs", code=2).stderr


def test_logs_follow_until_the_end_of_the_process(folder: Path, pipe: Pipes) -> None:
    process = talker()
    shown = pipe("logs", "-f", "talker")
    assert shown.read_line() == "ready"
    parkit.Queue[str | None]("talker-words").put("hello\n")
    assert shown.read_line() == "hello"
    process.kill()
    assert shown.finish().exitcode == 0


def test_logs_follow_until_ctrl_c_and_leave_the_process_alone(folder: Path, terminal: Terminals) -> None:
    process = talker()
    shown = terminal("logs", "-f", "talker")
    shown.wait_for("ready\n")
    shown.type("\x03")
    assert shown.finish() == 130
    assert process.status == "running"


def test_the_log_of_the_store(folder: Path, run: Run, pipe: Pipes) -> None:
    process = talker()
    process.kill()
    assert process.join(30)
    while not any("talker" in record["message"] for record in syslog):
        syslog.wait(len(syslog), 30)
    assert any("WARNING parkit.supervisor[" in line and "talker" in line for line in run("logs", "--system").stdout.splitlines())
    length = len(syslog)
    assert len(run("logs", "--system", "--json", "-n", length).stdout.splitlines()) == length
    shown = pipe("logs", "--system", "-f", "-n", 0)
    following_is_on(shown)
    syslog.append({"message": "not a record of ours"})
    assert shown.read_line() == "{'message': 'not a record of ours'}"
    assert shown.interrupt().exitcode == 130


def following_is_on(shown: Pipe) -> None:
    """Return when a command waits for records."""
    table = syslog._binding.namespace.table
    while not table.anybody():
        assert shown.process.poll() is None


def test_the_place_of_the_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LOOK_BACK", 7)
    output = parkit.Output(tmp_path, "0" * 32)
    Path(output.path).parent.mkdir()
    for text in ("", "a", "a\n", "a\nb", "a\nb\n", "\n\n\n", "first\nsecond line\nthird\n" * 5, "x" * 100, "x" * 30 + "\n" + "y" * 30 + "\n"):
        Path(output.path).write_text(text)
        for count in range(12):
            lines = text.splitlines(keepends=True)
            expected = "".join(lines[len(lines) - min(count, len(lines)) :])
            assert text[following._begin(output, count) :] == expected, (text, count)


def test_a_cut_of_the_output_is_seen(tmp_path: Path) -> None:
    output = parkit.Output(tmp_path, "0" * 32)
    Path(output.path).parent.mkdir()
    Path(output.path).write_bytes("äöü".encode() * 100)
    live = _Live(output, 0)
    assert live.take() == ["äöü" * 100]
    assert live.take() == []
    Path(output.path).write_text("start\n[parkit: the output is longer than 5 bytes; what came later was dropped]\n")
    assert "what came later was dropped" in live.take()[0]
    assert live.take() == []
    live.close()


# clean


def test_clean(folder: Path, run: Run) -> None:
    process = talker()
    never = Process("never", target=print)
    process.kill()
    assert process.join(30)
    assert run("clean", "--status", "finished").stdout == "0\n"
    assert run("clean").stdout == "1\n"
    assert run("clean", "-s", "created").stdout == "1\n"
    assert not process.exists and not never.exists


# pool and supervisor


def test_pool(folder: Path, run: Run, pool: Pool) -> None:
    process = talker()
    pool.until_size(2)
    found = document(run("pool", "--json"))
    assert found["running"] and found["size"] == 2
    assert {worker["process"] for worker in found["workers"]} == {"talker", None}
    text = run("pool").stdout
    assert "supervisor\trunning\n" in text and "\ttalker\t" in text
    assert run("pool", "size").stdout == "2\n"
    assert "is not in the range" in run("pool", "size", "-1", code=2).stderr + run("pool", "size", "--", "-1", code=2).stderr
    process.kill()


def test_size_and_stop(swept: None, own_pool: Pool, run: Run) -> None:
    process: Process[None] = Process(target=print)
    process.start()
    process.join(30)
    run("pool", "size", "1")
    own_pool.until_size(1)
    run("pool", "stop", "--timeout", "30")
    assert own_pool.members() == []
    assert not document(run("pool", "--json"))["running"]
    assert run("pool", "size").stdout == "1\n"


def test_no_pool(run: Run, store: Path) -> None:
    assert document(run("pool", "--json"))["running"] is False
    run("pool", "stop")
    assert rows(run("ps")) == [] and run("logs", "--system").stdout == "" and run("clean").stdout == "0\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_supervisor_in_the_foreground(swept: None, own_pool: Pool, run: Run, store: Path, number: int) -> None:
    service = subprocess.Popen([*COMMAND, "supervisor"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(PYTHONWARNINGS=""))
    try:
        assert service.stderr is not None
        deadline = time.monotonic() + 30
        while supervision.running_supervisor(str(store)) != service.pid:
            assert time.monotonic() < deadline and service.poll() is None
        own_pool.until_size(2)
        second = run("supervisor", code=1)
        assert f"process {service.pid} supervises" in second.stderr
        process: Process[int] = Process(target=abs, args=(-1,))
        process.start()
        assert process.get_result(30) == 1
        service.send_signal(number)
        assert service.wait(30) == 0
        assert own_pool.members() == []
    finally:
        if service.poll() is None:
            service.kill()
            service.wait()
        assert service.stderr is not None
        service.stderr.close()


# What the doctor says of the pool.


def test_the_doctor_sees_the_pool(folder: Path, run: Run, pool: Pool) -> None:
    process = talker()
    found = {row["check"]: row for row in document(run("doctor", "--json"))}
    assert found["pool"]["state"] == "ok" and "1 running, 0 submitted" in found["pool"]["finding"]
    orphan = pool.store / "output" / ("0" * 32)
    orphan.write_text("x")
    os.utime(orphan, (0, 0))
    found = {row["check"]: row for row in document(run("doctor", "--json"))}
    assert found["output"]["state"] == "note" and found["output"]["remedy"] == f"rm {orphan}"
    orphan.unlink()
    process.kill()


def test_the_doctor_misses_the_supervisor(swept: None, own_pool: Pool, run: Run) -> None:
    process: Process[None] = Process(target=print)
    process.start()
    process.join(30)
    parkit.killall(30)
    process = Process(target=print)
    binding = process._binding
    binding.namespace.write(*process._start(binding))  # as start() does, but for seeing to a supervisor
    found = {row["check"]: row for row in document(run("doctor", "--json", code=1))}
    assert found["pool"]["state"] == "problem" and "parkit supervisor" in found["pool"]["remedy"]


def test_names_complete(folder: Path, run: Run) -> None:
    from tests.cli.test_main import complete

    Process("jobs/nightly", target=print)
    assert complete("parkit logs jobs/", Path(os.environ["PARKIT_STORAGE_PATH"])) == ["jobs/nightly"]


def test_a_backup_of_a_pool_is_a_store_without_one(folder: Path, run: Run, tmp_path: Path) -> None:
    process = talker()
    process.kill()
    assert process.join(30)
    run("backup", tmp_path / "copy")
    parkit.set_storage_path(tmp_path / "copy")
    found = document(run("ps", "--json"))
    assert [(row["name"], row["status"]) for row in found] == [("talker", "crashed")]
    assert run("logs", "talker").stdout == "ready\n"
    assert not document(run("pool", "--json"))["running"]


def test_the_pool_of_a_backup_leaves_the_original_alone(folder: Path, run: Run, pool: Pool, tmp_path: Path) -> None:
    talker()
    workers = pool.until_size(2)
    run("backup", tmp_path / "copy")
    parkit.set_storage_path(tmp_path / "copy")
    copy = Pool(tmp_path / "copy")
    try:
        assert document(run("pool", "--json"))["workers"] == []
        other: Process[int] = Process(target=abs, args=(-1,))
        other.start()
        assert other.get_result(30) == 1
        # Who ran it is not there: for the copy it has crashed.
        copied: Process[None] = Process("talker", create=False)
        assert copied.join(30) and copied.status == "crashed"
        assert workers.isdisjoint(copy.workers())
    finally:
        copy.end()
        close_all()
        sockets = SocketDirectory(tmp_path / "copy" / "sockets")
        sockets.sweep()
        sockets.close()
    parkit.set_storage_path(pool.store)
    assert pool.workers() == workers
    assert Process[None]("talker", create=False).status == "running"
