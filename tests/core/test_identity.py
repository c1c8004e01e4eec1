"""Who a process is: the living are told from the dead, a failed look kills nobody, and no stranger ever gets a signal."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from parkit_async._core import fork
from parkit_async._core import identity as module
from parkit_async._core.identity import Identity, Liveness, current, identity_of, is_unreaped_child, liveness, open_pidfd, signal_exactly
from tests.conftest import RunScript, Spawn

LINUX = sys.platform == "linux"
PATIENCE = 30

pytestmark = pytest.mark.processes
needs_proc = pytest.mark.skipif(not LINUX, reason="looks at /proc")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test find out anew who this process is, and the next one again."""
    monkeypatch.setattr(module, "_cached", None)


@pytest.fixture(params=[pytest.param("proc", marks=needs_proc), pytest.param("proc, no pidfd", marks=needs_proc), "psutil"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Look at processes in each of the ways there are."""
    if request.param != "proc":
        monkeypatch.setattr(module, "_HAS_PIDFD", False)
    if request.param == "psutil":
        monkeypatch.setattr(module, "_PROC", str(tmp_path / "missing"))
    return str(request.param)


class Echo:
    """A process that sends back each line; a signal that was sent to it before a line takes effect before the answer."""

    def __init__(self, executable: str = "cat", own_session: bool = False) -> None:
        self.process = subprocess.Popen([executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=own_session)
        self.answers()  # it has left fork and exec behind
        found = identity_of(self.process.pid)
        assert found is not None
        self.identity = found

    def answers(self) -> bool:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(b"line\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return self.process.stdout.readline() == b"line\n"

    def become_zombie(self, number: int = signal.SIGKILL) -> None:
        """Die, and be left unreaped."""
        self.process.send_signal(number)
        self.see_death()

    def see_death(self) -> None:
        """Wait until it is a zombie."""
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass


@pytest.fixture
def echo(source: str) -> Iterator[Echo]:
    started = Echo()
    yield started
    started.close()


@pytest.fixture
def leader(source: str) -> Iterator[Echo]:
    started = Echo(own_session=True)
    yield started
    started.close()


def other_boot(identity: Identity) -> Identity:
    return identity._replace(boot="00000000-0000-0000-0000-000000000000/" + identity.boot.partition("/")[2])


def other_namespace(identity: Identity) -> Identity:
    return identity._replace(boot=identity.boot.partition("/")[0] + "/1")


def other_start(identity: Identity) -> Identity:
    return identity._replace(started=identity.started + "1")


# -- who -----------------------------------------------------------------------------------------------------------------------------------


def test_this_process_is_itself(source: str) -> None:
    here = current()
    assert here.pid == os.getpid()
    assert here is current()
    assert here == identity_of(os.getpid())
    assert liveness(here) is Liveness.ALIVE
    assert Identity(*json.loads(json.dumps(here))) == here


@needs_proc
def test_linux_needs_no_psutil(run_script: RunScript) -> None:
    source = """
        import sys
        from parkit_async._core.identity import current, liveness
        from parkit_async._core.deaths import open_death_watch
        print(liveness(current()), "psutil" in sys.modules, "asyncio" in sys.modules)
        open_death_watch(current()).close()
    """
    assert run_script(source).stdout == "Liveness.ALIVE False False\n"


@needs_proc
def test_an_identity_names_boot_and_namespace() -> None:
    boot, namespace = current().boot.split("/")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(namespace) == os.stat("/proc/self/ns/pid").st_ino


def test_a_forked_child_is_somebody_else(run_script: RunScript) -> None:
    source = """
        import os
        from parkit_async._core.identity import current, liveness
        parent = current()
        if (pid := os.fork()) == 0:
            child = current()
            print(child.pid == os.getpid(), child == parent, child.boot == parent.boot, liveness(parent).name, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(current() is parent)
    """
    assert run_script(source).stdout == "True False True ALIVE\nTrue\n"


@needs_proc
def test_a_forked_child_of_the_same_number_is_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process of every pid namespace is number 1."""
    before = current()
    monkeypatch.setattr(fork, "_generation", fork.generation() + 1)
    assert current() is not before


@needs_proc
@pytest.mark.parametrize("name", ["a) R 1 (b", ") Z 1 1", "( (", "Z"])
def test_the_name_of_a_program_confuses_nobody(name: str, tmp_path: Path) -> None:
    cat = shutil.which("cat")
    assert cat is not None
    (tmp_path / name).symlink_to(cat)
    echo = Echo(str(tmp_path / name))
    try:
        assert Path(f"/proc/{echo.process.pid}/comm").read_text() == f"{name}\n"
        assert liveness(echo.identity) is Liveness.ALIVE
        assert echo.identity.started.isdigit()
        echo.become_zombie()
        assert liveness(echo.identity) is Liveness.DEAD
    finally:
        echo.close()


@pytest.mark.parametrize("pid", [0, -1, -4711, 2**31, 2**80])
def test_numbers_that_no_process_has(pid: int, source: str) -> None:
    assert identity_of(pid) is None
    nobody = current()._replace(pid=pid)
    assert liveness(nobody) is Liveness.DEAD
    assert not signal_exactly(nobody, signal.SIGKILL)
    assert not signal_exactly(nobody, signal.SIGKILL, group=True)


# -- alive, dead, unknown ------------------------------------------------------------------------------------------------------------------


def test_a_process_lives_until_it_is_a_zombie(echo: Echo) -> None:
    assert liveness(echo.identity) is Liveness.ALIVE
    assert not is_unreaped_child(echo.identity)
    echo.become_zombie()
    assert liveness(echo.identity) is Liveness.DEAD
    assert identity_of(echo.process.pid) is None
    assert is_unreaped_child(echo.identity)
    echo.process.wait(PATIENCE)
    assert liveness(echo.identity) is Liveness.DEAD
    assert identity_of(echo.process.pid) is None
    assert not is_unreaped_child(echo.identity)


def test_a_stopped_process_lives(echo: Echo) -> None:
    assert signal_exactly(echo.identity, signal.SIGSTOP)
    os.waitpid(echo.process.pid, os.WUNTRACED)
    assert liveness(echo.identity) is Liveness.ALIVE
    assert signal_exactly(echo.identity, signal.SIGCONT)
    assert echo.answers()


def test_a_pid_that_was_given_out_again_is_dead(echo: Echo) -> None:
    assert liveness(other_start(echo.identity)) is Liveness.DEAD
    echo.become_zombie()
    assert not is_unreaped_child(other_start(echo.identity))


@needs_proc
def test_what_belongs_to_another_boot_is_dead() -> None:
    assert liveness(other_boot(current())) is Liveness.DEAD


@needs_proc
def test_what_belongs_to_another_pid_namespace_is_unknown() -> None:
    assert liveness(other_namespace(current())) is Liveness.UNKNOWN
    assert not is_unreaped_child(other_namespace(current()))


def test_what_was_identified_in_another_way_is_unknown(echo: Echo) -> None:
    assert liveness(echo.identity._replace(boot="clock" if echo.identity.boot != "clock" else "boot/1")) is Liveness.UNKNOWN


@needs_proc
def test_a_process_whose_main_thread_has_ended_lives(spawn: Spawn) -> None:
    """``/proc`` shows it as a zombie."""
    source = """
        import ctypes, platform, sys, threading
        def go_on():
            main.join(timeout=0)
            for line in sys.stdin:
                print(line, end="", flush=True)
        main = threading.main_thread()
        threading.Thread(target=go_on).start()
        ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
    """
    script = spawn(source)
    script.send("one")
    assert script.read_line() == "one"
    stat = Path(f"/proc/{script.pid}/stat")
    while stat.read_bytes().rpartition(b")")[2].split()[0] != b"Z":  # it is on its way; the test's deadline ends this
        os.sched_yield()
    identity = identity_of(script.pid)
    assert identity is not None
    assert liveness(identity) is Liveness.ALIVE
    assert not is_unreaped_child(identity)
    script.send("two")
    assert script.read_line() == "two"
    assert signal_exactly(identity, signal.SIGKILL)
    script.finish(check=False)
    assert liveness(identity) is Liveness.DEAD


# -- a failed look -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a ``/proc`` of its own, which shows this process and no other."""
    made = tmp_path / "proc"
    (made / "sys/kernel/random").mkdir(parents=True)
    (made / "sys/kernel/random/boot_id").write_text("boot\n")
    (made / str(os.getpid()) / "ns").mkdir(parents=True)
    (made / str(os.getpid()) / "ns" / "pid").touch()
    (made / "self").symlink_to(str(os.getpid()))
    show(made, os.getpid())
    monkeypatch.setattr(module, "_PROC", str(made))
    return made


def show(proc: Path, pid: int, state: str = "S", threads: int = 1, started: int = 100) -> None:
    fields = [state, str(os.getppid()), *["0"] * 15, str(threads), "0", str(started), "0"]
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "stat").write_text(f"{pid} (name) {' '.join(fields)}\n")


def test_the_fields_that_count(proc: Path) -> None:
    here = current()
    assert (here.started, here.boot) == ("100", f"boot/{(proc / 'self/ns/pid').stat().st_ino}")
    for state, threads, expected in [("R", 1, Liveness.ALIVE), ("Z", 1, Liveness.DEAD), ("Z", 2, Liveness.ALIVE), ("X", 0, Liveness.DEAD)]:
        show(proc, os.getpid(), state, threads)
        assert liveness(here) is expected


def test_a_process_that_proc_hides_is_not_dead(proc: Path) -> None:
    hidden = current()._replace(pid=os.getppid())
    assert liveness(hidden) is Liveness.UNKNOWN
    with pytest.raises(PermissionError, match="hides process"):
        identity_of(os.getppid())
    assert not signal_exactly(hidden, 0)
    assert not signal_exactly(hidden, 0, group=True)


def test_a_hidden_process_of_another_user_is_not_dead(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    hidden = current()._replace(pid=1)
    monkeypatch.setattr(os, "kill", refuse)
    assert liveness(hidden) is Liveness.UNKNOWN


@pytest.mark.parametrize("line", ["", "17", "17 (name", "17 (name) S 1 2 3", "17 (name) S " + "x " * 30])
def test_an_entry_that_makes_no_sense_kills_nobody(line: str, proc: Path) -> None:
    here = current()
    (proc / str(os.getpid()) / "stat").write_text(line)
    assert liveness(here) is Liveness.UNKNOWN
    with pytest.raises(OSError, match="makes no sense"):
        identity_of(os.getpid())


@needs_proc
def test_a_process_that_ends_while_its_entry_is_read_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Echo()

    def open_and_lose(path: str, mode: str) -> IO[Any]:
        file = open(path, mode)  # noqa: SIM115 - whoever asked for it closes it
        if path == f"/proc/{echo.process.pid}/stat":
            echo.close()
        return file

    monkeypatch.setattr(module, "open", open_and_lose, raising=False)
    assert identity_of(echo.process.pid) is None


def test_a_process_that_the_system_denies_has_no_identity(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(pid: int, number: int) -> None:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    (proc / str(os.getpid()) / "stat").unlink()
    monkeypatch.setattr(os, "kill", deny)
    with pytest.raises(ProcessLookupError, match=f"does not show this process, {os.getpid()}"):
        current()


def test_an_entry_that_cannot_be_read_kills_nobody(proc: Path) -> None:
    here = current()
    (proc / str(os.getpid()) / "stat").unlink()
    (proc / str(os.getpid()) / "stat").mkdir()  # root, too, fails to read that
    assert liveness(here) is Liveness.UNKNOWN


@needs_proc
def test_a_process_out_of_descriptors_kills_nobody(run_script: RunScript) -> None:
    source = """
        import os, resource
        from parkit_async._core.deaths import open_death_watch
        from parkit_async._core.identity import current, liveness, signal_exactly
        here = current()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        print(liveness(here).name)
        for attempt in (lambda: signal_exactly(here, 0), lambda: open_death_watch(here)):
            try:
                attempt()
            except OSError as error:
                print(error.strerror)
    """
    assert run_script(source).stdout == "UNKNOWN\nToo many open files\nToo many open files\n"


def test_a_proc_without_this_process_is_refused(proc: Path) -> None:
    for target in ("1", None):
        (proc / "self").unlink()
        if target is not None:
            (proc / "self").symlink_to(target)
        with pytest.raises(OSError, match=r"belongs to another pid namespace.*mount -t proc"):
            current()
        assert liveness(Identity(os.getppid(), "1", "boot/1")) is Liveness.UNKNOWN


def test_a_kernel_without_pid_namespaces(proc: Path) -> None:
    (proc / "self/ns/pid").unlink()
    assert current().boot == "boot/0"


def test_psutil_that_is_refused_kills_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(module, "_PROC", str(tmp_path / "missing"))
    here = current()
    assert here.boot == "clock"
    monkeypatch.setattr(psutil, "Process", refuse)
    assert liveness(here) is Liveness.UNKNOWN


@needs_proc
def test_processes_of_a_container_are_unknown_outside(run_script: RunScript, tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], stderr=subprocess.DEVNULL, timeout=PATIENCE).returncode != 0:
        pytest.skip("not allowed to make a pid namespace")
    source = """
        import json, os, subprocess, sys
        from parkit_async._core.identity import Identity, current, liveness
        show = "import json; from parkit_async._core.identity import current; print(json.dumps(current()))"
        for command in (sys.argv[1:], [part for part in sys.argv[1:] if part != "--mount-proc"]):
            inside = subprocess.run([*command, sys.executable, "-c", show], capture_output=True, text=True)
            if inside.returncode == 0:
                there = Identity(*json.loads(inside.stdout))
                print(there.boot.split("/")[0] == current().boot.split("/")[0], liveness(there).name, liveness(there._replace(pid=os.getpid())).name)
            else:
                print(inside.stderr.splitlines()[-1])
    """
    first, second = run_script(source, *command).stdout.splitlines()
    assert first == "True UNKNOWN UNKNOWN"
    assert "belongs to another pid namespace" in second


# -- signals -------------------------------------------------------------------------------------------------------------------------------


def test_a_signal_arrives(echo: Echo) -> None:
    assert signal_exactly(echo.identity, 0)
    assert echo.answers()
    assert signal_exactly(echo.identity, signal.SIGTERM)
    echo.see_death()
    for group in (False, True):
        assert not signal_exactly(echo.identity, signal.SIGTERM, group)  # it is dead, and led no group
    assert echo.process.wait(PATIENCE) == -signal.SIGTERM
    assert not signal_exactly(echo.identity, signal.SIGTERM)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("edit", [other_start, other_boot, other_namespace])
def test_a_stranger_gets_no_signal(edit: Callable[[Identity], Identity], group: bool, leader: Echo) -> None:
    if leader.identity.boot == "clock":
        edit = other_start  # all there is to edit, where no boot is compared
    assert not signal_exactly(edit(leader.identity), signal.SIGKILL, group)
    assert leader.answers()


@pytest.mark.skipif(not LINUX, reason="a pidfd is Linux's")
def test_a_pid_given_out_again_before_the_signal_hits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies, and a stranger gets its pid, at the last moment: after the descriptor was opened and its process identified."""
    victim, stranger = Echo(), Echo()
    try:

        def swap(identity: Identity) -> Liveness:
            victim.become_zombie()
            victim.process.wait(PATIENCE)
            monkeypatch.setattr(os, "kill", lambda pid, number: pytest.fail("a signal by number"))
            return Liveness.ALIVE

        monkeypatch.setattr(module, "liveness", swap)
        assert not signal_exactly(victim.identity, signal.SIGKILL)
        assert stranger.answers()
    finally:
        monkeypatch.undo()
        victim.close()
        stranger.close()


def test_a_signal_that_does_not_exist_is_an_error(echo: Echo) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        signal_exactly(echo.identity, 4711)
    assert echo.answers()


PARENT = """
    import signal, subprocess
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def family(source: str) -> Iterator[tuple[subprocess.Popen[bytes], Identity, int]]:
    """Start a leader of a group, whose child holds the leader's standard output open: it ends when both have."""
    command = [sys.executable, "-c", "\n".join(line.strip() for line in PARENT.splitlines())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        leader = identity_of(process.pid)
        assert leader is not None
        yield process, leader, child
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_a_signal_reaches_the_group(family: tuple[subprocess.Popen[bytes], Identity, int]) -> None:
    process, leader, _ = family
    assert process.stdout is not None
    assert signal_exactly(leader, signal.SIGKILL, group=True)
    assert process.stdout.read() == b""
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_group_outlives_its_leader_until_that_is_reaped(family: tuple[subprocess.Popen[bytes], Identity, int]) -> None:
    process, leader, child = family
    assert process.stdout is not None
    found = identity_of(child)
    assert found is not None
    assert signal_exactly(leader, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not signal_exactly(leader, signal.SIGKILL)
    assert liveness(found) is Liveness.ALIVE
    assert signal_exactly(leader, signal.SIGKILL, group=True)
    assert process.stdout.read() == b""
    process.wait(PATIENCE)
    assert not signal_exactly(leader, signal.SIGKILL, group=True)


def test_the_group_of_a_zombie_that_the_system_no_longer_tells(
    family: tuple[subprocess.Popen[bytes], Identity, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no getpgid for zombies."""

    def refuse(pid: int) -> int:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    process, leader, _ = family
    assert process.stdout is not None
    monkeypatch.setattr(os, "getpgid", refuse)
    assert not signal_exactly(leader, signal.SIGKILL, group=True)
    assert signal_exactly(leader, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert signal_exactly(leader, signal.SIGKILL, group=True)
    assert process.stdout.read() == b""


def test_a_group_of_zombies_that_the_system_refuses(leader: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS answers EPERM."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "killpg", refuse)
    with pytest.raises(PermissionError):
        signal_exactly(leader.identity, signal.SIGTERM, group=True)
    leader.become_zombie()
    assert not signal_exactly(leader.identity, signal.SIGTERM, group=True)


def test_who_leads_no_group_gets_no_signal_for_one(echo: Echo) -> None:
    assert not signal_exactly(echo.identity, signal.SIGKILL, group=True)  # its group is the test's own
    assert echo.answers()


def test_the_group_of_the_first_process_is_not_everybody(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill(-1) reaches all processes there are."""
    show(proc, 1)
    monkeypatch.setattr(os, "getpgid", lambda pid: pid)
    monkeypatch.setattr(os, "killpg", lambda group, number: pytest.fail("everybody"))
    first = current()._replace(pid=1)
    assert liveness(first) is Liveness.ALIVE
    assert not signal_exactly(first, 0, group=True)


# -- descriptors of processes --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not LINUX, reason="a pidfd is Linux's")
def test_the_number_of_a_thread_is_no_process() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(ProcessLookupError):
            open_pidfd(thread.native_id)
        assert not signal_exactly(current()._replace(pid=thread.native_id), signal.SIGKILL)
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not LINUX, reason="a pidfd is Linux's")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_sandbox_that_forbids_pidfds(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    echo = Echo()
    try:
        assert open_pidfd(echo.process.pid) is None
        assert signal_exactly(echo.identity, signal.SIGTERM)
        assert echo.process.wait(PATIENCE) == -signal.SIGTERM
    finally:
        echo.close()


@pytest.mark.skipif(not LINUX, reason="a pidfd is Linux's")
def test_that_there_is_no_descriptor_left_does_not_mean_that_there_are_no_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        open_pidfd(os.getpid())
