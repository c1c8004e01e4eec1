"""Files and folders that only this user may touch: how they are made, and opened without being led astray.

Invariants, for everything that parkit opens in a store:

- A file has mode 0600 and a folder 0700, whatever the umask; not even one that takes its owner's rights away is in the way.
- A file that is opened is a regular one, this user's own, and has no second name. What lies in its place (a symbolic link, a pipe, a socket, a
  device, a hard link, another user's file) is refused before anything is read from it, written to it or cut off.
- Opening never waits, as it would for a pipe that nobody writes in.
- A file that others could write in is refused, as its folder would be: what it holds may be theirs. One that others could read is closed to them.

All of it is decided by the open descriptor, so that nothing can be exchanged between look and use.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from .errors import StoragePathError

__all__ = ["close_to_others", "make_folder", "make_parents", "open_file"]

_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: str | os.PathLike[str], flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Open a file of a store; return its descriptor, which is closed on exec. Any thread may call it; it never waits.

    Args:
        path: The file. Its folder is this user's own, and has been checked.
        flags: As of ``os.open``; with O_CREAT it is made if need be.

    Raises:
        StoragePathError: What is there is no regular file, or another user's, or has a second name, or others may write in it.
        OSError: The system refuses for another reason.
    """
    try:
        descriptor = _open(path, flags | _FLAGS)
    except OSError as error:
        kind = _kind_at(path)
        if kind is None:
            raise
        raise _irregular(path, kind) from error
    try:
        _check(descriptor, path)
        os.set_blocking(descriptor, True)  # only opening must not wait; the descriptor may become somebody's standard output
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str | os.PathLike[str], flags: int) -> int:
    try:
        return os.open(path, flags, 0o600)
    except PermissionError:
        # One of ours that was made a moment ago under an umask that leaves its owner nothing, or whose maker was killed before it had mended that.
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o600 == 0o600:
            raise
        os.chmod(path, 0o600)
    except BlockingIOError:
        # A regular file with a lease on it, see ``capture``: it is given up within microseconds.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise
        flags &= ~os.O_NONBLOCK
    return os.open(path, flags, 0o600)


def _check(descriptor: int, path: str | os.PathLike[str]) -> None:
    status = os.fstat(descriptor)
    where = repr(os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise _irregular(path, _kind(status.st_mode) or "something else")
    if status.st_uid != os.geteuid():
        raise StoragePathError(
            f"{where} belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}: a store has one owner, who trusts what it "
            "holds; run as that user, or change the owner of the whole store (chown -R)"
        )
    if status.st_nlink > 1:
        raise StoragePathError(
            f"{where} has a second name (a hard link), under which the same data would change without this store's locks: "
            "make it a file of its own, by copying it and putting the copy in its place"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise StoragePathError(
            f"{where} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), who could plant values that run code when loaded; "
            f"if you know what it holds, run: chmod go-rwx {os.fspath(path)}"
        )
    if stat.S_IMODE(status.st_mode) != 0o600:
        os.fchmod(descriptor, 0o600)


def _irregular(path: str | os.PathLike[str], kind: str) -> StoragePathError:
    return StoragePathError(f"{os.fspath(path)!r} is no regular file but {kind}, which parkit never makes there: remove it")


def _kind(mode: int) -> str | None:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def _kind_at(path: str | os.PathLike[str]) -> str | None:
    """Return what lies at a path, if it is no regular file."""
    try:
        return _kind(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return None


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder that only this user may enter, whatever the umask.

    Raises:
        OSError: It is there already (FileExistsError), or cannot be made.
    """
    os.mkdir(path, 0o700)
    close_to_others(path)


def close_to_others(path: str | os.PathLike[str]) -> None:
    """Give a folder of this user's own the mode 0700, if it has another one."""
    if stat.S_IMODE(os.stat(path).st_mode) != 0o700:
        os.chmod(path, 0o700)


def make_parents(path: str | os.PathLike[str]) -> None:
    """Make the missing ones of the folders above a path. They are ordinary (the umask says who may enter), but nobody else may write in them.

    Raises:
        OSError: One cannot be made.
    """
    missing = []
    parent = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):  # the root is a folder
        missing.append(parent)
        parent = os.path.dirname(parent)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(folder, 0o755)
            mode = stat.S_IMODE(os.stat(folder).st_mode)
            if mode & 0o700 != 0o700:
                os.chmod(folder, mode | 0o700)
