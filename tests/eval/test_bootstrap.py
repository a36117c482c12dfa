"""Draws with replacement, and the intervals and p-values that they give."""

import numpy as np
import pytest

from eval import bootstrap


def test_every_draw_has_the_law_of_drawing_with_replacement() -> None:
    """Counts of n members sum to n, with mean 1, variance 1 − 1/n and covariance −1/n."""
    for draw in (bootstrap.draw_counts, bootstrap.draw_multinomial):
        counts = draw(np.random.default_rng(0), 40_000, 5)
        assert (counts.sum(axis=1) == 5).all()
        np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.02)
        np.testing.assert_allclose(np.cov(counts.T), np.eye(5) - 0.2, atol=0.02)


def test_counts_are_those_of_the_places() -> None:
    places = bootstrap.draw_places(np.random.default_rng(3), 20, 7)
    counts = bootstrap.draw_counts(np.random.default_rng(3), 20, 7)
    expected = [[(line == member).sum() for member in range(7)] for line in places]
    np.testing.assert_array_equal(counts, expected)


def test_row_weights_start_with_the_sample_and_draw_units_whole() -> None:
    weights = bootstrap.row_weights(np.array(["a", "a", "b"]), 50, seed=0)
    assert weights.shape == (51, 3) and (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 0] + weights[:, 2] == 2).all()
    assert len(np.unique(weights[1:], axis=0)) == 3


def test_samples_are_redrawn_each_by_itself() -> None:
    first, second = bootstrap.redrawn([np.arange(3.0), np.arange(10.0, 14)], 500, seed=1)
    assert first.shape == (500, 3) and second.shape == (500, 4)
    assert set(first.ravel()) == {0, 1, 2} and set(second.ravel()) == {10, 11, 12, 13}
    assert first.mean() == pytest.approx(1, abs=0.1)


def test_percentile_interval_leaves_out_what_is_not_finite() -> None:
    draws = np.array([np.nan, np.inf, *range(101)])
    assert bootstrap.percentile_interval(draws, level=0.9) == pytest.approx((5, 95))
    assert bootstrap.bounds("x", draws) == pytest.approx({"x_low": 2.5, "x_high": 97.5})
    assert np.isnan(bootstrap.percentile_interval(np.full(3, np.nan))).all()


@pytest.mark.parametrize(
    ("seeds", "spread", "stated"),
    [
        (3, (1.0, 0.0, 0.0), 0.24),
        (5, (1.0, 0.0, 0.0), 0.17),
        (3, (0.0, 0.29, 0.42), 0.02),  # NormBT − BT on Reasoning, results/cpu
        (5, (0.0, 0.29, 0.42), 0.02),
        (3, (0.11, 0.20, 0.57), 0.10),  # the same, results/cpu_sgd
    ],
)
def test_intervals_leave_out_0_as_often_as_conf_claims_says(
    seeds: int, spread: tuple[float, float, float], stated: float
) -> None:
    """Nothing is there but the spread (standard deviations) of seeds, pairs and both together."""
    of_seed, of_pair, of_both = spread
    generator = np.random.default_rng(0)
    pairs = 120
    drawn_seeds = bootstrap.draw_counts(generator, 300, seeds) / seeds
    drawn_pairs = bootstrap.draw_counts(generator, 300, pairs) / pairs
    wrong = []
    for _ in range(2000):
        differences = of_both * generator.normal(size=(seeds, pairs))
        differences += of_seed * generator.normal(size=(seeds, 1))
        differences += of_pair * generator.normal(size=pairs)
        means = (drawn_seeds * (drawn_pairs @ differences.T)).sum(axis=1)
        low, high = bootstrap.percentile_interval(means)
        wrong.append(low > 0 or high < 0)
    assert np.mean(wrong) == pytest.approx(stated, abs=0.02)


def test_bootstrap_p_by_hand_and_by_the_interval() -> None:
    assert bootstrap.bootstrap_p(np.zeros(9)) == 1.0
    assert bootstrap.bootstrap_p(np.ones(9)) == bootstrap.bootstrap_p(-np.ones(9)) == 0.2
    assert bootstrap.bootstrap_p(np.array([-1.0, 1, 1, 1, 1, 1, 1, 1, 1])) == 0.4
    assert bootstrap.bootstrap_p(np.array([np.nan] * 9 + [1.0] * 9)) == 0.2
    assert np.isnan(bootstrap.bootstrap_p(np.full(9, np.nan)))
    for shift in np.linspace(-3, 3, 61):
        draws = np.random.default_rng(3).normal(shift, 1, 4000)
        low, high = bootstrap.percentile_interval(draws)
        p = bootstrap.bootstrap_p(draws)
        assert abs(p - 0.05) < 0.001 or (p < 0.05) == (low > 0 or high < 0)
