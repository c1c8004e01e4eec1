"""The logging handler that feeds the log of a store. Apart from ``syslog``, since importing ``logging`` takes time that few programs owe parkit."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Final

from . import syslog
from .settings import get_storage_path

__all__ = ["SyslogHandler"]

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; the others are the program's ``extra``."""

_PLAIN: Final = (str, int, float, bool, bytes, type(None))

_text: Final = logging.Formatter()


class SyslogHandler(logging.Handler):
    """A logging handler that appends each record to the log of the store: ``logging.getLogger().addHandler(SyslogHandler())``.

    A record becomes a dict of ``time`` (seconds since 1970), ``level`` (a name), ``logger``, ``message`` (with traceback and stack), ``pid``, and
    ``process`` (the path of the process that it belongs to, or None); and ``extra``, a dict, if the record has any: plain values as they are, others
    by their ``repr``. A formatter makes the message, if one was set; the one that ``basicConfig`` gives to every handler is not taken for it, as it
    says what the record has already.

    Emitting is a short transaction of its own, whatever is open: records of a transaction that is rolled back stay. It never waits for the disk, but
    for whoever else is logging; an event loop that wants to avoid that puts a ``logging.handlers.QueueHandler`` in between. Any thread may use it,
    and a forked child.

    What cannot be stored, on a full disk say, is reported as ``logging`` reports it: on ``sys.stderr``, unless ``logging.raiseExceptions`` is false.

    Args:
        level: As of ``logging.Handler``.
        store: Path of the store; by default the one that the program uses at the time.
    """

    def __init__(self, level: int | str = logging.NOTSET, store: str | None = None) -> None:
        super().__init__(level)
        self._store = store
        self._emitting = threading.local()
        self.process: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record. An error is handled as logging handles it, and does not reach whoever logs."""
        try:
            entry = self._entry(record)
            waiting = getattr(self._emitting, "waiting", None)
            if waiting is not None:
                # A finalizer or a signal handler logs while this very thread is appending: it cannot wait for itself.
                waiting.append(entry)
                return
            waiting = self._emitting.waiting = [entry]
            try:
                store = self._store or get_storage_path()
                for entry in waiting:
                    syslog.append(store, entry)
            finally:
                self._emitting.waiting = None
        except Exception:
            self.handleError(record)

    def _entry(self, record: logging.LogRecord) -> dict[str, Any]:
        entry = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            "pid": record.process or os.getpid(),
            "process": self.process,
        }
        extra = {
            name: value if isinstance(value, _PLAIN) else repr(value)
            for name, value in vars(record).items()
            if name not in _OWN and not name.startswith("_")
        }
        if extra:
            entry["extra"] = extra
        return entry

    def _message(self, record: logging.LogRecord) -> str:
        if self.formatter is not None and self.formatter._fmt != logging.BASIC_FORMAT:
            return self.formatter.format(record)
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message += f"\n{_text.formatException(record.exc_info)}"
        elif record.exc_text:
            message += f"\n{record.exc_text}"
        if record.stack_info:
            message += f"\n{_text.formatStack(record.stack_info)}"
        return message
