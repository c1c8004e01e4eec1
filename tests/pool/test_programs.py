"""Processes of whole programs: what is importable where one was submitted is importable where it runs, and it outlives whoever submitted it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import parkit
import parkit_async
from tests.conftest import RunScript, Spawn
from tests.faces.face import Face

from . import targets
from .conftest import PATIENCE, Pool

pytestmark = pytest.mark.processes


def run(face: Face, target: Any, *args: Any) -> Any:
    process = face.Process(target=target, args=args)
    process.start()
    return process.get_result(PATIENCE)


def write(folder: Path, name: str, source: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(textwrap.dedent(source))
    return file


# Targets that no module has.


def test_a_lambda_and_a_closure(face: Face) -> None:
    number = 40

    def closure(more: int) -> int:
        return number + more

    assert run(face, lambda: 42) == 42
    assert run(face, closure, 2) == 42


def test_a_method_and_a_callable_object(face: Face) -> None:
    assert run(face, "parkit".upper) == "PARKIT"
    assert run(face, targets.Custom, 1, "made").args == (1, "made")


DEFINITIONS = """
    CONSTANT = 40

    class Failure(Exception):
        pass

    class Point:
        def __init__(self, x):
            self.x = x

    def add(point):
        return Point(point.x + CONSTANT)

    def fail():
        raise Failure("of main")

    async def double(x):
        return 2 * x
"""

BLOCKING = """
    import parkit

    class Mine(parkit.Process):
        def run(self):
            return add(Point(self["x"])).x

    def run(process):
        process.start()
        return process.get_result(30)

    if __name__ == "__main__":
        print(run(parkit.Process(target=add, args=(Point(2),))).x)
        print(run(parkit.Process(target=lambda: CONSTANT)))
        print(run(parkit.Process(target=double, args=(4,))))
        mine = Mine()
        mine["x"] = 1
        print(run(mine))
        try:
            run(parkit.Process(target=fail))
        except Failure as error:
            print(repr(error), "in fail" in str(error.__cause__))
"""

AWAITABLE = """
    import asyncio, parkit_async

    class Mine(parkit_async.Process):
        async def run(self):
            return add(Point(await self["x"])).x

    async def run(process):
        await process.start()
        return await process.get_result(30)

    async def main():
        print((await run(parkit_async.Process(target=add, args=(Point(2),)))).x)
        print(await run(parkit_async.Process(target=lambda: CONSTANT)))
        print(await run(parkit_async.Process(target=double, args=(4,))))
        mine = await Mine()
        await mine.set("x", 1)
        print(await run(mine))
        try:
            await run(parkit_async.Process(target=fail))
        except Failure as error:
            print(repr(error), "in fail" in str(error.__cause__))

    asyncio.run(main())
"""


@pytest.mark.parametrize("source", [BLOCKING, AWAITABLE], ids=["parkit", "parkit_async"])
def test_everything_may_be_of_main(pool: Pool, run_script: RunScript, source: str) -> None:
    found = run_script(DEFINITIONS + source)
    assert found.stdout.splitlines() == ["42", "40", "8", "41", "Failure('of main') True"]


def test_an_interactive_session(pool: Pool, spawn: Spawn) -> None:
    source = """
        import code, sys
        console = code.InteractiveConsole({"__name__": "__main__"})
        sys.modules["__main__"].__dict__.update(console.locals)
        console.locals = sys.modules["__main__"].__dict__
        for line in ("import parkit", "def work(x):", "    return x + offset", "", "offset = 1", "p = parkit.Process(target=work, args=(41,))",
                     "p.start()", "print(p.get_result(30))"):
            console.push(line)
    """
    assert spawn(source).finish().stdout == "42\n"


def test_python_dash_c_and_stdin(pool: Pool) -> None:
    source = "import parkit\ndef work(x):\n    return x + 1\np = parkit.Process(target=work, args=(41,))\np.start()\nprint(p.get_result(30))\n"
    root = str(Path(parkit.__file__).parent.parent)
    for command, given in (([sys.executable, "-c", source], ""), ([sys.executable, "-"], source)):
        found = subprocess.run(command, input=given, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root})
        assert found.stdout == "42\n"


# Modules.


def test_modules_of_the_working_folder_and_of_the_search_path_are_found(face: Face, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "path", "on_the_path", "from in_the_folder import value\ndef work():\n    import os\n    return value, os.getcwd()\n")
    write(tmp_path / "folder", "in_the_folder", "value = 'found'\n")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "folder")
        patch.syspath_prepend("")
        patch.syspath_prepend(str(tmp_path / "path"))
        import on_the_path  # type: ignore[import-not-found]

        try:
            assert run(face, on_the_path.work) == ("found", str(tmp_path / "folder"))
        finally:
            del sys.modules["on_the_path"], sys.modules["in_the_folder"]
    # The next one comes from where this program was before.
    assert run(face, os.getcwd) == os.getcwd()


PROGRAM = """
    import sys
    import parkit
    import helper

    for _ in sys.stdin:
        process = parkit.Process(target=helper.work)
        process.start()
        print(*process.get_result(30))
