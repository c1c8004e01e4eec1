"""A namespace whose environment is replaced, or outgrown by another process, under whoever uses it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import lmdb
import pytest

from parkit import Dict, TransactionError, transaction
from parkit_async._core.namespace import Namespace
from parkit_async._core.ownership import contexts
from parkit_async._core.registry import open_namespace
from parkit_async._core.transactions import Reading

LARGE = bytes(100_000)


@pytest.fixture(autouse=True)
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on the level."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")


@pytest.fixture
def d() -> Dict[Any, Any]:
    d = Dict[Any, Any]("ns/d")
    d["a"] = 1
    return d


@pytest.fixture
def namespace(d: Dict[Any, Any]) -> Namespace:
    return open_namespace("ns")


def elsewhere(function: Callable[[], object]) -> None:
    """Call ``function`` in another process."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def outgrow(namespace: Namespace, d: Dict[Any, Any], key: str) -> None:
    """Have another process store more than this one has mapped, which a limit on its address space keeps small."""
    environment = namespace.engine.environment
    environment.set_mapsize(1)  # as much as is used
    elsewhere(lambda: d.set(key, LARGE))
    with pytest.raises(lmdb.MapResizedError):
        environment.begin()
    namespace.engine.map_size = environment.info()["map_size"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_has_outgrown_the_map_is_mapped_anew_by_whatever_comes_first(namespace: Namespace, d: Dict[Any, Any]) -> None:
    def change_it_in_a_transaction() -> None:
        with transaction(d):
            d["a"] = 3

    uses: dict[str, tuple[Callable[[], object], int]] = {
        "read": (lambda: d["a"], 1),
        "write": (lambda: d.set("a", 2), 2),
        "transaction": (change_it_in_a_transaction, 3),
    }
    for name, (use, found) in uses.items():
        outgrow(namespace, d, name)
        use()
        assert d["a"] == found and d[name] == LARGE
        assert namespace.engine.map_size > 1 << 30


class Failing:
    """``begin`` of an environment that cannot begin anything for some time."""

    def __init__(self, namespace: Namespace, error: lmdb.Error, failures: int) -> None:
        self._begin = namespace.begin
        self._error = error
        self.failures = failures
        namespace.begin = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise self._error
        return self._begin(*arguments, **options)


def test_a_map_that_others_enlarge_at_each_look_is_an_error_in_the_end(namespace: Namespace) -> None:
    failing = Failing(namespace, lmdb.MapResizedError("once more"), 100)
    with pytest.raises(TransactionError, match="reading in namespace 'ns' failed: once more"):
        namespace.snapshot(None)
    assert failing.failures == 90
    failing.failures = 9
    namespace.snapshot(None).end()
    assert failing.failures == 0


def test_a_transaction_that_cannot_be_begun_is_a_TransactionError_and_keeps_nobody_waiting(namespace: Namespace, d: Dict[Any, Any]) -> None:
    failing = Failing(namespace, lmdb.MemoryError("no memory"), 2)
    with pytest.raises(TransactionError, match="beginning a transaction in namespace 'ns' failed: no memory"), transaction(d):
        raise AssertionError("it was begun")
    with pytest.raises(TransactionError, match="writing in namespace 'ns' failed: no memory"):
        d["a"] = 2
    assert failing.failures == 0 and namespace.turns.holder is None
    d["a"] = 3
    assert d["a"] == 3


def test_a_transaction_that_nobody_leaves_is_rolled_back_when_its_context_manager_goes(namespace: Namespace, d: Dict[Any, Any]) -> None:
    # Ctrl-C can come between the end of the block and the first step of `__exit__`.
    d["raw"] = pickle.PickleBuffer(LARGE)
    context = transaction(d, zero_copy=True)
    context.__enter__()
    view = d["raw"]
    assert bytes(view) == LARGE
    d["a"] = 2
    del context
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    assert namespace.turns.holder is None and namespace.pinned() == [] and not contexts
    d["b"] = 3
    assert set(d) == {"raw", "a", "b"} and d["a"] == 1


def test_a_map_that_cannot_be_replaced_is_a_TransactionError(namespace: Namespace, d: Dict[Any, Any]) -> None:
    with namespace.engine.begin_write(), pytest.raises(TransactionError, match="mapping in namespace 'ns' failed"):
        namespace.remap()
    d["a"] = 2
    assert d["a"] == 2


def test_a_read_under_which_another_thread_opens_the_files_anew_is_made_again(namespace: Namespace) -> None:
    engines = []

    def read(reading: Reading) -> Any:
        engines.append(namespace.engine)
        if len(engines) == 1:
            with namespace._opening:
                namespace._reopen("off")
        return reading.transaction.stat()["entries"]

    assert namespace.read(read) > 0
    assert len(engines) == 2 and engines[0].closed and engines[1] is namespace.engine


def test_a_read_that_fails_for_good_is_a_TransactionError(namespace: Namespace) -> None:
    calls = []

    def read(reading: Reading) -> Any:
        calls.append(reading)
        reading.transaction.abort()
        return reading.transaction.get(b"a")

    with pytest.raises(TransactionError, match="reading in namespace 'ns' failed") as caught:
        namespace.read(read)
    assert isinstance(caught.value.__cause__, lmdb.Error) and len(calls) == 1
