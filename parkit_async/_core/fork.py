"""Notice that this process is a forked child, without doing anything at the fork.

The hook only counts. It runs at every ``os.fork()``, and under uvloop at the start of every subprocess, just before the exec, so it must be
cheap and touch nothing. Whatever holds something that a child must not share (an LMDB environment, a lock, a socket, an open transaction)
remembers :func:`generation` at its creation and compares it at its next use; a holder on the hot path registers itself with :func:`on_fork`
to have one attribute swapped instead of comparing each time.

What LMDB shares between processes (reader slots, the writer's mutex) belongs to the parent. Ending an inherited transaction, or closing
an inherited environment, would write into the parent's slots, and closing can wait for ever for a thread that does not exist in the
child. So inherited ones are never ended: :func:`immortalize` keeps them from even the interpreter's own cleaning up.
"""

from __future__ import annotations

import os
from typing import Protocol

from .weakbag import WeakBag

__all__ = ["ForkMarked", "generation", "immortalize", "on_fork"]


class ForkMarked(Protocol):
    """Something that wants to know of a fork: ``forked()`` must be trivial, and must not fail."""

    def forked(self) -> None: ...


_generation = 0
_marked: WeakBag[ForkMarked] = WeakBag()


def generation() -> int:
    """Return how many forks lie between this process and the one that imported parkit. Any thread may call it."""
    return _generation


def on_fork(holder: ForkMarked) -> None:
    """Have ``holder.forked()`` called in every child forked from now on. Held weakly."""
    _marked.add(holder)


def immortalize(thing: object) -> None:
    """Never deallocate ``thing`` in this process: take a reference to it that nobody gives back."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _mark() -> None:
    global _generation
    _generation += 1
    for holder in list(_marked):
        holder.forked()


os.register_at_fork(after_in_child=_mark)
