"""The code in README and docs runs, and the files that their commands name are there.

Each document is one program: its Python blocks run from top to bottom in one namespace, in a process and a folder of their own, on an empty store,
with warnings as errors. Two conventions: a block that awaits at its top level runs on the document's event loop; a block with a file name behind the
word ``python`` is that file, saved where the later blocks find it, and not run by itself.
"""

from __future__ import annotations

import configparser
import importlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from parkit import killall, pool_status
from parkit_async._core.pool import diagram
from parkit_async._core.registry import close_all
from parkit_async._core.settings import PoolOptions
from tests.conftest import ROOT, RunScript

pytestmark = pytest.mark.processes

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "examples").glob("**/*.md")),
    *(page for page in sorted((ROOT / "docs").glob("**/*.md")) if "_build" not in page.parts),
]
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)$")
OURS = re.compile(r"(?:\./)?((?:examples|tests|docs|parkit|parkit_async)/\S+|\S+\.(?:py|md|toml))")

RUNNER = """
    import ast
    import asyncio
    import inspect
    import json
    import os
    import sys

    document, blocks, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    os.chdir(folder)
    sys.path.insert(0, folder)
    # The module that is __main__ is the blocks' namespace, so that what they define pickles as it would in a script of the reader's.
    namespace = sys.modules["__main__"].__dict__
    with asyncio.Runner() as runner:
        for line, name, source in blocks:
            if name:
                open(os.path.join(folder, name), "w").write(source)
                continue
            # The empty lines in front make a traceback point into the document.
            code = compile("\\n" * line + source, document, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, namespace)
            if inspect.iscoroutine(result):
                runner.run(result)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its opening fence, counted from 1, what stands behind that, and the text."""

    line: int
    language: str
    file: str
    source: str


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    first = 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            if opened := FENCE.match(line):
                first, lines = number, []
        elif line.strip().startswith(opened["fence"]) and not line.strip().strip(opened["fence"][0]):
            language, _, file = opened["info"].strip().partition(" ")
            blocks.append(Block(first, language, file.strip(), "".join(f"{each}\n" for each in lines)))
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    assert opened is None, f"the block that begins in line {first} does not end"
    return blocks


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_code_blocks_run(document: Path, run_script: RunScript, tmp_path: Path) -> None:
    blocks = [(block.line, block.file, block.source) for block in blocks_of(document.read_text()) if block.language == "python"]
    folder = tmp_path / "reader"
    folder.mkdir()
    try:
        run_script(RUNNER, document, json.dumps(blocks), folder, timeout=50, env={"PYTHONWARNINGS": "error"})
    finally:
        killall(5)  # a reader's pool stays; here nobody needs it any more
        close_all()
        pool_status()  # whoever opens a store removes the sockets that killed workers have left there


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_files_that_commands_name_are_there(document: Path) -> None:
    blocks = blocks_of(document.read_text())
    saved = {block.file for block in blocks}
    commands = [block for block in blocks if block.language in {"sh", "bash", "console"}]
    named = [(block.line, match[1]) for block in commands for word in shlex.split(block.source, comments=True) if (match := OURS.fullmatch(word))]
    missing = [f"line {line}: {path}" for line, path in named if path not in saved and not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_tests_that_a_document_names_are_there(document: Path) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", document.read_text())
    missing = [f"{file}::{test}" for file, test in named if not defines(ROOT / "tests" / file, test)]
    assert not missing


def test_the_states_of_a_worker_are_drawn_as_they_are() -> None:
    drawn = [block.source for block in blocks_of((ROOT / "docs" / "architecture.md").read_text()) if block.language == "mermaid"]
    assert drawn == [diagram()]


def test_the_drawing_has_every_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    drawing = importlib.import_module("drawing")
    drawn = ET.fromstring(drawing.draw(diagram()))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    arrows = [element for element in drawn.iter("{http://www.w3.org/2000/svg}path") if element.get("marker-end")]
    table = [line.split(" : ") for line in diagram().splitlines() if "-->" in line]
    assert len(arrows) == len(table) > 10
    assert texts[-len(table) :] == [events for _, events in table]


@pytest.mark.parametrize("face", ["parkit", "parkit_async"])
def test_every_public_name_is_in_the_reference(face: str) -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: (?:parkit|parkit_async)\.(\w+)$", pages, re.MULTILINE))
    assert set(importlib.import_module(face).__all__) <= documented
    assert set(re.findall(rf"^\.\. auto\w+:: {face}\.(\w+)$", pages, re.MULTILINE)) <= set(importlib.import_module(face).__all__)


def test_the_unit_and_the_container_file_are_what_they_look_like() -> None:
    text = (ROOT / "docs" / "howto" / "run-under-systemd-and-in-a-container.md").read_text()
    unit, recipe = (next(block.source for block in blocks_of(text) if block.language == language) for language in ("ini", "dockerfile"))
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service", "Install"]
    assert parser["Service"]["ExecStart"].split()[1:] == ["supervisor"]
    assert parser["Service"]["Type"] == "notify"
    assert {line.split()[0] for line in recipe.splitlines()} == {"FROM", "RUN", "USER", "ENV", "VOLUME", "CMD"}
    assert json.loads(recipe.splitlines()[-1].removeprefix("CMD ")) == ["parkit", "supervisor"]


def test_every_setting_is_listed_with_its_default() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (ROOT / "docs" / "settings.md").read_text().splitlines() if "|" in line]
    listed = {row[0].strip("`"): row for row in rows}
    assert {"PARKIT_STORAGE_PATH", "PARKIT_SYNCHRONOUS", "PARKIT_PROCESS_POOL_SIZE"} <= listed.keys()
    for option, default in PoolOptions()._asdict().items():
        row = listed["PARKIT_LOG_LEVEL" if option == "log_level" else f"PARKIT_PROCESS_{option.upper()}"]
        assert row[1] == f"`set_pool_options({option}=...)`"
        assert row[2] == ("16 MiB" if default == 16 << 20 else default if isinstance(default, str) else f"{default:g}")


