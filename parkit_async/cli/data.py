"""``ls``, ``get``, ``put`` and ``tail``: what is in a store."""

from __future__ import annotations

import difflib
import queue
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import click

from parkit.adapters.dict import Dict
from parkit.adapters.log import Log
from parkit.adapters.object import Object
from parkit.adapters.queue import LifoQueue, Queue
from parkit.storage.context import snapshot
from parkit_async._core import inspection, object_ops, paths
from parkit_async._core.binding import Binding
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.errors import ParkitError
from parkit_async._core.inspection import Found, Undecodable
from parkit_async._core.layout import Entry
from parkit_async._core.ownership import for_reading
from parkit_async._core.registry import known_namespaces, open_if_there
from parkit_async._core.settings import get_storage_path
from parkit_async._core.waiting import AGAIN, block

from . import render
from .parameters import NEGATIVE_NUMBERS, Failure, NamespaceName, ObjectPath, allow_local_modules, command, json_option, not_an_option, typed
from .render import Column

__all__ = ["get_command", "ls_command", "put_command", "tail_command"]

_KINDS: Final[dict[str, type[Object]]] = {cls.type_name: cls for cls in (Dict, Queue, LifoQueue, Log, Object)}
_NEW: Final[dict[str, type[Object]]] = {"dict": Dict, "queue": Queue, "lifo": LifoQueue, "log": Log, "object": Object}
_PROCESS: Final = "parkit.Process"
_SHOWN_AT_ONCE: Final = 1000
_PORTION: Final = 256


# Finding an object, and showing it as what it is.


class Target(NamedTuple):
    """An object, opened as what it is, whatever its class.

    Attributes:
        handle: A Dict, Queue, LifoQueue, Log, or a plain Object.
        binding: Its binding.
        type: Name of its class.
    """

    handle: Object
    binding: Binding
    type: str


def find(path: str) -> Target | None:
    """Return the object at a path, or None."""
    namespace_name, name = paths.split(path)
    namespace = open_if_there(namespace_name)
    entry: Entry | None = None if namespace is None else namespace.read(object_ops.find, name)
    if namespace is None or entry is None:
        return None
    kind = _KINDS.get(entry.type)
    if kind is None and (entry.type == _PROCESS or namespace.settings().codecs is None):  # importing a module that the store names runs code
        kind = _kind_of_class(entry.type)
    if kind is None:
        # A class that cannot be imported here: what it holds tells what it is.
        found = next(found for found in namespace.read(inspection.contents) if found.entry.object_id == entry.object_id)
        state = found.state
        kind = Dict if state.length else Queue if state.head or state.unfinished or state.maxsize else Log if state.tail else Object
    cls = kind if kind.type_name == entry.type else type(kind.__name__, (kind,), {"type_name": entry.type})
    handle = cls(path, create=False)
    return Target(handle, handle._binding, entry.type)


def _kind_of_class(name: str) -> type[Object] | None:
    if name == _PROCESS:
        return Dict
    import pydoc

    try:
        cls = pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None
    for base in getattr(cls, "__mro__", ()):
        kind = _KINDS.get(base.__dict__.get("type_name"))
        if kind is not None:
            return kind
    return None


def find_or_fail(path: str) -> Target:
    """Return the object at a path; fail, with the nearest name, if there is none."""
    target = find(path)
    if target is not None:
        return target
    raise Failure(f"there is no object {path!r} in the store {get_storage_path()!r}.{_near(path)} See: parkit ls {paths.split(path)[0]}")


