"""No path of an object, and no argument of a command, reaches outside the store; no two namespaces are one on the disk."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import parkit
from parkit_async._core import output_files, paths
from parkit_async._core.registry import close_all
from parkit_async.cli import main

NASTY = st.sampled_from(
    [
        *("..", ".", "", "/", "\\", "\0", "~", "~root", "-rf", "con", "a:b", " ", "*", "$(id)", "%2e%2e%2f", "\n", "\x1b[31m", "\ud800"),
        *("\u202e", "\u2024\u2024", "\uff0f", "\u2215", "e\u0301", "\xe9", "\xdf", "SS", "\u0130", "\u212a", "K", "k"),
        *("x" * 129, "name", "data.mdb", "sockets", "output", "__process__"),
    ]
)
SEGMENTS = st.lists(NASTY | st.text(max_size=6), min_size=1, max_size=4).map("".join)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join)
FAST = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FAST
@given(PATHS)
@example("../" * 20 + "etc/passwd")
@example("/etc/passwd")
@example("a/\0/b")
def test_a_path_is_refused_or_lies_in_the_store(path: str) -> None:
    try:
        namespace, name = paths.split(path)
    except ValueError:
        return
    assert paths.join(namespace, name) in (path, path.removeprefix("default/"))
    folder = paths._directory_name(namespace)
    assert folder == os.path.basename(folder) and folder.isascii() and folder.isprintable()
    assert folder not in {".", "..", paths.SOCKETS, output_files.FOLDER} and not folder.startswith(".") and len(folder) <= 80
    assert not any(character in folder for character in '/\\:*?"<>|. ')
    assert name.isprintable() or all(character.isprintable() or unicodedata.category(character) not in ("Cc", "Cs") for character in name)


FORMS: list[Literal["NFC", "NFD", "NFKC", "NFKD"]] = ["NFC", "NFD", "NFKC", "NFKD"]
CHANGES: list[Callable[[str], str]] = [str.upper, str.lower, str.casefold, str.title, *(partial(unicodedata.normalize, form) for form in FORMS)]


@FAST
@given(st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), st.sampled_from(CHANGES))
def test_names_that_a_file_system_may_take_for_one_are_two(name: str, change: Callable[[str], str]) -> None:
    other = change(name)
    try:
        one, two = (paths._directory_name(paths.check_namespace(each)) for each in (name, other))
    except ValueError:
        return
    for form in FORMS:
        assert (unicodedata.normalize(form, one).casefold() == unicodedata.normalize(form, two).casefold()) == (name == other)


@settings(FAST, max_examples=40)
@given(st.lists(PATHS, min_size=1, max_size=4))
def test_what_is_opened_is_in_the_store_and_is_found_again(store: Path, tmp_path: Path, names: list[str]) -> None:
    before = sorted(os.listdir(tmp_path))
    opened = {}
    for name in names:
        try:
            d = parkit.Dict[str, Any](name)
            parkit.set_namespace_synchronous(d.namespace, "off")
        except ValueError:
            continue
        d["path"] = name
        opened[d.path] = name
    close_all()
    for path, name in opened.items():
        found = parkit.Dict[str, Any](path)["path"]
        assert found in (name, path) and found.removeprefix("default/") == path.removeprefix("default/")
    close_all()
    assert sorted(os.listdir(tmp_path)) == before
    assert {parent for parent, _, _ in os.walk(tmp_path)} <= {str(tmp_path), *map(str, store.parents), str(store), *(str(p) for p in store.iterdir())}


@FAST
@given(SEGMENTS | st.text(alphabet="0123456789abcdef/.", min_size=30, max_size=34))
def test_the_name_of_an_output_is_a_uuid_or_refused(uuid: str) -> None:
    try:
        path = output_files.output_path("/store", uuid)
    except ValueError:
        return
    assert os.path.normpath(path) == path == f"/store/output/{uuid}" and len(uuid) == 32


COMMANDS = ["get", "ls", "tail", "put", "stat", "verify", "compact", "logs", "kill", "ps"]
HOSTILE = ["../../../etc/passwd", "/etc/passwd", "a/../../b", "..", "a//b", "a/\x1b[2J", "./x", "x" * 200, "__process__"]


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_of_commands(command: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argument in HOSTILE:
        assert main([command, argument]) in (1, 2), argument
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert "\x1b" not in told.out + told.err
    assert os.listdir(tmp_path) == [store.name]
    assert [name for name in os.listdir(store) if name != paths.SOCKETS] == []
