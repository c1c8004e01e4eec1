"""Show in ``help()`` the signatures that the documentation promises.

A constructor may take more than the documented arguments, and since Python 3.11 ``Optional[str]`` is no longer printed as it was when the
documentation was written. Type checkers see the real signatures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["shown_as"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _Shown(inspect.Signature):
    """A signature with a text of its own."""

    __slots__ = ("text",)
    text: str

    def __str__(self) -> str:
        return self.text

    def format(self, **_: Any) -> str:
        return self.text


def shown_as(text: str) -> Callable[[_Function], _Function]:
    """Have ``help()`` print ``text`` as the signature of a function."""

    def decorate(function: _Function) -> _Function:
        real = inspect.signature(function)
        signature = _Shown(list(real.parameters.values()), return_annotation=real.return_annotation)
        signature.text = text
        function.__signature__ = signature  # type: ignore[attr-defined]
        return function

    return decorate
