"""The logging handler that feeds the log of a store. Apart from ``syslog``, since importing ``logging`` takes time that few programs owe parkit."""

from __future__ import annotations

import logging
import os
import traceback
from typing import Any

from . import syslog
from .settings import get_storage_path

__all__ = ["SyslogHandler"]


class SyslogHandler(logging.Handler):
    """A logging handler that appends each record to the log of the store: ``logging.getLogger().addHandler(SyslogHandler())``.

    A record becomes a dict of ``time`` (seconds since 1970), ``level`` (a name), ``logger``, ``message`` (the traceback included), ``pid``, and
    ``process`` (the path of the process that it belongs to, or None). Emitting is a short transaction of its own, whatever is open: records of a
    transaction that is rolled back stay. It never waits for the disk, but for whoever else is logging; an event loop that wants to avoid that puts a
    ``logging.handlers.QueueHandler`` in between.

    Args:
        level: As of ``logging.Handler``.
        store: Path of the store; by default the one that the program uses at the time.
    """

    def __init__(self, level: int | str = logging.NOTSET, store: str | None = None) -> None:
        super().__init__(level)
        self._store = store
        self.process: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record. An error is handled as logging handles it, and does not reach whoever logs."""
        try:
            syslog.append(self._store or get_storage_path(), self._entry(record))
        except Exception:
            self.handleError(record)

    def _entry(self, record: logging.LogRecord) -> dict[str, Any]:
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "pid": os.getpid(),
            "process": self.process,
        }
