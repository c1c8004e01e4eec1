"""Looking after a store's files: verify, back up, compact. These read and copy what others may be using, and change it in one place.

Compacting replaces ``data.mdb`` by a copy without its free pages, and must be alone::

    copy          by LMDB, into a draft beside the namespaces; others may come, write and go meanwhile
    be alone      take the record lock on lock.mdb by which LMDB's openers tell who is first; whoever opens the namespace now waits there,
                  before it has looked at the data file
    look          nobody has the file mapped (a forked child would hold no lock), and nothing was committed since the copy was begun
    forget        commit numbers begin anew in a copy: what the shared table says of the old ones is cleared
    spoil         the head of LMDB's lock file, which still has the old number, is cleared: whoever waits there fails rather than trust it
    rename        the draft's file over data.mdb: the one step that counts
    settle        LMDB makes its lock file anew, for whoever waits
    let go

Killed before the rename, the namespace is as it was, and a draft is left that everybody ignores. Killed after it, the namespace is compacted.
Between spoiling and settling (microseconds) a kill lets those fail who have waited for the lock; whoever opens the namespace later makes the lock
file anew anyway, being the first.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from . import engine, paths, record_lock
from .binding import locate
from .engine import Engine, EngineError
from .errors import ParkitError, StoragePathError
from .inspection import openers
from .layout import Entry, State, data_prefix, directory_key, header_key
from .pool_state import POOL
from .private_files import close_to_others, make_folder, make_parents, open_file
from .registry import open_if_there, opened
from .shared import WORD_GROWN, WORD_PAGES, WORD_USED, SharedTable
from .space import DEFAULT_SIZE

__all__ = ["Compacted", "InUseError", "backup", "compact", "every_namespace", "existing_directory", "find_store", "verify"]

OUTPUT: Final = "output"
"""Name of the folder in a store that holds what processes have printed."""

WORKER: Final = "worker:"
"""What the keys of the workers' records begin with; see ``pool_state``."""

_ATTEMPTS: Final = 3
_LOCK_HEAD: Final = 4096


