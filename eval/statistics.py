"""Intervals and tests for accuracies on a shared test set, over seeds and between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from eval.bootstrap import (
    bootstrap_p,
    check_level,
    check_resamples,
    draw_counts,
    percentile_interval,
)
from eval.protocol import Protocol
from eval.strata import Key, Stratum, pair_counts, strata_of
from rm.errors import InputError

Outcomes = Sequence[float] | np.ndarray | pd.Series


def section_intervals(
    outcomes: pd.DataFrame,
    protocol: Protocol,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Bootstrap an interval for each subset, section and the average.

    `outcomes` has columns seed, pair_id, subset, correct (0 or 1, or a score in [0, 1]) and
    optionally cluster. A resample draws training seeds, then pairs within each subset (whole
    clusters where there are any). All seeds get the same pairs, because the test set is shared.
    The result is percentile intervals. With n seeds they underestimate seed-to-seed variance by a
    factor of about (n − 1)/n; with one seed they contain none of it.

    Returns one row per level ("subset", "section", "average") and name: mean, low, high, pairs,
    seeds. Raises InputError for missing columns, unknown subsets, or seeds with different pairs.
    """
    check_resamples(resamples)
    check_level(level)
    strata = strata_of(outcomes, protocol)
    drawn = _drawn(strata, protocol, resamples, seed)
    return _table(outcomes, protocol, _point(strata, protocol), drawn, level)


def difference_intervals(
    outcomes: pd.DataFrame, protocol: Protocol, *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Bootstrap intervals of paired differences, as in `section_intervals`, with p-values.

    In `outcomes`, `correct` is a difference in [−1, 1]. The additional column p is the two-sided
    bootstrap p-value of no difference (`bootstrap_p`), from the same resamples.
    """
    strata = strata_of(outcomes, protocol)
    point, drawn = (
        # Rounding errors such as ±1e-17 would put a zero difference on one side of 0.
        {key: np.round(values, 12) + 0.0 for key, values in found.items()}
        for found in (_point(strata, protocol), _drawn(strata, protocol, resamples, seed))
    )
    table = _table(outcomes, protocol, point, drawn, level=0.95)
    return table.assign(p=[bootstrap_p(values) for values in drawn.values()])


def _drawn(
    strata: Sequence[Stratum], protocol: Protocol, resamples: int, seed: int
) -> dict[Key, np.ndarray]:
    generator = np.random.default_rng(seed)
    seeds = draw_counts(generator, resamples, len(strata[0].values)) / len(strata[0].values)
    units = [draw_counts(generator, resamples, len(stratum.counts)) for stratum in strata]
    return _rolled(strata, protocol, seeds, units)


def _rolled(
    strata: Sequence[Stratum],
    protocol: Protocol,
    seeds: np.ndarray,
    units: Sequence[np.ndarray],
    counts: Sequence[np.ndarray] | None = None,
) -> dict[Key, np.ndarray]:
    """Aggregate under seed weights (resamples, seeds) and unit weights (resamples, units)."""
    accuracies = {}
    for stratum, weights, of_counts in zip(strata, units, counts or units, strict=True):
        means = np.einsum("rk,rks->rs", seeds, stratum.means(weights, of_counts))
        accuracies.update(dict(zip(stratum.subsets, means.T, strict=True)))
    return protocol.roll_up(accuracies)


def _point(strata: Sequence[Stratum], protocol: Protocol) -> dict[Key, np.ndarray]:
    number = len(strata[0].values)
    ones = [np.ones((1, len(stratum.counts))) for stratum in strata]
    return _rolled(strata, protocol, np.full((1, number), 1 / number), ones)


def _table(
    outcomes: pd.DataFrame,
    protocol: Protocol,
    point: dict[Key, np.ndarray],
    drawn: dict[Key, np.ndarray],
    level: float,
) -> pd.DataFrame:
    pairs = pair_counts(outcomes, protocol)
    number = outcomes["seed"].nunique()
    rows = []
    for key, values in drawn.items():
        low, high = percentile_interval(values, level)
        rows.append((*key, float(point[key][0]), low, high, pairs[key], number))
    return pd.DataFrame(rows, columns=["level", "name", "mean", "low", "high", "pairs", "seeds"])


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test: only b is correct on `n01` pairs, only a on `n10`; two-sided `p`."""

    n01: int
    n10: int
    p: float


def mcnemar(correct_a: Outcomes, correct_b: Outcomes) -> McNemar:
    """Compare two models on the same pairs; outcomes are 0 or 1, both of shape (pairs,).

    Exact binomial test of n01 against n10 (p = 1 if they never differ). Pairs are treated as
    independent; use `cluster_p` if they are clustered.
    """
    a, b = _paired(correct_a, correct_b)
    if not np.isin([a, b], (0, 1)).all():
        raise InputError("mcnemar needs outcomes that are 0 or 1")
    n01, n10 = int(np.sum((a == 0) & (b == 1))), int(np.sum((a == 1) & (b == 0)))
    p = float(stats.binomtest(n01, n01 + n10).pvalue) if n01 + n10 else 1.0
    return McNemar(n01, n10, p)


def _paired(a: Outcomes, b: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise InputError(
            f"need two non-empty lists of equal length, not shapes {first.shape}, {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("the values contain NaN or infinite entries")
    return first, second


def holm(pvalues: Outcomes) -> np.ndarray:
    """Return p-values after Holm's step-down correction, in the order given."""
    values = np.asarray(pvalues, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("p-values must lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def cohens_h(a: float, b: float) -> float:
    """Effect size of two proportions in [0, 1]: 2 asin √b − 2 asin √a, positive where b is higher.

    Usual reading: 0.2 small, 0.5 medium, 0.8 large.
    """
    if not (0 <= a <= 1 and 0 <= b <= 1):
        raise InputError(f"proportions must lie in [0, 1], not {a}, {b}")
    return 2 * math.asin(math.sqrt(b)) - 2 * math.asin(math.sqrt(a))


def binomial_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a proportion: (low, high)."""
    if not 0 <= successes <= trials or trials < 1:
        raise InputError(f"need 0 ≤ successes ≤ trials and trials ≥ 1, not {successes}, {trials}")
    check_level(level)
    interval = stats.binomtest(successes, trials).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def cluster_p(
    differences: pd.DataFrame, protocol: Protocol, *, resamples: int = 2000, seed: int = 0
) -> dict[Key, float]:
    """Return two-sided p-values of no difference, per (level, name), from a sign-flip test.

    `differences`: outcomes of one seed, as in `section_intervals`. The signs of whole clusters are
    flipped at random, `resamples` times; the observed signs count as one more resample.
    """
    strata, generator = strata_of(differences, protocol), np.random.default_rng(seed)
    signs = [generator.choice((-1.0, 1.0), (resamples, len(each.counts))) for each in strata]
    ones = [np.ones_like(sign) for sign in signs]
    flipped = _rolled(strata, protocol, np.ones((resamples, 1)), signs, ones)
    return {
        key: float((np.sum(np.abs(flipped[key]) >= abs(observed[0]) - 1e-12) + 1) / (resamples + 1))
        for key, observed in _point(strata, protocol).items()
    }
