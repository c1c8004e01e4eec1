"""How a worker calls what it has claimed: the outcome of whatever happens, as status, exit code and frame.

The defined ends of a call are those of ``multiprocessing``: what is returned; ``sys.exit()``, whose code tells; any other exception, which is printed
and sent. Ends that leave no interpreter (a signal, ``os._exit``) are the supervisor's to see.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ._core import codecs, failures, objects
from ._core.process_ops import FAILED, FINISHED, Claim

if TYPE_CHECKING:
    import asyncio

__all__ = ["Outcome", "call"]


class Outcome(NamedTuple):
    """What came of a call.

    Attributes:
        status: FINISHED or FAILED.
        exitcode: As that of a process of ``multiprocessing``.
        frame: Of the result, or of the captured error.
    """

    status: str
    exitcode: int
    frame: bytes


def call(claim: Claim, path: str, store: str, afterwards: Callable[[], None]) -> Outcome:
    """Call what there is to call, in the calling thread, which is the main one.

    Args:
        claim: What was claimed.
        path: Whole path of the process.
        store: Path of the store.
        afterwards: Called when the target has ended, however; what it raises counts as raised by the target.
    """
    pid = os.getpid()
    try:
        try:
            result = _invoke(_handle(claim, path, store))
        finally:
            afterwards()
        try:
            return Outcome(FINISHED, 0, codecs.encode(result))
        except Exception as error:
            raise TypeError(
                f"the result of process {path!r}, of type {type(result).__name__}, cannot be pickled; return plain data, or store it"
            ) from error
    except SystemExit as leaving:
        code = _exit_code(leaving)
        return Outcome(FINISHED, 0, codecs.encode(None)) if code == 0 else Outcome(FAILED, code, codecs.encode(failures.capture(leaving)))
    except BaseException as error:
        with contextlib.suppress(Exception):
            sys.stderr.write(f"Process {path}:\n")
            traceback.print_exception(error)
        return Outcome(FAILED, 1, codecs.encode(failures.capture(error)))
    finally:
        if os.getpid() != pid:
            os._exit(0)  # the target has forked, and this is the child


def _handle(claim: Claim, path: str, store: str) -> Any:
    cls, target, args, kwargs = codecs.decode(claim.call)
    handle = objects.restored(cls, path, claim.uuid, store)
    handle._set("_call", (target, args, kwargs))
    return handle


def _invoke(handle: Any) -> Any:
    """Call ``run``, and await what it returns, on a loop of its own, if that can be awaited."""
    face = sys.modules.get("parkit_async.process")
    if face is not None and type(handle).run is face.Process.run:
        # Not overridden: a target that is no coroutine function shall not run on an event loop.
        target, args, kwargs = handle._call
        result = None if target is None else target(*args, **kwargs)
    else:
        result = handle.run()
    if not inspect.isawaitable(result):
        return result

    async def main() -> Any:
        return await result

    import asyncio

    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        return runner.run(main())


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _exit_code(leaving: SystemExit) -> int:
    """Return the exit code that the interpreter would leave with, after printing what it would print."""
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(Exception):
        sys.stderr.write(f"{code}\n")
    return 1
