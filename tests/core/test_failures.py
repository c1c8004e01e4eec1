"""Exceptions between processes: what can travel arrives as itself, all else as a RemoteError, and nothing that is captured stops anybody."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import signal
import sys
import threading
import traceback
import types
from pathlib import Path
from typing import Any

import pytest

from parkit_async._core import errors
from parkit_async._core.errors import ParkitError, ProcessCrashedError, ProcessError, RemoteError, RemoteTraceback
from parkit_async._core.failures import CapturedFailure, capture, restore
from tests.conftest import RunScript


def raised(error: BaseException) -> BaseException:
    """Return an exception that was raised, so that it has a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def travel(error: BaseException) -> Exception:
    """Capture, store, load and restore an exception."""
    captured = capture(raised(error))
    assert all(value is None or type(value) in (str, bytes) for value in captured.values())
    return restore(pickle.loads(pickle.dumps(captured)))


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


class PlainError(Exception):
    pass


class AttributesError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.code})"


class OtherParametersError(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, *, name: str) -> None:
        super().__init__(f"no {name}")


class ReduceRaisesError(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("no reducing")


class BecomesExitError(Exception):
    def __reduce__(self) -> Any:
        return SystemExit, (3,)


class LeavesError(Exception):
    def __setstate__(self, state: Any) -> None:
        sys.exit(5)


class StrRaisesError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class StrLeavesError(Exception):
    def __str__(self) -> str:
        sys.exit(5)


class StrIsNoneError(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class Text(str):
    def __str__(self) -> str:
        raise ValueError("not so plain")


class OddTextError(Exception):
    def __str__(self) -> str:
        return Text("odd")


class NotesRaiseError(Exception):
    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("no notes")


class FixedError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"cannot assign to {name}")


# -- those that travel ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        PlainError("plain", 3),
        AttributesError("teapot", 418),
        KeyError("missing"),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ParkitError("ours"),
        OddTextError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_arrives_as_itself(error: Exception) -> None:
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert (arrived.args, str.__str__(str(arrived)), vars(arrived)) == (error.args, str.__str__(str(error)), vars(error))
    assert isinstance(arrived.__cause__, RemoteTraceback)
    assert arrived.__cause__.text.startswith("Traceback (most recent call last):\n")
    assert "raise error" in shown(arrived)
    assert arrived.__traceback__ is None


def test_it_looks_like_what_the_standard_library_does() -> None:
    text = shown(raised(travel(ValueError("bad"))))
    remote, _, here = text.partition("The above exception was the direct cause of the following exception")
    assert remote.startswith('parkit_async._core.errors.RemoteTraceback: \n"""\nTraceback (most recent call last):\n')
    assert 'ValueError: bad\n"""\n' in remote
    assert here.endswith("ValueError: bad\n")


def test_each_restored_exception_is_one_of_its_own() -> None:
    captured = capture(raised(ValueError("bad")))
    assert restore(captured) is not restore(captured)


def test_classes_that_only_cloudpickle_carries() -> None:
    class LocalError(Exception):
        pass

    def local() -> int:
        return 3

    arrived = travel(LocalError("local", local))
    assert type(arrived) is LocalError
    assert arrived.args[1]() == 3
    assert capture(LocalError("x"))["type"].endswith(".test_classes_that_only_cloudpickle_carries.<locals>.LocalError")


@pytest.mark.processes
def test_classes_of_main_arrive_in_another_program(run_script: RunScript, tmp_path: Path) -> None:
    file = tmp_path / "captured"
    run_script(
        """
        import pickle, sys
        from parkit_async._core.failures import capture
        class ShopError(Exception):
            pass
        try:
            raise ShopError("closed")
        except ShopError as error:
            open(sys.argv[1], "wb").write(pickle.dumps(capture(error)))
        """,
        file,
    )
    arrived = restore(pickle.loads(file.read_bytes()))
    assert (type(arrived).__name__, arrived.args) == ("ShopError", ("closed",))


def test_causes_contexts_notes_and_members_arrive_as_text() -> None:
    def members() -> list[Exception]:
        noted = ValueError("member")
        noted.add_note("a note of the member")
        return [noted, KeyError("other member")]

    try:
        try:
            try:
                raise LookupError("the context")
            except LookupError:
                raise OSError("the cause")  # noqa: B904 - so that there is a context
        except OSError as cause:
            group = ExceptionGroup("the group", members())
            group.add_note("a note of the group")
            raise group from cause
    except ExceptionGroup as error:
        captured = capture(error)
    arrived = restore(captured)
    assert isinstance(arrived, ExceptionGroup)
    assert [type(member) for member in arrived.exceptions] == [ValueError, KeyError]
    assert arrived.__notes__ == ["a note of the group"]
    for part in ("the context", "the cause", "the group", "a note of the group", "member", "a note of the member", "other member"):
        assert part in captured["traceback"]
    assert str(arrived.__cause__) == f'\n"""\n{captured["traceback"]}"""'


def test_an_exception_that_takes_no_attributes() -> None:
    error = FixedError("x")
    arrived = restore(capture(error))
    assert type(arrived) is FixedError
    assert isinstance(arrived.__cause__, RemoteTraceback)


# -- those that do not ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OtherParametersError(name="tea"), "pickled but not unpickled: TypeError"),
        (ReduceRaisesError("x"), "cannot be pickled: RuntimeError: no reducing"),
        (ValueError(threading.Lock()), "cannot be pickled: TypeError: .*lock"),
        (BecomesExitError("x"), "it unpickles as a builtins.SystemExit"),
    ],
    ids=["init", "reduce", "lock", "other type"],
)
def test_what_cannot_travel_arrives_as_a_remote_error(error: Exception, reason: str) -> None:
    arrived = travel(error)
    assert type(arrived) is RemoteError
    assert arrived.type == f"{type(error).__module__}.{type(error).__qualname__}"
    assert arrived.message == str(error)
    assert arrived.traceback.startswith("Traceback (most recent call last):\n")
    with pytest.raises(RemoteError, match=reason):
        raise arrived
    assert isinstance(arrived.__cause__, RemoteTraceback)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("why"), BaseExceptionGroup("g", [KeyboardInterrupt()])],
    ids=lambda error: type(error).__name__,
)
def test_what_would_end_its_receiver_does_not(error: BaseException) -> None:
    captured = capture(error)
    assert captured["pickled"] is None
    arrived = restore(captured)
    assert isinstance(arrived, RemoteError)
    assert arrived.type == f"{type(error).__module__}.{type(error).__qualname__}"
    assert "would end whoever asks for it" in str(arrived)


