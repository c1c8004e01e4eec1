"""Give out views on LMDB's map that cannot outlive the read transaction they belong to.

A memoryview that LMDB returns is a bare address. Once the read transaction has ended, its pages are written again by others, and the view
shows other data, without a word. So under ``zero_copy`` nothing but views made by a :class:`ViewScope` leaves the core::

    memoryview, ndarray, slice of either  ──►  export  ──►  lease  ◄──  scope, until closed
    (the user's)                               (ours)        ▲
    revoked ndarray  ────────────────────────────────────────┘
                                              last reference gone: release()

Invariants:

- ``release()``, which ends the transaction, runs once: after ``close()`` (or the loss of the scope), and when no view, and nothing made from
  a view, is left. Reference counts decide that, so nothing is forgotten: not a slice, not a buffer lent to C code, not a running computation.
- ``close()`` makes every use of what was handed out an error, as far as Python allows. What it cannot revoke keeps its value.
- A forked child never calls ``release()``: the transaction is its parent's.
"""

from __future__ import annotations

import pickle
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import fork
from .errors import ContextError

if TYPE_CHECKING:
    import ctypes

__all__ = ["ViewScope"]


class _Lease:
    """The right to read the map: dies with its last holder, and with it the transaction."""

    __slots__ = ("__weakref__",)


