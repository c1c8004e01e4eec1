"""A web service with work of its own beside the requests (FastAPI, uvicorn): orders are stored, packed by a consumer, and weighed in the pool.

    python examples/web_orders.py                           or: uvicorn web_orders:app --app-dir examples --workers 2
    curl -X POST 'http://127.0.0.1:8000/orders/tea?count=2'
    curl http://127.0.0.1:8000/stock/tea

`lifespan` opens what is needed before the first request, and runs the consumer for as long as the service lives. Stopped (Ctrl-C, SIGTERM), the
service answers the last request, finishes the order that is being packed, and leaves the others in the queue for its next start. Several processes
of it share the store: an order is packed by one of them.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

from parkit_async import Dict, ProcessPoolExecutor, Queue, lifespan, transaction

__all__ = ["app", "main"]

stock: Dict[str, int] = Dict("orders/stock")
packed: Dict[str, float] = Dict("orders/packed")
orders: Queue[tuple[str, int]] = Queue("orders/orders", maxsize=1000)


def weigh(count: int) -> float:
    """Work for a processor, which no event loop should do: runs in a worker of the pool."""
    return sum(0.001 for _ in range(count * 1000))


async def pack(order: tuple[str, int]) -> None:
    """Take an order out of the stock; both or nothing is stored."""
    item, count = order
    weight = await asyncio.get_running_loop().run_in_executor(app.state.pool, weigh, count)
    async with transaction(stock):
        await stock.set(item, await stock.get(item, 100) - count)
        await packed.set(item, await packed.get(item, 0.0) + weight)


@asynccontextmanager
async def resources(app: FastAPI) -> AsyncIterator[None]:
    """What this application needs besides parkit's objects."""
    app.state.pool = ProcessPoolExecutor()
    yield
    await asyncio.to_thread(app.state.pool.shutdown)


app = FastAPI(title="Orders", lifespan=lifespan(stock, packed, consume=[(orders, pack)], within=resources))


@app.post("/orders/{item}", status_code=202)
async def order(item: str, count: int = 1) -> dict[str, Any]:
    """Take an order: answered as soon as it is stored."""
    if count < 1:
        raise HTTPException(422, "count must be 1 or more")
    await orders.put((item, count))
    return {"waiting": await orders.qsize()}


@app.get("/stock/{item}")
async def look(item: str) -> dict[str, Any]:
    """Tell what there is of an item, and what was packed of it."""
    return {"stock": await stock.get(item, 100), "packed": round(await packed.get(item, 0.0), 3)}


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="Take orders by HTTP, and pack them.")
    parser.add_argument("--port", type=int, default=8000, help="TCP port on this machine, 0 for any free one; default: %(default)s")
    try:
        uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port)
    except KeyboardInterrupt:  # uvicorn raises it again when all is done
        pass


if __name__ == "__main__":
    main()
