"""The fixture that runs a test on both faces, the awaitable one on both event loops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faces.face import FACES, Face, opened


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, store: Path) -> Iterator[Face]:
    """A face of parkit on the test's own store."""
    with opened(request.param) as face:
        yield face
