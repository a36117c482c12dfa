"""Figure 10: distances by layer and by pooling: where in the untrained network categories separate.

Above, the distance relative to the states' own size, layer by layer; below, how much of its
variance lies between the categories.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.style import ordered, plural, section_label
from analysis.tables import of_method, one_row_each, read_tidy, require
from eval.bootstrap import bounds, redrawn

KEYS: Final = ["pair_id", "pooling", "layer"]
COLUMNS: Final = [*KEYS, "section", "distance", "relative"]
LEAST: Final = 0.4
"""The axis of η² starts here, or at the lowest interval where that is below."""
POOLINGS: Final = {"last": "last real token", "mean": "mean over tokens"}


def collect(data: Path) -> pd.DataFrame:
    """Return one row per pair, pooling and layer of the untrained backbone (`data`/layers.parquet).

    Columns: pair_id, pooling ("last" or "mean"), layer (0: embeddings; the last: after the final
    norm), section, distance (activation units), relative (distance over the mean size ‖p‖ of the
    two states, so that layers compare; 0 where both states are 0).

    Raises InputError: the file is missing, empty, lacks a column, repeats a row, or has nothing of
    the untrained backbone.
    """
    path = data / "layers.parquet"
    frame = read_tidy(path, [*KEYS, "section", "distance", "norm", "method"])
    frame = of_method(frame, "untrained", path)
    relative = np.where(frame["norm"] > 0, frame["distance"] / frame["norm"].clip(lower=1e-12), 0.0)
    frame = frame.assign(relative=relative, section=frame["section"].map(section_label))
    return one_row_each(frame, KEYS, str(path))[COLUMNS].reset_index(drop=True)


def profiles(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the relative distance by pooling, section and layer: median, q25, q75 and pairs."""
    groups = frame.groupby(["pooling", "section", "layer"], sort=True)["relative"]
    parts = {"q25": groups.quantile(0.25), "median": groups.median(), "q75": groups.quantile(0.75)}
    return pd.DataFrame({**parts, "pairs": groups.size()}).reset_index()


def separation(frame: pd.DataFrame, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Return by pooling and layer how much of the variance of log distance lies between categories.

    Columns: pooling, layer, share (η², 0 to 1), share_low, share_high (95% bootstrap over the pairs
    of each category), pairs. Pairs at distance 0 are left out; NaN with one category or fewer than
    two pairs in one. η² of a few pairs is biased upwards; so are all layers, alike.
    """
    rows = []
    for (pooling, layer), part in frame.groupby(["pooling", "layer"], sort=True):
        known = part[part["distance"] > 0]
        values = [
            np.log(group["distance"].to_numpy()) for _, group in known.groupby("section", sort=True)
        ]
        share, draws = float("nan"), np.full(1, np.nan)
        if len(values) > 1 and min(map(len, values)) > 1:
            share = float(between([v[None, :] for v in values])[0])
            draws = between(redrawn(values, resamples, seed))
        numbers = {"share": share, **bounds("share", draws), "pairs": len(known)}
        rows.append({"pooling": pooling, "layer": layer, **numbers})
    return pd.DataFrame(rows)


def between(samples: list[np.ndarray]) -> np.ndarray:
    """Return η² of samples (draws, pairs of one category) for every draw: (draws,)."""
    whole = np.concatenate(samples, axis=1)
    mean = whole.mean(axis=1)
    inner = sum(s.shape[1] * (s.mean(axis=1) - mean) ** 2 for s in samples)
    total = ((whole - mean[:, None]) ** 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return inner / total


def verdict(table: pd.DataFrame) -> str:
    """Return the layer at which categories separate most, at the token that the head reads."""
    known = table[table["share"].notna() & (table["pooling"] == "last")]
    if known.empty:
        return "One section, or too few pairs: nothing to separate"
    best = known.nlargest(1, "share").iloc[0]
    return (
        f"Last token: layer {best['layer']:.0f} of {known['layer'].max():.0f} separates sections "
        f"most, {best['share']:.0%} of variance"
    )


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: a column per pooling, relative distances above, separation below.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 10's data")
    table, split = profiles(frame), separation(frame)
    poolings = ordered(frame["pooling"], tuple(POOLINGS))
    figure = style.new_figure(height=4.9)
    grid = figure.subplots(2, len(poolings), squeeze=False, sharex=True, sharey="row")
    for column, pooling in enumerate(poolings):
        lines(grid[0, column], table[table["pooling"] == pooling])
        shares(grid[1, column], split[split["pooling"] == pooling])
        grid[0, column].set_title(f"pooling: {POOLINGS.get(pooling, pooling)}", loc="left")
        grid[1, column].xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[1, column].set_xlabel("layer (0: embeddings; last: after the final norm)")
    grid[0, 0].set_ylabel("relative distance\n" r"$\Vert p_w - p_l\Vert / \overline{\Vert p\Vert}$")
    grid[1, 0].set_ylabel("variance between\nsections (η²)")
    grid[1, 0].set_ylim(min(LEAST, float(np.nan_to_num(split["share_low"].min()))), 1)
    counts = frame.groupby("section")["pair_id"].nunique()
    sizes = ", ".join(f"{s} {counts[s]}" for s in ordered(frame["section"], style.SECTIONS))
    caption = (
        f"Untrained backbone, {plural(frame['pair_id'].nunique(), 'pair')} ({sizes}). Above: "
        "median and quartiles of distance over state size. Below: share of the variance of log "
        "distance between sections; band: 95% bootstrap over pairs."
    )
    style.add_text(figure, verdict(split), caption, note, legend=grid[0])
    return figure


def lines(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the median and quartiles of every category over the layers; zeros are left out."""
    for section in ordered(rows["section"], style.SECTIONS):
        part = rows[(rows["section"] == section) & (rows["q25"] > 0)]
        colour = style.section_colour(section)
        marker = "o" if len(part) == 1 else ""
        line = style.SECTION_LINES.get(section, "-")
        axes.plot(
            part["layer"], part["median"], color=colour, linestyle=line, label=section,
            marker=marker,
        )  # fmt: skip
        style.band(axes, part["layer"], part["q25"], part["q75"], colour)
    if (rows["q25"] > 0).any():
        axes.set_yscale("log")


def shares(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the share of variance between categories over the layers with its interval."""
    known = rows[rows["share"].notna()]
    if known.empty:
        style.no_data(axes, "one section, or too few pairs")
        return
    axes.plot(known["layer"], known["share"], color=style.BLACK, marker="o", markersize=2.5)
    style.band(axes, known["layer"], known["share_low"], known["share_high"], style.BLACK)
