"""The fault harness in its short form, in a process of its own because it forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.ranks import drop_rank
from tests.faults.workplace import Workplace
from tests.marks import two_ranks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_disturbed_runs_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    output = tmp_path / "faults.csv"
    command = [sys.executable, "-m", "tests.faults.harness", "--short", "--seed", "1"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(output)
    assert (table["survived"] == table["runs"]).all() and (table["runs"] >= 1).all()
    expected = ("of a training run", "of an evaluation", "each change", "quota", "flipped bit")
    for fault in expected:
        assert table["fault"].str.contains(fault).any(), fault


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("faults"), seed=0)


@pytest.mark.slow
@two_ranks
@pytest.mark.parametrize("deepspeed", ["zero2", "zero3"])
def test_a_rank_is_killed_under_zero_and_the_run_ends_with_the_same_bytes(
    place: Workplace, deepspeed: str
) -> None:
    row = drop_rank(place, 1, deepspeed)
    assert (row.tried, row.runs, row.survived) == (1, 1, 1)
