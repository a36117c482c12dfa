"""Figure 8: where the distance comes from: length difference, lexical overlap, edit similarity.

Distance of the untrained backbone against what the two texts have in common, and how much of its
variance each feature explains beside the others (and beside the category).
"""

import itertools
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.relation import relation
from analysis.style import interval_text, ordered, plural, section_label, short
from analysis.tables import of_method, read_scores, require, with_texts
from analysis.texts import FEATURES
from eval.bootstrap import row_weights

COLUMNS: Final = ["pair_id", "cluster", "section", "distance", *FEATURES]
CATEGORY: Final = "category"
RESAMPLES: Final = 500


def collect(data: Path) -> pd.DataFrame:
    """Return one row per pair: the untrained backbone's distance and the texts' features.

    Columns: pair_id, cluster (pairs resampled together), section, distance (activation units),
    length_difference (words), overlap and edit_similarity (0 to 1; `analysis.texts`).

    Raises InputError: scores.parquet or pairs.parquet is missing or unusable, the untrained
    backbone was not scored, or a pair has no text.
    """
    path = data / "scores.parquet"
    scores = read_scores(path, needed=["distance"])
    untrained = of_method(scores, "untrained", path).drop_duplicates("pair_id")
    frame = with_texts(untrained, data, list(FEATURES))
    return frame.assign(section=frame["section"].map(section_label))[COLUMNS]


