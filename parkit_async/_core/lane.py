"""The writer thread of a namespace: where an event loop's writes wait for the disk, or for another process, so that the loop does not.

It exists only while event loops need it: started at the first job, ended with the last that had acquired it. It owns no data: what it has accepted
it finishes. It is a daemon only so that an interpreter that was never told to stop it can still exit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["Lane"]


class Lane:
    """A thread that runs jobs one after another, in order."""

    __slots__ = ("_jobs", "_mutex", "_name", "_thread", "_users", "hops")

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._users = 0
        self.hops = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` called in the thread; it must not raise. Any thread may call this; it does not wait."""
        with self._mutex:
            self.hops += 1
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._jobs,), name=f"parkit writer {self._name}", daemon=True)
                self._thread.start()
            if self._users <= 0:
                # The last loop is gone, and what it had revoked has come up in the line. Nobody else would end this thread.
                self._retire()

    def acquire(self) -> None:
        """Say that an event loop uses the lane, until it calls :meth:`release`."""
        with self._mutex:
            self._users += 1

    def release(self, timeout: float = 0.02) -> None:
        """Say that an event loop does not use the lane any more; the last one ends the thread, as :meth:`stop` does.

        Args:
            timeout: Seconds to wait for that; little, since the event loop waits.
        """
        with self._mutex:
            self._users -= 1
            if self._users > 0:
                return
        self.stop(timeout)

    def stop(self, timeout: float = 1.0) -> None:
        """Finish what was submitted, and end the thread; a later job starts another one. Idempotent.

        Args:
            timeout: Seconds to wait for that. A thread that waits for another process's turn goes on waiting, and ends then.
        """
        with self._mutex:
            thread = self._retire()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _retire(self) -> threading.Thread | None:
        """Have the thread end behind the jobs that it has. Return it. Call with the mutex."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            self._jobs = queue.SimpleQueue()
        return thread

    @staticmethod
    def _run(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := jobs.get()) is not None:
            job()
            del job
