"""The output of a run: all of it is there, however it was written and however the run ended, and nothing of it in that of another."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parkit_async._core import capture, filewatch, output, output_files
from parkit_async._core.capture import Capture
from parkit_async._core.errors import StoragePathError
from parkit_async._core.output import Follower, Output, enforce, follow_blocking, output_path, remove, sweep
from tests.conftest import RunScript, Script, Spawn

UUID = "0123456789abcdef" * 2
OTHER = "f" * 32
DEADLINE_MS = 30_000

WORKER = """
import ctypes, os, subprocess, sys, threading
from parkit_async._core.capture import Capture, prepare_streams
from parkit_async._core.output import Output, output_path

STORE = os.environ["PARKIT_STORAGE_PATH"]
prepare_streams()
capture = Capture(STORE)
libc = ctypes.CDLL(None)

def uuid(number):
    return f"{number:032x}"

def run(number, target):
    capture.begin(uuid(number))
    try:
        target()
    finally:
        capture.end()
    return Output(STORE, uuid(number)).text()

def check(number, target, expected):
    found = run(number, target)
    assert found == expected, (found, expected)
    # Whatever it did, the next one finds everything in order.
    expected = "out\\nerr\\n\\\\udc80 ü\\nraw\\npart"
    def usual():
        print("out")
        print("err", file=sys.stderr)
        print("\\udc80 ü")
        os.write(1, b"raw\\n")
        sys.stdout.write("part")
    found = run(number + 1000, usual)
    assert found == expected, (found, expected)
"""


@pytest.fixture(params=[pytest.param("", id="buffered"), pytest.param("1", id="unbuffered")])
def run_worker(request: pytest.FixtureRequest, run_script: RunScript) -> RunScript:
    """Run the rest of a worker's script, with the interpreter's own buffering and without."""
    return lambda source, *arguments: run_script(WORKER + source, *arguments, env={"PYTHONUNBUFFERED": request.param})


@pytest.fixture
def spawn_worker(spawn: Spawn) -> Callable[..., Script]:
    """Start a worker's script, which answers by lines on the descriptor ``answer``."""
    return lambda source, *arguments: spawn(WORKER + "answer = os.dup(1)\n" + source, *arguments, env={"PYTHONUNBUFFERED": ""})


@pytest.fixture
def file(store: Path) -> Path:
    """The file of UUID's output, which is not there yet; its folder is."""
    path = Path(output_path(store, UUID))
    path.parent.mkdir(mode=0o700)
    return path


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as writer:
        writer.write(data)


def calls_of(output: Output, store: Path) -> list[Callable[[], object]]:
    """Return what reads an output, makes it and removes it."""
    return [
        output.read,
        lambda: list(output.lines()),
        Follower(output).take,
        lambda: Follower(output).watch,
        lambda: output_files.create(output.path),
        lambda: remove(store, UUID),
    ]


def notice(limit: int) -> str:
    return f"[parkit: the output is longer than {limit} bytes; what came later was dropped]"


# -- where it is -------------------------------------------------------------------------------------------------------------------------


def test_path(store: Path) -> None:
    assert output_path(store, UUID) == output_path(str(store), UUID) == f"{store}/output/{UUID}"


@pytest.mark.parametrize("uuid", ["", "..", "../" * 10 + "ab", UUID[:-1], UUID + "0", UUID.upper(), UUID + "\n", "/" + UUID[1:], "0" * 31 + "/"])
def test_what_is_no_uuid_is_refused(store: Path, uuid: str) -> None:
    for call in (output_path, Output, remove):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            call(store, uuid)
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        enforce(store, uuid, 10)


# -- capturing ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_everything_is_captured_in_order(run_worker: RunScript) -> None:
    finished = run_worker(
        """
def target():
    print("print")
    print("error", file=sys.stderr)
    os.write(1, b"write\\n")
    subprocess.run(["sh", "-c", "echo child; echo its error >&2"], check=True)
    libc.puts(b"C")
    os.system("echo system")
    sys.stdout.buffer.write(b"buffer\\n")
    sys.stdout.buffer.flush()
    print("no end", end="")

check(1, target, "print\\nerror\\nwrite\\nchild\\nits error\\nC\\nsystem\\nbuffer\\nno end")
print("outside")
print("outside, too", file=sys.stderr)
capture.close()
capture.close()
"""
    )
    assert finished.stdout == "outside\n"
    assert finished.stderr == "outside, too\n"


