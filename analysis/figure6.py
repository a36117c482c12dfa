"""Figure 6: the proxy ‖h_w − h_l‖ against the backbone's gradient distance ‖∇_φ(r_w − r_l)‖.

φ are the trained parameters without the score head, whose part of the gradient distance is the
distance itself. Overall and per section (`analysis.relation`), beside the paper's correlation.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import gradients, style
from analysis.gradients import KEYS
from analysis.relation import FEWEST, RESAMPLES, relation
from analysis.style import model_label, ordered, plural, short
from analysis.tables import require

PAPER_R: Final = 0.928
"""Pearson's r that the paper reports in its appendix C."""
OVERALL: Final = "Overall"
BACKBONE: Final = "backbone_distance"
COLUMNS: Final = [*KEYS, "section", "distance", "gradient_distance"]


def collect(data: Path) -> pd.DataFrame:
    """Return one row per model, seed and pair of `data`/gradients.csv.

    Columns: method (untrained, bt, normbt), seed, pair_id, section, distance, gradient_distance.

    Raises InputError: the file is missing, empty, lacks a column or repeats a pair within a run.
    """
    return gradients.read(data, COLUMNS)


def without_head(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with backbone_distance: √(gradient_distance² − distance²), at least 0."""
    rest = frame["gradient_distance"] ** 2 - frame["distance"] ** 2
    return frame.assign(**{BACKBONE: np.sqrt(rest.clip(lower=0))})


def correlations(frame: pd.DataFrame, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Return one row per model and section, "Overall" first.

    Columns: method, section, then those of `relation` for backbone_distance against distance.
    """
    rows = []
    for method in ordered(frame["method"], style.MODELS):
        chosen = frame[frame["method"] == method]
        for section in [OVERALL, *ordered(chosen["section"], style.SECTIONS)]:
            part = chosen if section == OVERALL else chosen[chosen["section"] == section]
            found = relation(part, "distance", BACKBONE, resamples)
            rows.append({"method": method, "section": section, **found})
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Return the first model's overall correlation beside the paper's."""
    r = table["pearson"].iloc[0]
    return f"Distance against the backbone's gradient distance: r = {short(r)} (paper {PAPER_R})"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: the first model's pairs left, every model's correlations right.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 6's data")
    frame = without_head(frame)
    table = correlations(frame)
    first = frame[frame["method"] == table["method"].iloc[0]]
    figure = style.new_figure(height=3.3)
    left, right = figure.subplots(1, 2)
    style.scatter_sections(left, first, "distance", BACKBONE)
    left.set(xlim=(0, None), ylim=(0, None))
    left.set_xlabel(r"$\Vert h_w - h_l\Vert_2$ (activation units)")
    left.set_ylabel(r"$\Vert\nabla_\phi(r_w - r_l)\Vert_2$ (reward / parameter unit)")
    left.set_title(model_label(str(first["method"].iloc[0])), loc="left")
    forest(right, table)
    caption = (
        f"{plural(first['pair_id'].nunique(), 'pair')}, "
        f"{plural(frame['seed'].nunique(), 'seed')}. φ: trained parameters without the score head, "
        f"which is {head_share(first):.0%} of the squared gradient distance (median). Bars: 95% "
        f"bootstrap over pairs. Dashed: the paper's r = {PAPER_R}, which includes the head."
    )
    style.add_text(figure, verdict(table), caption, note, legend=(left, right))
    return figure


def head_share(rows: pd.DataFrame) -> float:
    """Return the median share of the linear score head in ‖∇_θ(r_w − r_l)‖²."""
    return float(((rows["distance"] / rows["gradient_distance"]) ** 2).median())


def forest(axes: Axes, table: pd.DataFrame) -> None:
    """Draw every model's Pearson correlation with its interval, a line of points per section."""
    sections, models = [*dict.fromkeys(table["section"])], [*dict.fromkeys(table["method"])]
    axes.axvline(PAPER_R, color=style.GREY, linestyle="--", linewidth=0.9)
    for place, method in enumerate(models):
        rows = table[table["method"] == method]
        at = -rows["section"].map(sections.index).to_numpy(float)
        shift = 0.2 * ((len(models) - 1) / 2 - place)
        style.interval_points(
            axes, at + shift, rows, "pearson", sideways=True, linestyle="none", markersize=4,
            elinewidth=0.9, label=model_label(method), **style.method_look(method),
        )  # fmt: skip
    if not table["pearson"].notna().any():
        style.no_data(axes, f"fewer than {FEWEST} pairs")
    least = float(np.nan_to_num(table["pearson_low"].min()))
    axes.set_xlim(min(0.0, np.floor(least * 5) / 5), 1.02)
    axes.set_ylim(0.6 - len(sections), 0.6)
    axes.set_yticks(-np.arange(len(sections)), sections)
    axes.grid(axis="y", visible=False)
    axes.set_title("Pearson's r, by section", loc="left")
