"""Two models on the same scored pairs: by hand, and by what may not matter."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from eval import comparison
from eval.comparison import Options
from eval.protocol import Protocol
from eval.statistics import holm
from rm.errors import InputError

TWO = Protocol("two", {"A": {"x": 3.0, "y": 1.0}, "B": {"z": 1.0}})
ONE = Protocol("one", {"A": {"x": 1.0}})


def scores_of(correct: np.ndarray, subset: str = "x", cluster: object = "") -> pd.DataFrame:
    ids = [f"{subset}/{index}" for index in range(len(correct))]
    frame = pd.DataFrame({"pair_id": ids, "subset": subset, "section": "A"})
    return frame.assign(reward_chosen=np.asarray(correct, float) - 0.5, reward_rejected=0.0).assign(
        cluster=cluster
    )


def compared(
    a: pd.DataFrame, b: pd.DataFrame, protocol: Protocol, resamples: int = 100
) -> pd.DataFrame:
    return comparison.compared([a], [b], protocol, Options(resamples, seed=0, level=0.95))


def coin(generator: np.random.Generator, size: int, p: float = 0.7) -> np.ndarray:
    return (generator.random(size) < p).astype(float)


def test_compare_by_hand() -> None:
    a = pd.concat([scores_of(np.array([1, 1, 0, 0])), scores_of(np.array([0, 0]), "z")])
    b = pd.concat([scores_of(np.array([1, 0, 1, 1])), scores_of(np.array([1, 1]), "z")])
    table = compared(a, b.sample(frac=1, random_state=0), TWO, resamples=500)
    assert table["name"].tolist() == ["A", "B", "average"]
    section, other, average = (values for _, values in table.iterrows())
    assert (section["a"], section["b"], section["difference"]) == (0.5, 0.75, 0.25)
    assert (section["n01"], section["n10"], section["pairs"]) == (2, 1, 4)
    assert (other["difference"], other["low"], other["high"]) == (1.0, 1.0, 1.0)
    assert other["p_mcnemar"] == pytest.approx(0.5)
    assert average["difference"] == pytest.approx(0.625)
    assert (average["n01"], average["n10"], average["pairs"]) == (4, 1, 6)
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p_mcnemar"]).tolist())
    assert section["cohens_h"] == pytest.approx(math.pi / 6)


def test_compare_a_model_with_itself() -> None:
    scores = scores_of(coin(np.random.default_rng(11), 30))
    found = compared(scores, scores, ONE, resamples=100)
    assert (found[["difference", "low", "high"]] == 0).all(axis=None)
    assert (found[["p_mcnemar", "p_holm", "p_cluster"]] == 1).all(axis=None)


def test_swapping_the_models_swaps_the_signs() -> None:
    generator = np.random.default_rng(12)
    a, b = scores_of(coin(generator, 50, 0.5)), scores_of(coin(generator, 50, 0.8))
    forth, back = (compared(*each, ONE, resamples=300) for each in ((a, b), (b, a)))
    assert forth["difference"].tolist() == pytest.approx((-back["difference"]).tolist())
    assert forth["low"].tolist() == pytest.approx((-back["high"]).tolist())
    assert forth["p_mcnemar"].tolist() == back["p_mcnemar"].tolist()


def test_cluster_p_value_near_mcnemar_for_single_pairs_and_larger_for_clusters() -> None:
    generator = np.random.default_rng(13)
    a, b = np.repeat(coin(generator, 40, 0.5), 5), np.repeat(coin(generator, 40, 0.7), 5)
    single = compared(scores_of(a), scores_of(b), ONE, resamples=4000).iloc[0]
    assert single["p_cluster"] == pytest.approx(single["p_mcnemar"], abs=0.02)
    cluster = [f"c{index // 5}" for index in range(200)]
    whole = compared(
        scores_of(a, cluster=cluster), scores_of(b, cluster=cluster), ONE, resamples=4000
    ).iloc[0]
    assert whole["p_cluster"] > 5 * single["p_cluster"]
    assert whole["high"] - whole["low"] > 1.8 * (single["high"] - single["low"])


def test_compare_needs_the_same_pairs() -> None:
    scores = scores_of(np.ones(4))
    with pytest.raises(InputError, match="1 pairs are in a and not in b: x/3"):
        compared(scores, scores.iloc[:3], ONE)
    with pytest.raises(InputError, match="1 pairs are in b and not in a: x/3"):
        compared(scores.iloc[:3], scores, ONE)
    moved = scores.assign(subset=["x", "x", "x", "y"])
    with pytest.raises(InputError, match="1 pairs are in different subsets, first 'x/3'"):
        compared(scores, moved, TWO)


def test_several_seeds_are_paired_in_order_and_may_lack_an_interval() -> None:
    first = [scores_of(np.array(x)) for x in ([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0])]
    second = [scores_of(np.array(x)) for x in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1])]
    options = Options(resamples=1, seed=0, level=0.95)
    row = comparison.compared(first, second, ONE, options).iloc[-1]
    assert (row["a"], row["b"], row["difference"]) == (0.5, 0.75, 0.25)
    assert (row["seed_low"], row["seed_high"]) == (0.25, 0.25)  # 0.25 in every seed
    alone = [each.head(1) for each in first], [each.head(1) for each in second]
    table = comparison.compared(*alone, ONE, options)
    assert table[["low", "p", "p_holm"]].isna().all(axis=None)
