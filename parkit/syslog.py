"""The log of the whole store."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from typing import Any, Final

from parkit.adapters.log import Log
from parkit_async._core import syslog as _syslog
from parkit_async._core.binding import Binding
from parkit_async._core.objects import Declaration
from parkit_async._core.settings import get_storage_path

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
    def _binding(self) -> Binding:  # type: ignore[override]
        return _syslog.open_syslog(get_storage_path())

    def __reduce__(self) -> Any:
        return _this, ()


def _this() -> Any:
    return syslog


syslog: Final[Log[dict[str, Any]]] = _SystemLog()
"""Log records of the whole store: of its supervisor, its workers, and of every program that has added a :class:`parkit.SyslogHandler`."""
