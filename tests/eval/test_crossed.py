"""Crossed seeds and pairs: closed forms, scipy, invariances, and coverage by simulation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval import crossed, strata
from eval.bootstrap import draw_counts
from eval.crossed import Student
from eval.protocol import Protocol
from rm.errors import InputError

TWO = Protocol("two", {"A": {"x": 3.0, "y": 1.0}, "B": {"z": 1.0}})


def outcomes(subset: str, values: np.ndarray, **columns: object) -> pd.DataFrame:
    """`values` (seeds, pairs) as rows."""
    seeds, pairs = values.shape
    rows = pd.DataFrame(
        {
            "seed": np.repeat(np.arange(seeds), pairs),
            "pair_id": [f"{subset}/{n}" for n in np.tile(np.arange(pairs), seeds)],
            "correct": values.ravel(),
        }
    )
    return rows.assign(subset=subset, **columns)


def anova(values: np.ndarray) -> tuple[float, float, float]:
    """MS_seed, MS_pair and MS_residual of a table (seeds, pairs), as a textbook has them."""
    seeds, pairs = values.shape
    of_seed, of_pair = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seed[:, None] - of_pair + values.mean()
    ms_seed = pairs * np.sum((of_seed - values.mean()) ** 2) / (seeds - 1)
    ms_pair = seeds * np.sum((of_pair - values.mean()) ** 2) / (pairs - 1)
    return ms_seed, ms_pair, np.sum(rest**2) / ((seeds - 1) * (pairs - 1))


def one(values: np.ndarray) -> crossed.Crossed:
    return crossed.estimate(outcomes("x", values), {"x": 1.0})


# --- closed forms -------------------------------------------------------------------------------


def test_a_small_table_by_hand() -> None:
    """Rows 1 2 3 and 3 4 8: MS 13.5, 6.5 and 3.5 / 2 … over 6 cells, Satterthwaite's formula."""
    values = np.array([[1.0, 2, 3], [3, 4, 8]])
    ms = anova(values)
    assert ms == pytest.approx((13.5, 6.5, 1.5))
    found = one(values)
    variance = (13.5 + 6.5 - 1.5) / 6
    assert found.population.value == 3.5 and (found.seeds, found.units) == (2, 3)
    assert found.population.error == pytest.approx(np.sqrt(variance))
    free = (13.5 + 6.5 - 1.5) ** 2 / (13.5**2 / 1 + 6.5**2 / 2 + 1.5**2 / 2)
    assert found.population.df == pytest.approx(free)
    half = stats.t.ppf(0.975, free) * np.sqrt(variance)
    assert found.population.interval() == pytest.approx((3.5 - half, 3.5 + half))


def test_the_variance_is_at_least_that_of_seeds_or_of_pairs_alone() -> None:
    rest = np.array([[1.0, -1, 1, -1], [-1, 1, -1, 1]])  # interaction alone
    for seed, pair, df in ((0.1, 0.0, 1), (0.0, 0.1, 3)):
        values = rest + seed * np.array([[1], [-1]]) + pair * np.array([1, 1, -1, -1])
        ms_seed, ms_pair, ms_rest = anova(values)
        assert ms_rest > max(ms_seed, ms_pair)
        found = one(values).population
        assert found.error**2 == pytest.approx(max(ms_seed, ms_pair) / 8)
        assert found.df == pytest.approx(df)


def test_seeds_alone_are_scipys_t_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, (6, 40))
    test = stats.ttest_1samp(values.mean(axis=1), 0)
    fixed = one(values).benchmark
    assert fixed.interval() == pytest.approx(tuple(test.confidence_interval()))
    assert fixed.p_differs() == pytest.approx(test.pvalue)
    above = stats.ttest_1samp(values.mean(axis=1), 0.1, alternative="greater").pvalue
    assert fixed.p_above(0.1) == pytest.approx(above)
    assert fixed.p_below(0.1) == pytest.approx(1 - above)


