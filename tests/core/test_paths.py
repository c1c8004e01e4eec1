"""Paths: what is a name, which folder it gets, and which folders are refused."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parkit_async._core import paths
from parkit_async._core.errors import StoragePathError
from parkit_async._core.paths import SOCKETS, check_namespace, join, list_namespaces, namespace_directory, open_store, split
from tests.conftest import Spawn

STRANGER = 12345  # a user id that is neither root nor ours

segments = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=128).filter(
    lambda s: s not in {".", ".."} and not re.fullmatch(r"__.+__", s, re.DOTALL)
)
names = st.lists(segments, min_size=1, max_size=4).map("/".join)

WRONG = {
    "": "is empty",
    "/a": "is empty",
    "a/": "is empty",
    "a//b": "is empty",
    "/": "is empty",
    ".": "is relative",
    "a/../b": "is relative",
    "../../etc/passwd": "is relative",
    "a\0b": "control character",
    "a\nb": "control character",
    "a/\x7f": "control character",
    "a\x85": "control character",
    "a\ud800": "surrogate",
    "x" * 129: "has 129 characters",
    "a/" + "é" * 200 + "/b": "has 200 characters",
    "__x__": "has the form __x__",
    "a/__process__/b": "has the form __x__",
}


# Names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("prices", ("default", "prices")),
        ("default/prices", ("default", "prices")),
        ("shop/prices", ("shop", "prices")),
        ("a/b/c/d", ("a/b/c", "d")),
        ("...", ("default", "...")),
        ("x" * 128, ("default", "x" * 128)),
        ("__x", ("default", "__x")),
        ("____", ("default", "____")),
        ("a b/ c ", ("a b", " c ")),
        ("größe/名前", ("größe", "名前")),
        ("C:\\temp", ("default", "C:\\temp")),
    ],
)
def test_split(path: str, expected: tuple[str, str]) -> None:
    assert split(path) == expected


@given(names)
def test_join_is_the_inverse_of_split(path: str) -> None:
    shortest = join(*split(path))
    assert split(shortest) == split(path)
    assert shortest == path.removeprefix("default/") if path.count("/") == 1 else shortest == path


@pytest.mark.parametrize(("path", "rule"), WRONG.items())
def test_a_wrong_path_names_path_and_rule(path: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        split(path)
    assert repr(path) in str(caught.value)
    assert "is not a path" in str(caught.value)
    with pytest.raises(ValueError, match=rule):
        check_namespace(path)


def test_the_error_names_the_offending_segment() -> None:
    with pytest.raises(ValueError, match=r"its segment '\.\.' is relative"):
        split("a/b/../c")


@pytest.mark.parametrize("check", [split, check_namespace])
@pytest.mark.parametrize("path", [b"a/b", 1, Path("a/b"), ["a"], None])
def test_a_path_is_a_str_and_only_a_namespace_may_be_left_out(path: Any, check: Callable[[Any], object]) -> None:
    if check is check_namespace and path is None:
        assert check(path) == "default"
        return
    with pytest.raises(TypeError, match=type(path).__name__):
        check(path)


def test_no_namespace_is_the_default_one() -> None:
    assert check_namespace(None) == check_namespace("default") == "default"
    assert check_namespace("a/b") == "a/b"


# The store


def test_a_new_store_is_private_and_its_parents_are_ordinary(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        store = open_store(tmp_path / "a" / "b" / "store")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755


def test_a_store_is_opened_again_and_known_by_its_real_path(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    (tmp_path / "link").symlink_to(store)
    assert open_store(str(store)) == open_store(tmp_path / "link") == open_store(tmp_path / "x" / ".." / "store") == store


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoragePathError, match="is not a folder; move the file away"):
        open_store(tmp_path / "file")
    with pytest.raises(StoragePathError, match="cannot be used") as caught:
        open_store(tmp_path / "file" / "store")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_link_to_nowhere_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(StoragePathError, match="leads nowhere"):
        open_store(tmp_path / "link")
    assert not (tmp_path / "gone").exists()


def test_a_store_that_is_removed_as_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "sync_directory", lambda parent: (tmp_path / "new").rmdir())
    with pytest.raises(StoragePathError, match="cannot be used") as caught:
        open_store(tmp_path / "new")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_what_the_system_refuses_is_a_storage_path_error(tmp_path: Path) -> None:
    for impossible in (tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(StoragePathError, match="cannot be used") as caught:
            open_store(impossible)
        assert caught.value.__cause__ is not None
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StoragePathError, match="cannot be used"):
        open_store(tmp_path / "loop")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_store_that_others_may_write_in_is_refused(mode: int, tmp_path: Path) -> None:
    store = tmp_path / "shared"
    store.mkdir()
    store.chmod(mode)
    with pytest.raises(StoragePathError, match=rf"mode {mode:04o}.*run: chmod -R go-w {re.escape(str(store))}"):
        open_store(store)
    store.chmod(mode & ~0o022)
    open_store(store)


def test_a_store_that_others_may_only_read_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "readable").mkdir()
    (tmp_path / "readable").chmod(0o755)
    open_store(tmp_path / "readable")


def test_a_store_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(StoragePathError, match=rf"belongs to user {os.getuid()}, and this process runs as user {STRANGER}.*chown -R {STRANGER}"):
        open_store(store)


@pytest.fixture
def foreign_links(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Path]]:
    """Give links to another user, which needs root to be done for real: put a link into the set."""
    links: set[Path] = set()
    lstat = os.lstat

    def disguise(path: Any, **options: Any) -> os.stat_result:
        status = lstat(path, **options)
        if Path(path) not in links:
            return status
        fields = list(status)
        fields[stat.ST_UID] = STRANGER
        return os.stat_result(fields)

    monkeypatch.setattr(os, "lstat", disguise)
    yield links
    monkeypatch.undo()


def test_a_way_over_a_link_of_another_user_is_refused(tmp_path: Path, foreign_links: set[Path]) -> None:
    store = open_store(tmp_path / "real" / "store")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert open_store(link / "store") == store
    foreign_links.add(link)
    with pytest.raises(StoragePathError, match=f"the symbolic link '{re.escape(str(link))}' belongs to user {STRANGER}"):
        open_store(link / "store")


@pytest.mark.parametrize("target", ["{}/link/store", "../x/./../link/store"], ids=["absolute", "relative"])
def test_a_link_of_ones_own_does_not_lead_over_one_of_another_user(target: str, tmp_path: Path, foreign_links: set[Path]) -> None:
    store = open_store(tmp_path / "real" / "store")
    (tmp_path / "x").mkdir()
    link, own = tmp_path / "link", tmp_path / "x" / "own"
    link.symlink_to("real")
    own.symlink_to(target.format(tmp_path))
    assert open_store(own) == store
    foreign_links.add(link)
    with pytest.raises(StoragePathError, match=f"the symbolic link '{re.escape(str(link))}' belongs to user {STRANGER}"):
        open_store(own)


def test_a_namespace_behind_a_link_must_be_a_link_of_ones_own(store: Path, tmp_path: Path, foreign_links: set[Path]) -> None:
    directory = namespace_directory(store, "shop")
    directory.rename(tmp_path / "other-disk")
    directory.symlink_to(tmp_path / "other-disk")
    assert namespace_directory(store, "shop") == directory
    foreign_links.add(directory)
    with pytest.raises(StoragePathError, match=f"the symbolic link '{re.escape(str(directory))}' belongs to user {STRANGER}"):
        namespace_directory(store, "shop")


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    # Root may write anywhere, so the system's answer is replaced and not the mode.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(StoragePathError, match="read-only; run: chmod"):
        open_store(store)


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
270 27 0:50 / /home/odd\\040name rw,relatime shared:2 master:1 - nfs4 server:/export/a\\040-\\040b rw,vers=4.2
31 27 0:51 / /mnt rw - fuse.sshfs me@host:/ rw,user_id=0
"""


