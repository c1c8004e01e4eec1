"""Views on a real map: no copy while the transaction lasts, an error afterwards, and never another value."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from parkit_async._core import fork, views
from parkit_async._core.codecs import decode, encode, encode_keyed, raw_codec
from parkit_async._core.errors import ContextError
from parkit_async._core.views import ViewScope

SIZE = 64 * 1024


class Store:
    """An environment, and read transactions whose ends are counted."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.environment = lmdb.open(self.path, map_size=1 << 26, sync=False)
        self.ended = 0

    def put(self, key: bytes, frame: bytes) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(key, frame)

    def overwrite(self, times: int = 30) -> None:
        """Have another process write every page that may be written, many times over."""
        script = (
            "import sys, lmdb\n"
            "environment = lmdb.open(sys.argv[1], map_size=1 << 26, sync=False)\n"
            f"for n in range({times}):\n"
            "    with environment.begin(write=True) as transaction:\n"
            f"        transaction.put(b'a', bytes([0xA0 + n]) * ({SIZE} * 8 + 4096))\n"
            "environment.close()\n"
        )
        subprocess.run([sys.executable, "-c", script, self.path], check=True)

    def read(self, key: bytes) -> tuple[ViewScope, memoryview]:
        transaction = self.environment.begin(buffers=True)

        def release() -> None:
            self.ended += 1
            transaction.abort()

        raw = transaction.get(key)
        assert raw is not None
        return ViewScope(release), raw


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    gc.collect()
    store.environment.close()


def load(scope: ViewScope, raw: memoryview) -> Any:
    return decode(raw, view=scope.view, track=scope.track)