def test_without_seed_effects_pairs_alone_are_scipys_t_test() -> None:
    """Every seed is a copy: MS_seed and MS_residual are 0, and the pairs' t test is left."""
    pairs = np.random.default_rng(1).choice([-1.0, 0, 1], 50)
    found = one(np.tile(pairs, (4, 1))).population
    test = stats.ttest_1samp(pairs, 0)
    assert found.interval() == pytest.approx(tuple(test.confidence_interval()))
    assert found.p_differs() == pytest.approx(test.pvalue)


def test_strata_add_up_by_the_protocol_s_weights() -> None:
    generator = np.random.default_rng(2)
    tables = {n: generator.normal(size=(5, k)) for n, k in (("x", 30), ("y", 12), ("z", 20))}
    frame = pd.concat([outcomes(name, values) for name, values in tables.items()])
    share = {"x": 0.375, "y": 0.125, "z": 0.5}
    found = crossed.intervals(frame, TWO).set_index(["level", "name"])
    row = found.loc[("average", "average")]
    by_seed = sum(share[n] * values.mean(axis=1) for n, values in tables.items())
    parts = {n: np.array(anova(values)[1:]) / values.size for n, values in tables.items()}
    pair = {n: share[n] ** 2 * parts[n][0] for n in tables}
    rest = {n: share[n] ** 2 * parts[n][1] for n in tables}
    seed = by_seed.var(ddof=1) / 5
    variance = seed + sum(pair.values()) - sum(rest.values())
    assert row["mean"] == pytest.approx(by_seed.mean())
    assert row["error"] ** 2 == pytest.approx(variance)
    free = {n: values.shape[1] - 1 for n, values in tables.items()}
    under = seed**2 / 4 + sum(pair[n] ** 2 / free[n] + rest[n] ** 2 / (4 * free[n]) for n in free)
    assert row["df"] == pytest.approx(variance**2 / under)
    alone = one(tables["z"])
    single = found.loc[("section", "B")]
    assert (single["low"], single["high"]) == pytest.approx(alone.population.interval())
    assert (single["seed_low"], single["seed_high"]) == pytest.approx(alone.benchmark.interval())
    assert found["pairs"].tolist() == [30, 12, 20, 42, 20, 62] and set(found["seeds"]) == {5}


def test_a_contrast_of_independent_subsets() -> None:
    generator = np.random.default_rng(3)
    close, far = generator.normal(1, 1, (4, 30)), generator.normal(0, 1, (4, 25))
    frame = pd.concat([outcomes("x", close), outcomes("y", far)])
    found = crossed.estimate(frame, {"x": 1.0, "y": -1.0})
    apart = close.mean(axis=1) - far.mean(axis=1)
    assert found.benchmark.value == pytest.approx(apart.mean())
    assert found.benchmark.error == pytest.approx(apart.std(ddof=1) / 2)
    assert found.units == 55


# --- invariances --------------------------------------------------------------------------------


def test_clusters_of_equal_size_are_their_means() -> None:
    problems = np.random.default_rng(4).normal(size=(3, 20))
    pairs = np.repeat(problems, 6, axis=1) + np.tile([0.5, -0.5], (3, 60))
    names = np.tile(np.repeat(np.arange(20), 6), 3).astype(str)
    found = crossed.estimate(outcomes("x", pairs, cluster=names), {"x": 1.0})
    assert found.units == 20
    assert found.population.error == pytest.approx(one(problems).population.error)
    assert found.population.df == pytest.approx(one(problems).population.df)


def test_one_problem_in_two_languages_is_one_unit_across_subsets() -> None:
    problems = np.random.default_rng(5).normal(size=(3, 20))
    names = np.tile(np.arange(20), 3).astype(str)
    frame = pd.concat([outcomes(n, problems, cluster=names) for n in ("x", "y")])
    found = crossed.estimate(frame, {"x": 0.75, "y": 0.25})
    assert found.population.error == pytest.approx(one(problems).population.error)
    contrast = crossed.estimate(frame, {"x": 1.0, "y": -1.0})
    assert (contrast.population.value, contrast.population.error) == (0, 0)


