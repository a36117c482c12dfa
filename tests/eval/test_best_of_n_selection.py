"""The best-of-n estimator against enumeration, KL, and the curves' intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.best_of_n import curves as curves_
from eval.best_of_n.selection import best_of_n, kl, normalised, normaliser, order_weights
from rm.errors import InputError


def enumerated(proxy: list[float], gold: list[float], n: int) -> float:
    """Mean gold over all n-subsets of the one that the proxy puts first, ties at even odds."""
    values = []
    for chosen in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in chosen)
        values.append(np.mean([gold[i] for i in chosen if proxy[i] == best]))
    return float(np.mean(values))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=1, max_size=7))
def test_estimator_equals_enumeration_with_ties(pairs: list[tuple[int, int]]) -> None:
    proxy, gold = [float(p) for p, _ in pairs], [float(g) for _, g in pairs]
    found = best_of_n(np.array([proxy]), np.array([gold]))[0]
    expected = [enumerated(proxy, gold, n) for n in range(1, len(pairs) + 1)]
    assert found == pytest.approx(expected)


def test_estimator_is_unbiased_for_fresh_samples() -> None:
    rng = np.random.default_rng(0)
    proxy = rng.integers(0, 6, (4000, 6)).astype(float)  # many ties
    gold = proxy**2 + rng.normal(size=proxy.shape)
    found = best_of_n(proxy, gold).mean(axis=0)
    # P(highest of n uniform draws from 0 … 5 is v), exactly
    v = np.arange(6)
    for n in (1, 3, 6):
        chance = ((v + 1) / 6) ** n - (v / 6) ** n
        assert found[n - 1] == pytest.approx(chance @ v**2, abs=0.15)


def test_weights_are_combinations_and_stay_sums_of_one_at_405() -> None:
    weights = order_weights(6)
    for n, i in itertools.product(range(1, 7), range(1, 7)):
        assert weights[n - 1, i - 1] == pytest.approx(math.comb(i - 1, n - 1) / math.comb(6, n))
    large = order_weights(405)
    assert np.isfinite(large).all() and (large >= 0).all()
    assert large.sum(axis=1) == pytest.approx(np.ones(405), abs=1e-9)
    exact = math.comb(399, 99) / math.comb(405, 100)
    assert large[99, 399] == pytest.approx(exact, rel=1e-9)
    assert large[404, 404] == pytest.approx(1)


def test_kl_closed_form() -> None:
    assert kl(1) == 0
    assert kl(405) == pytest.approx(5.0064, abs=1e-4)
    assert kl(np.array([4, 16])) == pytest.approx([math.log(4) - 0.75, math.log(16) - 15 / 16])


def test_oracle_rises_and_random_is_flat() -> None:
    gold = np.random.default_rng(1).normal(size=(5, 12))
    oracle = best_of_n(gold, gold)
    assert (np.diff(oracle, axis=1) >= -1e-12).all()
    assert oracle[:, -1] == pytest.approx(gold.max(axis=1))
    flat = best_of_n(np.zeros_like(gold), gold)
    assert flat == pytest.approx(np.repeat(gold.mean(axis=1)[:, None], 12, axis=1))
    assert best_of_n(-gold, gold)[:, -1] == pytest.approx(gold.min(axis=1))


def test_bad_scores_are_refused() -> None:
    with pytest.raises(InputError, match="do not match"):
        best_of_n(np.zeros((1, 3)), np.zeros((1, 4)))
    with pytest.raises(InputError, match="NaN"):
        best_of_n(np.array([[0.0, np.nan]]), np.zeros((1, 2)))


def test_normalisation_takes_the_policys_mean_and_spread() -> None:
    scores = np.array([[1.0, 3.0], [5.0, 7.0]])
    assert normaliser(scores) == (4.0, pytest.approx(math.sqrt(5)))
    assert normalised(scores).std() == pytest.approx(1)


@pytest.mark.parametrize("value", [3.0, 0.1, -0.7, 1e-300, 1e300])
def test_equal_scores_are_normalised_to_0_however_their_mean_is_rounded(value: float) -> None:
    for shape in ((2, 2), (3, 7), (24, 16)):
        assert not normalised(np.full(shape, value)).any()
    assert np.std(np.full((3, 7), 0.1)) > 0  # what made it -1 or +1


# --- curves ---------------------------------------------------------------------------------------


def proxies_of(gold: np.ndarray, noise: dict[str, float]) -> dict[str, dict[int, np.ndarray]]:
    rng = np.random.default_rng(3)
    return {
        method: {seed: gold + size * rng.normal(size=gold.shape) for seed in (0, 1, 2)}
        for method, size in noise.items()
    }


def test_a_method_named_like_random_picking_is_not_compared_with_it() -> None:
    gold = np.random.default_rng(0).normal(size=(20, 8))
    curves = curves_.curves_of(gold, proxies_of(gold, {"bt": 6.0, "normbt_random": 0.5}))
    frame = curves_.table(curves, gold, resamples=20)
    both = frame[frame["seed"] == "all"].set_index(["method", "n"])["gold"]
    gain = frame[(frame["seed"] == "all") & (frame["method"] == "normbt_random")].set_index("n")
    assert gain["gain"].to_numpy() == pytest.approx(
        (both["normbt_random"] - both["bt"]).to_numpy(), abs=1e-9
    )


def test_table_has_a_row_a_method_seed_and_n_with_paired_gains() -> None:
    gold = np.random.default_rng(2).normal(2.0, 3.0, size=(40, 8))
    curves = curves_.curves_of(gold, proxies_of(gold, {"bt": 6.0, "normbt": 0.5}))
    frame = curves_.table(curves, gold, resamples=200)
    assert len(frame) == 8 * (2 * 4 + 2)
    pooled = frame[frame["seed"] == "all"].set_index(["method", "n"])
    first = pooled.xs(1, level="n")
    assert first["gold"].to_numpy() == pytest.approx(np.zeros(4), abs=1e-12)
    assert first["gold_raw"].to_numpy() == pytest.approx(np.full(4, gold.mean()))
    assert (pooled["gold_low"] <= pooled["gold"]).all() and (
        pooled["gold"] <= pooled["gold_high"]
    ).all()
    gain = pooled.loc[("normbt", 8)]
    both = pooled.loc[("normbt", 8), "gold"] - pooled.loc[("bt", 8), "gold"]
    assert gain["gain"] == pytest.approx(both) and gain["gain_low"] > 0.3
    assert np.isnan(pooled.loc[("bt", 8), "gain"])
    # paired: narrower than the two intervals would suggest
    width = gain["gain_high"] - gain["gain_low"]
    apart = sum(
        pooled.loc[(m, 8), "gold_high"] - pooled.loc[(m, 8), "gold_low"] for m in ("bt", "normbt")
    )
    assert width < apart
    oracle, seeds = pooled.loc[("oracle", 8)], pooled.loc[("bt", 8)]
    assert oracle["gold"] >= pooled.xs(8, level="n")["gold"].max()
    assert (oracle["seeds"], seeds["seeds"], seeds["prompts"], seeds["samples"]) == (0, 3, 40, 8)


def test_a_proxy_that_is_the_gold_gives_the_oracle_and_one_prompt_has_no_width() -> None:
    gold = np.random.default_rng(4).normal(size=(1, 5))
    curves = curves_.curves_of(gold, {"bt": {0: gold}})
    frame = curves_.table(curves, gold, resamples=50).set_index(["method", "seed", "n"])
    assert frame.loc[("bt", "all", 5), "gold"] == frame.loc[("oracle", "all", 5), "gold"]
    row = frame.loc[("bt", "0", 5)]
    assert row["gold_low"] == pytest.approx(row["gold"]) == row["gold_high"]
    assert np.isnan(curves_.overoptimisation(curves, 50)["drop"].iloc[0])


def test_the_seeds_must_be_the_same() -> None:
    gold = np.zeros((2, 2))
    with pytest.raises(InputError, match="different seeds"):
        curves_.curves_of(gold, {"bt": {0: gold}, "normbt": {1: gold}})


def test_overoptimisation_is_found_where_gold_falls_and_not_in_noise() -> None:
    rng = np.random.default_rng(5)
    proxy = rng.normal(size=(200, 16))
    hump = -((proxy - 0.8) ** 2)  # better up to a point, then worse
    fooled = curves_.curves_of(hump, {"bt": {0: proxy, 1: proxy}})
    row = curves_.overoptimisation(fooled, 300).iloc[0]
    assert 1 < row["peak_n"] < 16 and row["overoptimised"]
    assert row["drop_low"] > 0 and row["proxy_rise"] > 0.3
    honest = curves_.curves_of(proxy, {"bt": {0: proxy + rng.normal(size=proxy.shape)}})
    row = curves_.overoptimisation(honest, 300).iloc[0]
    assert not row["overoptimised"] and row["peak_n"] > 8
    blind = curves_.curves_of(proxy, {"bt": {0: rng.normal(size=proxy.shape)}})
    assert not curves_.overoptimisation(blind, 300).iloc[0]["overoptimised"]


def test_draws_weigh_seeds_and_prompts() -> None:
    curves = np.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # (seeds, prompts, n)
    draws = curves_.Draws(
        np.array([[1.0, 0], [0, 1], [0.5, 0.5]]), np.array([[1.0, 0]] * 2 + [[0.5] * 2])
    )
    assert draws.means(curves)[:, 0].tolist() == [1.0, 10.0, 11.0]
    assert draws.means(curves[1:])[:, 0].tolist() == [10.0, 10.0, 20.0]  # one seed: no draw of it


def test_gold_that_falls_while_the_proxy_does_not_rise_is_no_overoptimisation() -> None:
    gold = np.repeat([[[0.0, 2.0, 1.0]]], 20, axis=1)
    proxy = np.array([0.0, 1.0, 2.0])
    for rising, expected in ((proxy, True), (proxy[[0, 2, 1]], False), (0 * proxy, False)):
        curve = curves_.Curves((0,), np.broadcast_to(rising, gold.shape), gold)
        row = curves_.overoptimisation({"bt": curve}, 50).iloc[0]
        assert row["drop_low"] > 0 and row["overoptimised"] == expected


def test_a_drop_whose_interval_includes_0_is_no_overoptimisation() -> None:
    drops = np.tile([3.0, 3.0, -2.6, -2.6], 5)  # 0.2 on average in both halves, 2.8 apart
    gold = np.stack([np.zeros(20), np.full(20, 5.0), 5.0 - drops], axis=1)[None]
    curve = curves_.Curves((0,), np.broadcast_to([0.0, 1.0, 2.0], gold.shape), gold)
    row = curves_.overoptimisation({"bt": curve}, 200).iloc[0]
    assert row["drop"] == pytest.approx(0.2) and row["drop_low"] < 0 < row["proxy_rise"]
    assert not row["overoptimised"]


def test_a_half_of_the_prompts_is_judged_at_the_other_halfs_peak() -> None:
    gold = np.array([[[0.0, 5.0, 1.0], [0.0, 1.0, 4.0]]])  # peaks at n = 2 and n = 3
    curve = curves_.Curves((0,), np.zeros_like(gold), gold)
    row = curves_.overoptimisation({"bt": curve}, 50).iloc[0]
    assert row["drop"] == np.mean([1.0 - 1.0, 1.0 - 4.0])  # at its own peak each would fall by 2


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6)), min_size=4, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_estimates_lie_among_the_values_and_ignore_the_order_and_a_monotone_change(
    rows: list[list[tuple[int, float]]],
) -> None:
    proxy = np.array([[p for p, _ in row] for row in rows], dtype=float)
    gold = np.array([[g for _, g in row] for row in rows])
    found = best_of_n(proxy, gold)
    slack = 1e-9 * (1 + np.abs(gold).max())
    assert (found >= gold.min(axis=1, keepdims=True) - slack).all()
    assert (found <= gold.max(axis=1, keepdims=True) + slack).all()
    assert np.allclose(found[:, 0], gold.mean(axis=1), atol=slack)
    assert np.allclose(best_of_n(proxy[:, ::-1], gold[:, ::-1]), found, atol=slack)
    assert np.allclose(best_of_n(np.exp(3 * proxy), gold), found, atol=slack)
    oracle = best_of_n(gold, gold)
    assert (np.diff(oracle, axis=1) >= -slack).all() and (oracle >= found - slack).all()
