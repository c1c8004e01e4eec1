"""Whatever text a variable of the environment holds, reading the setting gives a value that can be used, or an error that names the variable."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import parkit
from parkit_async._core import paths
from parkit_async._core.registry import close_all
from parkit_async._core.settings import PoolOptions, Synchronous, check_pool_option, default_synchronous, get_storage_path
from parkit_async.cli import main
from tests.conftest import ROOT, RunScript

pytestmark = pytest.mark.timeout(20)

FAST = settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONS = {"PARKIT_LOG_LEVEL" if name == "log_level" else f"PARKIT_PROCESS_{name.upper()}": name for name in PoolOptions._fields}
VARIABLES = ["PARKIT_STORAGE_PATH", "PARKIT_SYNCHRONOUS", "PARKIT_PROCESS_POOL_SIZE", *OPTIONS, "PARKIT_DASHBOARD_TOKEN"]

NUMBERS = ("0", "-0", "-1", "1_0", "+7", " 5 ", "\u0665", "1e3", "1e400", "-inf", "nan", "0x10", "1024", "1025", "9" * 400, "9" * 5000)
NAMES = ("full", "OFF", "info", "warn", "\u0131nfo", "None", "%s", "{}", "~", "~root", "~nobody-at-all/x", "~\udcff", "..", "/", "/" * 300)
NASTY = (*NUMBERS, *NAMES, "\x1b[31m", "\r\n", "\udcff\udcfe" * 10, "x" * 5000)
# What an environment can hold: bytes without NUL, which Python shows as text.
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
BYTES = st.binary().map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
TEXTS = WORDS | BYTES


@contextmanager
def named_if_refused(variable: str) -> Iterator[None]:
    """See that whatever error comes is a ValueError as such (none of its heirs, as of a codec) or parkit's own, and names the variable."""
    refused = None
    try:
        yield
    except (ValueError, parkit.ParkitError) as error:
        refused = error
    assert refused is None or type(refused) is ValueError or isinstance(refused, parkit.ParkitError), refused
    # That of a token is named by the command, see below.
    assert refused is None or variable in str(refused) or variable == "PARKIT_DASHBOARD_TOKEN", refused


def read(variable: str) -> None:
    """Read a setting as whoever needs it does, and see that the value can be used."""
    if variable == "PARKIT_STORAGE_PATH":
        assert os.path.isabs(get_storage_path())
    elif variable == "PARKIT_SYNCHRONOUS":
        assert default_synchronous() in get_args(Synchronous)
    elif variable == "PARKIT_PROCESS_POOL_SIZE":
        assert 0 <= parkit.get_pool_size() <= 1024
    elif variable == "PARKIT_DASHBOARD_TOKEN":
        access = pytest.importorskip("parkit_async.dashboard.access")
        token = os.environ[variable] or None
        assert access.Access(token).matches(token or "") == (token is not None)
    else:
        value = parkit.get_pool_options()[OPTIONS[variable]]
        assert check_pool_option(OPTIONS[variable], value) == value


def test_these_are_the_variables_that_are_documented() -> None:
    assert sorted(VARIABLES) == sorted(set(re.findall(r"^\| `(PARKIT_\w+)`", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)))


@pytest.mark.parametrize("variable", VARIABLES)
def test_any_text_is_a_setting_or_an_error_that_names_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(text: str) -> None:
        monkeypatch.setenv(variable, text)
        with named_if_refused(variable):
            read(variable)

    for text in NASTY:
        check(text)
    FAST(given(TEXTS)(check))()


def test_the_command_says_where_a_token_that_is_no_text_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a token was taken, and each request with a token then failed with a UnicodeEncodeError."""
    pytest.importorskip("parkit_async.dashboard.access")
    monkeypatch.setenv("PARKIT_DASHBOARD_TOKEN", "\udcff" * 16)
    assert main(["dashboard", "--port", "0"]) == 1
    assert "no UTF-8. It is that of PARKIT_DASHBOARD_TOKEN" in capsys.readouterr().err
    (tmp_path / "token").write_bytes(b"\xff" * 16)
    assert main(["dashboard", "--port", "0", "--token-file", str(tmp_path / "token")]) == 1
    assert f"no UTF-8. It is that of {tmp_path / 'token'}" in capsys.readouterr().err


TAILS = (TEXTS | st.sampled_from(NASTY)).map(lambda text: "/".join(segment for segment in text[:300].split("/")[:20] if segment != ".."))


@settings(FAST, max_examples=12)
@given(TAILS)
@example("\udcff")
@example("x" * 300)
def test_any_path_below_a_folder_is_a_store_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: str) -> None:
    """A path that was no text failed with a UnicodeEncodeError."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    monkeypatch.setenv("PARKIT_STORAGE_PATH", f"{tmp_path}/any/{tail}")
    try:
        with named_if_refused("PARKIT_STORAGE_PATH"):
            parkit.Dict[str, int]("ns/d")["k"] = 1
            assert parkit.Dict[str, int]("ns/d")["k"] == 1
    finally:
        close_all()


@pytest.mark.parametrize("kind", ["file", "below a file", "link to nothing", "link to itself"])
def test_a_path_where_something_else_is_names_the_variable(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link to nothing").symlink_to("missing")
    (tmp_path / "link to itself").symlink_to("link to itself")
    parkit.set_storage_path(tmp_path / kind.replace("below a file", "file/store"))
    with pytest.raises(parkit.StoragePathError, match="PARKIT_STORAGE_PATH"):
        parkit.Dict[str, int]("ns/d")


def test_a_path_that_is_too_long_makes_no_folders_on_its_way(tmp_path: Path) -> None:
    parkit.set_storage_path(f"{tmp_path}/any/{'d/' * 2500}")
    with pytest.raises(parkit.StoragePathError, match="too long"):
        parkit.Dict[str, int]("ns/d")
    assert not (tmp_path / "any").exists()


def test_a_path_that_is_no_text_is_refused_before_anything_is_made_and_behind_a_link(tmp_path: Path) -> None:
    path = tmp_path / "\udcff"
    parkit.set_storage_path(path)
    with pytest.raises(parkit.StoragePathError, match="is no text in this system's encoding"):
        parkit.Dict[str, int]("ns/d")
    assert not path.exists()
    path.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(path)
    parkit.set_storage_path(tmp_path / "link")
    with pytest.raises(parkit.StoragePathError, match="is no text in this system's encoding"):
        parkit.Dict[str, int]("ns/d")
    assert os.listdir(path) == []


def test_a_path_may_be_deeper_than_python_recurses(tmp_path: Path) -> None:
    """It failed with a RecursionError."""
    path = f"{tmp_path}/any{'/d' * 300}"
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        assert str(paths.open_store(path)) == path
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.processes
def test_a_relative_path_whose_working_folder_is_gone(tmp_path: Path, run_script: RunScript) -> None:
    """It was a FileNotFoundError that said nothing of a setting."""
    (tmp_path / "gone").mkdir()
    source = """
        import os, sys
        import parkit
        os.chdir(sys.argv[1])
        os.rmdir(sys.argv[1])
        for use in (lambda: parkit.Dict("ns/d"), lambda: parkit.set_storage_path("relative")):
            try:
                use()
            except parkit.StoragePathError as error:
                print("PARKIT_STORAGE_PATH is 'relative'" in str(error) and "give an absolute path" in str(error))
    """
    assert run_script(source, tmp_path / "gone", env={"PARKIT_STORAGE_PATH": "relative"}).stdout == "True\nTrue\n"
