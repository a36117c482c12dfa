"""Figure 3: update size against representation distance at a fixed reward difference.

Pairs are binned by d = r_w − r_l, so that the prediction error hardly differs within a bin; what is
left of the update's size should follow the distance under BT, and should not under NormBT, whose
update is the same gradient times the pair's weight.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS, MU, THETA, UPDATES
from analysis.relation import quantile_bins, relation
from analysis.style import interval_text, method_label, model_label, ordered, plural, short
from analysis.tables import require
from rm.errors import InputError

COLUMNS: Final = [*KEYS, "distance", "difference", "error", *UPDATES.values()]
BINS: Final = 4
TAIL: Final = 0.1
"""Share of pairs left out at each end of d, where no bin is narrow enough to hold the error."""


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and pair of `data`/gradients.csv.

    Columns: method (the model's state: untrained, bt, normbt), seed, pair_id, distance, difference
    (d), error (|σ(d) − 1|), update_bt (‖∇_θ L_BT‖, nats / parameter unit) and update_normbt (the
    same times the weight w̃ that NormBT would give the pair).

    Raises InputError: the file is missing, empty, lacks a column or repeats a pair within a run.
    """
    return gradients.read(data, COLUMNS)


def assign_bins(chosen: pd.DataFrame, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's bin of d (−1 in a tail) and the edges: quantiles without the tails."""
    values = chosen["difference"].to_numpy()
    return quantile_bins(values, values, bins, TAIL)


def relations(frame: pd.DataFrame, bins: int = BINS, resamples: int = 1000) -> pd.DataFrame:
    """Return one row per model, update and bin of d.

    Columns: method (the model's state), update ("bt" or "normbt"), bin, low, high (of d),
    error_low, error_high (of |σ(d) − 1| within the bin), then those of `relation.relation` for the
    update's size against distance: pairs, seeds, slope, pearson, spearman with their intervals.
    """
    rows = []
    for method in ordered(frame["method"], style.MODELS):
        chosen = frame[frame["method"] == method]
        place, edges = assign_bins(chosen, bins)
        for index in range(len(edges) - 1):
            part = chosen[place == index]
            about = {
                "bin": index,
                "low": edges[index],
                "high": edges[index + 1],
                "error_low": part["error"].min(),
                "error_high": part["error"].max(),
            }
            for update, column in UPDATES.items():
                found = relation(part, "distance", column, resamples)
                rows.append({"method": method, "update": update, **about, **found})
    return pd.DataFrame(rows)


def pick_model(frame: pd.DataFrame, model: str | None) -> str:
    """Return the model whose pairs are shown: the one asked for, else the untrained if there.

    Its rewards are all near 0, so within a bin the error is nearly fixed; after training it is not.

    Raises InputError: the model asked for is not in the frame.
    """
    present = ordered(frame["method"], style.MODELS)
    if model is not None and model not in present:
        raise InputError(f"figure 3: no model {model!r} in the data; there: {', '.join(present)}")
    return model or present[0]


def verdict(rows: pd.DataFrame) -> str:
    """Return in how many bins each update grows, falls or does neither with distance."""
    if not rows["slope"].notna().any():
        return "Too few pairs in every bin of the reward difference: no slope to give"
    words = []
    for update in UPDATES:
        known = rows[(rows["update"] == update) & rows["slope"].notna()]
        grows, falls = int((known["slope_low"] > 0).sum()), int((known["slope_high"] < 0).sum())
        words.append(
            f"{method_label(update)} grows in {grows}, falls in {falls}, "
            f"neither in {len(known) - grows - falls} of {plural(len(known), 'bin')}"
        )
    return f"Update size with distance at a fixed reward difference: {'; '.join(words)}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "", model: str | None = None) -> Figure:
    """Return the figure: one column of panels per bin of d, BT's update above and NormBT's below.

    `frame` is what `collect` returns; `model` (untrained, bt, normbt) says whose pairs are shown,
    by default the untrained backbone's.

    Raises InputError: the frame has no rows, lacks a column or has no such model.
    """
    require(frame, COLUMNS, "figure 3's data")
    method = pick_model(frame, model)
    chosen = frame[frame["method"] == method]
    table, (place, edges) = relations(chosen), assign_bins(chosen)
    left_out = int((place < 0).sum())
    figure = style.new_figure(height=4.9)
    grid = figure.subplots(2, len(edges) - 1, squeeze=False, sharey=True)
    for row, update in enumerate(UPDATES):
        for column in range(len(edges) - 1):
            found = table[(table["update"] == update) & (table["bin"] == column)].iloc[0]
            panel(grid[row, column], chosen[place == column], update, found, headed=row == 0)
        grid[row, 0].set_ylabel(f"{method_label(update)} update size\n(nats / parameter unit)")
    grid[0, 0].set_ylim(bottom=0)  # shared, and once all is drawn: a limit ends the scaling
    for axes in grid[-1]:
        axes.set_xlabel(r"$\Vert h_w - h_l\Vert_2$" "\n(activation units)")
    style.add_text(figure, verdict(table), caption(chosen, left_out), note)
    return figure


def caption(chosen: pd.DataFrame, left_out: int) -> str:
    """Return whose pairs these are, how they are binned and how intervals are made."""
    return (
        f"Exact per-pair gradients, {model_label(str(chosen['method'].iloc[0]))}: "
        f"{plural(chosen['pair_id'].nunique(), 'pair')} × "
        f"{plural(chosen['seed'].nunique(), 'seed')}, one point per pair and seed. Columns: "
        f"quantile bins of d = r_w − r_l; the outer {TAIL:.0%} at each end "
        f"({plural(left_out, 'point')}) are left out, as the error |σ(d) − 1| is not nearly fixed "
        "there. BT: ‖∇L_BT‖; NormBT: the "
        f"same × the pair's weight w̃, {MU}. Slope and Pearson's r within a seed, averaged over "
        f"seeds; brackets: 95% bootstrap over pairs. {THETA}"
    )


def panel(axes: Axes, part: pd.DataFrame, update: str, found: pd.Series, headed: bool) -> None:
    """Draw one bin's pairs under one update with its mean line, slope and correlation."""
    x, y = part["distance"].to_numpy(), part[UPDATES[update]].to_numpy()
    colour = style.METHOD_COLOURS[update]
    axes.scatter(x, y, s=5, alpha=0.5, linewidths=0, color=colour)
    axes.set_xlim(0, 1.05 * x.max() or 1.0)
    bounds = (interval_text(found[f"{end}low"], found[f"{end}high"]) for end in ("", "error_"))
    head = [f"{name} {text}" for name, text in zip(("d", "error"), bounds, strict=True) if headed]
    if not np.isfinite(found["slope"]):
        axes.set_title("\n".join(head), fontsize=6.5)
        style.no_data(axes, "too few pairs")
        return
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, y.mean() + found["slope"] * (ends - x.mean()), color=style.BLACK)
    lines = [
        f"{label} {short(found[name], 2)} "
        f"{interval_text(found[name + '_low'], found[name + '_high'])}"
        for label, name in (("slope", "slope"), ("r", "pearson"))
    ]
    axes.set_title("\n".join([*head, *lines]), fontsize=6.5)
