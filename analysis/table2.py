"""Table 2: NormBT's moving average: with it, without it, and in the other forms that were run."""

from pathlib import Path
from typing import Final

import pandas as pd

from analysis import table1
from analysis.style import ordered
from analysis.tables import AbsentError, write_table
from eval.methods import described

OURS: Final = "normbt"
CAPTION: Final = (
    "Table 2. NormBT with its weight in other forms: accuracy by section, percent. The paper "
    'reports one of them, without the moving average μ ("without EMA").'
)
ROLES: Final = ("form", "control")
"""Of NormBT's methods, those with these roles are other forms of its weight."""
ORDER: Final = tuple(
    f"{OURS}_{form}"
    for form in (
        *("no_ema", "batch_mean", "mean_one", "fixed", "cap"),
        *("cosine", "standardised", "mean_pooled", "exact", "edit", "random"),
        *("mlp", "shuffled", "mean_for_all", "shuffled_within", "category_mean"),
    )
)
"""Rows in this order; others come after them."""
PAPER_ROWS: Final = ("normbt", "normbt_no_ema")


def is_form(method: str) -> bool:
    """Return whether a method is another form of NormBT's weight, or a control of it."""
    return method.startswith(OURS) and described(method).role in ROLES


def ablations(frame: pd.DataFrame) -> list[str]:
    """Return the methods of the table: BT, NormBT, then every other form of NormBT's weight.

    Raises InputError: NormBT, or any form of it beside the one with the moving average, is absent.
    """
    present = set(frame["method"])
    forms = ordered(filter(is_form, present), ORDER)
    if OURS not in present or not forms:
        raise AbsentError(
            "table 2 compares NormBT with and without its moving average: run both, "
            "methods=[bt,normbt,normbt_no_ema]"
        )
    return [*(m for m in ("bt", OURS) if m in present), *forms]


def collect(data: Path) -> pd.DataFrame:
    """Return table 1's rows of the methods that the ablation compares.

    Raises InputError: as `table1.collect` and `ablations`.
    """
    frame = table1.collect(data)
    return frame[frame["method"].isin(ablations(frame))].reset_index(drop=True)


def build(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return table 1's columns for BT, NormBT and the other forms, in that order."""
    order = {method: place for place, method in enumerate(ablations(frame))}
    table = table1.build(frame, resamples, crossed)
    return table.sort_values("method", key=lambda names: names.map(order), kind="stable")


def differences(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return the paired differences NormBT − each other form, on the same seeds and pairs."""
    others = [method for method in ablations(frame) if method not in ("bt", OURS)]
    return table1.paired(frame, [(OURS, other) for other in others], resamples, crossed)


def write(data: Path, folder: Path, note: str = "", crossed: bool = False) -> list[Path]:
    """Write table2, table2_differences and table2_paper into `folder` and return their paths.

    `crossed`: as `table1.build`.

    Raises InputError: as `collect`.
    """
    frame = collect(data)
    table = build(frame, crossed=crossed)
    baselines = table1.baseline_rows(data, table)
    read_none = f" {table1.READS_NO_PROMPT}" if len(baselines) else ""
    under = f"{table1.CROSSED if crossed else table1.INTERVAL}{table1.rows_note(frame)}"
    paper = table1.beside_paper(table)
    theirs = paper["method"].isin(PAPER_ROWS) & (paper["backbone"] == "gemma-2b-it")
    theirs &= paper["data"] == "Unified-Feedback"
    return [
        *write_table(
            table1.with_rows(table, baselines),
            folder / "table2",
            f"{CAPTION} {under}{read_none}",
            note,
        ),
        *write_table(
            table1.adjusted(differences(frame, crossed=crossed)),
            folder / "table2_differences",
            "Table 2, differences. NormBT minus each other form on the same seeds and pairs, "
            "percentage points. "
            f"{table1.CROSSED_ADJUSTED if crossed else table1.ADJUSTED} {under}",
            note,
        ),
        *write_table(
            paper[theirs | (paper["source"] == table1.HERE)],
            folder / "table2_paper",
            f"Table 2 beside the paper's reported numbers, percent. {table1.PAPER_SCALE}",
            f"Rows of {table1.HERE}: {note}" if note else "",
            digits=2,
        ),
    ]
