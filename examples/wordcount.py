"""Count the words of a folder's text files with several processes, which share a Queue, a Dict and a Log.

::

    parent ──paths──> Queue ──> worker ──┐
       │                ├─────> worker ──┼── one transaction for each file ──┬──> Dict: word -> how often
       │                └─────> worker ──┘                                   └──> Log: file, how many words
       └── follows the Log, shows how far it is, and at the end compares the Dict with what one process counts alone

Invariant: a file is in the Log exactly if its words are in the Dict, because one transaction stores both or neither. A file is with one worker,
because one ``get`` takes it. So whenever the program is interrupted, the totals are those of the files that were reported.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import nlargest
from multiprocessing import Process
from signal import SIG_BLOCK, SIG_IGN, SIG_UNBLOCK, SIGINT, pthread_sigmask, signal

from parkit import Dict, Log, ParkitError, Queue, ShutDown, set_namespace_synchronous, set_storage_path, transaction

__all__ = ["main"]

NAMESPACE = "wordcount"
WORD = re.compile(r"[^\W\d_]+")  # a run of letters, of any alphabet
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}  # compiled files, and packages installed inside the standard library

Report = tuple[str, int | None]  # a file, and how many words it has; None if it is not text or cannot be read

EXAMPLES = """\
examples:
  %(prog)s                               the sources of Python's standard library
  %(prog)s --folder ~/books --workers 4  any other folder
  %(prog)s --store ./counts --top 20     keep the store, to look up words afterwards:
  PARKIT_STORAGE_PATH=./counts python -c "from parkit import Dict; print(Dict('wordcount/words')['the'])"
"""


# What is counted.


def text_files(folder: str) -> Iterator[str]:
    """Iterate over the regular files below a folder, leaving out what is hidden, compiled or installed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_OUT)
        for name in sorted(names):
            path = os.path.join(parent, name)
            # Not a named pipe, which would wait for somebody to write into it.
            if not name.startswith(".") and os.path.isfile(path):
                yield path


def words_of(path: str) -> Counter[str] | None:
    """Count the words of a file; return None if it cannot be read or is not text."""
    try:
        with open(path, "rb") as file:
            data = file.read(8192)
            if b"\0" in data:
                return None
            data += file.read()
    except OSError:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return Counter(WORD.findall(text.lower()))


# What the workers do.


def work(files: Queue[str], words: Dict[str, int], reports: Log[Report]) -> None:
    """Count files until there are no more. Runs in a process of its own, which its parent ends at Ctrl-C."""
    signal(SIGINT, SIG_IGN)
    try:
        while True:
            path = files.get()
            counted = words_of(path)  # outside of the transaction: counting is what the workers do at the same time, and only one writes at a time
            with transaction(words):
                if counted is not None:
                    words.update({word: words.get(word, 0) + number for word, number in counted.items()})
                reports.append((path, None if counted is None else counted.total()))
    except ShutDown:  # the queue is empty, and nothing more will come
        pass
    except ParkitError as error:
        sys.exit(f"wordcount: worker {os.getpid()}: {error}")


@contextmanager
def workers(number: int, *shared: object) -> Iterator[list[Process]]:
    """Run worker processes; none of them outlives the block."""
    processes: list[Process] = []
    try:
        # Ctrl-C in a terminal goes to all its processes. The workers inherit that it is held back, so that none of them answers it with a traceback,
        # not even while it starts; what comes for this process meanwhile is not lost, and raises KeyboardInterrupt when it is let through.
        pthread_sigmask(SIG_BLOCK, {SIGINT})
        try:
            for _ in range(number):
                process = Process(target=work, args=shared, daemon=True)
                process.start()
                processes.append(process)
        finally:
            pthread_sigmask(SIG_UNBLOCK, {SIGINT})
        yield processes
    except BaseException:
        signal(SIGINT, SIG_IGN)  # once is enough: what is left to do is to tidy up
        for process in processes:
            process.terminate()  # safe at any moment: what a worker was storing is stored whole, or not at all
        raise
    finally:
        for process in processes:
            process.join()


# What the parent does.


class Progress:
    """How far the counting is: one line that is kept up to date on a terminal, a line for each tenth of the files elsewhere."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.done = self.words = self.skipped = 0
        self._terminal = sys.stdout.isatty()
        self._next = 0.0 if self._terminal else 1.0

    def add(self, report: Report) -> None:
        """Take note of a report, and show it if it is time to."""
        _, words = report
        self.done += 1
        self.words += words or 0
        self.skipped += words is None
        now = time.monotonic() if self._terminal else self.done * 10 / self.files
        if now >= self._next or self.done == self.files:
            self._next = now + 0.05 if self._terminal else int(now) + 1
            line = f"  {self.done:,} of {self.files:,} files, {self.words:,} words"
            print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", flush=True)

    def end(self) -> None:
        """Leave the line that was kept up to date."""
        if self._terminal:
            print()


def follow(reports: Log[Report], progress: Progress, processes: Sequence[Process]) -> None:
    """Read the workers' reports until there is one for each file."""
    try:
        while progress.done < progress.files:
            # Each new report wakes this process. A second without any is a reason to see whether the workers are alive.
            for report in reports.follow(progress.done, timeout=1.0):
                progress.add(report)
                if progress.done == progress.files:
                    return
            for process in processes:
                if process.exitcode:
                    raise ChildProcessError(
                        f"worker {process.pid} ended with exit code {process.exitcode}, and with it the file that it was counting"
                    )
    finally:
        progress.end()