@pytest.mark.parametrize(("mount", "expected"), [(27, "ext4"), (270, "nfs4"), (31, "fuse.sshfs"), (22, "proc"), (2, None), (99, None)])
def test_the_file_system_is_that_of_the_mount(mount: int, expected: str | None) -> None:
    assert paths._mount_type(f"pos:\t0\nflags:\t02100000\nmnt_id:\t{mount}\nino:\t5\n", MOUNTS) == expected


def test_an_unknown_mount_is_no_file_system() -> None:
    assert paths._mount_type("pos:\t0\n", MOUNTS) is None


def test_the_file_system_is_found_where_the_system_tells(store: Path) -> None:
    linux = sys.platform.startswith("linux")
    assert paths._file_system("/proc" if linux else str(store)) == ("proc" if linux else None)
    assert (paths._file_system(str(store)) is not None) == linux


def test_without_proc_no_file_system_is_known(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, **options: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(paths, "open", missing, raising=False)
    assert paths._file_system(store) is None
    assert open_store(store) == store


@pytest.mark.parametrize("file_system", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"])
def test_a_network_file_system_is_refused(file_system: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_file_system", lambda path: file_system)
    with pytest.raises(StoragePathError, match=rf"network file system \({re.escape(file_system)}\).*choose a folder on a local disk"):
        open_store(store)


def test_a_namespace_behind_a_link_is_not_on_a_network_file_system(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = namespace_directory(store, "shop")
    directory.rename(tmp_path / "mounted")
    directory.symlink_to(tmp_path / "mounted")
    monkeypatch.setattr(paths, "_file_system", lambda path: "nfs4" if Path(path).samefile(tmp_path / "mounted") else "ext4")
    with pytest.raises(StoragePathError, match=r"the folder of namespace 'shop', .* is on a network file system \(nfs4\)"):
        namespace_directory(store, "shop")


@pytest.mark.parametrize("file_system", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "virtiofs", None])
def test_a_local_or_unknown_file_system_is_accepted(file_system: str | None, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_file_system", lambda path: file_system)
    assert open_store(store) == store


# Namespaces


def test_a_namespace_has_a_private_folder_with_its_name(store: Path) -> None:
    directory = namespace_directory(store, "Shop/Größe")
    assert directory.parent == store
    assert re.fullmatch(r"shop-gr-e~[0-9a-f]{32}", directory.name)
    assert (directory / "name").read_text(encoding="utf-8") == "Shop/Größe"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert namespace_directory(store, "Shop/Größe") == directory


def _folded(directory: Path) -> str:
    return unicodedata.normalize("NFKD", directory.name).casefold()


@given(st.lists(names, min_size=2, max_size=6, unique=True))
def test_no_two_namespaces_share_a_folder_on_any_file_system(namespaces: list[str]) -> None:
    folded = {_folded(Path(paths._directory_name(name))) for name in namespaces}
    assert len(folded) == len(namespaces)


@given(names)
def test_a_folder_name_is_short_plain_and_one_level_deep(namespace: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{1,40}~[0-9a-f]{32}", paths._directory_name(namespace))


@pytest.mark.parametrize(
    ("one", "other"), [("a", "A"), ("a/b", "a-b"), ("é", "e\u0301"), ("ß", "ss"), ("a.", "a"), ("x" * 128, "x" * 127), ("a/b", "a\\b")]
)
def test_lookalikes_are_two_namespaces(one: str, other: str, store: Path) -> None:
    assert _folded(namespace_directory(store, one)) != _folded(namespace_directory(store, other))
    assert list_namespaces(store) == sorted([one, other])


def test_a_namespace_may_be_nested_a_thousand_deep(store: Path) -> None:
    deep = "/".join(["level" * 20] * 1000)
    namespace_directory(store, check_namespace(deep))
    assert list_namespaces(store) == [deep]


def test_namespaces_are_listed_in_order_without_hidden_ones_and_leftovers(store: Path) -> None:
    for name in ("b", "a/c", "a", "Z", "__process__", "é"):
        directory = namespace_directory(store, name)
    (store / SOCKETS).mkdir()
    (store / ".new-0123456789abcdef").mkdir()  # killed before it wrote the name
    (store / ".new-fedcba9876543210").mkdir()
    (store / ".new-fedcba9876543210" / "name").write_text("never-published")
    (store / f"{directory.name} (copy)").mkdir()
    (store / f"{directory.name} (copy)" / "name").write_text("é")
    (store / "no~namespace").mkdir()
    (store / "not~utf8").mkdir()
    (store / "not~utf8" / "name").write_bytes(b"\xff")
    (store / "file~").touch()
    assert list_namespaces(store) == ["Z", "a", "a/c", "b", "é"]


def test_the_namespaces_of_a_store_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StoragePathError, match="cannot be used"):
        list_namespaces(tmp_path / "gone")
    with pytest.raises(StoragePathError, match="cannot be used"):
        namespace_directory(tmp_path / "gone", "a")


def test_trouble_in_a_listing_leaves_nobody_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(path: Any, flags: int) -> int:
        raise OSError(24, "Too many open files")

    namespace_directory(store, "shop")
    monkeypatch.setattr(paths, "open_file", exhausted)
    with pytest.raises(StoragePathError, match=r"Too many open files.*ulimit -n"):
        list_namespaces(store)


@pytest.mark.parametrize(
    ("content", "found"), [(None, "has lost its file 'name'"), (b"", "holds ''"), (b"other", "holds 'other'"), (b"\xff", "lost")]
)
def test_a_folder_that_holds_something_else_is_refused_and_kept(content: bytes | None, found: str, store: Path) -> None:
    directory = namespace_directory(store, "shop")
    (directory / "name").unlink()
    if content is not None:
        (directory / "name").write_bytes(content)
    with pytest.raises(StoragePathError, match=f"{found}.*restore it"):
        namespace_directory(store, "shop")
    assert directory.is_dir()


def test_the_folder_of_a_namespace_is_checked_like_the_store(store: Path) -> None:
    directory = namespace_directory(store, "shop")
    directory.chmod(0o770)
    with pytest.raises(StoragePathError, match="can be written by others"):
        namespace_directory(store, "shop")
    (directory / "name").unlink()
    directory.rmdir()
    directory.touch()
    with pytest.raises(StoragePathError, match="is not a folder"):
        namespace_directory(store, "shop")


def test_a_failed_creation_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StoragePathError, match="No space left on device"):
        namespace_directory(store, "shop")
    assert list(store.iterdir()) == []


def test_who_comes_second_takes_what_the_first_has_made(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def overtaken(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        (namespace_directory(store, "shop") / "data").touch()  # another process, between the look and the rename
        rename(source, target)

    monkeypatch.setattr(os, "rename", overtaken)
    directory = namespace_directory(store, "shop")
    assert sorted(os.listdir(directory)) == ["data", "name"]
    assert os.listdir(store) == [directory.name]


def test_a_power_loss_after_the_creation_finds_the_namespace(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        steps.append(next(str(p.relative_to(store)) for p in [store, *store.rglob("*")] if os.path.samestat(p.stat(), status)).rsplit("-")[0])
        fsync(descriptor)

    def noted_rename(source: Any, target: Any) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    namespace_directory(store, "shop")
    assert [step.startswith(".new") for step in steps] == [True, True, False, False]
    assert steps[2:] == ["rename", "."]


def test_many_threads_create_one_namespace(store: Path) -> None:
    start = threading.Barrier(8)
    found: list[Path] = []

    def create() -> None:
        start.wait(30)
        found.append(namespace_directory(store, "shop"))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [namespace_directory(store, "shop")] * 8
    assert os.listdir(store) == [found[0].name]


@pytest.mark.processes
def test_fifty_processes_create_one_namespace(store: Path, spawn: Spawn) -> None:
    # Five scripts of ten forks each: the race is between the children, which all wait for one pipe to close.
    source = """
        import os, sys
        from parkit_async._core.paths import namespace_directory, open_store
        store = open_store(sys.argv[1])
        gate, starter = os.pipe()
        children = []
        for _ in range(10):
            pid = os.fork()
            if pid == 0:
                os.close(starter)
                os.read(gate, 1)
                directory = namespace_directory(store, "shop")
                os._exit(0 if (directory / "name").read_text() == "shop" else 1)
            children.append(pid)
        print("ready")
        sys.stdin.readline()
        os.close(starter)
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
    """
    scripts = [spawn(source, store) for _ in range(5)]
    for script in scripts:
        assert script.read_line() == "ready"
    for script in scripts:
        script.send("go")
    for script in scripts:
        assert script.finish().stdout == f"{[0] * 10}\n"
    assert os.listdir(store) == [namespace_directory(store, "shop").name]


@given(name=names)
def test_any_name_makes_a_namespace(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        directory = namespace_directory(store, check_namespace(name))
        assert directory.parent == store
        assert list_namespaces(store) == [name]
