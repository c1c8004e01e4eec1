"""Turn the paths of objects into names, and names into folders that are safe to use.

::

    "shop/eu/prices"  ->  namespace "shop/eu", name "prices"        "prices"  ->  namespace "default", name "prices"

    <store>/                        0700, on a local file system, writable by its owner alone
        shop-eu~<hash>/             one folder for each namespace; 0700
            name                    the true name of the namespace, UTF-8
            ...                     what the engine keeps there
        sockets/                    where waiters sleep
        .new-<random>/              a namespace being created; left behind only by a process that was killed there, and ignored

Invariants:

- A name from a user never becomes part of a file name unchanged, so that no path reaches outside the store, and any name fits whatever its length.
- Two namespaces never share a folder, not even where the file system folds case or normalizes Unicode: its name ends in a hash of the exact name.
- A namespace's folder appears complete or not at all, however many processes create it at once: it is made beside its place, then renamed.
- A store or a namespace that somebody else could change, or whose file system does not keep LMDB's promises, is refused before it is used.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from .errors import StoragePathError, remedy
from .private_files import close_to_others, make_folder, make_parents, open_file

__all__ = [
    "DEFAULT_NAMESPACE",
    "POOL_NAMESPACE",
    "SOCKETS",
    "SYSLOG_NAMESPACE",
    "check_namespace",
    "join",
    "list_namespaces",
    "namespace_directory",
    "namespace_exists",
    "open_store",
    "split",
    "sync_directory",
]

DEFAULT_NAMESPACE: Final = "default"
SOCKETS: Final = "sockets"
"""Name of the folder in a store that holds its sockets; no namespace's folder has that name, for want of a hash."""

POOL_NAMESPACE: Final = "__process__"
"""Holds what the pool's parties tell each other; see ``pool_state``."""
SYSLOG_NAMESPACE: Final = "__syslog__"
"""Holds the log of the whole store."""

_SEGMENT_LIMIT: Final = 128  # characters
_ANOTHER: Final = "choose another store with PARKIT_STORAGE_PATH or set_storage_path()"
_MOST_LINKS: Final = 40
"""Symbolic links that are followed on one way, as Linux does."""
_LONGEST_NAME: Final = 1 << 20  # characters of a namespace's name that are read of its file
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and surrogates, which no file can hold
_NOT_IN_SLUG: Final = re.compile("[^a-z0-9_-]+")  # no dot: "con.txt~..." is a device on Windows

# LMDB maps its file into memory and keeps its locks in shared memory: both reach the processes of one machine only. On a file system that several
# machines may mount, or that passes every access on to a server, two of them can write at once and ruin the file. Local FUSE file systems (ntfs-3g,
# for one) and virtiofs share their pages within the machine, so they are not here.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    "9p afs beegfs ceph cifs coda gfs2 gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb3 smbfs vboxsf "  # noqa: SIM905 - a list of words
    "fuse.ceph fuse.ceph-fuse fuse.curlftpfs fuse.davfs fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.juicefs fuse.mfs fuse.rclone "
    "fuse.s3fs fuse.seaweedfs fuse.smbnetfs fuse.sshfs fuse.vmhgfs-fuse".split()
)


def split(path: str) -> tuple[str, str]:
    """Split the path of an object into its namespace and its name.

    Args:
        path: ``name``, ``namespace/name``, or ``nested/name/space/name``.

    Raises:
        TypeError: The path is not a str.
        ValueError: A segment of it is not allowed; the message names the path, the segment and the rule.
    """
    _check_segments(path, "path")
    namespace, separator, name = path.rpartition("/")
    return (namespace if separator else DEFAULT_NAMESPACE), name


def join(namespace: str, name: str) -> str:
    """Return the shortest path of an object: the inverse of :func:`split`, for names that have passed it."""
    return name if namespace == DEFAULT_NAMESPACE else f"{namespace}/{name}"


def check_namespace(namespace: str | None) -> str:
    """Return the name of a namespace if it is one; None means the default namespace.

    Raises:
        TypeError: It is not a str or None.
        ValueError: A segment of it is not allowed; the message names the namespace, the segment and the rule.
    """
    if namespace is None:
        return DEFAULT_NAMESPACE
    _check_segments(namespace, "namespace")
    return namespace


