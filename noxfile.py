"""What can be done with a checkout: ``nox`` tests and checks it, ``nox -s bench`` measures it, ``nox -l`` lists the rest.

Each session makes its own environment. The versions of the tools stand in pyproject.toml, in the extra ``dev``, and nowhere else.
"""

from __future__ import annotations

import re
import subprocess
import sys

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests", "lint", "types"]

SUPPORTED = ("3.11", "3.12", "3.13")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
DEVELOPMENT: list[str] = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["dev"]


def runs(version: str) -> bool:
    """Tell whether an interpreter is there and runs: pyenv leaves commands on the path for versions that are not active, and they fail."""
    try:
        return subprocess.run([f"python{version}", "-c", ""], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# nox takes a missing interpreter for an error on CI, so it is asked for those that are there; with none of them by name, for the one that runs nox.
INTERPRETERS = [version for version in SUPPORTED if runs(version)] or None
DEFAULT = RUNNING if INTERPRETERS is None or RUNNING in INTERPRETERS else INTERPRETERS[0]


def tool(name: str) -> str:
    """Return the requirement of a tool as pyproject.toml states it."""
    return next(requirement for requirement in DEVELOPMENT if re.match(rf"{name}\b", requirement))


@nox.session(python=INTERPRETERS)
def tests(session: nox.Session) -> None:
    """Run the tests: all on the default interpreter, on the newest what an interpreter may change, on others the core and the loops."""
    session.install("-e", ".[dev]")
    selection = ["-m", "not browser"]
    if INTERPRETERS is not None and session.python != DEFAULT:
        selection = ["-m", "not browser and not slow and not processes", "tests/core", "tests/loops"]
        if session.python == INTERPRETERS[-1]:
            # uvloop is the same on all of them; asyncio is not.
            folders = ["tests/core", "tests/loops", "tests/faces", "tests/processes", "tests/pool"]
            selection = ["-m", "not browser and not slow", "-k", "not uvloop", *folders]
    # Three workers on two cores: the suite waits for disks, signals and processes as much as for a core.
    session.run("python", "-m", "pytest", "-n", "3", "--dist", "worksteal", *selection, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(tool("ruff"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of code and tests with mypy, and those of the examples, as a user's code, with pyright."""
    session.install("-e", ".[dev]")
    session.run("mypy")
    session.run("pyright")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and report which lines and branches they miss; fail if the plain core is covered by less than 98 percent."""
    session.install("-e", ".[dev]")
    session.run("coverage", "erase")
    selection = ["-n", "2", "--dist", "worksteal", "-m", "not browser and not untraceable"]
    session.run("coverage", "run", "-m", "pytest", *selection, *session.posargs)
    # Fails where nothing is left to combine: newer releases do it at the end of the run, and what a killed process has begun cannot be read.
    session.run("coverage", "combine", "--quiet", success_codes=[0, 1])
    session.run("coverage", "report")
    session.run("coverage", "report", "--include", "parkit_async/_core/*", "--fail-under", "98")


@nox.session
def browser(session: nox.Session) -> None:
    """Test the dashboard in a real browser: needs Chromium and its driver (on Debian, apt install chromium chromium-driver)."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "-m", "browser", "tests/dashboard", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Look for faults for a minute in each kind: power loss, histories, full disks, signals; ten minutes of soak. Seeds are printed."""
    session.install("-e", ".[dev]")
    environment = {"PARKIT_FAULTS_SECONDS": "60", "PARKIT_CHAOS_SECONDS": "60", **session.env}
    session.run("python", "-m", "pytest", "tests/faults", "tests/pool/test_chaos.py", "-s", "--timeout", "1500", *session.posargs, env=environment)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation's pages into docs/_build, with warnings as errors."""
    session.install("-e", ".[docs,dashboard]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure parkit against its budgets, and beside what else one might use: the figures of README and docs/benchmarks.md."""
    session.install(".[bench]")
    if "--only" not in session.posargs:  # that each rival does what is timed, before it is timed
        session.run("python", "tests/benchmarks/run.py", "--check")
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session
def docs_examples(session: nox.Session) -> None:
    """Run the code blocks of README and docs, and the examples."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", "tests/test_docs.py", *session.posargs)
