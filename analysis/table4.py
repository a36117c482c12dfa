"""Table 4: accuracy by subset, one row per subset, one column per method."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pandas as pd

from analysis import table1
from analysis.style import SECTIONS, method_label, ordered
from analysis.tables import HIGH, LOW, SEED, write_table
from eval.crossed import intervals
from eval.protocol import Protocol
from eval.spreadsheet import read_csv
from eval.statistics import section_intervals

CAPTION: Final = "Table 4. Accuracy by subset, percent."
READS_NO_PROMPT: Final = table1.READS_NO_PROMPT.replace("Last rows", "Last columns")


def build(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return one row per backbone, data set, benchmark and subset.

    Columns: backbone, data, benchmark, section, subset, pairs, then for every method its accuracy
    in percent (mean over seeds) with `_low` and `_high`; NaN where a method was not run. `frame` is
    what `table1.collect` returns; `crossed`: as `table1.build`.
    """
    rows = [
        {**place, **cells}
        for place, group, protocol in table1.groups(frame)
        for cells in subsets(group, protocol, resamples, crossed)
    ]
    return pd.DataFrame(rows)


def subsets(
    group: pd.DataFrame, protocol: Protocol, resamples: int, crossed: bool
) -> Iterator[dict[str, Any]]:
    """Yield every subset's cells of one backbone, data set and benchmark."""
    found, ends = {}, {"": "mean", LOW: "low", HIGH: "high"}
    ends |= {SEED + LOW: "seed_low", SEED + HIGH: "seed_high"} if crossed else {}
    for method, runs in table1.by_method(group):
        table = (
            intervals(runs, protocol)
            if crossed
            else section_intervals(runs, protocol, resamples=resamples, seed=0)
        )
        found[method] = table[table["level"] == "subset"].set_index("name")
    for section in ordered(group["section"], SECTIONS):
        for subset in sorted(set(group.loc[group["section"] == section, "subset"])):
            counts = group.loc[group["subset"] == subset, "pair_id"].nunique()
            cells: dict[str, Any] = {"section": section, "subset": subset, "pairs": counts}
            for method, table in found.items():
                for ending, column in ends.items():
                    known = subset in table.index
                    value = 100 * table.loc[subset, column] if known else float("nan")
                    cells[method + ending] = value
            yield cells


def with_baselines(table: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Return the table with a column per baseline that reads no prompt (`data`/baselines.csv)."""
    path = data / table1.BASELINES_FILE
    if not path.is_file():
        return table
    found = read_csv(path)
    for name, part in found[found["level"] == "subset"].groupby("baseline", sort=False):
        numbers = part.set_index("name")
        for end, column in (("", "accuracy"), (LOW, "low"), (HIGH, "high")):
            table = table.assign(**{f"{name}{end}": table["subset"].map(numbers[column])})
    return table


def write(data: Path, folder: Path, note: str = "", crossed: bool = False) -> list[Path]:
    """Write table4 into `folder` and return its paths.

    `crossed`: as `table1.build`. Raises InputError: as `table1.collect` and `table1.build`.
    """
    frame = table1.collect(data)
    interval = table1.CROSSED if crossed else table1.INTERVAL
    made = build(frame, crossed=crossed)
    table = with_baselines(made, data)
    names = [name for name in table if name not in made and not str(name).endswith((LOW, HIGH))]
    headers = {method: method_label(method) for method in set(frame["method"])}
    headers |= {str(name): f"{name} (baseline)" for name in names}
    read_none = f" {READS_NO_PROMPT}" if names else ""
    caption = f"{CAPTION} {interval}{read_none}{table1.rows_note(frame)}"
    return [*write_table(table, folder / "table4", caption, note, headers)]
