"""What parkit is compared with: each library behind the few operations that are timed, used as its own documentation advises.

A rival is a class with a name, the distribution that it comes from, the levels of durability that it can be set to, and only the operations that it
really has. Nothing but the standard library is imported before a rival is opened, so that a missing one is missing alone; who opens it in another
process hands over its :class:`Place`. Values are strings: what stores only bytes is given their pickle, as an application would do whose values are
any objects.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final

__all__ = ["PARKIT", "POLL", "SQLITE", "Absent", "Level", "Place", "Rival", "load", "version"]

POLL: Final = 0.001
"""Seconds between two looks of a rival that cannot wait for an item of another process."""


class Level(StrEnum):
    """What an acknowledged write survives."""

    POWER = "power loss"
    INTACT = "power loss, nearly"
    """The last writes may be undone; the file is never damaged."""
    PROCESS = "process death"
    MEMORY = "nothing"


DURABLE: Final = (Level.POWER, Level.INTACT, Level.PROCESS)
PARKIT: Final = {Level.POWER: "full", Level.INTACT: "normal", Level.PROCESS: "off"}
SQLITE: Final = {Level.POWER: "FULL", Level.INTACT: "NORMAL", Level.PROCESS: "OFF"}


class Absent(Exception):
    """A rival is not on this machine; the text says how to get it."""


@dataclass(frozen=True)
class Place:
    """Where a rival keeps its data; whoever is given it opens the same, in any process.

    Attributes:
        folder: Its own folder, which is there. The folder's name is unique in the run.
        level: The durability that it is set to.
        shared: What its host hands out: the path of a socket, a proxy, a pipe.
    """

    folder: Path
    level: Level
    shared: Any = None


class Rival:
    """One library in one role. Subclasses open in ``__init__(place)``."""

    name: ClassVar[str]
    distribution: ClassVar[str | None] = None
    """The distribution whose version is reported; None for the standard library."""
    levels: ClassVar[tuple[Level, ...]]
    remark: ClassVar[str] = ""
    """What one has to know to read its figures: how it is set, what it does less or more."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def close(self) -> None:
        """Give everything back."""

    def pause(self) -> None:
        """Have what runs beside it use no processor, until :meth:`resume`: others are being timed."""

    def resume(self) -> None:
        """Be ready to be timed."""

    @classmethod
    def check(cls) -> None:
        """Raise Absent, with the remedy, if it cannot be opened here."""
        if cls.distribution is not None and version(cls.distribution) is None:
            raise Absent(f"{cls.distribution} is not installed: pip install '.[bench]'")

    @classmethod
    @contextmanager
    def hosted(cls, place: Place) -> Iterator[Place]:
        """Have what must run beside it (a server) for the time of a block; yield the place to open."""
        yield place


def load(module: str) -> Any:
    """Import a module of a rival; untyped, as most of them are."""
    return importlib.import_module(module)


def version(distribution: str) -> str | None:
    """Return the version that is installed, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def with_shared(place: Place, shared: object) -> Place:
    """Return the place with what its host hands out."""
    return replace(place, shared=shared)


def on_path(command: str) -> str | None:
    """Return the path of a command, or None."""
    return shutil.which(command)