@pytest.mark.processes
def test_what_a_target_does_to_its_streams_ends_with_its_run(run_worker: RunScript) -> None:
    finished = run_worker(
        """
import io

def close_one(): print("a", end=""); os.close(1)
def close_both(): print("a", end=""); print("b", end="", file=sys.stderr); os.close(1); os.close(2)
def close_standard(): print("a"); os.close(0); os.close(1); os.close(2)
def close_stream(): print("a"); sys.stdout.close(); sys.stderr.close()
def close_stream_and_one(): print("a"); sys.stdout.close(); os.close(1)
def detach(): print("a"); sys.stdout.detach()
def replace(): print("a"); sys.stdout = io.StringIO(); print("lost"); sys.stderr = None
def delete(): print("a"); del sys.stdout
def own(): print("a"); sys.stdout = open(1, "w"); print("b"); sys.stderr = os.fdopen(2, "w"); print("c", file=sys.stderr)
def own_part(): print("a", end=""); sys.stdout = open(1, "w"); print("b", end="", file=sys.stderr); sys.stderr = os.fdopen(2, "w")
def redirect(): print("a"); os.dup2(os.open(os.devnull, os.O_WRONLY), 1); print("lost"); os.system("echo lost")
def change(): print("a"); sys.stdout.reconfigure(encoding="ascii", errors="strict", line_buffering=False); print("b")
def c_part(): libc.printf(b"part")
def c_part_closed(): libc.printf(b"part"); os.close(1)
def everything(): print("a"); os.closerange(0, 1024)
class Broken:
    def flush(self): raise RuntimeError("not mine")
def broken(): print("a"); sys.stdout = Broken()

for number, (target, expected) in enumerate([
    (close_one, "a"), (close_both, "ab"), (close_standard, "a\\n"), (close_stream, "a\\n"), (close_stream_and_one, "a\\n"), (detach, "a\\n"),
    (own_part, "ab"), (replace, "a\\n"), (delete, "a\\n"), (own, "a\\nb\\nc\\n"), (redirect, "a\\n"), (change, "a\\nb\\n"), (c_part, "part"),
    (c_part_closed, "part"), (broken, "a\\n"), (everything, "a\\n"),
], 1):
    if target is everything:
        print("so far", flush=True)
    try:
        check(number, target, expected)
    except BaseException as error:
        raise AssertionError(f"{target.__name__}: {error!r}") from error
    for descriptor in (0, 1, 2):
        os.fstat(descriptor)
"""
    )
    assert finished.stdout == "so far\n"
    assert finished.stderr == ""


