"""Where everything lies in a namespace's one ordered keyspace.

::

    object id (8 bytes, big endian) · space (1 byte) · key

    id 0, the namespace itself        id n, an object                     id r, a range
      META       settings               HEADER   the record below           DATA  its entries
      DIRECTORY  path → descriptor      ATTRIBUTE  name → value
      RETIRED    ranges to reclaim      DEAD       items set aside
      PROCESSES  object id → name       RUN        state of a process
      SUBMITTED  in order of start()    CALL       what it is to call
      RUNNING    object id → worker     OUTCOME    what came of it
      CONTEXT    digest → where from        OWNER    whose process it is, if an executor's
      NEXT       the next free id
      OWNERS     executor → its program
      OUTCOMES   executor, transaction, object id → outcome

An object's entries lie in a *range* of their own, named by its header: clearing a big object gives it a new range at once and leaves
the old one to be reclaimed in slices. Ids are handed out once and never again, so a stale handle can never see another object's data.

Whatever bytes a record is read from, it is read, or refused by a TransactionError (or a ValueError, see :class:`Meta`): never by anything else.

The header is one fixed record (little endian, 8 bytes a field). Lengths are exact, because they change in the transaction that
changes the data; ``len`` and ``qsize`` read nothing else.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any, Final, NamedTuple

from .errors import TransactionError

__all__ = [
    "DATA",
    "DEAD",
    "FORMAT_VERSION",
    "META_KEY",
    "NEXT_KEY",
    "OUTCOMES",
    "OWNERS",
    "PROCESSES",
    "RUNNING",
    "SUBMITTED",
    "Entry",
    "Meta",
    "State",
    "attribute_prefix",
    "call_key",
    "context_key",
    "damaged",
    "data_prefix",
    "dead_prefix",
    "directory_key",
    "directory_prefix",
    "header_key",
    "index_key",
    "outcome_key",
    "owner_key",
    "prefix_end",
    "process_key",
    "retired_prefix",
    "run_key",
    "text",
]

FORMAT_VERSION: Final = 1

_META, _DIRECTORY, _RETIRED, _PROCESSES, _SUBMITTED, _RUNNING, _CONTEXT, _NEXT, _OWNERS, _OUTCOMES = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
_HEADER, _ATTRIBUTE, DEAD, DATA, _RUN, _CALL, _OUTCOME, _OWNER = 0, 1, 2, 3, 4, 5, 6, 7

_prefix = struct.Struct(">QB").pack
_index = struct.Struct(">Q").pack

META_KEY: Final = _prefix(0, _META)
NEXT_KEY: Final = _prefix(0, _NEXT)
"""Key of the next free id, 8 bytes big endian; missing where nothing was made yet."""


_UUID: Final = re.compile("[0-9a-f]{32}")
_LARGEST: Final = 1 << 63
"""Ids, counts and indices stay below it."""


def damaged(what: str) -> TransactionError:
    """Return the exception for a record of parkit's own that cannot be one."""
    return TransactionError(
        f"{what} is damaged, or was not written by parkit. Other objects are not affected; to have this one back, restore the namespace from a backup"
    )


def text(raw: bytes, what: str) -> str:
    """Return the text of a record or key of parkit's own; raise TransactionError if it is none."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise damaged(what) from error


def header_key(object_id: int) -> bytes:
    """Return the key of an object's header."""
    return _prefix(object_id, _HEADER)


def attribute_prefix(object_id: int) -> bytes:
    """Return what the keys of an object's persistent attributes begin with."""
    return _prefix(object_id, _ATTRIBUTE)


def dead_prefix(object_id: int) -> bytes:
    """Return what the keys of a queue's dead letters begin with."""
    return _prefix(object_id, DEAD)


def data_prefix(range_id: int) -> bytes:
    """Return what the keys of a range begin with."""
    return _prefix(range_id, DATA)


def directory_prefix() -> bytes:
    """Return what the keys of the directory begin with."""
    return _prefix(0, _DIRECTORY)


