"""An actor: state that one task at a time looks after, and a mailbox in front of it.

::

    tell() ──▶ ┌─────────┐   take()    ┌───────────┐
               │ mailbox │ ──────────▶ │ receive() │ ──▶ the asker's future, if somebody asked
    ask()  ──▶ └─────────┘             └───────────┘
                                             │ raises
                        asked: to the asker ◀┴▶ told: supervise() decides, RESUME or STOP

An actor lives on the event loop it was made on, and only that loop's thread may call it. It has a task only while there is mail: an idle
actor keeps no loop alive, leaves no task behind, and cannot be destroyed while pending.

Every message is answered. One that arrives during or after a stop is refused with :class:`ActorStoppedError`; those in the mailbox at a stop are
received first, as long as the stop's time allows, and refused then.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from collections import deque
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["LATER", "Actor", "ActorStoppedError", "Envelope", "Verdict"]

Message = TypeVar("Message")

_log = logging.getLogger(__name__)


class ActorStoppedError(RuntimeError):
    """The actor takes no more messages."""


class Verdict(enum.Enum):
    """What to do with an actor after a message that nobody waits for has failed."""

    RESUME = "resume"
    """Go on with the next message; the actor's state is sound."""
    STOP = "stop"
    """Take no more messages, and refuse those in the mailbox."""


class Envelope(NamedTuple, Generic[Message]):
    """A message in the mailbox, and who wants the answer."""

    message: Message
    reply: asyncio.Future[Any] | None


class Actor(Generic[Message]):
    """Base class. Override :meth:`receive`, and, where it matters, :meth:`supervise` and :meth:`on_stop`. All run on the actor's loop.

    Args:
        name: For messages and task names.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._mailbox: deque[Envelope[Message]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether the actor has stopped for good."""
        return self._stopped

    def tell(self, message: Message) -> None:
        """Send a message that needs no answer; raise ActorStoppedError if it takes none."""
        self._post(Envelope(message, None))

    def ask(self, message: Message) -> asyncio.Future[Any]:
        """Send a message and return the future of its answer, or of what :meth:`receive` raised.

        Cancelling the future does not take the message back; an actor whose messages can be taken back says how.
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._post(Envelope(message, reply))
        return reply

    async def receive(self, envelope: Envelope[Message]) -> Any:
        """Deal with a message. What it returns answers it, unless it is :data:`LATER`."""
        raise NotImplementedError

    def supervise(self, message: Message, error: Exception) -> Verdict:
        """Decide what becomes of the actor after a told message has failed. By default it is logged, and the actor goes on."""
        _log.error("%s failed at %r", self.name, message, exc_info=error)
        return Verdict.RESUME

    async def on_stop(self) -> None:
        """Finish what is under way. Called once, after the last message."""

    def take(self, kind: type) -> list[Envelope[Message]]:
        """Take the messages of a kind that are next in the mailbox, to deal with them together; each must be answered."""
        taken = []
        while self._mailbox and isinstance(self._mailbox[0].message, kind):
            taken.append(self._mailbox.popleft())
        return taken

    async def stop(self, timeout: float = 5.0) -> None:
        """Take no more messages, receive those in the mailbox, and finish; within ``timeout`` seconds, whatever happens.

        Idempotent; concurrent calls share one stop. Cancelling the caller does not stop the stopping.
        """
        if self._stopping is None:
            self._stopping = self._loop.create_future()
            self._finish_by(self._loop.time() + timeout)
        await asyncio.shield(self._stopping)

    def _finish_by(self, deadline: float) -> None:
        finishing = self._loop.create_task(self._finish(deadline), name=f"{self.name}: stop")
        finishing.add_done_callback(functools.partial(self._finished, deadline))

    async def _finish(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while (task := self._task) is not None:
                    await asyncio.wait([task])
                    await asyncio.sleep(0)
                    if self._task is task and task.done():
                        self._ended(task)  # an interrupt (Ctrl-C) lost the loop's call of it
                await self.on_stop()
        except TimeoutError:
            _log.warning("%s did not stop in time; it was busy with %r", self.name, self._task)
            if self._task is not None:
                self._task.cancel()

    def _finished(self, deadline: float, finishing: asyncio.Task[None]) -> None:
        # Not at the end of the task itself: one that is cancelled before its first step never runs, and nobody would answer those who wait.
        assert self._stopping is not None
        if finishing.cancelled() and self._loop.time() < deadline:
            # asyncio.run() cancels every task when it ends. The stopping goes on, in the time it has.
            self._finish_by(deadline)
            return
        _report(finishing)
        self._stopped = True
        self._refuse()
        if not self._stopping.done():
            self._stopping.set_result(None)

    def _post(self, envelope: Envelope[Message]) -> None:
        if self._stopping is not None or self._stopped:
            raise ActorStoppedError(f"{self.name} has been stopped, and takes no more messages")
        self._mailbox.append(envelope)
        if self._task is None:
            self._start()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._mailbox and not self._stopped:
            await self._deliver(self._mailbox.popleft())

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Not at the end of the task itself: one that is cancelled before its first step never runs, and its mail would lie there for ever.
        if self._task is not task:
            return  # called already
        _report(task)
        self._task = None
        if self._mailbox and not self._stopped:
            # More came just now, or the task was cancelled, as asyncio.run() does with every task when it ends: it is delivered all the same.
            self._start()

    async def _deliver(self, envelope: Envelope[Message]) -> None:
        try:
            answer = await self.receive(envelope)
        except Exception as error:
            if envelope.reply is not None:
                if not envelope.reply.done():
                    envelope.reply.set_exception(error)
            elif self.supervise(envelope.message, error) is Verdict.STOP:
                self._stopped = True
                self._refuse()
        except BaseException:
            # Cancelled, or an interrupt (Ctrl-C) in the loop's thread.
            if envelope.reply is not None:
                envelope.reply.cancel()
            raise
        else:
            if answer is not LATER and envelope.reply is not None and not envelope.reply.done():
                envelope.reply.set_result(answer)

    def _refuse(self) -> None:
        while self._mailbox:
            reply = self._mailbox.popleft().reply
            if reply is not None and not reply.done():
                reply.set_exception(ActorStoppedError(f"{self.name} was stopped before it came to this message"))


class _Later:
    """See :data:`LATER`."""


LATER = _Later()
"""What ``receive`` returns when it, or somebody it told, will answer the envelope's ``reply`` itself."""


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and isinstance(task.exception(), Exception):
        _log.error("%s failed", task.get_name(), exc_info=task.exception())
