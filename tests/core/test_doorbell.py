"""Doorbells: no wake is lost, the dead are cleared away, the living and the foreign are left alone."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parkit_async._core import doorbell
from parkit_async._core.doorbell import (
    EVENT_ALL,
    EVENT_CHANGE,
    EVENT_DONE,
    EVENT_ITEMS,
    EVENT_SPACE,
    Bell,
    SocketDirectory,
    ring,
    thread_bell,
)
from parkit_async._core.errors import StoragePathError
from parkit_async._core.shared import WORD_FREE, SharedTable
from tests.conftest import RunScript, Spawn

DEADLINE = 60


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def files(directory: SocketDirectory) -> set[str]:
    return set(os.listdir(directory.path))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SharedTable]:
    opened = SharedTable(tmp_path / "table")
    yield opened
    opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[SocketDirectory]:
    opened = SocketDirectory(tmp_path / "sockets")
    yield opened
    opened.close()


@pytest.fixture
def bell(directory: SocketDirectory) -> Iterator[Bell]:
    opened = Bell(directory)
    yield opened
    opened.close()


def test_events_are_distinct_bits() -> None:
    assert EVENT_ITEMS | EVENT_SPACE | EVENT_DONE | EVENT_CHANGE == EVENT_ITEMS + EVENT_SPACE + EVENT_DONE + EVENT_CHANGE == EVENT_ALL


# -- one bell ----------------------------------------------------------------------------------------------------------------------------


def test_bell_rings(directory: SocketDirectory, bell: Bell) -> None:
    assert not bell.wait(0)
    assert directory.send(bell.address)
    assert directory.send(bell.address)
    assert bell.wait(DEADLINE)
    assert bell.drain() == 0
    assert directory.send(bell.address)
    assert bell.drain() == 1
    assert not bell.wait(0)


def test_socket_is_private(directory: SocketDirectory, bell: Bell) -> None:
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert files(directory) == {f"{bell.address:016x}"}
    assert not os.get_inheritable(bell.fileno())
    assert not os.get_blocking(bell.fileno())


def test_wait_ends_at_its_deadline(bell: Bell) -> None:
    assert not bell.wait(0.0015)
    assert not bell.wait(-1)


def test_a_wait_that_is_longer_than_the_system_sleeps_goes_on(directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []

    class Poll:
        """One whose sleeps are over at once, and the bell rings in the third."""

        def register(self, descriptor: Any, events: int) -> None:
            assert descriptor.fileno() == bell.fileno()

        def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
            asked.append(milliseconds)
            if len(asked) < 3:
                return []
            directory.send(bell.address)
            return [(bell.fileno(), select.POLLIN)]

    monkeypatch.setattr(select, "poll", Poll)
    assert bell.wait(1e9)
    assert asked == [2**31 - 1] * 3


def test_an_interrupt_behind_the_binding_leaves_nothing(directory: SocketDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = SocketDirectory.bind

    def interrupted(self: SocketDirectory, made: list[tuple[socket.socket, int]] | None = None) -> tuple[socket.socket, int]:
        bind(self, made)
        raise KeyboardInterrupt

    before = descriptors()
    monkeypatch.setattr(SocketDirectory, "bind", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Bell(directory)
    assert (files(directory), descriptors()) == (set(), before)


def test_who_has_waited_shortly_looks_before_it_sleeps(directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "LOOK", DEADLINE)  # however slow the machine is
    monkeypatch.setattr(doorbell, "_STALLED", DEADLINE)
    directory.send(bell.address)
    assert bell.wait(DEADLINE)
    assert bell.looks == 0, "nothing is known of the first wait"
    given = []

    def give_the_core_away() -> None:
        given.append(1)
        if len(given) == 3:
            directory.send(bell.address)

    monkeypatch.setattr("os.sched_yield", give_the_core_away)
    assert bell.wait()
    assert (bell.looks, len(given)) == (1, 3)
    assert not bell.wait(0.001), "a look is over with the time of the wait"
    assert bell.looks == 2
    assert not bell.wait(0.001)
    assert bell.looks == 2, "who has waited in vain sleeps at once"


def test_looking_is_left_off_where_others_have_use_for_the_core(directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "LOOK", DEADLINE)
    directory.send(bell.address)
    assert bell.wait(DEADLINE)
    given = []

    def lose_the_core() -> None:
        given.append(1)
        time.sleep(0.001)

    monkeypatch.setattr("os.sched_yield", lose_the_core)
    assert not bell.wait(0.1)
    assert (bell.looks, len(given)) == (1, 1)


def test_full_buffer_counts_as_rung(directory: SocketDirectory, bell: Bell) -> None:
    sent = 0
    while sent < 5000:
        assert directory.send(bell.address)
        sent += 1
    pending = bell.drain()
    assert 0 < pending < sent


def test_many_bells_that_nobody_reads_do_not_deafen_the_rest(directory: SocketDirectory) -> None:
    # What lies unread counts against the sender's buffer: without care about the 280th datagram to anybody is dropped.
    unread = [Bell(directory) for _ in range(100)]
    for _ in range(8):
        for each in unread:
            assert directory.send(each.address)
    last = Bell(directory)
    assert directory.send(last.address)
    assert last.wait(0)


def test_signal_handler_that_raises_passes_through(directory: SocketDirectory, bell: Bell) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError("handled")

    def wait_with_alarm() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        bell.wait(DEADLINE)

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(InterruptedError, match="handled"):
            wait_with_alarm()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert directory.send(bell.address)
    assert bell.wait(DEADLINE)


def test_signal_handler_that_waits_itself_does_no_harm(directory: SocketDirectory, bell: Bell) -> None:
    inner: list[bool] = []

    def handler(number: int, frame: object) -> None:
        inner.append(bell.wait(0))
        directory.send(bell.address)

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert bell.wait(DEADLINE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert inner == [False]


def test_close_leaves_nothing_and_is_idempotent(directory: SocketDirectory) -> None:
    before = descriptors()
    opened = Bell(directory)
    opened.close()
    opened.close()
    assert descriptors() == before
    assert files(directory) == set()
    assert opened.closed
    assert opened.fileno() == -1
    assert not directory.send(opened.address)
    with pytest.raises(ValueError, match="closed"):
        opened.wait(0)


def test_closing_the_directory_wakes_and_closes_its_bells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    opened = SocketDirectory(tmp_path / "sockets")
    asleep = threading.Event()
    woken: list[bool] = []
    real_poll = select.poll

    class Poll:
        def __init__(self) -> None:
            self.register, self._poll = (real := real_poll()).register, real.poll

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            asleep.set()
            return self._poll(timeout)

    thread = threading.Thread(target=lambda: woken.append(thread_bell(opened).wait(None)), daemon=True)
    with monkeypatch.context() as patch:
        patch.setattr(select, "poll", Poll)
        thread.start()
        assert asleep.wait(DEADLINE)
    address = thread_bell(opened).address
    assert opened.send(address)
    opened.close()
    opened.close()
    thread.join(10)
    assert woken == [True]
    assert descriptors() == before
    assert os.listdir(tmp_path / "sockets") == []
    assert not opened.send(address)
    for refused in (opened.bind, opened.sweep, lambda: thread_bell(opened)):
        with pytest.raises(ValueError, match="closed"):
            refused()


# -- bells of threads --------------------------------------------------------------------------------------------------------------------


def test_each_thread_has_one_bell_which_goes_with_it(directory: SocketDirectory) -> None:
    mine = thread_bell(directory)
    assert thread_bell(directory) is mine
    before = descriptors()
    theirs: list[int] = []

    def use() -> None:
        theirs.append(thread_bell(directory).address)
        assert thread_bell(directory).address == theirs[0]
        assert directory.send(theirs[0])
        assert thread_bell(directory).wait(DEADLINE)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(DEADLINE)
    assert theirs
    assert theirs[0] != mine.address
    assert files(directory) == {f"{mine.address:016x}"}
    assert descriptors() <= before + 1  # the sender, which the thread opened
    assert not directory.send(theirs[0])


def test_closed_thread_bell_is_replaced(directory: SocketDirectory) -> None:
    first = thread_bell(directory)
    first.close()
    assert thread_bell(directory).address != first.address


def test_interpreter_exit_removes_the_file(tmp_path: Path, run_script: RunScript) -> None:
    code = """
