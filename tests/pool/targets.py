"""What the tests of the pool have it run. A module of its own, so that a worker imports no pytest."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

import parkit
import parkit_async

PATIENCE = 30.0


# Ordinary ends.


def add(left: Any, right: Any) -> Any:
    return left + right


def nothing() -> None:
    pass


def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def pid() -> int:
    return os.getpid()


class Custom(Exception):
    """An exception with attributes, which pickle carries."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.note = "kept"


class Awkward(Exception):
    """Pickles, and does not unpickle: its ``__init__`` has other parameters than ``args``."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not this one")


def fail() -> None:
    raise ValueError("oops")


def fail_custom() -> None:
    raise Custom(7, "custom")


def fail_awkward() -> None:
    raise Awkward(code=3)


def fail_unpicklable() -> None:
    raise Unpicklable("locked in")


def fail_with_cause() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise RuntimeError("the effect") from error


def fail_group() -> None:
    try:
        raise OSError("the cause of the group")
    except OSError as error:
        raise ExceptionGroup("several", [ValueError("one"), TypeError("two")]) from error


def raise_(error: BaseException) -> None:
    raise error


def leave(code: Any) -> None:
    sys.exit(code)


def interrupt() -> None:
    raise KeyboardInterrupt


def exhaust() -> None:
    bytearray(1 << 62)


def recurse() -> None:
    recurse()


def lock() -> Any:
    return threading.Lock()


# Violent ends.


def crash_natively() -> None:
    ctypes.string_at(0)


def signal_itself(number: int) -> None:
    signal.signal(number, signal.SIG_DFL) if number not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), number)


def close_everything() -> str:
    os.closerange(3, 65536)
    return "done"


class Unloadable:
    """Fails when it is unpickled."""

    def __getstate__(self) -> Any:
        return {"something": True}

    def __setstate__(self, state: Any) -> None:
        raise ValueError("cannot be loaded")


class Deadly:
    """Ends whoever unpickles it."""

    def __getstate__(self) -> Any:
        return {"something": True}

    def __setstate__(self, state: Any) -> None:
        os._exit(5)


# Waiting for the test, and telling it.


def hold(path: str) -> int:
    """Say that it runs, and wait to be let go."""
    parkit.Queue[int](f"{path}-running").put(os.getpid())
    parkit.Queue[None](f"{path}-gate").get(timeout=PATIENCE)
    return os.getpid()


def hold_stubbornly(path: str) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return hold(path)


def hold_politely(path: str) -> None:
    """Leave with an exit code of its own at SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
    hold(path)


def hold_with_children(path: str) -> None:
    """Have a child of each kind, and a grandchild."""
    nap = "import signal; signal.pause()"
    children = [subprocess.Popen([sys.executable, "-c", nap]).pid]
    children.append(subprocess.Popen(["/bin/sh", "-c", f'{sys.executable} -c "{nap}" & wait']).pid)
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    child.start()
    assert child.pid is not None
    children.append(child.pid)
    parkit.Queue[Any](f"{path}-children").put(children)
    hold(path)


async def hold_async(path: str) -> int:
    await (await parkit_async.Queue[int](f"{path}-running")).put(os.getpid())
    await (await parkit_async.Queue[None](f"{path}-gate")).get(timeout=PATIENCE)
    return os.getpid()


# async def.


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


async def loop_name() -> str:
    return type(asyncio.get_running_loop()).__module__


async def fail_async() -> None:
    await asyncio.sleep(0)
    raise ValueError("oops")


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def leave_task() -> str:
    """Leave a task that never ends."""
    leave_task.task = asyncio.ensure_future(asyncio.Event().wait())  # type: ignore[attr-defined]
    return "left"


def returns_coroutine() -> Any:
    return double(4)


# Subclasses.


class Adder(parkit.Process[int]):
    """``run`` overridden: it has no target, and adds up what its Dict holds."""

    def run(self) -> int:
        self["from"] = "run"
        return int(self["left"] + self["right"])


class AsyncAdder(parkit.Process[int]):
    """An ``async def`` in the blocking class."""

    async def run(self) -> int:
        await asyncio.sleep(0)
        return int(self["left"] + self["right"])


class AwaitableAdder(parkit_async.Process[int]):
    async def run(self) -> int:
        await self.set("from", "run")
        return int(await self["left"] + await self["right"])


class Wrapper(parkit.Process[Any]):
    """Calls the target as ``super().run()`` does."""

    def run(self) -> Any:
        return ["wrapped", super().run()]


class AwaitableWrapper(parkit_async.Process[Any]):
    async def run(self) -> Any:
        return ["wrapped", await super().run()]


# Objects.


def append(log: Any, value: Any) -> int:
    log.append(value)
    return len(log)


async def append_async(log: Any, value: Any) -> int:
    await log.append(value)
    return int(await log.len())


def append_to_results(path: str, value: Any) -> None:
    """Reach what was assigned to the process: ``p["results"] = log``."""
    parkit.Process[Any](path, create=False)["results"].append(value)


async def append_to_results_async(path: str, value: Any) -> None:
    process = await parkit_async.Process[Any](path, create=False)
    await (await process["results"]).append(value)


def wait_for(process: Any) -> Any:
    return process.get_result(PATIENCE)


async def wait_for_async(process: Any) -> Any:
    return await process.get_result(PATIENCE)


def type_name(thing: Any) -> str:
    return type(thing).__module__


def put(path: str, value: Any) -> None:
    parkit.Queue[Any](path).put(value)


# What is left behind.


def leave_daemon_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return os.getpid()


def leave_thread(path: str) -> str:
    """Leave a thread that the process has to wait for."""

    def work() -> None:
        hold(path)
        parkit.Log[str](f"{path}-log").append("thread")

    threading.Thread(target=work).start()
    return "main"