def count(folder: str, at_once: int, top: int) -> bool:
    """Count the words of a folder, print what is found, and return whether it equals what a single process counts."""
    paths = list(text_files(folder))
    if not paths:
        raise FileNotFoundError(f"there are no files to count in {folder!r} (hidden ones and {', '.join(sorted(LEFT_OUT))} are left out)")
    # No fsync at a commit: should the machine lose power, the count can be made again. The death of any process costs nothing all the same.
    set_namespace_synchronous(NAMESPACE, "off")
    files, words, reports = shared = (
        Queue[str](f"{NAMESPACE}/files"),
        Dict[str, int](f"{NAMESPACE}/words"),
        Log[Report](f"{NAMESPACE}/reports"),
    )
    print(f"Counting the words of {len(paths):,} files in {folder} with {at_once} processes.")
    began = time.perf_counter()
    progress = Progress(len(paths))
    with workers(at_once, *shared) as processes:
        files.put_many(paths)
        files.shutdown()  # takes no more, and gives what it has
        follow(reports, progress, processes)
    seconds = time.perf_counter() - began

    totals = dict(words.items())
    print(f"\n{progress.words:,} words, {len(totals):,} different ones, in {progress.done - progress.skipped:,} text files")
    print(f"{seconds:.1f} seconds, {progress.words / seconds:,.0f} words per second")
    if progress.skipped:
        what, verb = ("file is", "was") if progress.skipped == 1 else ("files are", "were")
        print(f"{progress.skipped:,} {what} not text or cannot be read, and {verb} skipped")
    print()
    for word, number in nlargest(top, totals.items(), key=lambda item: item[1]):
        print(f"  {number:>12,}  {word}")

    began = time.perf_counter()
    alone: Counter[str] = Counter()
    for path in paths:
        alone.update(words_of(path) or ())
    seconds = time.perf_counter() - began
    if totals == alone:
        print(f"\nEvery total is equal to the single-process count (which took {seconds:.1f} seconds, in memory only).")
        return True
    different = sum(totals.get(word) != alone.get(word) for word in totals.keys() | alone.keys())
    print(f"\nThe totals of {different:,} words are NOT equal to the single-process count. Did a file change meanwhile?")
    return False


@contextmanager
def chosen_store(path: str | None) -> Iterator[None]:
    """Use the store at a path, without the counts of an earlier run; by default a temporary one that is removed at the end."""
    if path is not None:
        set_storage_path(path)
        print(f"The counts will be kept in the store {path}.")
        for name, kind in {"files": Queue, "words": Dict, "reports": Log}.items():
            kind(f"{NAMESPACE}/{name}").drop()
        yield
        return
    with tempfile.TemporaryDirectory(prefix="parkit-wordcount-", ignore_cleanup_errors=True) as folder:
        set_storage_path(folder)
        print(f"The store is a temporary one, {folder}; it is removed at the end.")
        yield


# The command line.


def existing_folder(text: str) -> str:
    """Return an argument that names a folder which can be read."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text!r} is {'a file, not a folder' if os.path.exists(path) else 'not there; give an existing folder'}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read with your permissions")
    return path


def positive(text: str) -> int:
    """Return an argument that is a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments; end with a message if they are wrong."""
    parser = argparse.ArgumentParser(
        description="Count the words of a folder's text files with several processes, and compare with what a single one counts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = sysconfig.get_path("stdlib")
    number = max(2, min(os.cpu_count() or 1, 8))
    parser.add_argument("--folder", type=existing_folder, default=default, help="what to count, with its subfolders; default: %(default)s")
    parser.add_argument("--workers", type=positive, default=number, metavar="N", help="how many processes count; default: %(default)s")
    parser.add_argument("--store", metavar="FOLDER", help="where to keep the counts, replacing those of an earlier run; default: nowhere")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="how many of the most frequent words to print; default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0, or 1 if it failed, or 130 if it was interrupted."""
    options = parsed(arguments)
    try:
        with chosen_store(options.store):
            return 0 if count(options.folder, options.workers, options.top) else 1
    except KeyboardInterrupt:
        left = "no process and no store is left" if options.store is None else "no process is left; the store has what was counted until then"
        print(f"\nwordcount: interrupted; {left}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has left, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ParkitError, OSError) as error:
        print(f"wordcount: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
