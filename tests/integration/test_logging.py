"""``SyslogHandler`` is a handler as users of ``logging`` know them: configured, queued, formatted, forked, and quiet about its own trouble."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import parkit
import parkit_async
from parkit import Dict, SyslogHandler, TransactionError, syslog, transaction
from parkit_async._core import log_ops
from parkit_async._core import syslog as core
from parkit_async._core.namespace import Namespace
from tests.conftest import RunScript


@pytest.fixture
def logger(store: Any) -> Iterator[logging.Logger]:
    """A logger with a handler, and no other."""
    logger = logging.getLogger("tests.integration.logging")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(SyslogHandler())
    yield logger
    logger.handlers.clear()


def test_a_record_has_what_a_reader_wants(logger: logging.Logger) -> None:
    logger.warning("%s of %d", "tea", 3, extra={"order": 17, "customer": ["Ada"], "ratio": 0.5})
    [entry] = syslog
    assert {name: entry[name] for name in ("level", "logger", "message", "pid", "process", "extra")} == {
        "level": "WARNING",
        "logger": "tests.integration.logging",
        "message": "tea of 3",
        "pid": os.getpid(),
        "process": None,
        "extra": {"order": 17, "customer": "['Ada']", "ratio": 0.5},
    }
    assert parkit_async.SyslogHandler is SyslogHandler


def test_errors_come_with_traceback_and_stack(logger: logging.Logger) -> None:
    try:
        raise ValueError("oops") from KeyError("cause")
    except ValueError:
        logger.exception("failed")
    logger.info("where", stack_info=True)
    failed, where = syslog
    assert failed["message"].startswith("failed\nKeyError: 'cause'\n") and failed["message"].endswith("\nValueError: oops")
    assert "extra" not in failed
    assert where["message"].startswith("where\nStack (most recent call last):\n") and "stack_info=True" in where["message"]


def test_by_dictConfig_with_level_and_formatter(store: Any) -> None:
    configuration = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "<%(levelname)s> %(message)s"}},
        "handlers": {"store": {"class": "parkit.SyslogHandler", "level": "WARNING", "formatter": "short", "store": str(store)}},
        "loggers": {"tests.configured": {"handlers": ["store"], "level": "DEBUG", "propagate": False}},
    }
    logging.config.dictConfig(configuration)
    logger = logging.getLogger("tests.configured")
    try:
        logger.info("not this one")
        logger.error("this one")
    finally:
        logger.handlers.clear()
    assert [entry["message"] for entry in syslog] == ["<ERROR> this one"]


def test_behind_a_QueueHandler(store: Any) -> None:
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, SyslogHandler())
    logger = logging.getLogger("tests.queued")
    logger.propagate = False
    handler = logging.handlers.QueueHandler(records)
    logger.addHandler(handler)
    listener.start()
    try:
        try:
            raise ValueError("oops")
        except ValueError:
            logger.exception("failed", extra={"order": 1})
    finally:
        listener.stop()
        logger.handlers.clear()
    [entry] = syslog
    assert entry["message"].startswith("failed\nTraceback") and entry["message"].count("ValueError: oops") == 1
    assert entry["extra"] == {"order": 1}


def test_a_record_of_another_process_keeps_its_pid(logger: logging.Logger) -> None:
    record = {"name": "other", "levelno": 30, "levelname": "WARNING", "msg": "far", "process": 4711}
    logger.handle(logging.makeLogRecord(record))
    logger.handle(logging.makeLogRecord({**record, "exc_text": "Traceback, as text"}))  # a SocketHandler's: the exception itself does not travel
    assert [entry["pid"] for entry in syslog] == [4711, 4711]
    assert [entry["message"] for entry in syslog] == ["far", "far\nTraceback, as text"]


def test_records_stay_when_the_transaction_does_not(logger: logging.Logger) -> None:
    board: Dict[str, int] = Dict("shop/board")

    def fail() -> None:
        with transaction(board):
            board["n"] = 1
            logger.info("inside")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [entry["message"] for entry in syslog] == ["inside"] and not board


def test_who_logs_does_not_learn_of_a_full_disk(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: Any) -> None:
        raise TransactionError("there is no space left on the device")

    with monkeypatch.context() as patched:
        patched.setattr(core, "append", full)
        logger.info("lost")
        assert "--- Logging error ---" in (shown := capsys.readouterr().err) and "no space left" in shown
        patched.setattr(logging, "raiseExceptions", False)
        logger.info("lost as well")
        assert capsys.readouterr().err == ""
    logger.info("kept")
    assert [entry["message"] for entry in syslog] == ["kept"]
    logger.handlers[0].handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert "%d format" in capsys.readouterr().err
    assert len(syslog) == 1


@pytest.mark.parametrize(("length", "records"), [(60_000, 12), (120, 2700)], ids=["few", "many"])
def test_a_log_that_is_full_begins_anew_and_says_so(length: int, records: int, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed full for ever: what a transaction deletes makes no room in that transaction, and many records are deleted later."""
    monkeypatch.setattr(core, "SIZE", 256 << 10)
    if records > 1000:  # they are deleted bit by bit, behind other writes, unless there are others who write: so it is here
        monkeypatch.setattr(Namespace, "reclaim", lambda namespace: None)
    cleared: set[float] = set()
    for number in range(records):
        core.append(str(store), {"message": f"{number} {'x' * length}"})
        if len(syslog) == 2 and number > 1:
            assert syslog[0]["message"] == "the log had reached its 262,144 bytes and was cleared"
            cleared.add(syslog[0]["time"])
    assert len(cleared) > 1
    notice, *kept = syslog
    assert (notice["level"], notice["logger"], notice["pid"], notice["process"]) == ("WARNING", "parkit.syslog", os.getpid(), None)
    assert [int(entry["message"].split()[0]) for entry in kept] == list(range(records - len(kept), records))


