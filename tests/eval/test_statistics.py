"""Intervals and tests: closed forms, scipy, invariances, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval import statistics
from eval.protocol import Protocol
from rm.errors import InputError

TWO = Protocol("two", {"A": {"x": 3.0, "y": 1.0}, "B": {"z": 1.0}})
ONE = Protocol("one", {"A": {"x": 1.0}})


def outcomes_of(subset: str, correct: np.ndarray, seed: int = 0) -> pd.DataFrame:
    ids = [f"{subset}/{index}" for index in range(len(correct))]
    return pd.DataFrame({"seed": seed, "pair_id": ids, "subset": subset, "correct": correct})


def row(table: pd.DataFrame, level: str, name: str) -> pd.Series:
    return table.set_index(["level", "name"]).loc[(level, name)]


def coin(generator: np.random.Generator, size: int, p: float = 0.7) -> np.ndarray:
    return (generator.random(size) < p).astype(float)


# --- section_intervals ------------------------------------------------------------------------


def test_means_are_the_protocol_s() -> None:
    frame = pd.concat(
        [
            outcomes_of("x", np.array([1.0, 0.0])),
            outcomes_of("y", np.array([1.0, 1.0])),
            outcomes_of("z", np.array([0.0, 0.0, 0.0, 1.0])),
        ]
    )
    table = statistics.section_intervals(frame, TWO, resamples=50)
    assert list(table.columns) == ["level", "name", "mean", "low", "high", "pairs", "seeds"]
    assert table["name"].tolist() == ["x", "y", "z", "A", "B", "average"]
    assert row(table, "section", "A")["mean"] == pytest.approx((3 * 0.5 + 1) / 4)
    assert row(table, "average", "average")["mean"] == pytest.approx((0.625 + 0.25) / 2)
    assert table["pairs"].tolist() == [2, 2, 4, 4, 4, 8]
    assert set(table["seeds"]) == {1}


def test_a_subset_that_a_resample_lacks_is_left_out_of_its_sections_mean() -> None:
    rolled = TWO.roll_up({"x": np.array([np.nan, 0.5, np.nan]), "y": np.array([1.0, 1.0, np.nan])})
    np.testing.assert_allclose(rolled["section", "A"], [1.0, 0.625, np.nan])
    np.testing.assert_allclose(rolled["average", "average"], [1.0, 0.625, np.nan])


def test_width_of_one_subset_is_the_binomial_one() -> None:
    generator = np.random.default_rng(0)
    correct = coin(generator, 400)
    table = statistics.section_intervals(outcomes_of("x", correct), ONE, resamples=4000)
    found = row(table, "average", "average")
    error = math.sqrt(correct.mean() * (1 - correct.mean()) / 400)
    assert found["low"] == pytest.approx(correct.mean() - 1.96 * error, abs=0.006)
    assert found["high"] == pytest.approx(correct.mean() + 1.96 * error, abs=0.006)


def test_width_of_a_section_is_the_stratified_one() -> None:
    generator = np.random.default_rng(1)
    x, y, z = coin(generator, 300, 0.9), coin(generator, 100, 0.3), coin(generator, 200, 0.5)
    frame = pd.concat([outcomes_of(name, v) for name, v in (("x", x), ("y", y), ("z", z))])
    table = statistics.section_intervals(frame, TWO, resamples=4000)
    section = (9 * x.var() / 300 + y.var() / 100) / 16
    average = (section + z.var() / 200) / 4
    for level, name, variance in (("section", "A", section), ("average", "average", average)):
        found = row(table, level, name)
        width = found["high"] - found["low"]
        assert width == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.06)


def test_identical_members_of_a_cluster_add_nothing() -> None:
    """Six copies of each problem: the interval is that of the problems, not √6 narrower."""
    generator = np.random.default_rng(2)
    correct = coin(generator, 150)
    names = [f"l{index}" for index in range(6)]
    protocol = Protocol("six", {"A": dict.fromkeys(names, 1.0)})
    cluster = [f"p{index}" for index in range(150)]
    frame = pd.concat([outcomes_of(name, correct).assign(cluster=cluster) for name in names])
    clustered = row(
        statistics.section_intervals(frame, protocol, resamples=4000), "average", "average"
    )
    naive = row(
        statistics.section_intervals(frame.drop(columns="cluster"), protocol, resamples=4000),
        "average",
        "average",
    )
    single = 2 * 1.96 * correct.std() / math.sqrt(150)
    assert clustered["high"] - clustered["low"] == pytest.approx(single, rel=0.07)
    assert naive["high"] - naive["low"] == pytest.approx(single / math.sqrt(6), rel=0.07)


def test_a_subset_half_clustered_half_not() -> None:
    frame = pd.concat([outcomes_of("x", np.ones(4)), outcomes_of("y", np.zeros(4))])
    frame["cluster"] = ["a", "", None, "b", "a", "", "", ""]
    table = statistics.section_intervals(frame, TWO, resamples=300)
    assert row(table, "subset", "x")[["mean", "low", "high"]].tolist() == [1.0, 1.0, 1.0]
    assert row(table, "section", "A")[["mean", "low", "high"]].tolist() == [0.75, 0.75, 0.75]


def test_a_cluster_missing_from_a_resample_leaves_no_nan() -> None:
    frame = pd.concat([outcomes_of("x", np.array([1.0, 0.0, 1.0])), outcomes_of("y", np.ones(1))])
    frame["cluster"] = ["a", "b", "c", "a"]
    table = statistics.section_intervals(frame, TWO, resamples=500)
    assert np.isfinite(table[["mean", "low", "high"]].to_numpy(dtype=float)).all()


def test_seeds_widen_the_interval_and_share_the_pairs() -> None:
    correct = coin(np.random.default_rng(3), 200)
    alike = pd.concat([outcomes_of("x", correct, seed) for seed in range(4)])
    unlike = pd.concat(
        [outcomes_of("x", np.roll(np.arange(200) < n, 7) * 1.0, n) for n in (80, 120, 150, 190)]
    )
    single = statistics.section_intervals(outcomes_of("x", correct), ONE, resamples=3000)
    same = statistics.section_intervals(alike, ONE, resamples=3000)
    wide = statistics.section_intervals(unlike, ONE, resamples=3000)
    widths = [row(t, "subset", "x")["high"] - row(t, "subset", "x")["low"] for t in (single, same)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    found = row(wide, "subset", "x")
    spread = np.std([0.4, 0.6, 0.75, 0.95]) / 2
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert found["high"] - found["low"] > 2 * widths[0]
    assert set(same["seeds"]) == {4}


def test_deterministic_by_seed_and_free_of_row_order() -> None:
    generator = np.random.default_rng(4)
    frame = pd.concat(
        [outcomes_of(name, coin(generator, 30), seed) for name in "xyz" for seed in (1, 2)]
    )
    first = statistics.section_intervals(frame, TWO, resamples=200, seed=5)
    shuffled = frame.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        first, statistics.section_intervals(shuffled, TWO, resamples=200, seed=5)
    )
    other = statistics.section_intervals(frame, TWO, resamples=200, seed=6)
    assert not first["low"].equals(other["low"])


def test_coverage_of_the_interval() -> None:
    """Intervals of 200 simulated clustered test sets cover the truth about 95 % of the time."""
    generator = np.random.default_rng(6)
    protocol = Protocol("p", {"A": {"x": 1.0, "y": 1.0}, "B": {"z": 1.0}})
    covered = 0
    for _ in range(200):
        skill = generator.choice([0.4, 0.9], 60)  # a problem is easy or hard in both languages
        parts = [outcomes_of(n, (generator.random(60) < skill) * 1.0) for n in ("x", "y")]
        frame = pd.concat([part.assign(cluster=np.arange(60).astype(str)) for part in parts])
        frame = pd.concat([frame, outcomes_of("z", coin(generator, 80, 0.6))])
        table = statistics.section_intervals(frame, protocol, resamples=300)
        found = row(table, "average", "average")
        covered += found["low"] <= (0.65 + 0.6) / 2 <= found["high"]
    assert 0.89 <= covered / 200 <= 0.99


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30), st.floats(0.5, 0.99))
def test_interval_brackets_what_it_may(correct: list[float], level: float) -> None:
    frame = outcomes_of("x", np.array(correct))
    found = row(statistics.section_intervals(frame, ONE, resamples=100, level=level), "subset", "x")
    assert 0 <= found["low"] <= found["high"] <= 1
    if len(set(correct)) == 1:
        assert found["low"] == found["high"] == found["mean"]


def test_errors_of_intervals() -> None:
    good = outcomes_of("x", np.array([1.0, 0.0]))
    for frame, message in (
        (good.drop(columns="seed"), "lack the columns seed"),
        (good.iloc[:0], "contain no rows"),
        (good.assign(subset="w"), "unknown subset 'w' for one; valid: x"),
        (good.assign(correct=np.nan), "NaN or infinite"),
        (pd.concat([good, good]), "pair 'x/0' occurs twice for seed 0"),
        (pd.concat([good, good.iloc[:1].assign(seed=1)]), "1 pairs are in seed 0 .* seed 1: x/1"),
    ):
        with pytest.raises(InputError, match=message):
            statistics.section_intervals(frame, ONE)
    with pytest.raises(InputError, match="resamples must be at least 1"):
        statistics.section_intervals(good, ONE, resamples=0)
    with pytest.raises(InputError, match="level must lie between 0 and 1"):
        statistics.section_intervals(good, ONE, level=95)


# --- tests between two models -----------------------------------------------------------------


def test_mcnemar_by_hand() -> None:
    a, b = [1, 1, 0, 0, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1, 1, 1]
    found = statistics.mcnemar(a, b)
    assert (found.n01, found.n10) == (5, 1)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)


def test_mcnemar_without_differences() -> None:
    assert statistics.mcnemar([1, 0], [1, 0]) == statistics.McNemar(0, 0, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_symmetric_and_a_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    forth, back = statistics.mcnemar(a, b), statistics.mcnemar(b, a)
    assert (forth.n01, forth.n10, forth.p) == (back.n10, back.n01, back.p)
    smaller, n = min(forth.n01, forth.n10), forth.n01 + forth.n10
    assert forth.p == pytest.approx(min(1.0, 2 * stats.binom.cdf(smaller, n, 0.5)))


def test_paired_inputs_are_checked() -> None:
    with pytest.raises(InputError, match="lists of equal length"):
        statistics.mcnemar([1, 0], [1])
    with pytest.raises(InputError, match="0 or 1"):
        statistics.mcnemar([0.5], [1])
    with pytest.raises(InputError, match="NaN or infinite"):
        statistics.mcnemar([np.nan], [1])


def bootstrap(
    a: np.ndarray, b: np.ndarray, clusters: np.ndarray | None = None, resamples: int = 2000
) -> pd.Series:
    """The interval of mean(b) − mean(a), as table 1's differences have it."""
    labels = np.full(len(a), "") if clusters is None else clusters.astype(str)
    outcomes = pd.DataFrame({"correct": b - a, "cluster": labels, "subset": "x", "seed": 0})
    outcomes["pair_id"] = [f"p{i}" for i in range(len(a))]
    return statistics.section_intervals(outcomes, ONE, resamples=resamples).iloc[0]