def _check_segments(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a {what} is a str, not {type(text).__name__}")
    for segment in text.split("/"):
        broken = _broken_rule(segment)
        if broken:
            shown = text if len(text) <= 300 else f"{text[:300]}..."
            raise ValueError(f"{shown!r} is not a {what}: its segment {segment[:_SEGMENT_LIMIT]!r} {broken}")


def _broken_rule(segment: str) -> str | None:
    if not segment:
        return "is empty; names are separated by one slash, with none at either end"
    if segment in {".", ".."}:
        return "is relative; names are not folders, and there is nothing above the store"
    if len(segment) > _SEGMENT_LIMIT:
        return f"has {len(segment)} characters; at most {_SEGMENT_LIMIT} are allowed"
    if _UNPRINTABLE.search(segment):
        return "contains a control character or a surrogate; use printable characters"
    if _is_hidden(segment):
        return "has the form __x__, which is kept for parkit itself"
    return None


def _is_hidden(segment: str) -> bool:
    return len(segment) > 4 and segment.startswith("__") and segment.endswith("__")


def open_store(path: str | os.PathLike[str]) -> Path:
    """Create the folder of a store if need be, check that it is safe to use, and return its real path (symbolic links resolved).

    A new folder has mode 0700; missing folders above it are created with the default mode, but nobody else may write in them. Costs some tens of
    microseconds: meant for the first use of a store in a process. Any thread may call it.

    Raises:
        StoragePathError: It is no folder, or cannot be created, read or written; it, or a symbolic link that leads to it, belongs to another
            user; others may write in it; or it is on a network file system (which Linux alone lets one know).
    """
    store = os.path.abspath(path)
    _check_text(store)
    with _refused_by_system(store, "the store"):
        try:
            os.lstat(store)
        except FileNotFoundError:  # and not because the name is too long, say: then nothing is made above it, either
            make_parents(store)
            with suppress(FileExistsError):  # another process was faster
                make_folder(store)
            sync_directory(os.path.dirname(store))
        _check_directory(store, "the store")
        _check_file_system(store, "the store")
        real = os.path.realpath(store)
    _check_text(real)
    return Path(real)


def namespace_directory(store: Path, namespace: str) -> Path:
    """Return the folder of a namespace, created with mode 0700 if need be.

    Processes and threads may call it at once for one namespace: one of them creates it, and all get the same complete folder.

    Args:
        store: What :func:`open_store` returned.
        namespace: A name that has passed :func:`check_namespace`, or one of parkit's hidden ones.

    Raises:
        StoragePathError: It cannot be created, is not safe to use (see :func:`open_store`), or holds another namespace or none.
    """
    directory = store / _directory_name(namespace)
    with _refused_by_system(directory, f"the folder of namespace {namespace!r}"):
        _check_directory(store, "the store")  # once more: who may write in the folder above may have put another one in its place
        if not os.path.lexists(directory):
            _publish(store, directory, namespace)
        _check_directory(directory, f"the folder of namespace {namespace!r}")
        if os.path.islink(directory):
            _check_file_system(directory, f"the folder of namespace {namespace!r}")
        found = _read_name(directory)
        if found == namespace:  # and not before: it may be a link to something else of the user's
            close_to_others(directory)
    if found != namespace:
        holds = "has lost its file 'name'" if found is None else f"says in its file 'name' that it holds {found!r}"
        raise StoragePathError(
            f"{directory} should hold namespace {namespace!r} but {holds}: the folder was renamed, copied or damaged; "
            f"restore it from a backup, or move it out of the store to begin with an empty namespace"
        )
    return directory


def namespace_exists(store: Path, namespace: str) -> bool:
    """Return whether a namespace was ever created; creates nothing."""
    return os.path.lexists(store / _directory_name(namespace))


def list_namespaces(store: Path) -> list[str]:
    """Return the names of the user's namespaces of a store, in order; parkit's hidden ones, and folders that are no namespace, are left out.

    Raises:
        StoragePathError: The store cannot be read.
    """
    with _refused_by_system(store, "the store"), os.scandir(store) as entries:
        # A copy made by hand ("shop~... (1)") still contains the name of its original: it counts only where that name belongs.
        names = [name for entry in entries if "~" in entry.name and (name := _name_if_any(entry)) and _directory_name(name) == entry.name]
    return sorted(name for name in names if not any(map(_is_hidden, name.split("/"))))


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the entries of a folder survive a power loss: what was created or renamed in it is not on disk before.

    Raises:
        OSError: The folder cannot be opened or synchronized.
    """
    if sys.platform == "win32":
        return  # has no such call; NTFS journals its folders
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _directory_name(namespace: str) -> str:
    slug = _NOT_IN_SLUG.sub("-", namespace.lower())[:40]
    return f"{slug}~{hashlib.blake2b(namespace.encode(), digest_size=16).hexdigest()}"


def _read_name(directory: str | os.PathLike[str]) -> str | None:
    try:
        with open(open_file(os.path.join(directory, "name"), os.O_RDONLY), encoding="utf-8") as file:
            return file.read(_LONGEST_NAME)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None


def _name_if_any(directory: os.DirEntry[str]) -> str | None:
    try:
        return _read_name(directory)
    except StoragePathError:  # a file that is no file, say: no folder of parkit's making
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None  # a link that leads to itself


def _publish(store: Path, directory: Path, namespace: str) -> None:
    draft = store / f".new-{secrets.token_hex(8)}"
    make_folder(draft)
    try:
        with open(open_file(draft / "name"), "w", encoding="utf-8") as file:
            file.write(namespace)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(draft)
        try:
            os.rename(draft, directory)
        except OSError:
            # A folder is never renamed over one that is not empty, so whoever comes second fails here and takes what the first one made.
            if not os.path.isdir(directory):
                raise
        sync_directory(store)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft / "name")
        with suppress(FileNotFoundError):
            os.rmdir(draft)


@contextmanager
def _refused_by_system(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        otherwise = "give this process access to it, or choose another folder with PARKIT_STORAGE_PATH or set_storage_path()"
        raise StoragePathError(f"{what}, {os.fspath(path)!r}, cannot be used: {error}; {remedy(error, otherwise)}") from error


def _check_text(path: str) -> None:
    """Refuse the path of a store whose bytes are no text: LMDB's binding takes none."""
    encoding = sys.getfilesystemencoding()
    try:
        path.encode(encoding)
    except UnicodeEncodeError as error:
        raise StoragePathError(
            f"the path of the store, {path!r}, is no text in this system's encoding ({encoding}); rename the folder, or choose another one with "
            "PARKIT_STORAGE_PATH or set_storage_path()"
        ) from error


def _check_directory(path: str | os.PathLike[str], what: str) -> None:
    """Refuse what is not a folder of this user's own that nobody else may change."""
    where = f"{what}, {os.fspath(path)!r},"
    try:
        _check_links(path)
        status = os.stat(path)
    except FileNotFoundError as error:
        if not os.path.islink(path):
            raise
        raise StoragePathError(f"{where} is a symbolic link that leads nowhere; remove it, create the folder it leads to, or {_ANOTHER}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise StoragePathError(f"{where} is not a folder; move the file away, or {_ANOTHER}")
    if sys.platform != "win32":  # pragma: no branch - Windows
        user = os.geteuid()
        if status.st_uid != user:
            raise StoragePathError(
                f"{where} belongs to user {status.st_uid}, and this process runs as user {user}: a store has one owner, who trusts what it holds; "
                f"run as that user, change the owner (chown -R {user}), or {_ANOTHER}"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoragePathError(
                f"{where} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), who could plant values that run code when loaded; "
                f"run: chmod -R go-w {os.fspath(path)}"
            )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StoragePathError(
            f"{where} cannot be read and written by its owner, or its file system is read-only; run: chmod u+rwx {os.fspath(path)}"
        )


def _check_links(path: str | os.PathLike[str]) -> None:
    """Refuse a way over a symbolic link that another user could turn elsewhere, also where it is a link that leads there.

    In a shared folder, anyone may plant one.
    """
    if sys.platform == "win32":
        return
    ahead = os.path.abspath(path).split(os.sep)[::-1]
    here, links = os.sep, 0
    while ahead:
        name = ahead.pop()
        if name in {"", "."}:
            continue
        if name == "..":  # in a link; there is none on the way to here any more
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        status = os.lstat(step)
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        if status.st_uid not in (os.geteuid(), 0):
            raise StoragePathError(
                f"the symbolic link {step!r} belongs to user {status.st_uid}, who can turn it elsewhere; replace it with one of your own, or "
                f"choose a path that does not lead over it, with PARKIT_STORAGE_PATH or set_storage_path()"
            )
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        target = os.readlink(step)
        if os.path.isabs(target):
            here = os.sep
        ahead += target.split(os.sep)[::-1]


def _check_file_system(path: str | os.PathLike[str], what: str) -> None:
    file_system = _file_system(path)
    if file_system in _NETWORK_FILE_SYSTEMS:
        raise StoragePathError(
            f"{what}, {os.fspath(path)!r}, is on a network file system ({file_system}), where LMDB's locks and shared memory do not hold and the "
            "data would be damaged; choose a folder on a local disk with PARKIT_STORAGE_PATH or set_storage_path()"
        )


def _file_system(path: str | os.PathLike[str]) -> str | None:
    """Return the type of the file system that a folder is on, or None where the system does not tell."""
    if not sys.platform.startswith("linux"):  # pragma: no cover - not Linux
        return None
    # The kernel names the mount of an open descriptor, which is exact where comparing paths with mount points is not (mounts over mounts).
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as information, open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            return _mount_type(information.read(), mounts.read())
    except OSError:
        return None  # no /proc here
    finally:
        os.close(descriptor)


def _mount_type(information: str, mounts: str) -> str | None:
    """Find the file system type of the mount that ``fdinfo`` names in the lines of ``mountinfo``."""
    found = re.search(r"^mnt_id:\s*(\d+)$", information, re.MULTILINE)
    if found is None:
        return None
    for line in mounts.splitlines():
        if line.startswith(f"{found[1]} "):
            return line.rpartition(" - ")[2].split(" ", 1)[0]
    return None
