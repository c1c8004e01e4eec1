"""The durability level of a test's namespaces."""

from __future__ import annotations

import pytest


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test's namespaces sync every commit: its writes go through the coordinator and the writer thread."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "full")


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test's namespaces never wait for the disk: its writes are made inline."""
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "off")


@pytest.fixture(params=["off", "normal", "full"])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test at every level."""
    level: str = request.param
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", level)
    return level