def test_what_another_process_has_cleared_is_not_cleared_again(store: Any) -> None:
    """Both have found the log full; the second comes when there is room."""
    core.append(str(store), {"message": "the first one's"})
    core.append(str(store), {"message": "and another"})
    assert core.open_syslog(str(store)).namespace.write_apart(core._make_room, (core.open_syslog(str(store)), 100))
    assert [entry["message"] for entry in syslog] == ["the first one's", "and another"]


def test_a_record_that_is_too_big_does_not_cost_the_others(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "SIZE", 256 << 10)
    core.append(str(store), {"message": "first"})
    core.append(str(store), {"message": "second"})
    with pytest.raises(parkit.NamespaceFullError):
        core.append(str(store), {"message": "x" * (300 << 10)})
    assert [entry["message"] for entry in syslog] == ["first", "second"]
    core.append(str(store), {"message": "third"})
    assert len(syslog) == 3


def test_a_log_that_somebody_keeps_from_getting_room_is_cleared_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "SIZE", 256 << 10)
    core.append(str(store), {"message": "first"})
    with parkit.snapshot(syslog):
        for _ in range(6):
            try:
                core.append(str(store), {"message": "x" * 60_000})
            except parkit.NamespaceFullError as error:
                full = str(error)
    assert "The oldest snapshot (or iterator) is held by this process" in full
    assert [entry["message"][:20] for entry in syslog] == ["the log had reached "]
    core.append(str(store), {"message": "last"})
    assert [entry["message"] for entry in syslog][1:] == ["last"]


def test_logging_while_a_record_is_being_appended(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer, or a signal handler, logs at a moment when this thread holds the log's turn."""
    original = log_ops.append
    nested = iter(["from inside", "and again"])

    def append(*arguments: Any) -> Any:
        for message in nested:
            logger.info(message)
        return original(*arguments)

    monkeypatch.setattr(log_ops, "append", append)
    logger.info("outside")
    assert [entry["message"] for entry in syslog] == ["outside", "from inside", "and again"]


def test_from_many_threads(logger: logging.Logger) -> None:
    def work(place: int) -> None:
        for number in range(50):
            logger.info("%d", 1000 * place + number)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [int(entry["message"]) for entry in syslog]
    assert sorted(said) == [1000 * place + number for place in range(4) for number in range(50)]
    assert all(said.index(1000 * place + 1) > said.index(1000 * place) for place in range(4))


@pytest.mark.processes
def test_forked_and_at_the_very_end(run_script: RunScript) -> None:
    run_script(
        """
        import atexit, logging, os

        atexit.register(lambda: logging.info("the last"))  # behind parkit's own end: it was registered before
        from parkit import SyslogHandler

        logging.basicConfig(level=logging.INFO, handlers=[SyslogHandler()])
        logging.info("parent")
        pid = os.fork()
        if not pid:
            logging.info("child")
            logging.shutdown()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        logging.info("parent again")
        """
    )
    assert [entry["message"] for entry in syslog] == ["parent", "child", "parent again", "the last"]
    assert len({entry["pid"] for entry in syslog}) == 2
    parkit.syslog.clear()
