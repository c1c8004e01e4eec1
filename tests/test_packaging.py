"""What is handed out: a wheel that works in an empty environment, and a source distribution that holds what a packager needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

EXTRAS = {"bench", "dashboard", "dev", "docs", "examples"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, and with the source distribution that it was built from."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    # A copy, so that what lies about in the working tree is not built and nothing is left in it.
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".*cache", ".nox", ".venv*", ".git", "__pycache__", "_build", ".hypothesis", ".coverage*")
    )
    backend = "import hatchling.build as b, sys; print(b.build_sdist(sys.argv[1]))"
    run([sys.executable, "-m", "pip", "install", "-q", "--target", folder / "backend", "hatchling>=1.27"])
    run([sys.executable, "-c", backend, folder], cwd=checkout, env={**os.environ, "PYTHONPATH": str(folder / "backend")})
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, sdist(folder)])
    return folder


def run(command: list[object], **options: object) -> str:
    """Run a command to its end, and return what it has printed; fail with all of that if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def sdist(folder: Path) -> Path:
    (found,) = folder.glob("parkit-*.tar.gz")
    return found


def wheel(folder: Path) -> Path:
    (found,) = folder.glob("parkit-*.whl")
    return found


def metadata(folder: Path) -> Message:
    with zipfile.ZipFile(wheel(folder)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_the_wheel_holds_the_two_packages_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(wheel(built)) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"parkit", "parkit_async"}
    assert {"parkit/py.typed", "parkit_async/py.typed"} <= set(names)
    sources = [path for package in ("parkit", "parkit_async") for path in (ROOT / package).glob("**/*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in sources if "__pycache__" not in path.parts}
    assert expected == {name for name in names if ".dist-info/" not in name}


def test_the_source_distribution_holds_tests_docs_and_examples(built: Path) -> None:
    with tarfile.open(sdist(built)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "noxfile.py", "tests/conftest.py", "docs/tutorial.md"} <= names
    assert "examples/quickstart.py" in names
    assert not [name for name in names if name.startswith((".ci", ".venv", ".nox"))]


def test_the_metadata_says_what_one_looks_for(built: Path) -> None:
    found = metadata(built)
    assert found["Name"] == "parkit"
    assert found["License-Expression"] == "MIT"
    assert found["Requires-Python"] == ">=3.11"
    assert set(found.get_all("Provides-Extra", [])) == EXTRAS
    classifiers = found.get_all("Classifier", [])
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.13", "Operating System :: POSIX :: Linux"} <= set(classifiers)
    needed = [line for line in found.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.split(">")[0].split("<")[0] for line in needed) == ["click", "cloudpickle", "lmdb", "platformdirs", "psutil", "rich", "uvloop"]


def test_installed_in_an_empty_environment_it_works(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE"))}
    run([python, "-m", "pip", "install", "-q", wheel(built)], env=environment)
    program = """
        from parkit import Dict, Process, killall
        Dict("shop/stock")["tea"] = 12
        process = Process("shop/doubled", target=divmod, args=(14, 4))
        process.start()
        print(Dict("shop/stock")["tea"], process.get_result(timeout=60))
        killall()
    """
    script = tmp_path / "script.py"
    script.write_text("import textwrap\nexec(textwrap.dedent('''" + program + "'''))\n")
    assert run([python, script], cwd=tmp_path, env=environment) == "12 (3, 2)\n"
    command = tmp_path / "empty" / "bin" / "parkit"
    assert "0.1.0" in run([command, "--version"], cwd=tmp_path, env=environment)
    assert run([python, "-m", "parkit", "get", "shop/stock", "tea"], cwd=tmp_path, env=environment) == "12\n"
    dashboard = subprocess.run([command, "dashboard"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert dashboard.returncode != 0
    assert "pip install 'parkit[dashboard]'" in dashboard.stderr
