"""Rounds of concurrent clients, as a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Script, Spawn
from tests.faults.histories import load
from tests.faults.linearizability import Operation

__all__ = ["Rounds", "conducted"]

CONDUCTOR = """
import sys
from tests.faults.clients import conduct

conduct(int(sys.argv[1]))
"""


class Rounds:
    """A conductor (see :mod:`tests.faults.clients`), and what its clients have noted."""

    def __init__(self, script: Script, folder: Path) -> None:
        self._script = script
        self._folder = folder
        self._count = 0
        self.killed = 0

    def run(self, kind: str, level: str, flaw: str = "none") -> list[Operation]:
        """Run a round, with a flaw in parkit if one is named; return its history."""
        folder = self._folder / f"round_{self._count}"
        folder.mkdir()
        self._count += 1
        self._script.send(f"{kind} {level} {flaw} {folder}")
        self.killed += int(self._script.read_line(timeout=45))
        history = load(folder)
        for file in folder.iterdir():
            file.unlink()
        return history


@contextmanager
def conducted(spawn: Spawn, folder: Path, seed: int) -> Iterator[Rounds]:
    """Start a conductor; at the end nothing of its clients is left, not even of those killed."""
    script = spawn(CONDUCTOR, seed)
    yield Rounds(script, folder)
    script.finish()
