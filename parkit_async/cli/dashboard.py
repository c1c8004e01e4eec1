"""``dashboard``: the store as a live page."""

from __future__ import annotations

import os
import signal
import socket
import threading
import webbrowser
from pathlib import Path
from typing import Final

import click

from . import INTERRUPTED, render
from .parameters import Failure, command

__all__ = ["dashboard_command"]

_PORT: Final = 7275
"""PARK on the keys of a telephone."""
_VARIABLE: Final = "PARKIT_DASHBOARD_TOKEN"
_LIFETIME: Final = 24.0
"""Hours for which a token that was made up is good."""


@command(
    "dashboard",
    ("parkit dashboard", f"on http://127.0.0.1:{_PORT}/, until Ctrl-C"),
    ("parkit dashboard --open", "and have the browser show it"),
    ("parkit dashboard --port 0 --read-only", "on a free port, without buttons"),
    ("parkit --store /srv/store dashboard --host 0.0.0.0", "for others too, who need the token that is printed"),
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on. Any but loopback needs a token.")
@click.option("-p", "--port", default=_PORT, show_default=True, type=click.IntRange(0, 65535), metavar="N", help="Port; 0 takes a free one.")
@click.option("--open", "show", is_flag=True, help="Have the browser open the page.")
@click.option("--read-only", is_flag=True, help="Show, and change nothing.")
@click.option("--require-token", is_flag=True, help="Also from this user's own programs on this machine: behind a proxy, for one.")
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help=f"File with the token; by default {_VARIABLE}, or one is made up and printed.",
)
@click.option(
    "--token-lifetime",
    type=click.FloatRange(0, min_open=True),
    metavar="HOURS",
    help=f"How long the token is good; by default {_LIFETIME:.0f} if it was made up, else for ever.",
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name under which it is reached, such as a proxy's. Repeatable.")
def dashboard_command(
    host: str,
    port: int,
    show: bool,
    read_only: bool,
    require_token: bool,
    token_file: str | None,
    token_lifetime: float | None,
    hosts: tuple[str, ...],
) -> int:
    """Show the store as a live page: pool, processes, queues, logs, namespaces; and as metrics for Prometheus, at /metrics.

    By default it listens on this machine alone, and lets in its own user, whom the kernel knows; others need the token. Runs until Ctrl-C or SIGTERM.
    """
    try:
        from parkit_async.dashboard import access, server
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in {"starlette", "uvicorn", "anyio", "h11"}:
            raise
        raise Failure(f"the dashboard needs {error.name}, which is not installed; run: pip install 'parkit[dashboard]'") from error
    token = _given(token_file)
    hours = _LIFETIME if token is None and token_lifetime is None else token_lifetime
    try:
        rules = access.Access(token, None if hours is None else hours * 3600, hosts, require_token, read_only)
    except ValueError as error:
        raise Failure(f"{error}. It is that of {token_file or _VARIABLE}") from error
    try:
        listener = server.listen(host, port)
    except OSError as error:
        reason = str(error) if error.errno is None or isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise Failure(f"{host}, port {port}, cannot be listened on: {reason}. --port 0 takes a free port") from error
    address = server.address_of(listener, host)
    private = access.is_loopback(listener.getsockname()[0])
    alone = private and not require_token and access.CAN_TELL

    def begun() -> None:
        render.write(f"{address if alone or token is not None else f'{address}?token={rules.token}'}\n")
        render.flush()
        if not private:
            render.note("parkit: what is sent can be read on the way, and so can the token; for more than a trusted network put it behind HTTPS.")
        if show:
            # Without the token: others see the command lines of this machine. In a thread: some browsers are waited for, and they wait for the page.
            threading.Thread(target=webbrowser.open, args=(address,), name="parkit dashboard: browser", daemon=True).start()

    number = server.serve(listener, rules, begun)
    return INTERRUPTED if number == signal.SIGINT else 0


def _given(token_file: str | None) -> str | None:
    """Return the token that was given, if one was."""
    if token_file is not None:
        return Path(token_file).read_text(encoding="utf-8", errors="surrogateescape").strip()
    return os.environ.get(_VARIABLE, "").strip() or None