def test_paired_bootstrap_has_the_closed_form_s_width() -> None:
    generator = np.random.default_rng(7)
    a, b = coin(generator, 500, 0.6), coin(generator, 500, 0.7)
    found = bootstrap(a, b, resamples=4000)
    error = (b - a).std() / math.sqrt(500)
    assert found["mean"] == pytest.approx(b.mean() - a.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_paired_bootstrap_by_cluster_is_wider() -> None:
    generator = np.random.default_rng(8)
    a, b = np.repeat(coin(generator, 80), 5), np.repeat(coin(generator, 80), 5)
    clusters = np.repeat(np.arange(80), 5)
    whole = bootstrap(a, b, clusters)
    naive = bootstrap(a, b)
    ratio = (whole.high - whole.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(math.sqrt(5), rel=0.1)


def test_paired_bootstrap_agrees_with_scipy() -> None:
    generator = np.random.default_rng(9)
    a, b = coin(generator, 120, 0.5), coin(generator, 120, 0.65)
    found = bootstrap(a, b, resamples=5000)
    theirs = stats.bootstrap(
        (b - a,), np.mean, n_resamples=5000, method="percentile", rng=generator
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_difference_intervals_are_section_intervals_with_the_p_of_a_z_test() -> None:
    generator = np.random.default_rng(11)
    differences = coin(generator, 400, 0.60) - coin(generator, 400, 0.57)
    frame = outcomes_of("x", differences)
    table = statistics.difference_intervals(frame, ONE, resamples=8000)
    plain = statistics.section_intervals(frame, ONE, resamples=8000)
    pd.testing.assert_frame_equal(table.drop(columns="p"), plain, rtol=0, atol=1e-12)
    z = differences.mean() / (differences.std() / math.sqrt(400))
    assert 0.01 < table["p"].iloc[0] < 0.5
    assert table["p"].iloc[0] == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.02)


def test_resamples_without_a_difference_are_on_both_sides_of_0() -> None:
    """Thirds of two seeds cancel to 1e-17, or not: the p-value knows no difference either way."""
    frame = pd.concat(
        [outcomes_of("x", np.array([1.0, -1.0, 0.0]) * s).assign(seed=s) for s in (0, 1, -1)]
    )
    table = statistics.difference_intervals(frame, ONE, resamples=2000)
    whole = table[table["level"] == "average"].iloc[0]
    assert whole["mean"] == 0 and whole["p"] > 0.9


def test_differences_that_cancel_but_for_rounding_are_0() -> None:
    values = [[-1.0, 0, -1, -1], [0, 0, 1, 0], [1, 1, -1, 1]]  # seed means −3/4, 1/4 and 1/2
    frame = pd.concat([outcomes_of("x", np.array(row), s) for s, row in enumerate(values)])
    assert statistics.section_intervals(frame, ONE, resamples=5)["mean"].iloc[0] != 0
    assert (statistics.difference_intervals(frame, ONE, resamples=5)["mean"] == 0).all()


def test_a_p_value_of_sign_flips_counts_the_observed_signs_and_is_never_0() -> None:
    found = statistics.cluster_p(outcomes_of("x", np.ones(60)), ONE, resamples=99)
    assert set(found.values()) == {1 / 100}  # 2⁻⁵⁹: no drawn signs are as extreme


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]).size == 0
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        statistics.holm([np.nan])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_raw_and_bonferroni(pvalues: list[float]) -> None:
    adjusted = statistics.holm(pvalues)
    raw = np.array(pvalues)
    assert (adjusted >= raw).all() and (adjusted <= np.minimum(1, raw * len(raw))).all()
    order = np.argsort(raw)
    assert (np.diff(adjusted[order]) >= 0).all()