class InUseError(ParkitError):
    """Another process has the namespace open.

    Attributes:
        pids: The processes, as far as they are known.
    """

    def __init__(self, message: str, pids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.pids = pids


def find_store(path: str) -> Path:
    """Return the folder of a store that exists.

    Raises:
        StoragePathError: There is none, or it cannot be used.
    """
    if not os.path.isdir(path):
        raise StoragePathError(f"there is no store at {path!r}; name another one with --store or PARKIT_STORAGE_PATH, or begin to use this one")
    return paths.open_store(path)


def every_namespace(store: Path) -> list[str]:
    """Return the names of all namespaces, parkit's own at the end."""
    hidden = [name for name in (paths.POOL_NAMESPACE, paths.SYSLOG_NAMESPACE) if paths.namespace_exists(store, name)]
    return [*paths.list_namespaces(store), *hidden]


def existing_directory(store: Path, name: str) -> Path:
    """Return the folder of a namespace that exists.

    Raises:
        StoragePathError: There is none of that name, or it cannot be used.
    """
    if not paths.namespace_exists(store, name):
        raise StoragePathError(f"there is no namespace {name!r} in the store {str(store)!r}; those that there are: parkit ls")
    return paths.namespace_directory(store, name)


def verify(store: Path, name: str) -> list[str]:
    """Return what is wrong with a namespace's data file, by LMDB's own verification of a consistent copy of it."""
    existing_directory(store, name)
    with tempfile.TemporaryDirectory(prefix="parkit-verify-") as folder:
        close_to_others(folder)
        try:
            _copy(store, name, Path(folder), compact=False)
        except ParkitError as error:
            return [str(error)]
        return engine.verify_file(Path(folder) / "data.mdb")


def _copy(store: Path, name: str, target: Path, compact: bool) -> None:
    """Write a copy of a namespace's latest state, while others use it."""
    namespace = open_if_there(name, str(store))
    assert namespace is not None
    try:
        namespace.engine.copy(target, compact=compact)
    except EngineError as error:
        raise namespace.space.failed(error, f"copying to {str(target)!r}") from error
    os.chmod(target / "data.mdb", 0o600)


def backup(store: Path, destination: str, names: Iterable[str] | None, progress: Callable[[str], None] = lambda name: None) -> Path:
    """Copy a store, while others use it, to a folder that can be used as one. It is there complete, or not at all.

    Each namespace is of one moment, though not all of the same.

    Args:
        store: Its folder.
        destination: A folder that does not exist.
        names: The namespaces; None copies everything, and what processes have printed.
        progress: Told of each namespace before it is copied.

    Raises:
        FileExistsError: There is something at the destination.
        StoragePathError: There is no such namespace.
    """
    target = Path(os.path.abspath(os.path.expanduser(destination)))
    if os.path.lexists(target):
        raise FileExistsError(f"{str(target)!r} exists, and a backup overwrites nothing: choose another name, or move it away")
    if target.is_relative_to(store):
        raise ValueError(f"{str(target)!r} lies inside the store, where a backup is no help: choose a folder outside, best on another disk")
    chosen = every_namespace(store) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        existing_directory(store, name)
    make_parents(target)
    with _draft(target.parent, f".{target.name}-") as draft:
        for name in chosen:
            progress(name)
            folder = paths.namespace_directory(draft, name)
            _copy(store, name, folder, compact=True)
            if name == paths.POOL_NAMESPACE:
                _forget_workers(folder)
            _sync_file(folder / "data.mdb")
            paths.sync_directory(folder)
        if names is None and os.path.isdir(store / OUTPUT):
            _copy_output(store / OUTPUT, draft / OUTPUT)
        paths.sync_directory(draft)
        # A folder is never renamed over a file, nor over a folder that has something in it.
        os.rename(draft, target)
        paths.sync_directory(target.parent)
    return target


def _forget_workers(folder: Path) -> None:
    """Remove the records of workers from a copy of the pool's namespace.

    They are alive, and the original's: a supervisor of the copy would take them for its own, and end them with its pool. Without a record, what they
    ran when the copy was made is seen to have crashed there.
    """
    copy = Engine(folder, "full", DEFAULT_SIZE)
    try:
        with copy.begin_write() as transaction:
            raw = transaction.get(directory_key(POOL))
            if raw is not None:
                header = header_key(Entry.unpack(raw).object_id)
                state = State(transaction.get(header))
                records = data_prefix(state.range) + locate(WORKER)
                cursor = transaction.cursor()
                while cursor.set_range(records) and cursor.key().startswith(records):
                    cursor.delete()
                    state.length -= 1
                state.version += 1
                transaction.put(header, state.pack())
    finally:
        copy.close()
    (folder / "lock.mdb").unlink()


def _copy_output(source: Path, target: Path) -> None:
    make_folder(target)
    for entry in os.scandir(source):
        if entry.is_file(follow_symlinks=False):
            try:
                shutil.copyfile(entry.path, target / entry.name)
            except FileNotFoundError:
                continue  # cleaned meanwhile
            os.chmod(target / entry.name, 0o600)
            _sync_file(target / entry.name)
    paths.sync_directory(target)


class Compacted(NamedTuple):
    """What compacting has done, in bytes.

    Attributes:
        before: Size of the file before.
        after: Size of the file now.
    """

    before: int
    after: int


def compact(store: Path, name: str) -> Compacted:
    """Replace a namespace's file by a copy without free pages; see the module. This process must not have it open.

    Raises:
        InUseError: Another process has it open.
        StoragePathError: There is no such namespace, or its file is damaged.
    """
    directory = existing_directory(store, name)
    if opened(name, str(store)) is not None:
        raise InUseError(f"namespace {name!r} is open in this process, and can be compacted only while nobody uses it", (os.getpid(),))
    with _alone(directory, name):
        pass  # refuse at once, not after a long copy
    before = os.stat(directory / "data.mdb").st_size
    # A namespace that is a link to another disk is copied there: a file cannot be renamed from one to the other.
    with _draft(store if os.stat(store).st_dev == os.stat(directory).st_dev else directory, ".new-") as draft:
        for _ in range(_ATTEMPTS):
            (draft / "data.mdb").unlink(missing_ok=True)
            try:
                number = engine.copy_settled(directory, draft)
            except EngineError as error:
                raise StoragePathError(f"namespace {name!r} cannot be copied: {error}. See: parkit verify {name}") from error
            os.chmod(draft / "data.mdb", 0o600)  # LMDB leaves that to the umask
            problems = engine.verify_file(draft / "data.mdb")
            if problems:
                raise StoragePathError(f"the compacted copy of namespace {name!r} is not sound ({problems[0]}), so nothing was changed")
            _sync_file(draft / "data.mdb")
            with _alone(directory, name) as lock:
                if engine.last_commit(directory) == number:
                    after = os.stat(draft / "data.mdb").st_size
                    _forget_commits(directory)
                    os.pwrite(lock, bytes(min(_LOCK_HEAD, os.fstat(lock).st_size)), 0)
                    os.rename(draft / "data.mdb", directory / "data.mdb")
                    paths.sync_directory(directory)
                    engine.settle_locks(directory)
                    return Compacted(before, after)
    raise InUseError(f"other processes wrote in namespace {name!r} each time that it was copied; nothing was changed. Try again when it is quiet")


@contextmanager
def _alone(directory: Path, name: str) -> Iterator[int]:
    """Hold the lock by which LMDB's openers exclude each other, so that whoever opens the namespace waits. Yields the descriptor."""
    os.close(open_file(directory / "data.mdb", os.O_RDWR))  # LMDB would follow a link
    descriptor = open_file(directory / "lock.mdb")
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        except OSError:
            holder = record_lock.holder(descriptor, 0, 1)
            raise _in_use(name, openers([directory])[directory] | ({holder} if holder else set())) from None
        found = openers([directory])[directory]
        if found:
            raise _in_use(name, found)
        yield descriptor
    finally:
        os.close(descriptor)


def _in_use(name: str, pids: set[int]) -> InUseError:
    who = f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, sorted(pids)))}" if pids else "another process"
    return InUseError(f"namespace {name!r} is open in {who}, and can be compacted only while nobody uses it: end that first", tuple(sorted(pids)))


def _forget_commits(directory: Path) -> None:
    """Clear what the shared table has by commit number, and what it knows of the file's size: hints that are found anew."""
    table = SharedTable(directory / "shared")
    try:
        for word in (WORD_GROWN, WORD_USED, WORD_PAGES):
            table.words[word] = 0
        for noted in (table._commits, table._milestones):
            for at in range(len(noted)):
                noted[at] = 0
    finally:
        table.close()


@contextmanager
def _draft(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a private folder, and remove what is left of it in the end."""
    draft = parent / f"{prefix}{secrets.token_hex(8)}"
    make_folder(draft)
    try:
        yield draft
    finally:
        if os.path.lexists(draft) and stat.S_ISDIR(os.lstat(draft).st_mode):
            shutil.rmtree(draft)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