def address_of(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


# -- while the transaction lasts


@pytest.mark.parametrize("full_key", [None, b"k" * 700])
def test_arrays_are_aligned_read_only_and_not_copied(store: Store, full_key: bytes | None) -> None:
    value: list[Any] = [np.arange(SIZE, dtype=np.float64), np.ones((300, 7), np.uint8), np.arange(5)]
    store.put(b"a", encode_keyed(value, None, full_key))
    scope, raw = store.read(b"a")
    start = address_of(raw)
    arrays = load(scope, raw)
    for array, original in zip(arrays, value, strict=True):
        assert np.array_equal(array, original)
        assert array.ctypes.data % 64 == 0
        assert start <= array.ctypes.data < start + raw.nbytes
        assert not array.flags.writeable
        assert np.shares_memory(array, np.frombuffer(raw, np.uint8))
    del arrays, array
    scope.close()
    assert store.ended == 1


def test_raw_bytes_are_aligned_read_only_and_not_copied(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    view = load(scope, raw)
    assert type(view) is memoryview
    assert view.readonly
    assert (view.format, view.ndim, view.nbytes) == ("B", 1, SIZE)
    assert address_of(view) % 64 == 0
    assert address_of(raw) < address_of(view) < address_of(raw) + raw.nbytes
    assert view == b"x" * SIZE
    scope.close()
    assert store.ended == 1


def test_empty_and_plain_values_need_no_export(store: Store) -> None:
    store.put(b"a", encode([np.zeros(0), "text"]))
    scope, raw = store.read(b"a")
    array, text = load(scope, raw)
    assert (array.size, text) == (0, "text")
    assert bytes(scope.view(raw[:0])) == b""
    scope.close()
    del array
    assert store.ended == 1


# -- after it


def test_a_memoryview_raises_after_close(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    view = load(scope, raw)
    scope.close()
    for access in (lambda: view[0], lambda: bytes(view), lambda: view[1:], lambda: np.frombuffer(view, np.uint8), lambda: view.tolist()):
        with pytest.raises(ValueError, match="released"):
            access()
    assert scope.released
    assert store.ended == 1


@pytest.fixture
def revoked(store: Store) -> Any:
    store.put(b"a", encode({"a": [np.arange(SIZE, dtype=np.float64).reshape(8, -1)]}))
    scope, raw = store.read(b"a")
    array = load(scope, raw)["a"][0]
    assert array[7, -1] == SIZE - 1
    scope.close()
    assert (scope.closed, scope.released) == (True, False)
    return array


ours: dict[str, Callable[[Any], object]] = {
    "add": lambda a: a + 1,
    "radd": lambda a: 1 + a,
    "mul": lambda a: a * np.ones(SIZE // 8),
    "neg": lambda a: -a,
    "pow": lambda a: a**2,
    "eq": lambda a: a == 1,
    "ne": lambda a: a != 1,
    "lt": lambda a: a < 1,
    "array_equal": lambda a: np.array_equal(a, a),
    "allclose": lambda a: np.allclose(a, 1),
    "mean": lambda a: a.mean(),
    "std": lambda a: a.std(),
    "any": lambda a: a.any(),
    "astype": lambda a: a.astype(float),
    "asarray": lambda a: np.asarray(a, float),
    "where": lambda a: np.where(a, 1, 2),
    "bool": bool,
    "float": float,
    "int": int,
    "str": str,
    "format": lambda a: f"{a:.2f}",
    "in": lambda a: 1 in a,
    "pickle": lambda a: pickle.dumps(a, 5),
    "encode": encode,
    "sum, used": lambda a: a.sum() + 0,
    "min, used": lambda a: a.min() < 0,
    "max, used": lambda a: float(a.max()),
    "item, used": lambda a: a.item().real,
    "copy, used": lambda a: a.copy() + 1,
    "ravel, used": lambda a: a.ravel() + 1,
    "T, used": lambda a: a.T * 2,
    "element, used": lambda a: round(a[()]),
    "element, hashed": lambda a: {a[()]},
    "element, iterated": lambda a: list(a[()]),
}


@pytest.mark.parametrize("operation", ours.values(), ids=ours)
def test_an_array_raises_context_error_after_close(revoked: Any, operation: Callable[[Any], object]) -> None:
    with pytest.raises(ContextError, match="has ended"):
        operation(revoked)


numpys: dict[str, tuple[type[Exception], Callable[[Any], object]]] = {
    "index": (IndexError, lambda a: a[0]),
    "indices": (IndexError, lambda a: a[0, 0]),
    "slice": (IndexError, lambda a: a[1:]),
    "mask": (IndexError, lambda a: a[np.ones(8, bool)]),
    "len": (TypeError, len),
    "iter": (TypeError, list),
    "sqrt": (TypeError, np.sqrt),
    "matmul": (ValueError, lambda a: a @ a),
    "sort": (ValueError, np.sort),
    "concatenate": (ValueError, lambda a: np.concatenate([a, a])),
    "view": (TypeError, lambda a: a.view(np.uint8)),
    "assign": (ValueError, lambda a: a.__setitem__((), 1)),
    "out": (ValueError, lambda a: np.add(1, 1, out=a, casting="unsafe")),
}


@pytest.mark.parametrize(("error", "operation"), numpys.values(), ids=numpys)
def test_an_array_raises_numpys_own_errors_after_close(revoked: Any, error: type[Exception], operation: Callable[[Any], object]) -> None:
    with pytest.raises(error):
        operation(revoked)


def test_what_a_revoked_array_gives_back_has_no_attributes(revoked: Any) -> None:
    left = revoked.item()
    with pytest.raises(ContextError, match="has ended"):
        left.size
    assert not hasattr(left, "__array_interface__")


def test_repr_of_a_revoked_array_tells_what_happened(revoked: Any) -> None:
    assert repr(revoked) == "array(<view of a transaction that has ended>, dtype=object)"


def test_a_revoked_array_pins_the_transaction_until_it_goes(store: Store, revoked: Any) -> None:
    # It may have lent its buffer, which nobody can tell. The fixture still refers to it, hence the array of our own.
    store.put(b"b", encode(np.arange(SIZE)))
    scope, raw = store.read(b"b")
    array = load(scope, raw)
    scope.close()
    assert store.ended == 0
    del array
    assert store.ended == 1
    assert scope.released


def test_an_array_that_is_gone_leaves_nothing(store: Store) -> None:
    store.put(b"a", encode(np.arange(SIZE)))
    scope, raw = store.read(b"a")
    assert load(scope, raw)[3] == 3
    assert store.ended == 0
    scope.close()
    assert store.ended == 1


# -- what cannot be revoked keeps its value

derivations: dict[str, Callable[[Any], Any]] = {
    "slice": lambda a: a[1:],
    "reshape": lambda a: a.reshape(4, -1),
    "slice of a slice": lambda a: a[1:][1:],
    "frombuffer": lambda a: np.frombuffer(a, np.uint8),
}


@pytest.mark.parametrize("derive", derivations.values(), ids=derivations)
def test_a_derived_array_keeps_its_value(store: Store, derive: Callable[[Any], Any]) -> None:
    value = np.arange(SIZE)
    expected = derive(value).copy()
    store.put(b"a", encode(value))
    scope, raw = store.read(b"a")
    derived = derive(load(scope, raw))
    where = derived.ctypes.data
    before = ctypes.string_at(where, 4096)
    with pytest.warns(ResourceWarning, match="1 of the buffers it gave out can still be read"):
        scope.close()
    store.overwrite()
    assert np.array_equal(derived, expected)
    assert (scope.closed, scope.released, store.ended) == (True, False, 0)
    del derived
    assert (scope.released, store.ended) == (True, 1)
    store.overwrite()
    assert ctypes.string_at(where, 4096) != before  # else the test proves nothing: these pages do get written once nobody reads them


class Subclass(np.ndarray[Any, Any]):
    pass


lendings: dict[str, Callable[[Any], Any]] = {
    "memoryview": memoryview,
    "PickleBuffer": pickle.PickleBuffer,
    "subclass": lambda a: a.view(Subclass),
    "flat": lambda a: a.flat,
    "nditer": lambda a: np.nditer(a),
}


@pytest.mark.parametrize("lend", lendings.values(), ids=lendings)
def test_what_an_array_lent_keeps_the_transaction(store: Store, lend: Callable[[Any], Any]) -> None:
    value = np.arange(SIZE)
    store.put(b"a", encode(value))
    scope, raw = store.read(b"a")
    lent = lend(load(scope, raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        scope.close()
    store.overwrite()
    if isinstance(lent, (memoryview, Subclass)):  # which point into the map; the others ask the array anew, or have no bytes to show
        assert np.array_equal(np.frombuffer(lent, value.dtype), value)
    assert store.ended == 0
    del lent
    assert store.ended == 1


def test_a_slice_of_a_memoryview_keeps_its_value(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    view = load(scope, raw)
    part, array = view[10:20], np.frombuffer(view, np.uint8)
    with pytest.warns(ResourceWarning):
        scope.close()
    store.overwrite()
    assert part == b"x" * 10
    assert (array == ord("x")).all()
    del part, view
    assert store.ended == 0
    del array
    assert store.ended == 1


def test_a_buffer_made_of_a_view_by_hand_keeps_its_value(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    view = load(scope, raw)
    taken = memoryview(view), pickle.PickleBuffer(view)
    with pytest.warns(ResourceWarning, match="1 of the buffers"):
        scope.close()
    store.overwrite(3)
    assert bytes(taken[0]) == bytes(taken[1]) == b"x" * SIZE
    del view, taken
    assert store.ended == 1


def test_a_subclass_of_an_array_is_not_revoked_if_it_is_tracked(store: Store) -> None:
    store.put(b"a", encode(np.arange(SIZE)))
    scope, raw = store.read(b"a")
    tracked = np.frombuffer(scope.view(raw)[-8 * SIZE :], np.int64).view(Subclass)
    scope.track(tracked)
    with pytest.warns(ResourceWarning):
        scope.close()
    assert len(tracked) == SIZE
    del tracked
    assert store.ended == 1


def test_the_warning_as_an_error_comes_after_the_work(store: Store) -> None:
    store.put(b"a", encode([np.arange(SIZE), b""]))
    scope, raw = store.read(b"a")
    array = load(scope, raw)[0]
    part = array[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning) as caught:
            scope.close()
    with pytest.raises(ContextError):
        array + 1
    del part, array
    assert store.ended == 1
    assert caught.value is not None  # even while the error, and with it the frame of close, is kept


# -- the end


def test_a_view_that_is_taken_while_another_thread_closes_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    export = views._export

    def meanwhile(raw: memoryview) -> Any:
        thread = threading.Thread(target=scope.close)
        thread.start()
        thread.join()
        return export(raw)

    monkeypatch.setattr(views, "_export", meanwhile)
    with pytest.raises(ContextError, match="was ended by another thread"):
        load(scope, raw)
    assert scope.released and store.ended == 1


def test_close_is_idempotent_and_final(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, _ = store.read(b"a")
    scope.close()
    scope.close()
    assert store.ended == 1
    with pytest.raises(ContextError, match="has ended"):
        scope.view(memoryview(b"abc"))


def test_a_lost_scope_ends_the_transaction_after_its_views(store: Store) -> None:
    store.put(b"a", encode(b"x" * SIZE, raw_codec))
    scope, raw = store.read(b"a")
    view = load(scope, raw)
    del scope
    assert (view[0], store.ended) == (ord("x"), 0)
    del view
    assert store.ended == 1


def test_views_in_a_cycle_are_collected(store: Store) -> None:
    store.put(b"a", encode(np.arange(SIZE)))
    scope, raw = store.read(b"a")
    cycle: list[Any] = [load(scope, raw)[1:]]
    cycle.append(cycle)
    with pytest.warns(ResourceWarning):
        scope.close()
    del cycle
    assert store.ended == 0
    gc.collect()
    assert store.ended == 1


def test_dropped_views_leave_no_trace(store: Store) -> None:
    store.put(b"a", encode([np.arange(SIZE), pickle.PickleBuffer(b"x" * SIZE)]))
    scope, raw = store.read(b"a")
    for _ in range(100):
        load(scope, raw)
    assert (len(scope._exports), len(scope._views), len(scope._arrays)) == (0, 0, 0)
    scope.close()


def test_views_may_be_dropped_in_any_thread(store: Store) -> None:
    store.put(b"a", encode(np.arange(SIZE)))
    scope, raw = store.read(b"a")
    barrier = threading.Barrier(5)
    wrong: list[int] = []

    def reader(parts: list[Any]) -> None:
        barrier.wait()
        if parts[0][0] != 1:
            wrong.append(1)
        parts.clear()

    threads = []
    for _ in range(4):
        threads.append(threading.Thread(target=reader, args=([load(scope, raw)[1:]],)))
        threads[-1].start()
    with pytest.warns(ResourceWarning, match="4 of the buffers"):
        scope.close()
    assert store.ended == 0
    barrier.wait()
    for thread in threads:
        thread.join()
    del thread, threads
    assert (wrong, store.ended) == ([], 1)


def test_many_threads_close_once(store: Store) -> None:
    store.put(b"a", encode(np.arange(SIZE)))
    for turn in range(20):
        scope, raw = store.read(b"a")
        array = load(scope, raw)
        barrier = threading.Barrier(4)

        def close(scope: ViewScope = scope, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            scope.close()

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del array
        assert store.ended == turn + 1


def test_a_forked_child_leaves_the_transaction_alone(store: Store) -> None:
    store.put(b"a", encode([np.arange(SIZE), pickle.PickleBuffer(b"x" * SIZE)]))
    scope, raw = store.read(b"a")
    array, view = load(scope, raw)
    part = array[1:]
    generation = fork.generation()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                scope.close()
            del array, part, view
            gc.collect()
            code = 0 if store.ended == 0 and fork.generation() == generation + 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (array[5], part[0], view[0], store.ended) == (5, 1, ord("x"), 0)
    del array, part, view
    scope.close()
    assert store.ended == 1