import os, sys
from parkit_async._core.doorbell import SocketDirectory, thread_bell
directory = SocketDirectory(sys.argv[1])
thread_bell(directory)
print(len(os.listdir(directory.path)))
"""
    assert run_script(code, tmp_path / "sockets").stdout.strip() == "1"
    assert os.listdir(tmp_path / "sockets") == []


# -- places ------------------------------------------------------------------------------------------------------------------------------


def deep(tmp_path: Path) -> Path:
    path = tmp_path
    while len(str(path)) < 300:
        path /= "d" * 40
    path.mkdir(parents=True)
    return path


def test_deep_store(tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> None:
    place = deep(tmp_path)
    opened = SocketDirectory(place / "sockets")
    bell = Bell(opened)
    code = """
import sys
from parkit_async._core.doorbell import SocketDirectory
directory = SocketDirectory(sys.argv[1])
print(directory.send(int(sys.argv[2])), directory.sweep())
directory.close()
"""
    assert run_script(code, opened.path, bell.address).stdout.split() == ["True", "0"]
    assert bell.wait(DEADLINE)
    monkeypatch.chdir(place)
    relative = SocketDirectory("sockets")
    monkeypatch.chdir(tmp_path)
    assert relative.send(bell.address)
    relative.close()
    opened.close()
    assert os.listdir(place / "sockets") == []


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pk", dir="/tmp") as path:
        yield Path(path)


def test_deep_store_without_proc(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = deep(tmp_path)
    monkeypatch.setattr(doorbell, "_SHARED_TEMPORARY", str(short))
    monkeypatch.setattr(doorbell, "_DESCRIPTORS", str(tmp_path / "missing"))
    before = descriptors()
    first, second = SocketDirectory(place / "sockets"), SocketDirectory(place / ".." / place.name / "sockets")
    other = SocketDirectory(deep(tmp_path / "x") / "sockets")
    folders = sorted(short.iterdir())
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    bell = Bell(first)
    assert second.send(bell.address)
    assert not other.send(bell.address)
    assert bell.wait(0)
    for opened in (first, second, other):
        opened.close()
    assert descriptors() == before
    assert descriptors() == before


def test_a_folder_in_tmp_that_others_have_or_may_enter_is_left_for_another_one(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = deep(tmp_path)
    monkeypatch.setattr(doorbell, "_SHARED_TEMPORARY", str(short))
    monkeypatch.setattr(doorbell, "_DESCRIPTORS", str(tmp_path / "missing"))
    before = descriptors()
    SocketDirectory(place / "sockets").close()
    (first,) = short.iterdir()
    first.rmdir()
    first.symlink_to(tmp_path)
    SocketDirectory(place / "sockets").close()
    (second,) = set(short.iterdir()) - {first}
    second.chmod(0o755)
    opened, again = SocketDirectory(place / "sockets"), SocketDirectory(place / "sockets")
    bell = Bell(opened)
    assert again.send(bell.address) and bell.wait(0)
    (third,) = set(short.iterdir()) - {first, second}
    assert stat.S_IMODE(third.stat().st_mode) == 0o700
    opened.close()
    again.close()
    monkeypatch.setattr(doorbell, "_SHARED_TEMPORARY", str(short / "missing"))
    with pytest.raises(StoragePathError, match="cannot create or open"):  # trouble of another kind is said, and costs no name
        SocketDirectory(place / "sockets")
    assert descriptors() == before


def test_a_record_of_the_name_in_tmp_that_is_something_else_is_refused(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = deep(tmp_path)
    monkeypatch.setattr(doorbell, "_SHARED_TEMPORARY", str(short))
    monkeypatch.setattr(doorbell, "_DESCRIPTORS", str(tmp_path / "missing"))
    before = descriptors()
    (place / "sockets.secret").write_text("kept")
    with pytest.raises(StoragePathError, match=r"there can be no socket to wait with in .*Invalid argument"):
        SocketDirectory(place / "sockets")
    assert (place / "sockets.secret").read_text() == "kept" and not list(short.iterdir())
    assert descriptors() == before


def test_loose_mode_of_our_own_folder_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets").chmod(0o755)
    SocketDirectory(tmp_path / "sockets").close()
    assert stat.S_IMODE((tmp_path / "sockets").stat().st_mode) == 0o700


def test_folder_of_another_user_or_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link", "missing/sockets"):
        with pytest.raises(StoragePathError, match="cannot create or open"):
            SocketDirectory(tmp_path / name)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(StoragePathError, match=f"belongs to user {uid}"):
        SocketDirectory(tmp_path)
    assert descriptors() == before


# -- the dead and the foreign ------------------------------------------------------------------------------------------------------------


def leftover(directory: SocketDirectory, name: str) -> str:
    """Leave the file of a socket that is closed, as a killed process does."""
    path = f"{directory.path}/{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(path)
    return path


def test_dead_bell_is_removed_by_the_sender(directory: SocketDirectory) -> None:
    leftover(directory, "0123456789abcdef")
    assert not directory.send(0x0123456789ABCDEF)
    assert files(directory) == set()
    assert not directory.send(0x0123456789ABCDEF)


def test_files_of_another_kind_are_neither_rung_nor_removed(directory: SocketDirectory, bell: Bell) -> None:
    place = Path(directory.path)
    (place / "0000000000000001").write_text("kept")
    (place / "0000000000000002").symlink_to(place / f"{bell.address:016x}")
    os.mkfifo(place / "0000000000000003")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(str(place / "0000000000000004"))
        stream.listen()
        leftover(directory, "notes")
        before = files(directory)
        for address in (1, 2, 3):
            assert not directory.send(address)
        directory.send(4)
        assert directory.sweep() == 0
    assert files(directory) == before
    assert bell.drain() == 0
    assert (place / "0000000000000001").read_text() == "kept"
    for name in before - {f"{bell.address:016x}"}:
        (place / name).unlink()


def test_socket_of_another_user_is_neither_rung_nor_removed(directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover(directory, "0123456789abcdef")
    uid = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: uid + 1)
        assert not directory.send(bell.address)
        assert not directory.send(0x0123456789ABCDEF)
        assert directory.sweep() == 0
        directory.unlink(0x0123456789ABCDEF)
    assert bell.drain() == 0
    assert files(directory) == {f"{bell.address:016x}", "0123456789abcdef"}
    assert directory.sweep() == 1


def test_sweep_removes_the_dead_only(directory: SocketDirectory, bell: Bell) -> None:
    leftover(directory, "0123456789abcdef")
    unfinished = leftover(directory, "new-0123456789abcdef")
    os.utime(leftover(directory, "new-1123456789abcdef"), (1, 1))
    assert directory.sweep() == 2
    assert files(directory) == {f"{bell.address:016x}", "new-0123456789abcdef"}
    assert directory.send(bell.address)
    os.unlink(unfinished)


def test_a_file_has_its_final_name_only_when_bound(directory: SocketDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    bind, rename = socket.socket.bind, os.rename

    class Binding(socket.socket):
        def bind(self, path: Any) -> None:
            bind(self, path)
            seen.append(files(directory))

    def watched(*arguments: Any, **options: Any) -> None:
        assert directory.sweep() == 0
        rename(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Binding)
        patch.setattr(os, "rename", watched)
        bell = Bell(directory)
    assert seen == [{f"new-{bell.address:016x}"}]
    assert files(directory) == {f"{bell.address:016x}"}


def test_sweep_leaves_alone_what_is_being_bound(directory: SocketDirectory, spawn: Spawn) -> None:
    code = """
