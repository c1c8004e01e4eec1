"""The documents that the page, its events and /metrics show, without a server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import parkit
from parkit import Dict, LifoQueue, Log, Process, Queue, snapshot
from parkit_async._core import codecs, failures, process_ops
from parkit_async._core.registry import open_namespace
from parkit_async.dashboard import state
from parkit_async.dashboard.metrics import exposition
from tests.conftest import Spawn


def look(name: str = "shop") -> dict[str, Any]:
    document = state.namespace_document(open_namespace(name)).document
    json.dumps(document)
    return document


def end(process: Process[Any], status: str, exitcode: int, frame: bytes | None) -> None:
    """Do to a process what a worker does."""
    namespace = process._binding.namespace
    assert namespace.write_apart(process_ops.claim, ("w", 4711)) is not None
    assert namespace.write_apart(process_ops.finish, (process._binding, "w", status, exitcode, frame)) is not None


@pytest.fixture(autouse=True)
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes submitted without a supervisor to run them."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")
    monkeypatch.setattr("parkit.adapters.process.supervision.ensure", lambda *_, **__: None)


def test_queues_logs_and_fullness() -> None:
    orders: Queue[int] = Queue("shop/orders", maxsize=9)
    orders.put_many([1, 2, 3])
    orders.get()
    LifoQueue("shop/undo").shutdown()
    Log[int]("shop/sales").extend(range(5))
    Dict[str, int]("shop/stock")["tea"] = 1
    document = look()
    assert document["queues"] == [
        {"path": "shop/orders", "type": "Queue", "depth": 2, "unfinished": 3, "maxsize": 9, "dead": 0, "shut_down": False, "waiters": 0},
        {"path": "shop/undo", "type": "LifoQueue", "depth": 0, "unfinished": 0, "maxsize": 0, "dead": 0, "shut_down": True, "waiters": 0},
    ]
    assert document["logs"] == [{"path": "shop/sales", "length": 5}]
    assert document["kinds"] == {"queue": 2, "log": 1, "dict": 1} and document["objects"] == 4
    assert document["level"] == "off" and 0 < document["used"] <= document["file"] < document["limit"]
    assert document["snapshots"] == [] and document["waiters"] == [] and not document["hidden"]


def test_a_store_that_rests_has_the_same_documents() -> None:
    Queue[int]("shop/orders").put(1)
    Process("shop/report", target=abs, args=(1,)).start()
    assert look() == look()
    assert state.store_document() == state.store_document()
    assert state.pool_document() == state.pool_document()


def test_moments_follow_the_clock_on_the_wall_when_the_machine_has_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_begun", time.time() - time.monotonic() - 8 * 3600)
    now = state.moment(0.0)
    assert now is not None and abs(now - time.time()) < 3600, "and not eight hours ago"


def test_objects_of_a_users_class_are_told_by_what_they_hold() -> None:
    class Orders(Queue[int]):
        type_name = "no.such.module.Orders"

    class Sales(Log[int]):
        type_name = "no.such.module.Sales"

    orders = Orders("shop/orders")
    assert look()["kinds"] == {"object": 1}
    orders.put(1)
    Sales("shop/sales").append(1)
    document = look()
    assert [queue["path"] for queue in document["queues"]] == ["shop/orders"] and document["queues"][0]["type"] == "no.such.module.Orders"
    assert [log["path"] for log in document["logs"]] == ["shop/sales"]
    orders.get()
    assert look()["queues"][0]["depth"] == 0, "what was a queue once stays one"


def test_processes_in_the_order_in_which_they_matter() -> None:
    for name in ("one", "two", "three", "four"):
        Process(f"shop/{name}", target=abs, args=(1,))
    processes = {name: Process[Any](f"shop/{name}", create=False) for name in ("one", "two", "three", "four")}
    processes["two"].start()
    end(processes["two"], "finished", 0, codecs.encode(1))
    processes["three"].start()
    processes["three"]._binding.namespace.write_apart(process_ops.claim, ("w", 4711))
    processes["four"].start()
    document = look()["processes"]
    assert [(row["name"], row["status"]) for row in document["rows"]] == [
        ("shop/three", "running"),
        ("shop/four", "submitted"),
        ("shop/one", "created"),
        ("shop/two", "finished"),
    ]
    assert document["counts"] == {"created": 1, "submitted": 1, "running": 1, "finished": 1, "failed": 0, "crashed": 0}
    assert document["rows"][0]["pid"] == 4711 and document["rows"][0]["started"] > document["rows"][0]["submitted"] - 1


def test_lists_are_bounded_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROWS", 3)
    for number in range(5):
        Queue(f"shop/q{number}")
        Process(f"shop/p{number}", target=abs)
    document = look()
    assert len(document["queues"]) == 3 and document["left_out"]["queues"] == 2
    assert len(document["processes"]["rows"]) == 3 and document["processes"]["left_out"] == 2
    assert document["kinds"] == {"queue": 5, "process": 5}


class Treacherous(Exception):
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: str) -> None:
        super().__init__("it went wrong")
        self.path = path

    def __reduce__(self) -> Any:
        return _trap, (self.path,)


def _trap(path: str) -> Treacherous:
    Path(path).touch()
    return Treacherous(path)


def test_an_error_is_told_without_loading_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    process: Process[Any] = Process("shop/report", target=abs)
    process.start()
    captured = failures.capture(Treacherous(str(trace)))
    assert captured["pickled"] is not None
    end(process, "failed", 1, codecs.encode(captured))
    trace.unlink()
    row = look()["processes"]["rows"][0]
    assert row["error"].endswith("Treacherous: it went wrong") and row["exitcode"] == 1
    document = state.process_document("shop/report")
    assert document is not None and "it went wrong" in document["failure"]["traceback"]
    assert not trace.exists()
    assert isinstance(process.error, Treacherous) and trace.exists(), "the trap works"


def test_what_came_of_a_process() -> None:
    finished: Process[Any] = Process("shop/finished", target=abs)
    finished.start()
    end(finished, "finished", 0, codecs.encode({"n": [1, 2]}))
    document = state.process_document("shop/finished")
    assert document is not None and document["result"] == "{'n': [1, 2]}" and document["failure"] is None
    crashed: Process[Any] = Process("shop/crashed", target=abs)
    crashed.start()
    crashed.terminate()
    document = state.process_document("shop/crashed")
    assert document is not None and document["exitcode"] == -15 and "SIGTERM" in document["failure"]["message"]
    for name in ("shop/none", "none/none", "shop//", "", "../x"):
        assert state.process_document(name) is None
    Dict("shop/dict")
    assert state.process_document("shop/dict") is None


@pytest.mark.processes
def test_waiters_and_snapshots_of_other_processes(spawn: Spawn) -> None:
    orders: Queue[int] = Queue("shop/orders")
    waiting = spawn(
        """
        import threading
        from parkit import Queue, snapshot
        from parkit_async._core.registry import open_namespace
        orders = Queue("shop/orders")
        with snapshot("shop"):
            thread = threading.Thread(target=orders.get, daemon=True)
            thread.start()
            while not open_namespace("shop").table._active:
                pass
            print("ready", flush=True)
            input()
        """
    )
    assert waiting.read_line() == "ready"
    Log[int]("shop/sales").append(1)
    document = look()
    assert document["waiters"] == [{"path": "shop/orders", "events": ["items"], "pid": waiting.pid}]
    assert document["queues"][0]["waiters"] == 1 and document["waiting"] == 1
    assert [one["pid"] for one in document["snapshots"]] == [waiting.pid] and document["snapshots"][0]["since"] <= document["committed"]
    with snapshot(orders):
        assert len(look()["snapshots"]) == 1, "the dashboard's own is not shown"
    waiting.send("")
    waiting.finish()


def test_the_store_and_its_pool(store: Path) -> None:
    assert state.store_document()["namespaces"] == []
    assert state.pool_document()["running"] is False
    Dict("shop/stock")
    Dict("stock")
    parkit.syslog.append({})
    parkit.set_pool_size(3)
    assert state.store_document()["namespaces"] == ["default", "shop", "__process__", "__syslog__"]
    assert state.store_document()["path"] == str(store)
    pool = state.pool_document()
    assert pool["size"] == 3 and pool["workers"] == [] and pool["options"]["grace"] == 5.0
    assert look("__process__")["hidden"]


# Prometheus.


def parse(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Read the text exposition format, strictly: anything that Prometheus would not take is an error."""
    import re

    assert text.endswith("\n")
    sample = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (\S+)')
    label = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\n"])*)"')
    unescape = {"\\\\": "\\", "\\n": "\n", '\\"': '"'}
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    helped: str | None = None
    current: str | None = None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in found, "each family once"
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current == helped and kind in ("gauge", "counter")
            assert (kind == "counter") == current.endswith("_total")
            found[current] = {}
        else:
            match = sample.fullmatch(line)
            assert match is not None, line
            assert match[1] == current
            labels = tuple((name, re.sub(r'\\[\\n"]', lambda one: unescape[one[0]], value)) for name, value in label.findall(match[2] or ""))
            assert labels not in found[match[1]], "each sample once"
            found[match[1]][labels] = float(match[3])
    return found


