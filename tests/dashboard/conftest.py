"""A dashboard to test: the command, in a process of its own, on the store of a pool; and what comes from it over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Pipe, swept  # noqa: F401 - a fixture, too
from tests.pool.conftest import Pool, own_pool, pool, shared  # noqa: F401 - the fixtures of a pool

DEADLINE = 20.0
"""Seconds after which what should come has not come."""


class Events:
    """An answer of server-sent events, read as it comes."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.last: str | None = None

    def next(self) -> tuple[str, Any]:
        """Return the next event: its name and its data. The client's own timeout is its deadline."""
        name, data = "", ""
        for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "id":
                self.last = value
            elif not line and name:
                return name, json.loads(data)
        raise EOFError("the stream has ended")

    def until(self, condition: Callable[[str, Any], Any]) -> Any:
        """Return what ``condition`` returns, of the first event for which that is true."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            found = condition(*self.next())
            if found:
                return found
        raise AssertionError("it did not come in time")

    def state(self, topic: str, condition: Callable[[Any], Any]) -> Any:
        """Return the first state of a topic for which ``condition`` is true."""

        def matches(name: str, data: Any) -> Any:
            return data["state"] if name == "state" and data["topic"] == topic and condition(data["state"]) else None

        return self.until(matches)

    def rest(self) -> None:
        """Read until the stream ends."""
        for _ in self._lines:
            pass


class Dashboard:
    """A running ``parkit dashboard``.

    Attributes:
        address: Where it is, without the token.
        token: What it has printed, if it has.
        client: Asks it.
    """

    def __init__(self, *arguments: object, **changes: str) -> None:
        self.command = Pipe("dashboard", "--port", 0, *arguments, **changes)
        try:
            line = self.command.read_line()
        except BaseException:
            self.command.close()
            raise
        self.address, _, self.token = line.partition("?token=")
        self.client = self._new_client()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=DEADLINE, trust_env=False)

    def renew(self) -> None:
        """Ask by new connections from now on; those that are open are closed."""
        self.client.close()
        self.client = self._new_client()

    @property
    def pid(self) -> int:
        return self.command.process.pid

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def act(self, action: str, headers: dict[str, str] | None = None, **arguments: Any) -> httpx.Response:
        """Do what a button does."""
        return self.client.post(f"/api/actions/{action}", json=arguments, headers=headers)

    @contextmanager
    def stream(self, path: str, last: str | None = None, **options: Any) -> Iterator[Events]:
        """Follow a stream of events, from behind the event ``last`` on."""
        headers = {} if last is None else {"last-event-id": last}
        with self.client.stream("GET", path, headers=headers, **options) as answer:
            assert answer.status_code == 200, answer.read()
            yield Events(answer)

    def close(self) -> None:
        """End it in good order, so that it leaves nothing in the store."""
        self.client.close()
        process = self.command.process
        if process.poll() is None:
            process.terminate()
            process.wait(DEADLINE)
        self.command.close()


@pytest.fixture(scope="module")
def shared_dashboard(shared: Pool) -> Iterator[Dashboard]:  # noqa: F811
    """The dashboard of a module, on its pool's store; tests take ``dashboard``."""
    found = Dashboard(PARKIT_STORAGE_PATH=str(shared.store), PARKIT_SYNCHRONOUS="off")
    yield found
    found.close()


@pytest.fixture
def dashboard(shared_dashboard: Dashboard, pool: Pool) -> Iterator[Dashboard]:  # noqa: F811
    """The module's dashboard, and a pool without processes."""
    yield shared_dashboard
    shared_dashboard.renew()


@pytest.fixture
def start_dashboard() -> Iterator[Callable[..., Dashboard]]:
    """Start a dashboard of the test's own: ``start_dashboard("--read-only")``."""
    started: list[Dashboard] = []

    def start(*arguments: object, **changes: str) -> Dashboard:
        started.append(Dashboard(*arguments, **changes))
        return started[-1]

    yield start
    for found in started:
        found.close()
