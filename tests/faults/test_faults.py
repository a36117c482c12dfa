"""The fault harness in its short form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tests.faults import harness


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path: Path) -> None:
    harness.main(["--kills", "2", "--seed", "1", "--output", str(tmp_path / "faults.csv")])
    (row,) = pd.read_csv(tmp_path / "faults.csv").to_dict("records")
    assert row["tried"] >= 2 and row["survived"] == row["runs"] >= 1