def test_a_seeds_effect_is_no_residual_where_clusters_differ_in_size() -> None:
    """Seeds differ by a constant alone: neither pairs nor the residual have any of it."""
    values = np.array([[0.0], [1.0], [3.0]]) * np.ones(7)
    names = np.tile(["a", "a", "a", "b", "b", "c", "d"], 3)
    found = crossed.estimate(outcomes("x", values, cluster=names), {"x": 1.0})
    assert found.population == Student(found.benchmark.value, found.benchmark.error, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.floats(0.1, 5))
def test_shift_scale_and_order(number: int, shift: float, scale: float) -> None:
    generator = np.random.default_rng(number)
    values = generator.choice([-1.0, 0, 1], (4, 15)) + 0.1 * generator.normal(size=(4, 1))
    found, moved = one(values).population, one(shift + scale * values).population
    assert moved.value == pytest.approx(shift + scale * found.value, abs=1e-9)
    assert moved.error == pytest.approx(scale * found.error, abs=1e-9)
    mixed = one(generator.permutation(generator.permutation(values, axis=1), axis=0)).population
    assert mixed.error == pytest.approx(found.error) and mixed.df == pytest.approx(found.df)


def test_swapping_the_methods_turns_the_interval_round() -> None:
    generator = np.random.default_rng(6)
    ours, base = (outcomes("x", generator.choice([0.0, 1], (3, 30))) for _ in range(2))
    forth, back = (
        crossed.estimate(strata.paired(*sides), {"x": 1.0}).population
        for sides in ((ours, base), (base, ours))
    )
    low, high = forth.interval()
    assert back.interval() == pytest.approx((-high, -low))
    assert back.p_differs() == pytest.approx(forth.p_differs())
    assert back.p_above(-0.1) == pytest.approx(forth.p_below(0.1))


# --- what follows from an estimate --------------------------------------------------------------


def test_intervals_bounds_and_p_values_agree() -> None:
    for value in np.linspace(-4, 4, 33):
        found = Student(value, 1.0, 7)
        low, high = found.interval(0.95)
        assert (found.p_differs() < 0.05) == (low > 0 or high < 0)
        assert (found.p_above(1) < 0.05) == (found.lower(0.95) > 1)
        assert (found.p_below(1) < 0.05) == (found.upper(0.95) < 1)
        lower, upper = found.interval(0.90)
        assert (found.p_equivalent(3) < 0.05) == (lower > -3 and upper < 3)
        assert (found.lower(0.95), found.upper(0.95)) == pytest.approx((lower, upper))


def test_no_spread_and_no_difference() -> None:
    same = one(np.zeros((3, 10)))
    for found in (same.population, same.benchmark):
        assert found.interval() == (0, 0) and found.p_differs() == 1
        assert found.p_equivalent(1) == 0 and found.p_above(-1) == 0 and found.p_above(1) == 1


def test_one_pair_tells_no_variance_of_pairs() -> None:
    frame = pd.concat([outcomes("x", np.eye(3)), outcomes("z", np.ones((3, 1)))])
    table = crossed.intervals(frame, TWO).set_index("name")
    assert table.loc[["z", "B", "average"], ["low", "high", "p"]].isna().all(axis=None)
    assert table.loc[["z", "B", "average"], ["seed_low", "seed_p"]].notna().all(axis=None)
    assert table.loc[["x", "A"], "low"].notna().all()


def test_what_is_refused() -> None:
    frame = outcomes("x", np.eye(3))
    with pytest.raises(InputError, match="needs two or more seeds, there is one"):
        crossed.estimate(frame[frame["seed"] == 0], {"x": 1.0})
    with pytest.raises(InputError, match="no rows of subset y"):
        crossed.estimate(frame, {"x": 1.0, "y": -1.0})
    with pytest.raises(InputError, match="1 pairs are in seed 1 and not in seed 0: x/0"):
        crossed.estimate(frame.iloc[1:], {"x": 1.0})
    with pytest.raises(InputError, match="unknown subset 'w'"):
        crossed.intervals(frame.assign(subset="w"), TWO)
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        crossed.intervals(frame, TWO, level=95)
    with pytest.raises(InputError, match="have no counterpart of the same seed"):
        strata.paired(frame, frame.iloc[1:])