def defines(file: Path, test: str) -> bool:
    """Tell whether a test file has a test of that name."""
    return file.exists() and re.search(rf"^\s*(?:async )?def {test}\(", file.read_text(), re.MULTILINE) is not None


class TestTheReaderOfBlocks:
    """A checker that sees nothing finds nothing wrong."""

    def test_reads_language_file_and_line(self) -> None:
        text = "a\n```python worker.py\nx = 1\n```\n\n  ```sh\n  ls\n  ```\n"
        assert blocks_of(text) == [Block(2, "python", "worker.py", "x = 1\n"), Block(6, "sh", "", "ls\n")]

    def test_refuses_a_block_without_an_end(self) -> None:
        with pytest.raises(AssertionError, match="line 1 does not end"):
            blocks_of("```python\nx = 1\n")

    def test_a_failing_block_fails_with_its_line(self, run_script: RunScript, tmp_path: Path) -> None:
        finished = run_script(RUNNER, "some.md", '[[41, "", "1 / 0\\n"]]', tmp_path, check=False)
        assert finished.exitcode == 1
        assert 'File "some.md", line 42' in finished.stderr
        assert "ZeroDivisionError" in finished.stderr

    def test_a_warning_fails(self, run_script: RunScript, tmp_path: Path) -> None:
        source = '[[1, "", "import warnings; warnings.warn(str(0))\\n"]]'
        assert run_script(RUNNER, "some.md", source, tmp_path, check=False, env={"PYTHONWARNINGS": "error"}).exitcode == 1

    def test_blocks_share_a_namespace_and_an_event_loop(self, run_script: RunScript, tmp_path: Path) -> None:
        first = "import asyncio\\nloop = asyncio.get_running_loop()\\nawait asyncio.sleep(0)\\n"
        second = "await asyncio.sleep(0)\\nprint(asyncio.get_running_loop() is loop)\\n"
        assert run_script(RUNNER, "some.md", f'[[1, "", "{first}"], [5, "", "{second}"]]', tmp_path).stdout == "True\n"
