"""Put the lines of standard input into the Queue that web_queue.py sends to web browsers. A plain blocking script, in a process of its own.

The queue takes 100 lines. When they are not fetched, the script waits, and with it whatever writes into its standard input.
"""

from __future__ import annotations

import sys

from parkit import ParkitError, Queue

__all__ = ["main"]


def main() -> int:
    """Put lines until there are no more; return the exit status."""
    count = 0
    try:
        queue: Queue[str] = Queue("web/queue", maxsize=100)
        if sys.stdin.isatty():
            print("Each line that you type goes to a browser. Ctrl-D ends.")
        for line in sys.stdin:
            queue.put(line.rstrip("\n"))
            count += 1
    except KeyboardInterrupt:
        print(f"\nweb_producer: interrupted, at line {count + 1}", file=sys.stderr)
        return 130
    except ParkitError as error:
        print(f"web_producer: {error}", file=sys.stderr)
        return 1
    print(f"{count} lines are in the queue, or were fetched from it already.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
