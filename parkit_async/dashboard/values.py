"""Show a user's values without running anybody's code.

The command line unpickles what it is told to show, as the program that stored it would. A page that is open all day must not: it would import the
program's modules, run its ``__setstate__``, and end with it. So a value is loaded only if it consists of plain data, and else is named.

Invariants:

* Nothing that a value refers to is imported or called, but for the few types of the standard library in ``_HARMLESS``.
* What is shown is bounded in length and depth, whatever the value is.
"""

from __future__ import annotations

import io
import pickle
import reprlib
from itertools import islice
from typing import Any, Final

from parkit_async._core import codecs

__all__ = ["NotPlain", "load", "printable", "shown"]

_LARGEST: Final = 64 << 10
"""Bytes of a frame that is loaded."""
_LONGEST: Final = 2000
"""Characters of a text that are shown."""
_SAFE_CODECS: Final = frozenset({"json", "raw"})
_PICKLE: Final = codecs.PICKLE
_HARMLESS: Final = frozenset(
    {
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("uuid", "UUID"),
    }
)


class NotPlain(Exception):
    """A value is not loaded; the text says why."""


class _PlainUnpickler(pickle.Unpickler):
    """Loads atoms and containers; whatever else a pickle refers to is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise NotPlain(f"a {module}.{name}")

    def persistent_load(self, identifier: Any) -> Any:
        raise NotPlain("a value with references to outside")


def load(frame: bytes, largest: int = _LARGEST) -> Any:
    """Return the value of a frame of ``largest`` bytes at most if it is plain data.

    Raises:
        NotPlain: It is not, or is too large, or damaged.
    """
    if len(frame) > largest:
        raise NotPlain(f"a value of {len(frame):,} bytes")
    try:
        if frame[:1] == bytes((_PICKLE,)):
            return _PlainUnpickler(io.BytesIO(frame)).load()
        return codecs.decode(frame, allowed=_SAFE_CODECS)
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(f"a value of {len(frame):,} bytes that is not plain data ({type(error).__name__})") from error


class _Repr(reprlib.Repr):
    """Shows so many parts of a value and no more: a list of lists that are one and the same is small as a pickle, and endless as a text."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 5
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 50
        self.maxstring = self.maxother = 1000
        self.maxlong = 100
        self._left = 500

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """Return the entries in their own order, which the base class sorts."""
        if level <= 0:
            return "{...}" if x else "{}"
        pairs = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in islice(x, self.maxdict)]
        return f"{{{', '.join(pairs)}{', ...' if len(x) > self.maxdict else ''}}}"

    def repr1(self, x: Any, level: int) -> str:
        self._left -= 1
        return "..." if self._left < 0 else super().repr1(x, level)


def shown(frame: bytes) -> str:
    """Return a value as text: its repr if it is plain data, otherwise what it is, in angle brackets."""
    try:
        return printable(_Repr().repr(load(frame)))
    except NotPlain as reason:
        return printable(f"<{reason}, not loaded>")
    except Exception as error:
        return f"<a value whose repr fails: {type(error).__name__}>"


def printable(text: str, longest: int = _LONGEST) -> str:
    """Return a text that JSON and a page can carry: surrogates spelled out, cut at ``longest`` characters."""
    return (text if len(text) <= longest else f"{text[: longest - 1]}…").encode("utf-8", "backslashreplace").decode()