def leave_executor(path: str) -> str:
    executor = concurrent.futures.ThreadPoolExecutor(2)
    executor.submit(hold, path).add_done_callback(lambda _: parkit.Log[str](f"{path}-log").append("executor"))
    return "main"


def _child(path: str) -> None:
    hold(path)
    parkit.Log[str](f"{path}-log").append("child")


def leave_child(path: str) -> str:
    multiprocessing.get_context("fork").Process(target=_child, args=(path,)).start()
    return "main"


def use_spawned_child(path: str) -> int:
    child = multiprocessing.get_context("spawn").Process(target=put, args=(path, "spawned"))
    child.start()
    child.join()
    return child.exitcode or 0


def use_process_pool() -> list[int]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        return list(executor.map(abs, [-1, -2, -3]))


def leave_daemon_child() -> int:
    child = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
    child.start()
    assert child.pid is not None
    return child.pid


def leave_subprocess() -> int:
    return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid


def fork_and_return() -> str:
    """Return twice."""
    child = os.fork()
    if not child:
        return "child"
    os.waitpid(child, 0)
    return "parent"


def fork_and_fail() -> str:
    child = os.fork()
    if not child:
        raise ValueError("in the child")
    os.waitpid(child, 0)
    return "parent"


_left: list[Any] = []
"""Context managers that are entered, and not left: forgotten, they would be left."""


def leave_transaction(path: str) -> int:
    counter = parkit.Dict[str, int](path)
    _left.append(parkit.transaction(counter))
    _left[-1].__enter__()
    counter["n"] = 1
    return os.getpid()


async def leave_transaction_async(path: str) -> int:
    counter = await parkit_async.Dict[str, int](path)
    _left.append(parkit_async.transaction(counter))
    await _left[-1].__aenter__()
    await counter.set("n", 1)
    return os.getpid()


def leave_thread_in_transaction(path: str) -> int:
    """Leave a thread behind that never gives up its turn to write."""
    counter = parkit.Dict[str, int](path)
    held = threading.Event()

    def hold_on() -> None:
        with parkit.transaction(counter):
            held.set()
            threading.Event().wait()

    threading.Thread(target=hold_on, daemon=True).start()
    held.wait()
    return os.getpid()


def leave_snapshot(path: str) -> int:
    _left.append(parkit.snapshot(parkit.Dict[str, int](path)))
    _left[-1].__enter__()
    return os.getpid()


def read(path: str, key: str) -> Any:
    return parkit.Dict[str, Any](path).get(key)


def increment(path: str) -> int:
    counter = parkit.Dict[str, int](path)
    with parkit.transaction(counter):
        counter["n"] = counter.get("n", 0) + 1
    return counter["n"]


def spoil(folder: str) -> int:
    """Change whatever belongs to the interpreter's process."""
    os.chdir(folder)
    os.environ["SPOILT"] = "yes"
    os.environ.pop("HOME", None)
    for name in ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os.close(1)
    sys.path.insert(0, "/nowhere")
    os.umask(0o117)
    return os.getpid()


def state() -> dict[str, Any]:
    """Return what :func:`spoil` changes."""
    print("printed", flush=True)
    mask = os.umask(0)
    os.umask(mask)
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "handlers": {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")},
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "path": list(sys.path),
        "umask": mask,
        "niceness": os.nice(0),
    }


def remember() -> tuple[int, int]:
    """Return how often it was called in this interpreter, and where that is."""
    remember.calls = getattr(remember, "calls", 0) + 1  # type: ignore[attr-defined]
    return remember.calls, os.getpid()  # type: ignore[attr-defined]


def lower_priority() -> int:
    parkit.set_process_priority(parkit.ProcessPriority.Low)
    return os.nice(0)


async def lower_priority_async() -> int:
    await parkit_async.set_process_priority(parkit_async.ProcessPriority.Low)
    return os.nice(0)


# Output and logging.


def say(*lines: str) -> None:
    for line in lines:
        print(line)


def say_in_every_way() -> None:
    print("print")
    print("stderr", file=sys.stderr)
    sys.stdout.write("no end of line")
    sys.stdout.flush()
    os.write(1, b"\nos.write\n")
    subprocess.run(["/bin/sh", "-c", "echo subprocess; echo complaint >&2"], check=True)
    ctypes.CDLL(None).puts(b"C stdio")
    logging.getLogger("tests.pool").warning("logged %s", 1)
    print("\N{SNOWMAN} \udcff")


def say_and_hold(path: str) -> None:
    print("first")
    hold(path)
    print("second")


def say_and_crash() -> None:
    print("before the end")
    os._exit(9)


def say_without_end_and_fail() -> None:
    sys.stdout.write("half a line")
    raise ValueError("oops")


def say_much(path: str, count: int) -> None:
    for number in range(count):
        print(f"{number:07}")
    hold(path)
    print("last")


def say_much_at_once(size: int, exitcode: int | None) -> None:
    os.write(1, b"x" * size)
    if exitcode is not None:
        os._exit(exitcode)


def log_all_levels() -> None:
    logger = logging.getLogger("tests.pool")
    logger.debug("a debug record")
    logger.info("an info record")
    logger.error("an error record")


def configure_logging() -> int:
    """Configure logging as programs do that think that they are alone."""
    logging.basicConfig(force=True, level=logging.CRITICAL, stream=sys.stdout)
    return os.getpid()


def log_exception() -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("tests.pool").exception("it failed")


# Resources.

_hoard: list[bytes] = []


def grow(size: int) -> int:
    _hoard.append(b"x" * size)
    return os.getpid()


def leave_at_once(exitcode: int) -> None:
    """End the interpreter without any of what it does at its end."""
    os._exit(exitcode)
