"""Table 4: accuracy by subset, one row per subset, one column per method."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from analysis import table1
from analysis.style import SECTIONS, method_label, ordered
from analysis.tables import HIGH, LOW, write_table
from eval.statistics import section_intervals

CAPTION: Final = f"Table 4. Accuracy by subset, percent. {table1.INTERVAL}"


def build(frame: pd.DataFrame, resamples: int = 2000) -> pd.DataFrame:
    """Return one row per backbone, data set, benchmark and subset.

    Columns: backbone, data, benchmark, section, subset, pairs, then for every method its accuracy
    in percent (mean over seeds) with `_low` and `_high`; NaN where a method was not run. `frame` is
    what `table1.collect` returns.
    """
    rows = [
        {**place, **cells}
        for place, group, protocol in table1.groups(frame)
        for cells in subsets(group, protocol, resamples)
    ]
    return pd.DataFrame(rows)


def subsets(
    group: pd.DataFrame, protocol: table1.Protocol, resamples: int
) -> Iterator[dict[str, Any]]:
    """Yield every subset's cells of one backbone, data set and benchmark."""
    found = {}
    for method, runs in table1.by_method(group):
        table = section_intervals(runs, protocol, resamples=resamples, seed=0)
        found[method] = table[table["level"] == "subset"].set_index("name")
    for section in ordered(group["section"], SECTIONS):
        for subset in sorted(set(group.loc[group["section"] == section, "subset"])):
            counts = group.loc[group["subset"] == subset, "pair_id"].nunique()
            cells: dict[str, Any] = {"section": section, "subset": subset, "pairs": counts}
            for method, table in found.items():
                for ending, column in (("", "mean"), (LOW, "low"), (HIGH, "high")):
                    known = subset in table.index
                    value = 100 * table.loc[subset, column] if known else float("nan")
                    cells[method + ending] = value
            yield cells


def write(data: Path, folder: Path, note: str = "") -> list[Path]:
    """Write table4 into `folder` and return its paths. Raises InputError: as `table1.collect`."""
    frame = table1.collect(data)
    headers = {method: method_label(method) for method in set(frame["method"])}
    caption = CAPTION + table1.rows_note(frame)
    return [*write_table(build(frame), folder / "table4", caption, note, headers)]
