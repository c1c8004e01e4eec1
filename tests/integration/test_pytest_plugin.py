"""The pytest plugin, used as in somebody else's tests: by pytest's own ``pytester``, the messages of failures included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import parkit
from parkit import Dict, Log, Process, ProcessCrashedError, ProcessPoolExecutor, Queue, transaction
from parkit_async._core.registry import all_open
from parkit_async.crash_points import POINTS, CrashPoints
from parkit_async.testing import InlinePool, TemporaryPool
from tests.conftest import RunScript

pytestmark = pytest.mark.processes
pytest_plugins = ("pytester",)

PATIENCE = 30.0
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:xdist")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a test file in this process: ``run(source)`` returns pytester's result."""
    monkeypatch.chdir(pytester.path)

    def run_source(source: str, *arguments: str, subprocess: bool = False) -> pytest.RunResult:
        pytester.makepyfile(source)
        runner = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
        return runner(*OPTIONS, *arguments)

    return run_source


# It is light.


def test_importing_it_imports_nothing_and_takes_no_time(run_script: RunScript) -> None:
    finished = run_script(
        """
        import sys, time
        import pytest

        before = set(sys.modules)
        begun = time.thread_time()  # what others do meanwhile does not count
        import parkit_async.pytest_plugin
        taken = time.thread_time() - begun
        new = set(sys.modules) - before
        print(sorted(name for name in new if not name.startswith("parkit_async")), *sorted(new & {"parkit", "lmdb"}))
        print(sorted(name for name in new if name.startswith("parkit_async")))
        print(taken)
        """
    )
    others, own, taken = finished.stdout.splitlines()
    assert others == "[]"
    assert own == "['parkit_async', 'parkit_async.pytest_plugin']"
    assert float(taken) < 0.005


def test_a_run_that_uses_nothing_of_it_imports_nothing(run: Any) -> None:
    result = run(
        """
        import sys

        def test_nothing():
            assert not {name for name in sys.modules if name.startswith(("lmdb", "parkit")) and name not in
                        ("parkit_async", "parkit_async.pytest_plugin")}
        """,
        subprocess=True,
    )
    result.assert_outcomes(passed=1)


# The store.


def test_the_store_is_the_tests_own(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    outside = parkit.get_storage_path()
    result = run(
        """
        import os, subprocess, sys
        import pytest
        from parkit import Dict, get_namespace_synchronous, get_storage_path, set_storage_path

        @pytest.mark.parametrize("number", [1, 2])
        def test_store(parkit_store, number):
            assert get_storage_path() == str(parkit_store)
            numbers = Dict("shop/numbers")
            assert not numbers
            assert get_namespace_synchronous("shop") == "full"  # whatever the environment says
            numbers["one"] = number
            code = "from parkit import Dict; print(Dict('shop/numbers')['one'])"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert child.stdout == f"{number}\\n"

        def test_that_changes_the_store(parkit_store, tmp_path):
            set_storage_path(tmp_path / "other")

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_async(parkit_store):
            from parkit_async import Queue, aclose

            await (await Queue("shop/orders")).put(1)
            await aclose()
        """,
        "-o",
        "anyio_mode=auto",
    )
    result.assert_outcomes(passed=4)
    assert parkit.get_storage_path() == outside
    assert os.environ["PARKIT_SYNCHRONOUS"] == "off"
    assert not [namespace for namespace in all_open() if "test_store" in str(namespace.store)]


def test_what_a_test_leaves_open_fails_it(run: Any) -> None:
    result = run(
        """
        from parkit import Dict, snapshot, transaction

        left = []  # forgotten, they would be ended

        def test_transaction(parkit_store):
            left.append(transaction(Dict("shop/stock")))
            left[-1].__enter__()

        def test_snapshot(parkit_store):
            left.append(snapshot(Dict("shop/stock")))
            left[-1].__enter__()

        def test_after(parkit_store):
            stock = Dict("shop/stock")
            with transaction(stock):
                stock["tea"] = 1
        """
    )
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        ["*the test has left open a transaction of namespace 'shop'", "*the test has left open a snapshot of namespace 'shop'"]
    )
    assert "testing.py" not in result.stdout.str()  # no traceback of the plugin's own


def test_a_pool_that_a_test_has_started_ends_with_it(run: Any) -> None:
    result = run(
        """
        import os
        from parkit import Process, set_pool_size

        def test_process(parkit_store):
            set_pool_size(1)
            process = Process(target=os.getpid)
            process.start()
            assert process.get_result(30) != os.getpid()
            with open("store", "w") as file:
                file.write(str(parkit_store))
        """
    )
    result.assert_outcomes(passed=1)
    assert not TemporaryPool(Path(Path("store").read_text())).members()


