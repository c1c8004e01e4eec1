"""Fork, spawn and exec with everything open: the child can use what it inherited, the parent loses nothing, and neither notices the other's end.

The children leave through ``sys.exit``, so that the interpreter finalizes and every object that they inherited is deallocated.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.conftest import RunScript
from tests.processes.conftest import Verify

pytestmark = pytest.mark.processes

PREAMBLE = """
import os, random, sys, threading
from parkit import ContextError, Dict, Log, Queue, snapshot, statistics, transaction
from parkit_async._core import fork
from parkit_async._core.registry import open_namespace


def forked(child):
    \"\"\"Run child() in a forked process that then leaves as any program does; return its pid.\"\"\"
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        sys.exit(child())
    return pid


def ended(pid):
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"the child ended with {os.waitstatus_to_exitcode(status)}"


def overwrite(name, rounds=300):
    \"\"\"Have another process overwrite everything, often enough to use every page again that may be used again.\"\"\"
    import subprocess
    source = f'''
from parkit import Dict, set_namespace_synchronous
d = Dict("{name}")
for number in range({rounds}):
    for key in list(d):
        d[key] = bytes([number % 256]) * 3000
'''
    subprocess.run([sys.executable, "-c", source], check=True)


def slots():
    return [reader.transaction for reader in open_namespace("fork").engine.readers() if reader.pid == os.getpid() and reader.transaction]


os.environ["PARKIT_SYNCHRONOUS"] = "off"
d = Dict("fork/d")
q = Queue("fork/q")
log = Log("fork/log")
for number in range(20):
    d[f"k{number}"] = b"old" * 1000
"""


def run(run_script: RunScript, source: str) -> str:
    """Run a script after the preamble; fail if it or a child of its writes anything to stderr."""
    finished = run_script(PREAMBLE + textwrap.dedent(source), timeout=25)
    assert not finished.stderr
    return finished.stdout


def test_child_uses_what_it_inherited(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        def child():
            d.pop("more", None)
            d["child"] = d["k1"][:3]
            q.put("from the child")
            log.append(1)
            with transaction(d):
                d["more"] = len(d)
            with snapshot(d):
                assert d["more"] == 21 and len(d) == 22
            assert Dict("another/d").setdefault("k", 1) == 1
            assert q.get() == "from the child"

        for _ in range(3):
            ended(forked(child))
        assert d["child"] == b"old"
        assert q.empty()
        assert list(log) == [1, 1, 1]
        assert Dict("another/d")["k"] == 1
        """,
    )
    verified("fork", "another")


def test_grandchildren_use_what_they_inherited(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        def child(depth):
            d[depth] = os.getpid()
            if depth < 4:
                ended(forked(lambda: child(depth + 1)))
            assert d[depth] == os.getpid()

        child(0)
        assert [d[depth] for depth in range(5)][0] == os.getpid()
        assert len({d[depth] for depth in range(5)}) == 5
        """,
    )
    verified("fork")


def test_snapshot_stays_pinned_when_a_child_ends(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        def child():
            # The snapshot is the parent's: the child reads the latest state, and may change it.
            d["child"] = os.getpid()
            assert d["child"] == os.getpid() and d["k1"]

        def child_that_leaves():
            for _ in range(3):
                assert d["k1"]
            d["k1"] = b"changed by the child"

        held = snapshot(d)
        held.__enter__()
        pinned = slots()
        assert len(pinned) == 1
        for _ in range(3):
            ended(forked(child))
        pid = os.fork()
        if not pid:
            held.__exit__(None, None, None)
            sys.exit(child_that_leaves())
        ended(pid)
        assert slots() == pinned
        overwrite("fork/d")
        assert slots() == pinned
        for number in range(20):
            assert d[f"k{number}"] == b"old" * 1000
        held.__exit__(None, None, None)
        assert d["k1"] == bytes([299 % 256]) * 3000
        assert slots() == []
        """,
    )
    verified("fork")


def test_open_transaction_belongs_to_the_parent(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        def refused(call):
            try:
                call()
            except ContextError as error:
                assert "forked" in str(error)
            else:
                raise AssertionError(f"{call} went on in its parent's transaction")

        with transaction(d):
            d["parent"] = 1
            pid = os.fork()
            if not pid:
                refused(lambda: d.__setitem__("child", 1))
                refused(lambda: d["parent"])
                refused(lambda: transaction(d).__enter__())
                sys.exit(0)
            ended(pid)
            d["parent"] += 1
        assert d["parent"] == 2
        assert "child" not in d
        """,
    )
    verified("fork")


def test_child_that_leaves_its_parents_transaction_is_told_and_goes_on_by_itself(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        reading, writing = os.pipe()
        child = 0
        try:
            with transaction(d):
                d["parent"] = 1
                child = os.fork()
                if child:
                    os.read(reading, 1)  # the child has left
                    d["parent"] = 2
        except ContextError as error:
            assert not child and "forked" in str(error)
            os.write(writing, b".")
            d["child"] = d.get("child", 0) + 1  # waits for the parent's turn to end
            assert d["parent"] == 2
            sys.exit(0)
        assert child
        ended(child)
        assert (d["parent"], d["child"]) == (2, 1)
        """,
    )
    verified("fork")


