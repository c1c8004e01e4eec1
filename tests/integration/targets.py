"""What the tests here have executors call. A module of its own, so that a worker imports no pytest."""

from __future__ import annotations

import os
import threading
from typing import Any


def invert(number: int) -> float:
    return 1 / number


def append_slowly(log: Any, value: Any) -> None:
    """Append, and take a moment, in which this worker can be killed."""
    log.append(value)
    threading.Event().wait(0.005)


def note_worker(log: Any) -> None:
    """Say that this worker was initialized."""
    log.append(os.getpid())


def stumble(log: Any) -> None:
    """Fail the first time."""
    log.append(os.getpid())
    if len(log) == 1:
        raise ValueError("stumbled")