def test_an_isolated_run_never_sees_the_users_store(run: Any, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nparkit_isolate = true\n")
    outside = parkit.get_storage_path()
    result = run(
        """
        from parkit import Dict, get_storage_path

        opened = Dict("shop/stock")  # when pytest collects

        def test_one():
            assert "parkit-tests-" in get_storage_path()
            opened["tea"] = 1

        def test_two(parkit_store):
            assert "parkit-tests-" not in get_storage_path()
            assert opened["tea"] == 1
        """
    )
    result.assert_outcomes(passed=2)
    assert parkit.get_storage_path() == outside
    assert "shop" not in list(parkit.namespaces())


# A pool.


@pytest.mark.parkit(workers=1)
def test_the_pool_of_a_test(parkit_pool: TemporaryPool) -> None:
    process = Process[int](target=os.getpid)
    process.start()
    assert {process.get_result(PATIENCE)} == parkit_pool.until_size(1)
    assert len(parkit_pool.resize(2)) == 2
    assert len(parkit_pool.members()) == 3


@pytest.mark.slow
def test_whoever_a_pool_leaves_is_named(run: Any) -> None:
    result = run(
        """
        import subprocess
        import pytest
        from parkit import Process

        def leave():
            return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

        @pytest.mark.parkit(workers=1)
        def test_pool(parkit_pool):
            process = Process(target=leave)
            process.start()
            process.get_result(30)

        @pytest.mark.parkit(size=1)
        def test_marker(parkit_pool):
            pass

        def test_both(parkit_pool, parkit_inline):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*ending the pool has left *name='sleep'*"])
    result.stdout.fnmatch_lines_random(["*@pytest.mark.parkit takes workers=n*", "*a test has either parkit_pool or parkit_inline*"])


# Inline.

greeting = "hello"


def greet(name: str) -> tuple[str, int]:
    print(f"greeting {name}")
    return f"{greeting} {name}", os.getpid()


def test_a_process_runs_in_the_tests_own_process(parkit_inline: InlinePool, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(globals(), "greeting", "good morning")
    process = Process[Any](target=greet, args=("Ada",))
    process.start()
    assert process.get_result(PATIENCE) == ("good morning Ada", os.getpid())
    assert capsys.readouterr().out == "greeting Ada\n"
    assert (process.status, process.exitcode, process.pid) == ("finished", 0, os.getpid())
    with ProcessPoolExecutor() as executor:
        assert [text for text, _ in executor.map(greet, ["a", "b"])] == ["good morning a", "good morning b"]
    assert parkit.pool_status()["pid"] == os.getpid()  # so nobody starts a supervisor
    with pytest.raises(RuntimeError, match="use the fixture parkit_pool"):
        parkit.killall()
    assert not TemporaryPool(Path(parkit.get_storage_path())).members()


def test_inline_runs_happen_with_the_commit_and_while_not_paused(parkit_inline: InlinePool) -> None:
    log: Log[Any] = Log("inline/log")
    with parkit_inline.paused():
        processes = [Process[None](f"inline/{number}", target=log.append, args=(number,)) for number in range(3)]
        with transaction(log):
            for process in processes:
                process.start()
            log.append("first")
        assert {process.status for process in processes} == {"submitted"}
        processes[1].terminate()
    for process in processes:
        process.join(PATIENCE)
    assert list(log) == ["first", 0, 2]
    assert (processes[1].status, processes[1].exitcode) == ("crashed", -15)


_left: list[Any] = []


def leave_open(counter: Dict[str, int]) -> None:
    _left.append(transaction(counter))
    _left[-1].__enter__()
    counter["n"] = 1


async def double(number: int) -> int:
    return 2 * number


def fail() -> None:
    raise ZeroDivisionError("of the target")


@pytest.mark.parkit(workers=2)
def test_inline_outcomes_are_those_of_workers(parkit_inline: InlinePool) -> None:
    failing = Process[None](target=fail)
    failing.start()
    with pytest.raises(ZeroDivisionError, match="of the target") as caught:
        failing.get_result(PATIENCE)
    assert "in fail" in str(caught.value.__cause__)
    awaited = Process[Any](target=double, args=(21,))
    awaited.start()
    assert awaited.get_result(PATIENCE) == 42
    counter: Dict[str, int] = Dict("other/counter")
    careless = Process[None](target=leave_open, args=(counter,))
    careless.start()
    assert careless.join(PATIENCE)
    assert not counter  # and nobody has to wait for it:
    counter["n"] = 2
    waiting = Process[Any](target=Process.get_result, args=(careless,))  # with two workers one may wait for another
    waiting.start()
    assert waiting.get_result(PATIENCE) is None
    parkit.set_namespace_size("tiny", 256 << 10)
    big = Process[bytes]("tiny/big", target=bytes, args=(1 << 20,))
    big.start()
    with pytest.raises(parkit.NamespaceFullError):
        big.get_result(PATIENCE)


def wait_for(queue: Queue[Any]) -> Any:
    return queue.get(timeout=PATIENCE)


def test_a_target_that_is_terminated_inline_has_crashed_when_it_returns(parkit_inline: InlinePool) -> None:
    go: Queue[Any] = Queue("inline/go")
    process = Process[Any](target=wait_for, args=(go,))
    process.start()
    while process.status != "running":
        process.join(0.01)
    process.terminate()
    go.put(1)
    with pytest.raises(ProcessCrashedError, match="SIGTERM"):
        process.get_result(PATIENCE)


def test_a_target_that_outlives_its_test_is_named(store: Path) -> None:
    go: Queue[Any] = Queue("inline/go")
    pool = InlinePool(store)
    process = Process[Any]("inline/endless", target=wait_for, args=(go,))
    process.start()
    while process.status != "running":
        process.join(0.01)
    assert pool.end(0.01) == "process inline/endless still runs when the test ends; have it end"
    go.put(1)
    assert process.get_result(PATIENCE) == 1
    assert pool.end() == ""


# Crash points.


def two_writes(path: str) -> None:
    board: Dict[str, int] = Dict(path)
    board["n"] = 1
    print("acknowledged", flush=True)
    board["n"] = 2


@pytest.mark.parametrize(("at", "left"), [("before-commit", 1), ("after-commit", 2)])
def test_a_child_is_killed_at_a_step_of_its_commit(parkit_crash: CrashPoints, at: str, left: int) -> None:
    board: Dict[str, int] = Dict("crash/board")
    assert parkit_crash.run(two_writes, "crash/board", at=at, nth=2) == "acknowledged\n"
    assert board["n"] == left
    board["n"] = 3  # nothing is locked


def put_one(path: str) -> None:
    Queue[int](path).put(1)


def test_an_item_whose_ring_is_lost_is_found_by_who_looks(parkit_crash: CrashPoints) -> None:
    items: Queue[int] = Queue("crash/items")
    with ProcessPoolExecutorThread(items) as waiter:
        parkit_crash.run(put_one, "crash/items", at="before-ring")
        items.put(2)  # rings
        assert waiter.result() == 1


class ProcessPoolExecutorThread:
    """A thread that waits for an item, so that there is somebody to ring."""

    def __init__(self, queue: Queue[int]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._threads = ThreadPoolExecutor(1)
        self._queue = queue

    def __enter__(self) -> Any:
        future = self._threads.submit(self._queue.get, timeout=PATIENCE)
        table = self._queue._binding.namespace.table
        while not table.anybody():
            pass
        return future

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown()


@pytest.mark.slow
@pytest.mark.parkit(workers=1)
def test_workers_are_killed_at_steps_of_a_run(parkit_crash: CrashPoints, parkit_pool: TemporaryPool) -> None:
    board: Dict[str, int] = Dict("crash/board")

    def ended(*points: str) -> tuple[str, int | None]:
        for at in points:
            parkit_crash.worker(at)
        board.clear()
        process = Process[None](target=two_writes, args=("crash/board",))
        process.start()
        assert process.join(PATIENCE)
        return process.status, board.get("n")

    assert ended() == ("finished", 2)
    assert ended("after-claim") == ("crashed", None)
    assert ended("before-outcome") == ("crashed", 2)
    assert ended("after-outcome") == ("finished", 2)
    assert ended("worker-start") == ("finished", 2)
    parkit_crash.worker("after-claim", nth=2)
    assert [ended(), ended(), ended()] == [("finished", 2), ("crashed", None), ("finished", 2)]


def test_a_point_that_is_never_reached_fails_the_test(run: Any) -> None:
    result = run(
        """
        import pytest
        from parkit import Dict

        def write():
            Dict("a/b")["c"] = 1
            print("written")

        def test_child(parkit_crash):
            parkit_crash.run(write, at="after-commit", nth=100)

        def test_worker(parkit_crash):
            parkit_crash.worker("after-claim")
            unreached = parkit_crash.unreached
            parkit_crash.unreached = lambda: unreached(0.0)

        def test_no_such_point(parkit_crash):
            with pytest.raises(ValueError, match="no crash point 'sometimes'; there are before-commit, after-commit"):
                parkit_crash.worker("sometimes")
        """
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*no worker has come to 'after-claim'*"])
    result.stdout.fnmatch_lines(["E  *the child ended, with exit code 0, without coming to 'after-commit' 100 times; it printed 'written\\n'"])
    assert "def run(self" not in result.stdout.str()  # the failure is shown in the test


def test_every_point_is_a_function_of_this_version() -> None:
    for point in POINTS.values():
        found: Any = __import__(point.module, fromlist=["_"])
        for part in point.name.split("."):
            found = getattr(found, part)
        assert callable(found)


def test_without_the_fixture_nothing_is_patched(run_script: RunScript) -> None:
    finished = run_script(
        """
        import sys
        import parkit, parkit_async.worker
        print("parkit_async.crash_points" in sys.modules, parkit_async.worker.call.__module__)
        """
    )
    assert finished.stdout == "False parkit_async.calling\n"


# Together with others.


@pytest.mark.slow
def test_under_xdist(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest
        from parkit import Dict, Process

        @pytest.mark.parametrize("number", range(6))
        def test_store(parkit_inline, number):
            Dict("a/b")[number] = os.getpid()
            process = Process(target=os.getpid)
            process.start()
            assert process.get_result(30) == os.getpid()
            assert len(Dict("a/b")) == 1
        """
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(pytester.path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert "6 passed" in finished.stdout, finished.stdout + finished.stderr