@pytest.mark.processes
def test_closed_standard_descriptors_are_filled(run_worker: RunScript) -> None:
    run_worker(
        """
run(1, lambda: os.closerange(0, 3))
assert run(2, lambda: print("a")) == "a\\n"
assert os.open(os.devnull, os.O_RDONLY) > 2
"""
    )


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_worker_that_was_started_without_streams(store: Path, tmp_path: Path, closed: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER + 'assert sys.stdout\nprint("nowhere")\ncheck(1, lambda: print("a"), "a\\n")\nopen(sys.argv[1], "w").write("done")\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, str(script), str(tmp_path / "done")], check=True, env=environment)
    assert (tmp_path / "done").read_text() == "done"


@pytest.mark.processes
def test_worker_that_has_little(store: Path, run_script: RunScript) -> None:
    """Few descriptors, one of the standard ones closed, and a Python without ctypes: what is written is captured, but for what C keeps back."""
    run_script(
        """
import os, resource, sys
from parkit_async._core.output import Output
from parkit_async._core import capture

sys.modules["ctypes"] = None
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
capture.prepare_streams()
os.close(1)
worker = capture.Capture(os.environ["PARKIT_STORAGE_PATH"])
for number in (1, 2):
    uuid = f"{number:032x}"
    worker.begin(uuid)
    print("out")
    os.system("echo child")
    worker.end()
    found = Output(os.environ["PARKIT_STORAGE_PATH"], uuid).text()
    assert found == "out\\nchild\\n", found
print("nowhere", flush=True)
worker.close()
"""
    )
    assert sorted(file.name for file in (store / "output").iterdir()) == [f"{1:032x}", f"{2:032x}"]


@pytest.mark.processes
def test_children_inherit_nothing_but_the_output(run_worker: RunScript) -> None:
    run_worker(
        """
def target():
    subprocess.run([sys.executable, "-c", "import os; print(*sorted(os.listdir('/dev/fd')))"], close_fds=False, stdin=subprocess.DEVNULL)

found = set(run(1, target).split())
assert {"0", "1", "2"} <= found and len(found) == 4, found  # one is that of the listing
"""
    )


@pytest.mark.processes
def test_child_outlives_its_run(run_worker: RunScript) -> None:
    run_worker(
        """
def quiet():
    global child
    child = subprocess.Popen(["sh", "-c", "read line; echo $line"], stdin=subprocess.PIPE)

def loud():
    print("begun")
    quiet()

for number, target, expected in [(1, loud, "begun\\nlate\\n"), (2, quiet, "")]:
    run(number, target)
    inside = []
    def next_one():
        print("next")
        child.communicate(b"late\\n")  # it writes while another run is under way
    assert run(number + 10, next_one) == "next\\n"
    assert Output(STORE, uuid(number)).text() == expected
"""
    )


@pytest.mark.processes
def test_empty_output_leaves_at_most_one_file(run_worker: RunScript) -> None:
    run_worker(
        """
folder = os.path.dirname(output_path(STORE, uuid(1)))
for number in range(100):
    assert run(number, lambda: None) == ""
    assert len(os.listdir(folder)) <= 1
assert run(100, lambda: print("a")) == "a\\n"
assert os.listdir(folder) == [uuid(100)]
for number in range(101, 110):
    run(number, lambda: None)
capture.close()
assert os.listdir(folder) == [uuid(100)]
"""
    )


@pytest.mark.processes
def test_files_that_are_removed_meanwhile(run_worker: RunScript) -> None:
    run_worker(
        """
import shutil

folder = os.path.dirname(output_path(STORE, uuid(1)))
run(1, lambda: None)
shutil.rmtree(folder)
assert run(2, lambda: print("a")) == "a\\n"
assert run(3, lambda: (print("a"), os.unlink(output_path(STORE, uuid(3))))) == ""
run(4, lambda: None)
with open(output_path(STORE, uuid(5)), "w") as file:
    file.write("earlier\\n")
assert run(5, lambda: print("a")) == "earlier\\na\\n", "it is appended to"
assert run(6, lambda: None) == ""
"""
    )


@pytest.mark.processes
def test_killed_in_the_middle(spawn_worker: Callable[..., Script], store: Path) -> None:
    script = spawn_worker(
        """
capture.begin(uuid(1))
print("before")
libc.puts(b"C")
os.write(2, b"no end")
os.write(answer, b"ready\\n")
sys.stdin.read()
"""
    )
    assert script.read_line() == "ready"
    kept = Output(store, f"{1:032x}")
    assert kept.text() == "before\nC\nno end", "it is there while the run lasts"
    assert script.kill().exitcode == -signal.SIGKILL
    assert kept.text() == "before\nC\nno end"
    assert list(kept.lines()) == ["before", "C", "no end"]


@pytest.mark.processes
def test_disk_is_full(run_worker: RunScript) -> None:
    run_worker(
        """
import resource, signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def target():
    # A limit on the size of files stands in for the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    print("12345678", end="")
    sys.stdout.flush()
    print("lost", end="")

assert run(1, target)[:8] == "12345678"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert run(2, lambda: print("a")) == "a\\n"
"""
    )


@pytest.mark.processes
def test_interrupted_end_puts_the_descriptors_back(run_worker: RunScript) -> None:
    finished = run_worker(
        """
class Interrupting:
    def flush(self): raise KeyboardInterrupt

def target():
    print("a")
    sys.stdout = Interrupting()
    sys.stderr = None

try:
    run(1, target)
except KeyboardInterrupt:
    os.write(1, b"outside\\n")
capture.end()
check(2, lambda: print("a", file=sys.stderr), "a\\n")
"""
    )
    assert finished.stdout == "outside\n"


@pytest.mark.processes
def test_symbolic_link_is_refused(run_worker: RunScript, store: Path, tmp_path: Path, file: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    file.symlink_to(secret)
    (file.parent / OTHER).symlink_to(tmp_path / "missing")
    finished = run_worker(
        """
from parkit_async._core.errors import StoragePathError

for uuid in sys.argv[1:]:
    try:
        capture.begin(uuid)
    except StoragePathError as error:
        print("symbolic link" in str(error))
    capture.end()
assert capture._path is None
""",
        UUID,
        OTHER,
    )
    assert finished.stdout == "True\nTrue\n"
    assert secret.read_text() == "secret"
    assert not (tmp_path / "missing").exists()
    for read in (Output(store, UUID).read, Follower(Output(store, UUID)).take, lambda: enforce(store, UUID, 2)):
        with pytest.raises(StoragePathError, match="remove it"):
            read()
    with pytest.raises(StoragePathError, match="remove it"):
        Follower(Output(store, UUID)).watch
    remove(store, UUID)
    assert secret.read_text() == "secret"


@pytest.mark.processes
def test_files_are_private(run_worker: RunScript, store: Path) -> None:
    run_worker('os.umask(0); run(1, lambda: print("a"))')
    assert stat.S_IMODE((store / "output").stat().st_mode) == 0o700
    assert stat.S_IMODE((store / "output" / f"{1:032x}").stat().st_mode) == 0o600


def test_folder_is_made_private(file: Path, store: Path) -> None:
    file.parent.chmod(0o755)
    capture = Capture(store)
    capture.close()
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_folder_that_is_none_is_refused(store: Path) -> None:
    (store / "output").symlink_to(store.parent)
    with pytest.raises(StoragePathError, match="no folder"):
        Capture(store)


def test_what_the_system_refuses_is_told_with_the_path(store: Path) -> None:
    """Here a file where a folder should be; a disk that is broken, or full, is told of likewise."""
    (store / "output").touch()
    none = Output(store, UUID)
    calls: list[Callable[[], object]] = [*calls_of(none, store), lambda: Capture(store / "output"), lambda: sweep(store / "output", ())]
    for call in calls:
        with pytest.raises(StoragePathError, match=rf"^{store}/output.*, which holds the output of a process, cannot be used: Not a directory; "):
            call()
    assert none.size() == 0
    (store / "output").unlink()
    Path(none.path).mkdir(parents=True)
    with pytest.raises(StoragePathError, match=rf"{UUID}, which holds .*: Is a directory"):
        remove(store, UUID)


def test_what_a_target_has_closed_is_closed_no_more(store: Path) -> None:
    capture = Capture(store)
    for descriptor in capture._originals:
        os.close(descriptor)
    capture.close()
    capture.close()


@pytest.mark.processes
def test_second_run_at_once_is_refused(run_worker: RunScript) -> None:
    run_worker(
        """
capture.begin(uuid(1))
try:
    capture.begin(uuid(2))
except ValueError as error:
    assert uuid(1) in str(error)
else:
    raise AssertionError
"""
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file is used again")
@pytest.mark.processes
def test_file_that_somebody_writes_in_is_not_unshared(file: Path, tmp_path: Path) -> None:
    file.touch()
    assert capture._is_unshared(str(file))
    with file.open("rb"):
        assert capture._is_unshared(str(file)), "readers do not matter"
    with file.open("ab"):
        assert not capture._is_unshared(str(file))
    with file.open("ab") as writer:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writer)
    with child:
        assert not capture._is_unshared(str(file))
        child.communicate()
    assert capture._is_unshared(str(file))
    assert not capture._is_unshared(str(tmp_path / "missing"))


def test_first_bytes_are_not_those_of_another_run(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has opened the file of a run without output; before it reads, a worker uses that file for the next run."""
    file.touch()
    really_open = output_files.open_existing

    def open_and_be_slow(path: str, flags: int) -> int | None:
        descriptor = really_open(path, flags)
        if file.exists():
            file.rename(output_path(store, OTHER))
            append(file.with_name(OTHER), b"another's\n")
        return descriptor

    monkeypatch.setattr(output, "open_existing", open_and_be_slow)
    assert Follower(Output(store, UUID)).take() == []
    file.touch()
    assert Output(store, UUID).read() == b""
    assert Output(store, OTHER).read() == b"another's\n"


# -- reading -----------------------------------------------------------------------------------------------------------------------------


def test_missing_output_is_empty(store: Path) -> None:
    missing = Output(store, UUID)
    assert missing.size() == 0
    assert missing.read() == missing.read(5, 5) == missing.read(-5) == b""
    assert missing.text() == str(missing) == ""
    assert list(missing.lines()) == []
    assert not os.path.lexists(store / "output")


def test_reading(file: Path, store: Path) -> None:
    file.write_bytes("eins\nzwölf\n\xff".encode("latin-1"))
    written = Output(store, UUID)
    assert written.size() == 12
    assert written.read() == file.read_bytes()
    assert written.read(5) == "zwölf\n\xff".encode("latin-1")
    assert written.read(5, 2) == b"zw"
    assert written.read(-2) == b"\n\xff"
    assert written.read(-100, 4) == b"eins"
    assert written.read(100) == written.read(0, 0) == b""
    assert written.text() == str(written) == "eins\nzw\ufffdlf\n\ufffd"
    assert list(written.lines()) == ["eins", "zw\ufffdlf", "\ufffd"]
    with pytest.raises(ValueError, match="non-negative"):
        written.read(0, -1)
    assert repr(written) == f"<Output {file}>"


def test_output_pickles_and_copies(store: Path) -> None:
    original = Output(store, UUID)
    for other in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
        assert other.path == original.path


@pytest.mark.parametrize("text", ["", "\n", "a", "a\n", "\n\n", "a\n\nb", "a\r\nb\x0c\x1c\u2028c\n"])
def test_lines_end_at_newlines_only(file: Path, store: Path, text: str) -> None:
    file.write_text(text, newline="")
    expected = text.split("\n")
    if not expected[-1]:
        expected.pop()
    assert list(Output(store, UUID).lines()) == expected
    assert Follower(Output(store, UUID)).finish() == expected


def test_lines_leaves_out_what_comes_meanwhile(file: Path, store: Path) -> None:
    file.write_bytes(b"x\n")
    found = []
    for line in Output(store, UUID).lines():
        found.append(line)
        append(file, b"more\n")
    assert found == ["x"]


# -- following ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def follower(store: Path) -> Iterator[Follower]:
    made = Follower(Output(store, UUID))
    yield made
    made.close()


def test_taking(file: Path, follower: Follower) -> None:
    assert follower.take() == []
    append(file, b"a\nb\nc")
    assert follower.take() == ["a", "b"]
    assert follower.take() == []
    append(file, b"d")
    assert follower.take() == []
    append(file, b"e\n\nf")
    assert follower.take() == ["cde", ""]
    assert follower.finish() == ["f"]
    append(file, b"g\n")
    assert follower.take() == follower.finish() == []


def test_every_split_of_characters_and_lines(file: Path, follower: Follower) -> None:
    data = "ü€😀\nü\n".encode()
    taken = []
    for number in range(len(data)):
        append(file, data[number : number + 1])
        taken += follower.take()
    assert taken == ["ü€😀", "ü"]


@pytest.mark.parametrize("portion", [70, 100, 1000])
def test_more_than_a_portion(file: Path, follower: Follower, monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr(output, "_PORTION", portion)
    lines = [f"{number} " + "x" * (number % 300) for number in range(500)]
    file.write_text("\n".join(lines))
    taken: list[str] = []
    while more := follower.take():
        taken += more
    assert taken == lines[:-1]
    assert follower.finish() == lines[-1:]


def test_target_truncates_its_output(file: Path, follower: Follower) -> None:
    append(file, b"one\ntwo\nthr")
    assert follower.take() == ["one", "two"]
    file.write_bytes(b"")
    assert follower.take() == []
    append(file, b"new\n")
    assert follower.take() == ["new"]
    file.write_bytes(b"longer than what was there before\n")
    assert follower.take() == ["longer than what was there before"]
    file.unlink()
    assert follower.take() == []
    append(file, b"again\n")
    assert follower.take() == ["again"]


# -- the cap -----------------------------------------------------------------------------------------------------------------------------


def test_within_the_limit(file: Path, store: Path) -> None:
    assert not enforce(store, UUID, 0)
    assert not file.exists()
    file.write_bytes(b"x" * 10)
    assert not enforce(store, UUID, 10)
    assert file.read_bytes() == b"x" * 10


@pytest.mark.parametrize(("written", "limit", "kept"), [("abcd\nefgh\n", 5, "abcd\n"), ("abcd\nefgh\n", 7, "abcd\nef\n"), ("abc", 0, "")])
def test_cut_at_the_limit(file: Path, store: Path, written: str, limit: int, kept: str) -> None:
    append(file, written.encode())
    expected = kept + notice(limit) + "\n"
    for more in (b"", b"", b"x", b"y" * 1000, b"\n"):
        append(file, more)
        assert enforce(store, UUID, limit)
        assert file.read_text() == expected
    status = file.stat()
    assert enforce(store, UUID, limit)
    assert file.stat().st_mtime_ns == status.st_mtime_ns, "what is in order is left alone"
    assert list(Output(store, UUID).lines()) == expected.splitlines()


def test_output_that_goes_or_cannot_be_cut(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(file, b"x" * 100)

    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        with pytest.raises(StoragePathError, match=f"{UUID}, which holds the output of a process, cannot be used: {os.strerror(errno.EIO)}"):
            enforce(store, UUID, 10)
    assert file.read_bytes() == b"x" * 100, "nothing is cut off without a notice"

    def clean(path: str) -> int:
        size = output_files.size_of(path)
        os.unlink(path)
        return size

    monkeypatch.setattr(output, "size_of", clean)
    assert not enforce(store, UUID, 10)
    assert not file.exists(), "it is not made again"


def test_lines_end_with_the_notice(file: Path, store: Path) -> None:
    append(file, b"abc\n" * 5)
    enforce(store, UUID, 8)
    append(file, b"beyond\n")
    assert list(Output(store, UUID).lines()) == ["abc", "abc", notice(8)]


@pytest.mark.parametrize("before", [0, 3, 8, 11, 13, 14, 20, 200], ids=lambda before: f"after {before} bytes")
@pytest.mark.parametrize("limit", [0, 8, 10, 12])
def test_follower_over_a_cut(file: Path, store: Path, follower: Follower, before: int, limit: int) -> None:
    """Wherever it stands, it gives each line that is kept once, and the notice last."""
    data = b"abc\ndef\nghi jkl\n" + b"mno\n" * 100
    append(file, data[:before])
    taken = follower.take()
    append(file, data[before:])
    assert enforce(store, UUID, limit)
    append(file, b"beyond the limit\n" * (before % 7))
    while more := follower.take():
        taken += more
    taken += follower.finish()
    whole = data[:before].count(b"\n")
    kept = data[:limit].decode().splitlines()
    seen = data.decode().splitlines()[:whole]
    # Of a line that the cut goes through, either its beginning is seen, or the whole if it was complete when it was taken.
    assert taken == [*(seen + kept[whole:]), notice(limit)]


def test_follower_finds_a_notice_far_from_the_end(file: Path, store: Path, follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_PORTION", 300)
    append(file, b"line\n" * 4000)
    while follower.take():
        pass
    assert enforce(store, UUID, 10_000)
    append(file, b"beyond\n" * 1000)
    assert follower.finish() == [notice(10_000)]


def test_follower_takes_no_copy_for_the_notice(file: Path, follower: Follower) -> None:
    """The target has cut its output itself; what it writes then has a notice, but not where one would stand."""
    append(file, b"first\n" * 100)
    assert len(follower.take()) == 100
    os.truncate(file, 0)
    append(file, f"again\n{notice(3)}\nend\n".encode())
    assert follower.take() == ["again", notice(3), "end"]


def test_copy_of_a_notice_is_a_line_like_others(file: Path, follower: Follower) -> None:
    copied = f"{notice(7)}\nb\n"
    append(file, b"a\n" + copied.encode())
    assert follower.take() == ["a", notice(7), "b"]
    os.truncate(file, 2)
    append(file, copied.encode())
    os.truncate(file, 20)
    append(file, b"\n")
    assert follower.take()[0] == "a", "cut by the target: from the beginning"


@pytest.mark.processes
def test_huge_output_is_bounded_while_it_is_written(spawn_worker: Callable[..., Script], store: Path) -> None:
    limit = 100_000
    script = spawn_worker(
        """
capture.begin(sys.argv[1])
os.write(answer, b"ready\\n")
line = b"0123456789" * 100 + b"\\n"
ended = threading.Event()
def write():
    while not ended.is_set():
        os.write(1, line)
writer = threading.Thread(target=write)
writer.start()
sys.stdin.read()
ended.set()
writer.join()
capture.end()
""",
        UUID,
    )
    assert script.read_line() == "ready"
    written = Output(store, UUID)
    follower = Follower(written)
    taken: list[str] = []
    cuts = 0
    with_watch = follower.watch
    while cuts < 20:
        assert with_watch.fileno() >= 0
        poll = select.poll()
        poll.register(with_watch.fileno(), select.POLLIN)
        assert poll.poll(DEADLINE_MS)
        with_watch.drain()
        taken += follower.take()
        cuts += written.size() > limit + 200 and enforce(store, UUID, limit)
    script.finish()
    enforce(store, UUID, limit)
    taken += follower.finish()
    assert written.size() <= limit + 200
    assert written.text().endswith(notice(limit) + "\n")
    assert written.text().count("[parkit") == 1
    assert taken[-1] == notice(limit)
    assert taken.count(notice(limit)) == 1
    assert {line for line in taken[:-1] if len(line) == 1000} == {"0123456789" * 100}


# -- following and waiting ---------------------------------------------------------------------------------------------------------------


class Bell:
    """A pipe that rings when the state of the run changes, and that state."""

    def __init__(self) -> None:
        self.descriptor, self._sender = os.pipe()
        os.set_blocking(self.descriptor, False)
        self.over = False
        self.looks = 0

    def ring(self, over: bool = False) -> None:
        self.over = self.over or over
        os.write(self._sender, b"x")

    def ended(self) -> bool:
        self.looks += 1
        try:
            os.read(self.descriptor, 100)
        except BlockingIOError:
            pass
        return self.over

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._sender)


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


@pytest.fixture
def follow(follower: Follower, bell: Bell) -> Callable[..., Iterator[str]]:
    return lambda timeout=None: follow_blocking(follower, bell.ended, bell.descriptor, timeout)


def asleep(thread: threading.Thread) -> bool:
    """Return whether a thread sleeps in the kernel; True where the system does not tell."""
    try:
        return Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return True


@pytest.mark.processes
def test_lines_come_while_they_are_written(
    spawn_worker: Callable[..., Script], store: Path, bell: Bell, follow: Callable[..., Iterator[str]]
) -> None:
    script = spawn_worker(
        """
commands = sys.stdin
capture.begin(sys.argv[1])
for line in commands:
    print(line, end="")
print("part", end="")
capture.end()
print("ended")
""",
        UUID,
    )
    lines = follow()
    for number in range(50):
        script.send(f"line {number}")
        assert next(lines) == f"line {number}"
    script.finish()
    bell.ring(over=True)
    assert list(lines) == ["part"]


def test_end_wakes_who_waits(follow: Callable[..., Iterator[str]], bell: Bell, file: Path) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(follow()))
    thread.start()
    deadline = time.monotonic() + 30
    while bell.looks < 2 or not asleep(thread):
        assert time.monotonic() < deadline
        os.sched_yield()
    bell.ring()  # for nothing
    while bell.looks < 3 or not asleep(thread):
        assert time.monotonic() < deadline
        os.sched_yield()
    append(file, b"last words")
    bell.ring(over=True)
    thread.join(30)
    assert not thread.is_alive()
    assert found == ["last words"]


def test_ended_run_is_read_without_a_watch(follow: Callable[..., Iterator[str]], follower: Follower, bell: Bell, store: Path, file: Path) -> None:
    bell.over = True
    assert list(follow()) == []
    assert not file.exists()
    append(file, b"a\nb")
    assert list(follow_blocking(Follower(Output(store, UUID)), bell.ended)) == ["a", "b"]
    assert follower._watch is None


def test_what_is_written_before_the_end_is_seen_is_not_lost(store: Path, file: Path) -> None:
    def ended() -> bool:
        append(file, b"just now\n")
        return True

    assert list(follow_blocking(Follower(Output(store, UUID)), ended)) == ["just now"]


def test_timeout_is_without_a_new_line(follow: Callable[..., Iterator[str]], file: Path) -> None:
    append(file, b"a\n")
    assert list(follow(timeout=0)) == ["a"]
    append(file, b"part of a line")
    assert list(follow(timeout=0.01)) == []
    with pytest.raises(ValueError, match="non-negative"):
        follow(timeout=-1)


def test_timeout_may_be_longer_than_the_system_sleeps_at_once(
    follow: Callable[..., Iterator[str]], file: Path, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_LONGEST_POLL_MS", 1)
    append(file, b"part of a line")
    deadline = time.monotonic() + 0.02
    assert list(follow(timeout=0.02)) == []
    assert time.monotonic() >= deadline, "it is not over when one sleep is"
    assert bell.looks == 2, "before the watch was made, and behind that"


def test_timeout_passes_although_the_bell_rings(follower: Follower, bell: Bell) -> None:
    def ringing() -> bool:
        bell.ring()
        return False

    assert list(follow_blocking(follower, ringing, bell.descriptor, 0.01)) == []


def test_without_a_watch_it_looks_now_and_then(follow: Callable[..., Iterator[str]], bell: Bell, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> object:
        raise OSError

    monkeypatch.setattr(filewatch, "_Notifier", refuse)
    monkeypatch.setattr(output, "LOOK", 0.001)
    lines = follow()
    append(file, b"a\n")
    assert next(lines) == "a"
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(lines))
    thread.start()
    deadline = time.monotonic() + 30
    while bell.looks < 10:
        assert time.monotonic() < deadline
        os.sched_yield()
    append(file, b"b\n")
    bell.over = True
    thread.join(30)
    assert found == ["b"]
    assert list(follow(timeout=0.01)) == []


def test_abandoned_iterator_closes_its_watch(follow: Callable[..., Iterator[str]], follower: Follower, file: Path) -> None:
    append(file, b"a\nb\n")
    lines = follow()
    assert next(lines) == "a"
    assert follower.watch.fileno() >= 0
    del lines
    assert follower.watch.fileno() == -1


@pytest.mark.processes
def test_follower_comes_first_and_the_worker_has_a_spare(spawn_worker: Callable[..., Script], store: Path, follower: Follower) -> None:
    """The worker either uses the file that the follower made to have something to watch, or replaces it; the follower hears of it in both cases."""
    script = spawn_worker(
        """
run(1, lambda: None)
print("spare")
sys.stdin.readline()
really_access, os.access = os.access, lambda *_: bool(int(sys.argv[2]))
capture.begin(sys.argv[1])
print("hello")
sys.stdin.readline()
capture.end()
""",
        UUID,
        0,
    )
    assert script.read_line() == "spare"
    watch = follower.watch
    script.send("")
    taken: list[str] = []
    while not taken:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        assert poll.poll(DEADLINE_MS)
        watch.drain()
        taken = follower.take()
    assert taken == ["hello"]
    script.finish()


# -- removing ----------------------------------------------------------------------------------------------------------------------------


def test_removing(file: Path, store: Path) -> None:
    file.write_bytes(b"x")
    remove(store, UUID)
    assert not file.exists()
    remove(store, UUID)


def test_sweeping(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep(store.parent, ()) == 0
    old = time.time() - 3600
    unknown = "0" * 32
    for name in (UUID, OTHER, unknown, "readme"):
        (file.parent / name).touch()
        os.utime(file.parent / name, (old, old))
    (file.parent / ("1" * 32)).touch()
    really_list = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*really_list(folder), "2" * 32])  # gone when it is looked at: its process was cleaned
    assert sweep(store, {UUID}) == 2
    assert set(really_list(file.parent)) == {UUID, "readme", "1" * 32}, "a file made just now may belong to a process that is not known yet"