import sys
from parkit_async._core.doorbell import SocketDirectory
directory = SocketDirectory(sys.argv[1])
print("ready", flush=True)
for _ in range(2000):
    bell, address = directory.bind()
    assert directory.send(address)
    assert bell.recv(1)
    bell.close()
    directory.unlink(address)
directory.close()
print("done", flush=True)
"""
    script = spawn(code, directory.path)
    assert script.read_line() == "ready"
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            directory.sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        assert script.read_line() == "done"
    finally:
        done.set()
        sweeper.join(DEADLINE)
    script.finish()


# -- ringing -----------------------------------------------------------------------------------------------------------------------------


def test_ring_sends_one_datagram_to_each_bell(table: SharedTable, directory: SocketDirectory, bell: Bell) -> None:
    other = Bell(directory)
    assert ring(table, directory, {1: EVENT_ALL}) == 0
    slots = [table.register(1, EVENT_ITEMS, bell.address), table.register(2, EVENT_ALL, bell.address), table.register(1, EVENT_ITEMS, other.address)]
    assert ring(table, directory, {1: EVENT_ITEMS, 2: EVENT_SPACE}) == 2
    assert (bell.drain(), other.drain()) == (1, 1)
    assert ring(table, directory, {1: EVENT_SPACE}) == 0
    assert ring(table, directory, {2: EVENT_CHANGE}) == 1
    for slot in slots:
        table.unregister(slot)
    assert ring(table, directory, {1: EVENT_ALL, 2: EVENT_ALL}) == 0


def test_ring_evicts_a_thread_that_ended_without_unregistering(table: SharedTable, directory: SocketDirectory) -> None:
    thread = threading.Thread(target=lambda: table.register(1, EVENT_ALL, thread_bell(directory).address))
    thread.start()
    thread.join(DEADLINE)
    assert len(table.waiters({1: EVENT_ALL})) == 1
    assert ring(table, directory, {1: EVENT_ALL}) == 0
    assert table.waiters({1: EVENT_ALL}) == []


def test_trouble_on_our_side_evicts_nobody(table: SharedTable, directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    table.register(1, EVENT_ALL, bell.address)

    def exhausted(*arguments: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", exhausted)
        ring(table, directory, {1: EVENT_ALL})
    assert table.waiters({1: EVENT_ALL})
    assert ring(table, directory, {1: EVENT_ALL}) == 1
    assert bell.drain() == 1


def test_a_directory_that_is_closed_meanwhile_evicts_nobody(table: SharedTable, directory: SocketDirectory, bell: Bell) -> None:
    table.register(1, EVENT_ALL, bell.address)
    closed = SocketDirectory(directory.path)
    assert closed.send(bell.address)
    closed.close()
    ring(table, closed, {1: EVENT_ALL})
    assert table.waiters({1: EVENT_ALL})
    assert bell.drain() == 1
    assert ring(table, directory, {1: EVENT_ALL}) == 1


def test_of_two_threads_that_send_first_one_opens_the_socket(directory: SocketDirectory, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Overtaken:
        """The lock of the sender, got after another thread has had it."""

        def __enter__(self) -> None:
            self.other = directory._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

        def __exit__(self, *error: object) -> None:
            pass

    overtaken = Overtaken()
    with monkeypatch.context() as patch:
        patch.setattr(directory, "_sender_lock", overtaken)
        assert directory.send(bell.address)
    assert directory._sender is overtaken.other
    assert bell.drain() == 1


def test_what_is_known_of_addresses_stays_small(directory: SocketDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "_TRUSTED", 2)
    bells = [Bell(directory) for _ in range(5)]
    for _ in range(2):
        assert all(directory.send(bell.address) for bell in bells)
        assert len(directory._trusted) <= 2
    assert [bell.drain() for bell in bells] == [2] * 5
    for bell in bells:
        bell.close()


SLEEPER = """
import sys
from parkit_async._core.doorbell import EVENT_ALL, SocketDirectory, thread_bell
from parkit_async._core.shared import SharedTable
table, directory = SharedTable(sys.argv[1]), SocketDirectory(sys.argv[2])
bell = thread_bell(directory)
for oid in (1, 2):
    table.register(oid, EVENT_ALL, bell.address)
