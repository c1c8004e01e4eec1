"""The files that hold the output of processes: where they are, and how they are opened without being led astray.

``output/<uuid>`` in the store, which only this user may enter; one for each process that has written something.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from . import private_files
from .errors import StoragePathError, remedy

__all__ = [
    "FOLDER",
    "UUID",
    "StorePath",
    "check_folder",
    "close",
    "create",
    "is_at",
    "make_folder",
    "open_existing",
    "output_path",
    "refusal",
    "size_of",
    "unlink",
]

FOLDER: Final = "output"
UUID: Final = re.compile("[0-9a-f]{32}")

_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND

StorePath = str | os.PathLike[str]


def output_path(store: StorePath, uuid: str) -> str:
    """Return the path of the file that has the output of a process; it need not be there.

    Raises:
        ValueError: ``uuid`` is not 32 hexadecimal digits, so the path could lead anywhere.
    """
    if UUID.fullmatch(uuid) is None:
        raise ValueError(f"{uuid!r} is not the uuid of a process: 32 hexadecimal digits")
    return os.path.join(store, FOLDER, uuid)


def make_folder(store: str) -> None:
    """Make the folder of the outputs, which only this user may enter, if need be."""
    folder = os.path.join(store, FOLDER)
    try:
        try:
            private_files.make_folder(folder)
        except FileExistsError:
            pass
        check_folder(folder)
        private_files.close_to_others(folder)
    except OSError as error:
        raise refusal(folder, error) from error


def check_folder(folder: str) -> None:
    """Refuse what is not a folder of this user's own: a symbolic link to another one, for example.

    Raises:
        FileNotFoundError: There is nothing.
        StoragePathError: It is something else.
    """
    status = os.lstat(folder)
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
        return
    raise StoragePathError(
        f"{folder} should be the folder of the outputs of processes but is {'a folder of' if stat.S_ISDIR(status.st_mode) else 'no folder, and of'} "
        f"user {status.st_uid}: move it out of the store"
    )


def create(path: str) -> int:
    """Open an output to append to it, and make it, and its folder, if need be."""
    try:
        try:
            return private_files.open_file(path, _APPEND)
        except FileNotFoundError:
            make_folder(os.path.dirname(os.path.dirname(path)))  # the store's
            return private_files.open_file(path, _APPEND)
    except OSError as error:
        raise refusal(path, error) from error


def open_existing(path: str, flags: int) -> int | None:
    """Open a file that is there; None if it is not."""
    try:
        return private_files.open_file(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(path, error) from error


def is_at(descriptor: int, path: str) -> bool:
    """Tell whether an open file still has its name: what was read from it before is then the output that the name says."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def size_of(path: str) -> int:
    """Return the size of an output in bytes; 0 if it is not there."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def unlink(path: str) -> None:
    """Remove an output, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refusal(path, error) from error


def close(descriptor: int) -> None:
    """Close a descriptor, if it is one."""
    try:
        os.close(descriptor)
    except OSError:
        pass


def refusal(path: str, error: OSError) -> StoragePathError:
    """Return the exception for an output that cannot be used."""
    todo = remedy(error, "see that its owner may write in the store")
    return StoragePathError(f"{path}, which holds the output of a process, cannot be used: {error.strerror}; {todo}")
