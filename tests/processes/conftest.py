"""For the tests with processes: looking at a namespace's files when everybody has closed them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from lmdb.verify import verify

from parkit_async._core.registry import close_all, open_namespace

Verify = Callable[..., None]


@pytest.fixture
def verified() -> Verify:
    """Close what this process has open, and fail if LMDB's own verification finds anything wrong with a namespace's file: ``verified(name)``."""

    def check(*names: str) -> None:
        paths = [open_namespace(name).directory / "data.mdb" for name in names]
        close_all()
        for path in paths:
            problems = verify(str(path))  # type: ignore[no-untyped-call]
            assert not problems, f"{path}: {problems}"

    return check