def test_metrics_show_what_the_documents_do() -> None:
    orders: Queue[int] = Queue('shop/a"b\\c')
    orders.put_many([1, 2, 3])
    orders.get()
    Process("shop/report", target=abs).start()
    namespaces = [look("shop"), look("__process__")]
    metrics = parse(exposition(state.store_document(), state.pool_document(), namespaces))
    where = ("namespace", "shop")
    queue = (where, ("queue", 'shop/a"b\\c'))
    assert metrics["parkit_up"] == {(): 1}
    assert metrics["parkit_queue_depth"] == {queue: 2} and metrics["parkit_queue_unfinished"] == {queue: 3}
    assert metrics["parkit_processes"][(where, ("status", "submitted"))] == 1
    assert metrics["parkit_namespace_used_bytes"][(where,)] == namespaces[0]["used"]
    assert metrics["parkit_namespace_commits_total"][(where,)] == namespaces[0]["commits"]
    assert metrics["parkit_namespace_oldest_snapshot_seconds"][(where,)] == 0
    assert metrics["parkit_workers"] == {(("state", one),): 0 for one in ("idle", "busy", "retiring")}


def test_metrics_of_what_cannot_be_read() -> None:
    broken = {"name": "shop", "error": "damaged"}
    metrics = parse(exposition(state.store_document(), {"error": "x"}, [broken]))
    assert metrics == {"parkit_up": {(): 0}}
