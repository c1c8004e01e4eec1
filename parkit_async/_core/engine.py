"""LMDB, as parkit uses it: the only module that imports it.

Decisions kept here:

* The map is a large reservation of address space (the file stays as small as its content), so that a namespace whose maximum size is
  raised, by this process or another, seldom needs a new map; a namespace's maximum is enforced by :mod:`.space`, not by the map. What
  lies between the two is the reserve from which deletes are served in a full namespace.
* The durability level is a property of the open environment: ``full`` syncs data and meta page at each commit, ``normal`` the data only,
  ``off`` neither. No level uses a writable map.
* ``lmdb.open`` itself may fail with MapResizedError while another process grows the map, so that is retried, too.
* LMDB's own errors are translated by :func:`translate`; none escapes from parkit.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import lmdb

from .allocation import allocate
from .errors import StoragePathError, TransactionError, remedy
from .private_files import open_file

__all__ = [
    "FSYNCS",
    "Engine",
    "EngineError",
    "MapFullError",
    "MapResizedError",
    "Reader",
    "Transaction",
    "Usage",
    "copy_settled",
    "last_commit",
    "library_version",
    "reader_lines",
    "settle_locks",
    "translate",
    "verify_file",
]

EngineError = lmdb.Error
MapFullError = lmdb.MapFullError
MapResizedError = lmdb.MapResizedError

PAGE: Final = 4096
MAX_READERS: Final = 2048
_LOCK_FILE: Final = 64 * MAX_READERS + 128
"""Bytes of the lock file as LMDB makes it: a cache line for each reader but one, and the head. Were it longer, there would be more readers."""
_AT_MAGIC: Final = 16
_MAGIC: Final = 0xBEEFC0DE
_AT_NUMBER: Final = 144
"""Where a meta page, of which there are two, has LMDB's mark, and the number of its transaction: 0 in the first one until the second commit."""
_BEGINNING: Final = 4 * PAGE
"""Bytes that a data file has at most when its first commit, which stores the namespace's record, is synchronized."""
RESERVE: Final = 64 << 20
"""Bytes beyond a namespace's maximum size that only deletes may use."""
RESERVATION: Final = 64 << 30
"""Address space asked for by default, in bytes."""

FSYNCS: Final = {"full": 2, "normal": 1, "off": 0}
"""Synchronous writes that one commit makes at each level: the data pages, and the meta page."""
LEVELS: Final = tuple(FSYNCS)


class Cursor(Protocol):
    """What operations need of a cursor over the ordered keyspace."""

    def set_range(self, key: bytes, /) -> bool: ...
    def set_key(self, key: bytes, /) -> bool: ...
    def prev(self) -> bool: ...
    def last(self) -> bool: ...
    def key(self) -> Any: ...
    def value(self) -> Any: ...
    def iternext(self, keys: bool = True, values: bool = True) -> Iterator[Any]: ...
    def iterprev(self, keys: bool = True, values: bool = True) -> Iterator[Any]: ...


class Transaction(Protocol):
    """What operations need of a transaction. LMDB's own satisfies it as it is."""

    def id(self) -> int: ...
    def get(self, key: bytes, /) -> Any: ...
    def put(self, key: bytes, value: bytes, /) -> bool: ...
    def replace(self, key: bytes, value: bytes, /) -> Any: ...
    def delete(self, key: bytes, /) -> bool: ...
    def pop(self, key: bytes, /) -> Any: ...
    def cursor(self) -> Any: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Reader(NamedTuple):
    """A line of the reader table: ``transaction`` is None for a slot that is not reading now."""

    pid: int
    transaction: int | None


class Usage(NamedTuple):
    """Pages of the file.

    Attributes:
        file: Up to the last one ever used.
        live: In use by the last committed state.
        last_transaction: Id of the last commit.
    """

    file: int
    live: int
    last_transaction: int


