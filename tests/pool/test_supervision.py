"""Who supervises a store, and who starts it: what the locks say, also where the system refuses something. No pool is started here."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
from pathlib import Path
from typing import Any

import pytest

import parkit
from parkit import StoragePathError
from parkit_async._core import paths, pool_state, supervision
from parkit_async._core.identity import identity_of
from parkit_async._core.supervision import Lookout, StartWatch, SupervisorLock, begin_starting, is_lost, launch, running_supervisor

from .standin import Supervisor

DEADLINE_MS = 30_000

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def made(store: Path) -> None:
    """Have the store be one."""
    paths.open_store(str(store))


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def readable(watch: StartWatch, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_one_process_supervises_a_store_once(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    lock, second = SupervisorLock(str(store)), SupervisorLock(str(link))
    assert lock.acquire()
    assert not second.acquire() and not lock.acquire()
    assert running_supervisor(str(link)) == os.getpid()
    second.release()  # it has nothing to release
    assert running_supervisor(str(store)) == os.getpid()
    lock.release()
    lock.release()
    assert second.acquire()
    second.release()
    assert running_supervisor(str(store)) is None


def test_another_process_supervises(store: Path) -> None:
    with Supervisor(store) as supervisor:
        assert running_supervisor(str(store)) == supervisor.pid
        assert not SupervisorLock(str(store)).acquire()
    lock = SupervisorLock(str(store))
    assert lock.acquire()
    lock.release()


def test_a_system_without_locks_is_no_other_supervisor(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot lock would have each service believe that there is one already."""
    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = SupervisorLock(str(store))
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        lock.acquire()
    monkeypatch.undo()
    assert lock.acquire()
    lock.release()


def test_a_lock_is_lost_with_its_store(store: Path) -> None:
    assert not is_lost(str(store)), "who has no lock can lose none"
    lock = SupervisorLock(str(store))
    assert lock.acquire()
    assert not is_lost(str(store))
    (store / "supervisor").rename(store / "elsewhere")
    assert is_lost(str(store))
    (store / "supervisor").touch(0o600)
    assert is_lost(str(store)), "another file of that name is another lock"
    lock.release()


def test_who_asks_goes_on_when_a_target_has_closed_all_descriptors(store: Path) -> None:
    with Supervisor(store) as supervisor:
        assert running_supervisor(str(store)) == supervisor.pid
        os.close(supervision._inquiries[str(store)].descriptor)
        assert running_supervisor(str(store)) == supervisor.pid


def test_a_supervisor_that_cannot_be_seen_is_not_watched(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in another container. Who waits for a process looks now and then instead."""

    def elsewhere(pid: int) -> Any:
        found = identity_of(pid)
        assert found is not None
        return found._replace(boot=f"{found.boot.partition('/')[0]}/1")

    with Supervisor(store):
        seen = Lookout(str(store))
        assert seen.fileno() >= 0 and not seen.died()
        monkeypatch.setattr(supervision, "identity_of", elsewhere)
        hidden = Lookout(str(store))
        assert hidden.fileno() == -1 and not hidden.died()
    assert seen.died() and not hidden.died()
    for lookout in (seen, seen, hidden):
        lookout.close()


def test_a_service_that_cannot_be_started_says_why_and_can_be_started_later(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/bin/sh")

    monkeypatch.setattr(subprocess, "run", vanish)
    with pytest.raises(StoragePathError, match=r"supervisor cannot be started: .*'/bin/sh'; see that .* can be run"):
        launch(str(store))
    starting = begin_starting(str(store))
    assert starting is not None
    os.close(starting)


def test_whoever_begins_to_start_is_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        begin_starting(str(store))
    monkeypatch.undo()
    starting = begin_starting(str(store))
    assert starting is not None
    assert begin_starting(str(store)) is None
    assert not launch(str(store)), "somebody is about to"
    os.close(starting)
    with Supervisor(store):
        assert not launch(str(store)), "it is there"
    assert not (store / "supervisor.log").exists()


def test_the_end_of_a_start_is_seen(store: Path) -> None:
    starting = begin_starting(str(store))
    assert starting is not None
    watch = StartWatch(str(store))
    assert not readable(watch, 0)
    os.close(starting)
    assert readable(watch, DEADLINE_MS)
    watch.close()
    watch.close()
    assert watch.fileno() == -1


# The pool as a whole, where there is none.


def test_a_namespace_of_processes_that_was_never_made_is_passed_over(store: Path) -> None:
    """A program was killed between two steps of its first start()."""
    parkit.Process("ns/p", target=abs)
    for name in ("gone", "ns"):
        pool_state.add_namespace(str(store), name)
    assert [process.path for process in parkit.processes()] == ["ns/p"]
    assert parkit.pool_status()["workers"] == []
