"""Figure 12: what every method adds to its base loss, section by section, with intervals.

The rows of table 1's differences as a picture, generated and real pairs side by side where both are
there. Of more than four methods, NormBT's other forms, rivals and controls stand apart, below.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style, table1
from analysis.style import method_label, plural_range, signed, wrap
from analysis.tables import GROUP, HIGH, HOLM, LOW, MARK, AbsentError
from eval.methods import described
from rm.data.preferences import section_key

COLUMNS: Final = {**{section_key(name): name for name in style.SECTIONS}, "average": "Average"}
FEW: Final = 5
"""Below this number of seeds, the wider of Table 1's intervals counts (docs/design.md)."""
TOGETHER: Final = 4
"""Most methods that stand together, one point each per section."""
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "reasoning": {"color": style.PURPLE, "marker": "D"},
    "average": {"color": style.BLACK, "marker": "s"},
}
"""What is shown of the methods that stand apart."""

collect = table1.collect


@style.styled
def draw(
    frame: pd.DataFrame,
    note: str = "",
    crossed: bool = False,
    names: Mapping[tuple[str, ...], str] | None = None,
) -> Figure:
    """Return the figure: a column of panels per backbone, data set and benchmark.

    `frame` is what `collect` returns; `crossed`: intervals as `table1.differences` makes them.
    `names`: (backbone, data, benchmark) → title of its panels, by default these three.

    Raises InputError: as `table1.differences`, and (AbsentError) no method stands beside its base.
    """
    table = table1.adjusted(table1.differences(frame, crossed=crossed))
    if table.empty:
        raise AbsentError("no method was run beside its base loss")
    rows = tidy(table)
    main, apart = split([*dict.fromkeys(rows["method"])])
    cells = [cell for cell in COLUMNS if cell in set(rows["cell"])]
    heights = [0.3 + len(cells) * (0.12 + 0.1 * len(main)), 0.3 + 0.17 * len(apart)]
    heights = heights if apart else heights[:1]
    by_place = dict([*rows.groupby(GROUP)])
    places = frame[GROUP].drop_duplicates().itertuples(index=False, name=None)
    parts = [(place, by_place[place]) for place in places if place in by_place]
    figure = style.new_figure(height=1.1 + sum(heights))
    grid = figure.subplots(
        len(heights), len(parts), squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    for axes, (place, part) in zip(grid[0], parts, strict=True):
        by_section(axes, part, cells, main)
        if len(parts) > 1:
            name = (names or {}).get(place, " · ".join(map(str, place)))
            axes.set_title(wrap(name, 100 // len(parts)), fontsize=7)
    for axes, (_, part) in zip(grid[-1], parts, strict=True):
        if apart:
            by_method(axes, part, apart)
        axes.set_xlabel("difference (percentage points)")
    notes = [table1.rows_note(part) for _, part in frame.groupby("benchmark", sort=False)]
    words = caption(table, crossed, marks=bool(apart)) + "".join(notes)
    title = verdict(pd.concat([part for _, part in parts]))
    style.add_text(figure, title, words, note, legend=grid[:, 0])
    return figure


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per row and known cell of `table1.adjusted`.

    Columns: method, minus, backbone, data, benchmark, cell, gain, gain_low, gain_high (percentage
    points), clear (the interval excludes zero) and holm.
    """
    parts = []
    for cell in COLUMNS:
        numbers = {"gain" + end: table[cell + end] for end in ("", LOW, HIGH)}
        part = table[["method", "minus", *GROUP]].assign(cell=cell, holm=table[cell + HOLM])
        parts.append(part.assign(**numbers))
    rows = pd.concat(parts, ignore_index=True).dropna(subset=["gain"])
    return rows.assign(clear=(rows["gain" + LOW] > 0) | (rows["gain" + HIGH] < 0))


def split(methods: list[str]) -> tuple[list[str], list[str]]:
    """Return the methods that stand together and those apart: all but the paper's variants.

    Few methods all stand together; so do the others where there is no variant.
    """
    main = [name for name in methods if described(name).role == "variant"]
    if len(methods) <= TOGETHER or not main:
        return methods, []
    return main, [name for name in methods if name not in main]


def named(rows: pd.DataFrame) -> dict[str, str]:
    """Return each method's label, with its base unless that is BT or the label says it."""
    bases = dict(zip(rows["method"], rows["minus"], strict=True))
    return {
        method: method_label(method)
        + (
            ""
            if base == "bt" or described(method).role == "variant"
            else f" − {method_label(base)}"
        )
        for method, base in bases.items()
    }


def by_section(axes: Axes, rows: pd.DataFrame, cells: list[str], methods: list[str]) -> None:
    """Draw a line of points per section, one per method."""
    labels = named(rows)
    for place, method in enumerate(methods):
        part = rows[rows["method"] == method]
        shift = (place - (len(methods) - 1) / 2) * 0.8 / max(len(methods), 2)
        at = -part["cell"].map(cells.index).to_numpy(float) - shift
        points(axes, part, at, labels.get(method, method_label(method)), style.method_look(method))
    finish(axes, [COLUMNS[cell] for cell in cells])


def by_method(axes: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    """Draw a line of points per method, one for Reasoning and one for the average; † after Holm."""
    labels = named(rows)
    for shift, (cell, look) in zip((-0.16, 0.16), LOOKS.items(), strict=True):
        part = rows[(rows["cell"] == cell) & rows["method"].isin(methods)]
        at = -part["method"].map(methods.index).to_numpy(float) - shift
        points(axes, part, at, f"{COLUMNS[cell]} (below)", look)
        for place, (_, row) in zip(at, part.iterrows(), strict=True):
            if row["holm"] < 0.05:
                end = (row["gain" + HIGH], place)
                axes.annotate(
                    MARK, end, (2, 0), textcoords="offset points", va="center", fontsize=7
                )
    finish(axes, [wrap(labels.get(method, method_label(method)), 60) for method in methods])
    axes.tick_params(axis="y", labelsize=6)


def points(
    axes: Axes, rows: pd.DataFrame, at: np.ndarray, label: str, look: dict[str, Any]
) -> None:
    """Draw differences with their intervals: filled where these exclude zero."""
    axes.plot([], [], linestyle="none", label=label, **look)
    for clear in (True, False):
        chosen = (rows["clear"] == clear).to_numpy()
        style.interval_points(
            axes, at[chosen], rows[chosen], "gain", sideways=True, linestyle="none", markersize=4,
            elinewidth=0.9, markerfacecolor=None if clear else "white", **look,
        )  # fmt: skip


def finish(axes: Axes, names: list[str]) -> None:
    """Name the lines and mark zero."""
    axes.axvline(0, color=style.GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(-np.arange(len(names)), names)
    axes.set_ylim(0.5 - len(names), 0.5)
    axes.grid(axis="y", visible=False)


def verdict(rows: pd.DataFrame) -> str:
    """Return NormBT − BT on Reasoning and on the average; of several places, on Reasoning alone."""
    ours = rows[(rows["method"] == "normbt") & rows["cell"].isin(LOOKS)]
    if ours.empty:
        return "Each method minus its base loss, by section"
    if ours.groupby(GROUP).ngroups > 1:
        gains = ours.loc[ours["cell"] == "reasoning", "gain"]
        return f"NormBT − BT, Reasoning: {', '.join(map(signed, gains))} points"
    words = [f"{COLUMNS[row['cell']]} {with_interval(row)}" for _, row in ours.iterrows()]
    return f"NormBT − BT: {', '.join(words)} points"


def with_interval(row: pd.Series) -> str:
    """Return "+4.2 [+1.1, +7.3]", without brackets where the interval is unknown."""
    value, low, high = (signed(row["gain" + end]) for end in ("", LOW, HIGH))
    return f"{value} [{low}, {high}]" if np.isfinite(row["gain" + LOW]) else value


def caption(table: pd.DataFrame, crossed: bool, marks: bool) -> str:
    """Return what a row is, how it is marked (with `marks` also by †), n, seeds and interval."""
    kind = "interval for new seeds and test pairs" if crossed else "bootstrap over seeds and pairs"
    rows = "Each method minus BT" if set(table["minus"]) == {"bt"} else table1.ROWS
    few = f" With fewer than {FEW} seeds read the wider of Table 1's two intervals."
    few = few if crossed and table["seeds"].min() < FEW else ""
    holm = f" {MARK}: p < 0.05 after Holm's correction over the methods." if marks else ""
    return (
        f"{rows}: {plural_range([*table['seeds']], 'seed')}, "
        f"{plural_range([*table['pairs']], 'test pair')}. Bars: 95% {kind}, not corrected for "
        f"multiple comparisons; filled: excludes zero.{few}{holm}"
    )
