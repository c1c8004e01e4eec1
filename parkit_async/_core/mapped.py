"""Reading without copying: a second read transaction of the same state, whose values come as views on the map.

It is apart from the transaction that operations use for two reasons: keys and small values are handled as bytes everywhere, and in a write
transaction a page may change under a view. There the views show the committed state, and an object that the transaction has changed is read
by copying.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from . import codecs, fork
from .codecs import Codec
from .views import ViewScope

if TYPE_CHECKING:
    from .namespace import Namespace

__all__ = ["Mapped"]


class Mapped:
    """Views on one committed state of a namespace.

    Args:
        namespace: The namespace.
        transaction: LMDB's read transaction, begun with ``buffers=True``.
    """

    __slots__ = ("__weakref__", "_scope", "_transaction")

    def __init__(self, namespace: Namespace, transaction: Any) -> None:
        self._transaction = transaction
        self._scope = ViewScope(self._release)
        namespace.pin(self)

    @property
    def pinned(self) -> bool:
        """Whether the read transaction is still open."""
        return not self._scope.released

    def get(self, key: bytes) -> memoryview | None:
        """Return the bytes stored at a whole key as a view on the map, or None."""
        view: memoryview | None = self._transaction.get(key)
        return view

    def decode(self, raw: bytes | memoryview, codec: Codec | None, allowed: Container[str] | None) -> Any:
        """Return the value that ``raw`` holds, its buffers as views if ``raw`` is one."""
        if isinstance(raw, memoryview):
            return codecs.decode(raw, codec, allowed=allowed, view=self._scope.view, track=self._scope.track)
        return codecs.decode(raw, codec, allowed=allowed)

    def end(self) -> None:
        """Revoke the views; the read transaction ends with the last that could not be revoked. Idempotent."""
        self._scope.close()

    def forked(self) -> None:
        fork.immortalize(self._transaction)

    def _release(self) -> None:
        self._transaction.abort()
