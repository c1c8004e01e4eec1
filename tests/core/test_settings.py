"""Settings: one answer for functions and environment, absolute, inherited by what the process starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from parkit_async._core.settings import (
    check_pool_option,
    check_synchronous,
    default_pool_size,
    default_synchronous,
    get_storage_path,
    set_storage_path,
)
from tests.conftest import RunScript


def test_the_environment_sets_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_STORAGE_PATH", "/srv/elsewhere")
    assert get_storage_path() == "/srv/elsewhere"


def test_the_function_overrides_the_environment_and_takes_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_STORAGE_PATH", "/srv/elsewhere")
    set_storage_path(tmp_path / "a")
    assert get_storage_path() == str(tmp_path / "a")
    set_storage_path(str(tmp_path / "b" / ".." / "c"))
    assert get_storage_path() == str(tmp_path / "c")


@pytest.mark.parametrize("unset", [None, ""])
def test_without_a_setting_the_store_is_in_the_users_data_folder(unset: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if unset is None:
        monkeypatch.delenv("PARKIT_STORAGE_PATH")
    else:
        monkeypatch.setenv("PARKIT_STORAGE_PATH", unset)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert get_storage_path().startswith(str(tmp_path))
    assert Path(get_storage_path()).name == "parkit"
    assert not os.path.lexists(get_storage_path()), "asking must not create it"


def test_a_relative_path_stays_where_it_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_storage_path("mine")
    os.chdir("/")
    assert get_storage_path() == str(tmp_path / "mine")
    set_storage_path("mine")
    assert get_storage_path() == "/mine"


def test_a_relative_variable_stays_where_it_was_first_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARKIT_STORAGE_PATH", f"relative-{tmp_path.name}")
    first = get_storage_path()
    os.chdir("/")
    assert first == str(tmp_path / f"relative-{tmp_path.name}") == get_storage_path()


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    set_storage_path("~/store")
    assert get_storage_path() == str(tmp_path / "store")


@pytest.mark.parametrize(("wrong", "error"), [("", ValueError), ("a\0b", ValueError), (b"bytes", TypeError), (None, TypeError), (7, TypeError)])
def test_a_wrong_path_is_refused_and_changes_nothing(wrong: Any, error: type[Exception]) -> None:
    before = get_storage_path()
    with pytest.raises(error):
        set_storage_path(wrong)
    assert get_storage_path() == before


@pytest.mark.processes
def test_what_the_process_starts_uses_the_same_store(tmp_path: Path, run_script: RunScript) -> None:
    set_storage_path(tmp_path / "inherited")
    finished = run_script("from parkit_async._core.settings import get_storage_path; print(get_storage_path())")
    assert finished.stdout == f"{tmp_path / 'inherited'}\n"


@pytest.mark.processes
def test_a_chosen_store_does_not_pay_for_platformdirs(run_script: RunScript) -> None:
    source = "import sys; from parkit_async._core.settings import get_storage_path; get_storage_path(); print('platformdirs' in sys.modules)"
    assert run_script(source).stdout == "False\n"


@pytest.mark.parametrize("level", ["full", "normal", "off"])
def test_the_environment_sets_the_level(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", level)
    assert default_synchronous() == level


def test_the_level_is_full_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_synchronous() == "full"
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "")
    assert default_synchronous() == "full"


@pytest.mark.parametrize("wrong", ["FULL", "extra", " off", "0"])
def test_a_wrong_level_in_the_environment_names_variable_value_and_levels(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", wrong)
    with pytest.raises(ValueError) as caught:
        default_synchronous()
    for part in ("PARKIT_SYNCHRONOUS", repr(wrong), "'full'", "'normal'", "'off'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 1, True, b"full", ["full"], "Full"])
def test_a_wrong_level_in_a_call_names_its_parameter(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"^synchronous is "):
        check_synchronous(wrong)


@pytest.mark.parametrize("seconds", [10**400, 1e300, 1e10], ids=["10**400", "1e300", "1e10"])
@pytest.mark.parametrize("name", ["grace", "drain", "max_age"])
def test_times_that_nobody_can_wait_are_refused(name: str, seconds: float) -> None:
    """With such a grace period a process that left a thread behind lost its result: what ends its worker then could not be set."""
    with pytest.raises(ValueError, match=f"{name} is more than a billion seconds"):
        check_pool_option(name, seconds)


def test_a_pool_has_a_worker_for_each_processor_where_the_system_tells_of_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for processors, size in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda found=processors: found)
        assert default_pool_size() == size
