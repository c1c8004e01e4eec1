"""The blocking Object: what every class of the blocking face can do."""

# No `from __future__ import annotations`: help() shall print types, not their source.

from typing import Any

from parkit.typeddicts import Descriptor
from parkit_async._core import object_ops
from parkit_async._core.binding import Binding
from parkit_async._core.codecs import Codec
from parkit_async._core.doorbell import EVENT_ALL
from parkit_async._core.namespace import Namespace
from parkit_async._core.objects import Handle, check_attribute, is_persistent
from parkit_async._core.signatures import shown_as
from parkit_async._core.waiting import AGAIN, block, deadline_of, refuse_wait

__all__ = ["Object"]


class Object(Handle):
    """Something persistent, at a path, that any process on this machine can open.

    On its own it holds persistent attributes: ``counter.value = 1`` is stored and seen by everybody, while names that begin with an underscore, or
    that the class defines, belong to the instance. Every access is a transaction of its own, or part of the one that is open.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the object if it does not exist.
        bind: Open it if it does.
        versioned: Count its changes. The arguments of the creation win over those given later.
        codec: How values are stored; None is pickle.

    Raises:
        ObjectNotFoundError: ``create=False``, and there is none.
        ObjectExistsError: ``bind=False``, and there is one.
        TypeError: The path holds an object of another class.
        ValueError: The path is no path, or both create and bind are False.
        StoragePathError: The store cannot be used.
    """

    type_name = "parkit.Object"

    _binding: Binding

    @shown_as("(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True)")
    def __init__(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True, codec: Codec | None = None) -> None:
        self._declare(path, create, bind, versioned, codec)
        self._open()

    def _open(self) -> None:
        namespace = self._namespace()
        if not self._look(namespace):
            entry, created = self._create(namespace)
            self._bind_to(namespace, entry, created)

    def _create(self, namespace: Namespace) -> Any:
        return namespace.write(*self._creation())

    @property
    def _home(self) -> Namespace:
        """The open namespace."""
        return self._binding.namespace

    def __getattr__(self, name: str) -> Any:
        # Only names that the instance and its class lack come here.
        if name == "_binding":
            self._open()
            return self.__dict__["_binding"]
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return self.get_attribute(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if is_persistent(type(self), name):
            self.set_attribute(name, value)
        else:
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if is_persistent(type(self), name):
            self.delete_attribute(name)
        else:
            object.__delattr__(self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            return NotImplemented
        if not isinstance(other, Object):
            return other == self
        return self._binding.entry.uuid == other._binding.entry.uuid

    def __hash__(self) -> int:
        return hash(self._binding.entry.uuid)

    def attributes(self) -> list[str]:
        """Return the names of the persistent attributes, sorted."""
        names: list[str] = self._home.read(object_ops.attributes, self._binding)
        return names

    def get_attribute(self, name: str) -> Any:
        """Return a persistent attribute; raise AttributeError if there is none of that name."""
        return self._home.read(object_ops.get_attribute, self._binding, name)

    def set_attribute(self, name: str, value: Any) -> None:
        """Store a persistent attribute. What pickling raises comes out unchanged, with nothing stored."""
        binding = self._binding
        self._home.write(object_ops.set_attribute, binding, check_attribute(name), binding.encode(value))

    def delete_attribute(self, name: str) -> None:
        """Delete a persistent attribute; raise AttributeError if there is none of that name."""
        self._home.write(object_ops.delete_attribute, self._binding, name)

    @property
    def exists(self) -> bool:
        """Whether the object has not been dropped. Never raises ObjectNotFoundError."""
        return self._exists()

    @property
    def version(self) -> int:
        """How many committed transactions have changed the object; 0 for ever if it is not versioned."""
        version: int = self._home.read(object_ops.version, self._binding)
        return version

    @property
    def uuid(self) -> str:
        """What tells this object from any other, also from a later one at its path. Hexadecimal."""
        return self._binding.entry.uuid

    @property
    def descriptor(self) -> Descriptor:
        """What ``objects()`` tells of it."""
        descriptor: Descriptor = self._descriptor()
        return descriptor

    def drop(self) -> None:
        """Remove the object with all it holds. Every handle to it, in any process, then raises ObjectNotFoundError."""
        self._home.write(object_ops.drop, self._binding, self.name)

    def wait_changed(self, version: int, timeout: float | None = None) -> bool:
        """Block until the object's version is greater than ``version``.

        Args:
            version: One that was read before.
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it is; False when the time is over.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the caller's own.
            ObjectNotFoundError: The object was dropped, before or meanwhile.
            ValueError: It is not versioned, or the timeout is negative.
        """
        deadline = deadline_of(timeout)
        attempt = self._version_attempt(version)
        if attempt() is AGAIN:
            if timeout == 0:
                return False
            refuse_wait(self.path, "wait_changed()")
            return block(self._binding, EVENT_ALL, attempt, deadline) is not AGAIN
        return True
