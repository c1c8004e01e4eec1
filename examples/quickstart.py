"""Count the words of real files in a pool of processes, kill one of its workers in the middle, and get the right result all the same.

::

    this program ──paths──> Queue ──> Counter (a Process) ──┐
         │                    ├─────> Counter  ◀─ kill -9   ├── one transaction for each handful ──┬──> Dict: word -> how often
         │                    └─────> Counter ──────────────┘                                      └──> Log: file, how many words
         └── starts the Counters; shows how far they are; when one crashes, gives what it had taken to another

Why no file is lost, and none counted twice. A Process is a Dict. A Counter notes there which files it has taken, in the transaction that takes them
from the queue, and strikes them out in the transaction that stores their words. So a file is always in one of three places: in the queue, in one
Counter, or in the totals. What is still noted in a Counter that has crashed was not counted; it goes back into the queue in the transaction
that starts another Counter.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import tempfile
import time
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from heapq import nlargest
from multiprocessing.connection import wait
from queue import Empty
from signal import SIG_IGN, SIGINT, SIGKILL, signal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from parkit import (
    Dict,
    Log,
    ObjectNotFoundError,
    ParkitError,
    Process,
    Queue,
    killall,
    pool_status,
    processes,
    set_namespace_synchronous,
    set_pool_size,
    set_storage_path,
    transaction,
)

__all__ = ["main"]

NAMESPACE = "quickstart"
HANDFUL = 10  # files that a Counter takes at once
ENDINGS = (".py", ".txt", ".md", ".rst")
WORD = re.compile(r"[^\W\d_]+")  # a run of letters, of any alphabet
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}  # compiled files, and packages installed inside the standard library


# What is counted.


def text_files(folder: str) -> Iterator[str]:
    """Iterate over the files below a folder whose names say that they are text, leaving out what is hidden, compiled or installed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_OUT)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name.endswith(ENDINGS) and not name.startswith(".") and os.path.isfile(path):
                yield path


def words_of(path: str) -> Tally[str]:
    """Count the words of a file; there are none in one that cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return Tally(WORD.findall(file.read().lower()))
    except OSError:
        return Tally()


# What the workers do.


class Counter(Process[int]):
    """Counts files until there are none. It runs in a worker of the pool, and is a Dict that this program and the worker share."""

    def run(self) -> int:
        """Return how many files were counted."""
        files: Queue[str] = self["files"]
        words: Dict[str, int] = self["words"]
        reports: Log[tuple[str, int]] = self["reports"]
        counted = 0
        while True:
            try:
                with transaction(self):
                    self["taken"] = taken = files.get_many(HANDFUL, block=False)
            except Empty:
                return counted
            tallies = [words_of(path) for path in taken]  # the work; no transaction is open, so all Counters do it at the same time
            total = sum(tallies, Tally[str]())
            with transaction(self):
                words.update({word: words.get(word, 0) + number for word, number in total.items()})
                reports.extend((path, tally.total()) for path, tally in zip(taken, tallies, strict=True))
                self["taken"] = []
            counted += len(taken)


# What this program does.


class Job:
    """What is to be counted, and who counts it."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.files = Queue[str](f"{NAMESPACE}/files")
        self.words = Dict[str, int](f"{NAMESPACE}/words")
        self.reports = Log[tuple[str, int]](f"{NAMESPACE}/reports")
        self.counters: list[Counter] = []

    def start(self, number: int) -> None:
        """Put the files into the queue and start Counters, in one transaction: all of it happens, or nothing."""
        with transaction(self.files):
            self.files.put_many(self.paths)
            for _ in range(number):
                self.start_counter()

    def start_counter(self) -> Counter:
        """Start one more Counter."""
        counter = Counter(f"{NAMESPACE}/counter-{len(self.counters) + 1}")
        counter.update(files=self.files, words=self.words, reports=self.reports)  # shared by assignment
        counter.start()
        self.counters.append(counter)
        return counter

    def kill_a_worker(self) -> int | None:
        """Kill a worker that is counting, as the system does when memory runs out. Return its process id, or None if nobody is counting just now."""
        with transaction(self.files):  # while it is open nobody else stores anything, so what is taken now is not counted yet
            for counter in self.counters:
                if counter.status == "running" and counter.pid and counter.get("taken"):
                    os.kill(counter.pid, SIGKILL)
                    return counter.pid
        return None

    def replace(self, crashed: Counter) -> Counter:
        """Have another Counter do what a crashed one had taken."""
        with transaction(self.files):
            left = crashed.pop("taken", [])
            if left:
                self.files.put_many(left)
            successor = self.start_counter()
        print(
            f"  {crashed.name} has {crashed.status}, exit code {crashed.exitcode}: {successor.name} counts the {len(left)} files that it had taken",
            flush=True,
        )
        return successor

    def watch(self) -> None:
        """Show how far the Counters are, and replace those that crash, until all have finished. Kill a worker after a third of the files."""
        files = len(self.paths)
        console = Console()
        columns = (TextColumn("  counting"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeElapsedColumn())
        working = {counter.sentinel: counter for counter in self.counters}
        done = shown = 0
        killed = None
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=files)
            while working:
                ended = wait(working, timeout=0.1)  # wakes at once when one has ended; the time is that of the display
                done = len(self.reports)
                progress.update(task, completed=done)
                if not console.is_terminal and done * 10 // files > shown:
                    shown = done * 10 // files
                    print(f"  {done:,} of {files:,} files", flush=True)
                if killed is None and done * 3 >= files and (killed := self.kill_a_worker()) is not None:
                    print(f"  kill -9 {killed}: a worker, in the middle of counting", flush=True)
                for sentinel in ended:
                    assert isinstance(sentinel, int)
                    counter = working.pop(sentinel)
                    if counter.status == "crashed":
                        counter = self.replace(counter)
                        working[counter.sentinel] = counter
                    else:
                        counter.get_result()  # raises what it raised

    def drop(self) -> None:
        """Leave nothing of this run in the store but the totals; Counters that still run are terminated."""
        for counter in self.counters:
            with suppress(ObjectNotFoundError):  # the transaction that made it was interrupted
                counter.drop()
        self.files.drop()


