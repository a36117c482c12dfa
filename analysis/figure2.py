"""Figure 2: per category, the gradient norm of the BT loss and the representation distance.

One row of panels per model: the untrained backbone, after BT training, after NormBT training. The
paper finds Reasoning smallest in both quantities; whether that holds here is computed.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS, THETA
from analysis.style import model_label, ordered, plural, short
from analysis.tables import require
from eval import bootstrap

QUANTITIES: Final = {
    "gradient_norm": "gradient norm of the BT loss",
    "distance": "representation distance",
}
UNITS: Final = {
    "gradient_norm": r"$\Vert\nabla_\theta L_{BT}\Vert_2$" "\n(nats / parameter unit)",
    "distance": r"$\Vert h_w - h_l\Vert_2$" "\n(activation units)",
}
COLUMNS: Final = [*KEYS, "section", *QUANTITIES]
CLAIMED: Final = "Reasoning"
SURE: Final = 0.95
LOG_FROM: Final = 20.0
"""A panel is logarithmic where its 95% quantile is this many times its 5% quantile."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and pair of `data`/gradients.csv.

    Columns: method (untrained, bt, normbt), seed, pair_id, section, gradient_norm, distance.

    Raises InputError: the file is missing, empty, lacks a column or repeats a pair within a run.
    """
    return gradients.read(data, COLUMNS)


def mean_over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model and pair: seeds repeat pairs, so each pair counts once."""
    groups = frame.groupby(["method", "section", "pair_id"], sort=False, as_index=False)
    return groups[list(QUANTITIES)].mean()


def medians(frame: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return one row per model, quantity and section.

    Columns: method, quantity, section, pairs, median (over pairs, each the mean over its seeds),
    smallest (whether this median is the lowest of the model's sections) and smallest_share (the
    part of bootstrap resamples of the pairs in which it is; NaN where there is one section only).
    """
    pairs, rows = mean_over_seeds(frame), []
    for method in ordered(pairs["method"], style.MODELS):
        for quantity in QUANTITIES:
            chosen = pairs[pairs["method"] == method]
            by = {s: chosen.loc[chosen["section"] == s, quantity].to_numpy() for s in
                  ordered(chosen["section"], style.SECTIONS)}  # fmt: skip
            shares = smallest_shares(list(by.values()), resamples, seed)
            lowest = min(by, key=lambda section: float(np.median(by[section])))
            rows += [
                {
                    "method": method,
                    "quantity": quantity,
                    "section": section,
                    "pairs": len(values),
                    "median": float(np.median(values)),
                    "smallest": section == lowest and len(by) > 1,
                    "smallest_share": share,
                }
                for (section, values), share in zip(by.items(), shares, strict=True)
            ]
    return pd.DataFrame(rows)


def smallest_shares(samples: list[np.ndarray], resamples: int, seed: int) -> list[float]:
    """Return, for each sample, the part of bootstrap resamples in which its median is lowest."""
    if len(samples) < 2:
        return [float("nan")] * len(samples)
    draws = [np.median(each, axis=1) for each in bootstrap.redrawn(samples, resamples, seed)]
    winners = np.argmin(np.stack(draws), axis=0)
    return [float(np.mean(winners == index)) for index in range(len(samples))]


def verdict(summary: pd.DataFrame) -> str:
    """Return whether Reasoning has the smallest median in both quantities, model by model.

    It counts as smallest where it is so in at least `SURE` of the bootstrap resamples.
    """
    if CLAIMED not in set(summary["section"]):
        return f"No {CLAIMED} pairs here: the claim that they are smallest is not tested"
    if summary["section"].nunique() == 1:
        return f"{CLAIMED} pairs only: no other category to compare with"
    holds: dict[str, list[str]] = {"both": [], "one": [], "neither": []}
    for method, rows in summary.groupby("method", sort=False):
        hits = int((rows.loc[rows["section"] == CLAIMED, "smallest_share"] >= SURE).sum())
        holds[("neither", "one", "both")[hits]].append(model_label(str(method)))
    words = [f"in {key}: {', '.join(names)}" for key, names in holds.items() if names]
    return f"{CLAIMED} pairs, smallest gradient norm and distance – {'; '.join(words)}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a row of two panels (gradient norm, distance) per model.

    `frame` is what `collect` returns; `note` names model, data and seeds.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 2's data")
    pairs, summary = mean_over_seeds(frame), medians(frame)
    models = ordered(pairs["method"], style.MODELS)
    figure = style.new_figure(height=1.0 + 1.95 * len(models))
    grid = figure.subplots(len(models), 2, squeeze=False, sharey="col")
    for column, quantity in enumerate(QUANTITIES):
        for row, method in enumerate(models):
            panel(grid[row, column], pairs, summary, method, quantity)
        if wants_log(pairs[quantity]):
            grid[0, column].set_yscale("log")
    seeds = {method: part["seed"].nunique() for method, part in frame.groupby("method")}
    counts = ", ".join(f"{model_label(m)} {plural(seeds[m], 'seed')}" for m in models)
    caption = (
        f"Exact per-pair gradients of the BT loss. {THETA} {counts}. One point per pair (mean over "
        "seeds), n = pairs; box: quartiles; whiskers: 5% to 95%; number: median; "
        "%: bootstrap resamples of the pairs in which that section's median is the smallest."
    )
    style.add_text(figure, verdict(summary), caption, note)
    return figure


def panel(
    axes: Axes, pairs: pd.DataFrame, summary: pd.DataFrame, method: str, quantity: str
) -> None:
    """Draw one model's values of one quantity, a box and points for every section."""
    rows = summary[(summary["method"] == method) & (summary["quantity"] == quantity)]
    chosen = pairs[pairs["method"] == method]
    names, middles = rows["section"].tolist(), rows["median"].tolist()
    for place, (section, middle) in enumerate(zip(names, middles, strict=True)):
        values = chosen.loc[chosen["section"] == section, quantity].to_numpy()
        box(axes, place, values, style.section_colour(section))
        axes.annotate(short(middle), (place + 0.36, middle), va="center", fontsize=6.5)
    labels = [f"{name}\nn = {n:,}" for name, n in zip(names, rows["pairs"], strict=True)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.2)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(UNITS[quantity])
    axes.set_title(
        f"{model_label(method)}: {QUANTITIES[quantity]}\n{lowest_words(rows)}", loc="left"
    )


def box(axes: Axes, place: int, values: np.ndarray, colour: str) -> None:
    """Draw the points of one section (spread sideways, always the same way) and their box."""
    spread = np.random.default_rng(0).uniform(-0.26, 0.26, size=len(values))
    axes.scatter(place + spread, values, s=3, color=colour, alpha=0.45, linewidths=0, zorder=1)
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
    smallest = rows[rows["smallest"]]
    if smallest.empty:
        return "one category only"
    name, share = smallest.iloc[0][["section", "smallest_share"]]
    return f"smallest median: {name} ({share:.0%})"


def wants_log(values: pd.Series) -> bool:
    """Return whether values are positive and spread widely enough for a logarithmic axis."""
    low, high = values.quantile([0.05, 0.95])
    return bool(values.min() > 0 and high > LOG_FROM * low)