def shares(frame: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Return how much of the variance of log distance each feature explains, a row per feature.

    Columns: feature (those of FEATURES, then "category"), share (the Shapley value of R²: its mean
    gain over all orders of adding the features; the rows sum to the whole R²), share_low and
    share_high (95% bootstrap over pairs or clusters), r2 (of all together), pairs. NaN where too
    few pairs or a constant distance leave nothing to explain. Pairs at distance 0 are left out.
    """
    known = frame[frame["distance"] > 0]
    names = [*FEATURES, *([CATEGORY] if known["section"].nunique() > 1 else [])]
    values = low = high = np.full(len(names), np.nan)
    if len(known) > 4 * len(names) and known["distance"].nunique() > 1:
        columns, groups = design(known)
        values, *draws = shapley(
            row_weights(known["cluster"].to_numpy(), resamples, seed), columns, groups
        )
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"feature": names, "share": values, "share_low": low, "share_high": high})
    return table.assign(r2=float(np.sum(values)), pairs=len(known))


def design(frame: pd.DataFrame) -> tuple[np.ndarray, list[list[int]]]:
    """Return the regression's columns (pairs, columns), log distance last, and each feature's own.

    The length difference enters as log(1 + words), the category as indicators of all sections but
    the first. Columns are centred and scaled for a well-conditioned solution.
    """
    parts = [np.log1p(frame["length_difference"].to_numpy(float))]
    parts += [frame[name].to_numpy(float) for name in list(FEATURES)[1:]]
    sections = ordered(frame["section"], style.SECTIONS)
    parts += [(frame["section"] == name).to_numpy(float) for name in sections[1:]]
    columns = np.stack([*parts, np.log(frame["distance"].to_numpy(float))], axis=1)
    scale = columns.std(axis=0)
    groups = [[i] for i in range(len(FEATURES))]
    if len(sections) > 1:
        groups.append(list(range(len(FEATURES), columns.shape[1] - 1)))
    return (columns - columns.mean(axis=0)) / np.where(scale > 0, scale, 1.0), groups


def shapley(weights: np.ndarray, columns: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    """Return each group's Shapley value of R² under every row of `weights`: (draws, groups)."""
    total = weights.sum(axis=1)
    means = weights @ columns / total[:, None]
    moments = np.einsum("dn,ni,nj->dij", weights, columns, columns, optimize=True)
    covariance = moments / total[:, None, None] - means[:, :, None] * means[:, None, :]
    number = len(groups)
    fits = {
        subset: r_squared(covariance, [i for g in subset for i in groups[g]])
        for size in range(number + 1)
        for subset in itertools.combinations(range(number), size)
    }
    values = np.zeros((len(weights), number))
    for subset, fit in fits.items():
        for group in subset:
            rest = tuple(g for g in subset if g != group)
            orders = math.factorial(len(rest)) * math.factorial(number - len(subset))
            values[:, group] += orders / math.factorial(number) * (fit - fits[rest])
    return values


def r_squared(covariance: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Return R² of the last column on the `chosen` ones, (draws,), by covariances (draws, k, k)."""
    if not chosen:
        return np.zeros(len(covariance))
    inner = covariance[:, chosen][:, :, chosen]
    outer = covariance[:, chosen, -1]
    solution = np.einsum("dij,dj->di", np.linalg.pinv(inner, hermitian=True), outer)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.einsum("di,di->d", outer, solution) / covariance[:, -1, -1]


def verdict(table: pd.DataFrame) -> str:
    """Return which feature has the largest share of the distance, and the share of all."""
    known = table[table["share"].notna()]
    if known.empty:
        return "Too few pairs, or one distance only: nothing to explain"
    best = known.nlargest(1, "share").iloc[0]
    name = label(best["feature"])
    return f"Largest share of the distance's log variance: {name}, {best['share']:.0%}"


def label(feature: str) -> str:
    """Return a feature's printed name."""
    return {**FEATURES, CATEGORY: "category"}[feature].split(" (")[0]


@style.styled
def draw(frame: pd.DataFrame, note: str = "") -> Figure:
    """Return the figure: distance against each feature, and the features' shares of its variance.

    `frame` is what `collect` returns.

    Raises InputError: the frame has no rows or lacks a column.
    """
    require(frame, COLUMNS, "figure 8's data")
    table = shares(frame)
    figure = style.new_figure(height=4.8)
    grid = figure.subplots(2, 2)
    for axes, feature in zip(grid.flat, FEATURES, strict=False):
        scatter(axes, frame, feature)
    bars(grid[1, 1], table)
    caption = (
        f"{plural(len(frame), 'pair')}, untrained backbone. ρ: Spearman, overall and within the "
        "sections in the legend's order. Shares: Shapley values of R², log distance regressed on "
        "features and category. Bars: 95% bootstrap over pairs."
    )
    style.add_text(figure, verdict(table), caption, note, legend=[grid[0, 0]])
    return figure


def scatter(axes: Axes, frame: pd.DataFrame, feature: str) -> None:
    """Draw distance against one feature, coloured by category, with rank correlations."""
    style.scatter_sections(axes, frame, feature, "distance")
    if feature == "length_difference":
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=-0.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(FEATURES[feature])
    axes.set_ylabel("distance (activation units)")
    axes.set_title("\n".join(rank_words(frame, feature)), loc="left", fontsize=6.5)


def rank_words(frame: pd.DataFrame, feature: str) -> list[str]:
    """Return the rank correlation overall with its interval, and those within the categories."""
    rows = frame.assign(seed=0)
    whole = relation(rows, "distance", feature, resamples=300)
    span = interval_text(whole["spearman_low"], whole["spearman_high"])
    words = [f"ρ = {short(whole['spearman'], 2)} {span}"]
    if frame["section"].nunique() > 1:
        inner = [
            short(relation(part, "distance", feature, resamples=1)["spearman"], 2)
            for part in (
                rows[rows["section"] == s] for s in ordered(rows["section"], style.SECTIONS)
            )
        ]
        words.append(f"within categories: {', '.join(inner)}")
    return words


def bars(axes: Axes, table: pd.DataFrame) -> None:
    """Draw every feature's share of the variance with its interval."""
    if not table["share"].notna().any():
        style.no_data(axes, "too few pairs or one distance only")
        axes.set_axis_off()
        return
    places, percent = -np.arange(len(table)), 100 * table[["share", "share_low", "share_high"]]
    axes.barh(places, percent["share"], height=0.6, color=style.OTHER)
    look: dict[str, Any] = {"fmt": "none", "color": style.BLACK, "elinewidth": 1, "capsize": 2}
    style.interval_points(axes, places, percent, "share", sideways=True, **look)
    axes.set_yticks(places, [label(name) for name in table["feature"]])
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the variance of log distance (%)")
    axes.set_title(f"R² of all together {table['r2'].iloc[0]:.2f}", loc="left", fontsize=7)
