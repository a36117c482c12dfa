"""Figure 11: sensitivity: final accuracy by β, ε, weight cap, learning rate and training data.

One panel per parameter: the average over sections (solid, filled) and Reasoning (dotted, open) of
every method, mean over seeds with their range.
"""

from pathlib import Path
from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.style import method_label, ordered, plural_range
from analysis.tables import one_row_each, read_tidy, require
from rm.data.preferences import section_key
from rm.errors import InputError

KEYS: Final = ["method", "parameter", "value", "seed", "section"]
COLUMNS: Final = [*KEYS, "accuracy"]
LABELS: Final = {
    "beta": "β of the moving average",
    "epsilon": "ε (activation units)",
    "cap": "weight cap",
    "learning_rate": "learning rate",
    "close_share": "share of Reasoning in training",
    "label_noise": "swapped labels among Reasoning",
    "train_pairs": "training pairs",
}
"""The swept parameters, in the order of their panels."""
SHOWN: Final = {"average": "-", "reasoning": ":"}
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


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, parameter, value and section.

    Columns besides: mean, mean_low and mean_high (the range over seeds), seeds.
    """
    groups = frame.groupby(["parameter", "method", "section", "value"], sort=True)["accuracy"]
    return groups.agg(mean="mean", mean_low="min", mean_high="max", seeds="count").reset_index()


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Return what NormBT adds to Reasoning over BT: parameter, value, gain (points).

    The mean over the seeds that both have; a value that only one of them has is left out.
    """
    keys = ["parameter", "value", "seed"]
    reasoning = frame[frame["section"] == "reasoning"]
    ours, theirs = (
        reasoning[reasoning["method"] == name].set_index(keys)["accuracy"]
        for name in ("normbt", "bt")
    )
    paired = (ours - theirs).dropna().rename("gain").reset_index()
    return paired.groupby(keys[:2])["gain"].mean().reset_index()


def verdict(frame: pd.DataFrame) -> str:
    """Return what NormBT adds to Reasoning over BT by each parameter, and how far others move it.

    Where BT was not swept beside it: how far NormBT's average moves over the parameter's values.
    """
    gained = gains(frame)
    normbt = summary(frame).query("method == 'normbt' and section == 'average'")
    beside, alone = [], []
    for parameter in ordered(frame["parameter"], tuple(LABELS)):
        gain = gained.loc[gained["parameter"] == parameter, "gain"]
        average = normbt.loc[normbt["parameter"] == parameter, "mean"]
        if len(gain):
            beside.append(f"{span(gain)} by {parameter_label(parameter)}")
        elif len(average) > 1:
            moved = average.max() - average.min()
            alone.append(f"{moved:.1f} by {parameter_label(parameter)}")
    said = [f"NormBT − BT on Reasoning, points: {'; '.join(beside)}"] if beside else []
    said += [f"NormBT's average moves {'; '.join(alone)}"] if alone else []
    return ". ".join(said) or "NormBT and BT were not swept side by side, NormBT over no two values"


def span(values: pd.Series) -> str:
    """Return the smallest and largest value: "5.8 to 6.7", or the one there is."""
    ends = dict.fromkeys(f"{end:.1f}".replace("-", "−") for end in (values.min(), values.max()))
    return " to ".join(ends)


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a panel per parameter. `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 11's data")
    table = summary(frame)
    parameters = ordered(table["parameter"], tuple(LABELS))
    rows = (len(parameters) + 1) // 2
    figure = style.new_figure(height=1.3 + 2.3 * rows)
    grid = figure.subplots(rows, min(2, len(parameters)), squeeze=False)
    for axes, parameter in zip(grid.flat, parameters, strict=False):
        panel(axes, table[table["parameter"] == parameter])
        axes.set_xlabel(parameter_label(parameter))
        axes.set_ylabel("accuracy (%)")
    for axes in grid.flat[len(parameters) :]:
        axes.set_axis_off()
    style.shared_legend(grid.flat[-1], *grid.flat[: len(parameters)])
    caption = (
        f"{seeds_of(table)}. Points: mean over seeds; bars: smallest to "
        "largest seed (Table 5 has intervals). Solid line, filled marker: average of the "
        "sections; dotted line, open marker: Reasoning."
    )
    style.add_text(figure, verdict(frame), caption, note)
    return figure


def parameter_label(parameter: str) -> str:
    """Return a swept parameter's name for readers."""
    return LABELS.get(parameter, parameter.replace("_", " "))


def seeds_of(table: pd.DataFrame) -> str:
    """Return how many seeds a point has: "3 seeds", or "2 to 3 seeds a point"."""
    words = plural_range(table["seeds"].to_list(), "seed")
    return words if table["seeds"].nunique() == 1 else f"{words} a point"


def panel(axes: Axes, table: pd.DataFrame) -> None:
    """Draw every method's accuracies over one parameter's values."""
    for method in ordered(table["method"], style.METHODS):
        for section, line in SHOWN.items():
            rows = table[(table["method"] == method) & (table["section"] == section)]
            if rows.empty:
                continue
            style.interval_points(
                axes, rows["value"], rows, "mean", linestyle=line, markersize=3, capsize=2,
                color=style.METHOD_COLOURS.get(method, style.OTHER),
                marker=style.METHOD_MARKERS.get(method, "D"),
                markerfacecolor=None if section == "average" else "white",
                elinewidth=0.8, label=f"{method_label(method)}, {section}",
            )  # fmt: skip
    positive = table.loc[table["value"] > 0, "value"]
    if len(positive) and positive.max() >= LOG_FROM * positive.min():
        if table["value"].min() > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=float(positive.min()))
