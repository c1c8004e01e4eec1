"""A web server that forks: every process answers from one store, through objects that were opened before the fork (Starlette, uvicorn).

    python examples/web_prefork.py --processes 4
    curl -X POST http://127.0.0.1:8000/

So does `gunicorn --preload`. A forked process may use what it has inherited; it opens files of its own at the first use. The handlers are plain
functions, which Starlette runs in threads, so that the blocking face does not hold up the loop.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from parkit import Dict, transaction

__all__ = ["app", "main"]

hits: Dict[str, int] = Dict("web/hits")  # opened here, by the parent


def count(request: Request) -> JSONResponse:
    """Count a visit: in all, and of this process. No two processes and no two threads count the same one."""
    mine = f"by process {os.getpid()}"
    with transaction(hits):
        for key in ("total", mine):
            hits[key] = hits.get(key, 0) + 1
        return JSONResponse({"total": hits["total"], "process": os.getpid()})


def show(request: Request) -> JSONResponse:
    """Tell what was counted."""
    return JSONResponse(dict(hits))


app = Starlette(routes=[Route("/", count, methods=["POST"]), Route("/", show, methods=["GET"])])


def main() -> None:
    """Fork the servers, and wait for them. Ctrl-C or SIGTERM ends them all; when one dies by itself, the others go on."""
    parser = argparse.ArgumentParser(description="Count visits in several processes.")
    parser.add_argument("--port", type=int, default=8000, help="TCP port on this machine, 0 for any free one; default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="how many; default: %(default)s")
    options = parser.parse_args()
    hits.clear()
    children: list[int] = []
    with socket.create_server(("127.0.0.1", options.port)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
        for _ in range(options.processes):
            pid = os.fork()
            if not pid:
                uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
                return
            children.append(pid)

    def stop(number: int, frame: FrameType | None) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while children:
        pid, _ = os.wait()
        children.remove(pid)


if __name__ == "__main__":
    main()
