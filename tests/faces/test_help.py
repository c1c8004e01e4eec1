"""What a user finds by looking: help(), ``__all__``, and that the two faces have the same names, parameters and defaults."""

from __future__ import annotations

import importlib
import inspect
import pydoc
from typing import Any

import pytest

import parkit
import parkit_async
from parkit_async._core.objects import Handle

ONLY_AWAITABLE = {"QueueEmpty", "QueueFull", "QueueShutDown", "aclose", "lifespan"}
"""Names that have their counterpart in the standard library on the blocking face, or that begin and end what only an event loop has."""

KINDS = ("Dict", "Queue", "LifoQueue", "Log", "Object", "Process")
OPERATORS = {  # what the awaitable face has a method for, since an operator cannot be awaited
    "__contains__", "__delitem__", "__getitem__", "__iter__", "__len__", "__reversed__", "__setitem__", "__aiter__", "__await__",
}  # fmt: skip


def shown(thing: Any) -> str:
    return pydoc.plain(pydoc.render_doc(thing, title="Help on %s"))


# The documented output.


def test_help_of_objects() -> None:
    lines = shown(parkit.objects).splitlines()
    assert lines[0] == "Help on function objects in module parkit.storage.namespace"
    assert lines[2] == "objects(namespace: Union[str, NoneType] = None) -> Iterator[Tuple[str, parkit.typeddicts.Descriptor]]"


def test_help_of_Dict___init__() -> None:
    lines = shown(parkit.Dict.__init__).splitlines()
    assert lines[0] == "Help on function __init__ in module parkit.adapters.dict"
    assert lines[2:] == [
        "__init__(self, path: str, /, *, create: bool = True, bind: bool = True, versioned: bool = True)",
        "    Initialize self.  See help(type(self)) for accurate signature.",
    ]


def test_help_of_Process___init__() -> None:
    lines = shown(parkit.Process.__init__).splitlines()
    assert lines[0] == "Help on function __init__ in module parkit.adapters.process"
    signature = "".join(f"{line.strip()} " for line in lines[2:-1])  # over several lines, from Python 3.13 on
    names = ("path: str | None = None", "create: bool = True", "bind: bool = True", "versioned: bool = True", "target: ", "args: ", "kwargs: ")
    places = [signature.index(name) for name in names]
    assert signature.startswith("__init__(") and places == sorted(places)
    assert lines[-1] == "    Initialize self.  See help(type(self)) for accurate signature."


@pytest.mark.parametrize(
    "name", ["parkit.adapters.dict", "parkit.adapters.process", "parkit.pool", "parkit.syslog", "parkit.storage.namespace", "parkit.typeddicts"]
)
def test_the_modules_that_help_shows_are_real(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


@pytest.mark.parametrize("module", [parkit, parkit_async], ids=lambda module: module.__name__)
def test_everything_public_is_documented(module: Any) -> None:
    for name in module.__all__:
        thing = getattr(module, name)
        if not callable(thing):
            continue
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing) and issubclass(thing, Handle):
            for method in public(thing):
                member = getattr(thing, method)
                assert inspect.getdoc(member) or not (callable(member) or isinstance(member, property)), f"{name}.{method}"


# Names.


@pytest.mark.parametrize("module", [parkit, parkit_async], ids=lambda module: module.__name__)
def test___all___is_sorted_complete_and_true(module: Any) -> None:
    assert list(module.__all__) == sorted(module.__all__) and len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        getattr(module, name)
    assert set(module.__all__) <= set(dir(module))


def test_every_public_name_exists_in_both_faces() -> None:
    assert set(parkit_async.__all__) - ONLY_AWAITABLE == set(parkit.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "Dict", "LifoQueue", "Log", "Object", "Queue", "get_namespace_size", "namespaces", "objects", "set_namespace_size", "transaction", "snapshot",
        "ContextError", "ObjectExistsError", "ObjectNotFoundError", "TransactionError",
        "Process", "ProcessCrashedError", "ProcessError", "ProcessPriority", "RemoteError", "SyslogHandler", "clean", "get_pool_options",
        "get_pool_size", "killall", "pool_status", "processes", "set_pool_options", "set_pool_size", "set_process_priority", "syslog",
    ],
)  # fmt: skip
def test_every_documented_name_is_public(name: str) -> None:
    assert name in parkit.__all__ and name in parkit_async.__all__


