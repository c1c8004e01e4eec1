"""How long the searches for faults go on, and with which seed.

Each test here looks for a failure among more cases than anyone could run: for ``seconds`` in the ordinary suite, for a minute each in
``nox -s faults``. A failure names its seed; ``PARKIT_FAULTS_SEED`` runs the same cases again, ``PARKIT_FAULTS_SECONDS`` says for how long.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.faults.rounds import Rounds, conducted

# Read before the tests: each of them begins with the environment cleared of parkit's variables.
SECONDS = float(os.environ.get("PARKIT_FAULTS_SECONDS") or 1.0)
SEED = os.environ.get("PARKIT_FAULTS_SEED")


@pytest.fixture
def seconds() -> float:
    """For how many seconds a test goes on looking for a failure."""
    return SECONDS


@pytest.fixture
def seed() -> int:
    """The seed of every random choice in the test, printed so that a failure can be repeated."""
    chosen = int(SEED or random.SystemRandom().randrange(2**32))
    print(f"repeat with PARKIT_FAULTS_SEED={chosen}")
    return chosen


@pytest.fixture
def rng(seed: int) -> random.Random:
    """Random choices that the seed repeats."""
    return random.Random(seed)


@pytest.fixture
def rounds(spawn: Spawn, tmp_path: Path, seed: int) -> Iterator[Rounds]:
    """Concurrent clients whose histories are to be checked."""
    with conducted(spawn, tmp_path, seed) as running:
        yield running
