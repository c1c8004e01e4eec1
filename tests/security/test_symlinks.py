"""What lies in the place of one of parkit's files is never followed, never written to, and never waited for."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import parkit
from parkit_async._core import maintenance, output, output_files, paths, supervision
from parkit_async._core.doorbell import SocketDirectory
from parkit_async._core.registry import close_all

pytestmark = pytest.mark.timeout(20)  # a pipe that is waited for would keep a test waiting for ever

CONTENT = bytes(64 << 10)  # zeros: what LMDB, and parkit, might take for a file that was only begun
UUID = "0123456789abcdef" * 2


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Files of the user's beside the store, which are what they were when the test is over, and nothing with them."""
    place = tmp_path / "outside"
    (place / "folder").mkdir(parents=True)
    (place / "file").write_bytes(CONTENT)
    yield place
    assert (place / "file").read_bytes() == CONTENT
    assert sorted(os.listdir(place)) == ["file", "folder"]
    assert os.listdir(place / "folder") == []


def traps(place: Path, outside: Path) -> Iterator[str]:
    """Put one thing after another in a place; for a link, to what is there and to what is not."""
    for kind in ("link to a file", "link to nothing", "link to a folder", "hard link", "pipe", "socket", "folder"):
        with ExitStack() as undo:
            if kind.startswith("link"):
                place.symlink_to(outside / {"file": "file", "nothing": "missing", "folder": "folder"}[kind.split()[-1]])
            elif kind == "hard link":
                os.link(outside / "file", place)
            elif kind == "pipe":
                os.mkfifo(place)
            elif kind == "socket":
                near = outside.parent / "s"  # a socket's path must be short
                undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(near))
                near.rename(place)
            else:
                place.mkdir()
            yield kind
            if kind == "folder":
                assert os.listdir(place) == []
                place.rmdir()
            else:
                place.unlink()


def each_is_refused(place: Path, outside: Path, use: Callable[[], object]) -> None:
    saved = place.read_bytes() if place.is_file() else None
    if saved is not None:
        place.unlink()
    for kind in traps(place, outside):
        with pytest.raises(parkit.StoragePathError) as caught:
            use()
        # Another link to a file of the user's own is told by what it is a link to, the rest by what it is itself.
        assert place.name in str(caught.value) or place.parent.name in str(caught.value), kind
        assert len(str(caught.value)) < 1000
    if saved is not None:
        place.write_bytes(saved)
        place.chmod(0o600)


@pytest.mark.parametrize("file", ["name", "data.mdb", "lock.mdb", "shared", "gate", "turnstile"])
def test_files_of_a_namespace(file: str, store: Path, outside: Path) -> None:
    parkit.Dict[str, int]("ns/d")["k"] = 1
    close_all()
    (folder,) = store.glob("ns~*")

    def use() -> None:
        try:
            parkit.Dict[str, int]("ns/d")["k"] = 2
        finally:
            close_all()

    each_is_refused(folder / file, outside, use)
    assert parkit.Dict[str, int]("ns/d")["k"] == 1


def test_the_folder_of_a_namespace(store: Path, outside: Path) -> None:
    """A link to another folder of the user's closed that to others before it was seen to hold no namespace."""
    parkit.Dict[str, int]("ns/d")["k"] = 1
    parkit.Dict[str, int]("good/d")["k"] = 1
    close_all()
    (folder,) = store.glob("ns~*")
    folder.rename(outside.parent / "away")
    (outside / "folder").chmod(0o755)
    for use in (
        lambda: parkit.Dict[str, int]("ns/d"),
        lambda: maintenance.verify(store, "ns"),
        lambda: maintenance.compact(store, "ns"),
        lambda: maintenance.backup(store, str(outside.parent / "backup"), ["ns"]),
    ):
        each_is_refused(folder, outside, use)
        assert not (outside.parent / "backup").exists()
    assert stat.S_IMODE((outside / "folder").stat().st_mode) == 0o755

    # One that is moved to another disk, say, with a link of the user's own in its place, is used there.
    folder.symlink_to(outside.parent / "away")
    assert parkit.Dict[str, int]("ns/d")["k"] == 1
    assert list(parkit.namespaces()) == ["good", "ns"]
    close_all()
    # But no link makes one namespace of two.
    folder.unlink()
    folder.symlink_to(next(store.glob("good~*")))
    with pytest.raises(parkit.StoragePathError, match="holds 'good'"):
        parkit.Dict[str, int]("ns/d")
    assert list(parkit.namespaces()) == ["good"]