class ViewScope:
    """The views handed out in one read transaction.

    Any thread may call its methods, and a view may be dropped in any thread; ``release`` is then called there, possibly by the garbage
    collector, so it must neither wait nor take a lock that is held while Python code runs.

    After :meth:`close`:

    - A memoryview raises ValueError at every access.
    - A tracked ndarray has become a 0-d array that holds a tombstone. Arithmetic, comparison, ``mean``, ``std``, ``astype``,
      ``np.asarray(a, float)``, ``bool``, ``float``, ``str``, ``in`` and pickling raise ContextError. Indexing raises IndexError; ``len``,
      iteration and functions such as ``sqrt`` TypeError; joining, ``matmul`` and assignment ValueError. ``sum``, ``min``, ``item``, ``copy``,
      ``a[()]`` and reshaping give the tombstone back, alone or in an array, and any use of that raises. ``repr`` says what happened.
    - Raise nothing: ``shape``, ``size``, ``nbytes``, ``argmax``, ``argmin``, ``argsort``, ``tobytes`` and a buffer newly taken of such an array. They
      describe the array that holds the tombstone, and touch neither the old value nor the map.
    - Not revoked: what was derived from a view (slices and reshapes of an array or memoryview, ndarray subclasses over it, arrays made by
      hand with ``np.frombuffer``, a buffer held by another library). It goes on showing the value it showed: the transaction is kept
      open for it, and a ResourceWarning says so.
    - A revoked array that is still referenced keeps the transaction open too, but silently (usually it is a local variable about to go):
      a buffer it lent, or a subclass over it, would point into the map, and cannot be seen from here.

    Args:
        release: Ends the read transaction. Called once; not at all in a forked child or when the interpreter is shutting down.
    """

    __slots__ = ("__weakref__", "_arrays", "_exports", "_finalizer", "_generation", "_lease", "_views")

    def __init__(self, release: Callable[[], None]) -> None:
        lease = _Lease()
        self._lease: _Lease | None = lease
        self._generation = fork.generation()
        self._finalizer = weakref.finalize(lease, _end, release, self._generation)
        self._finalizer.atexit = False  # at exit the process takes its transactions with it
        # By id, and weakly: a long snapshot may hand out any number of views, and they are neither hashable nor cheap to compare.
        self._exports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._views: weakref.WeakValueDictionary[int, memoryview] = weakref.WeakValueDictionary()
        self._arrays: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._lease is None

    @property
    def released(self) -> bool:
        """Whether the transaction has ended. False in a closed scope means that something of it is still referenced."""
        return not self._finalizer.alive

    def view(self, raw: memoryview) -> memoryview:
        """Return a read-only view of ``raw``, of single bytes and without a copy, which the scope can revoke.

        Raises:
            ContextError: The scope is closed.
        """
        lease = self._lease
        if lease is None:
            raise ContextError("No view can be taken: the transaction or snapshot it would belong to has ended")
        if not raw.nbytes:
            return memoryview(b"")
        export = _export(raw)
        export.lease = lease
        export.raw = raw  # whatever keeps the memory of ``raw`` in place goes on doing so
        view = pickle.PickleBuffer(export).raw().toreadonly()
        self._exports[id(export)] = export
        self._views[id(view)] = view
        if self._lease is None:  # closed by another thread meanwhile, which may have missed this view
            view.release()
            raise ContextError("No view can be taken: the transaction or snapshot it would belong to was ended by another thread")
        return view

    def track(self, array: object) -> None:
        """Have ``array``, if it is a numpy array, revoked by :meth:`close`. It must have been made directly on a view of this scope."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(array) is numpy.ndarray:
            self._arrays[id(array)] = array

    def close(self) -> None:
        """Revoke what was handed out, and end the transaction: now if nothing refers to it any more, else when the last reference goes.

        Closing again does nothing. In a forked child the child's copies are revoked, the transaction is left alone.

        Warns:
            ResourceWarning: Something derived from a view is still alive and readable, and keeps the transaction open.
        """
        lease, self._lease = self._lease, None
        if lease is None:
            return
        self._withdraw(lease)
        del lease  # before the warning, which as an error would keep this frame, and the transaction with it
        readable = len(self._exports)
        if readable and fork.generation() == self._generation:
            warnings.warn(
                f"A transaction or snapshot with zero_copy=True has ended, but {readable} of the buffers it gave out can still be read, through "
                "slices or other objects made from them; they keep their value, and the transaction stays open until they are gone, which keeps "
                "the pages of its state from being used again. Copy what must outlive the transaction",
                ResourceWarning,
                stacklevel=2,
            )

    def _withdraw(self, lease: _Lease) -> None:
        for array in list(self._arrays.values()):  # before the views, which cannot be released while arrays use them
            _revoke(array, lease)
        for view in list(self._views.values()):
            try:
                view.release()
            except BufferError:
                continue  # lent to something that reads it: the transaction waits for that


def _end(release: Callable[[], None], generation: int) -> None:
    if fork.generation() == generation:
        release()


# -- exports


def _export(raw: memoryview) -> Any:
    """Return an object that owns no memory, exports that of ``raw`` as a buffer, and can be referred to weakly."""
    import ctypes

    address = _address(ctypes, raw)
    return (ctypes.c_ubyte * raw.nbytes).from_address(address)


_buffer_type: type[ctypes.Structure] | None = None


def _address(ctypes: Any, raw: memoryview) -> int:
    """Return where the memory of ``raw`` begins. ctypes itself gives that for writable buffers only, so the C API is asked."""
    global _buffer_type
    if _buffer_type is None:

        class Buffer(ctypes.Structure):  # type: ignore[misc]
            """Py_buffer, as the stable ABI lays it out."""

            _fields_ = (
                ("buf", ctypes.c_void_p),
                ("obj", ctypes.py_object),
                ("len", ctypes.c_ssize_t),
                ("itemsize", ctypes.c_ssize_t),
                ("readonly", ctypes.c_int),
                ("ndim", ctypes.c_int),
                ("format", ctypes.c_char_p),
                ("shape", ctypes.c_void_p),
                ("strides", ctypes.c_void_p),
                ("suboffsets", ctypes.c_void_p),
                ("internal", ctypes.c_void_p),
            )

        _buffer_type = Buffer
    buffer: Any = _buffer_type()
    simple = 0  # PyBUF_SIMPLE: contiguous bytes, or a BufferError
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(raw), ctypes.byref(buffer), simple)
    try:
        return int(buffer.buf)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


# -- tombstones


def _revoke(array: Any, lease: _Lease) -> None:
    """Turn ``array`` into a 0-d array that holds a tombstone.

    The array lets go of its buffer, but its tombstone holds the lease: a buffer lent by the array itself, a subclass over it, or a computation of
    another thread still points into the map, and refers to nothing but the array.
    """
    numpy = sys.modules["numpy"]
    array.__setstate__((1, (), numpy.dtype(object), False, [_Tombstone(lease)]))
    array.flags.writeable = False


def _ended(*_: object) -> Any:
    raise ContextError(
        "The array was a view of a transaction or snapshot with zero_copy=True, which has ended; copy what must outlive it, or read without zero_copy"
    )


class _Tombstone:
    """What is left in a revoked array: every operation on it raises ContextError, except repr, which debuggers and logs rely on."""

    __slots__ = ("_lease",)

    def __init__(self, lease: _Lease) -> None:
        object.__setattr__(self, "_lease", lease)

    def __repr__(self) -> str:
        return "<view of a transaction that has ended>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # probing for protocols, which numpy and copy do at every turn
            raise AttributeError(name)
        _ended()


# Neither __getitem__ nor __len__: with them numpy takes the tombstone for a sequence, and complains of that instead.
_OPERATIONS: Final = (
    "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor",
    "lt le gt ge eq ne hash bool int float complex index neg pos abs invert round",
    "iter contains call str format setattr delattr reduce reduce_ex copy deepcopy",
)
for _name in " ".join(_OPERATIONS).split():
    setattr(_Tombstone, f"__{_name}__", _ended)
for _name in _OPERATIONS[0].split():
    setattr(_Tombstone, f"__r{_name}__", _ended)
del _name
