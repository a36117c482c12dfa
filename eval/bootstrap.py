"""Resampling with replacement: the draws, and the intervals and p-values that they give.

A resample is given in one of three ways: by places in the sample (`draw_places`), by how often each
member was drawn (`draw_counts`, `draw_multinomial`), or by the redrawn values (`redrawn`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rm.errors import InputError


def check_resamples(resamples: int) -> None:
    """Raise InputError unless there is at least one resample."""
    if resamples < 1:
        raise InputError(f"resamples must be at least 1, not {resamples}")


def check_level(level: float) -> None:
    """Raise InputError unless the level of an interval lies between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, not {level}")


def draw_places(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Draw `size` of `size` members with replacement, as places (resamples, size), int64."""
    return generator.integers(0, size, (resamples, size))


def draw_counts(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Draw as `draw_places`; return how often each member is drawn, (resamples, size), float."""
    flat = draw_places(generator, resamples, size) + size * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(float)


def draw_multinomial(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """Draw counts of the same law as `draw_counts`, directly: faster where `size` is large.

    It takes other random numbers, so the two do not give the same resamples.
    """
    return generator.multinomial(size, np.full(size, 1 / size), resamples).astype(float)


def row_weights(units: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Return how often each row counts when whole units are redrawn: (1 + resamples, rows).

    `units` (rows,) names each row's unit. The first row of the result is all ones, the sample as it
    is, so that one computation gives the estimate and its draws.
    """
    codes, names = pd.factorize(units)
    drawn = draw_multinomial(np.random.default_rng(seed), resamples, len(names))
    return np.concatenate([np.ones((1, len(names))), drawn])[:, codes]


def redrawn(samples: Sequence[np.ndarray], resamples: int, seed: int = 0) -> list[np.ndarray]:
    """Redraw each sample by itself: (n,) becomes (resamples, n), one sample after the other."""
    generator = np.random.default_rng(seed)
    return [values[draw_places(generator, resamples, len(values))] for values in samples]


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central `level` of the finite `draws`: (low, high); NaN where there is none."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def bounds(name: str, draws: np.ndarray) -> dict[str, float]:
    """Return the 95% percentile interval of `draws` as `name`_low and `name`_high."""
    low, high = percentile_interval(draws)
    return {f"{name}_low": low, f"{name}_high": high}


def bootstrap_p(draws: np.ndarray) -> float:
    """Return the two-sided p-value of the value 0 from an estimate's `draws`, shape (resamples,).

    Twice the share of finite draws on the side of 0 that has fewer; a draw at 0 counts on both
    sides. The percentile interval at level 1 − p just excludes 0. At least 2 / (resamples + 1), at
    most 1; NaN if no draw is finite.
    """
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan")
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * (int(beyond) + 1) / (len(known) + 1))
