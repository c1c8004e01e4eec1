"""Run the dashboard as a process: its socket, its event loop, and how it ends.

uvicorn serves. Two things of it are replaced: it takes signals by itself, which the command does its own way, and it wakes ten times a second to look
whether it shall end, where an event does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from parkit_async._core.paths import open_store
from parkit_async._core.settings import get_storage_path

from .access import Access
from .app import make_app
from .watch import Hub

__all__ = ["address_of", "listen", "serve"]

_END: Final = 2
"""Seconds that answers under way get when the dashboard ends."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()
        self._begun = begun

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        self._begun()
        await self.ended.wait()


def listen(host: str, port: int) -> socket.socket:
    """Return the socket that the dashboard listens on; port 0 takes one that is free.

    Raises:
        OSError: The address cannot be had.
    """
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def address_of(listener: socket.socket, host: str) -> str:
    """Return the address to open in a browser."""
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - it is compared, not bound to
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}/"


def serve(listener: socket.socket, access: Access, begun: Callable[[], None]) -> int:
    """Serve until SIGINT or SIGTERM, and return the number of that signal. For the main thread.

    Args:
        listener: From :func:`listen`; closed at the end.
        access: Who may do what.
        begun: Called when the page can be had.

    Raises:
        StoragePathError: The store cannot be used.
    """
    with listener:
        open_store(get_storage_path())
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            return runner.run(_serve(listener, access, begun))


async def _serve(listener: socket.socket, access: Access, begun: Callable[[], None]) -> int:
    hub = Hub()
    config = uvicorn.Config(
        make_app(access, hub),
        access_log=False,  # addresses may have the token in them
        date_header=False,  # it is renewed by the loop that is replaced
        lifespan="on",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_END,
        ws="none",
    )
    server = _Server(config, begun)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        server.should_exit = True
        server.force_exit = len(received) > 1
        hub.closing.set()  # streams end now: nobody waits until a page is closed
        server.ended.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return received[0] if received else 0


def _new_loop() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop
