"""What happens to a process, transaction by transaction: also when two come at once, and where what is stored is damaged. The test is the worker."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import parkit
import parkit_async
from parkit import CodecError, ObjectNotFoundError, Process, ProcessError, TransactionError
from parkit_async._core import codecs, paths, process_ops
from parkit_async._core.layout import PROCESSES, RUNNING, call_key, outcome_key, process_key, run_key
from parkit_async._core.process_ops import Claim, Run
from parkit_async._core.registry import open_namespace
from parkit_async._core.shared import SharedTable, TableFullError
from parkit_async._core.supervision import SupervisorLock


@pytest.fixture(autouse=True)
def supervised(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody runs what is started, and nobody is started to do so."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    lock = SupervisorLock(str(paths.open_store(str(store))))
    assert lock.acquire()
    yield
    lock.release()


def write(operation: Callable[..., Any], *arguments: Any) -> Any:
    return open_namespace("ns").write_apart(operation, arguments)


def put(key: bytes, value: bytes | None) -> None:
    """Store anything, as a bad disk does; None deletes."""

    def spoil(writing: Any) -> None:
        writing.touched += 1
        if value is None:
            assert writing.transaction.delete(key)
        else:
            writing.transaction.put(key, value)

    write(spoil)


def at(key: bytes) -> bytes | None:
    """Return a copy of what is stored."""

    def look(reading: Any) -> bytes | None:
        raw = reading.transaction.get(key)
        return None if raw is None else bytes(raw)

    found: bytes | None = open_namespace("ns").read(look)
    return found


def has(key: bytes) -> bool:
    return at(key) is not None


def claim() -> Claim | None:
    found: Claim | None = write(process_ops.claim, "worker", os.getpid())
    return found


def id_of(process: Any) -> int:
    found: int = process._bound().object_id
    return found


def started(path: str, target: Callable[..., Any] = abs, *args: Any) -> Any:
    process = Process(path, target=target, args=args)
    process.start()
    return process


def test_of_two_that_create_one_process_the_first_says_what_it_calls(store: Path) -> None:
    """Both have looked before, and found nothing."""
    first, second = Process[int]("ns/p", target=abs, args=(-1,)), Process[int]("ns/other", target=len, args=("two",))
    create, _, *rest = second._creation()
    before = at(call_key(id_of(first)))
    with parkit.transaction(first):
        first["k"] = 1
        entry, created = open_namespace("ns").write(create, "p", *rest)
    assert not created and entry.uuid == first._bound().entry.uuid
    assert at(call_key(id_of(first))) == before is not None
    assert [process.path for process in parkit.processes()] == ["ns/p", "ns/other"]


def test_what_was_limited_since_its_creation_does_not_start(store: Path) -> None:
    process = Process("ns/p", target=abs, args=(-1,))
    parkit.set_namespace_codecs("ns", ["json"])
    with pytest.raises(CodecError, match="'ns' is limited to codecs that run no code, so nothing is run in it"):
        process.start()
    assert process.status == "created"


def test_what_a_worker_claims_during_a_drop_is_not_dropped(store: Path) -> None:
    process = started("ns/p")
    claim()
    with pytest.raises(ProcessError, match=rf"'ns/p' is running in process {os.getpid()}; terminate\(\) and join\(\) it first"):
        write(process_ops.drop, process._bound(), "p")
    assert process.status == "running" and process.exists
    assert write(process_ops.crash, process._bound(), "worker", -signal.SIGKILL)
    process.drop()
    assert not process.exists and not has(process_key(RUNNING, id_of(process)))


def test_a_process_whose_call_is_gone_keeps_no_worker_from_the_next_one(store: Path) -> None:
    damaged, next_one = started("ns/damaged"), started("ns/next")
    put(call_key(id_of(damaged)), None)
    found = claim()
    assert found is not None and found.name == "next" and next_one.status == "running"
    assert claim() is None
    assert not open_namespace("ns").read(process_ops.anything_submitted)


def test_a_process_whose_state_is_gone_is_told_of(store: Path) -> None:
    damaged, other = started("ns/damaged"), started("ns/other")
    key = run_key(id_of(damaged))
    put(key, None)
    for look in (lambda: damaged.status, damaged.join, damaged.info, damaged.drop):
        with pytest.raises(TransactionError, match="the state of a process"):
            look()
    assert [process.path for process in parkit.processes()] == ["ns/other"]
    found = claim()
    assert found is not None and found.name == "other" and other.status == "running"


def test_a_list_that_names_what_is_not_there_is_read_past_it(store: Path) -> None:
    good = started("ns/good")
    put(process_key(PROCESSES, 1 << 40), b"0" * 32 + b"gone")
    put(process_key(PROCESSES, 1 << 41), b"0" * 32 + b"good")  # there is one of that name, but it is another
    for number in (40, 41):
        put(run_key(1 << number), Run().pack())
    assert list(parkit.processes()) == [good]


def test_a_damaged_error_is_told_of(store: Path) -> None:
    process = started("ns/p")
    found = claim()
    assert found is not None
    assert write(process_ops.finish, found.process, "worker", process_ops.FAILED, 1, codecs.encode("no record of an exception"))
    for look in (lambda: process.error, process.get_result):
        with pytest.raises(CodecError, match=r"'error' of 'ns/p' cannot be decoded: .*the record of an exception is damaged"):
            look()
    assert process.status == "failed" and has(outcome_key(id_of(process)))
    process.drop()
    assert not has(outcome_key(id_of(process)))


def test_the_sentinel_of_what_was_dropped_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, other = started("ns/p"), started("ns/other")
    Process("ns/p", create=False).drop()
    table = open_namespace("ns").table
    bells = set(os.listdir(store / "sockets"))
    with pytest.raises(ObjectNotFoundError) as caught:
        process.sentinel
    assert set(os.listdir(store / "sockets")) == bells, caught  # which keeps what was not closed
    assert not table.waiters({id_of(process): 0xFFFF})

    def full(*_: Any) -> None:
        raise TableFullError("no slot is free")

    with monkeypatch.context() as patched:
        patched.setattr(SharedTable, "register", full)
        with pytest.raises(TableFullError):
            other.sentinel
    assert other.sentinel >= 0
    other.terminate()
    other.close()


def test_a_pickle_of_what_was_never_made_does_not_make_it(store: Path) -> None:
    """It does not carry what to call, so that it could only make a process that calls nothing."""
    copy = pickle.loads(pickle.dumps(parkit_async.Process("ns/p", target=abs, args=(-1,))))

    async def start() -> None:
        await copy.start()

    with pytest.raises(ObjectNotFoundError, match="there is no object 'ns/p'"):
        asyncio.run(start())
    assert not list(parkit.processes())
