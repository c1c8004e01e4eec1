"""What it takes to begin: a fresh interpreter that imports, opens a store of a thousand entries, and reads one; and the memory it has then.

The interpreter itself reports its times, so that its own start is not in them. Each line is what a user would write; nothing of the benchmark's is
imported there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from tests.benchmarks.comparison import Cell, Run, arena, cell, take
from tests.benchmarks.rivals import Level, Place
from tests.benchmarks.rivals.aio import Aiosqlite, LmdbAio, ParkitAsync, RedisAsyncio
from tests.benchmarks.rivals.mappings import Diskcache, Lmdb, ManagerDict, MappingRival, Parkit, Redis, Sqlitedict
from tests.benchmarks.single import key_names

__all__ = ["beginning"]

HELD: Final = 1_000
VALUE: Final = "v" * 100

PROGRAM: Final = """
import sys, time
folder, name, shared, key = sys.argv[1:]
def memory():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 if sys.platform == "linux" else 0
bare = memory()
begun = time.perf_counter()
{imports}
imported = time.perf_counter()
{opening}
opened = time.perf_counter()
assert value == "v" * 100, value
print("[%r, %r, %r]" % (imported - begun, opened - imported, memory() - bare), flush=True)
"""


class First(NamedTuple):
    """The lines of a program that uses a rival for the first time."""

    imports: str
    opening: str


def awaited(*lines: str) -> str:
    """Return lines as the body of a coroutine that is run; it returns the value."""
    return "\n".join(["async def main():", *(f"    {line}" for line in lines), "value = asyncio.run(main())"])


FIRST: Final[dict[type[MappingRival], First]] = {
    Parkit: First("from parkit import Dict", "value = Dict(name + '/dict')[key]"),
    ParkitAsync: First("import asyncio\nfrom parkit_async import Dict", awaited("return await (await Dict(name + '/dict'))[key]")),
    Lmdb: First(
        "import lmdb, pickle", "with lmdb.open(folder, map_size=8 << 30, sync=False).begin() as txn:\n    value = pickle.loads(txn.get(key.encode()))"
    ),
    LmdbAio: First(
        "import asyncio, lmdb, lmdb.aio, pickle",
        awaited(
            "async with lmdb.aio.wrap(lmdb.open(folder, map_size=8 << 30, sync=False)).begin() as txn:",
            "    return pickle.loads(await txn.get(key.encode()))",
        ),
    ),
    Diskcache: First("import diskcache", "value = diskcache.Index(folder)[key]"),
    Sqlitedict: First("import sqlitedict", "value = sqlitedict.SqliteDict(folder + '/data.sqlite', journal_mode='WAL', outer_stack=False)[key]"),
    Aiosqlite: First(
        "import asyncio, aiosqlite, pickle",
        awaited(
            "async with aiosqlite.connect(folder + '/data.sqlite') as db:",
            "    async with db.execute('SELECT value FROM entries WHERE key = ?', (key,)) as cursor:",
            "        return pickle.loads((await cursor.fetchone())[0])",
        ),
    ),
    Redis: First("import pickle, redis", "value = pickle.loads(redis.Redis(unix_socket_path=shared).get(key))"),
    RedisAsyncio: First(
        "import asyncio, pickle, redis.asyncio",
        awaited("async with redis.asyncio.Redis(unix_socket_path=shared) as client:", "    return pickle.loads(await client.get(key))"),
    ),
    ManagerDict: First(
        "import multiprocessing",
        "multiprocessing.set_start_method('fork')\nstore = multiprocessing.Manager().dict({key: 'v' * 100})\nvalue = store[key]",
    ),
}


def beginning(run: Run) -> Iterator[Cell]:
    """Import a library, and open a store of 1,000 entries and read one, in a fresh interpreter; the memory this takes."""
    names = key_names(HELD)
    bytecode = str(run.settings.folder / "bytecode")

    def work(kind: type[MappingRival], place: Place, count: int) -> tuple[float, ...]:
        environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        program = PROGRAM.format(imports=FIRST[kind].imports, opening=FIRST[kind].opening)
        shared = place.shared if isinstance(place.shared, str) else ""
        command = [sys.executable, "-c", program, str(place.folder), place.folder.name, shared, names[HELD // 2]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        imported, opened, memory = json.loads(done.stdout)
        return (imported + opened, imported, opened, memory)

    with arena(run, "beginning", list(FIRST), (Level.PROCESS, Level.MEMORY)) as open_rivals:
        chosen = {key: rival for key, rival in open_rivals.rivals.items() if key[1] is Level.PROCESS or Level.PROCESS not in key[0].levels}
        for rival in chosen.values():
            rival.update(dict.fromkeys(names, VALUE))
        works = {key: partial(work, key[0], rival.place) for key, rival in chosen.items()}
        for one in works.values():  # the byte code is there from now on, as it is where a library is installed
            try:
                one(1)
            except Exception:
                pass
        taken = take(run, "beginning", works, operations=1, rounds=run.settings.either(9, 2))
        for key, found in taken.items():
            yield cell("import", *key, found, measure=1)
            yield cell("open and read one", *key, found, measure=2)
            if sys.platform == "linux":
                yield cell("memory beyond the interpreter's", *key, found, measure=3, unit="B")
