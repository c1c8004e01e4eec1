"""The log of the whole store."""

from __future__ import annotations

from typing import Any, Final

from ._core import syslog as _syslog
from ._core.binding import Binding
from ._core.objects import Declaration
from ._core.settings import get_storage_path
from .log import Log
from .runtime import current_runtime

__all__ = ["syslog"]


class _SystemLog(Log[dict[str, Any]]):
    """The log of whatever store the program uses at the moment."""

    type_name = "parkit.Log"

    def __init__(self) -> None:
        pass

    @property
    def _declaration(self) -> Declaration:  # type: ignore[override]
        return _syslog.declaration(get_storage_path())

    @property
    def _binding(self) -> Binding | None:  # type: ignore[override]
        return _syslog.opened_syslog(get_storage_path())

    async def _bind(self) -> Binding:
        store = get_storage_path()
        found: Binding = await current_runtime().in_thread(("syslog", store), lambda: _syslog.open_syslog(store))
        return found

    def _bound(self) -> Binding:
        return _syslog.open_syslog(get_storage_path())

    def __reduce__(self) -> Any:
        return _this, ()


def _this() -> Any:
    return syslog


syslog: Final[Log[dict[str, Any]]] = _SystemLog()
"""Log records of the whole store: of its supervisor, its workers, and of every program that has added a :class:`parkit_async.SyslogHandler`."""
