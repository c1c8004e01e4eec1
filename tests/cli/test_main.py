"""The command as a whole: exit codes, errors, help, completion, and what importing parkit costs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import parkit
from parkit import Dict, Log
from parkit_async.cli import cli, main, render
from parkit_async.cli.parameters import Command
from tests.cli.conftest import Pipe, Run, environment
from tests.conftest import ROOT, RunScript

COMMANDS = cli.list_commands(click.Context(cli))


def test_every_module_is_shorter_than_500_lines() -> None:
    for path in (ROOT / "parkit_async" / "cli").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path


# Usage.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lss"], "there is no command 'lss'. Did you mean 'ls'?"),
        (["zzzzzz"], "there is no command 'zzzzzz'."),
        (["ls", "--jsn"], "--json"),
        (["get"], "Missing argument"),
        (["get", "--nonsense", "x"], "--nonsense"),
        (["get", "/x"], "is empty"),
        (["get", "a/__x__"], "kept for parkit itself"),
        (["ls", "a//b"], "is empty"),
        (["ls", "--store", "x"], "--store stands before the command: parkit --store ... ls"),
        (["tail", "-n", "x", "log"], "'x' is not a valid"),
        (["tail", "-n", "-1", "log"], "-1"),
        (["backup"], "Missing argument 'DEST'"),
        (["completion", "tcsh"], "tcsh"),
        (["--store", "", "ls"], "is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str], said: str) -> None:
    finished = run(*arguments, code=2)
    assert finished.stdout == ""
    assert finished.stderr.startswith("parkit: ") and finished.stderr.count("\n") == 1, finished.stderr
    assert said in finished.stderr
    assert "--help" in finished.stderr


def test_no_command_shows_the_help(run: Run) -> None:
    assert "Commands:" in run(code=2).stderr


def test_the_version(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"parkit {version('parkit')}\n"


# Errors.


def test_an_error_is_one_line_with_the_remedy(run: Run, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    finished = run("--store", loose, "ls", code=1)
    assert finished.stderr.count("\n") == 1 and "chmod" in finished.stderr and "Traceback" not in finished.stderr


def test_debugging_shows_where_it_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_DEBUG", "1")
    with pytest.raises(click.ClickException):
        run("get", "nothing")


def test_what_was_not_foreseen_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("deep inside")

    monkeypatch.setattr("parkit_async.cli.data.known_namespaces", fail)
    assert run("ls", code=1).stderr == "parkit: LookupError: deep inside. This was not foreseen; PARKIT_DEBUG=1 shows where it came from.\n"


def test_an_interrupt_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("parkit_async.cli.data.known_namespaces", interrupt)
    finished = run("ls", code=130)
    assert "Traceback" not in finished.stderr and finished.stdout == ""


def test_a_wrong_setting_names_its_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "sometimes")
    assert "PARKIT_SYNCHRONOUS is 'sometimes'" in run("put", "--create", "log", "log", "x", code=1).stderr


# --store.


def test_the_store_can_be_named(run: Run, tmp_path: Path, store: Path) -> None:
    run("--store", tmp_path / "other", "put", "--create", "log", "log", "x")
    assert (tmp_path / "other").is_dir() and list(store.iterdir()) == []


# Help.


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(run: Run, name: str) -> None:
    text = run(name, "--help").stdout
    assert text.startswith(f"Usage: parkit {name}") and "Examples:" in text and f"parkit {name}" in text.split("Examples:")[1]
    assert max(map(len, text.splitlines())) <= 110


def _examples() -> list[str]:
    context = click.Context(cli, info_name="parkit")
    commands = [cli.get_command(context, name) for name in COMMANDS]
    return [line for command in commands if isinstance(command, Command) for line, _ in command.examples]


@pytest.mark.parametrize("line", _examples())
def test_the_examples_of_the_help_can_be_typed(line: str) -> None:
    import shlex

    program, *words = shlex.split(line.split("$(")[0])
    assert program == "parkit"
    if words[0] == "--store":
        words = words[2:]
    context = click.Context(cli, info_name="parkit")
    command = cli.get_command(context, words[0])
    assert command is not None
    if "$(" not in line:
        command.make_context(words[0], words[1:], parent=context)


# Completion.


def complete(words: str, store: Path) -> list[str]:
    """Return what bash would be told for a line that ends where the cursor is."""
    finished = subprocess.run(
        [sys.executable, "-m", "parkit"],
        env=environment(
            _PARKIT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1), PARKIT_STORAGE_PATH=str(store)
        ),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert finished.stderr == ""
    return [line.split(",", 1)[1] for line in finished.stdout.split()]


@pytest.mark.processes
def test_completion(store: Path, tmp_path: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    Dict[str, int]("shop/eu/stock")["tea"] = 1
    Log[int]("history").append(1)
    assert complete("parkit l", store) == ["ls", "logs"]
    assert complete("parkit get ", store) == ["history", "shop/", "shop/eu/"]
    assert sorted(complete("parkit get shop/", store)) == ["shop/eu/", "shop/stock"]
    assert complete("parkit get shop/eu/s", store) == ["shop/eu/stock"]
    assert complete("parkit stat s", store) == ["shop", "shop/eu"]
    # Whatever is wrong, whoever presses TAB sees nothing of it.
    assert complete("parkit get x", tmp_path / "nothing") == []
    assert not (tmp_path / "nothing").exists()
    store.chmod(0o777)
    assert complete("parkit get s", store) == []


@pytest.mark.processes
def test_completion_looks_into_the_store_that_is_named(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(["--store", str(other), "put", "--create", "log", "elsewhere", "x"]) == 0
    assert complete(f"parkit --store {other} get e", store) == ["elsewhere"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_understand_their_script(run: Run, shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_PARKIT_COMPLETE" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=30)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes(run: Run, store: Path, tmp_path: Path) -> None:
    Dict[str, int]("shop/stock")["tea"] = 1
    command = tmp_path / "bin" / "parkit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m parkit "$@"\n')
    command.chmod(0o755)
    script = tmp_path / "completion.bash"
    script.write_text(run("completion", "bash").stdout)
    lines = f'source {script}; COMP_WORDS=(parkit get shop/st) COMP_CWORD=2; _parkit_completion parkit; echo "${{COMPREPLY[@]}}"'
    found = subprocess.run(
        ["bash", "-c", lines], env=environment(PATH=f"{command.parent}{os.pathsep}{os.environ['PATH']}"), capture_output=True, text=True, timeout=30
    )
    assert found.stdout.split() == ["shop/stock"], found.stderr


# What it costs those who do not use it.


@pytest.mark.processes
def test_importing_parkit_imports_neither_click_nor_rich(run_script: RunScript) -> None:
    finished = run_script("import sys, parkit, parkit_async; print([name for name in sys.modules if name.split('.')[0] in ('click', 'rich')])")
    assert finished.stdout == "[]\n"


@pytest.mark.processes
def test_a_pipe_needs_no_rich(run_script: RunScript) -> None:
    finished = run_script("import sys; from parkit_async.cli import main; main(['ls']); print('rich' in sys.modules, file=sys.stderr)")
    assert finished.stderr == "False\n"


def test_the_command_is_installed() -> None:
    from importlib.metadata import entry_points

    found = [entry for entry in entry_points(group="console_scripts") if entry.name == "parkit"]
    assert found[0].load() is main
    assert parkit.__name__ == "parkit"


# Pipes that close.


@pytest.mark.processes
def test_a_reader_that_goes_away_is_no_error(pipe: type[Pipe]) -> None:
    Log[str]("log").extend(["x" * 1000] * 5000)
    command = pipe("get", "log")
    command.read_line()
    assert command.process.stdout is not None
    command.process.stdout.close()
    assert command.process.stderr is not None
    assert command.process.stderr.read() == b""
    assert command.process.wait(30) == 141


# Rendering.


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), ((1 << 30) - 1, "1.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_bytes_as_people_say_them(number: int, text: str) -> None:
    assert render.human_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h")]
)
def test_ages_as_people_say_them(seconds: float, text: str) -> None:
    assert render.human_age(seconds) == text


def test_deep_values_are_cut_off() -> None:
    value: list[object] = []
    for _ in range(150):
        value = [value]
    assert "[" in str(render.plain(value))