print("asleep", flush=True)
while bell.wait(None):
    print("woken", flush=True)
"""


def test_killed_waiter_is_evicted_by_the_next_ring(table: SharedTable, directory: SocketDirectory, spawn: Spawn) -> None:
    script = spawn(SLEEPER, table.path, directory.path)
    assert script.read_line() == "asleep"
    assert ring(table, directory, {1: EVENT_ITEMS, 2: EVENT_ITEMS}) == 1
    assert script.read_line() == "woken"
    script.kill()
    assert len(table.waiters({1: EVENT_ITEMS, 2: EVENT_ITEMS})) == 2
    assert len(files(directory)) == 1
    assert ring(table, directory, {1: EVENT_ITEMS, 2: EVENT_ITEMS}) == 0
    assert table.waiters({1: EVENT_ITEMS, 2: EVENT_ITEMS}) == []
    assert files(directory) == set()


def test_stopped_waiter_is_not_evicted(table: SharedTable, directory: SocketDirectory, spawn: Spawn) -> None:
    script = spawn(SLEEPER, table.path, directory.path)
    assert script.read_line() == "asleep"
    os.kill(script.pid, signal.SIGSTOP)
    for _ in range(1000):
        assert ring(table, directory, {1: EVENT_ITEMS}) == 1
    os.kill(script.pid, signal.SIGCONT)
    assert script.read_line() == "woken"
    script.kill()
    directory.sweep()


def test_ping_pong_loses_no_wake(table: SharedTable, directory: SocketDirectory, spawn: Spawn) -> None:
    # Each side's word says how far it has come: the data. A lost wake is a wait that only ends at its deadline.
    code = """
