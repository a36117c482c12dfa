"""Table 5: accuracy at each value of a swept parameter, and what NormBT adds there.

Two tables: the methods; the paired differences of each method and its base loss (same seeds, same
pairs).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from analysis import table1
from analysis.figure11 import LABELS, parameter_label
from analysis.style import ordered
from analysis.tables import HIGH, LOW, read_scores, write_table

FILE: Final = "sweep_scores.parquet"
SWEPT: Final = ["parameter", "value"]
UNUSED: Final = "Every value is scored on the test pairs, and none is chosen by that."


def collect(data: Path) -> pd.DataFrame:
    """Return one row per run and pair of the sweeps, from `data`/sweep_scores.parquet.

    Columns: parameter, value (a number), then those of `table1.collect`. A value's differences are
    of its own runs, so two values are compared by their intervals alone.

    Raises InputError: the file is unusable, or has no benchmark with the paper's sections.
    """
    path = data / FILE
    return table1.of_trained(read_scores(path, SWEPT), path)[[*SWEPT, *table1.COLUMNS, "truncated"]]


def build(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return table 5: parameter and value, then table 1's columns. Errors: as `table1.build`.

    Ends of intervals beyond 0 or 100 percent, which few seeds give, are cut there.
    """
    table = by_value(frame, lambda rows: table1.build(rows, resamples, crossed))
    ends = [name for name in table if str(name).endswith((LOW, HIGH))]
    return table.assign(**table[ends].clip(0, 100))


def differences(frame: pd.DataFrame, resamples: int = 2000, crossed: bool = False) -> pd.DataFrame:
    """Return the paired differences at each value: parameter, value, `table1.differences`.

    A parameter of one method alone has none.
    """
    return by_value(frame, lambda rows: table1.differences(rows, resamples, crossed))


def by_value(frame: pd.DataFrame, make: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Return what `make` makes of each value's rows, one below the other; values as text."""
    made = []
    for parameter, value, rows in values_of(frame):
        table = make(rows)
        table.insert(0, "parameter", parameter)
        table.insert(1, "value", f"{value:g}")
        made.append(table)
    filled = [table for table in made if len(table)]
    return pd.concat(filled or made[:1], ignore_index=True)


def values_of(frame: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield every parameter and value with its rows, in figure 11's order."""
    for parameter in ordered(frame["parameter"], tuple(LABELS)):
        rows = frame[frame["parameter"] == parameter]
        for value, part in rows.groupby("value", sort=True):
            yield parameter, float(str(value)), part


def several_seeds(frame: pd.DataFrame) -> bool:
    """Whether all methods of a value share at least two seeds, at every value."""
    return all(
        len(set.intersection(*rows.groupby("method")["seed"].agg(set))) > 1
        for _, rows in frame.groupby(SWEPT)
    )


def write(data: Path, folder: Path, note: str = "", crossed: bool = False) -> list[Path]:
    """Write table5 and table5_differences into `folder` and return their paths.

    `crossed`: as `table1.build`, if the methods share two seeds or more at every value.

    Raises InputError: as `collect`, `build` and `differences`.
    """
    frame = collect(data)
    crossed = crossed and several_seeds(frame)
    words = {"parameter": parameter_label}
    interval = table1.CROSSED if crossed else table1.INTERVAL
    under = f"{UNUSED} {interval}{table1.rows_note(frame, SWEPT)}"
    return [
        *write_table(
            build(frame, crossed=crossed),
            folder / "table5",
            f"Table 5. Accuracy by section at each value of a swept parameter, percent. {under}",
            note,
            labels=words,
        ),
        *write_table(
            differences(frame, crossed=crossed),
            folder / "table5_differences",
            f"Table 5, differences. {table1.ROWS} at each value of a swept parameter, "
            f"same seeds and pairs, percentage points. {under}",
            note,
            labels=words,
        ),
    ]