"""


def test_two_programs_may_have_different_modules_of_one_name(pool: Pool, spawn: Spawn, tmp_path: Path) -> None:
    programs = []
    for name in ("one", "other"):
        write(tmp_path / name, "helper", f"def work():\n    return {name!r}, __file__\n")
        programs.append(spawn(PROGRAM, env={"PYTHONPATH": os.pathsep.join([str(tmp_path / name), str(Path(parkit.__file__).parent.parent)])}))
    for _ in range(3):
        for name, program in zip(("one", "other"), programs, strict=True):
            program.send("")
            assert program.read_line() == f"{name} {tmp_path / name / 'helper.py'}"
    for program in programs:
        program.finish()


def test_a_module_that_was_changed_on_the_disk_is_loaded_anew(pool: Pool, spawn: Spawn, tmp_path: Path) -> None:
    search = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(parkit.__file__).parent.parent)]), "PYTHONDONTWRITEBYTECODE": "1"}
    write(tmp_path, "helper", "from second import value\ndef work():\n    return value, 'first'\n")
    write(tmp_path, "second", "value = 1\n")
    program = spawn(PROGRAM, env=search)
    for number in range(1, 6):
        write(tmp_path, "second", f"value = {10**number}\n")  # of another length each: a cached one of the same second does not hide it
        for _ in range(4):
            program.send("")
            assert program.read_line() == f"{10**number} first"
    program.finish()


def test_a_working_folder_that_is_gone_does_not_matter(pool: Pool, run_script: RunScript, tmp_path: Path) -> None:
    found = run_script(
        """
        import os, sys, parkit
        os.mkdir(sys.argv[1])
        os.chdir(sys.argv[1])
        os.rmdir(sys.argv[1])
        process = parkit.Process(target=os.getcwd)
        process.start()
        print(process.get_result(30))
        """,
        tmp_path / "gone",
    )
    assert found.stdout == "/\n"


# Programs and their ends.

STARTS = """
    import os, parkit, sys
    from tests.pool import targets

    process = parkit.Process("ns/p", target=targets.hold, args=("ns/x",))
    process.start()
    print(parkit.Queue("ns/x-running").get(timeout=30))
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)", "os.killpg(0, 15)"], ids=["ends", "is killed", "its group is terminated"])
def test_a_process_outlives_the_program_that_started_it(own_pool: Pool, spawn: Spawn, end: str) -> None:
    source = STARTS.format(end=end)
    if "killpg" in end:
        source = source.replace("import os,", "import os; os.setpgid(0, 0)\n    import")
    script = spawn(source)
    pid = int(script.read_line())
    assert script.finish(check=False).exitcode == {"pass": 0, "os.kill(os.getpid(), 9)": -9}.get(end, -15)
    process = parkit.Process[int]("ns/p", create=False)
    assert (process.status, process.pid) == ("running", pid)
    parkit.Queue[None]("ns/x-gate").put(None)
    assert process.get_result(PATIENCE) == pid


def test_ctrl_c_in_a_terminal_does_not_reach_the_pool(own_pool: Pool, spawn: Spawn) -> None:
    script = spawn(STARTS.format(end="process.join()").replace("import os,", "import os; os.setpgid(0, 0)\n    import"))
    pid = int(script.read_line())
    os.killpg(script.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in script.finish(check=False).stderr
    process = parkit.Process[int]("ns/p", create=False)
    assert process.status == "running"
    parkit.Queue[None]("ns/x-gate").put(None)
    assert process.get_result(PATIENCE) == pid


def test_many_programs_that_start_at_once_have_one_pool(own_pool: Pool, spawn: Spawn) -> None:
    source = """
        import parkit
        from tests.pool import targets
        input()
        process = parkit.Process(target=targets.pid)
        process.start()
        print(process.get_result(30))
    """
    scripts = [spawn(source) for _ in range(4)]
    for script in scripts:
        script.send("")
    pids = {int(script.read_line()) for script in scripts}
    for script in scripts:
        script.finish()
    assert own_pool.status()["epoch"] == 1 and pids <= own_pool.until_size(2)


def test_a_forked_child_uses_the_pool_as_its_parent_does(pool: Pool, run_script: RunScript) -> None:
    found = run_script("""
        import os, parkit
        from tests.pool import targets

        process = parkit.Process("ns/p", target=targets.hold, args=("ns/x",))
        process.start()
        parkit.Queue("ns/x-running").get(timeout=30)
        sentinel = process.sentinel
        child = os.fork()
        if not child:
            other = parkit.Process(target=targets.add, args=(1, 2))
            other.start()
            assert other.get_result(30) == 3
            assert process.status == "running"
            parkit.Queue("ns/x-gate").put(None)
            assert process.get_result(30) == process.pid
            os._exit(0)
        print(process.get_result(30) == process.pid, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        another = parkit.Process(target=targets.add, args=(3, 4))
        another.start()
        print(another.get_result(30))
    """)
    assert found.stdout == "True 0\n7\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_handle_goes_through_multiprocessing(pool: Pool, run_script: RunScript, method: str) -> None:
    found = run_script(
        """
        import multiprocessing, sys
        import parkit
        from tests.pool import targets

        if __name__ == "__main__":
            process = parkit.Process(target=targets.add, args=(1, 2))
            context = multiprocessing.get_context(sys.argv[1])
            child = context.Process(target=process.start)
            child.start()
            child.join()
            print(process.get_result(30), child.exitcode)
        """,
        method,
    )
    assert found.stdout == "3 0\n"


def test_a_program_that_ends_with_a_sentinel_open_ends_quietly(pool: Pool, run_script: RunScript) -> None:
    found = run_script("""
        import parkit
        process = parkit.Process(target=abs, args=(1,))
        print(process.sentinel > 0)
    """)
    assert (found.stdout, found.stderr) == ("True\n", "")


def test_a_process_starts_processes(face: Face) -> None:
    def parent(module: str) -> Any:
        if module == "parkit":
            child = parkit.Process(target=targets.add, args=(1, 2))
            child.start()
            return child.get_result(PATIENCE)

        async def main() -> Any:
            child = await parkit_async.Process(target=targets.add, args=(1, 2))
            await child.start()
            return await child.get_result(PATIENCE)

        return main()

    assert run(face, parent, "parkit" if face.name == "blocking" else "parkit_async") == 3
