"""Ctrl-C at chosen moments of the loop's thread: those that a search (``faults/interrupts``) seldom meets, as another thread must be somewhere."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import parkit
import parkit_async as pa
from parkit_async._core.namespace import Namespace
from parkit_async._core.registry import open_namespace
from parkit_async._core.turns import Operation, Request
from parkit_async.coordinator import Chores, Coordinator, Reply
from parkit_async.runtime import current_runtime
from tests.loops.harness import PATIENCE, free, holding_thread, until

NAME = "interrupted"


def in_line() -> bool:
    return len(open_namespace(NAME).turns) == 1


class Once:
    """Calls a function, and interrupts the first call in the main thread: before it, or behind it."""

    def __init__(self, function: Any, behind: bool) -> None:
        self._function = function
        self._behind = behind
        self.armed = True

    def __get__(self, instance: Any, owner: type) -> Any:
        def call(*arguments: Any) -> Any:
            interrupts = self.armed and threading.current_thread() is threading.main_thread()
            if interrupts:
                self.armed = False
                if not self._behind:
                    raise KeyboardInterrupt
            result = self._function(instance, *arguments)
            if interrupts:
                raise KeyboardInterrupt
            return result

        return call


async def transact(stock: pa.Dict[str, int]) -> None:
    async with pa.transaction(stock):
        await stock.set("tea", 1)


@pytest.mark.usefixtures("level")
def test_a_grant_that_is_interrupted_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    parkit.Dict(f"{NAME}/stock")
    monkeypatch.setattr(Coordinator, "_granted", Once(Coordinator._granted, behind=False))

    async def main(let_go: Any) -> None:
        transacting = asyncio.ensure_future(transact(pa.Dict(f"{NAME}/stock")))
        await until(in_line)
        let_go()
        await transacting

    with holding_thread(NAME) as let_go, pytest.raises(KeyboardInterrupt):
        asyncio.run(main(let_go))
    free(NAME)


@pytest.mark.usefixtures("full")
def test_a_write_that_was_revoked_as_the_interrupt_came_is_not_reported_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    parkit.Dict(f"{NAME}/stock")
    monkeypatch.setattr(Operation, "revoke", Once(Operation.revoke, behind=True))
    stock: pa.Dict[str, int] = pa.Dict(f"{NAME}/stock")
    done = []

    async def main() -> None:
        async def set_one() -> None:
            await stock.set("tea", 1)
            done.append("tea")

        setting = asyncio.ensure_future(set_one())
        await until(in_line)
        setting.cancel()

    with holding_thread(NAME), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    free(NAME)

    async def look() -> bool:
        return await stock.contains("tea")

    assert done == [] and not asyncio.run(look())


@pytest.mark.usefixtures("full")
def test_a_batch_that_is_done_while_its_start_is_interrupted_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed, go_on, done, answer = (threading.Event() for _ in range(4))
    commit, post, cancel = Namespace.commit, Coordinator._post_answers, Reply.cancel
    cancelled = []

    def slow_commit(self: Namespace, *arguments: Any) -> None:
        claimed.set()
        assert go_on.wait(PATIENCE)
        commit(self, *arguments)

    def late_answers(self: Coordinator, answered: Any) -> None:
        done.set()
        assert answer.wait(PATIENCE)
        post(self, answered)

    def cancel_as_it_ends(self: Reply, msg: Any = None) -> bool:
        cancelled.append(cancel(self, msg))
        if len(cancelled) == 2:
            go_on.set()
            assert done.wait(PATIENCE)
        return cancelled[-1]

    def woken(self: Coordinator, *arguments: Any) -> None:
        wake(self, *arguments)
        monkeypatch.setattr(Coordinator, "_woken", wake)
        assert claimed.wait(PATIENCE)
        raise KeyboardInterrupt

    wake = Coordinator._woken
    loop = asyncio.new_event_loop()
    stock: pa.Dict[str, int] = pa.Dict(f"{NAME}/stock")
    loop.run_until_complete(stock.set("tea", 0))
    for home, name, call in (
        (Namespace, "commit", slow_commit),
        (Coordinator, "_post_answers", late_answers),
        (Reply, "cancel", cancel_as_it_ends),
        (Coordinator, "_woken", woken),
    ):
        monkeypatch.setattr(home, name, call)

    async def set_three() -> list[Any]:
        return await asyncio.gather(*(stock.set(name, 1) for name in ("one", "two", "three")), return_exceptions=True)

    setting = loop.create_task(set_three())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(setting)
    answer.set()
    assert loop.run_until_complete(asyncio.wait_for(setting, PATIENCE)) == [None, None, None]
    loop.run_until_complete(pa.aclose())
    loop.close()
    free(NAME)


@pytest.mark.usefixtures("full")
def test_a_reclaim_that_is_woken_twice_runs_once() -> None:
    async def main() -> None:
        big: pa.Dict[str, int] = pa.Dict(f"{NAME}/big")
        await big.update({str(number): number for number in range(1500)})
        namespace = open_namespace(NAME)
        reclaiming = current_runtime().coordinator(namespace)
        request = Request(reclaiming._reclaim_later, None)
        with holding_thread(NAME) as let_go:
            assert not namespace.turns.enqueue(request)
            reclaiming.tell(Chores())
            let_go()
        await until(lambda: request.granted)
        reclaiming._reclaim_later(request)  # as an interrupt between the wake and the note of it has it done
        await until(lambda: namespace.turns.holder is None)
        await big.set("more", 1)

    asyncio.run(main())
    free(NAME)