def directory_key(name: str) -> bytes:
    """Return the key of a name's directory entry."""
    return _prefix(0, _DIRECTORY) + name.encode()


def retired_prefix() -> bytes:
    """Return what the keys of retired ranges begin with."""
    return _prefix(0, _RETIRED)


PROCESSES: Final = _prefix(0, _PROCESSES)
"""What the keys of the list of processes begin with; an object id follows."""
SUBMITTED: Final = _prefix(0, _SUBMITTED)
"""What the keys of the queue of submitted processes begin with; the number of the transaction and an object id follow."""
RUNNING: Final = _prefix(0, _RUNNING)
"""What the keys of the list of running processes begin with; an object id follows."""
OWNERS: Final = _prefix(0, _OWNERS)
"""What the keys of the list of executors begin with; the executor's id follows."""
OUTCOMES: Final = _prefix(0, _OUTCOMES)
"""What the keys of outcomes that wait for their executor begin with; its id, the number of the transaction and an object id follow."""


def process_key(prefix: bytes, *numbers: int) -> bytes:
    """Return the key of a process in one of the lists."""
    return prefix + b"".join(map(_index, numbers))


def context_key(digest: bytes) -> bytes:
    """Return the key of what is known of a program that submits processes."""
    return _prefix(0, _CONTEXT) + digest


def run_key(object_id: int) -> bytes:
    """Return the key of a process's state."""
    return _prefix(object_id, _RUN)


def call_key(object_id: int) -> bytes:
    """Return the key of what a process is to call."""
    return _prefix(object_id, _CALL)


def outcome_key(object_id: int) -> bytes:
    """Return the key of a process's result or error."""
    return _prefix(object_id, _OUTCOME)


def owner_key(object_id: int) -> bytes:
    """Return the key of the id of the executor that a process belongs to; missing where it belongs to nobody."""
    return _prefix(object_id, _OWNER)


def index_key(prefix: bytes, index: int) -> bytes:
    """Return the key of the entry at ``index`` of a log or queue."""
    return prefix + _index(index)


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with ``prefix`` (which ends in a space number, so the last byte never is 255)."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