# --- coverage -----------------------------------------------------------------------------------


class Outcomes(NamedTuple):
    """A normal variable of variance 1; outcomes are 1 above `threshold` and −1 below its negative.

    of_pairs: the part of its variance that is the pair's.
    """

    threshold: float
    mean: float
    of_pairs: float


# NormBT − BT on Reasoning. An exploratory run, 5 seeds × 120 pairs: 17.8% of the outcomes are 1,
# 9.0% are −1; standard deviations 0.00 (seeds), 0.29 (pairs) and 0.42 (both).
EXPLORATORY = Outcomes(1.132, 0.209, 0.479)
# results/cpu, 12 seeds × 1,500 pairs: 9.9% and 7.7%; 0.027 (seeds), 0.086 (pairs) and 0.409 (both).
CONFIRMATORY, CONFIRMATORY_SEEDS = Outcomes(1.357, 0.071, 0.071), 0.085


def ternary(
    shape: tuple[int, int, int], of_seeds: float, number: int = 0, kind: Outcomes = EXPLORATORY
) -> tuple[np.ndarray, float, np.ndarray]:
    """Outcomes −1, 0, 1 (tables, seeds, pairs); their mean; each table's over new seeds alone."""
    generator = np.random.default_rng(number)
    tables, seeds, pairs = shape
    of_pair = np.sqrt(kind.of_pairs) * generator.normal(size=(tables, 1, pairs))
    hidden = kind.mean + of_pair + np.sqrt(1 - kind.of_pairs) * generator.normal(size=shape)
    hidden += of_seeds * generator.normal(size=(tables, seeds, 1))
    values = (hidden > kind.threshold).astype(float) - (hidden < -kind.threshold)
    spread = np.sqrt(1 - kind.of_pairs + of_seeds**2)
    on_these = expected(kind.mean + of_pair, spread, kind.threshold).mean(axis=(1, 2))
    return values, float(expected(kind.mean, np.sqrt(1 + of_seeds**2), kind.threshold)), on_these


def expected(centre: float | np.ndarray, spread: float, threshold: float) -> np.ndarray:
    """The mean of an outcome whose normal variable has this centre and standard deviation."""
    above, below = (stats.norm.cdf((sign * centre - threshold) / spread) for sign in (1, -1))
    return above - below


def test_the_simulation_has_this_project_s_components() -> None:
    values, mean, on_these = ternary((200, 5, 120), of_seeds=0.0)
    assert [(values == one).mean() for one in (1, -1)] == pytest.approx([0.178, 0.090], abs=0.005)
    assert values.mean() == pytest.approx(mean, abs=0.005)
    assert on_these.mean() == pytest.approx(mean, abs=0.005)
    seed, pair, rest = np.mean([anova(table) for table in values], axis=0)
    assert np.sqrt([(pair - rest) / 5, rest]) == pytest.approx([0.29, 0.42], abs=0.01)
    share = (pair - rest) / (pair + seed - rest)
    assert share == pytest.approx(0.71, abs=0.03)  # the pairs' part of the mean's variance


def test_the_simulation_has_the_confirmatory_experiment_s_components() -> None:
    values, mean, _ = ternary((40, 12, 1500), CONFIRMATORY_SEEDS, kind=CONFIRMATORY)
    assert [(values == one).mean() for one in (1, -1)] == pytest.approx([0.099, 0.077], abs=0.005)
    assert values.mean() == pytest.approx(mean, abs=0.005)
    seed, pair, rest = np.mean([anova(table) for table in values], axis=0)
    found = np.sqrt([(seed - rest) / 1500, (pair - rest) / 12, rest])
    assert found == pytest.approx([0.027, 0.086, 0.409], abs=0.006)


