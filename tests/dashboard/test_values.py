"""Values as the page shows them: plain data, and nobody's code."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import pytest

from parkit_async._core import codecs
from parkit_async.dashboard.values import NotPlain, load, printable, shown


class Trap:
    """Leaves a trace when it is unpickled."""

    trace: Path

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_plain_data_is_loaded() -> None:
    for value in (
        None,
        True,
        12,
        1.5,
        "text",
        b"bytes",
        [1, (2, {3}), frozenset({4})],
        {"a": {"b": [None]}},
        dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
        dt.timedelta(seconds=3),
        decimal.Decimal("1.5"),
        uuid.UUID(int=7),
    ):
        assert load(codecs.encode(value)) == value


@pytest.mark.parametrize("codec", ["json", "raw"])
def test_codecs_that_run_no_code_are_loaded(codec: str) -> None:
    value = {"json": {"a": 1}, "raw": b"abc"}[codec]
    assert load(codecs.encode(value, codecs.builtin_codec(codec))) == value


def test_nothing_is_run(tmp_path: Path) -> None:
    frame = codecs.encode([Trap(str(tmp_path / "trace"))])
    with pytest.raises(NotPlain):
        load(frame)
    assert "not loaded" in shown(frame)
    assert not (tmp_path / "trace").exists()
    codecs.decode(frame)
    assert (tmp_path / "trace").exists(), "the trap works"


def test_a_class_is_named_and_not_imported() -> None:
    assert shown(codecs.encode(Trap("x"))).startswith("<a pathlib")
    assert "cloudpickle" not in shown(codecs.encode(lambda: 1)) and "not loaded" in shown(codecs.encode(lambda: 1))


def test_what_is_too_large_or_damaged_is_said() -> None:
    assert shown(codecs.encode("x" * 100_000)) == "<a value of 100,009 bytes, not loaded>"
    assert shown(b"").endswith("not loaded>")
    assert "not loaded" in shown(b"\x80\x05nonsense")
    assert "not loaded" in shown(b"\xff")


def test_texts_are_bounded() -> None:
    nested: Any = ["x" * 100]
    for _ in range(50):
        nested = [nested] * 20
    assert len(shown(codecs.encode(nested))) <= 2000
    assert len(shown(codecs.encode({str(number): "y" * 50 for number in range(1000)}))) <= 2000
    assert len(shown(codecs.encode(10**10_000))) <= 2000
    assert shown(codecs.encode(10**5000)).startswith("<a value whose repr fails") or "..." in shown(codecs.encode(10**5000))


def test_what_cannot_be_encoded_is_spelled_out() -> None:
    assert printable("a\ud800b") == "a\\ud800b"
    assert printable("x" * 10, 5) == "xxxx…"
