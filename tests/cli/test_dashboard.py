"""The command ``dashboard``: its help, and what it says when it cannot."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Pipe, Run, environment
from tests.conftest import ROOT

Pipes = Callable[..., Pipe]


def test_the_help_says_where_it_is_and_who_comes_in(run: Run) -> None:
    text = run("dashboard", "--help").stdout
    for words in ("--host", "--read-only", "--token-lifetime", "127.0.0.1", "7275", "/metrics", "Examples"):
        assert words in text


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = run("dashboard", "--port", port, code=1)
    assert finished.stderr == f"parkit: 127.0.0.1, port {port}, cannot be listened on: Address already in use. --port 0 takes a free port.\n"
    assert "cannot be listened on" in run("dashboard", "--host", "192.0.2.1", "--port", 0, code=1).stderr


def test_a_token_that_can_be_guessed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_DASHBOARD_TOKEN", "short")
    finished = run("dashboard", "--port", 0, code=1)
    assert "5 characters can be guessed" in finished.stderr and "PARKIT_DASHBOARD_TOKEN" in finished.stderr
    (tmp_path / "token").write_text("\n")
    assert str(tmp_path / "token") in run("dashboard", "--port", 0, "--token-file", tmp_path / "token", code=1).stderr
    assert "--token-lifetime" in run("dashboard", "--token-lifetime", 0, code=2).stderr


def test_a_store_that_cannot_be_used(run: Run, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    finished = run("--store", loose, "dashboard", "--port", 0, code=1)
    assert finished.stderr.count("\n") == 1 and "chmod" in finished.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from parkit_async.cli import main; sys.exit(main(['dashboard', '--port', '0']))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert finished.returncode == 1
    assert finished.stderr == "parkit: the dashboard needs uvicorn, which is not installed; run: pip install 'parkit[dashboard]'.\n"


@pytest.mark.processes
def test_for_others_it_prints_a_token_and_a_warning(pipe: Pipes) -> None:
    shown = pipe("dashboard", "--host", "0.0.0.0", "--port", 0)
    line = shown.read_line()
    assert line.startswith(f"http://{socket.gethostname()}:") and "/?token=" in line
    finished = shown.interrupt()
    assert finished.exitcode == 130 and "HTTPS" in finished.stderr


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="elsewhere the token is needed, and printed")
def test_for_its_own_user_it_prints_the_address_alone(pipe: Pipes) -> None:
    shown = pipe("dashboard", "--port", 0)
    assert shown.read_line().rpartition(":")[0] == "http://127.0.0.1"
    assert shown.interrupt().exitcode == 130
