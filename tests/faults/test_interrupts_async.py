"""Awaited operations that are interrupted anywhere leave nothing behind. See ``interrupts``."""

from __future__ import annotations

import pytest

from tests.conftest import RunScript

pytestmark = [pytest.mark.untraceable, pytest.mark.processes]

SCRIPT = "import sys, warnings; warnings.simplefilter('ignore'); from tests.faults.interrupts import main; main(*sys.argv[1:])"


@pytest.mark.parametrize("level", ["off", "full"])
@pytest.mark.parametrize("operation", ["setting", "transacting", "queueing"])
def test_an_awaited_operation_that_is_interrupted_leaves_nothing_behind(
    run_script: RunScript, operation: str, level: str, seconds: float, seed: int
) -> None:
    finished = run_script(SCRIPT, operation, seed, seconds, env={"PARKIT_SYNCHRONOUS": level}, timeout=seconds + 60)
    print(f"at {level}, {finished.stdout}")
