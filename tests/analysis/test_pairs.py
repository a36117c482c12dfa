"""Browsing pairs, from hand-made scores and texts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import pairs
from rm.errors import InputError


def write(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> None:
    """Three pairs at distance 3, 2, 1; BT's difference is the seed, NormBT's minus it."""
    scores = [
        {
            **{"method": method, "backbone": "b", "data": "d", "benchmark": "g", "seed": seed},
            **{"pair_id": f"p{i}", "subset": "s", "section": "chat_hard", "distance": 3.0 - i},
            **{"reward_chosen": sign * seed, "reward_rejected": 0.0},
        }
        for method, sign in (("untrained", 0.0), ("bt", 1.0), ("normbt", -1.0))
        for seed in ((0,) if method == "untrained" else seeds)
        for i in range(3)
    ]
    pd.DataFrame(scores).to_parquet(folder / "scores.parquet")
    texts = [
        {"pair_id": f"p{i}", "prompt": f"q{i}", "chosen": "c", "rejected": "r"} for i in (0, 1, 2)
    ]
    pd.DataFrame(texts).to_parquet(folder / "pairs.parquet")


def test_both_models_of_one_seed_closest_first(tmp_path: Path) -> None:
    write(tmp_path)
    frame = pairs.collect(tmp_path)
    assert frame["pair_id"].tolist() == ["p2", "p1", "p0"]
    assert frame["distance"].tolist() == [1, 2, 3] and set(frame["section"]) == {"Chat Hard"}
    assert (frame["difference_a"] == 1).all() and (frame["difference_b"] == -1).all()
    assert frame["error_a"].tolist() == pytest.approx([1 / (1 + np.e)] * 3)
    assert frame["correct_a"].all() and not frame["correct_b"].any()
    assert (pairs.collect(tmp_path, seed=2)["difference_a"] == 2).all()
    text = pairs.show(frame.iloc[0])
    assert "p2 · Chat Hard · s · distance 1 · error 0.27 and 0.73" in text
    assert "PROMPT\nq2" in text and text.index("CHOSEN\nc") < text.index("REJECTED\nr")


def test_missing_methods_and_seeds_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(InputError, match="no rows of method bt_margin"):
        pairs.collect(tmp_path, "bt_margin")
    with pytest.raises(InputError, match=r"share the seeds \[1, 2\]"):
        pairs.collect(tmp_path, seed=7)