class Meta:
    """The namespace's own record."""

    __slots__ = ("codecs", "format", "level", "size")

    def __init__(self, level: str, size: int, codecs: list[str] | None = None, version: int = FORMAT_VERSION) -> None:
        self.format = version
        self.level = level
        self.size = size
        self.codecs = codecs

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return json.dumps({"parkit": self.format, "level": self.level, "size": self.size, "codecs": self.codecs}).encode()

    @classmethod
    def unpack(cls, raw: bytes) -> Meta:
        """Read a record; raise ValueError if it is none."""
        try:
            fields = json.loads(raw)
            level, size, codecs, version = fields["level"], fields["size"], fields["codecs"], fields["parkit"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError("not the record of a parkit namespace") from error
        names = [] if codecs is None else codecs
        if not (isinstance(level, str) and type(size) is type(version) is int and isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("not the record of a parkit namespace")
        return cls(level, size, codecs, version)


class Entry(NamedTuple):
    """A directory entry: what lies at a path.

    Attributes:
        object_id: The object's id.
        type: Name of its class, see ``objects.type_name``.
        uuid: Hexadecimal.
        versioned: Whether changes count.
        created: ISO 8601, UTC.
        codec: Name of the codec, or None for the default.
        custom: What the creating class wished to remember; JSON.
    """

    object_id: int
    type: str
    uuid: str
    versioned: bool
    created: str
    codec: str | None
    custom: dict[str, Any]

    def pack(self) -> bytes:
        return json.dumps(self._asdict()).encode()

    @classmethod
    def unpack(cls, raw: bytes) -> Entry:
        """Read an entry.

        Raises:
            TransactionError: It is none.
        """
        try:
            fields = cls(**json.loads(raw))
        except (TypeError, ValueError, RecursionError) as error:
            raise damaged("an entry of the namespace's directory") from error
        if not _is_entry(*fields):
            raise damaged("an entry of the namespace's directory")
        return fields


def _is_entry(object_id: object, type_name: object, uuid: object, versioned: object, created: object, codec: object, custom: object) -> bool:
    return (
        type(object_id) is int
        and 0 < object_id < _LARGEST
        and isinstance(type_name, str)
        and isinstance(uuid, str)
        and _UUID.fullmatch(uuid) is not None
        and isinstance(versioned, bool)
        and isinstance(created, str)
        and isinstance(codec, str | None)
        and isinstance(custom, dict)
    )


_header = struct.Struct("<10Q")
_pack, _unpack = _header.pack, _header.unpack

UNBOUNDED: Final = (1 << 64) - 1


class State:
    """An object's header while a transaction looks at it, and changes it.

    Attributes:
        range: Id of the range that holds the entries.
        version: Committed transactions that changed the object.
        length: Number of a Dict's entries.
        head: Index of the first entry of a queue; 0 in a log.
        tail: Index behind the last entry of a queue or log.
        unfinished: Items put and not yet acknowledged by ``task_done``.
        maxsize: Of a queue; 0 is unbounded.
        flags: See the ``FLAG_*`` constants.
        dead: Index behind the last dead letter.
        nonce: Random; a handle that remembers another one means an object whose creation was rolled back.
        prefix: What the keys of its entries begin with.
        changed: What the transaction did to the object: a mask of events, 0 for nothing.
        settled: What earlier operations of a group commit did to it.
        dropped: Whether the transaction dropped the object.
        identity: The object, as far as transactions know it.
    """

    __slots__ = (
        "changed",
        "dead",
        "dropped",
        "flags",
        "head",
        "identity",
        "length",
        "maxsize",
        "nonce",
        "prefix",
        "range",
        "settled",
        "tail",
        "unfinished",
        "version",
    )

    range: int
    version: int
    length: int
    head: int
    tail: int
    unfinished: int
    maxsize: int
    flags: int
    dead: int
    nonce: int

    def __init__(self, raw: bytes) -> None:
        try:
            (
                self.range,
                self.version,
                self.length,
                self.head,
                self.tail,
                self.unfinished,
                self.maxsize,
                self.flags,
                self.dead,
                self.nonce,
            ) = _unpack(raw)
        except struct.error as error:
            raise damaged("the header of an object") from error
        if self.head > self.tail or (self.range | self.version | self.length | self.tail | self.unfinished | self.dead) >= _LARGEST:
            raise damaged("the header of an object")
        self.prefix = _prefix(self.range, DATA)
        self.changed = 0
        self.settled = 0
        self.dropped = False
        self.identity: Any = None

    @classmethod
    def new(cls, range_id: int, nonce: int, maxsize: int = 0, flags: int = 0) -> State:
        """Return the state of an object that was just created."""
        return cls(_pack(range_id, 0, 0, 0, 0, 0, maxsize, flags, 0, nonce))

    def move(self, range_id: int) -> None:
        """Give the object another range."""
        self.range = range_id
        self.prefix = _prefix(range_id, DATA)

    @staticmethod
    def key(object_id: int) -> bytes:
        """Return the key of the header."""
        return _prefix(object_id, _HEADER)

    def copy(self) -> State:
        """Return a state equal to this one."""
        twin = State(self.pack())
        twin.changed = self.changed
        twin.settled = self.settled
        twin.dropped = self.dropped
        twin.identity = self.identity
        return twin

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _pack(
            self.range,
            self.version,
            self.length,
            self.head,
            self.tail,
            self.unfinished,
            self.maxsize,
            self.flags,
            self.dead,
            self.nonce,
        )


FLAG_SHUT_DOWN: Final = 1
"""A queue that takes no more items."""
FLAG_KEYED: Final = 2
"""A Dict that holds, or once held, keys that are stored beside their values (long ones, or ones of an unusual type)."""
FLAG_MIXED: Final = 8
"""A Dict that holds, or once held, keys that are not str."""
FLAG_UNVERSIONED: Final = 4
"""An object whose changes are not counted."""