def count(folder: str, number: int, top: int) -> bool:
    """Count the words of a folder, print what is found, and return whether it equals what a single process counts."""
    paths = list(text_files(folder))
    if not paths:
        raise FileNotFoundError(f"there are no files to count in {folder!r} (only names that end in {', '.join(ENDINGS)} are)")
    # No fsync at a commit: should the machine lose power, the count can be made again. The death of any process costs nothing all the same.
    set_namespace_synchronous(NAMESPACE, "off")
    print(f"Counting the words of {len(paths):,} files in {folder} with {number} processes.", flush=True)
    job = Job(paths)
    began = time.perf_counter()
    try:
        job.start(number)
        job.watch()
        seconds = time.perf_counter() - began
        totals, reports = dict(job.words.items()), list(job.reports)
    finally:
        job.drop()

    print(f"\n{sum(totals.values()):,} words, {len(totals):,} different ones, in {len(reports):,} files; {seconds:.1f} seconds\n")
    for word, times in nlargest(top, totals.items(), key=lambda item: item[1]):
        print(f"  {times:>12,}  {word}")

    alone: Tally[str] = Tally()
    for path in paths:
        alone.update(words_of(path))
    if totals == alone and sorted(path for path, _ in reports) == sorted(paths):
        print("\nEvery file was counted once, and every total is equal to the single-process count.")
        return True
    print("\nThe totals are NOT equal to the single-process count. Did a file change meanwhile?")
    return False


@contextmanager
def chosen_store(path: str | None, number: int) -> Iterator[None]:
    """Use the store at a path, or a temporary one. A pool that was not there before is ended, however the block is left."""
    if path is not None:
        set_storage_path(path)
        with pool():
            for process in processes():  # what an earlier run has left
                if process.name.startswith(f"{NAMESPACE}/"):
                    process.drop()
            for name, kind in {"files": Queue, "words": Dict, "reports": Log}.items():
                kind(f"{NAMESPACE}/{name}").drop()
            yield
        return
    with tempfile.TemporaryDirectory(prefix="parkit-quickstart-", ignore_cleanup_errors=True) as folder:
        set_storage_path(folder)
        set_pool_size(number)
        with pool():
            yield


@contextmanager
def pool() -> Iterator[None]:
    """End the pool of the store with the block, unless it served others before."""
    was_there = pool_status()["running"]
    try:
        yield
    finally:
        signal(SIGINT, SIG_IGN)  # once is enough: what is left to do is to tidy up
        if not was_there:
            killall()


# The command line.


def existing_folder(text: str) -> str:
    """Return an argument that names a folder."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text!r} is {'a file, not a folder' if os.path.exists(path) else 'not there; give an existing folder'}")
    return path


def positive(text: str) -> int:
    """Return an argument that is a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, or 1 if it failed, or 130 if it was interrupted."""
    parser = argparse.ArgumentParser(description="Count the words of a folder's text files in a pool of processes, one of which is killed.")
    default = sysconfig.get_path("stdlib")
    workers = max(2, min(os.cpu_count() or 1, 8))
    parser.add_argument("folder", nargs="?", type=existing_folder, default=default, help="what to count, with its subfolders; default: %(default)s")
    parser.add_argument("--workers", type=positive, default=workers, metavar="N", help="how many processes count; default: %(default)s")
    parser.add_argument("--store", metavar="FOLDER", help="where to keep the totals; default: in a temporary store, removed at the end")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="how many of the most frequent words to print; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        with chosen_store(options.store, options.workers):
            return 0 if count(options.folder, options.workers, options.top) else 1
    except KeyboardInterrupt:
        print("\nquickstart: interrupted; no process is left", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ParkitError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
