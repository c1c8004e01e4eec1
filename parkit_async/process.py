"""The awaitable Process."""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeVar

from ._core import pool_state, process_ops, supervision
from ._core.binding import Binding
from ._core.doorbell import EVENT_DONE
from ._core.filewatch import LOOK
from ._core.namespace import Namespace
from ._core.output import Follower
from ._core.processes import ProcessHandle
from ._core.waiting import AGAIN, SAFETY, deadline_of, refuse_wait, remaining, sooner
from .dict import Dict
from .object import Object, read_attempt
from .operations import write
from .runtime import current_runtime

__all__ = ["Process", "ensure_supervisor"]

R = TypeVar("R")


async def ensure_supervisor(store: str, *, restart: bool) -> None:
    """See that the store has a supervisor, or soon will; starting one does not keep the loop waiting. See ``supervision.ensure``."""
    if supervision.running_supervisor(store) is None:
        await current_runtime().in_thread(("supervisor", store, restart), lambda: supervision.ensure(store, restart=restart))


class Process(ProcessHandle, Dict[Any, Any], Generic[R]):
    """A call that runs in a pool of worker processes, and a persistent Dict through which it, whoever started it, and anyone else share data.

    ``p = await Process(target=work)``, ``await p.start()``, ``await p.get_result()``. A worker, kept by a supervisor that starts with the first
    ``start()`` and outlives the program, runs it: it ends even if the program that started it has. Its status, result, error and output are kept
    until it is dropped or cleaned. ``target`` and :meth:`run` may be ``async def``: they then run on an event loop of their own.

    Args:
        path: ``namespace/name``; None makes up a name.
        create: Create the process if it does not exist.
        bind: Open it if it does; the other arguments are ignored then.
        versioned: Count its changes.
        target: What to call. What pickle cannot carry (a lambda, a function of ``__main__``) is carried by cloudpickle.
        args: Positional arguments for it.
        kwargs: Keyword arguments for it.

    Raises:
        TypeError: At once: the target cannot be called.
        CodecError, TypeError: When it is opened: the namespace is limited to codecs that run no code; the path holds an object of another class.
        Exception: When it is created: what pickling the target or its arguments raises, unchanged; nothing is stored then.

    The other errors are those of :class:`parkit_async.Object`.
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

    async def _create(self, namespace: Namespace) -> Any:
        self._check_namespace(namespace)
        creation = self._creation()
        store, name = str(namespace.store), namespace.name
        if not pool_state.is_known(store, name):
            await current_runtime().in_thread(("crew", store, name), lambda: pool_state.add_namespace(store, name))
        return await write(namespace, *creation)

    async def _reach(self) -> Binding:
        """Return the binding, opened if need be; raise ValueError if the handle was closed."""
        return self._open_binding() if self._binding is not None or self._closed else await self._bind()

    __eq__ = Object.__eq__
    __hash__ = Object.__hash__  # type: ignore[assignment]

    async def run(self) -> Any:
        """Call the target, and await what it returns if that can be awaited: what the worker calls. A subclass may override it; what it returns is
        the result."""
        assert self._call is not None, "run() is called by the worker"
        target, args, kwargs = self._call
        result = None if target is None else target(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def start(self) -> None:
        """Submit the process to the pool. Inside a transaction it takes effect with its commit, and not at all if that is rolled back.

        Raises:
            ProcessError: It was started before.
            StoragePathError: The supervisor cannot be started.
            ValueError: A setting of the pool in the environment is wrong; the process is not started.
        """
        binding = await self._reach()
        supervision.check(str(binding.namespace.store))
        await write(binding.namespace, *self._start(binding))
        await ensure_supervisor(str(binding.namespace.store), restart=True)

    async def is_alive(self) -> bool:
        """Return whether it was started and has not ended."""
        await self._reach()
        return self._run().status in (process_ops.SUBMITTED_STATUS, process_ops.RUNNING_STATUS)

    async def join(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended. Cancelling the wait does nothing to the process.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has.

        Raises:
            ProcessError: It was not started.
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            ObjectNotFoundError: It was dropped, before or meanwhile.
            ValueError: The timeout is negative.
        """
        return await self._wait_end(timeout, "join()") is not AGAIN

    async def get_result(self, timeout: float | None = None) -> R:
        """Wait until the process has ended; return what the target returned, or raise what it raised, with its remote traceback as the cause.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            ProcessError: It was not started.
            ProcessCrashedError: Its worker died, or was terminated.
            RemoteError: It raised what cannot be pickled, or what would end the caller (SystemExit, KeyboardInterrupt, CancelledError).
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
        """
        ended = await self._wait_end(timeout, "get_result()")
        if ended is AGAIN:
            raise TimeoutError(f"process {self.path!r} has not ended within {timeout} seconds; it is {self.status}")
        result: R = self._delivered(self._bound(), *ended)
        return result

    async def _wait_end(self, timeout: float | None, what: str) -> Any:
        deadline = deadline_of(timeout)
        binding = await self._reach()
        look = self._ended(binding)
        store = str(binding.namespace.store)

        async def attempt(lookout: supervision.Lookout | None = None) -> Any:
            found = look()
            if found is AGAIN:
                await ensure_supervisor(store, restart=False)
                if lookout is not None and lookout.died():
                    return supervision.DIED
            return found

        ended = await read_attempt(look)
        if ended is AGAIN and timeout != 0:
            refuse_wait(self.path, what)
            runtime = current_runtime()
            step = supervision.Lookout.FIRST
            ended = await runtime.wait(binding, EVENT_DONE, attempt, sooner(deadline, step))
            while ended is AGAIN and remaining(deadline) != 0:
                with closing(supervision.Lookout(store)) as lookout:
                    watched = lookout.fileno() >= 0
                    step = supervision.Lookout.FIRST if watched else min(2 * step, SAFETY)
                    until = deadline if watched else sooner(deadline, step)
                    with runtime.also(lookout.fileno(), binding, EVENT_DONE):
                        ended = await runtime.wait(binding, EVENT_DONE, partial(attempt, lookout), until)
                if ended is supervision.DIED:
                    ended = AGAIN
        return ended

    async def terminate(self) -> None:
        """End the process: SIGTERM to its worker and the worker's children, SIGKILL after a grace period. It crashes, with exitcode -15 or -9.

        One that is still submitted is taken off the queue (crashed, -15); one that has ended is left as it is. Does not wait.

        Raises:
            ProcessError: It was not started.
        """
        await self._ask_for(signal.SIGTERM)

    async def kill(self) -> None:
        """End the process by SIGKILL, at once; else as :meth:`terminate`."""
        await self._ask_for(signal.SIGKILL)

    async def _ask_for(self, number: int) -> None:
        binding = await self._reach()
        if await write(binding.namespace, process_ops.request, binding, int(number)) == process_ops.RUNNING_STATUS:
            await ensure_supervisor(str(binding.namespace.store), restart=True)

    async def close(self) -> None:
        """Let go of what the handle holds (its sentinel); it cannot be used to run or wait any more. Idempotent. The process stays.

        Raises:
            ValueError: It is still running.
        """
        if not self._closed:
            await self._reach()
        self._close()

    async def follow(self, timeout: float | None = None) -> AsyncIterator[str]:
        """Iterate over the lines of the output, and then over those that come, waiting for each, until the process has ended.

        Args:
            timeout: Seconds without a new line after which iteration ends; None waits for ever.
        """
        deadline_of(timeout)
        await self._reach()
        follower = Follower(self.output)
        ending = asyncio.ensure_future(self.join())
        try:
            while self._run().status not in process_ops.ENDED:
                follower.watch.drain()  # begins to watch before the look, so that nothing falls in between
                lines = follower.take()
                for line in lines:
                    yield line
                if not lines and not await _grown(follower, ending, timeout):
                    return
            for lines in follower.rest():
                for line in lines:
                    yield line
        finally:
            ending.cancel()
            follower.close()

    async def drop(self) -> None:
        """Remove the process with all it holds, its output too. One that runs is terminated first, which is waited for.

        Raises:
            ContextError: It runs, and a transaction or snapshot of the task's own is open.
        """
        binding = await self._reach()
        while self._run().status == process_ops.RUNNING_STATUS:
            refuse_wait(self.path, "drop()")
            await self.terminate()
            await self.join()
        await write(binding.namespace, process_ops.drop, binding, self._declaration.name)
        self._forget_sentinel()
        self._remove_output(binding)


async def _grown(follower: Follower, ending: asyncio.Future[Any], timeout: float | None) -> bool:
    """Wait until an output may have more, or its run has ended; return False if neither happens in time."""
    loop = asyncio.get_running_loop()
    changed = loop.create_future()

    def change() -> None:
        if not changed.done():
            changed.set_result(None)

    descriptor = follower.watch.fileno()
    if descriptor >= 0:
        loop.add_reader(descriptor, change)
    try:
        # Without a descriptor to watch the file is looked at now and then.
        limits = [limit for limit in (timeout, None if descriptor >= 0 else LOOK) if limit is not None]
        done, _ = await asyncio.wait({changed, ending}, timeout=min(limits, default=None), return_when=asyncio.FIRST_COMPLETED)
        return bool(done) or descriptor < 0
    finally:
        if descriptor >= 0:
            loop.remove_reader(descriptor)
