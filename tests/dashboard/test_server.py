"""The command as a server: real HTTP, real workers, another process that changes the store, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import parkit
from parkit import Log, Process, Queue
from parkit_async._core.registry import close_all, open_namespace
from tests.conftest import ROOT, Spawn
from tests.dashboard.conftest import DEADLINE, Dashboard
from tests.dashboard.test_access import STRANGER, TOKEN, linux
from tests.dashboard.test_state import parse
from tests.pool.conftest import Pool

pytestmark = pytest.mark.processes

Starts = Callable[..., Dashboard]
JSON = {"content-type": "application/json"}


def speak() -> None:
    """Say something, and then whatever comes from a queue."""
    print("ready", flush=True)
    words: Queue[str] = Queue("shop/words")
    while (word := words.get()) != "end":
        print(word, flush=True)


def row_of(name: str, status: str) -> Callable[[Any], Any]:
    """Return a condition on a namespace's state: that a process is there with a status."""
    return lambda state: next((row for row in state["processes"]["rows"] if row["name"] == name and row["status"] == status), None)


def depth_is(depth: int) -> Callable[[Any], Any]:
    """Return a condition on a namespace's state: that its first queue has a depth."""
    return lambda state: state["queues"] and state["queues"][0]["depth"] == depth


# What is shown.


def test_a_process_is_pushed_as_it_goes_its_way(dashboard: Dashboard) -> None:
    with dashboard.stream("/events") as events:
        process = Process("shop/speak", target=speak)
        process.start()
        events.state("namespace:shop", row_of("shop/speak", "running"))
        with dashboard.stream("/output?name=shop/speak") as output:
            assert output.next() == ("text", {"text": "ready\n", "cut": False})
            Queue[str]("shop/words").put("tea")
            assert output.next() == ("text", {"text": "tea\n", "cut": False})
            last = output.last
        Queue[str]("shop/words").put("salt")
        with dashboard.stream("/output?name=shop/speak", last) as output:
            assert output.next() == ("text", {"text": "salt\n", "cut": False})
            Queue[str]("shop/words").put("end")
            assert output.next() == ("end", {"status": "finished"})
        events.state("namespace:shop", row_of("shop/speak", "finished"))
    assert dashboard.get("/api/process?name=shop/speak").json()["status"] == "finished"


def test_the_pool_is_pushed(dashboard: Dashboard, pool: Pool) -> None:
    with dashboard.stream("/events") as events:
        parkit.set_pool_size(1)
        assert events.state("pool", lambda pool: pool["size"] == 1)
        parkit.set_pool_size(2)
        assert events.state("pool", lambda pool: pool["size"] == 2)


def test_a_log_is_followed(dashboard: Dashboard) -> None:
    log: Log[str] = Log("shop/sales")
    log.append("tea")
    with dashboard.stream("/logs?path=shop/sales") as events:
        assert events.next()[1]["entries"] == [{"index": 0, "text": "'tea'"}]
        log.append("salt")
        assert events.next()[1]["entries"] == [{"index": 1, "text": "'salt'"}]
    parkit.syslog.append({"time": 1.0, "level": "WARNING", "logger": "x", "message": "beware"})
    with dashboard.stream("/logs?path=__syslog__/syslog") as events:
        assert events.until(lambda _, data: any(entry.get("message") == "beware" for entry in data["entries"]))


def test_what_is_not_there(dashboard: Dashboard) -> None:
    for path in (
        "/logs?path=shop/none",
        "/logs?path=none/none",
        "/logs?path=//",
        "/logs",
        "/output?name=none",
        "/output",
        "/api/process?name=x",
        "/nowhere",
    ):
        assert dashboard.get(path).status_code == 404, path
    assert dashboard.act("nonsense").status_code == 404
    assert dashboard.client.post("/events", headers=JSON).status_code == 405