def test_code_of_the_exception_that_leaves_the_program() -> None:
    error = LeavesError("x")
    error.attribute = 1  # type: ignore[attr-defined]
    assert "not unpickled: SystemExit: 5" in (capture(error)["reason"] or "")


@pytest.mark.parametrize("kind", [StrRaisesError, StrLeavesError, StrIsNoneError])
def test_a_text_that_cannot_be_had(kind: type[Exception]) -> None:
    captured = capture(raised(kind("x")))
    assert captured["message"] == f"<{captured['type']} whose __str__ fails>"
    assert "Traceback (most recent call last):\n" in captured["traceback"]
    assert "raise error" in captured["traceback"]
    assert type(restore(captured)) is kind


def test_notes_that_cannot_be_had() -> None:
    captured = capture(raised(NotesRaiseError("x")))
    assert "raise error" in captured["traceback"]
    assert "NotesRaiseError: x" in captured["traceback"]


def test_a_traceback_that_cannot_be_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(error: BaseException) -> list[str]:
        raise AttributeError("odd")

    monkeypatch.setattr(traceback, "format_exception", refuse)
    text = capture(raised(PlainError("x")))["traceback"]
    assert text.startswith("Traceback (most recent call last):\n  File")
    assert "raise error" in text
    assert text.endswith("PlainError: x\n")


def test_endless_recursion() -> None:
    def sink() -> None:
        sink()

    try:
        sink()
    except RecursionError as error:
        captured = capture(error)
    assert type(restore(captured)) is RecursionError
    assert "Previous line repeated" in captured["traceback"]


def test_texts_can_be_stored_as_anything() -> None:
    captured = capture(ValueError("lone \ud800 surrogate", "and \0"))
    texts = [captured["type"], captured["message"], captured["traceback"]]
    assert json.loads(json.dumps(texts)) == texts
    assert "".join(texts).encode()
    assert restore(captured).args == ("lone \ud800 surrogate", "and \0")


