"""Figure 6: the proxy ‖h_w − h_l‖ against the full gradient distance ‖∇_θ(r_w − r_l)‖.

Overall and per category (`analysis.relation`), for the untrained backbone and after each training;
beside them the paper's correlation.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS, THETA
from analysis.relation import FEWEST, RESAMPLES, relation
from analysis.style import model_label, ordered, plural
from analysis.tables import require

PAPER_R: Final = 0.928
"""Pearson's r that the paper reports in its appendix C."""
OVERALL: Final = "Overall"
COLUMNS: Final = [*KEYS, "section", "distance", "gradient_distance"]


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and pair of `data`/gradients.csv.

    Columns: method (untrained, bt, normbt), seed, pair_id, section, distance, gradient_distance.

    Raises InputError: the file is missing, empty, lacks a column or repeats a pair within a run.
    """
    return gradients.read(data, COLUMNS)


def correlations(frame: pd.DataFrame, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return one row per model and section, "Overall" first.

    Columns: method, section, then those of `relation` for gradient_distance against distance.
    """
    rows = []
    for method in ordered(frame["method"], style.MODELS):
        chosen = frame[frame["method"] == method]
        for section in [OVERALL, *ordered(chosen["section"], style.SECTIONS)]:
            part = chosen if section == OVERALL else chosen[chosen["section"] == section]
            found = relation(part, "distance", "gradient_distance", resamples)
            rows.append({"method": method, "section": section, **found})
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Return the overall correlation of every model beside the paper's."""
    overall = table[table["section"] == OVERALL]
    words = []
    for _, row in overall.iterrows():
        r, low, high = row["pearson"], row["pearson_low"], row["pearson_high"]
        value = f"{r:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(r) else "undefined"
        words.append(f"{model_label(row['method'])} {value}".replace("-", "−"))
    return f"Pearson's r of distance and gradient distance: {'; '.join(words)}; paper {PAPER_R}"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: scatter of the two distances above, correlations per category below.

    One column of panels per model in `frame`, which is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 6's data")
    table = correlations(frame)
    models = ordered(frame["method"], style.MODELS)
    figure = style.new_figure(height=5.4)
    grid = figure.subplots(2, len(models), squeeze=False)
    for column, method in enumerate(models):
        chosen = frame[frame["method"] == method]
        scatter(grid[0, column], chosen)
        grid[0, column].set_title(
            f"{model_label(method)}\nn = {plural(chosen['pair_id'].nunique(), 'pair')} × "
            f"{plural(chosen['seed'].nunique(), 'seed')}"
        )
        forest(grid[1, column], table[table["method"] == method], labelled=column == 0)
    grid[0, 0].set_ylabel(r"gradient distance $\Vert\nabla_\theta(r_w - r_l)\Vert_2$"
                          "\n(reward / parameter unit)")  # fmt: skip
    grid[0, 0].legend(loc="best", fontsize=6, handletextpad=0.2, borderpad=0.1)
    caption = (
        "Correlations within a seed, averaged over seeds; bars: 95% bootstrap over pairs (a pair "
        f"brings all its seeds). Dashed: the paper's r = {PAPER_R} (2B and 3B backbones). Sections "
        f"of fewer than {FEWEST} pairs have none. {THETA} The score head, whose gradient distance "
        "is the distance itself, makes up of the squared gradient distance, in the median: "
        f"{head_shares(frame)}."
    )
    style.add_text(figure, verdict(table), caption, note)
    return figure


def head_shares(frame: pd.DataFrame) -> str:
    """Return each model's median share of the linear score head in ‖∇_θ(r_w − r_l)‖²."""
    shares = (frame["distance"] / frame["gradient_distance"]) ** 2
    medians = shares.groupby(frame["method"]).median()
    words = [f"{model_label(m)} {medians[m]:.0%}" for m in ordered(frame["method"], style.MODELS)]
    return ", ".join(words)


def scatter(axes: Axes, chosen: pd.DataFrame) -> None:
    """Draw one model's pairs, coloured by section, a point per pair and seed."""
    style.scatter_sections(axes, chosen, "distance", "gradient_distance", alpha=0.55)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(r"distance $\Vert h_w - h_l\Vert_2$" "\n(activation units)")


def forest(axes: Axes, rows: pd.DataFrame, labelled: bool) -> None:
    """Draw Pearson (filled) and Spearman (open) with intervals, one line of points per section."""
    places = np.arange(len(rows))[::-1]
    axes.axvline(PAPER_R, color=style.GREY, linestyle="--", linewidth=0.9)
    for name, shift, fill in (("pearson", 0.14, style.BLACK), ("spearman", -0.14, "white")):
        style.interval_points(
            axes, places + shift, rows, name, sideways=True, fmt="o", markersize=3.5,
            color=style.BLACK, markerfacecolor=fill, elinewidth=0.9,
        )  # fmt: skip
    if not rows["pearson"].notna().any():
        style.no_data(axes, f"fewer than {FEWEST} pairs")
    lows = rows[["pearson_low", "spearman_low"]].to_numpy(float)
    least = float(np.nanmin(lows)) if np.isfinite(lows).any() else 0.0
    axes.set_xlim(min(0.0, np.floor(least * 5) / 5), 1.02)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(places, rows["section"] if labelled else [""] * len(rows))
    axes.set_xlabel("correlation")
    axes.set_title("● Pearson   ○ Spearman", fontsize=7)