def test_what_cannot_be_read_is_told(start_dashboard: Starts, store: Path) -> None:
    Log[int]("shop/sales").append(1)
    directory = open_namespace("shop").directory
    close_all()
    (directory / "data.mdb").write_bytes(b"x" * 8192)
    dashboard = start_dashboard()
    for path in ("/logs?path=shop/sales", "/output?name=shop/report", "/api/process?name=shop/report"):
        answer = dashboard.get(path)
        assert answer.status_code == 500 and str(directory) in answer.json()["error"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "parkit_up 0" in dashboard.get("/metrics").text.splitlines()
    dashboard.command.process.terminate()
    assert dashboard.command.finish().stderr == ""


def test_whoever_leaves_while_he_asks_is_no_error(start_dashboard: Starts, store: Path) -> None:
    dashboard = start_dashboard()
    host, port = dashboard.address.removeprefix("http://").rstrip("/").split(":")
    fields = b" HTTP/1.1\r\nHost: localhost\r\nVia: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    with socket.create_connection((host, int(port))) as hasty:
        hasty.sendall(b"POST /login" + fields + b"Expect: 100-continue\r\n\r\n")
        assert hasty.recv(100).startswith(b"HTTP/1.1 100"), "the dashboard reads"
    assert dashboard.get("/api/state").status_code == 200
    dashboard.command.process.terminate()
    assert dashboard.command.finish().stderr == ""


def test_metrics_are_those_of_now(dashboard: Dashboard) -> None:
    orders: Queue[int] = Queue("shop/orders")
    for depth in (1, 2):
        orders.put(depth)
        answer = dashboard.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        metrics = parse(answer.text)
        assert metrics["parkit_queue_depth"][(("namespace", "shop"), ("queue", "shop/orders"))] == depth
    assert metrics["parkit_supervisor_running"] == {(): 1} and sum(metrics["parkit_workers"].values()) >= 1


def test_what_the_page_needs_comes_along_and_is_safe(dashboard: Dashboard) -> None:
    page = dashboard.get("/")
    assert page.status_code == 200 and "<title>parkit</title>" in page.text
    folder = ROOT / "parkit_async" / "dashboard" / "static"
    names = sorted(path.name for path in folder.iterdir())
    assert {"index.html", "style.css", "app.js"} <= set(names)
    for name in names:
        answer = dashboard.get(f"/static/{name}")
        assert answer.status_code == 200 and answer.content == (folder / name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        text = (folder / name).read_text()
        assert "innerHTML" not in text and "://" not in text.replace("http://www.w3.org/2000/svg", ""), (
            "no HTML from data, and nothing from elsewhere"
        )
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "style=" not in page.text and "<script>" not in page.text and re.search(r"\son\w+=", page.text) is None
    assert dashboard.get("/static/../app.py").status_code == 404
    assert dashboard.get("/static/%2e%2e/app.py").status_code == 404


# What the buttons do.


def test_processes_are_ended_and_forgotten(dashboard: Dashboard) -> None:
    process = Process("shop/speak", target=speak)
    process.start()
    uuid = process.uuid
    with dashboard.stream("/events") as events:
        events.state("namespace:shop", row_of("shop/speak", "running"))
        assert dashboard.act("forget", name="shop/speak", uuid=uuid).status_code == 400
        assert dashboard.act("terminate", name="shop/speak", uuid=uuid).json() == {"done": "shop/speak was asked to end."}
        row = events.state("namespace:shop", row_of("shop/speak", "crashed"))
        assert row and process.join(DEADLINE) and process.exitcode == -signal.SIGTERM
    assert dashboard.act("forget", name="shop/speak", uuid="0" * 32).status_code == 404, "another process of that name"
    assert dashboard.act("forget", name="shop/speak", uuid=uuid).status_code == 200
    assert not process.exists
    assert dashboard.act("terminate", name="shop/speak", uuid=uuid).status_code == 404


def test_processes_are_killed_and_cleaned(dashboard: Dashboard) -> None:
    process = Process("shop/speak", target=speak)
    process.start()
    while process.status != "running":
        Queue("shop/other")
    assert dashboard.act("kill", name="shop/speak", uuid=process.uuid).status_code == 200
    assert process.join(DEADLINE) and process.exitcode == -signal.SIGKILL
    assert dashboard.act("clean").json() == {"done": "1 process forgotten."}
    assert dashboard.act("clean", statuses=["nonsense"]).status_code == 400
    assert dashboard.act("clean", nonsense=1).status_code == 400
    assert list(parkit.processes()) == []


def test_arguments_that_cannot_be_read_are_not_left_out(dashboard: Dashboard) -> None:
    process = Process("shop/one", target=abs, args=(1,))
    process.start()
    assert process.join(DEADLINE)
    for content in (b" " * 70_000 + b'{"statuses": ["failed"]}', b"[" * 60_000, b'{"\\ud800": 1}', b"\xff"):
        answer = dashboard.client.post("/api/actions/clean", content=content, headers=JSON)
        assert answer.status_code == 400 and answer.json()["error"]
    assert process.exists


def test_the_pool_is_resized(dashboard: Dashboard) -> None:
    assert dashboard.act("resize", size=1).status_code == 200
    assert parkit.get_pool_size() == 1
    assert dashboard.act("resize", size=2).status_code == 200
    for size in (-1, 10**6, "2", None, 1.5):
        answer = dashboard.act("resize", size=size)
        assert answer.status_code == 400 and answer.json()["error"], size
    assert dashboard.client.post("/api/actions/resize", content=b"[1", headers=JSON).status_code == 400
    assert dashboard.client.post("/api/actions/resize", content=b"[1]", headers=JSON).status_code == 400
    assert dashboard.client.post("/api/actions/resize", content=b" " * 70_000 + b'{"size": 1}', headers=JSON).status_code == 400
    assert parkit.get_pool_size() == 2


def test_the_pool_is_started_and_stopped(swept: None, own_pool: Pool, start_dashboard: Starts) -> None:
    dashboard = start_dashboard()
    with dashboard.stream("/events") as events:
        events.state("pool", lambda pool: not pool["running"])
        assert dashboard.act("start").status_code == 200
        events.state("pool", lambda pool: pool["running"] and len(pool["workers"]) == 2)
        assert dashboard.act("stop").json() == {"done": "The pool has ended."}
        events.state("pool", lambda pool: not pool["running"] and not pool["workers"])
        assert dashboard.act("start").status_code == 200
        pid = events.state("pool", lambda pool: pool["running"] and pool["workers"])["pid"]
        os.kill(pid, signal.SIGKILL)
        assert events.state("pool", lambda pool: pool["running"] and pool["pid"] != pid)["epoch"] >= 2, (
            "a death rings nobody, and is seen all the same"
        )


# Who is let in.


def test_other_sites_are_refused(dashboard: Dashboard) -> None:
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}, {"origin": "null"}):
        assert dashboard.get("/api/state", headers=headers).status_code == 403
        assert dashboard.act("resize", headers=headers, size=5).status_code == 403
    assert dashboard.client.post("/api/actions/resize", content=b'{"size": 5}', headers={"content-type": "text/plain"}).status_code == 415
    assert parkit.get_pool_size() == 2
    page = dashboard.get("/", headers={"host": "evil.example", "accept": "text/html"})
    assert page.status_code == 403 and "--allow-host" in page.text and "<script" not in page.text


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_another_user_of_this_machine_is_refused(dashboard: Dashboard, spawn: Spawn) -> None:
    host, port = dashboard.address.removeprefix("http://").rstrip("/").split(":")
    stranger = spawn(
        """
        import os, socket, sys
        os.setuid(int(sys.argv[3]))
        fields = b"\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}"
        for request in (b"GET /api/state HTTP/1.1", b"POST /api/actions/clean HTTP/1.1", b"GET /events HTTP/1.1"):
            with socket.socket() as client:
                client.connect((sys.argv[1], int(sys.argv[2])))
                client.sendall(request + fields)
                print(client.recv(100).split(b" ")[1].decode(), flush=True)
        """,
        host,
        port,
        STRANGER,
    )
    assert [stranger.read_line() for _ in range(3)] == ["401"] * 3
    assert stranger.finish().stdout == ""
    assert dashboard.get("/api/state").status_code == 200