def test_savepoint_and_zero_copy_transaction_survive_a_child(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        import numpy
        array = numpy.arange(100_000)
        d["array"] = array
        with transaction(d, zero_copy=True):
            view = d["array"]
            d["outer"] = 1
            with transaction(d, isolated=True):
                d["inner"] = 1
                ended(forked(lambda: None))
                d["inner"] = 2
            ended(forked(lambda: None))
            assert (view == array).all()
            del view
        assert (d["outer"], d["inner"]) == (1, 2)
        with snapshot(d, zero_copy=True):
            view = d["array"]
            ended(forked(lambda: None))
            assert len(slots()) == 2
            overwrite("fork/d", 30)
            assert (view == array).all()
            del view
        """,
    )
    verified("fork")


def test_waiter_in_another_thread_is_woken_by_the_child(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        got = []
        waiters = [threading.Thread(target=lambda: got.append(q.get())) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        table = open_namespace("fork").table
        while len(table.waiters({q._binding.object_id: 1})) < 3:
            os.sched_yield()
        ended(forked(lambda: None))
        assert len(table.waiters({q._binding.object_id: 1})) == 3, "the child unregistered its parent's waiters"
        assert len(os.listdir(open_namespace("fork").sockets.path)) == 3, "the child removed its parent's sockets"
        ended(forked(lambda: q.put_many(range(3))))
        for waiter in waiters:
            waiter.join(30)
        assert sorted(got) == [0, 1, 2]
        """,
    )
    verified("fork")


def test_child_waits_for_what_its_parent_puts(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        assert not log.wait(0, timeout=0.001)  # the thread's bell exists
        def child():
            for number in range(200):
                assert q.get(timeout=30) == number
                log.append(number)

        pid = forked(child)
        for number in range(200):
            q.put(number)
            assert log.wait(number, timeout=30)
        ended(pid)
        """,
    )
    verified("fork")


def test_iterator_goes_on_in_the_parent(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        iterator = iter(d.items())
        seen = [next(iterator)]
        inside = None

        def child():
            assert len(list(d.items())) == 20
            global iterator
            del iterator

        for _ in range(3):
            ended(forked(child))
        ended(forked(lambda: None))
        assert len(slots()) == 1
        overwrite("fork/d")
        seen += iterator
        assert seen == sorted((f"k{number}", b"old" * 1000) for number in range(20))
        assert slots() == []
        """,
    )
    verified("fork")


def test_fork_while_another_thread_holds_a_transaction(run_script: RunScript, verified: Verify) -> None:
    run(
        run_script,
        """
        held, free = threading.Event(), threading.Event()

        def hold():
            with transaction(d):
                d["thread"] = d.get("thread", 0) + 1
                held.set()
                free.wait()
                d["thread"] += 1

        for round in range(1, 6):
            held.clear()
            free.clear()
            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            reading, writing = os.pipe()

            def child():
                assert d.get("thread", 0) == 2 * (round - 1), "the child sees what is not committed"
                os.write(writing, b".")
                d[round] = None  # waits for its parent's thread
                assert d["thread"] == 2 * round

            pid = forked(child)
            reader = forked(lambda: None)
            ended(reader)
            os.read(reading, 1)
            free.set()
            thread.join()
            ended(pid)
            assert round in d
        """,
    )
    verified("fork")


@pytest.mark.parametrize("level", ["full", "normal", "off"])
def test_fork_while_other_threads_commit(run_script: RunScript, verified: Verify, level: str) -> None:
    run(
        run_script,
        f"""
        from parkit import set_namespace_synchronous
        set_namespace_synchronous("fork", "{level}")
        stop = threading.Event()
        counts = [0, 0]

        def commit(me):
            while not stop.is_set():
                counts[me] += 1
                d[me] = counts[me]

        def child():
            with transaction(d):
                d["children"] = d.get("children", 0) + 1
            assert d["k1"]

        threads = [threading.Thread(target=commit, args=(me,)) for me in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            ended(forked(child))
        stop.set()
        for thread in threads:
            thread.join()
        assert [d[0], d[1]] == counts
        assert d["children"] == 15
        """,
    )
    verified("fork")