class Engine:
    """One open LMDB environment.

    Args:
        directory: Folder of the namespace; exists.
        level: ``full``, ``normal`` or ``off``.
        size: The namespace's maximum size in bytes; the map is larger.

    Attributes:
        closed: Whether it was closed; what is begun after that fails.

    Raises:
        StoragePathError: The files are damaged, or cannot be opened.
    """

    __slots__ = ("begin", "closed", "environment", "fsyncs", "level", "map_size")

    def __init__(self, directory: Path, level: str, size: int) -> None:
        self.closed = False
        self.level = level
        self.fsyncs = FSYNCS[level]
        self.environment = _open(directory, level, max(RESERVATION, size + RESERVE), size + RESERVE)
        self.begin = self.environment.begin
        try:
            self.map_size: int = self.environment.info()["map_size"]
            _check_complete(directory, self.environment)
        except BaseException:
            self.environment.close()
            raise

    def close(self) -> None:
        """Close the environment and end its transactions. Idempotent."""
        self.closed = True
        self.environment.close()

    def refuses(self, error: EngineError) -> bool:
        """Return whether an error means that nothing can be begun here any more.

        When LMDB cannot write a meta page, the last step of a commit, it undoes that step, and refuses whatever is begun later in this environment.
        """
        return self.closed or isinstance(error, lmdb.PanicError)

    def begin_write(self) -> Any:
        """Begin a write transaction. Blocks inside C while another process has one, so hold the gate."""
        return self.environment.begin(write=True)

    def begin_child(self, parent: Any) -> Any:
        """Begin a savepoint inside a write transaction."""
        return self.environment.begin(parent=parent, write=True)

    def usage(self) -> Usage:
        """Return how many pages the last committed state takes; about 1.3 us."""
        info, stat = self.environment.info(), self.environment.stat()
        live = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] + 2
        return Usage(info["last_pgno"] + 1, live, info["last_txnid"])

    @staticmethod
    def live_pages(transaction: Any) -> int:
        """Return how many pages the tree takes in the middle of a transaction."""
        stat = getattr(transaction, "inner", transaction).stat()
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] + 2)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return int(self.environment.stat()["psize"])

    def readers(self) -> list[Reader]:
        """Return the lines of the reader table."""
        return _reader_lines(self.environment)

    def check_readers(self) -> int:
        """Free the reader slots of processes that died. Return how many there were; 0 also if this cannot be found out now, for want of memory."""
        try:
            return int(self.environment.reader_check())
        except lmdb.Error:
            return 0

    def sync(self) -> None:
        """Force everything committed to disk, whatever the level."""
        self.environment.sync(True)

    def grow(self, size: int) -> None:
        """Map at least ``size`` bytes. Ends every transaction of this process on this environment, so none may be open."""
        self.environment.set_mapsize(max(size, self.map_size))
        self.map_size = self.environment.info()["map_size"]

    def copy(self, path: Path, *, compact: bool = False) -> None:
        """Write a consistent copy into the folder ``path``."""
        self.environment.copy(str(path), compact=compact)