def test_a_link_that_leads_to_itself_is_refused_and_left_out(store: Path) -> None:
    """The whole store could not be listed any more."""
    parkit.Dict[str, int]("good/d")
    parkit.Dict[str, int]("ns/d")
    close_all()
    (folder,) = store.glob("ns~*")
    folder.rename(store / "away")
    folder.symlink_to(folder)
    assert list(parkit.namespaces()) == ["good"]
    with pytest.raises(parkit.StoragePathError, match="symbolic link"):
        parkit.Dict[str, int]("ns/d")


@pytest.mark.parametrize("file", ["data.mdb", "lock.mdb"])
def test_compacting_follows_nothing(file: str, store: Path, outside: Path) -> None:
    parkit.Dict[str, int]("ns/d")["k"] = 1
    close_all()
    (folder,) = store.glob("ns~*")
    each_is_refused(folder / file, outside, lambda: maintenance.compact(store, "ns"))
    assert parkit.Dict[str, int]("ns/d")["k"] == 1


def test_a_listing_goes_on_past_what_is_no_namespace(store: Path, outside: Path) -> None:
    parkit.Dict[str, int]("good/d")
    parkit.Dict[str, int]("ns/d")
    close_all()
    (folder,) = store.glob("ns~*")
    (folder / "name").unlink()
    for kind in traps(folder / "name", outside):
        assert list(parkit.namespaces()) == ["good"], kind
    (store / "link~0").symlink_to(folder)
    assert list(parkit.namespaces()) == ["good"]
    (store / "link~0").unlink()


@pytest.mark.parametrize(
    ("file", "use"),
    [
        ("supervisor", lambda store: supervision.SupervisorLock(store).acquire()),
        ("supervisor", supervision.running_supervisor),
        ("starting", supervision.begin_starting),
        ("supervisor.log", supervision.launch),
    ],
    ids=["supervisor, taken", "supervisor, asked for", "starting", "supervisor.log"],
)
def test_files_of_the_pool(file: str, use: Callable[[str], object], store: Path, outside: Path) -> None:
    paths.open_store(store)
    each_is_refused(store / file, outside, lambda: use(str(store)))
    close_all()


@pytest.mark.parametrize(
    "use",
    [
        lambda store: os.close(output_files.create(output_files.output_path(store, UUID))),
        lambda store: output.Output(store, UUID).read(),
        lambda store: output.Output(store, UUID).text(),
        lambda store: list(output.Output(store, UUID).lines()),
        lambda store: output.Follower(output.Output(store, UUID)).watch,
        lambda store: output.enforce(store, UUID, -1),
    ],
    ids=["written", "read", "as text", "as lines", "followed", "cut"],
)
def test_an_output(use: Callable[[Path], object], store: Path, outside: Path) -> None:
    output_files.make_folder(str(store))
    each_is_refused(store / "output" / UUID, outside, lambda: use(store))


def test_the_folder_of_the_outputs(store: Path, outside: Path) -> None:
    (outside / "folder" / UUID).write_text("kept")
    os.utime(outside / "folder" / UUID, (1, 1))
    (store / "output").symlink_to(outside / "folder")
    with pytest.raises(parkit.StoragePathError, match="no folder"):
        output_files.make_folder(str(store))
    with pytest.raises(parkit.StoragePathError, match="no folder"):
        output.sweep(store, set())
    assert (outside / "folder" / UUID).read_text() == "kept"
    (outside / "folder" / UUID).unlink()


def test_the_folder_of_the_sockets(store: Path, outside: Path) -> None:
    place = store / "sockets"
    for kind in traps(place, outside):
        if kind == "folder":
            continue
        with pytest.raises(parkit.StoragePathError, match="socket folder"):
            SocketDirectory(place)


def test_a_copy_by_hard_links_is_refused_on_both_sides(store: Path, tmp_path: Path) -> None:
    # "cp -al" makes one: two stores, each with locks of its own, would write into one data file.
    parkit.Dict[str, int]("ns/d")["k"] = 1
    close_all()
    (folder,) = store.glob("ns~*")
    copy = tmp_path / "copy"
    (copy / folder.name).mkdir(parents=True)
    copy.chmod(0o700)
    (copy / folder.name / "name").write_bytes((folder / "name").read_bytes())
    os.link(folder / "data.mdb", copy / folder.name / "data.mdb")
    for place in (store, copy):
        parkit.set_storage_path(place)
        with pytest.raises(parkit.StoragePathError, match="hard link"):
            parkit.Dict[str, int]("ns/d").get("k")
        close_all()
    (copy / folder.name / "data.mdb").unlink()
    parkit.set_storage_path(store)
    assert parkit.Dict[str, int]("ns/d")["k"] == 1


def test_a_store_behind_a_link_of_ones_own_is_used(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    parkit.set_storage_path(tmp_path / "link")
    parkit.Dict[str, int]("ns/d")["k"] = 1
    assert list(store.glob("ns~*/data.mdb"))