def _near(path: str) -> str:
    names = []
    for name in {paths.split(path)[0], paths.DEFAULT_NAMESPACE}:
        namespace = open_if_there(name)
        if namespace is not None:
            names += [found.path for found in namespace.read(inspection.contents)]
    near = difflib.get_close_matches(path, names, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _class_name(type_name: str) -> str:
    return type_name.removeprefix("parkit.")


# ls


@command(
    "ls",
    ("parkit ls", "the namespaces"),
    ("parkit ls shop", "the objects of namespace shop"),
    ("parkit ls -a", "parkit's own namespaces as well"),
    ("parkit ls shop --json", ""),
)
@click.argument("namespace", type=NamespaceName(), required=False)
@click.option("-a", "--all", "hidden", is_flag=True, help="Show parkit's own namespaces, too.")
@json_option
def ls_command(namespace: str | None, hidden: bool, as_json: bool) -> int:
    """List the namespaces, or the objects of one."""
    if namespace is not None:
        return _list_objects(namespace, as_json)
    names = list(known_namespaces())
    if hidden and names:
        names += [name for name in (paths.POOL_NAMESPACE, paths.SYSLOG_NAMESPACE) if open_if_there(name) is not None]
    rows: list[tuple[Any, ...]] = []
    unusable = 0
    for name in names:
        try:
            opened = open_if_there(name)
            if opened is None:
                continue
            usage = inspection.fullness(opened)
            rows.append((name, len(opened.read(inspection.contents)), usage.live, usage.file, usage.limit, None))
        except ParkitError as error:
            unusable += 1
            rows.append((name, None, None, None, None, str(error)))
    columns = [Column("namespace"), Column("objects", "count"), Column("used", "bytes"), Column("file", "bytes"), Column("limit", "bytes")]
    if unusable:
        columns.append(Column("error"))
    else:
        rows = [row[:-1] for row in rows]
    render.show_table(columns, rows, as_json, f"There are no namespaces in {get_storage_path()}.")
    return 1 if unusable else 0


_OBJECTS: Final = (
    Column("path"),
    Column("type"),
    Column("version", "count"),
    Column("length", "count"),
    Column("created", "time"),
)


def _list_objects(name: str, as_json: bool) -> int:
    namespace = open_if_there(name)
    if namespace is None:
        hint = f" It is an object: parkit get {name}" if find(name) is not None else " Those that there are: parkit ls"
        raise Failure(f"there is no namespace {name!r} in the store {get_storage_path()!r}.{hint}")
    rows = [
        (
            found.path,
            _class_name(found.entry.type),
            found.state.version if found.entry.versioned else None,
            _length(found),
            found.entry.created,
        )
        for found in namespace.read(inspection.contents)
    ]
    render.show_table(_OBJECTS, rows, as_json, f"There are no objects in namespace {name}.")
    return 0


def _length(found: Found) -> int | None:
    return None if found.entry.type == Object.type_name else found.length


# get


@command(
    "get",
    ("parkit get shop/stock", "all entries of a Dict"),
    ("parkit get shop/stock tea", "the value of one key"),
    ("parkit get shop/stock '[\"tea\", 3]'", "whose key is a tuple"),
    ("parkit get shop/history -1", "the last entry of a Log"),
    ("parkit get shop/orders", "the items of a Queue, which stay in it"),
    ("parkit get shop/stock --attributes", "the persistent attributes"),
    context_settings=NEGATIVE_NUMBERS,
)
@click.argument("path", type=ObjectPath(), callback=not_an_option)
@click.argument("key", required=False, callback=not_an_option)
@click.option("--attributes", is_flag=True, help="Show the persistent attributes instead.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help=f"Show N entries at most; 0 is all. On a terminal {_SHOWN_AT_ONCE}, else all.")
@json_option
def get_command(path: str, key: str | None, attributes: bool, limit: int | None, as_json: bool) -> int:
    """Show what is in an object, or the value of one KEY.

    KEY is a key of a Dict (as JSON if it is that, else as text), an index of a Log or Queue, or the name of an attribute. Nothing is changed: an
    item of a Queue stays where it is.
    """
    allow_local_modules()
    target = find_or_fail(path)
    handle, binding = target.handle, target.binding
    with_attributes = attributes or not isinstance(handle, (Dict, Queue, Log))
    if key is not None:
        render.show_value(_value_at(target, key, with_attributes), as_json)
        return 0
    if limit is None:
        limit = _SHOWN_AT_ONCE if render.is_terminal() and not as_json else 0
    with snapshot(handle):
        reading = for_reading(binding.namespace)
        assert reading is not None
        rows: Iterable[tuple[Any, Any]]
        if with_attributes:
            rows = inspection.attributes(reading, binding)
            columns, size = (Column("attribute"), Column("value", "value")), len(rows)
        elif isinstance(handle, Dict):
            rows = inspection.entries(reading, binding)
            columns, size = (Column("key", "value"), Column("value", "value")), reading.state(binding).length
        else:
            _, head, tail = inspection.position(reading, binding)
            rows = _numbered(reading, binding, head, tail)
            columns, size = (Column("index", "count"), Column("value", "value")), tail - head
        render.show_table(columns, islice(rows, limit) if limit else rows, as_json, f"{path} is empty.")
    if limit and size > limit:
        render.note(f"{limit:,} of {size:,} are shown; --limit 0 shows all.")
    return 0


def _numbered(reading: Any, binding: Binding, head: int, tail: int) -> Iterator[tuple[int, Any]]:
    for start in range(head, tail, _PORTION):
        for index, value in enumerate(inspection.items(reading, binding, start, min(tail, start + _PORTION)), start):
            yield index - head, value


def _value_at(target: Target, key: str, attribute: bool) -> Any:
    handle, binding = target.handle, target.binding
    path = handle.path
    if attribute:
        for name, value in binding.namespace.read(inspection.attributes, binding):
            if name == key:
                return value
        raise Failure(f"{path!r} has no attribute {key!r}; those that it has: parkit get {path} --attributes")
    if isinstance(handle, Dict):
        for candidate in dict.fromkeys((_as_key(typed(key)), key)):
            try:
                return handle[candidate]
            except KeyError:
                continue
            except ParkitError as error:
                return Undecodable(error)
        raise Failure(f"{path!r} has no key {key!r}; those that it has: parkit get {path}")
    try:
        index = int(key)
    except ValueError:
        raise click.UsageError(f"{path!r} is a {_class_name(target.type)}: KEY is an index, not {key!r}.") from None

    def look(reading: Any) -> list[Any]:
        _, head, tail = inspection.position(reading, binding)
        at = (tail if index < 0 else head) + index
        return inspection.items(reading, binding, at, at + 1) if at >= head else []

    found = binding.namespace.read(look)
    if not found:
        raise Failure(f"{path!r} has no index {index}; its entries: parkit get {path}")
    return found[0]


def _as_key(value: Any) -> Any:
    """Return what was typed as a key of a Dict: lists, which can be none, as tuples."""
    return tuple(map(_as_key, value)) if isinstance(value, list) else value


# put


@command(
    "put",
    ("parkit put shop/stock tea 12", "stock['tea'] = 12, in a Dict"),
    ('parkit put shop/orders \'{"item": "tea"}\'', "an item of a Queue"),
    ("parkit put shop/history 'tea was sold'", "an entry of a Log"),
    ("parkit put shop/stock '\"1\"' -5", "the key is the text 1, not the number"),
    ("parkit put --create log shop/notes hello", "which need not be there yet"),
    context_settings={**NEGATIVE_NUMBERS, "allow_interspersed_args": False},
)
@click.argument("path", type=ObjectPath(), callback=not_an_option)
@click.argument("values", nargs=-1, required=True, metavar="[KEY] VALUE")
@click.option("--create", type=click.Choice(list(_NEW)), help="Create the object if there is none.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="How long to wait for room in a Queue; by default for ever.")
def put_command(path: str, values: tuple[str, ...], create: str | None, timeout: float | None) -> int:
    """Store a VALUE: at a KEY of a Dict, as an attribute (KEY) of an Object, or at the end of a Queue or Log.

    KEY and VALUE are taken as JSON where they are that, else as text. Options stand before PATH.
    """
    allow_local_modules()
    target = find(path)
    if target is not None:
        handle = target.handle
    elif create is not None:
        handle = _NEW[create](path)
    else:
        where = f"there is no object {path!r} in the store {get_storage_path()!r}"
        raise Failure(f"{where}.{_near(path)} To create it: parkit put --create TYPE {path} ...")
    what = _class_name(target.type) if target is not None else type(handle).__name__
    keyed = isinstance(handle, Dict) or not isinstance(handle, (Queue, Log))
    if len(values) != 1 + keyed:
        raise click.UsageError(f"{path!r} is a {what}: give {'KEY and VALUE' if keyed else 'VALUE alone'} after the path.")
    value = typed(values[-1])
    if isinstance(handle, Dict):
        key = _as_key(typed(values[0]))
        if isinstance(key, dict):
            raise click.UsageError(f"a dict cannot be a key: {values[0]}.")
        handle[key] = value
    elif isinstance(handle, Queue):
        try:
            handle.put(value, timeout=timeout)
        except queue.Full:
            raise Failure(f"{path!r} is full ({handle.maxsize:,} items), and nobody took one in time") from None
        except Exception as error:
            if type(error).__name__ == "ShutDown":
                raise Failure(f"{path!r} was shut down and takes no more items") from None
            raise
    elif isinstance(handle, Log):
        handle.append(value)
    else:
        handle.set_attribute(values[0], value)
    return 0


# tail


@command(
    "tail",
    ("parkit tail shop/history", "the last ten entries of a Log"),
    ("parkit tail -n 100 shop/history", ""),
    ("parkit tail -f shop/history", "and those that come, until Ctrl-C"),
    ("parkit tail -n 0 -f shop/orders", "what is put in a Queue from now on"),
)
@click.argument("path", type=ObjectPath())
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="How many to begin with.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until Ctrl-C.")
@json_option
def tail_command(path: str, count: int, follow: bool, as_json: bool) -> int:
    """Show the end of a Log or Queue, a line for each entry.

    Of a Queue it only looks, and takes nothing: an item that somebody takes at once may not be seen. With --json each line is a document.
    """
    allow_local_modules()
    target = find_or_fail(path)
    if not isinstance(target.handle, (Log, Queue)):
        raise Failure(f"{path!r} is a {_class_name(target.type)}, which has no end to look at: parkit get {path} shows what is in it")
    tail = _Tail(target.binding, count)
    for value in tail.take():
        _print_line(value, as_json)
    while follow:
        render.flush()
        for value in tail.wait():
            _print_line(value, as_json)
    return 0


def _print_line(value: Any, as_json: bool) -> None:
    if as_json:
        render.show_json(render.plain(value), one_line=True)
    else:
        render.write(render.text_of(value) + "\n")


class _Tail:
    """A place in a log or queue, which moves on as entries are seen. It passes over what cannot be decoded."""

    def __init__(self, binding: Binding, count: int) -> None:
        self._binding = binding
        self._range, head, tail = binding.namespace.read(inspection.position, binding)
        self._next = max(head, tail - count)

    def take(self) -> list[Any]:
        """Return the next entries, in portions; an empty list if there are none."""
        found: list[Any] = self._binding.namespace.read(self._look)
        return found

    def _look(self, reading: Any) -> list[Any]:
        current, head, tail = inspection.position(reading, self._binding)
        if current != self._range:
            # It was cleared: a log then begins at 0 again, a queue goes on.
            self._range, self._next = current, head
        # A LifoQueue's end goes back when an item is taken.
        self._next = min(max(self._next, head), tail)
        values = inspection.items(reading, self._binding, self._next, self._next + _PORTION)
        self._next += len(values)
        return values

    def wait(self) -> list[Any]:
        """Return the next entries, waiting for them."""
        values: list[Any] = block(self._binding, EVENT_ALL, lambda: self.take() or AGAIN, None)
        return values