@pytest.mark.slow
def test_a_token_opens_the_page_until_it_expires(start_dashboard: Starts, store: Path) -> None:
    Queue("shop/orders")
    lifetime = 5.0
    begun = time.monotonic()
    dashboard = start_dashboard("--require-token", "--token-lifetime", lifetime / 3600)
    assert len(dashboard.token) >= 40
    html = {"accept": "text/html"}
    refused = dashboard.get("/", headers=html)
    assert refused.status_code == 401 and 'name="token"' in refused.text
    assert dashboard.get("/api/state").status_code == 401 and dashboard.act("clean").status_code == 401
    assert dashboard.get("/", params={"token": "wrong" * 5}).status_code == 401
    wrong = dashboard.client.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401 and not dashboard.client.cookies
    for method, path, where in (("GET", "/", "params"), ("POST", "/login", "data")):
        dashboard.client.cookies.clear()
        opened = dashboard.client.request(method, path, **{where: {"token": dashboard.token}})  # type: ignore[arg-type]
        assert opened.status_code == 303 and opened.headers["location"] == "/"
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and dashboard.token.lower() not in cookie
        assert dashboard.get("/").status_code == 200
    bearer = {"authorization": f"Bearer {dashboard.token}"}
    with dashboard.stream("/events") as events:
        events.state("namespace:shop", bool)
        events.rest()
    assert time.monotonic() >= begun + lifetime, "what it had opened is closed with it"
    for answer in (
        dashboard.get("/", headers=html),
        dashboard.get("/", headers=html, params={"token": dashboard.token}),
        dashboard.client.post("/login", data={"token": dashboard.token}),
    ):
        assert answer.status_code == 401 and "expired" in answer.text and "parkit dashboard" in answer.text
    dashboard.client.cookies.clear()
    answer = dashboard.get("/metrics", headers=bearer)
    assert answer.status_code == 401 and "expired" in answer.json()["error"]


