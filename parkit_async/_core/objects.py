"""What is common to the handles of both faces: how one is declared, opened, pickled, compared, and how its attributes are kept apart.

A handle is declared at once and bound to its object when it is opened, or first used. ``_binding`` is an instance attribute; while it is
missing, the look-up of that name falls through to ``__getattr__``, so that binding late costs a bound handle nothing.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from . import codecs, object_ops, paths
from .binding import Binding
from .codecs import Codec
from .errors import CodecError, ObjectExistsError, ObjectNotFoundError
from .layout import Entry
from .namespace import Namespace
from .registry import open_if_there, open_namespace
from .settings import get_storage_path
from .waiting import AGAIN

__all__ = ["Declaration", "Handle", "check_attribute", "describe", "is_persistent", "restored", "type_name"]

_CODEC = "_codec"
_LONGEST_NAME = 256


class Declaration(NamedTuple):
    """What a handle was made with.

    Attributes:
        store: Path of the store.
        namespace: Name of the namespace.
        name: Name within it.
        create: Whether the object may be created.
        bind: Whether it may be there already.
        versioned: Whether its changes are to be counted.
        codec: Codec of its values, or None.
        maxsize: Of a queue.
        custom: What the class wishes to remember in the descriptor.
        uuid: The only object that will do, or None.
    """

    store: str
    namespace: str
    name: str
    create: bool
    bind: bool
    versioned: bool
    codec: Codec | None
    maxsize: int
    custom: dict[str, Any]
    uuid: str | None

    @property
    def path(self) -> str:
        """The whole path, in its shortest form."""
        return paths.join(self.namespace, self.name)


def type_name(cls: type) -> str:
    """Return the name under which objects of a class are stored: that of its kind for parkit's own (one for both faces), else its own."""
    name = cls.__dict__.get("type_name")
    return name if isinstance(name, str) else f"{cls.__module__}.{cls.__qualname__}"


def is_persistent(cls: type, name: str) -> bool:
    """Return whether an attribute is kept in the store: one that the class does not define and that does not begin with an underscore."""
    return not name.startswith("_") and not hasattr(cls, name)


def check_attribute(name: str) -> str:
    """Return ``name`` if it can be that of a persistent attribute.

    Raises:
        AttributeError: It cannot.
    """
    if name.startswith("_"):
        raise AttributeError(f"{name!r} cannot be a persistent attribute: names that begin with an underscore are the instance's own")
    if len(name.encode()) > _LONGEST_NAME:
        raise AttributeError(f"the name of a persistent attribute has at most {_LONGEST_NAME} bytes, and {name[:40]!r}... has more")
    return name


