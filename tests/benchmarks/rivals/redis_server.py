"""A Redis server of the benchmark's own, from the system's package, for the time of a block.

It listens on a Unix socket in a folder of its own and on no port, keeps its data in the folder that it is given, and ends with the block, however
that is left. It is in no terminal's foreground group, so that Ctrl-C reaches the benchmark first, which ends it in good order.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from . import Absent, Level, load, on_path, version

__all__ = ["require", "serving"]

APPENDFSYNC: Final = {Level.POWER: "always", Level.INTACT: "everysec", Level.PROCESS: "no"}
_PATIENCE: Final = 10.0


def require() -> None:
    """Raise Absent if there is no server or no client."""
    if on_path("redis-server") is None:
        raise Absent("there is no redis-server on the path: apt-get install redis-server")
    if version("redis") is None:
        raise Absent("redis is not installed: pip install '.[bench]'")


@contextmanager
def serving(folder: Path, level: Level) -> Iterator[str]:
    """Serve at a level of durability; yield the path of the socket.

    Raises:
        RuntimeError: It did not start, with what it printed.
    """
    require()
    # A socket's path must be short, which those of temporary folders are not everywhere.
    with tempfile.TemporaryDirectory(prefix="parkit-redis-", dir="/tmp") as sockets:
        path = f"{sockets}/s"
        append = ["--appendonly", "yes", "--appendfsync", APPENDFSYNC[level]] if level in APPENDFSYNC else ["--appendonly", "no"]
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--dir", str(folder), "--save", "", *append, "--daemonize", "no"]
        log = folder / "redis.log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_for(server, path, log)
            yield path
        finally:
            server.kill()  # its data goes with the folder
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], path: str, log: Path) -> None:
    redis = load("redis")
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with redis.Redis(unix_socket_path=path) as client:
                client.ping()
            return
        except redis.ConnectionError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server does not answer: {log.read_text()[-500:]}") from None
            time.sleep(0.01)
