"""Figure 11: sensitivity: what NormBT adds by training pairs, learning rate, β, ε and the like.

A panel per swept parameter: the method minus its base loss on the average over sections and on
Reasoning. Where the base was not swept (it lacks the parameter): minus the method's own mean over
the values.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.style import method_label, ordered, plural_range, signed
from analysis.tables import one_row_each, read_tidy, require
from eval.methods import base_of
from rm.data.preferences import section_key
from rm.errors import InputError

KEYS: Final = ["method", "parameter", "value", "seed", "section"]
COLUMNS: Final = [*KEYS, "accuracy"]
LABELS: Final = {
    "train_pairs": "training pairs",
    "learning_rate": "learning rate",
    "label_noise": "swapped labels among Reasoning",
    "beta": "β of the moving average",
    "epsilon": "ε (activation units)",
    "cap": "weight cap",
    "clip_norm": "largest gradient norm",
}
"""The swept parameters, in the order of their panels."""
SHOWN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "average": ("Average", {"color": style.BLACK, "marker": "s", "linestyle": "-"}),
    "reasoning": (
        "Reasoning",
        {"color": style.PURPLE, "marker": "D", "linestyle": ":", "markerfacecolor": "white"},
    ),
}
OWN_MEAN: Final = "its mean"
LOG_FROM: Final = 20.0
"""A parameter whose largest value is this many times its smallest above zero is drawn
logarithmically."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per method, parameter, value, seed and section of `data`/sweep.csv.

    Columns: method, parameter, value, seed, section (keys as in tables; "average" is added as the
    mean of the sections where the file lacks it), accuracy (percent; the file holds fractions). A
    section that the benchmark lacks has no row.

    Raises InputError: the file is missing, empty, lacks a column, repeats a row, or holds an
    accuracy that is no fraction.
    """
    path = data / "sweep.csv"
    frame = read_tidy(path, COLUMNS)[COLUMNS].dropna(subset=["accuracy"])
    if not frame["accuracy"].between(0, 1).all():
        raise InputError(f"{path}: accuracies must be fractions from 0 to 1: write it again")
    frame = one_row_each(frame.assign(section=frame["section"].map(section_key)), KEYS, str(path))
    frame = frame.assign(accuracy=100 * frame["accuracy"])
    if "average" not in set(frame["section"]):
        means = frame.groupby(KEYS[:-1], as_index=False)["accuracy"].mean()
        frame = pd.concat([frame, means.assign(section="average")])
    return frame.sort_values(KEYS).reset_index(drop=True)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per parameter, method, section and value: what the method adds, in points.

    Columns: parameter, method, minus (its base, or `OWN_MEAN` where no method of the parameter has
    one), section, value, gain (mean over the seeds that both sides have), gain_low and gain_high
    (smallest and largest seed), seeds. A value that only one side has is left out.
    """
    made = []
    for parameter, part in frame.groupby("parameter", sort=False):
        wide = part.pivot(index=["section", "value", "seed"], columns="method", values="accuracy")
        bases = {str(name): base_of(str(name), wide) for name in wide}
        sides = {name: base for name, base in bases.items() if base}
        for method in sides or bases:
            ours = wide[method]
            own = ours.groupby(["section", "seed"]).transform("mean")
            apart = (ours - (wide[sides[method]] if sides else own)).dropna()
            found = apart.groupby(["section", "value"]).agg(["mean", "min", "max", "count"])
            found.columns = ["gain", "gain_low", "gain_high", "seeds"]
            names = {"parameter": parameter, "method": method}
            made.append(found.reset_index().assign(**names, minus=sides.get(method, OWN_MEAN)))
    return pd.concat(made, ignore_index=True)


def verdict(table: pd.DataFrame) -> str:
    """Return NormBT's gain on Reasoning over BT at the fewest and most training pairs, in points.

    Where those were not swept: its range over all values.
    """
    rows = table[(table["method"] == "normbt") & (table["section"] == "reasoning")]
    beside = rows[rows["minus"] == "bt"]
    pairs = beside[beside["parameter"] == "train_pairs"].sort_values("value")
    if len(pairs) > 1:
        ends = pairs.iloc[[0, -1]]
        numbers = ends[["gain", "value"]].to_numpy()
        few, many = (f"{signed(gain)} at {value:,.0f}" for gain, value in numbers)
        ranges = "overlap" if ends["gain_low"].max() <= ends["gain_high"].min() else "differ"
        return f"Reasoning gain: {few} pairs, {many}; seed ranges {ranges}"
    if len(beside):
        low, high = (signed(end) for end in (beside["gain"].min(), beside["gain"].max()))
        return f"NormBT's Reasoning gain over BT: {low} to {high} points"
    if len(rows) > 1:
        moved = rows.groupby("parameter")["gain"].agg(np.ptp).max()
        return f"NormBT's Reasoning accuracy moves by at most {moved:.1f} points"
    return "NormBT and BT were not swept side by side"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a panel per parameter. `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 11's data")
    table = differences(frame)
    panels = [
        (parameter, method)
        for parameter in ordered(frame["parameter"], tuple(LABELS))
        for method in dict.fromkeys(table.loc[table["parameter"] == parameter, "method"])
    ]
    rows = max(1, (len(panels) + 2) // 3)
    figure = style.new_figure(height=0.9 + 1.75 * rows)
    grid = figure.subplots(rows, max(1, min(3, len(panels))), squeeze=False)
    for axes, (parameter, method) in zip(grid.flat, panels, strict=False):
        of = table[(table["parameter"] == parameter) & (table["method"] == method)]
        panel(axes, of, method)
        axes.set_xlabel(parameter_label(parameter))
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("difference (points)")
    caption = (
        f"{seeds_of(table)}. Method minus its base loss; where that has no such parameter, minus "
        "its own mean over the values. Points: mean over seeds; bars: smallest to largest seed "
        "(Table 5 has intervals)."
    )
    style.add_text(figure, verdict(table), caption, note, legend=grid.flat)
    return figure


def parameter_label(parameter: str) -> str:
    """Return a swept parameter's name for readers."""
    return LABELS.get(parameter, parameter.replace("_", " "))


def seeds_of(table: pd.DataFrame) -> str:
    """Return how many seeds a point has: "3 seeds", or "2 to 3 seeds per point"."""
    words = plural_range(table["seeds"].to_list() or [0], "seed")
    return words if table["seeds"].nunique() == 1 else f"{words} per point"


def panel(axes: Axes, table: pd.DataFrame, method: str) -> None:
    """Draw one method's differences over one parameter's values; two values get no scale."""
    axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle="--")
    values = sorted(table["value"].unique())
    two = len(values) == 2
    for section, (label, look) in SHOWN.items():
        rows = table[table["section"] == section]
        if len(rows):
            places = rows["value"].map(values.index) if two else rows["value"]
            style.interval_points(
                axes, places, rows, "gain", markersize=3.5, capsize=2, elinewidth=0.8,
                label=label, **look,
            )  # fmt: skip
    minus = table["minus"].iloc[0]
    title = f"{method_label(method)} − {minus if minus == OWN_MEAN else method_label(minus)}"
    axes.set_title(style.wrap(title, 34), loc="left", fontsize=7)
    positive = table.loc[table["value"] > 0, "value"]
    if two:
        axes.set_xticks([0, 1], [f"{value:g}" for value in values])
        axes.set_xlim(-0.5, 1.5)
    elif len(positive) and positive.max() >= LOG_FROM * positive.min():
        if table["value"].min() > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=float(positive.min()))
