"""How an exception travels from the process that raised it to whoever asks for it.

::

    worker                                      store                              who asks
      error ── capture() ──▶ {type, message, traceback: text; pickled: bytes | None} ── restore() ──▶ error, caused by RemoteTraceback(text)
                                                                                                      or RemoteError, the same

Pickle carries neither traceback nor cause, so these go as text: cause, context, members of groups and notes included. The exception itself goes
along only if it is known to arrive: many pickle well and do not unpickle (an ``__init__`` of other parameters than ``args``).

Invariants:

* Whatever the exception's own code does, ``capture`` and ``restore`` return. An interrupt of the running thread passes through them.
* What was captured consists of str, bytes and None, and each text can be encoded.
* What is restored is an ``Exception``: SystemExit, KeyboardInterrupt, CancelledError and GeneratorExit of another process end nobody here. They
  arrive as a :class:`~parkit_async._core.errors.RemoteError`.
* Each call of ``restore`` makes an exception of its own, so several threads may raise it at once.

Restoring unpickles, which runs code that whoever wrote the store chose, as loading any pickled value does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypedDict

from . import codecs
from .errors import RemoteError, RemoteTraceback

__all__ = ["CapturedFailure", "capture", "restore"]

_USER_ERRORS = (Exception, SystemExit)
"""What the code of an exception's class may raise; SystemExit when the module that defines it is a script which ends with ``sys.exit()``."""


class CapturedFailure(TypedDict):
    """An exception in plain values.

    Attributes:
        type: Module and qualified name of its class.
        message: Its text.
        traceback: What the interpreter would have printed.
        pickled: The frame (see :mod:`codecs`) that loads as the exception, or None.
        reason: Why there is none, or None.
    """

    type: str
    message: str
    traceback: str
    pickled: bytes | None
    reason: str | None


def capture(error: BaseException) -> CapturedFailure:
    """Return an exception in plain values. Calls code of its class: ``__str__``, ``__reduce__``, and what unpickling calls."""
    pickled, reason = _pickle(error)
    return {
        "type": _type_name(type(error)),
        "message": _message(error),
        "traceback": _text(lambda: "".join(traceback.format_exception(error))) or _short_traceback(error),
        "pickled": pickled,
        "reason": reason,
    }


def restore(captured: CapturedFailure) -> Exception:
    """Return the exception that was captured, or a RemoteError in its place, ready to be raised; its cause shows the remote traceback.

    Raises:
        ValueError: It is not what :func:`capture` returns.
    """
    if not _is_captured(captured):
        raise ValueError("the record of an exception is damaged")
    error, reason = _unpickle(captured)
    if error is None:
        error = RemoteError(captured["type"], captured["message"], captured["traceback"], reason)
    # Not by plain assignment, which a class may forbid (a frozen dataclass, for one).
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(captured["traceback"]))
    return error


def _is_captured(found: object) -> bool:
    if not isinstance(found, dict):
        return False
    if not all(isinstance(found.get(name), str) for name in ("type", "message", "traceback")):
        return False
    return isinstance(found.get("pickled", 0), bytes | None) and isinstance(found.get("reason", 0), str | None)


def _pickle(error: BaseException) -> tuple[bytes | None, str | None]:
    if not isinstance(error, Exception):
        return None, "an exception of this kind would end whoever asks for it"
    try:
        frame = codecs.encode(error)
    except _USER_ERRORS as failure:
        return None, f"it cannot be pickled: {_describe(failure)}"
    try:
        loaded = codecs.decode(frame)
    except _USER_ERRORS as failure:
        return None, f"it can be pickled but not unpickled: {_describe(failure)}"
    if type(loaded) is not type(error):
        return None, f"it unpickles as a {_type_name(type(loaded))}"
    return frame, None


def _unpickle(captured: CapturedFailure) -> tuple[Exception | None, str]:
    if captured["pickled"] is None:
        return None, captured["reason"] or ""
    try:
        error = codecs.decode(captured["pickled"])
    except _USER_ERRORS as failure:
        return None, f"loading it failed: {_describe(failure)}"
    if not isinstance(error, Exception):
        return None, f"it loads as a {_type_name(type(error))}"
    return error, ""


def _type_name(kind: type) -> str:
    return _text(lambda: f"{kind.__module__}.{kind.__qualname__}") or "an exception without a name"


def _message(error: BaseException) -> str:
    text = _text(lambda: str(error))
    return f"<{_type_name(type(error))} whose __str__ fails>" if text is None else text


def _describe(failure: BaseException) -> str:
    return f"{type(failure).__name__}: {_message(failure)}"


def _short_traceback(error: BaseException) -> str:
    """Return what can be said without the chain, the notes and the attributes, one of which cannot be formatted."""
    frames = _text(lambda: "".join(traceback.format_tb(error.__traceback__))) or ""
    return f"Traceback (most recent call last):\n{frames}{_type_name(type(error))}: {_message(error)}\n"


def _text(make: Callable[[], str]) -> str | None:
    """Return a text as a plain str that any encoding of Unicode takes; None if it cannot be made."""
    try:
        return str.__str__(make()).encode("utf-8", "backslashreplace").decode()
    except _USER_ERRORS:
        return None
