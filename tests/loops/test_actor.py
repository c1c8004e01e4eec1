"""An actor answers every message, whatever it is in the middle of, and its stop ends in bounded time, whatever it was told before."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from parkit_async.actor import LATER, Actor, ActorStoppedError, Envelope, Verdict
from tests.conftest import RunScript
from tests.loops.harness import PATIENCE, spin, until


class Recorder(Actor[Any]):
    """Notes what it receives; messages say what it does with them."""

    def __init__(self, verdict: Verdict = Verdict.RESUME) -> None:
        super().__init__("recorder")
        self.received: list[Any] = []
        self.failed: list[tuple[Any, Exception]] = []
        self.stops = 0
        self.go_on = asyncio.Event()
        self.verdict = verdict
        self.later: list[Envelope[Any]] = []
        self.rounds_to_stop = 0

    async def receive(self, envelope: Envelope[Any]) -> Any:
        message = envelope.message
        self.received.append(message)
        if message == "wait":
            await self.go_on.wait()
        elif message == "later":
            self.later.append(envelope)
            return LATER
        elif message == "together":
            for other in [envelope, *self.take(str)]:
                if other.reply is not None:
                    other.reply.set_result(f"{other.message}, together")
            return LATER
        elif isinstance(message, Exception):
            raise message
        else:
            await spin(1)
        return f"re: {message}"

    def supervise(self, message: Any, error: Exception) -> Verdict:
        self.failed.append((message, error))
        return self.verdict

    async def on_stop(self) -> None:
        self.stops += 1
        await spin(self.rounds_to_stop)


async def test_messages_are_received_in_the_order_they_were_sent() -> None:
    actor = Recorder()
    replies = []
    for number in range(100):
        if number % 3:
            actor.tell(number)
        else:
            replies.append(actor.ask(number))
    assert await asyncio.gather(*replies) == [f"re: {number}" for number in range(0, 100, 3)]
    assert actor.received == list(range(100))
    await actor.stop()


async def test_an_idle_actor_has_no_task() -> None:
    before = asyncio.all_tasks()
    actor = Recorder()
    assert asyncio.all_tasks() == before
    assert await actor.ask("a") == "re: a"
    await until(lambda: asyncio.all_tasks() == before)
    assert await actor.ask("b") == "re: b"


async def test_a_failure_goes_to_the_asker_alone() -> None:
    actor = Recorder(Verdict.STOP)
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        await actor.ask(error)
    assert caught.value is error
    assert actor.failed == []
    assert await actor.ask("next") == "re: next"


async def test_a_failure_that_nobody_waits_for_goes_to_the_supervisor_who_resumes() -> None:
    actor = Recorder()
    error = ValueError("told")
    actor.tell(error)
    assert await actor.ask("next") == "re: next"
    assert actor.failed == [(error, error)]
    assert not actor.stopped


async def test_a_failure_that_nobody_waits_for_goes_to_the_supervisor_who_stops() -> None:
    actor = Recorder(Verdict.STOP)
    waiting = [actor.ask("wait")]
    actor.tell(ValueError("told"))
    waiting += [actor.ask("behind"), actor.ask("behind too")]
    actor.go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers[0] == "re: wait"
    assert [type(answer) for answer in answers[1:]] == [ActorStoppedError] * 2
    assert actor.stopped
    with pytest.raises(ActorStoppedError, match="recorder has been stopped"):
        actor.tell("after")
    with pytest.raises(ActorStoppedError):
        actor.ask("after")


async def test_the_default_supervisor_logs_and_resumes(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Actor[Any]):
        async def receive(self, envelope: Envelope[Any]) -> Any:
            if isinstance(envelope.message, Exception):
                raise envelope.message
            return "well"

    actor = Plain("plain one")
    actor.tell(ValueError("lost"))
    assert await actor.ask("how are you?") == "well"
    assert "plain one failed at ValueError('lost')" in caplog.text


async def test_a_supervisor_that_fails_does_not_keep_the_mail(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Recorder):
        def supervise(self, message: Any, error: Exception) -> Verdict:
            raise RuntimeError("the supervisor stumbled")

    actor = Clumsy()
    actor.tell(ValueError("told"))
    assert await actor.ask("next") == "re: next"
    assert "the supervisor stumbled" in caplog.text


async def test_messages_of_a_kind_are_taken_together() -> None:
    actor = Recorder()
    first = [actor.ask("together"), actor.ask("b"), actor.ask("c")]
    number, behind = actor.ask(1), actor.ask("d")
    assert await asyncio.gather(*first) == ["together, together", "b, together", "c, together"]
    assert await number == "re: 1"
    assert await behind == "re: d"
    assert actor.received == ["together", 1, "d"]


async def test_an_answer_may_come_later() -> None:
    actor = Recorder()
    reply = actor.ask("later")
    assert await actor.ask("now") == "re: now"
    assert not reply.done()
    later = actor.later.pop().reply
    assert later is reply
    later.set_result("at last")
    assert await reply == "at last"


async def test_a_cancelled_answer_does_not_take_the_message_back() -> None:
    actor = Recorder()
    first, second = actor.ask("wait"), actor.ask("second")
    await until(lambda: actor.received == ["wait"])
    first.cancel()
    second.cancel()
    actor.go_on.set()
    assert await actor.ask("third") == "re: third"
    assert actor.received == ["wait", "second", "third"]


async def test_a_stop_receives_the_mail_first_and_refuses_what_comes_meanwhile() -> None:
    actor = Recorder()
    replies = [actor.ask("wait"), *(actor.ask(number) for number in range(5))]
    stopping = asyncio.ensure_future(actor.stop())
    await until(lambda: actor.received == ["wait"])
    with pytest.raises(ActorStoppedError):
        actor.ask("during")
    with pytest.raises(ActorStoppedError):
        actor.tell("during")
    assert not stopping.done()
    actor.go_on.set()
    await stopping
    assert [reply.result() for reply in replies] == ["re: wait", *(f"re: {number}" for number in range(5))]
    assert actor.stopped
    assert actor.stops == 1


async def test_a_stop_is_idempotent_and_shared() -> None:
    actor = Recorder()
    actor.rounds_to_stop = 10
    reply = actor.ask("a")
    await asyncio.gather(*(actor.stop() for _ in range(20)))
    await actor.stop()
    assert reply.result() == "re: a"
    assert actor.stops == 1


async def test_cancelling_a_caller_does_not_stop_the_stopping() -> None:
    actor = Recorder()
    reply = actor.ask("wait")
    first, second = asyncio.ensure_future(actor.stop()), asyncio.ensure_future(actor.stop())
    await until(lambda: actor.received == ["wait"])
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert not actor.stopped
    actor.go_on.set()
    await second
    assert reply.result() == "re: wait"
    assert actor.stops == 1


async def test_a_stop_is_bounded_and_names_the_culprit(caplog: pytest.LogCaptureFixture) -> None:
    actor = Recorder()
    stuck, behind = actor.ask("wait"), actor.ask("behind")
    with caplog.at_level(logging.WARNING):
        await actor.stop(timeout=0)
    assert actor.stopped
    assert "recorder did not stop in time" in caplog.text
    assert "name='recorder'" in caplog.text
    answers = await asyncio.gather(stuck, behind, return_exceptions=True)
    assert [type(answer) for answer in answers] in ([asyncio.CancelledError, ActorStoppedError], [ActorStoppedError, ActorStoppedError])
    assert actor.stops == 0


async def test_a_stop_that_is_bounded_ends_an_endless_on_stop() -> None:
    actor = Recorder()
    actor.rounds_to_stop = 10**9
    await actor.stop(timeout=0.01)
    assert actor.stopped
    assert actor.stops == 1


@pytest.mark.parametrize("rounds", range(4))
async def test_mail_survives_that_all_tasks_are_cancelled(rounds: int) -> None:
    # As asyncio.run() does when it ends, however far the actor's task has come: not at all, too.
    others = asyncio.all_tasks()
    actor = Recorder()
    replies = [actor.ask(number) for number in range(10)]
    await spin(rounds)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    answers = await asyncio.wait_for(asyncio.gather(*replies, return_exceptions=True), PATIENCE)
    cancelled = [number for number, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)]
    assert len(cancelled) <= 1, "only the message in hand goes with its task"
    assert [answer for answer in answers if isinstance(answer, str)] == [f"re: {number}" for number in range(10) if number not in cancelled]
    assert await actor.ask("after") == "re: after"


@pytest.mark.parametrize("rounds", range(4))
async def test_a_stop_survives_that_all_tasks_are_cancelled(rounds: int) -> None:
    others = asyncio.all_tasks()
    actor = Recorder()
    actor.rounds_to_stop = 2
    reply = actor.ask("a")
    stopping = asyncio.ensure_future(actor.stop())
    await spin(1)
    second = asyncio.ensure_future(actor.stop())
    await spin(rounds)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    await asyncio.wait([stopping, second])
    await asyncio.wait_for(actor.stop(), PATIENCE)
    assert actor.stopped
    await asyncio.wait([reply])
    assert reply.cancelled() or reply.result() == "re: a"


@pytest.mark.timeout(120)
async def test_a_thousand_stops_at_random_moments_answer_everything() -> None:
    chance = random.Random(16)
    before = asyncio.all_tasks()
    answered = refused = 0
    for _ in range(1000):
        actor = Recorder()
        actor.rounds_to_stop = chance.randrange(3)
        replies: list[asyncio.Future[Any]] = []

        async def send(actor: Recorder = actor, replies: list[asyncio.Future[Any]] = replies) -> None:
            for number in range(chance.randrange(8)):
                try:
                    replies.append(actor.ask(number))
                except ActorStoppedError:
                    return
                await spin(chance.randrange(3))

        async def stop(actor: Recorder = actor) -> None:
            await spin(chance.randrange(12))
            await actor.stop()

        tasks = [asyncio.ensure_future(send()), asyncio.ensure_future(stop()), asyncio.ensure_future(stop())]
        if chance.random() < 0.2:
            await spin(chance.randrange(6))
            chance.choice(tasks[1:]).cancel()
        await asyncio.wait(tasks)
        await actor.stop()
        assert actor.stops == 1
        for answer in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(answer, str):
                answered += 1
            else:
                assert isinstance(answer, ActorStoppedError)
                refused += 1
    assert answered > 500
    assert asyncio.all_tasks() == before


_RUNTIMES = """
    import asyncio, random, sys, threading
    import parkit_async
    from parkit_async.actor import ActorStoppedError

    uvloop = sys.argv[1] == "uvloop"
    if uvloop:
        from uvloop import new_event_loop
    else:
        from asyncio import new_event_loop
    chance = random.Random(1)
    told = stored = 0

    async def writer(d, key):
        global told
        while True:
            await d.set(key, told)
            told += 1

    async def main():
        d = parkit_async.Dict("ns/d")
        tasks = [asyncio.ensure_future(writer(d, key)) for key in range(3)]
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        if chance.random() < 0.5:
            stops = [asyncio.ensure_future(parkit_async.aclose()) for _ in range(2)]
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        # The loop's end cancels whatever has been started, at its very first step, too.

    for _ in range(500):
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)
            assert not thread.is_alive(), thread
    print("ended", told > 0)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_runtime_stops_at_any_moment(run_script: RunScript, loop: str) -> None:
    finished = run_script(_RUNTIMES, loop, timeout=90, env={"PYTHONWARNINGS": "error"})
    assert finished.stdout == "ended True\n"
    assert finished.stderr == ""