def test_an_interrupt_passes_through() -> None:
    class PressedError(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(PressedError())


# -- loading that fails --------------------------------------------------------------------------------------------------------------------


def test_a_class_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = types.ModuleType("shop_of_this_test")
    kind: type[Exception] = type("ClosedError", (Exception,), {"__module__": shop.__name__})
    shop.ClosedError = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, shop.__name__, shop)
    captured = capture(kind("at night"))
    assert type(restore(captured)) is kind
    monkeypatch.delitem(sys.modules, shop.__name__)
    arrived = restore(captured)
    assert isinstance(arrived, RemoteError)
    assert (arrived.type, arrived.message) == ("shop_of_this_test.ClosedError", "at night")
    assert str(arrived).startswith(
        "shop_of_this_test.ClosedError: at night (this stands for the exception of the process: loading it failed: ModuleNot"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [(3, "it loads as a builtins.int"), (SystemExit(3), "it loads as a builtins.SystemExit"), (BecomesExitError(), "builtins.SystemExit")],
    ids=["no exception", "exit", "becomes exit"],
)
def test_what_loads_as_something_else(value: object, reason: str) -> None:
    captured: CapturedFailure = {"type": "shop.X", "message": "m", "traceback": "t", "pickled": pickle.dumps(value, 5), "reason": None}
    arrived = restore(captured)
    assert isinstance(arrived, RemoteError)
    assert reason in arrived.reason


def test_loading_that_leaves_the_program() -> None:
    captured: CapturedFailure = {"type": "X", "message": "", "traceback": "t", "pickled": b"\x80\x05csys\nexit\n(I5\ntR.", "reason": None}
    arrived = restore(captured)
    assert isinstance(arrived, RemoteError)
    assert arrived.reason == "loading it failed: SystemExit: 5"


# -- the errors themselves -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RemoteError("shop.ClosedError", "at night", "Traceback ...", "the class is gone"),
        RemoteTraceback("Traceback ..."),
        ProcessError("process 'a' was started already"),
        ProcessCrashedError("jobs/a", -9, "/store/output/1"),
        ProcessCrashedError("jobs/a", None),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_errors_pickle(error: Exception, way: Any) -> None:
    again = way(error)
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_the_tree() -> None:
    assert issubclass(ProcessError, RuntimeError)
    for name in ("ProcessError", "ProcessCrashedError", "RemoteError"):
        assert issubclass(getattr(errors, name), ParkitError)
    assert not issubclass(RemoteTraceback, ParkitError)
    assert set(errors.__all__) >= {"ProcessCrashedError", "ProcessError", "RemoteError", "RemoteTraceback"}


def test_a_remote_error_reads_well() -> None:
    assert str(RemoteError("builtins.SystemExit", "3", "t")) == "SystemExit: 3"
    assert str(RemoteError("shop.ClosedError", "", "t")) == "shop.ClosedError"
    assert str(RemoteError("shop.ClosedError", "at night", "t", "why")) == (
        "shop.ClosedError: at night (this stands for the exception of the process: why)"
    )


@pytest.mark.parametrize(
    ("exitcode", "says"),
    [
        (-signal.SIGKILL, r"process 'jobs/a' was ended by SIGKILL; probable cause: kill\(\), killall\(\), or the out-of-memory killer"),
        (-signal.SIGTERM, r"SIGTERM; probable cause: terminate\(\)"),
        (-signal.SIGSEGV, "SIGSEGV; probable cause: an error in native code"),
        (-signal.SIGABRT, "SIGABRT; probable cause: an error in native code"),
        (-signal.SIGUSR1, r"ended by SIGUSR1;"),
        (-47, r"ended by signal 47;"),
        (0, r"exit code 0 and without an outcome; probable cause: os\._exit\(\)"),
        (3, "left with exit code 3"),
        (None, "nobody saw how"),
    ],
)
def test_a_crash_is_explained(exitcode: int | None, says: str) -> None:
    error = ProcessCrashedError("jobs/a", exitcode, "/store/output/1")
    assert (error.path, error.exitcode, error.output) == ("jobs/a", exitcode, "/store/output/1")
    assert re.search(says, str(error))
    assert str(error).endswith("; what it wrote is in /store/output/1")
    assert "what it wrote" not in str(ProcessCrashedError("jobs/a", exitcode))
