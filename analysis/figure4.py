"""Figure 4: NormBT's gain over BT on Reasoning pairs, by distance of the untrained backbone.

Generated pairs of both wrappings have the same faults; their close pairs share wording and style,
their far pairs do not. Pairs are binned by quantiles of ‖h_w − h_l‖ before any training, each
wrapping by itself. Intervals are for new training seeds and new pairs (`eval.crossed`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from analysis import style
from analysis.relation import quantile_bins
from analysis.style import plural, plural_range, signed
from analysis.tables import GROUP, HIGH, LOW, AbsentError, of_method, read_scores, require
from eval import crossed
from eval.strata import pair_up
from rm.data.preferences import section_key
from rm.errors import InputError

SECTION: Final = "Reasoning"
ALL: Final = "all"
WRAPPINGS: Final = ("close", "far")
"""Endings of the subsets' names; pairs of other subsets are `ALL`."""
COLUMNS: Final = [
    *(*GROUP, "seed", "pair_id", "cluster", "subset", "wrapping", "distance", "correct"),
]
BINS: Final = 4
LOG_FROM: Final = 10.0
"""The axis is logarithmic where the largest bin's distance is this many times the smallest's."""
LOOKS: Final[dict[str, dict[str, Any]]] = {
    "close": {"marker": "o", "linestyle": "-"},
    "far": {"marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    ALL: {"marker": "o", "linestyle": "-"},
}


def collect(data: Path) -> pd.DataFrame:
    """Return one row per seed and Reasoning pair that BT and NormBT scored.

    Columns: backbone, data, benchmark, seed, pair_id, cluster (pairs of one problem), subset,
    wrapping ("close", "far" or "all"), distance (‖h_w − h_l‖ of the *untrained* backbone), correct
    (NormBT − BT, from −1 to 1; a tie counts as a loss).

    Raises InputError: `data`/scores.parquet or a method is missing, it has no Reasoning pairs, no
    seed is shared, or a pair lacks distance.
    """
    path = data / "scores.parquet"
    scores = read_scores(path, needed=["distance"])
    scores = scores[scores["section"].map(section_key) == section_key(SECTION)]
    require(scores, GROUP, f"{path}, section {SECTION},")
    bt, normbt = (of_method(scores, name, path) for name in ("bt", "normbt"))
    keys = [*GROUP, "seed", "pair_id"]
    right = [rows.assign(correct=rows["correct"].astype(float)) for rows in (normbt, bt)]
    both = pair_up(right[0], right[1], keys, "correct", str(path))
    if both.empty:
        raise AbsentError(f"{path}: bt and normbt share no seed: train both with the same seeds")
    both = both.assign(correct=both["correct_left"] - both["correct_right"])
    both = both.merge(bt[[*keys, "cluster", "subset"]], on=keys)
    ending = both["subset"].str.rpartition("-")[2]
    both = both.assign(wrapping=ending.where(ending.isin(WRAPPINGS), ALL))
    return with_distance(both, of_method(scores, "untrained", path), path)[COLUMNS]


def with_distance(both: pd.DataFrame, untrained: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return `both` with the untrained backbone's distance of every pair.

    Raises InputError: a pair has none.
    """
    keys = ["backbone", "benchmark", "pair_id"]  # no training data: the backbone is untrained
    distances = untrained.sort_values("seed").drop_duplicates(keys)[[*keys, "distance"]]
    joined = both.merge(distances, on=keys, how="left", validate="many_to_one")
    missing = int(joined["distance"].isna().sum())
    if missing:
        raise InputError(
            f"{path}: {missing} rows have no distance of the untrained backbone: "
            "evaluate it on the same pairs"
        )
    return joined


def gain(rows: pd.DataFrame, weights: Mapping[str, float]) -> dict[str, float]:
    """Return Σ weight × mean difference of the subsets of one group's rows, in points.

    Keys: gain, gain_low, gain_high: the 95% interval over new seeds and new pairs, NaN with one
    seed.
    """
    if rows["seed"].nunique() < 2:
        means = rows.groupby("subset")["correct"].mean()
        value, ends = sum(weights[name] * means[name] for name in weights), (np.nan, np.nan)
    else:
        found = crossed.estimate(rows, weights).population
        value, ends = found.value, found.interval()
    return {"gain": 100 * value, "gain" + LOW: 100 * ends[0], "gain" + HIGH: 100 * ends[1]}


def overall(part: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the `gain` of every wrapping of one group and, with both, of close minus far.

    A wrapping weighs its subsets by their pairs.
    """
    shares: dict[str, dict[str, float]] = {}
    for name, rows in part.drop_duplicates("pair_id").groupby("wrapping"):
        counts = rows["subset"].value_counts(normalize=True)
        shares[str(name)] = {str(subset): float(share) for subset, share in counts.items()}
    found = {
        name: gain(part[part["wrapping"] == name], weights) for name, weights in shares.items()
    }
    if set(WRAPPINGS) <= set(shares):
        close, far = (shares[name] for name in WRAPPINGS)
        both = part[part["wrapping"].isin(WRAPPINGS)]
        found["difference"] = gain(both, close | {name: -share for name, share in far.items()})
    return found


def bin_table(part: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Return one row per wrapping and bin of distance of one group.

    Columns: wrapping, distance (median over the bin's pairs), pairs, gain, gain_low, gain_high
    (points, of the mean over the bin's pairs).
    """
    rows = []
    for wrapping in style.ordered(part["wrapping"], WRAPPINGS):
        chosen = part[part["wrapping"] == wrapping]
        distances = chosen.drop_duplicates("pair_id")["distance"].to_numpy()
        place, edges = quantile_bins(chosen["distance"].to_numpy(), distances, bins)
        for index in range(len(edges) - 1):
            inside = chosen[place == index]
            middle = inside.drop_duplicates("pair_id")["distance"]
            facts = {"wrapping": wrapping, "distance": middle.median(), "pairs": len(middle)}
            rows.append(facts | gain(inside.assign(subset=ALL), {ALL: 1.0}))
    return pd.DataFrame(rows)


def groups(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield a name and the rows of every backbone, data set and benchmark."""
    for key, part in frame.groupby(GROUP, sort=True):
        yield " · ".join(str(value) for value in key), part


def verdict(table: pd.DataFrame, found: dict[str, dict[str, float]]) -> str:
    """Return NormBT's gain on close and far pairs; without wrappings, in the outermost bins."""
    if "difference" in found:
        close, far = (signed(found[name]["gain"]) for name in WRAPPINGS)
        return f"{SECTION} gain: {close} points on close pairs, {far} on far pairs"
    first, last = (signed(value) for value in table["gain"].iloc[[0, -1]])
    if len(table) == 1:
        return f"{SECTION} gain: {first} points; too few distances to compare"
    return f"{SECTION} gain: {first} points on the closest pairs, {last} on the farthest"


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: NormBT's gain by distance, a panel per backbone, data set and benchmark.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 4's data")
    parts = list(groups(frame))
    figure = style.new_figure(height=3.1)
    grid = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    titles, differences = [], []
    for axes, (name, part) in zip(grid, parts, strict=True):
        table, found = bin_table(part), overall(part)
        panel(axes, table)
        titles.append(verdict(table, found))
        differences += [found["difference"]] if "difference" in found else []
        if len(parts) > 1:
            axes.set_title(style.wrap(f"{name}. {titles[-1]}", 90 // len(parts)), fontsize=7)
    grid[0].set_ylabel("NormBT − BT (percentage points)")
    title = titles[0] if len(parts) == 1 else f"{SECTION} gain of NormBT over BT, by distance"
    style.add_text(figure, title, caption(frame, differences), note, legend=grid)
    return figure


def caption(frame: pd.DataFrame, differences: list[dict[str, float]]) -> str:
    """Return what is counted, how intervals are made, and close minus far."""
    pairs = frame.drop_duplicates([*GROUP, "pair_id"])
    seeds = [part["seed"].nunique() for _, part in groups(frame)]
    words = "; ".join(map(_with_interval, differences))
    return (
        f"{plural(len(pairs), f'{SECTION} pair')}, {plural_range(seeds, 'seed')}. Bins: quantiles "
        "of the distance, at their medians. Bars: 95% interval for new seeds and pairs. A tie "
        "counts as a loss." + (f" Close minus far: {words} points." if words else "")
    )


def _with_interval(found: Mapping[str, float]) -> str:
    """Write a gain with its interval; one seed gives none."""
    value, low, high = (signed(found[key]) for key in ("gain", "gain" + LOW, "gain" + HIGH))
    return value if np.isnan(found["gain" + LOW]) else f"{value} [{low}, {high}]"


def panel(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the gain of every bin with its interval, one line per wrapping."""
    axes.axhline(0, color=style.GREY, linewidth=0.8, linestyle="--")
    for wrapping in style.ordered(table["wrapping"], WRAPPINGS):
        rows = table[table["wrapping"] == wrapping]
        label = f"{wrapping} pairs, same faults" if wrapping in WRAPPINGS else None
        style.interval_points(
            axes, rows["distance"], rows, "gain", color=style.METHOD_COLOURS["normbt"],
            markersize=5, elinewidth=1, capsize=2, label=label, **LOOKS[wrapping],
        )  # fmt: skip
    if table["distance"].min() > 0 and table["distance"].max() > LOG_FROM * table["distance"].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(r"$\Vert h_w - h_l\Vert_2$ of the untrained backbone (activation units)")
