"""The settings of a process, in one place: where the store is, and how durable a new namespace is.

They live in the environment and nowhere else. A setting made by a function is written to the environment too, so there is one answer and no
order of precedence, and whatever this process starts (a spawned child, a subprocess, the pool) works on the same store without being told.

Invariants: the storage path given out is absolute, so that changing the working folder never changes the store; an empty variable counts as
unset; a wrong value is refused when it is used, by an error that names the variable, the value and what is allowed. Nothing here touches the disk.
"""

from __future__ import annotations

import functools
import os
from typing import Final, Literal, get_args

__all__ = ["Synchronous", "check_synchronous", "default_synchronous", "get_storage_path", "set_storage_path"]

Synchronous = Literal["full", "normal", "off"]
"""What an acknowledged commit survives: ``full`` power loss; ``normal`` may lose the last commits in one; ``off`` the death of any process."""

_STORAGE_PATH: Final = "PARKIT_STORAGE_PATH"
_SYNCHRONOUS: Final = "PARKIT_SYNCHRONOUS"
_LEVELS: Final[dict[object, Synchronous]] = {level: level for level in get_args(Synchronous)}


def get_storage_path() -> str:
    """Return the absolute path of the store that objects opened from now on belong to.

    It is ``PARKIT_STORAGE_PATH`` where that is set (by the user or by :func:`set_storage_path`), the user's data folder for parkit otherwise.
    The folder need not exist yet. Any thread may call it.
    """
    value = os.environ.get(_STORAGE_PATH)
    if value:
        return _anchor(value)
    # Imported here: it is needed only where nobody has chosen a store, and a program that has should not pay for the import.
    import platformdirs

    return str(platformdirs.user_data_path("parkit", appauthor=False))


def set_storage_path(path: str | os.PathLike[str]) -> None:
    """Use the store at a path for every object opened from now on, by both faces, in all threads of this process and in what it starts.

    Objects that are open stay on the store they were opened in. The folder is created, and checked, when the first object is opened.

    Args:
        path: The store's folder; ``~`` is expanded, a relative path is anchored at the present working folder.

    Raises:
        TypeError: The path is not a str or a path of str.
        ValueError: The path is empty or contains NUL.
    """
    value = os.fspath(path)
    if not isinstance(value, str):
        raise TypeError(f"a storage path is a str or a path of str, not {type(value).__name__}")
    if not value or "\0" in value:
        raise ValueError(f"{value!r} cannot be a storage path: it {'contains NUL' if value else 'is empty'}; give the path of a folder")
    os.environ[_STORAGE_PATH] = _absolute(value)


def default_synchronous() -> Synchronous:
    """Return the durability level of new namespaces: ``PARKIT_SYNCHRONOUS``, or ``full`` where it is not set. Any thread may call it.

    Raises:
        ValueError: The variable holds something else than a level.
    """
    return check_synchronous(os.environ.get(_SYNCHRONOUS) or "full", _SYNCHRONOUS)


def check_synchronous(level: object, origin: str = "synchronous") -> Synchronous:
    """Return a durability level if it is one.

    Args:
        level: What a caller or the environment gave.
        origin: What it was given as, for the message.

    Raises:
        ValueError: It is not a level.
    """
    known = _LEVELS.get(level) if isinstance(level, str) else None
    if known is None:
        allowed = ", ".join(map(repr, _LEVELS))
        raise ValueError(f"{origin} is {level!r}, which is not a durability level; the levels are {allowed}")
    return known


def _absolute(value: str) -> str:
    return os.path.abspath(os.path.expanduser(value))


# Cached for its meaning, not for speed: a relative PARKIT_STORAGE_PATH is anchored where it is first used, and a later chdir leaves it there.
_anchor = functools.cache(_absolute)
