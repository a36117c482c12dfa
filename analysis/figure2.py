"""Figure 2: gradient norm of the BT loss and representation distance by section, before training.

The paper finds Reasoning smallest in both quantities; whether that holds here is computed.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS, THETA
from analysis.style import ordered, plural, short
from analysis.tables import of_method, require
from eval import bootstrap

QUANTITIES: Final = {
    "gradient_norm": "Gradient norm of the BT loss",
    "distance": "Representation distance",
}
UNITS: Final = {
    "gradient_norm": r"$\Vert\nabla_\theta L_{BT}\Vert_2$ (nats / parameter unit)",
    "distance": r"$\Vert h_w - h_l\Vert_2$ (activation units)",
}
COLUMNS: Final = [*KEYS, "section", *QUANTITIES]
CLAIMED: Final = "Reasoning"
SURE: Final = 0.95
LOG_FROM: Final = 20.0
"""A panel is logarithmic where its 95% quantile is this many times its 5% quantile."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per seed and pair of the untrained backbone, from `data`/gradients.csv.

    Columns: method (untrained), seed, pair_id, section, gradient_norm, distance.

    Raises InputError: the file is missing, empty, lacks a column, repeats a pair within a run, or
    has nothing of the untrained backbone.
    """
    return of_method(gradients.read(data, COLUMNS), "untrained", data / "gradients.csv")


def mean_over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and pair: seeds repeat pairs, so each pair counts once."""
    groups = frame.groupby(["method", "section", "pair_id"], sort=False, as_index=False)
    return groups[list(QUANTITIES)].mean()


def medians(pairs: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return one row per quantity and section of `pairs` (`mean_over_seeds`).

    Columns: quantity, section, pairs, median and smallest_share (the part of bootstrap resamples of
    the pairs in which this median is the lowest of all sections; NaN where there is one section).
    """
    rows = []
    for quantity in QUANTITIES:
        values = {
            section: pairs.loc[pairs["section"] == section, quantity].to_numpy()
            for section in ordered(pairs["section"], style.SECTIONS)
        }
        shares = smallest_shares([*values.values()], resamples, seed)
        rows += [
            (quantity, section, len(each), float(np.median(each)), share)
            for (section, each), share in zip(values.items(), shares, strict=True)
        ]
    return pd.DataFrame(rows, columns=["quantity", "section", "pairs", "median", "smallest_share"])


def smallest_shares(samples: list[np.ndarray], resamples: int, seed: int) -> list[float]:
    """Return, for each sample, the part of bootstrap resamples in which its median is lowest."""
    if len(samples) < 2:
        return [float("nan")] * len(samples)
    draws = [np.median(each, axis=1) for each in bootstrap.redrawn(samples, resamples, seed)]
    winners = np.argmin(np.stack(draws), axis=0)
    return [float(np.mean(winners == index)) for index in range(len(samples))]


def verdict(summary: pd.DataFrame) -> str:
    """Return in which quantities Reasoning has the smallest median.

    It counts as smallest where it is so in at least `SURE` of the bootstrap resamples.
    """
    rows = summary[summary["section"] == CLAIMED].set_index("quantity")
    if rows.empty or summary["section"].nunique() == 1:
        return f"{CLAIMED} pairs are not here, or alone: nothing to compare"
    gradient, distance = (rows["smallest_share"][name] >= SURE for name in QUANTITIES)
    if gradient and distance:
        return f"Before training, {CLAIMED} pairs are closest and have the smallest gradients"
    if distance:
        return f"Before training, {CLAIMED} pairs are closest; smallest gradients are uncertain"
    if gradient:
        return f"{CLAIMED} pairs have the smallest gradients; the closest section is uncertain"
    return f"Before training, {CLAIMED} is not reliably smallest in gradient or distance"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a panel for the gradient norm, one for the distance.

    `frame` is what `collect` returns; `note` names model, data and seeds.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 2's data")
    pairs = mean_over_seeds(frame)
    summary = medians(pairs)
    figure = style.new_figure(height=2.9)
    for axes, quantity in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        panel(axes, pairs, summary[summary["quantity"] == quantity], quantity)
    caption = (
        f"{plural(len(pairs), 'pair')}, untrained backbone, exact gradient of each pair. {THETA} "
        "Box: quartiles; whiskers: 5% to 95%; number: median. In brackets: share of bootstrap "
        "resamples in which that median is the smallest."
    )
    style.add_text(figure, verdict(summary), caption, note)
    return figure


def panel(axes: Axes, pairs: pd.DataFrame, rows: pd.DataFrame, quantity: str) -> None:
    """Draw the values of one quantity, a box and points for every section."""
    for place, (section, middle) in enumerate(zip(rows["section"], rows["median"], strict=True)):
        values = pairs.loc[pairs["section"] == section, quantity].to_numpy()
        box(axes, place, values, style.section_colour(section))
        axes.annotate(short(middle), (place + 0.36, middle), va="center", fontsize=6.5)
    labels = [f"{s}\nn = {n:,}" for s, n in zip(rows["section"], rows["pairs"], strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.2)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(UNITS[quantity])
    axes.set_title(f"{QUANTITIES[quantity]}\n{lowest_words(rows)}", loc="left")
    if wants_log(pairs[quantity]):
        axes.set_yscale("log")


def box(axes: Axes, place: int, values: np.ndarray, colour: str) -> None:
    """Draw the points of one section (spread sideways, always the same way) and their box."""
    spread = np.random.default_rng(0).uniform(-0.26, 0.26, size=len(values))
    axes.scatter(place + spread, values, s=5, color=colour, alpha=0.6, linewidths=0, zorder=1)
    axes.boxplot(
        [values],
        positions=[place],
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        boxprops={"linewidth": 0.9},
        whiskerprops={"linewidth": 0.9},
        medianprops={"color": style.BLACK, "linewidth": 1.6},
    )


def lowest_words(rows: pd.DataFrame) -> str:
    """Return which section has the smallest median of one panel and how surely."""
    if len(rows) < 2:
        return "one section only"
    name, share = rows.nsmallest(1, "median").iloc[0][["section", "smallest_share"]]
    return f"smallest: {name} ({share:.0%})"


def wants_log(values: pd.Series) -> bool:
    """Return whether values are positive and spread widely enough for a logarithmic axis."""
    low, high = values.quantile([0.05, 0.95])
    return bool(values.min() > 0 and high > LOG_FROM * low)
