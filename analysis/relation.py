"""How two columns of paired rows go together: slope, correlations, and bins by quantiles.

`relation` is taken within a seed, where one model's scale holds, and averaged over seeds; intervals
redraw pairs, since seeds repeat them.
"""

from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from eval.bootstrap import bounds, draw_places

RESAMPLES: Final = 1000
FEWEST: Final = 4
"""Pairs below which no correlation or slope is given."""
TINY: Final = 1e-24
STATISTICS: Final = ("slope", "pearson", "spearman")


def relation(
    frame: pd.DataFrame, x: str, y: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float]:
    """Return how column `y` goes with column `x`, over rows of one model with seed and pair_id.

    Keys: pairs (distinct), seeds, then slope (least squares, units of y over units of x), pearson
    and spearman, each the mean of the seeds' own values and each with `_low` and `_high`: the 95%
    percentile interval over resampled pairs (a pair brings all its seeds along). NaN below four
    pairs or where a column is constant.
    """
    wide_x, wide_y = (
        frame.pivot(index="seed", columns="pair_id", values=name).to_numpy(float) for name in (x, y)
    )
    seeds, pairs = wide_x.shape
    found: dict[str, float] = {"pairs": pairs, "seeds": seeds}
    picks = draw_places(np.random.default_rng(seed), resamples, pairs)
    for name in STATISTICS:
        values, draws = np.full(1, np.nan), np.full(resamples, np.nan)
        if pairs >= FEWEST:
            values = over_seeds(name, wide_x, wide_y, np.arange(pairs)[None, :])
            draws = over_seeds(name, wide_x, wide_y, picks)
        found |= {name: float(values[0]), **bounds(name, draws)}
    return found


def over_seeds(name: str, x: np.ndarray, y: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Return one statistic for every row of `picks` (draws, pairs), averaged over seeds.

    `x` and `y` are (seeds, pairs), NaN where a seed lacks a pair; the result is (draws,).
    """
    return np.mean([statistic(name, a[picks], b[picks]) for a, b in zip(x, y, strict=True)], axis=0)


def statistic(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return slope, pearson or spearman along the last axis, leaving out NaN; NaN if undefined."""
    if name == "spearman":
        x, y = (stats.rankdata(values, axis=-1, nan_policy="omit") for values in (x, y))
    known = np.isfinite(x) & np.isfinite(y)
    count = known.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx, dy = (
            np.where(known, v - np.where(known, v, 0).sum(-1, keepdims=True) / count, 0)
            for v in (x, y)
        )
        xx, yy, xy = (dx * dx).sum(-1), (dy * dy).sum(-1), (dx * dy).sum(-1)
        value = xy / xx if name == "slope" else xy / np.sqrt(xx * yy)
    spread = xx > TINY * np.where(known, x * x, 0).sum(-1)  # a constant leaves rounding only
    return np.where(spread & (count[..., 0] >= FEWEST), value, np.nan)


def quantile_bins(
    values: np.ndarray, of: np.ndarray, bins: int, tail: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return each value's bin, 0 the lowest, and the edges: quantiles of the values `of`.

    `tail` is the share left out at each end: what lies beyond the outer edges is in bin −1. Fewer
    than `bins` bins come back where many values are equal; one bin has its one edge twice.
    """
    edges = np.unique(np.quantile(of, np.linspace(tail, 1 - tail, bins + 1)))
    if len(edges) == 1:
        return np.zeros(len(values), dtype=int), np.repeat(edges, 2)
    place = np.searchsorted(edges[1:-1], values, side="left")
    return np.where((values < edges[0]) | (values > edges[-1]), -1, place), edges