import sys
from parkit_async._core.doorbell import EVENT_CHANGE, SocketDirectory, ring, thread_bell
from parkit_async._core.shared import SharedTable, WORD_FREE
table, directory = SharedTable(sys.argv[1]), SocketDirectory(sys.argv[2])
print("ready", flush=True)
words = table.words
bell = thread_bell(directory)
for turn in range(1, 1001):
    while words[WORD_FREE] < turn:
        slot = table.register(1, EVENT_CHANGE, bell.address)
        if words[WORD_FREE] < turn:
            assert bell.wait(30), f"lost the wake of turn {turn}"
        table.unregister(slot)
    words[WORD_FREE + 1] = turn
    ring(table, directory, {2: EVENT_CHANGE})
directory.close()
table.close()
"""
    script = spawn(code, table.path, directory.path)
    assert script.read_line() == "ready"
    words = table.words
    bell = thread_bell(directory)
    for turn in range(1, 1001):
        words[WORD_FREE] = turn
        ring(table, directory, {1: EVENT_CHANGE})
        while words[WORD_FREE + 1] < turn:
            slot = table.register(2, EVENT_CHANGE, bell.address)
            if words[WORD_FREE + 1] < turn:
                assert bell.wait(30), f"lost the wake of turn {turn}"
            table.unregister(slot)
    script.finish()
    assert table.waiters({1: EVENT_ALL, 2: EVENT_ALL}) == []


# -- fork --------------------------------------------------------------------------------------------------------------------------------


def test_forked_child_leaves_the_parents_bell_and_registration_alone(tmp_path: Path, run_script: RunScript) -> None:
    code = """
