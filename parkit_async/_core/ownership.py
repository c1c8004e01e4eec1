"""Which transaction or snapshot a call belongs to.

An open context belongs to the thread, or to the task, that opened it: its *owner*. Threads and tasks started inside do not join it, so the
owner is looked up at each call and never inherited (a contextvar would leak into child tasks).

``contexts`` is empty almost always; operations on the hot path look at that first and go no further.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import fork
from .errors import ContextError

if TYPE_CHECKING:
    from .namespace import Namespace
    from .transactions import Reading, Writing

__all__ = ["contexts", "current_owner", "enter", "for_reading", "for_writing", "innermost", "leave", "running_loop", "this_thread", "thread_owner"]

contexts: dict[Any, list[Reading]] = {}
"""The open contexts of each owner, outermost first."""


class _Owner(threading.local):
    """What stands for a thread: its identifier may be given to another one when it ends, and with it what it left open."""

    def __init__(self) -> None:
        self.token = object()


this_thread: Final = _Owner()
"""What stands for the calling thread is its ``token``."""

_modules = sys.modules
running_loop: Callable[[], Any] | None = None
"""Returns the event loop that runs in the calling thread, or None; itself None until somebody asks who imported asyncio."""


def current_owner() -> Any:
    """Return the running task, or what stands for the calling thread where no task runs."""
    # A program that never imported asyncio has no tasks; importing it here would cost every such program its start-up time.
    global running_loop
    if running_loop is not None:
        loop = running_loop()
        if loop is not None:
            task = _modules["asyncio.tasks"].current_task(loop)
            if task is not None:
                return task
    elif "asyncio.tasks" in _modules:
        running_loop = _modules["asyncio.events"]._get_running_loop
        return current_owner()
    return this_thread.token


def thread_owner() -> object:
    """Return what stands for the calling thread, whether or not a task runs in it."""
    return this_thread.token


def innermost() -> Reading | None:
    """Return the caller's innermost open context, in whatever namespace."""
    for context in reversed(contexts.get(current_owner(), ())):
        if context.writes or not context.inherited:
            return context
    return None


def enter(context: Reading) -> None:
    """Make ``context`` the innermost one of its owner."""
    contexts.setdefault(context.owner, []).append(context)


def leave(context: Reading) -> list[Reading]:
    """Forget ``context``. Return what was opened inside it and not closed, innermost first; that is forgotten, too."""
    stack = contexts.get(context.owner)
    if stack is None:
        return []
    inner: list[Reading] = []
    if context in stack:
        at = stack.index(context)
        inner = stack[:at:-1]
        del stack[at:]
    if not stack:
        contexts.pop(context.owner, None)
    return inner


def for_reading(namespace: Namespace) -> Reading | None:
    """Return the context through which the caller reads ``namespace``: its innermost one there, or None for the latest committed state."""
    stack = contexts.get(current_owner())
    if stack is None:
        return None
    for context in reversed(stack):
        if context.namespace is namespace and _is_valid(context):
            return context
    return None


def for_writing(namespace: Namespace) -> Writing | None:
    """Return the transaction in which the caller changes ``namespace``, or None for an implicit one.

    Raises:
        ContextError: The caller has a transaction open in another namespace, or a snapshot of this one.
    """
    # The ordinary case spelled out, as a transaction asks this for each of its operations: no task runs here, and one transaction is open.
    loop = running_loop
    outside = "asyncio.tasks" not in _modules if loop is None else loop() is None
    stack = contexts.get(this_thread.token if outside else current_owner())
    if stack is None:
        return None
    first = stack[0]
    if first.namespace is namespace and first.writes and len(stack) == 1 and not first.inherited:
        return first  # type: ignore[return-value]
    transaction: Reading | None = None
    for context in stack:
        if not _is_valid(context):
            continue
        if context.writes:
            transaction = context
        elif context.namespace is namespace:
            raise ContextError(
                f"namespace {namespace.name!r} cannot be changed inside a snapshot of it; leave the snapshot first, or open a "
                "transaction instead of it"
            )
    if transaction is not None and transaction.namespace is not namespace:
        raise ContextError(
            f"a transaction of namespace {transaction.namespace.name!r} is open here, so namespace {namespace.name!r} cannot be changed; "
            "one transaction covers one namespace: keep objects that change together in the same one, or leave the transaction first"
        )
    return transaction  # type: ignore[return-value]


def _is_valid(context: Reading) -> bool:
    """Return False for a snapshot that was open when this process was forked: it is the parent's, and the child reads the latest state.

    Raises:
        ContextError: It is a transaction, whose block the child goes on with: part of that would be stored, and part not.
    """
    if not context.inherited:
        return True
    if context.writes:
        raise ContextError(
            f"the transaction of namespace {context.namespace.name!r} was opened before this process was forked and belongs to the parent; "
            "leave it in the child, then open one of its own"
        )
    return False


def _forget_other_threads() -> None:
    """In a forked child only the calling thread lives on; contexts of the others must not be taken for those of new threads."""
    keep = contexts.get(current_owner())
    for stack in contexts.values():
        for context in stack:
            context.forked()
    owner = current_owner()
    contexts.clear()
    if keep is not None:
        contexts[owner] = keep


class _ForkHook:
    def forked(self) -> None:
        _forget_other_threads()


_hook = _ForkHook()
fork.on_fork(_hook)
