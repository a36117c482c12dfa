"""Outcomes of several seeds: pairing two methods, and what is one unit."""

import pandas as pd
import pytest

from eval import strata
from rm.errors import InputError


def test_pair_up_keeps_shared_seeds_and_refuses_unlike_pairs() -> None:
    left = pd.DataFrame({"seed": [0, 0, 1], "pair_id": ["a", "b", "a"], "v": [1, 2, 3]})
    right = pd.DataFrame({"seed": [0, 0, 2], "pair_id": ["b", "a", "a"], "v": [20, 10, 30]})
    both = strata.pair_up(left, right, ["seed", "pair_id"], "v", "x").sort_values("pair_id")
    assert both[["v_left", "v_right"]].values.tolist() == [[1, 10], [2, 20]]
    with pytest.raises(InputError, match=r"1 rows .* no counterpart"):
        strata.pair_up(left, right.iloc[1:], ["seed", "pair_id"], "v", "x")


def test_paired_outcomes_are_differences_of_the_shared_seeds() -> None:
    rows = {"pair_id": ["a", "b"] * 2, "subset": "x", "cluster": ["k", ""] * 2}
    ours = pd.DataFrame({"seed": [0, 0, 1, 1], "correct": [1.0, 0, 1, 1], **rows})
    base = pd.DataFrame({"seed": [1, 1, 2, 2], "correct": [0.0, 1, 1, 1], **rows})
    both = strata.paired(ours, base).sort_values("pair_id")
    assert both["seed"].tolist() == [1, 1] and both["correct"].tolist() == [1, 0]
    assert both["cluster"].tolist() == ["k", ""] and set(both["subset"]) == {"x"}
    assert "cluster" not in strata.paired(ours.drop(columns="cluster"), base)


def test_subsets_that_share_a_cluster_are_one_stratum() -> None:
    frame = pd.DataFrame(
        {
            **{"seed": 0, "correct": [1.0, 0, 1, 1], "pair_id": [*"abcd"]},
            **{"subset": ["x", "y", "y", "z"], "cluster": ["k", "k", "", ""]},
        }
    )
    first, second = strata.strata_of(frame)
    assert (first.subsets, second.subsets) == (("x", "y"), ("z",))
    assert first.counts.tolist() == [[1, 1], [0, 1]] and second.counts.tolist() == [[1]]
    assert first.values.tolist() == [[[1, 0], [0, 1]]]
