"""A ``concurrent.futures.Executor`` over the pool. How calls and outcomes travel is in ``dispatch``."""

from __future__ import annotations

import os
import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any, Final, ParamSpec, TypeVar

from . import administration, codecs, paths
from .dispatch import BATCH, Dispatcher, TaskFuture, cancel, fail
from .errors import CodecError
from .executor_ops import Call, Task, call_each, call_initialized
from .namespace import Namespace
from .program import program
from .registry import open_if_there, open_namespace
from .settings import get_storage_path

__all__ = ["NAMESPACE", "ProcessPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")

NAMESPACE: Final = "executor"
"""Where the processes of executors live, unless they are told otherwise."""


class ProcessPoolExecutor(Executor):
    """A ``concurrent.futures.Executor`` whose calls run in the pool of the store: a drop-in for ``concurrent.futures.ProcessPoolExecutor``.

    ``with ProcessPoolExecutor() as executor: executor.submit(pow, 2, 5).result()``, or ``await loop.run_in_executor(executor, pow, 2, 5)``. The
    workers are those of the store, warm, shared with every program that uses it, and as many as :func:`set_pool_size` says. What differs from the
    standard library's:

    * A worker that dies breaks the one future that it ran for (BrokenProcessPool, and ProcessCrashedError, with the exit code), never the executor.
    * What pickle cannot carry (a lambda, a function of ``__main__``) is carried by cloudpickle, and no ``if __name__ == "__main__"`` is needed. An
      ``async def`` runs on an event loop of its own.
    * What a call prints goes into the output of its process, not to this program's; it is removed with the process, when that has ended.
    * What was handed to the pool runs to its end also when this program is killed. Its outcome is then removed by the next executor of the namespace.
    * A call that waits for other calls of the same pool needs a worker of its own meanwhile.

    An executor belongs to the process that made it: it cannot be pickled, and a forked child makes its own. Any thread may call any method. Where the
    interpreter ends without :meth:`shutdown`, it waits for what is outstanding, as the standard library does.

    Args:
        max_workers: How many of this executor's calls are with the pool at once, at most; the others wait in this program. None: all of them, of
            which the pool runs as many as it has workers.
        mp_context: For compatibility: None, or a context that starts processes by ``spawn``, as workers are fresh interpreters.
        initializer: Called once in each worker, before the first call of this executor that it runs. If it raises, so does that call's future.
        initargs: Arguments for it.
        max_tasks_per_child: For compatibility: None. When a worker is replaced is the pool's to say, see :func:`set_pool_options`.
        namespace: Where the processes live. The default one is made without fsyncs (``off``), as calls that nobody would wait for after a power loss
            need none; another one has the level that it has.

    Raises:
        CodecError: The namespace is limited to codecs that run no code.
        StoragePathError: The store cannot be used.
        TypeError, ValueError: An argument cannot be.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        namespace: str = NAMESPACE,
    ) -> None:
        if max_workers is not None:
            if isinstance(max_workers, bool) or not isinstance(max_workers, int):
                raise TypeError(f"max_workers is a number of calls, not {type(max_workers).__name__}")
            if max_workers <= 0:
                raise ValueError(f"max_workers is {max_workers}, and must be greater than 0; None is no limit")
        if mp_context is not None and mp_context.get_start_method() != "spawn":
            raise ValueError(
                f"the pool's workers are fresh interpreters, as those of multiprocessing's 'spawn': mp_context cannot be "
                f"{mp_context.get_start_method()!r}; leave it out"
            )
        if max_tasks_per_child is not None:
            raise ValueError("when a worker is replaced is said for the whole pool: set_pool_options(max_tasks=...), instead of max_tasks_per_child")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer = None if initializer is None else (os.urandom(8), initializer, tuple(initargs))
        self._namespace = _open(paths.check_namespace(namespace))
        self._dispatcher = Dispatcher(self._namespace, max_workers)
        self._finalizer = weakref.finalize(self, self._dispatcher.close)
        self._finalizer.atexit = False  # _finish_all does that, earlier

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` run in the pool; return its future. Waits neither for others who write nor for the disk.

        The arguments are pickled at once, as they are now. A transaction of the caller's has no part in it. The future raises what the call raises,
        with its remote traceback as the cause; what pickling raised; NamespaceFullError.

        Raises:
            RuntimeError: The executor was shut down, or belongs to the process that this one was forked from.
            BrokenProcessPool: The store failed under the executor.
            ValueError: A setting of the pool in the environment is wrong.
        """
        future: TaskFuture[T] = self._future(fn, fn, args, kwargs)
        if future._call is not None:
            self._dispatcher.submit([future])
        return future

    def map(  # typeshed has the signature of one version, which differs from the next one's
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, buffersize: int | None = None
    ) -> Iterator[T]:
        """Return an iterator over ``fn`` of each tuple of arguments, in their order, as the built-in ``map`` does; the calls run in the pool.

        The calls of an iterator that is left early, and not claimed yet, are cancelled.

        Args:
            fn: What to call.
            iterables: Its arguments; collected at once, unless there is a ``buffersize``.
            timeout: Seconds from now on within which each result must have come; None waits for ever.
            chunksize: Calls that a process makes. More save time where calls are short.
            buffersize: Chunks that are submitted before the first result is asked for, and kept so many ahead; None submits all.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is less than 1.
            TimeoutError: By the iterator: a result has not come in time.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if isinstance(buffersize, bool) or not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        arguments = zip(*iterables, strict=False)
        chunks = iter(lambda: tuple(islice(arguments, chunksize)), ())
        pending: deque[TaskFuture[list[T]]] = deque()
        self._submit_chunks(fn, chunks if buffersize is None else islice(chunks, buffersize), pending)

        def results() -> Iterator[T]:
            try:
                while pending:
                    found = pending[0].result(None if deadline is None else deadline - time.monotonic())
                    pending.popleft()
                    if buffersize is not None:
                        self._submit_chunks(fn, islice(chunks, 1), pending)
                    found.reverse()
                    while found:
                        yield found.pop()
            finally:
                cancel(self._dispatcher, pending)

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Idempotent. The pool stays: it is the store's.

        Args:
            wait: Return when everything that was submitted has ended.
            cancel_futures: Cancel what no worker has claimed.
        """
        self._dispatcher.close(cancel_futures)
        if wait:
            self._dispatcher.join()

    def __reduce__(self) -> Any:
        raise TypeError("an executor belongs to the program that made it and cannot be pickled; make one where it is needed: they share the pool")

    def __repr__(self) -> str:
        return f"<parkit.ProcessPoolExecutor of namespace {self._namespace.name!r} in {str(self._namespace.store)!r}>"

    def _submit_chunks(self, fn: Callable[..., T], chunks: Iterable[tuple[Any, ...]], pending: deque[TaskFuture[list[T]]]) -> None:
        futures: list[TaskFuture[list[T]]] = []
        for chunk in chunks:
            future: TaskFuture[list[T]] = self._future(fn, call_each, (fn, chunk), {})
            pending.append(future)
            if future._call is not None:
                futures.append(future)
            if len(futures) == BATCH:
                self._dispatcher.submit(futures)
                futures = []
        if futures:
            self._dispatcher.submit(futures)

    def _future(self, named: Any, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture[Any]:
        """Return the future of a call, with an exception set if it cannot be pickled."""
        if os.getpid() != self._dispatcher.pid:
            raise RuntimeError(
                f"this executor belongs to process {self._dispatcher.pid}, from which this one, {os.getpid()}, was forked; make another one here"
            )
        future: TaskFuture[Any] = TaskFuture(self._dispatcher, None)
        if self._initializer is not None:
            fn, args, kwargs = call_initialized, (*self._initializer, fn, args, kwargs), {}
        try:
            frame = codecs.encode((Task, fn, args, kwargs))
        except Exception as error:
            fail(future, error)
        else:
            future._call = Call(_name(named), frame, *program())
        return future


def _open(name: str) -> Namespace:
    store = get_storage_path()
    namespace = open_if_there(name, store)
    if namespace is None:
        namespace = open_namespace(name, store)
        if name == NAMESPACE:
            namespace.write_apart(administration.set_synchronous, ("off",))
    if namespace.settings().codecs is not None:
        raise CodecError(f"namespace {name!r} is limited to codecs that run no code, and calls are pickled: give the executor another namespace")
    return namespace


_UNSPEAKABLE: Final = re.compile(r"\W", re.ASCII)


def _name(fn: Any) -> str:
    """Return what the names of a function's processes begin with, for people who list them."""
    name = getattr(fn, "__name__", None) or type(fn).__name__
    return _UNSPEAKABLE.sub("", name)[:64].strip("_") or "call"