def test_a_given_token(start_dashboard: Starts, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    dashboard = start_dashboard("--require-token", "--token-file", tmp_path / "token")
    assert dashboard.token == "", "whoever has given it knows it"
    assert dashboard.get("/metrics").status_code == 401
    assert dashboard.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_given_token_may_end_in_a_new_line(start_dashboard: Starts, store: Path) -> None:
    dashboard = start_dashboard("--require-token", PARKIT_DASHBOARD_TOKEN=f"{TOKEN}\n")
    assert dashboard.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@linux
def test_a_name_for_this_machine_alone_is_no_other_machines(start_dashboard: Starts, store: Path) -> None:
    dashboard = start_dashboard("--host", "localhost")
    assert dashboard.token == "" and dashboard.address.startswith("http://localhost:")
    dashboard.command.process.terminate()
    assert dashboard.command.finish().stderr == "", "no warning that others can read along"


def test_a_browser_that_is_waited_for_gets_the_page(start_dashboard: Starts, store: Path, tmp_path: Path) -> None:
    """As with the browsers of a terminal: they end when their user is done with the page."""
    with socket.create_server(("127.0.0.1", 0)) as told:
        told.settimeout(DEADLINE)
        browser = tmp_path / "browser"
        browser.write_text(
            f"""#!{sys.executable}
import socket, sys, urllib.request
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(sys.argv[1], timeout={DEADLINE / 4}) as answer:
        said = str(answer.status)
except OSError as error:
    said = str(error)
socket.create_connection({told.getsockname()}).sendall(said.encode())
"""
        )
        browser.chmod(0o700)
        start_dashboard("--open", BROWSER=str(browser), PYTHONWARNINGS="")
        with told.accept()[0] as end:
            assert end.recv(1000) == b"200" or not Path("/proc/net/tcp").exists()


def test_read_only(start_dashboard: Starts, store: Path) -> None:
    dashboard = start_dashboard("--read-only")
    assert dashboard.get("/api/state").json()["read_only"] is True
    answer = dashboard.act("resize", size=5)
    assert answer.status_code == 403 and "--read-only" in answer.json()["error"]
    assert not (store / "supervisor.log").exists() and parkit.get_pool_size() != 5


# What it leaves, and how it ends.


def test_a_page_that_is_closed_leaves_nothing_behind(dashboard: Dashboard) -> None:
    orders: Queue[int] = Queue("shop/orders")
    log: Log[int] = Log("shop/sales")
    descriptors = Path(f"/proc/{dashboard.pid}/fd")
    table = open_namespace("shop").table

    def registered(object_id: int) -> int:
        return sum(table._occupancy[slot] and table._slots[slot * 4] == object_id for slot in range(64))

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)  # what another process registers wakes nobody

    dashboard.get("/metrics")
    with dashboard.stream("/events") as events:
        events.state("namespace:shop", lambda shop: len(shop["queues"]) == 1)
    until(lambda: registered(log._binding.object_id) == 1)  # the watcher's own
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    with (
        dashboard.stream("/logs?path=shop/sales") as first,
        dashboard.stream("/logs?path=shop/sales") as second,
        dashboard.stream("/events") as third,
    ):
        first.next(), second.next(), third.next()
        until(lambda: registered(log._binding.object_id) == 2)  # all streams of a log share one
        orders.put(1)
    until(lambda: registered(log._binding.object_id) == 1)
    if before:
        until(lambda: len(list(descriptors.iterdir())) <= before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_at_once_with_pages_open(start_dashboard: Starts, store: Path, number: int, code: int) -> None:
    Queue("shop/orders")
    parkit.syslog.append({})
    dashboard = start_dashboard()
    ended = threading.Event()
    with dashboard.stream("/events") as events, dashboard.stream("/logs?path=__syslog__/syslog") as log:
        events.state("namespace:shop", bool)
        log.next()
        begun = time.monotonic()
        dashboard.command.process.send_signal(number)

        def read() -> None:
            events.rest()
            ended.set()

        reading = threading.Thread(target=read)
        reading.start()
        finished = dashboard.command.finish()
        assert time.monotonic() - begun < 3.0
        reading.join(DEADLINE)
    assert ended.is_set() and finished.exitcode == code
    assert finished.stderr == ""
    assert os.listdir(store / "sockets") == []


def test_the_head_of_a_stream_has_an_end(dashboard: Dashboard) -> None:
    for path in ("/events", "/metrics"):  # by the same connection, one after the other
        assert dashboard.client.head(path).status_code == 200


def test_a_page_that_asks_slowly_does_not_hold_up_others(dashboard: Dashboard) -> None:
    host, port = dashboard.address.removeprefix("http://").rstrip("/").split(":")
    orders: Queue[int] = Queue("shop/orders")
    with socket.create_connection((host, int(port))) as lazy:
        lazy.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and never reads
        with dashboard.stream("/events") as events:
            for depth in range(1, 4):
                orders.put(depth)
                assert events.state("namespace:shop", depth_is(depth))


def test_the_wheel_has_what_the_page_needs() -> None:
    """The wheel's packages are whole folders, so what lies in them comes along; see pyproject.toml."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "parkit_async" in wheel["packages"] and "exclude" not in wheel
    ignored = subprocess.run(
        ["git", "check-ignore", *sorted(map(str, (ROOT / "parkit_async/dashboard/static").iterdir()))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout == "", "hatchling leaves out what git ignores"


def test_importing_parkit_imports_no_server() -> None:
    code = "import sys, parkit, parkit_async, parkit_async.cli; print([n for n in ('starlette', 'uvicorn', 'anyio') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "[]\n"
