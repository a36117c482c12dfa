"""The fault harness in its short form, in a process of its own because it forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

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
    for fault in ("SIGKILL of a training run", "SIGKILL of an evaluation", "quota", "flipped bit"):
        assert table["fault"].str.contains(fault).any(), fault