def test_effect_sizes() -> None:
    assert statistics.cohens_h(0.0, 1.0) == pytest.approx(math.pi)
    assert statistics.cohens_h(0.5, 0.75) == pytest.approx(math.pi / 6)
    assert statistics.cohens_h(0.75, 0.5) == pytest.approx(-math.pi / 6)
    with pytest.raises(InputError, match="proportions"):
        statistics.cohens_h(75, 80)


def test_clopper_pearson_closed_forms() -> None:
    assert statistics.binomial_interval(0, 10) == pytest.approx((0, 1 - 0.025**0.1))
    assert statistics.binomial_interval(10, 10) == pytest.approx((0.025**0.1, 1))
    low, high = statistics.binomial_interval(7, 20, level=0.9)
    assert low == pytest.approx(stats.beta.ppf(0.05, 7, 14))
    assert high == pytest.approx(stats.beta.ppf(0.95, 8, 13))
    with pytest.raises(InputError, match="successes"):
        statistics.binomial_interval(3, 2)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
def test_paired_bootstrap_brackets_its_difference_and_turns_round_with_its_sides(
    pairs: list[tuple[bool, bool]],
) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    first, second = (bootstrap(*sides, resamples=200) for sides in ((a, b), (b, a)))
    assert first["mean"] == pytest.approx(b.mean() - a.mean())
    assert -1 <= first.low <= first.high <= 1
    assert second["mean"] == pytest.approx(-first["mean"])
    assert (second.low, second.high) == pytest.approx((-first.high, -first.low), abs=1e-9)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.5, 0.99))
def test_binomial_interval_holds_its_share_and_turns_round(
    successes: int, trials: int, level: float
) -> None:
    wins = min(successes, trials)
    low, high = statistics.binomial_interval(wins, trials, level)
    assert 0 <= low <= wins / trials <= high <= 1
    turned = statistics.binomial_interval(trials - wins, trials, level)
    assert turned == pytest.approx((1 - high, 1 - low))
