"""Figure 7: what happens during training, BT beside NormBT.

Accuracy, gradient norm, and the quantiles of distance and weight, step by step: a moving average of
every run, then the mean over seeds as a line and their range as a band.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.style import method_label, ordered, plural
from analysis.tables import AbsentError, one_row_each, read_tidy, require
from rm.errors import InputError

SHOWN: Final = ("bt", "normbt")
KEYS: Final = ["method", "seed", "step"]
PANELS: Final = {
    ("accuracy",): ("Accuracy on the batch", "percent"),
    ("gradient_norm",): ("Gradient norm of the batch", "nats / parameter unit"),
    ("distance_q50", "distance_q10", "distance_q90"): (
        "Distance $\\Vert h_w - h_l\\Vert_2$: 10%, 50%, 90% of the batch",
        "activation units",
    ),
    ("weight_q50", "weight_q10", "weight_q90"): (
        "Weight $\\tilde{w}$: 10%, 50%, 90% of the batch",
        "dimensionless",
    ),
}
"""Columns of one panel, the first drawn thick and the others thin, with title and unit."""
COLUMNS: Final = tuple(name for names in PANELS for name in names)
WINDOWS: Final = 15
"""The moving average spans a fifteenth of a run's rows."""
POINTS: Final = 150
"""Of a smoothed curve, about as many steps are drawn: more would only make the file larger."""
LAST: Final = 0.1
"""The part of a run's rows that the title calls its end."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per run and step of `data`/metrics.parquet, for the methods to compare.

    Columns: method, seed, step (optimiser steps) and, of the following, those that the file has:
    accuracy (fraction of the batch, here turned into percent), gradient_norm (of the whole batch,
    before clipping), distance_q10, distance_q50, distance_q90, weight_q10, weight_q50, weight_q90
    (quantiles within the batch; weights are 1 without NormBT).

    Raises InputError: the file is missing, empty, repeats a step, or has none of the methods or
    none of the columns to show.
    """
    path = data / "metrics.parquet"
    frame = read_tidy(path, KEYS)
    columns = shown_columns(frame)
    if not columns:
        raise InputError(
            f"{path} has none of the columns that figure 7 shows: {', '.join(COLUMNS)}"
        )
    kept = frame.loc[frame["method"].isin(SHOWN), [*KEYS, *columns]]
    require(kept, KEYS, f"{path}, methods {', '.join(SHOWN)},")
    if "accuracy" in kept:
        kept = kept.assign(accuracy=100 * kept["accuracy"])
    return one_row_each(kept, KEYS, str(path)).sort_values(KEYS).reset_index(drop=True)


def shown_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that this figure shows and `frame` has, in the order of its panels."""
    return [name for name in COLUMNS if name in frame and frame[name].notna().any()]


def smooth(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with every run's columns averaged over a moving, centred window."""
    columns, runs = shown_columns(frame), []
    for _, run in frame.groupby(["method", "seed"], sort=True):
        ordered_run = run.sort_values("step")
        window = max(1, len(run) // WINDOWS)
        means = ordered_run[columns].rolling(window, center=True, min_periods=1).mean()
        runs.append(pd.concat([ordered_run[KEYS], means], axis=1))
    return pd.concat(runs, ignore_index=True)


def bands(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per method, step and column: mean, low and high over seeds, and seeds.

    `low` and `high` are the smallest and largest seed, not an interval: a handful of seeds gives
    none worth the name.
    """
    long = frame.melt(KEYS, shown_columns(frame), var_name="column").dropna(subset=["value"])
    groups = long.groupby(["method", "column", "step"], sort=True)["value"]
    return groups.agg(mean="mean", low="min", high="max", seeds="count").reset_index()


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a panel per quantity, a colour and line per method.

    `frame` is what `collect` returns; panels without a column in it say so.

    Raises InputError: the frame has no rows or none of the columns.
    """
    require(frame, KEYS, "figure 7's data")
    if not shown_columns(frame):
        raise AbsentError("figure 7's data has nothing to show: no accuracy, … in any row")
    table = bands(smooth(frame))
    methods = ordered(frame["method"], SHOWN)
    figure = style.new_figure(height=4.2)
    grid = figure.subplots(2, 2, sharex=True)
    for axes, (names, (title, unit)) in zip(grid.flat, PANELS.items(), strict=True):
        panel(axes, table, methods, names)
        axes.set_title(title, loc="left")
        axes.set_ylabel(unit)
    for axes in grid[-1]:
        axes.set_xlabel("optimiser step")
    style.add_text(figure, verdict(frame, methods), caption(frame), note, legend=[*grid.flat])
    return figure


def panel(axes: Axes, table: pd.DataFrame, methods: list[str], names: tuple[str, ...]) -> None:
    """Draw the columns `names` of every method over the steps, the first one thick."""
    for method in methods:
        for name in names:
            rows = table[(table["method"] == method) & (table["column"] == name)]
            if len(rows):
                line(axes, rows, method, first=name == names[0])
    if not axes.lines:
        style.no_data(axes, "not recorded")


def line(axes: Axes, rows: pd.DataFrame, method: str, first: bool) -> None:
    """Draw the mean over seeds as a line (a dot for a single step) and their range as a band."""
    colour = style.METHOD_COLOURS.get(method, style.OTHER)
    rows = rows[:: -max(1, len(rows) // POINTS)][::-1]  # the last step is drawn
    axes.plot(
        rows["step"], rows["mean"], color=colour, linestyle=style.METHOD_LINES.get(method, "-"),
        linewidth=1.4 if first else 0.7, marker="o" if len(rows) == 1 else "", markersize=3,
        label=method_label(method) if first else None,
    )  # fmt: skip
    style.band(axes, rows["step"], rows["low"], rows["high"], colour, alpha=0.2)


def verdict(frame: pd.DataFrame, methods: list[str]) -> str:
    """Return every method's batch accuracy over the last tenth of its steps, where recorded."""
    if "accuracy" not in frame or frame["accuracy"].isna().all():
        return "Training, step by step"
    first = frame.groupby(["method", "seed"])["step"].transform(lambda s: s.quantile(1 - LAST))
    means = frame[frame["step"] >= first].groupby("method")["accuracy"].mean()
    words = [f"{means[method]:.0f}% with {method_label(method)}" for method in methods]
    return f"Accuracy on training batches ends at {', '.join(words)}"


def caption(frame: pd.DataFrame) -> str:
    """Return seeds, steps and smoothing."""
    runs = frame.groupby(["method", "seed"])["step"].agg(["size", "max"])
    counts = ", ".join(
        f"{method_label(str(method))} {plural(part['seed'].nunique(), 'seed')}"
        for method, part in frame.groupby("method")
    )
    window = max(1, int(np.max(runs["size"])) // WINDOWS)
    return (
        f"{counts}; {plural(int(runs['max'].max()), 'optimiser step')}. Lines: mean over seeds of "
        f"a moving average over {plural(window, 'logged step')}; bands: smallest to largest seed. "
        "Training batches, not test pairs."
    )
