"""How full a namespace is, and what to say when it is full.

LMDB's own limit, the size of the map, cannot serve as a namespace's maximum: it can be changed only while the process has no transaction
open, and where it is reached not even a delete works, since that takes new pages first. So the maximum is kept here, in pages of the file,
and the map is larger by a reserve that only deletes use.

Looking costs a microsecond or two, so it is not done at each write. Each process claims room ahead (the sum of the claims is shared, in
:data:`WORD_USED`), and each write counts that down by more than it can take. Only when all is claimed does a write look:

    new pages needed  =  growth of the tree so far, and copies of the pages that it touched
    pages to reuse    =  file - live, unless an old snapshot pins them
    it fits when      file + needed - reusable <= maximum

An old snapshot pins what was freed after it began. When the file grew after that, the pages that were free before are used up as well, so
the snapshot is to blame; else they are not, and writing goes on.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from .engine import PAGE, EngineError, MapFullError, translate
from .errors import NamespaceFullError, TransactionError
from .shared import WORD_GROWN, WORD_LIMIT, WORD_PAGES, WORD_USED
from .transactions import ENTRY

if TYPE_CHECKING:
    from .namespace import Namespace
    from .transactions import Writing

__all__ = ["DEFAULT_SIZE", "LARGEST", "Space"]

DEFAULT_SIZE: Final = 1 << 30
"""A namespace's maximum size in bytes, unless it was set."""
LARGEST: Final = 1 << 44
"""The largest that it can be set to."""

_DEPTH: Final = 5


class Space:
    """The fullness of one namespace."""

    __slots__ = ("_namespace",)

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def claim(self, writing: Writing, size: int) -> int:
        """Get room for ``size`` more bytes, and some in store, in the middle of a write transaction. Return the room left, in bytes.

        Raises:
            NamespaceFullError: They do not fit.
        """
        words = self._namespace.table.words
        used, limit = words[WORD_USED], words[WORD_LIMIT]
        claimed = size + ENTRY + limit // 256
        if used + claimed < limit:
            words[WORD_USED] = used + claimed
            return claimed - size - ENTRY
        room = self.recheck(writing, size)
        share = room // 8
        words[WORD_USED] = limit - room + share
        return share

    def recheck(self, writing: Writing, size: int) -> int:
        """Look whether ``size`` more bytes fit, in the middle of a write transaction. Return the room left, in bytes.

        Raises:
            NamespaceFullError: They do not.
        """
        namespace = self._namespace
        words = namespace.table.words
        engine = namespace.engine
        usage = engine.usage()
        if usage.file > words[WORD_PAGES]:
            words[WORD_PAGES] = usage.file
            words[WORD_GROWN] = usage.last_transaction
        limit = words[WORD_LIMIT] // PAGE
        growth = max(0, engine.live_pages(writing.transaction) - usage.live)
        needed = growth + min(writing.touched * _DEPTH, usage.live) + -(-size // PAGE) + _DEPTH
        reusable = max(0, usage.file - usage.live)
        if reusable and usage.file + needed > limit and self._pinned(words[WORD_GROWN]):
            reusable = 0
        if usage.file + needed - reusable > limit:
            raise self.full("storing a value")
        return max(0, limit - usage.file + reusable - needed) * PAGE

    def _pinned(self, grown: int) -> bool:
        oldest = self._oldest()
        return oldest is not None and oldest[1] < grown

    def _oldest(self) -> tuple[int, int] | None:
        """Return (process, transaction) of the oldest open snapshot. Those of killed processes end here, so that they pin nothing."""
        self._namespace.engine.check_readers()
        readers = [(reader.transaction, reader.pid) for reader in self._namespace.engine.readers() if reader.transaction is not None]
        if not readers:
            return None
        transaction, pid = min(readers)
        return pid, transaction

    def full(self, action: str) -> NamespaceFullError:
        """Return the exception that tells how full the namespace is, and the remedy."""
        namespace = self._namespace
        size = namespace.table.words[WORD_LIMIT]
        oldest = self._oldest()
        pid: int | None = None
        age: float | None = None
        snapshot = "No snapshot is open."
        if oldest is not None:
            pid, transaction = oldest
            age = self._age(transaction)
            where = "this process" if pid == os.getpid() else f"process {pid}"
            since = "" if age is None else f" for {age:.1f} seconds"
            snapshot = (
                f"The oldest snapshot (or iterator) is held by {where}{since}; what was deleted or overwritten since then "
                "cannot be used again until it is closed."
            )
        return NamespaceFullError(
            f"{action} does not fit in namespace {namespace.name!r}, whose maximum size is {size:,} bytes. {snapshot} Remedy: delete what "
            f"is not needed "
            f"(that still works), close old snapshots, or set_namespace_size({namespace.name!r}, ...) to more.",
            namespace.name,
            size,
            pid,
            age,
        )

    def _age(self, transaction: int) -> float | None:
        """Return for how many seconds, at least, a snapshot of ``transaction`` has been open."""
        last = self._namespace.engine.usage().last_transaction
        if transaction >= last:
            return 0.0
        when = self._namespace.table.commit_time(transaction + 1, last)
        # What was noted before the machine was started last lies in this clock's future.
        return None if when is None or (age := time.monotonic_ns() - when) < 0 else age / 1e9

    def failed(self, error: EngineError, action: str) -> TransactionError:
        """Return the exception to raise for one of LMDB's."""
        if isinstance(error, MapFullError):
            return self.full(action)
        return translate(error, self._namespace.name, action)
