"""Send what another process puts into a Queue to web browsers, as it comes (Starlette, uvicorn, server-sent events).

    python examples/web_queue.py                        then open http://127.0.0.1:8000/
    ping localhost | python examples/web_producer.py    in another terminal

Each browser that is connected is a task that awaits the queue, and each item goes to one of them: open the page twice, and the two take turns.
No thread waits, and nothing asks again and again. A browser that leaves cancels its ``get``, which then has taken nothing; only what was on its way
to that browser is gone with it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import socket
from typing import Any

import uvicorn
from anyio import CancelScope
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route

from parkit_async import Queue, QueueEmpty, aclose

__all__ = ["app", "main"]

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>parkit: a queue in the browser</title>
<h1>Items of the queue</h1>
<p id="state">connecting</p>
<ol id="items"></ol>
<script>
  const state = document.getElementById("state"), items = document.getElementById("items");
  const events = new EventSource("/events");
  events.onopen = () => state.textContent = "waiting for items";
  events.onerror = () => state.textContent = "the server is away; trying again";
  events.onmessage = (event) => {
    const line = document.createElement("li");
    line.textContent = JSON.parse(event.data);
    items.append(line);
  };
</script>
</html>
"""

KEEP_ALIVE = 15.0  # seconds after which a silent connection carries a comment, so that proxies keep it and a browser that has vanished is noticed

queue: Queue[Any] = Queue("web/queue", maxsize=100)


class Streams:
    """The connected browsers' waits, so that they can be ended: an event stream has no end of its own, and a server waits for its connections."""

    def __init__(self) -> None:
        self.ended = False
        self._waits: set[CancelScope] = set()

    async def next_event(self) -> str | None:
        """Wait for an item and return it as an event; return None once the streams are to end. What a cancelled wait would have got stays queued."""
        if self.ended:
            return None
        with CancelScope() as wait:
            self._waits.add(wait)
            try:
                return f"data: {json.dumps(await queue.get(timeout=KEEP_ALIVE), default=str)}\n\n"
            except QueueEmpty:
                return ": nothing new\n\n"
            finally:
                self._waits.discard(wait)
        return None

    def end(self) -> None:
        """End all streams. Called on their event loop."""
        self.ended = True
        for wait in self._waits:
            wait.cancel()


streams = Streams()


async def page(request: Request) -> HTMLResponse:
    """Answer with the page."""
    return HTMLResponse(PAGE)


async def events(request: Request) -> StreamingResponse:
    """Answer with items of the queue, for as long as the browser stays."""

    async def stream() -> AsyncIterator[str]:
        yield ": connected\n\n"
        while (event := await streams.next_event()) is not None:
            yield event

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Open the queue before the first request, so that a store that cannot be used stops the start; close what is open before SIGTERM ends it all."""
    await queue
    yield
    await aclose()


app = Starlette(routes=[Route("/", page), Route("/events", events)], lifespan=lifespan)


class Server(uvicorn.Server):
    """uvicorn, but it ends the streams when it is asked to stop: by itself it would wait until the last browser has left."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """End the streams, then everything else."""
        streams.end()
        await super().shutdown(sockets)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Send what web_producer.py puts into a queue to web browsers.")
    parser.add_argument("--port", type=int, default=8000, help="TCP port on this machine, 0 for any free one; default: %(default)s")
    try:
        Server(uvicorn.Config(app, host="127.0.0.1", port=parser.parse_args().port)).run()
    except KeyboardInterrupt:  # uvicorn raises it again when all is done
        pass


if __name__ == "__main__":
    main()