import os, sys
from parkit_async._core.doorbell import EVENT_ALL, Bell, SocketDirectory, ring, thread_bell
from parkit_async._core.shared import SharedTable
table, directory = SharedTable(sys.argv[1]), SocketDirectory(sys.argv[2])
mine, loop = thread_bell(directory), Bell(directory)
slot = table.register(1, EVENT_ALL, mine.address)
assert ring(table, directory, {1: EVENT_ALL}) == 1 and mine.drain() == 1
child = os.fork()
if not child:
    assert mine.closed and loop.closed and mine.fileno() == -1
    mine.close()
    loop.close()
    table.unregister(slot)
    own = thread_bell(directory)
    assert own is not mine and own.address != mine.address
    theirs = table.register(2, EVENT_ALL, own.address)
    assert ring(table, directory, {1: EVENT_ALL, 2: EVENT_ALL}) == 2
    assert own.wait(30)
    table.unregister(theirs)
    directory.close()
    table.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert mine.wait(30) and not mine.wait(0)
assert sorted(os.listdir(directory.path)) == sorted(f"{bell.address:016x}" for bell in (mine, loop))
assert directory.send(loop.address) and loop.drain() == 1
assert table.waiters({1: EVENT_ALL, 2: EVENT_ALL}) == [(slot, mine.address)]
loop.close()
directory.close()
table.close()
"""
    run_script(code, tmp_path / "table", tmp_path / "sockets")


def test_bell_of_a_killed_parent_is_dead_though_its_child_lives(table: SharedTable, directory: SocketDirectory, spawn: Spawn) -> None:
    code = """
import os, signal, sys
from parkit_async._core.doorbell import EVENT_ALL, SocketDirectory, thread_bell
from parkit_async._core.shared import SharedTable
table, directory = SharedTable(sys.argv[1]), SocketDirectory(sys.argv[2])
death, life = os.pipe()
bell = thread_bell(directory)
table.register(1, EVENT_ALL, bell.address)
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
os.close(life)
assert os.read(death, 1) == b""
print("orphaned", flush=True)
sys.stdin.read()
os._exit(0)
"""
    script = spawn(code, table.path, directory.path)
    assert script.read_line() == "orphaned"
    assert ring(table, directory, {1: EVENT_ALL}) == 0
    assert table.waiters({1: EVENT_ALL}) == []
    assert files(directory) == set()
    script.finish(check=False)