def test_what_is_not_a_class_or_function_of_a_face_is_the_same_in_both() -> None:
    for name in parkit.__all__:
        left, right = getattr(parkit, name), getattr(parkit_async, name)
        if inspect.isclass(left) and issubclass(left, Exception):
            assert left is right, name
    for name in (
        "Codec",
        "DeadLetter",
        "Output",
        "ProcessPoolExecutor",
        "ProcessPriority",
        "SyslogHandler",
        "Statistics",
        "json_codec",
        "pickle_codec",
        "raw_codec",
        "cloudpickle_codec",
        "get_storage_path",
        "set_storage_path",
    ):
        assert getattr(parkit, name) is getattr(parkit_async, name), name


# Parameters.


def public(cls: Any) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", [name for name in parkit.__all__ if inspect.isfunction(getattr(parkit, name))] + ["transaction", "snapshot", *KINDS])
def test_functions_and_constructors_have_the_same_parameters_and_defaults(name: str) -> None:
    left, right = getattr(parkit, name), getattr(parkit_async, name)
    if inspect.isclass(left):
        left, right = left.__init__, right.__init__
    assert parameters(left) == parameters(right)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_have_the_same_members_with_the_same_parameters_and_defaults(kind: str) -> None:
    left, right = getattr(parkit, kind), getattr(parkit_async, kind)
    assert public(left) == public(right)
    for name in public(left):
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(inspect.getattr_static(left, name), property):
            assert isinstance(inspect.getattr_static(right, name), property), name
        elif inspect.isfunction(one):
            assert inspect.isfunction(other) and parameters(one) == parameters(other), name
        else:
            assert one == other, name


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_is_awaited_and_what_only_iterates_is_iterated(kind: str) -> None:
    cls = getattr(parkit_async, kind)
    iterated = {"keys", "values", "items", "irange", "follow"}
    at_once = {"info"}
    for name in public(cls):
        member = inspect.getattr_static(cls, name)
        if inspect.isfunction(member):
            assert inspect.iscoroutinefunction(member) != (name in iterated | at_once), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_operator_of_the_blocking_face_has_its_method(kind: str) -> None:
    methods = {"__getitem__": "get", "__setitem__": "set", "__delitem__": "delete", "__contains__": "contains", "__len__": "len"}
    for operator in methods.keys() & set(dir(getattr(parkit, kind))):
        for module in (parkit, parkit_async):
            assert callable(getattr(getattr(module, kind), methods[operator])), (kind, operator)


def test_importing_a_face_starts_no_thread_and_opens_nothing(run_script: Any) -> None:
    for name in ("parkit", "parkit_async"):
        found = run_script(f"""
            import os, sys, threading
            before = set(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else set()
            import {name}
            for public in {name}.__all__:
                getattr({name}, public)
            after = set(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else set()
            print(threading.active_count(), len(after) - len(before), {name!r} != "parkit" or "asyncio" not in sys.modules)
        """)
        assert found.stdout.split() == ["1", "0", "True"]


def test_functions_of_the_pool_are_awaited_and_lists_are_iterated() -> None:
    for name in parkit.__all__:
        function = getattr(parkit_async, name)
        if inspect.isfunction(function) and function.__module__ == "parkit_async.pool":
            assert inspect.iscoroutinefunction(function) != inspect.isasyncgenfunction(function), name
            assert inspect.isasyncgenfunction(function) == (name == "processes"), name


def test_a_signature_that_is_shown_is_the_same_however_it_is_asked_for() -> None:
    signature: Any = inspect.signature(parkit.objects)
    text = "(namespace: Union[str, NoneType] = None) -> Iterator[Tuple[str, parkit.typeddicts.Descriptor]]"
    assert str(signature) == signature.format(max_width=10) == text
    assert list(signature.parameters) == ["namespace"]
