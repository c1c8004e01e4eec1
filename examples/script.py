"""The blocking API in thirty lines: run it twice, and see what it remembers."""

from __future__ import annotations

from parkit import Dict, Log, Object, Queue, snapshot, transaction

stock: Dict[str, int] = Dict("demo/stock")  # created at the first use, opened at every later one, by any process
orders: Queue[str] = Queue("demo/orders", maxsize=10)
history: Log[str] = Log("demo/history")
shop = Object("demo/shop")  # any attribute of it is stored

with transaction(stock):  # all of the block takes effect together, or nothing
    shop.runs = getattr(shop, "runs", 0) + 1
    stock.update(tea=3, coffee=2, salt=1)
    orders.put_many(["tea", "coffee", "tea", "pepper"])
print(f"This is run {shop.runs}.")

while not orders.empty():
    item = orders.get(timeout=5)  # would wait for another process to put one
    try:
        with transaction(stock):
            history.append(f"run {shop.runs}: sold {item}")
            stock[item] -= 1  # there is no pepper: the KeyError takes back the line in the history, too
    except KeyError:
        print(f"There is no {item}.")

with snapshot(stock):  # everything read in it is of one moment
    print("In stock:", dict(stock), "in key order, with", ", ".join(stock.irange("s")), "from s on.")
    print(f"Sold in all runs: {len(history)}, the last one: {history[-1]!r}.")
