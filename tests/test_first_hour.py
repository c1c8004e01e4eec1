"""The mistakes of a newcomer's first hour: what is on the screen afterwards says what to do.

Each is made as a newcomer would make it, in a script; the last line of what Python prints is what is read first. A read-only disk is in
``faults/test_disk.py``, Ctrl-C in ``processes/test_ctrl_c.py`` and ``test_examples.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunScript

pytestmark = pytest.mark.processes


def last_line(run_script: RunScript, source: str, **options: object) -> str:
    """Return the last line that a script, which must fail, has left on the screen."""
    finished = run_script(source, check=False, **options)
    assert finished.exitcode != 0, finished.stdout
    return finished.stderr.strip().splitlines()[-1]


def awaiting(*lines: str) -> str:
    """Return a program whose coroutine has a dict of the awaitable face open and does ``lines``."""
    body = "\n".join(f"    {line}" for line in lines)
    head = "import asyncio\nimport parkit, parkit_async\n\nasync def main():\n    d = await parkit_async.Dict('shop/stock')"
    return f"{head}\n{body}\n\nasyncio.run(main())\n"


def test_the_store_is_no_folder(run_script: RunScript, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    source = "from parkit import Dict\nDict('shop/stock')"
    assert "is not a folder; move the file away, or choose another store with PARKIT_STORAGE_PATH" in last_line(
        run_script, source, env={"PARKIT_STORAGE_PATH": str(file)}
    )


def test_the_store_cannot_be_made(run_script: RunScript) -> None:
    line = last_line(run_script, "from parkit import Dict\nDict('shop/stock')", env={"PARKIT_STORAGE_PATH": "/proc/nowhere/store"})
    assert "choose another folder with PARKIT_STORAGE_PATH or set_storage_path()" in line


def test_another_class_lies_at_the_path(run_script: RunScript) -> None:
    line = last_line(run_script, "from parkit import Dict, Queue\nDict('shop/stock')\nQueue('shop/stock')")
    assert line.endswith("holds a parkit.Dict, not a parkit.Queue: open it with its own class, or choose another path")


def test_a_target_cannot_be_pickled(run_script: RunScript) -> None:
    line = last_line(run_script, "import threading\nfrom parkit import Process\nProcess('shop/lock', target=print, args=(threading.Lock(),))")
    assert line.startswith("while pickling what process 'shop/lock' is to call")
    assert "open it in the target" in line


@pytest.mark.parametrize(
    ("mistake", "remedy"),
    [
        ("d['tea'] = 1", "`await d.set(key, value)`"),
        ("del d['tea']", "`await d.delete(key)`"),
        ("'tea' in d", "`await d.contains(key)`"),
        ("len(d)", "`await d.len()`"),
        ("for key in d: pass", "`async for key in d`"),
        ("with parkit_async.transaction(d): pass", "`async with transaction(...)`"),
        ("with parkit_async.snapshot(d): pass", "`async with snapshot(...)`"),
        ("async with parkit.transaction(d): pass", "`with transaction(...)`"),
        ("for entry in await parkit_async.Log('shop/sales'): pass", "`async for entry in log`"),
    ],
)
def test_the_await_is_missing(run_script: RunScript, mistake: str, remedy: str) -> None:
    line = last_line(run_script, awaiting(mistake))
    assert line.startswith("TypeError: parkit")
    assert f"write {remedy}" in line


def test_a_call_that_is_not_awaited_is_told_of_by_python(run_script: RunScript) -> None:
    assert "coroutine 'Dict.set' was never awaited" in run_script(awaiting("d.set('tea', 1)")).stderr


def test_a_blocking_call_waits_in_an_event_loop(run_script: RunScript) -> None:
    source = awaiting("try:", "    parkit.Queue('shop/orders').get(timeout=0.01)", "except Exception:", "    print('none came')")
    finished = run_script(source)
    assert finished.stdout == "none came\n"
    assert "RuntimeWarning: a blocking call waits for 'shop/orders' in the thread of a running event loop" in finished.stderr
    assert "use parkit_async there and await it" in finished.stderr
    assert "parkit.Queue('shop/orders').get(timeout=0.01)" in finished.stderr, "the line that made the call"


def test_a_blocking_call_that_need_not_wait_is_nobodys_business(run_script: RunScript) -> None:
    source = awaiting("q = parkit.Queue('shop/orders')", "q.put(1)", "print(q.get(), parkit.Dict('shop/stock').get('tea'))")
    finished = run_script(source)
    assert (finished.stdout, finished.stderr) == ("1 None\n", "")


def test_a_lambda_is_a_target_as_good_as_any(run_script: RunScript) -> None:
    source = "from parkit import Process, killall\np = Process(target=lambda: 6 * 7)\np.start()\nprint(p.get_result(timeout=30))\nkillall()"
    assert run_script(source, timeout=60).stdout == "42\n"


def test_the_namespace_is_full(run_script: RunScript) -> None:
    source = """
        from parkit import Dict, set_namespace_size
        stock = Dict("shop/stock")
        set_namespace_size("shop", 1 << 20)
        for number in range(10_000):
            stock[number] = bytes(1000)
    """
    line = last_line(run_script, source)
    assert "does not fit in namespace 'shop', whose maximum size is 1,048,576 bytes" in line
    assert "set_namespace_size('shop', ...) to more" in line


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(run_script: RunScript, store: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    for package in ("parkit", "parkit_async"):
        shutil.copytree(ROOT / package, newer / package, ignore=shutil.ignore_patterns("__pycache__"))
    layout = newer / "parkit_async" / "_core" / "layout.py"
    text = layout.read_text()
    assert "FORMAT_VERSION: Final = 1\n" in text
    layout.write_text(text.replace("FORMAT_VERSION: Final = 1\n", "FORMAT_VERSION: Final = 2\n"))
    source = "from parkit import Dict\nd = Dict('shop/stock')\nd['tea'] = 12\nprint(d['tea'])"
    environment = {**os.environ, "PYTHONPATH": str(newer)}
    subprocess.run([sys.executable, "-c", source], check=True, env=environment, cwd=tmp_path, capture_output=True)
    line = last_line(run_script, source)
    assert "was written by a newer parkit (format 2; this one knows 1): upgrade parkit. Nothing was changed." in line
    assert subprocess.run([sys.executable, "-c", source], check=True, env=environment, cwd=tmp_path, capture_output=True).stdout == b"12\n"
