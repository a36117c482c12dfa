"""The table of README: each question with the paper's number and ours, from the judged claims."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from analysis import claims, table1
from analysis.claims import Judged, Measured
from analysis.style import section_label
from analysis.tables import decimals
from eval.spreadsheet import read_csv
from eval.verdicts import EQUIVALENT, NOT_TESTABLE
from rm.data.preferences import section_key

FOLDERS: Final = {"generated": "cpu", "gemma": "gemma", "real": "real"}
"""Column of the table → folder below results/."""
ABSENT: Final = "–"
MATRICES: Final = Path(__file__).parents[1] / "conf" / "matrix"


def build(results: Path) -> pd.DataFrame:
    """Return one row per question: question, kind, paper, a column of texts for each of `FOLDERS`.

    `results`: the folder that holds the results folders; one that is not there gives "–".

    Raises InputError: claims or data that are there are unusable.
    """
    listed = claims.read_claims()
    cells = {
        column: {
            one.claim.id: cell(one, by_length(results / name / "data"))
            for one in claims.judge_all(results / name / "data", listed)
        }
        for column, name in FOLDERS.items()
    }
    return pd.DataFrame(
        [
            {
                "question": claim.question,
                "kind": claim.kind,
                "paper": claim.paper,
                **{column: found[claim.id] for column, found in cells.items()},
            }
            for claim in listed.claims
            if claim.question
        ]
    )


def by_length(data: Path) -> dict[str, float]:
    """Return section → percent that the length of the answers alone gets right (baselines.csv)."""
    path = data / table1.BASELINES_FILE
    if not path.is_file():
        return {}
    found = read_csv(path)
    rows = found[(found["baseline"] == "length") & (found["level"] == "section")]
    return dict(zip(map(section_key, rows["name"]), rows["accuracy"], strict=True))


def cell(judged: Judged, length: Mapping[str, float]) -> str:
    """Return effect, interval, unit (but for points) and verdict.

    "75.2 → 79.4: +4.2 [1.1, 7.3], supported"; an equivalence says within which margin. Where BT has
    not learned a section, its reason and what the length alone reaches (`by_length`).
    """
    measured = judged.measured
    if measured is None:
        return ABSENT
    if judged.verdict == NOT_TESTABLE:
        failed = [name for name in length if f"on {section_label(name)} (" in judged.reason]
        alone = ", ".join(f"{section_label(name)} {decimals(length[name], 1)}%" for name in failed)
        return f"{NOT_TESTABLE}: {judged.reason}" + (f"; length alone: {alone}" if alone else "")
    sides = ""
    if measured.sides:
        sides = " → ".join(decimals(side, 1) for side in measured.sides) + ": "
    unit = judged.claim.unit
    value = decimal(measured.estimate.value, unit)
    signed = f"+{value}" if unit == "points" and measured.estimate.value > 0 else value
    named = "" if unit == "points" else f"({unit})"
    number = " ".join(filter(None, (f"{sides}{signed}", span(measured, unit), named)))
    margin = judged.claim.margins.equivalent
    within = f" (within ±{margin:g})" if judged.verdict == EQUIVALENT and margin else ""
    return f"{number}, {judged.verdict}{within}"


def span(measured: Measured, unit: str) -> str:
    """Return "[1.1, 7.3]"; "" where the interval is unknown."""
    low, high = measured.low, measured.high
    known = np.isfinite([low, high]).all()
    return f"[{decimal(low, unit)}, {decimal(high, unit)}]" if known else ""


def decimal(value: float, unit: str) -> str:
    """Return a number with one decimal in points, with two in other units."""
    return decimals(value, 1 if unit == "points" else 2)


def interim(manifest: Mapping[str, Any], matrices: Path = MATRICES) -> str:
    """Return what a frozen experiment still lacks of its list of runs; "" where nothing is lacking.

    `manifest` is a results folder's; one without a freeze lacks nothing.
    """
    if "freeze" not in manifest:
        return ""
    replicates = "matrix=replication" in str(manifest.get("command"))
    name = "replication" if replicates else "confirmatory"
    listed = yaml.safe_load((matrices / "confirmatory.yaml").read_text())
    listed |= yaml.safe_load((matrices / f"{name}.yaml").read_text())
    planned = {(method, seed) for method in listed["methods"] for seed in listed["seeds"]}
    done = planned & {(run["method"], run["seed"]) for run in manifest["runs"]}
    if done == planned:
        return ""
    return (
        f"Interim: {len(done)} of the {len(planned)} planned runs are done. The analysis is "
        "frozen, and the verdicts count when all have run."
    )
