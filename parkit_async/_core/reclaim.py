"""Delete, a slice at a time, what cleared and dropped objects have left behind."""

from __future__ import annotations

from typing import Final

from .layout import DATA, DEAD, attribute_prefix, retired_prefix
from .transactions import Writing

__all__ = ["SLICE", "delete_prefix", "reclaim_slice", "retire"]

SLICE: Final = 1000
"""Entries that one transaction deletes at most."""


_PREFIX: Final = len(attribute_prefix(0))
_SPACES: Final = (attribute_prefix(0)[-1], DEAD, DATA)
"""What the marker of a retired range names: an id, not the namespace's own, and one of these."""


def delete_prefix(writing: Writing, prefix: bytes, limit: int) -> int:
    """Delete up to ``limit`` entries whose keys begin with ``prefix``; return how many."""
    transaction = writing.transaction
    cursor = transaction.cursor()
    keys: list[bytes] = []
    if cursor.set_range(prefix):
        for key in cursor.iternext(keys=True, values=False):
            if len(keys) == limit or not key.startswith(prefix):
                break
            keys.append(key)
    cursor.close()
    for key in keys:
        transaction.delete(key)
    return len(keys)


def retire(writing: Writing, prefix: bytes, size: int) -> bool:
    """Get rid of a range that nothing refers to any more: at once if it is small, else leave it to be reclaimed. Return whether it was left."""
    if size <= SLICE and delete_prefix(writing, prefix, SLICE + 1) <= SLICE:
        return False
    writing.transaction.put(retired_prefix() + prefix, b"")
    return True


def reclaim_slice(writing: Writing) -> tuple[int, bool]:
    """Delete one slice. Return how many entries it had, and whether anything is left."""
    marker = retired_prefix()
    cursor = writing.transaction.cursor()
    found = cursor.set_range(marker) and bytes(cursor.key())
    cursor.close()
    if not found or not found.startswith(marker):
        return 0, False
    prefix = found[len(marker) :]
    writing.touched += 1
    if len(prefix) != _PREFIX or prefix[-1] not in _SPACES or not any(prefix[:-1]):
        writing.transaction.delete(found)  # not of parkit's making: what it names may be anybody's
        return 0, True
    deleted = delete_prefix(writing, prefix, SLICE)
    if deleted < SLICE:
        writing.transaction.delete(found)
    return deleted, True