def covered(values: np.ndarray, mean: float, on_these: np.ndarray) -> dict[str, float]:
    """How often three 95% intervals of the tables `values` hold what they are for."""
    by_seed, pairs = values.mean(axis=2), values.shape[2]
    seeds, centre = by_seed.shape[1], by_seed.mean(axis=1)
    variance, df = crossed.crossed_variance(by_seed, [(values - by_seed[..., None]) / pairs])
    crossing = stats.t.ppf(0.975, df) * np.sqrt(variance)
    fixed = stats.t.ppf(0.975, seeds - 1) * by_seed.std(axis=1, ddof=1) / np.sqrt(seeds)
    generator = np.random.default_rng(1)
    of_seed, of_pair = (draw_counts(generator, 500, n) / n for n in (seeds, pairs))
    drawn = np.einsum("tsr,rs->tr", values[:1000] @ of_pair.T, of_seed)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    return {
        "crossed": float(np.mean(np.abs(centre - mean) <= crossing)),
        "benchmark": float(np.mean(np.abs(centre - on_these) <= fixed)),
        "bootstrap": float(np.mean((low <= mean) & (mean <= high))),
    }


@pytest.mark.parametrize(
    ("seeds", "pairs", "of_seeds", "bootstrap"),
    [
        (5, 120, 0.0, 0.974),  # as in the exploratory run
        (5, 120, 0.05, 0.968),  # a seed's mean varies by 2 points
        (12, 120, 0.0, 0.973),
        (12, 120, 0.1, 0.965),
        (12, 240, 0.2, 0.941),  # seeds outweigh pairs, as with 1,500 pairs and 3 points
    ],
)
def test_coverage_for_ternary_outcomes(
    seeds: int, pairs: int, of_seeds: float, bootstrap: float
) -> None:
    """94 to 97% whatever varies, and 95% over seeds alone, beside the percentile bootstrap's."""
    found = covered(*ternary((2000, seeds, pairs), of_seeds))
    assert 0.94 <= found["crossed"] <= 0.97
    assert found["benchmark"] == pytest.approx(0.95, abs=0.012)
    assert found["bootstrap"] == pytest.approx(bootstrap, abs=0.015)


@pytest.mark.parametrize("seeds", [5, 12])
def test_coverage_with_the_confirmatory_experiment_s_components(seeds: int) -> None:
    found = covered(*ternary((600, seeds, 1500), CONFIRMATORY_SEEDS, kind=CONFIRMATORY))
    assert 0.93 <= found["crossed"] <= 0.98  # 600 tables: 0.009 of simulation error
    assert found["benchmark"] == pytest.approx(0.95, abs=0.025)


def test_five_seeds_that_vary_most_are_where_the_bootstrap_fails() -> None:
    """Seeds 8 points apart and 300 pairs: 94% against the bootstrap's 90%."""
    found = covered(*ternary((2000, 5, 300), of_seeds=0.2))
    assert found["crossed"] == pytest.approx(0.941, abs=0.012)
    assert found["bootstrap"] == pytest.approx(0.903, abs=0.015)


def test_coverage_of_an_average_over_sections() -> None:
    """Four sections of unlike size with seeds of their own: 95.8% in a longer simulation."""
    by_seed, parts, truth = np.zeros((2000, 5)), [], 0.0
    for number, pairs in enumerate((200, 100, 60, 30)):
        values, mean, _ = ternary((2000, 5, pairs), of_seeds=0.1, number=number)
        own = values.mean(axis=2)
        by_seed, truth = by_seed + own / 4, truth + mean / 4
        parts.append((values - own[..., None]) / pairs / 4)
    variance, df = crossed.crossed_variance(by_seed, parts)
    half = stats.t.ppf(0.975, df) * np.sqrt(variance)
    assert 0.94 <= np.mean(np.abs(by_seed.mean(axis=1) - truth) <= half) <= 0.97
