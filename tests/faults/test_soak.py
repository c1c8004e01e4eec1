"""Mixed load for a long time, with deaths: what a process, the store and its files take levels off, and no token is lost. See ``soak``.

The ordinary suite, which has seconds for it, looks at the tokens alone.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from lmdb.verify import verify

from parkit_async._core.registry import close_all
from tests.faults import soak


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1500)
def test_everything_levels_off_under_mixed_load_with_a_death_each_second(
    store: Path, tmp_path: Path, rng: random.Random, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARKIT_SYNCHRONOUS", "normal")
    conductor = soak.Conductor(tmp_path, rng, 10 * seconds)
    samples = conductor.run()
    print(f"\n{soak.table(samples)}\nkilled: {conductor.killed}")
    compared = list(soak.halves(samples))
    for what, then, now, most in compared:
        print(f"{what:>32}: {then:8.2f} in the first half, {now:8.2f} in the second, at most {most:8.2f}")
    assert sum(conductor.killed.values()) >= 9 * seconds, "a death each second"
    if seconds >= 30:  # before five minutes are over, what grows because it has only just begun cannot be told from what grows
        assert [line for line in compared if line[2] > line[3]] == []
    close_all()
    for data in store.glob("*~*/data.mdb"):
        assert verify(str(data)) == []  # type: ignore[no-untyped-call]
