"""A file watch: nothing that happens to the file after a look is missed, and what the system refuses is looked at instead."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from parkit_async._core import filewatch
from parkit_async._core.filewatch import FileWatch
from tests.conftest import RunScript

DEADLINE_MS = 30_000


def readable(watch: FileWatch, milliseconds: int = DEADLINE_MS) -> bool:
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(milliseconds))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def watch(file: Path) -> Iterator[FileWatch]:
    made = FileWatch(file)
    assert made.fileno() >= 0
    yield made
    made.close()


def test_quiet_until_something_happens(watch: FileWatch, file: Path) -> None:
    assert not readable(watch, 0)
    file.read_bytes()
    (file.parent / "another").write_bytes(b"x")
    assert not readable(watch, 0)


def test_growing(watch: FileWatch, file: Path) -> None:
    with file.open("ab", buffering=0) as writer:
        for _ in range(3):
            writer.write(b"more")
            assert readable(watch)
            assert readable(watch, 0), "an event stays until it is drained"
            watch.drain()
            assert not readable(watch, 0)


def test_many_events_are_drained_at_once(watch: FileWatch, file: Path) -> None:
    for turn in range(100):
        os.truncate(file, turn)
        os.chmod(file, 0o600 + turn % 2)
    watch.drain()
    assert not readable(watch, 0)


def test_truncating(watch: FileWatch, file: Path) -> None:
    os.truncate(file, 1)
    assert readable(watch)


def test_attributes(watch: FileWatch, file: Path) -> None:
    os.chmod(file, 0o600)
    assert readable(watch)


def test_deleting(watch: FileWatch, file: Path) -> None:
    file.unlink()
    assert readable(watch)
    watch.drain()
    assert watch.fileno() == -1


def test_deleting_what_somebody_still_has_open(watch: FileWatch, file: Path) -> None:
    with file.open("ab"):
        file.unlink()
        assert readable(watch)


def test_replaced_file_is_watched_after_a_drain(watch: FileWatch, file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"")
    other.rename(file)
    assert readable(watch)
    watch.drain()
    assert not readable(watch, 0)
    with file.open("ab") as writer:
        writer.write(b"new")
    assert readable(watch)


def test_missing_file_is_watched_once_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "later"
    watch = FileWatch(path)
    assert watch.fileno() == -1
    watch.drain()
    assert watch.fileno() == -1
    path.write_bytes(b"")
    watch.drain()
    os.truncate(path, 3)
    assert readable(watch)
    watch.close()


def test_symbolic_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    watch = FileWatch(link)
    with file.open("ab") as writer:
        writer.write(b"x")
    assert watch.fileno() == -1 or not readable(watch, 0)
    watch.close()


def test_closing(file: Path) -> None:
    watch = FileWatch(str(file))
    watch.close()
    watch.close()
    assert watch.fileno() == -1
    watch.drain()
    assert watch.fileno() == -1


def test_descriptor_is_private(watch: FileWatch) -> None:
    assert not os.get_inheritable(watch.fileno())
    if sys.platform == "linux":
        assert not os.get_blocking(watch.fileno())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOSYS])
def test_no_descriptor_to_be_had(number: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> object:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(filewatch, "_Notifier", refuse)
        watch = FileWatch(file)
        assert watch.fileno() == -1
        watch.drain()
        assert watch.fileno() == -1
    watch.drain()
    assert watch.fileno() >= 0, "each drain tries again"
    watch.close()


def test_too_many_watches(watch: FileWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = watch.fileno()

    def refuse(self: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(filewatch._Notifier, "watch", refuse)
        watch.drain()
        assert watch.fileno() == -1
        os.fstat(descriptor)  # still open: it may be in an event loop
    watch.drain()
    assert watch.fileno() == descriptor


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of inotify")
@pytest.mark.processes
def test_real_limit_of_descriptors(file: Path, run_script: RunScript) -> None:
    run_script(
        """
        import os, resource, sys
        from parkit_async._core.filewatch import FileWatch

        FileWatch(sys.argv[1]).close()  # loads ctypes, which needs a descriptor
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        watch = FileWatch(sys.argv[1])
        assert watch.fileno() == -1
        os.close(taken.pop())
        watch.drain()
        assert watch.fileno() >= 0
        """,
        file,
    )


@pytest.mark.processes
def test_forked_child_takes_no_event_from_its_parent(file: Path, run_script: RunScript) -> None:
    run_script(
        """
        import os, select, sys
        from parkit_async._core.filewatch import FileWatch

        def readable(watch, timeout=10_000):
            poll = select.poll()
            poll.register(watch.fileno(), select.POLLIN)
            return bool(poll.poll(timeout))

        def write():
            with open(sys.argv[1], "ab") as file:
                file.write(b"x")

        watch, closed = FileWatch(sys.argv[1]), FileWatch(sys.argv[1])
        closed.close()
        write()
        child = os.fork()
        if not child:
            assert not readable(watch, 0)  # one of its own, which has seen nothing yet
            write()
            assert readable(watch)
            watch.drain()
            watch.close()
            assert closed.fileno() == -1
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert readable(watch, 0)
        """,
        file,
    )


@pytest.mark.processes
def test_ctypes_is_loaded_when_a_file_is_watched(run_script: RunScript) -> None:
    run_script("import sys; import parkit_async._core.output; assert 'ctypes' not in sys.modules")
