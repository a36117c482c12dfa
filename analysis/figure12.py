"""Figure 12: what every method adds to its base loss, section by section, with intervals.

The rows of table 1's differences as a picture: NormBT, its other forms, rivals and controls.
"""

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, table1
from analysis.style import method_label, plural, plural_range, wrap
from analysis.tables import GROUP, HIGH, HOLM, LOW, MARK, AbsentError
from rm.data.preferences import section_key

COLUMNS: Final = {**{section_key(name): name for name in style.SECTIONS}, "average": "Average"}
SAID: Final = ("average", "reasoning")
"""The columns that the title sums up."""

collect = table1.collect


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a column per section and their average, a row per method with a base.

    `frame` is what `collect` returns.

    Raises InputError: as `table1.differences`, and (AbsentError) no method stands beside its base.
    """
    table = table1.adjusted(table1.differences(frame))
    if table.empty:
        raise AbsentError("no method was run beside its base loss")
    shown = [cell for cell in COLUMNS if table[cell].notna().any()]
    words = caption(table) + table1.rows_note(frame)
    figure = style.new_figure(height=1.2 + 0.24 * len(table) + 0.0008 * len(words + note))
    grid = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    for axes, cell in zip(grid, shown, strict=True):
        panel(axes, table, cell)
        axes.set_title(COLUMNS[cell], fontsize=7)
    grid[0].set_yticks(-np.arange(len(table)), names(table), fontsize=6)
    grid[0].set_ylim(0.6 - len(table), 0.6)
    grid[len(shown) // 2].set_xlabel("difference (percentage points)")
    style.add_text(figure, verdict(table), words, note)
    return figure


def names(table: pd.DataFrame) -> list[str]:
    """Return each row's label: the method, its base unless that is BT, where it ran if rows differ.

    `table`: what `table1.differences` returns.
    """
    places = [name for name in GROUP if table[name].nunique() > 1]
    found = []
    for _, row in table.iterrows():
        base = [] if row["minus"] == "bt" else [f"− {method_label(row['minus'])}"]
        place = [", ".join(str(row[name]) for name in places)] if places else []
        lines = [wrap(words, 38) for words in (method_label(row["method"]), *base, *place)]
        found.append("\n".join(lines))
    return found


def sides(table: pd.DataFrame, cell: str) -> np.ndarray:
    """Return (rows,): 1 where the whole interval lies above 0, −1 below it, 0 neither."""
    above, below = table[cell + LOW] > 0, table[cell + HIGH] < 0
    return above.to_numpy(int) - below.to_numpy(int)


def panel(axes: Axes, table: pd.DataFrame, cell: str) -> None:
    """Draw one section's differences with their intervals, filled where these leave out 0."""
    axes.axvline(0, color=style.GREY, linewidth=0.8, linestyle="--")
    for place, side in enumerate(sides(table, cell)):
        row = table.iloc[place]
        family = "normbt" if str(row["method"]).startswith("normbt") else "bt"
        style.interval_points(
            axes, [-place], table.iloc[[place]], cell, sideways=True, markersize=3.5,
            elinewidth=0.9, color=style.METHOD_COLOURS[family], marker=style.METHOD_MARKERS[family],
            markerfacecolor=None if side else "white",
        )  # fmt: skip
        if row[cell + HOLM] < 0.05:
            axes.text(row[cell], 0.18 - place, MARK, ha="center", fontsize=7)


def verdict(table: pd.DataFrame) -> str:
    """Return in how many rows the whole interval lies above and below 0, and how many stay so."""
    words = []
    for cell in SAID:
        side, stays = sides(table, cell), int((table[cell + HOLM] < 0.05).sum())
        counts = f"{np.sum(side > 0)} above, {np.sum(side < 0)} below"
        words.append(f"{COLUMNS[cell]} {counts} (after Holm {stays})")
    compared = plural(len(table), "comparison")
    return f"95% intervals that exclude zero ({compared}): {'; '.join(words)}"


def caption(table: pd.DataFrame) -> str:
    """Return what a row is, how it is marked, n, seeds and the kind of interval."""
    return (
        f"{table1.ROWS}, on the same seeds and pairs: {plural_range([*table['seeds']], 'seed')}, "
        f"{plural_range([*table['pairs']], 'pair')}. Circles: NormBT and its forms; squares: other "
        f"losses. Filled: the interval leaves out 0. {table1.ADJUSTED} Bars: {table1.BOOTSTRAP}"
    )
