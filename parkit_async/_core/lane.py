"""The writer thread of a namespace: where an event loop's writes wait for the disk, or for another process, so that the loop does not.

It exists only while an event loop needs it: started at the first job, ended by :meth:`Lane.stop`. It owns no data: whatever it has accepted
it finishes. It is a daemon only so that an interpreter that was never told to stop it can still exit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["Lane"]


class Lane:
    """A thread that runs jobs one after another, in order."""

    __slots__ = ("_jobs", "_mutex", "_name", "_thread", "hops")

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self.hops = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` called in the thread; it must not raise. Any thread may call this; it does not wait."""
        with self._mutex:
            self.hops += 1
            self._jobs.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._jobs,), name=f"parkit writer {self._name}", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Finish what was submitted, then end the thread, and wait for that. A later job starts another one. Idempotent."""
        with self._mutex:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._jobs.put(None)
            self._jobs = queue.SimpleQueue()
        if thread is not threading.current_thread():
            thread.join()

    @staticmethod
    def _run(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := jobs.get()) is not None:
            job()
            del job
