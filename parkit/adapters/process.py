"""The blocking Process."""

# No `from __future__ import annotations`: help() shall print types, not their source.

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeVar

from parkit_async._core import pool_state as _pool_state
from parkit_async._core import process_ops, supervision
from parkit_async._core.doorbell import EVENT_DONE, thread_bell
from parkit_async._core.namespace import Namespace
from parkit_async._core.output import Follower, Output, follow_blocking
from parkit_async._core.processes import ProcessHandle
from parkit_async._core.waiting import AGAIN, SAFETY, block, deadline_of, refuse_wait, remaining, sooner

from .dict import Dict
from .object import Object

__all__ = ["Process"]

R = TypeVar("R")


class Process(ProcessHandle, Dict[Any, Any], Generic[R]):
    """A call that runs in a pool of worker processes, and a persistent Dict through which it, whoever started it, and anyone else share data.

    ``start()`` submits it. A worker, kept by a supervisor that starts with the first ``start()`` and outlives the program, runs it: it ends even if
    the program that started it has. Its status, result, error and output are kept until it is dropped or cleaned. ``target`` and :meth:`run` may be
    ``async def``: they then run on an event loop of their own.

    Args:
        path: ``namespace/name``; None makes up a name.
        create: Create the process if it does not exist.
        bind: Open it if it does; the other arguments are ignored then.
        versioned: Count its changes.
        target: What to call. What pickle cannot carry (a lambda, a function of ``__main__``) is carried by cloudpickle.
        args: Positional arguments for it.
        kwargs: Keyword arguments for it.

    Raises:
        TypeError: The target cannot be called, or the path holds an object of another class.
        CodecError: The namespace is limited to codecs that run no code.
        Exception: What pickling the target or its arguments raises, unchanged; nothing is stored then.

    The other errors are those of :class:`parkit.Object`.
    """

    type_name = "parkit.Process"

    def __init__(
        self,
        path: str | None = None,
        /,
        *,
        create: bool = True,
        bind: bool = True,
        versioned: bool = True,
        target: Callable[..., R] | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._declare_process(path, create, bind, versioned, target, args, kwargs)
        if path is not None:
            self._open()
        else:
            # A name made up just now is nobody's yet.
            namespace = self._namespace()
            self._bind_to(namespace, *self._create(namespace))

    def _create(self, namespace: Namespace) -> Any:
        self._check_namespace(namespace)
        creation = self._creation()
        _pool_state.add_namespace(str(namespace.store), namespace.name)
        return namespace.write(*creation)

    __eq__ = Object.__eq__
    __hash__ = Object.__hash__  # type: ignore[assignment]

    def run(self) -> Any:
        """Call the target: what the worker calls. A subclass may override it, also by an ``async def``; what it returns is the result."""
        assert self._call is not None, "run() is called by the worker"
        target, args, kwargs = self._call
        return None if target is None else target(*args, **kwargs)

    def start(self) -> None:
        """Submit the process to the pool. Inside a transaction it takes effect with its commit, and not at all if that is rolled back.

        Raises:
            ProcessError: It was started before.
            StoragePathError: The supervisor cannot be started.
            ValueError: A setting of the pool in the environment is wrong; the process is not started.
        """
        binding = self._open_binding()
        supervision.check(str(binding.namespace.store))
        binding.namespace.write(*self._start(binding))
        supervision.ensure(str(binding.namespace.store), restart=True)

    def is_alive(self) -> bool:
        """Return whether it was started and has not ended."""
        return self._run().status in (process_ops.SUBMITTED_STATUS, process_ops.RUNNING_STATUS)

    def join(self, timeout: float | None = None) -> bool:
        """Block until the process has ended.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has.

        Raises:
            ProcessError: It was not started.
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            ObjectNotFoundError: It was dropped, before or meanwhile.
            ValueError: The timeout is negative.
        """
        return self._wait_end(timeout, "join()") is not AGAIN

    def get_result(self, timeout: float | None = None) -> R:
        """Block until the process has ended; return what the target returned, or raise what it raised, with its remote traceback as the cause.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            ProcessError: It was not started.
            ProcessCrashedError: Its worker died, or was terminated.
            RemoteError: It raised what cannot be pickled, or what would end the caller (SystemExit, KeyboardInterrupt, CancelledError).
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
        """
        ended = self._wait_end(timeout, "get_result()")
        if ended is AGAIN:
            raise TimeoutError(f"process {self.path!r} has not ended within {timeout} seconds; it is {self.status}")
        result: R = self._delivered(self._binding, *ended)
        return result

    def _wait_end(self, timeout: float | None, what: str) -> Any:
        deadline = deadline_of(timeout)
        binding = self._open_binding()
        look = self._ended(binding)
        store = str(binding.namespace.store)

        def attempt(lookout: supervision.Lookout | None = None) -> Any:
            found = look()
            if found is AGAIN:
                supervision.ensure(store, restart=False)
                if lookout is not None and lookout.died():
                    return supervision.DIED
            return found

        ended = look()
        if ended is AGAIN and timeout != 0:
            refuse_wait(self.path, what)
            step = supervision.Lookout.FIRST
            ended = block(binding, EVENT_DONE, attempt, sooner(deadline, step))
            while ended is AGAIN and remaining(deadline) != 0:
                with closing(supervision.Lookout(store)) as lookout:
                    watched = lookout.fileno() >= 0
                    step = supervision.Lookout.FIRST if watched else min(2 * step, SAFETY)
                    until = deadline if watched else sooner(deadline, step)
                    ended = block(binding, EVENT_DONE, partial(attempt, lookout), until, also=lookout.fileno())
                if ended is supervision.DIED:
                    ended = AGAIN
        return ended

    def terminate(self) -> None:
        """End the process: SIGTERM to its worker and the worker's children, SIGKILL after a grace period. It crashes, with exitcode -15 or -9.

        One that is still submitted is taken off the queue (crashed, -15); one that has ended is left as it is. Does not wait.

        Raises:
            ProcessError: It was not started.
        """
        self._ask_for(signal.SIGTERM)

    def kill(self) -> None:
        """End the process by SIGKILL, at once; else as :meth:`terminate`."""
        self._ask_for(signal.SIGKILL)

    def _ask_for(self, number: int) -> None:
        binding = self._open_binding()
        if binding.namespace.write(process_ops.request, binding, int(number)) == process_ops.RUNNING_STATUS:
            supervision.ensure(str(binding.namespace.store), restart=True)

    def close(self) -> None:
        """Let go of what the handle holds (its sentinel); it cannot be used to run or wait any more. Idempotent. The process stays.

        Raises:
            ValueError: It is still running.
        """
        self._close()

    def follow(self, timeout: float | None = None) -> Iterator[str]:
        """Iterate over the lines of the output, and then over those that come, waiting for each, until the process has ended.

        Args:
            timeout: Seconds without a new line after which iteration ends; None waits for ever.
        """
        binding = self._open_binding()
        return _follow(self, self.output, timeout, binding)

    def drop(self) -> None:
        """Remove the process with all it holds, its output too. One that runs is terminated first, which is waited for.

        Raises:
            ContextError: It runs, and a transaction or snapshot of the caller's own is open.
        """
        binding = self._open_binding()
        while self._run().status == process_ops.RUNNING_STATUS:
            refuse_wait(self.path, "drop()")
            self.terminate()
            self.join()
        binding.namespace.write(process_ops.drop, binding, self._declaration.name)
        self._forget_sentinel()
        self._remove_output(binding)


def _follow(process: Process[Any], output: Output, timeout: float | None, binding: Any) -> Iterator[str]:
    namespace = binding.namespace
    bell = thread_bell(namespace.sockets)
    slots: list[int] = []
    try:
        namespace.table.register(binding.object_id, EVENT_DONE, bell.address, slots)

        def ended() -> bool:
            bell.drain()  # before the look: what rings behind it is heard
            return process._run().status in process_ops.ENDED

        yield from follow_blocking(Follower(output), ended, bell.fileno(), timeout)
    finally:
        # An interrupt (Ctrl-C) may come here as well, at the first step of the call: so that is made again.
        try:
            for slot in slots:
                namespace.table.unregister(slot)
        except BaseException:
            for slot in slots:
                namespace.table.unregister(slot)
            raise
        bell.drain()