def test_fork_while_another_thread_opens_namespaces(run_script: RunScript) -> None:
    run(
        run_script,
        """
        stop = threading.Event()

        def opener():
            number = 0
            while not stop.is_set():
                Dict(f"opened{number % 10}/d")
                number += 1
                if number % 10 == 0:
                    for other in range(10):
                        open_namespace(f"opened{other}").close()

        def child():
            Dict("of/child")["k"] = 1
            d["child"] = 1

        thread = threading.Thread(target=opener)
        thread.start()
        try:
            for _ in range(20):
                ended(forked(child))
        finally:
            stop.set()
            thread.join()
        assert Dict("of/child")["k"] == 1
        """,
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(run_script: RunScript, verified: Verify, method: str) -> None:
    finished = run_script(
        """
        import multiprocessing, sys
        from parkit import Dict, Queue, transaction

        def work(d, q, me):
            for _ in range(50):
                with transaction(d):
                    d["total"] += 1
            q.put((me, d))

        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[1])
            d, q = Dict("fork/d"), Queue("fork/q")
            d["total"] = 0
            iterator = iter(d.items())  # holds a snapshot
            processes = [context.Process(target=work, args=(d, q, me)) for me in range(3)]
            for process in processes:
                process.start()
            for process in processes:
                process.join(30)
            assert [process.exitcode for process in processes] == [0, 0, 0]
            assert list(iterator) == [("total", 0)]
            assert d["total"] == 150
            answers = [q.get_nowait() for _ in range(3)]
            assert sorted(me for me, _ in answers) == [0, 1, 2]
            assert all(handle == d for _, handle in answers)
            with context.Pool(2) as pool:
                assert pool.map(d.get, ["total"] * 4) == [150] * 4
        """,
        method,
        env={"PARKIT_SYNCHRONOUS": "off"},
    )
    assert not finished.stderr
    verified("fork")


SUBPROCESSES = """
        import asyncio, sys, threading
        import uvloop

        got = []
        waiter = threading.Thread(target=lambda: got.append(q.get()))
        waiter.start()
        held, free = threading.Event(), threading.Event()

        def hold():
            with transaction(d):
                d["thread"] = 1
                held.set()
                free.wait()
                d["thread"] = 2

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        iterator = iter(d.items())
        first = next(iterator)

        async def main():
            for _ in range(25):
                started = [await asyncio.create_subprocess_exec(sys.argv[1] if len(sys.argv) > 1 else "true", stdout=-1, stderr=-1) for _ in range(8)]
                for output in await asyncio.gather(*[process.communicate() for process in started]):
                    assert output == (b"", b""), output
                assert {process.returncode for process in started} == {0}

        generation = fork.generation()
        with snapshot(d):
            while len(pinned := slots()) != 2:  # the snapshot and the iterator; the waiting thread may still be at its first look
                pass
            uvloop.run(main())
            assert fork.generation() == generation, "the hook of a child has run in the parent's memory"
            assert slots() == pinned
            assert "thread" not in d
        free.set()
        holder.join()
        assert d["thread"] == 2
        q.put("item")
        waiter.join(30)
        assert got == ["item"]
        assert len([first, *iterator]) == 20
"""


def test_two_hundred_subprocesses_of_uvloop(run_script: RunScript, verified: Verify) -> None:
    run(run_script, SUBPROCESSES)
    verified("fork")


def test_two_hundred_subprocesses_of_asyncio(run_script: RunScript, verified: Verify) -> None:
    run(run_script, SUBPROCESSES.replace("uvloop.run(", "asyncio.run("))
    verified("fork")


def test_threads_of_a_child_that_use_an_object_first_at_the_same_time(run_script: RunScript) -> None:
    """A thread that came while another one was opening the namespace anew took it for opened, and used what belonged to the parent."""
    finished = run_script(
        """
        import os, threading
        from parkit import Dict
        from parkit_async._core import namespace

        counter = Dict("fork/counter")
        counter["n"] = 0
        pid = os.fork()
        if pid:
            raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        opening, done, errors = threading.Event(), threading.Event(), []

        class SlowGate(namespace.Gate):
            def __init__(self, *arguments):
                opening.set()
                done.wait(0.2)  # set at once by a thread that does not wait for the opening
                super().__init__(*arguments)

        namespace.Gate = SlowGate

        def first():
            counter["first"] = 1

        def second():
            opening.wait()
            try:
                counter["second"] = 2
            except BaseException as error:
                errors.append(error)
            done.set()

        threads = [threading.Thread(target=first, daemon=True), threading.Thread(target=second, daemon=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        print(errors, dict(counter), flush=True)
        os._exit(0)
        """
    )
    assert finished.stdout == "[] {'first': 1, 'n': 0, 'second': 2}\n"


def test_a_fork_while_another_thread_opens_the_namespace_anew(run_script: RunScript) -> None:
    """The child inherited the lock of an opening, held by a thread that it does not have."""
    run_script(
        """
        import os, threading
        from parkit import Dict
        from parkit_async._core.registry import open_namespace

        d = Dict("fork/d")
        namespace = open_namespace("fork")
        inside, go = threading.Event(), threading.Event()

        def hold():
            with namespace._opening:
                inside.set()
                go.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        pid = os.fork()
        if not pid:
            d["b"] = 2
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        go.set()
        thread.join()
        assert d["b"] == 2
        """,
        timeout=20,
    )


def test_a_child_that_is_forked_in_a_snapshot_may_do_what_a_snapshot_forbids(run_script: RunScript) -> None:
    finished = run_script(
        """
        import os
        from parkit import ContextError, Dict, set_namespace_size, snapshot

        d = Dict("fork/d")
        with snapshot(d):
            pid = os.fork()
            try:
                set_namespace_size("fork", 8 << 20)
                print("set", flush=True)
            except ContextError:
                print("refused", flush=True)
            if not pid:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert sorted(finished.stdout.split()) == ["refused", "set"]
