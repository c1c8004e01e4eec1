"""The program of a process: what it says of folders that are gone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from parkit_async._core import program


def test_a_program_whose_working_folder_is_gone_works_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setattr(sys, "path", ["", "lib", "/abs"])
    digest, description = program.program()
    assert json.loads(description)["folder"] == str(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    other, description = program.program()
    assert other != digest
    assert json.loads(description) == {"executable": sys.executable, "folder": "/", "path": ["/", "/lib", "/abs"]}


def test_a_worker_enters_a_program_whose_folder_is_gone_by_way_of_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    search = sys.path
    program.enter({"path": [str(tmp_path), *search], "folder": str(tmp_path / "gone")})
    assert os.getcwd() == "/"
    assert sys.path is search and search[0] == str(tmp_path)
    program.enter({"path": list(search), "folder": str(tmp_path)})
    assert os.getcwd() == str(tmp_path)
