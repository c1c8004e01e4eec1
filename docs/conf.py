"""How the pages are built: ``nox -s docs``. The Markdown files read as well without being built; what they need of that is done here."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from drawing import draw

from parkit_async.cli import cli

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "parkit"
author = "parkit contributors"
project_copyright = "parkit contributors, MIT licence"
release = importlib.metadata.version("parkit")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "parkit"
html_static_path = ["static"]
html_css_files = ["parkit.css"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.xref_missing"]  # links to files outside of docs/ work in the repository; tests/test_docs.py checks them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

_MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_OUTSIDE = re.compile(r"\]\((?:\.\./)+((?:examples|tests|parkit|parkit_async|README|CHANGELOG|CONTRIBUTING)[^)]*)\)")
_PATH_AND_FILE = re.compile(r"^```python (\S+)$", re.MULTILINE)


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Draw the state diagrams, name the files that blocks are saved as, and leave out links to what is not among the pages."""
    if name == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
    if name == "reference/command-line":
        source[0] += "\n".join(commands(cli, ["parkit"]))
    text = _MERMAID.sub(lambda found: "```{raw} html\n<div class='wide'>" + draw(found[1]) + "</div>\n```\n", source[0])
    text = _PATH_AND_FILE.sub(lambda found: f"*{found[1]}*\n\n```python", text)
    source[0] = re.sub(r"\[([^\]]*)" + _OUTSIDE.pattern, r"\1 (`\2`)", text)


def commands(command: click.Command, words: list[str]) -> Iterator[str]:
    """Yield a section for a command, with what its ``--help`` prints, and for each of those below it."""
    context = click.Context(command, info_name=" ".join(words), terminal_width=100)
    yield f"## {' '.join(words)}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from commands(below, [*words, name])


def setup(app: Sphinx) -> dict[str, Any]:
    """Have Sphinx call what is here."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
