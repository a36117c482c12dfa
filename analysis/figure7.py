"""Figure 7: what happens during training, BT beside NormBT.

Loss, accuracy, reward margin, gradient norm, μ, the quantiles of distance and weight, and the part
of the weight that close and far pairs hold, step by step: a moving average of every run, then the
mean over seeds as a line and their range as a band.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.style import method_label, plural
from analysis.tables import AbsentError, one_row_each, read_tidy, require
from rm.errors import InputError

SHOWN: Final = ("bt", "normbt")
KEYS: Final = ["method", "seed", "step"]
SCALARS: Final = {
    "pair_loss": ("Pair loss, before weights", "nats / pair"),
    "loss": ("Loss as minimised, with weights", "nats / pair"),
    "accuracy": ("Accuracy on the batch", "percent"),
    "reward_margin": ("Reward margin $r_w - r_l$", "reward units"),
    "gradient_norm": ("Gradient norm of the batch", "nats / parameter unit"),
    "mu": (r"$\mu$, moving average of distance", "activation units"),
}
SPREADS: Final = {
    ("distance_q50", "distance_q10", "distance_q90"): (
        "Distance $\\Vert h_w - h_l\\Vert_2$\n10%, 50%, 90% of the batch",
        "activation units",
    ),
    ("weight_q50", "weight_q10", "weight_q90"): (
        "Weight $\\tilde{w}$\n10%, 50%, 90% of the batch",
        "dimensionless",
    ),
    ("weight_share_q1", "weight_share_q4"): (
        "Share of the batch's weight\nclosest (—) and farthest (···) quarter",
        "fraction",
    ),
}
"""Columns of one panel, the first drawn solid and the others dotted, with title and unit."""
WINDOWS: Final = 15
"""The moving average spans a fifteenth of a run's rows."""
LAST: Final = 0.1
"""The part of a run's rows that the title calls its end."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per run and step of `data`/metrics.parquet, for the methods to compare.

    Columns: method, seed, step (optimiser steps) and, of the following, those that the file has:
    pair_loss (nats per pair, before weights; without it, loss, as minimised), accuracy (fraction of
    the batch, here turned into percent), reward_margin, gradient_norm (of the whole batch, before
    clipping), mu (NaN without NormBT), distance_q10, distance_q50, distance_q90, weight_q10,
    weight_q50, weight_q90 (quantiles within the batch), weight_share_q1, weight_share_q4 (part of
    the batch's weight on the closest and the farthest quarter of its pairs).

    Raises InputError: the file is missing, empty, repeats a step, or has none of the methods or
    none of the columns to show.
    """
    path = data / "metrics.parquet"
    frame = read_tidy(path, KEYS)
    columns = shown_columns(frame)
    if not columns:
        raise InputError(f"{path} has none of the columns {', '.join(SCALARS)}, distance_q…")
    kept = frame.loc[frame["method"].isin(SHOWN), [*KEYS, *columns]]
    require(kept, KEYS, f"{path}, methods {', '.join(SHOWN)},")
    if "accuracy" in kept:
        kept = kept.assign(accuracy=100 * kept["accuracy"])
    return one_row_each(kept, KEYS, str(path)).sort_values(KEYS).reset_index(drop=True)


def shown_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns that this figure shows and `frame` has, in the order of its panels."""
    wanted = [*SCALARS, *(name for names in SPREADS for name in names)]
    there = [name for name in wanted if name in frame and frame[name].notna().any()]
    return [name for name in there if name != "loss" or "pair_loss" not in there]


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
    """Return the figure: a panel per quantity, a colour per method.

    `frame` is what `collect` returns; panels without a column in it say so.

    Raises InputError: the frame has no rows or none of the columns.
    """
    require(frame, KEYS, "figure 7's data")
    if not shown_columns(frame):
        raise AbsentError("figure 7's data has nothing to show: no loss, accuracy, … in any row")
    table = bands(smooth(frame))
    methods = [method for method in SHOWN if method in set(frame["method"])]
    methods += sorted(set(frame["method"]) - set(methods))
    figure = style.new_figure(height=6.3)
    grid = figure.subplots(3, 3).ravel()
    unused = "pair_loss" if "loss" in set(table["column"]) else "loss"
    scalars = {(name,): words for name, words in SCALARS.items() if name != unused}
    panels = scalars | SPREADS
    for axes, (names, (title, unit)) in zip(grid, panels.items(), strict=False):
        panel(axes, table, methods, names, title, unit)
    legend(grid[len(panels)], methods)
    style.add_text(figure, title_text(frame, methods), caption(frame), note)
    return figure


def panel(
    axes: Axes,
    table: pd.DataFrame,
    methods: list[str],
    names: tuple[str, ...],
    title: str,
    unit: str,
) -> None:
    """Draw the columns `names` of every method: the first solid, the others dotted."""
    drawn = False
    for method in methods:
        for name in names:
            rows = table[(table["method"] == method) & (table["column"] == name)]
            drawn = drawn or len(rows) > 0
            form = "-" if name == names[0] else ":"
            line(axes, rows, style.METHOD_COLOURS.get(method, style.BLACK), form)
    if not drawn:
        style.no_data(axes, "not recorded")
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.set_xlabel("optimiser step")


def line(axes: Axes, rows: pd.DataFrame, colour: str, form: str) -> None:
    """Draw the mean over seeds as a line (a dot for a single step) and their range as a band."""
    marker = "o" if len(rows) == 1 else ""
    axes.plot(rows["step"], rows["mean"], color=colour, linestyle=form, marker=marker, markersize=3)
    style.band(axes, rows["step"], rows["low"], rows["high"], colour, alpha=0.2)


def legend(axes: Axes, methods: list[str]) -> None:
    """Name the methods' colours in a panel of their own."""
    axes.set_axis_off()
    for method in methods:
        axes.plot(
            [], [], color=style.METHOD_COLOURS.get(method, style.BLACK), label=method_label(method)
        )
    axes.legend(loc="center", fontsize=9)


def title_text(frame: pd.DataFrame, methods: list[str]) -> str:
    """Return every method's batch accuracy over the last tenth of its steps, where recorded."""
    if "accuracy" not in frame or frame["accuracy"].isna().all():
        return "Training dynamics"
    first = frame.groupby(["method", "seed"])["step"].transform(lambda s: s.quantile(1 - LAST))
    means = frame[frame["step"] >= first].groupby("method")["accuracy"].mean()
    words = [f"{method_label(method)} {means[method]:.0f}%" for method in methods]
    return f"Training dynamics: batch accuracy over the last tenth of the steps {', '.join(words)}"


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
        f"each run's moving average over {plural(window, 'logged step')}; bands: smallest to "
        "largest seed. Training batches, not held-out pairs."
    )
