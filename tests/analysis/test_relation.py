"""Correlations and slopes against scipy, and their intervals over pairs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.relation import relation

X, Y = "x", "y"


def rows_of(pairs: int = 40, seeds: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        x = rng.uniform(1, 5, pairs)
        y = 3 * x * np.exp(rng.normal(0, 0.3, pairs))
        rows.append(
            pd.DataFrame({"seed": seed, "pair_id": [f"p{i}" for i in range(pairs)], X: x, Y: y})
        )
    return pd.concat(rows, ignore_index=True)


def test_relation_is_scipys_within_a_seed_and_the_mean_over_seeds() -> None:
    frame = rows_of(seeds=3)
    found = relation(frame, X, Y, resamples=50)
    by = [part for _, part in frame.groupby("seed")]
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(p[X], p[Y])[0] for p in by]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(p[X], p[Y])[0] for p in by]))
    assert found["slope"] == pytest.approx(np.mean([stats.linregress(p[X], p[Y])[0] for p in by]))
    assert (found["pairs"], found["seeds"]) == (40, 3)


def test_interval_agrees_with_fishers_for_normal_data() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    frame = pd.DataFrame({"seed": 0, "pair_id": range(300), X: x, Y: x + rng.normal(size=300)})
    found = relation(frame, X, Y, resamples=2000)
    fisher = stats.pearsonr(frame[X], frame[Y]).confidence_interval()
    assert found["pearson_low"] == pytest.approx(fisher.low, abs=0.02)
    assert found["pearson_high"] == pytest.approx(fisher.high, abs=0.02)


def test_copies_of_a_seed_do_not_narrow_the_interval() -> None:
    one = rows_of()
    many = pd.concat([one.assign(seed=seed) for seed in range(5)])
    first, second = (relation(frame, X, Y, resamples=300) for frame in (one, many))
    for name in ("slope_low", "slope_high", "pearson_low", "spearman_high"):
        assert second[name] == pytest.approx(first[name])


def test_a_pair_that_one_seed_lacks_is_left_out_there_only() -> None:
    frame = rows_of(seeds=2)
    frame = frame[~((frame["seed"] == 1) & (frame["pair_id"].isin(["p3", "p8"])))]
    found = relation(frame, X, Y, resamples=20)
    by = [part for _, part in frame.groupby("seed")]
    assert [len(part) for part in by] == [40, 38]
    assert found["pearson"] == pytest.approx(np.mean([stats.pearsonr(p[X], p[Y])[0] for p in by]))
    assert found["spearman"] == pytest.approx(np.mean([stats.spearmanr(p[X], p[Y])[0] for p in by]))


def test_too_few_pairs_or_no_spread_give_no_number() -> None:
    found = relation(rows_of().head(3), X, Y, resamples=20)
    assert np.isnan([found["pearson"], found["slope"], found["spearman_low"]]).all()
    found = relation(rows_of(43 * 2).assign(x=0.1), X, Y, resamples=20)
    assert np.isnan([found["pearson"], found["slope"], found["spearman_low"]]).all()
