"""Intervals over training seeds × test pairs by crossed random effects.

Every seed is scored on the same pairs, so a score varies with its seed, with its pair, and with
both together. The mean squares of the three give the variance of the mean,

    Var = (MS_seed + MS_pair − MS_residual) / (S · P), at least max(MS_seed, MS_pair) / (S · P),

and Satterthwaite's degrees of freedom give Student's t interval, which covers new seeds and new
pairs. A second t interval, over seeds only, takes these pairs as a fixed benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from eval.bootstrap import check_level
from eval.protocol import Protocol
from eval.strata import Key, Stratum, pair_counts, strata_of
from rm.errors import InputError

COLUMNS = (
    *("level", "name", "mean", "low", "high", "p", "seed_low", "seed_high", "seed_p"),
    *("error", "df", "pairs", "seeds"),
)


@dataclass(frozen=True)
class Student:
    """An estimate with its standard error and degrees of freedom, for Student's t.

    Without any spread (`error` 0) the interval is the estimate itself. An unknown error is NaN, and
    so are the interval and the p-values.
    """

    value: float
    error: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided interval: (low, high)."""
        return self.lower((1 + level) / 2), self.upper((1 + level) / 2)

    def lower(self, level: float = 0.95) -> float:
        """Return the one-sided lower bound."""
        return self.value - float(stats.t.ppf(level, self.df)) * self.error

    def upper(self, level: float = 0.95) -> float:
        """Return the one-sided upper bound."""
        return self.value + float(stats.t.ppf(level, self.df)) * self.error

    def p_above(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value of "at most `bound`": small where the truth is above it."""
        apart = self.value - bound
        if self.error == 0:
            return 0.0 if apart > 0 else 0.5 if apart == 0 else 1.0
        return float(stats.t.sf(apart / self.error, self.df))

    def p_below(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value of "at least `bound`"."""
        return Student(-self.value, self.error, self.df).p_above(-bound)

    def p_differs(self, bound: float = 0.0) -> float:
        """Return the two-sided p-value of the value `bound`."""
        return 2 * min(self.p_above(bound), self.p_below(bound))

    def p_equivalent(self, margin: float) -> float:
        """Return the p-value of "at least `margin` away from 0" by two one-sided tests.

        It is below 0.05 where the 90% interval lies inside ±`margin` (Schuirmann 1987).
        """
        return max(self.p_above(-margin), self.p_below(margin))


@dataclass(frozen=True)
class Crossed:
    """One estimate over `seeds` × pairs, for two targets.

    `population`: new seeds and new pairs. `benchmark`: new seeds on these pairs. `units` are pairs,
    or clusters where pairs share one.
    """

    population: Student
    benchmark: Student
    seeds: int
    units: int


def crossed_variance(
    by_seed: np.ndarray, strata: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the mean of `by_seed` and its degrees of freedom, both (…).

    `by_seed` (…, S): the estimate of every seed. `strata`: one array (…, S, U) per stratum, with
    what a unit adds to its seed's estimate minus what it would add at that seed's mean, so that it
    sums to 0 over units. Strata are independent, and units within a stratum exchangeable. For one
    stratum of P pairs the array is (y − mean over pairs) / P, and the result is the formula above.
    A stratum of one unit shows no variance, so the result is NaN.
    """
    seeds = by_seed.shape[-1]
    of_seeds = by_seed.var(axis=-1, ddof=1) / seeds
    of_pairs, residual = zip(*map(_mean_squares, strata), strict=True)
    whole, rest = np.sum(of_pairs, axis=0), np.sum(residual, axis=0)
    units = [each.shape[-1] - 1 for each in strata]
    pairs_df = sum(part**2 / n for part, n in zip(of_pairs, units, strict=True) if n)
    rest_df = sum(part**2 / n for part, n in zip(residual, units, strict=True) if n) / (seeds - 1)
    variance, least = of_seeds + whole - rest, np.maximum(of_seeds, whole)
    with np.errstate(invalid="ignore", divide="ignore"):
        free = variance**2 / (of_seeds**2 / (seeds - 1) + pairs_df + rest_df)
        floored = np.where(of_seeds >= whole, seeds - 1, whole**2 / pairs_df)
    return np.maximum(variance, least), np.where(variance > least, free, floored)


def _mean_squares(stratum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return MS_pair / (S · P) and MS_residual / (S · P) of one stratum (…, S, U)."""
    seeds, units = stratum.shape[-2:]
    of_unit = stratum.mean(axis=-2, keepdims=True)
    scale = units / (units - 1) if units > 1 else float("nan")
    residual = ((stratum - of_unit) ** 2).sum(axis=(-2, -1)) / (seeds * (seeds - 1))
    return scale * (of_unit**2).sum(axis=(-2, -1)), scale * residual


def estimate(outcomes: pd.DataFrame, weights: Mapping[str, float]) -> Crossed:
    """Return Σ weight × mean outcome over the subsets in `weights`, with its standard errors.

    `outcomes` as `eval.statistics.section_intervals` takes them; for the difference of two methods,
    those of `eval.strata.paired`. Negative weights give a contrast of subsets. Subsets that share a
    cluster are one stratum; the sizes of clusters may differ.

    Raises InputError: columns are missing, seeds have different pairs, a subset has no rows, or
    there is only one seed.
    """
    strata = strata_of(outcomes)
    absent = set(weights) - {name for stratum in strata for name in stratum.subsets}
    if absent:
        raise InputError(f"the outcomes have no rows of subset {', '.join(sorted(absent))}")
    return _estimate(strata, weights)


def intervals(outcomes: pd.DataFrame, protocol: Protocol, *, level: float = 0.95) -> pd.DataFrame:
    """Return an interval for each subset, section and the average, weighted as `protocol` says.

    One row per level and name. For new seeds and pairs: mean, low, high and p (two-sided, of the
    value 0), error and df. For new seeds on these pairs: seed_low, seed_high and seed_p. Counts:
    pairs and seeds. NaN where a subset has only one unit. Raises as `estimate`.
    """
    check_level(level)
    strata = strata_of(outcomes, protocol)
    present = [name for stratum in strata for name in stratum.subsets]
    counts, rows = pair_counts(outcomes, protocol), []
    for key, weights in targets(protocol, present).items():
        found = _estimate(strata, weights)
        rows.append((
            *(*key, found.population.value),
            *(*found.population.interval(level), found.population.p_differs()),
            *(*found.benchmark.interval(level), found.benchmark.p_differs()),
            *(found.population.error, found.population.df, counts[key], found.seeds),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=[*COLUMNS])


def targets(protocol: Protocol, present: Sequence[str]) -> dict[Key, dict[str, float]]:
    """Return, for each subset, section and the average, the weights of the subsets present."""
    indicators = {name: row for name, row in zip(present, np.eye(len(present)), strict=True)}
    rolled = protocol.roll_up(indicators)
    return {
        key: {name: w for name, w in zip(present, row.tolist(), strict=True) if w}
        for key, row in rolled.items()
    }


def _estimate(strata: Sequence[Stratum], weights: Mapping[str, float]) -> Crossed:
    seeds = len(strata[0].values)
    if seeds < 2:
        raise InputError("an interval over seeds and pairs needs two or more seeds, there is one")
    parts = [part for stratum in strata if (part := _linear(stratum, weights))]
    by_seed = np.sum([totals for totals, _ in parts], axis=0)
    units = [each for _, each in parts]
    variance, df = crossed_variance(by_seed, units)
    # Rounding turns "no difference" into ±1e-17, which would exclude 0.
    numbers = (by_seed.mean(), np.sqrt(variance), by_seed.std(ddof=1) / np.sqrt(seeds))
    value, error, seed_error = (float(np.round(number, 12)) + 0.0 for number in numbers)
    population = Student(value, error, float(df))
    benchmark = Student(value, seed_error, seeds - 1)
    return Crossed(population, benchmark, seeds, sum(each.shape[1] for each in units))


def _linear(stratum: Stratum, weights: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a stratum's part of every seed's estimate (S,) and its units' deviations (S, U).

    All seeds have the same pairs, so both are linear in a unit's outcomes: a unit deviates by
    Σ weight · (its sum − its pairs × the seed's mean) / (pairs of the subset). None if none of the
    stratum's subsets has a weight.
    """
    share = np.array([weights.get(name, 0.0) for name in stratum.subsets])
    if not share.any():
        return None
    counts = stratum.counts.sum(axis=0)
    means = stratum.values.sum(axis=1) / counts
    deviations = (stratum.values - means[:, None, :] * stratum.counts) @ (share / counts)
    concerned = (stratum.counts[:, share != 0] > 0).any(axis=1)
    return means @ share, deviations[:, concerned]
