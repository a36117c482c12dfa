"""Figure 3: update size against representation distance at a fixed reward difference.

Pairs are compared within bins of d = r_w − r_l, where the prediction error hardly differs. What is
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


def relations(kept: pd.DataFrame, resamples: int = 1000) -> pd.DataFrame:
    """Return one row per update of the rows of one model, whose column bin holds their bin of d.

    Columns: update ("bt" or "normbt"), then those of `relation.relation` for the update's size
    against distance, both centred within their bin: pairs, seeds, slope, pearson, spearman with
    their intervals.
    """
    names = ["distance", *UPDATES.values()]
    centred = kept[names] - kept.groupby("bin")[names].transform("mean")
    frame = pd.concat([kept[["seed", "pair_id"]], centred], axis=1)
    return pd.DataFrame(
        [
            {"update": update, **relation(frame, "distance", column, resamples)}
            for update, column in UPDATES.items()
        ]
    )


def verdict(rows: pd.DataFrame) -> str:
    """Return whether each update grows or falls with distance."""
    if not rows["pearson"].notna().any():
        return "Too few pairs: no slope to give"
    ends = zip(rows["pearson_low"], rows["pearson_high"], strict=True)
    signs = [int(low > 0) - int(high < 0) for low, high in ends]
    if not any(signs):
        return "At equal reward difference, neither update clearly follows the distance"
    bt, normbt = ({1: "grows", -1: "falls", 0: "is unclear"}[sign] for sign in signs)
    return f"At equal reward difference, BT's update {bt} with distance, NormBT's {normbt}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a panel for BT's update, one for NormBT's, of the untrained backbone.

    `frame` is what `collect` returns. The untrained model's rewards are all near 0, so within a bin
    the error is nearly fixed. Without it, the first model there is shown.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 3's data")
    chosen = frame[frame["method"] == ordered(frame["method"], style.MODELS)[0]]
    chosen = chosen.assign(bin=assign_bins(chosen)[0])
    kept = chosen[chosen["bin"] >= 0]
    table = relations(kept)
    figure = style.new_figure(height=2.9)
    grid = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (_, found) in zip(grid, table.iterrows(), strict=True):
        panel(axes, kept, found)
        axes.set_xlabel(r"$\Vert h_w - h_l\Vert_2$ (activation units)")
    grid[0].set_xlim(0, 1.05 * kept["distance"].max() or 1.0)
    grid[0].set_ylim(bottom=0)
    grid[0].set_ylabel("update size (nats / parameter unit)")
    style.add_text(figure, verdict(table), caption(kept, len(chosen)), note)
    return figure


def caption(kept: pd.DataFrame, measured: int) -> str:
    """Return whose pairs these are, how they are compared and how intervals are made."""
    return (
        f"{len(kept):,} of {plural(measured, 'pair')}, {model_label(str(kept['method'].iloc[0]))} "
        f"(the rest: extreme d). Line, slope, r: within {kept['bin'].nunique()} bins of "
        f"d = r_w − r_l; brackets: 95% bootstrap over pairs. NormBT: BT × w̃, {MU}. {THETA}"
    )


def panel(axes: Axes, kept: pd.DataFrame, found: pd.Series) -> None:
    """Draw one update's pairs with the line of their pooled slope, slope and correlation."""
    update = str(found["update"])
    x, y = kept["distance"].to_numpy(), kept[UPDATES[update]].to_numpy()
    axes.scatter(x, y, s=8, alpha=0.5, linewidths=0, **style.method_look(update))
    head = f"{method_label(update)} update"
    if np.isfinite(found["slope"]):
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, y.mean() + found["slope"] * (ends - x.mean()), color=style.BLACK)
        span = interval_text(found["pearson_low"], found["pearson_high"])
        words = f"slope {short(found['slope'], 2)}, r = {short(found['pearson'], 2)} {span}"
        head += f"\n{words}"
    axes.set_title(head, loc="left")