class Handle:
    """Base of every class of objects, in both faces."""

    type_name: ClassVar[str]
    codec: ClassVar[Codec | None] = None
    """Codec of a subclass's values, unless one is given at the creation; None is pickle."""

    _declaration: Declaration
    _binding: Any  # a Binding; the awaitable face has None until it is found

    def _declare(
        self,
        path: str,
        create: bool,
        bind: bool,
        versioned: bool,
        codec: Codec | None = None,
        maxsize: int = 0,
        custom: dict[str, Any] | None = None,
    ) -> None:
        """Check the arguments of a constructor and remember them.

        Raises:
            ValueError: The path is none, or neither creating nor binding is allowed.
            TypeError: The path is not a str, or the codec is none.
        """
        namespace, name = paths.split(path)
        if not create and not bind:
            raise ValueError(f"{path!r}: create=False and bind=False leave nothing to do; allow one of them")
        codec = codec if codec is not None else type(self).codec
        if codec is not None and not all(hasattr(codec, part) for part in ("name", "dumps", "loads")):
            raise TypeError(f"codec must have a name, dumps() and loads(), see parkit.Codec; {codec!r} has not")
        self._set(
            "_declaration",
            Declaration(get_storage_path(), namespace, name, create, bind, versioned, codec, maxsize, custom or {}, None),
        )

    def _set(self, name: str, value: object) -> None:
        """Set an attribute of the instance itself."""
        object.__setattr__(self, name, value)

    # Opening: look first, without the write turn; create only if nothing is there. The faces run these steps and wait in between.

    def _namespace(self) -> Namespace:
        """Open the namespace; may wait for the disk.

        Raises:
            ObjectNotFoundError: It does not exist, and the object must.
        """
        declaration = self._declaration
        if declaration.create and declaration.uuid is None:
            return open_namespace(declaration.namespace, declaration.store)
        namespace = open_if_there(declaration.namespace, declaration.store)
        if namespace is None:
            raise self._missing()
        return namespace

    def _look(self, namespace: Namespace) -> bool:
        """Bind to what is there. Return False if nothing is, and it may be created.

        Raises:
            ObjectNotFoundError, ObjectExistsError, TypeError: See the constructor.
        """
        declaration = self._declaration
        entry: Entry | None = namespace.read(object_ops.find, declaration.name)
        if entry is not None:
            self._bind_to(namespace, entry, created=False)
            return True
        if not declaration.create or declaration.uuid is not None:
            raise self._missing()
        return False

    def _creation(self) -> tuple[Any, ...]:
        """Return the write operation that creates the object, and its arguments."""
        declaration = self._declaration
        custom = dict(declaration.custom)
        codec = declaration.codec
        if codec is not None and not _is_shipped(codec):
            custom[_CODEC] = base64.b64encode(pickle.dumps(codec, 5)).decode()
        return (
            object_ops.create,
            declaration.name,
            type_name(type(self)),
            declaration.versioned,
            None if codec is None else codec.name,
            declaration.maxsize,
            custom,
        )

    def _bind_to(self, namespace: Namespace, entry: Entry, created: bool) -> None:
        declaration = self._declaration
        path = declaration.path
        if not created:
            if declaration.uuid is not None and entry.uuid != declaration.uuid:
                raise self._missing()
            if not declaration.bind:
                raise ObjectExistsError(
                    f"{path!r} exists already (a {entry.type}); bind=False wants a new one: choose another path, or drop() it first"
                )
            if entry.type != type_name(type(self)):
                raise TypeError(f"{path!r} holds a {entry.type}, not a {type_name(type(self))}: open it with its own class, or choose another path")
        self._set("_binding", Binding(namespace, path, entry, self._codec_of(entry, namespace)))

    def _codec_of(self, entry: Entry, namespace: Namespace) -> Codec | None:
        """Return the codec that the creation chose."""
        if entry.codec is None:
            return None
        own = self._declaration.codec
        if own is not None and own.name == entry.codec:
            return own
        pickled = entry.custom.get(_CODEC)
        if pickled is None:
            return codecs.builtin_codec(entry.codec)
        if namespace.settings().codecs is not None:
            raise CodecError(
                f"{entry.codec!r}, the codec of {self._declaration.path!r}, runs code, which namespace {namespace.name!r} does not allow"
            )
        found: Codec = pickle.loads(base64.b64decode(pickled))
        return found

    def _missing(self) -> ObjectNotFoundError:
        declaration = self._declaration
        if declaration.uuid is not None:
            return ObjectNotFoundError(f"{declaration.path!r} is not the object any more that this handle was made for: that was dropped")
        if declaration.create:
            return ObjectNotFoundError(
                f"there is no object {declaration.path!r} in the store {declaration.store!r} yet; await the handle, which creates it"
            )
        return ObjectNotFoundError(f"there is no object {declaration.path!r} in the store {declaration.store!r}; create=True creates it")

    def _bound(self) -> Binding:
        """Return the binding for a read that need not be awaited; bind to what is there if that is still to be done."""
        binding: Binding | None = self._binding
        return binding if binding is not None else self._bind_existing()

    def _bind_existing(self) -> Binding:
        if not self._look(self._namespace()):
            raise self._missing()
        bound: Binding = self._binding
        return bound

    # What all handles are.

    @property
    def path(self) -> str:
        """The whole path, ``namespace/name``; without the namespace if that is ``default``."""
        return self._declaration.path

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self._declaration.name

    @property
    def namespace(self) -> str:
        """The name of the namespace."""
        return self._declaration.namespace

    # Reads never wait, so these are the same in both faces.

    def _exists(self) -> bool:
        try:
            binding = self._bound()
        except ObjectNotFoundError:
            return False
        found: bool = binding.namespace.read(object_ops.exists, binding)
        return found

    def _descriptor(self) -> Any:
        binding = self._bound()
        return describe(binding.namespace.read(object_ops.entry_of, binding, self._declaration.name))

    def _version_attempt(self, version: int) -> Callable[[], Any]:
        """Return an attempt (see ``waiting``) to find the object's version greater than ``version``."""
        binding = self._bound()
        if not binding.entry.versioned:
            raise ValueError(f"{binding.path!r} was created with versioned=False, so its changes cannot be waited for; create it with versioned=True")

        def attempt() -> Any:
            return True if binding.namespace.read(object_ops.version, binding) > version else AGAIN

        return attempt

    def __repr__(self) -> str:
        return f"<{type(self).__module__.split('.')[0]}.{type(self).__qualname__} {self._declaration.path!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        declaration = self._declaration
        uuid = self._binding.entry.uuid if self.__dict__.get("_binding") else declaration.uuid
        return _restore, (type(self), declaration.path, uuid, declaration.store), None

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


def describe(entry: Entry) -> dict[str, Any]:
    """Return a directory entry as users see it: a Descriptor."""
    return {
        "type": entry.type,
        "uuid": entry.uuid,
        "versioned": entry.versioned,
        "created": entry.created,
        "codec": entry.codec,
        "custom": {name: value for name, value in entry.custom.items() if name != _CODEC},
    }


def _restore(cls: type[Handle], path: str, uuid: str | None, store: str) -> Handle:
    """Make a handle again from what was pickled of it; it binds when it is first used."""
    handle = cls.__new__(cls)
    namespace, name = paths.split(path)
    handle._set("_declaration", Declaration(store, namespace, name, uuid is None, True, True, cls.codec, 0, {}, uuid))
    return handle


restored = _restore
"""For the worker, which makes a handle of what it has claimed."""


def _is_shipped(codec: Codec) -> bool:
    try:
        return codecs.builtin_codec(codec.name) is codec
    except ValueError:
        return False