def _open(directory: Path, level: str, reservation: int, least: int) -> Any:
    _check_files(directory)
    map_size = reservation
    attempts = 0
    while True:
        try:
            return lmdb.open(
                str(directory),
                map_size=map_size,
                max_readers=MAX_READERS,
                sync=level != "off",
                metasync=level == "full",
                mode=0o600,
                lib_version=0,
            )
        except lmdb.MapResizedError as error:
            # Another process is growing the map between LMDB's two looks at it.
            attempts += 1
            if attempts > 100:
                raise _unusable(directory, error) from error
        except lmdb.InvalidError as error:
            attempts += 1
            if attempts > 100 or not _discard_beginning(directory):
                raise _unusable(directory, error) from error
        except (lmdb.MemoryError, MemoryError) as error:
            # An address space limit (ulimit -v): be content with what the size needs.
            if map_size <= least:
                raise StoragePathError(
                    f"the namespace's files in {str(directory)!r} cannot be mapped, which takes {least:,} bytes of address space, its maximum "
                    "size and some more: raise the limit of this process (ulimit -v), or have another process set a smaller size (set_namespace_size)"
                ) from error
            map_size = max(least, map_size // 4)
        except (lmdb.Error, OSError) as error:
            raise _unusable(directory, error) from error


def _unusable(directory: Path, error: Exception) -> StoragePathError:
    otherwise = "if the file system and its permissions are sound, the data file is damaged: restore it from a backup"
    return StoragePathError(f"cannot open the namespace's files in {str(directory)!r}: {error}; {remedy(error, otherwise)}")


def _discard_beginning(directory: Path) -> bool:
    """Empty a data file of which only the beginning was written, or has reached the disk, and nothing since, so that it is begun anew.

    LMDB begins a file with its two meta pages. A full disk may have room for some of that, and a power loss may leave any part of it, and of the
    pages of the first commit: until that is synchronized, in the first meta page or in the second, neither has the number of a transaction.

    Returns:
        Whether it is worth while to open it again: it is empty, or another process is about to look at it.
    """
    path = directory / "data.mdb"
    # LMDB's openers exclude each other by this lock until the first of them has made the file. This process must not have it open.
    lock = os.open(directory / "lock.mdb", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError:
            return True
        with open(path, "r+b") as file:
            beginning = file.read(_BEGINNING + 1)
            if len(beginning) > _BEGINNING or not all(_is_unused(beginning[at : at + PAGE]) for at in (0, PAGE)):
                return False
            file.truncate(0)
            return True
    finally:
        os.close(lock)


def _is_unused(page: bytes) -> bool:
    """Return whether a meta page, of which some may be missing, was never one of a transaction."""
    is_ours = page[_AT_MAGIC : _AT_MAGIC + 4] == _MAGIC.to_bytes(4, sys.byteorder) or not any(page)
    return is_ours and not any(page[_AT_NUMBER : _AT_NUMBER + 8])


def _check_files(directory: Path) -> None:
    """See that LMDB's files are what they should be, as LMDB itself follows links; make them if need be, as it knows of no mode but the umask's.

    The lock file gets its blocks on the disk: LMDB makes it with a hole where the slots of most readers are. This process must not have the files
    open: it would lose its locks.
    """
    path = directory / "data.mdb"
    try:
        os.close(open_file(path))
        path = directory / "lock.mdb"
        descriptor = open_file(path)
        try:
            allocate(descriptor, _LOCK_FILE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoragePathError(
            f"{str(path)!r} cannot be opened or made: {error.strerror}; {remedy(error, 'see that the folder belongs to this user')}"
        ) from error


def _check_complete(directory: Path, environment: Any) -> None:
    """Refuse a file that ends before its last page: reading behind its end would kill the process (SIGBUS)."""
    pages = environment.info()["last_pgno"] + 1
    path = directory / "data.mdb"
    missing = pages * environment.stat()["psize"] - os.stat(path).st_size
    if missing <= 0:
        return
    # Pages that were freed in the very transaction that took them may never have been written, so only a full look tells.
    problems = verify_file(path)
    if problems:
        raise StoragePathError(
            f"the data file {str(path)!r} is damaged or cut off ({missing} bytes are missing): {problems[0]}. Restore it from a backup; "
            "nothing was changed."
        )


def translate(error: lmdb.Error, namespace: str, action: str) -> TransactionError:
    """Return the exception to raise for one of LMDB's, with what was attempted and what to do."""
    if isinstance(error, lmdb.ReadersFullError):
        what = f"All {MAX_READERS} reader slots are taken: too many threads or processes hold a snapshot or an iterator open; close some."
    elif isinstance(error, lmdb.BadTxnError):
        what = "An earlier operation of the transaction failed, so it can only be rolled back; run it again."
    elif isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        what = "The data file is damaged: restore the namespace from a backup."
    elif isinstance(error, lmdb.PanicError):
        what = "The disk has refused a write; check it, and try again."
    else:
        todo = remedy(error, "the operation can be tried again")
        what = f"Nothing was stored; {todo}."
    return TransactionError(f"{action} in namespace {namespace!r} failed: {error}. {what}")


def put_many(transaction: Any, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Store many entries in one call into C."""
    cursor = transaction.cursor()
    cursor.putmulti(items)
    cursor.close()


# What maintenance does to a namespace's files without being one of those that use it. The environments here are read-only, and closed at once.


def verify_file(path: Path) -> list[str]:
    """Return what LMDB's own verification finds wrong with a data file that nobody writes to; it never maps it, so it survives anything."""
    from lmdb.verify import VerifyError, verify

    try:
        problems: list[str] = verify(str(path))  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    return problems


def copy_settled(directory: Path, target: Path) -> int:
    """Write a compacted copy of a namespace's latest state into the folder ``target``.

    Others may read and write meanwhile. This process must not have the namespace open.

    Returns:
        The number of the last commit before it began: if that is still the last one, the copy is of now.
    """
    environment = _glance(directory)
    try:
        number: int = environment.info()["last_txnid"]
        environment.copy(str(target), compact=True)
        return number
    finally:
        environment.close()


def last_commit(directory: Path) -> int:
    """Return the number of the last commit, without touching LMDB's locks. Nobody may be writing."""
    environment = _glance(directory, lock=False)
    try:
        number: int = environment.info()["last_txnid"]
        return number
    finally:
        environment.close()


def settle_locks(directory: Path) -> None:
    """Have LMDB make its lock file anew for the data file that is there now.

    Only for who holds the lock by which LMDB's openers exclude each other: it then takes this process for the first of them, and lets in who waits.
    """
    _glance(directory).close()


def reader_lines(directory: Path) -> list[Reader]:
    """Return the lines of the reader table as they are, those of dead processes included. This process must not have the namespace open."""
    environment = _glance(directory)
    try:
        return _reader_lines(environment)
    finally:
        environment.close()


def library_version() -> str:
    """Return the version of LMDB."""
    return ".".join(map(str, lmdb.version()))


def _glance(directory: Path, lock: bool = True) -> Any:
    # No map_size: a read-only environment takes what the file needs.
    return lmdb.open(str(directory), readonly=True, create=False, lock=lock, max_readers=MAX_READERS, lib_version=0)


def _reader_lines(environment: Any) -> list[Reader]:
    lines = []
    for line in environment.readers().splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 3:
            lines.append(Reader(int(fields[0]), int(fields[2]) if fields[2] != "-" else None))
    return lines
