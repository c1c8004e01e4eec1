"""The awaitable Object: what every class of the awaitable face can do."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

from ._core import object_ops
from ._core.binding import Binding
from ._core.codecs import Codec
from ._core.doorbell import EVENT_ALL
from ._core.namespace import Namespace
from ._core.objects import Handle, check_attribute, is_persistent
from ._core.registry import opened
from ._core.waiting import AGAIN, deadline_of, refuse_wait
from .budget import meter, pause
from .operations import read, write
from .runtime import current_runtime

if TYPE_CHECKING:
    from parkit.typeddicts import Descriptor

__all__ = ["Object", "read_attempt"]


class Object(Handle):
    """Something persistent, at a path, that any process on this machine can open: ``counter = await Object("shop/counter")``.

    On its own it holds persistent attributes: ``await counter.set_attribute("value", 1)``, ``await counter.value``. Every access is a transaction of
    its own, or part of the one that is open. A handle that was not awaited opens its object when it is first used.

    Awaiting it, or a call, raises CancelledError only if the call has not happened.

    Args:
        path: ``namespace/name``; without a ``/`` the namespace is ``default``.
        create: Create the object if it does not exist.
        bind: Open it if it does.
        versioned: Count its changes. The arguments of the creation win over those given later.
        codec: How values are stored; None is pickle.

    Raises:
        TypeError, ValueError: At once: see the blocking class.
        ObjectNotFoundError, ObjectExistsError, TypeError, StoragePathError: When it is opened.
    """

    type_name = "parkit.Object"

    _binding: Binding | None = None

    def __init__(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True, codec: Codec | None = None) -> None:
        self._declare(path, create, bind, versioned, codec)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def _open(self) -> Self:
        if self._binding is None:
            await self._bind()
        return self

    async def _bind(self) -> Binding:
        declaration = self._declaration
        namespace = opened(declaration.namespace, declaration.store)
        if namespace is None or namespace.closed:
            key = ("bind", declaration.store, declaration.namespace, declaration.create)
            namespace = await current_runtime().in_thread(key, self._namespace)
        if not self._look(namespace):
            entry, created = await self._create(namespace)
            if self._binding is None:
                self._bind_to(namespace, entry, created)
        return self._bound()

    async def _create(self, namespace: Namespace) -> Any:
        return await write(namespace, *self._creation())

    def __getattr__(self, name: str) -> Any:
        # Only names that the instance and its class lack come here.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return self.get_attribute(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if is_persistent(type(self), name):
            raise AttributeError(f"an assignment cannot be awaited: use `await obj.set_attribute({name!r}, ...)`", name=name, obj=self)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if is_persistent(type(self), name):
            raise AttributeError(f"a deletion cannot be awaited: use `await obj.delete_attribute({name!r})`", name=name, obj=self)
        object.__delattr__(self, name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            return NotImplemented
        return self._bound().entry.uuid == other._bound().entry.uuid

    def __hash__(self) -> int:
        return hash(self._bound().entry.uuid)

    async def attributes(self) -> list[str]:
        """Return the names of the persistent attributes, sorted."""
        binding = self._binding or await self._bind()
        names: list[str] = await read(binding.namespace, object_ops.attributes, binding)
        return names

    async def get_attribute(self, name: str) -> Any:
        """Return a persistent attribute; raise AttributeError if there is none of that name."""
        binding = self._binding or await self._bind()
        return await read(binding.namespace, object_ops.get_attribute, binding, name)

    async def set_attribute(self, name: str, value: Any) -> None:
        """Store a persistent attribute. What pickling raises comes out unchanged, with nothing stored."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, object_ops.set_attribute, binding, check_attribute(name), binding.encode(value))

    async def delete_attribute(self, name: str) -> None:
        """Delete a persistent attribute; raise AttributeError if there is none of that name."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, object_ops.delete_attribute, binding, name)

    @property
    def exists(self) -> bool:
        """Whether the object has not been dropped. Never raises ObjectNotFoundError. Need not be awaited, like all properties: a read never waits."""
        return self._exists()

    @property
    def version(self) -> int:
        """How many committed transactions have changed the object; 0 for ever if it is not versioned."""
        binding = self._bound()
        version: int = binding.namespace.read(object_ops.version, binding)
        return version

    @property
    def uuid(self) -> str:
        """What tells this object from any other, also from a later one at its path. Hexadecimal."""
        return self._bound().entry.uuid

    @property
    def descriptor(self) -> Descriptor:
        """What ``objects()`` tells of it."""
        descriptor: Descriptor = self._descriptor()
        return descriptor

    async def drop(self) -> None:
        """Remove the object with all it holds. Every handle to it, in any process, then raises ObjectNotFoundError."""
        binding = self._binding or await self._bind()
        await write(binding.namespace, object_ops.drop, binding, self.name)

    async def wait_changed(self, version: int, timeout: float | None = None) -> bool:
        """Wait until the object's version is greater than ``version``.

        Args:
            version: One that was read before.
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it is; False when the time is over.

        Raises:
            ContextError: It would have to wait inside a transaction or snapshot of the task's own.
            ObjectNotFoundError: The object was dropped, before or meanwhile.
            ValueError: It is not versioned, or the timeout is negative.
        """
        binding = self._binding or await self._bind()
        return await self._wait(binding, EVENT_ALL, self._version_attempt(version), timeout, "wait_changed()")

    async def _wait(self, binding: Binding, event: int, attempt: Any, timeout: float | None, what: str) -> bool:
        """Wait until ``attempt``, which only reads, returns something other than AGAIN; return whether it did in time."""
        deadline = deadline_of(timeout)

        async def look() -> Any:
            return attempt()

        if await read_attempt(attempt) is AGAIN:
            if timeout == 0:
                return False
            refuse_wait(self.path, what)
            return await current_runtime().wait(binding, event, look, deadline) is not AGAIN
        return True


async def read_attempt(attempt: Any) -> Any:
    """Make the first attempt, giving way to the loop if it is time."""
    meter.left -= 1
    if meter.left < 0:
        await pause()
    return attempt()
