"""Figure 8 from distances that are known functions of the features."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure8
from rm.errors import InputError


def pairs(count: int = 200, *, sections: int = 2, noise: float = 0.0) -> pd.DataFrame:
    """Log distance is −2 × overlap + noise; the other features are independent of it."""
    rng = np.random.default_rng(0)
    overlap, edit = rng.uniform(size=(2, count))
    return pd.DataFrame(
        {
            "pair_id": [f"p{i}" for i in range(count)],
            "cluster": [f"pair:p{i}" for i in range(count)],
            "section": [("Chat", "Reasoning")[i % sections] for i in range(count)],
            "distance": np.exp(-2 * overlap + noise * rng.normal(size=count)),
            "length_difference": rng.integers(0, 30, count),
            "overlap": overlap,
            "edit_similarity": edit,
        }
    )


def test_the_one_feature_that_matters_gets_all_of_the_share() -> None:
    table = figure8.shares(pairs(), resamples=50).set_index("feature")
    assert list(table.index) == [*figure8.FEATURES, "category"]
    assert table["r2"].iloc[0] == pytest.approx(1, abs=1e-9)
    assert table["share"].sum() == pytest.approx(1, abs=1e-9)
    assert table.loc["overlap", "share"] == pytest.approx(1, abs=0.05)
    assert (table["share_low"] <= table["share"] + 0.02).all()
    assert figure8.verdict(table.reset_index()).endswith(": lexical overlap, 100%")


def test_shares_agree_with_a_plain_regression() -> None:
    frame = pairs(noise=0.5)
    columns, _ = figure8.design(frame)
    x, y = np.column_stack([np.ones(len(frame)), columns[:, :-1]]), columns[:, -1]
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    expected = 1 - rest.var() / y.var()
    table = figure8.shares(frame, resamples=20)
    assert table["r2"].iloc[0] == pytest.approx(expected, abs=1e-9)
    assert 0.2 < expected < 0.8


def test_two_equal_features_share_alike() -> None:
    frame = pairs(noise=0.3)
    table = figure8.shares(frame.assign(edit_similarity=frame["overlap"]), 10).set_index("feature")
    assert table.loc["overlap", "share"] == pytest.approx(table.loc["edit_similarity", "share"])


def test_one_category_few_pairs_and_one_distance_draw() -> None:
    one = figure8.shares(pairs(sections=1), resamples=10)
    assert "category" not in set(one["feature"]) and one["share"].notna().all()
    for frame in (pairs(5), pairs().assign(distance=2.0), pairs().assign(distance=0.0)):
        assert figure8.shares(frame, resamples=10)["share"].isna().all()
        assert figure8.draw(frame).get_suptitle().startswith("Too few pairs")
    whole = figure8.draw(pairs(), note="n")
    assert "ρ = −1.0" in whole.axes[1].get_title(loc="left")
    assert "200 pairs" in str(whole.get_label())
    assert not any(axes.get_legend() for axes in whole.axes)  # it is above the panels
    assert [text.get_text() for text in whole.legends[0].get_texts()] == ["Chat", "Reasoning"]


def test_collect_joins_untrained_scores_and_texts(tmp_path: Path) -> None:
    frame = pairs(4)
    scores = frame[["pair_id", "section", "distance"]].assign(
        method="untrained", backbone="b", data="d", benchmark="g", seed=0, subset="s",
        reward_chosen=1.0, reward_rejected=0.0,
    )  # fmt: skip
    scores.to_parquet(tmp_path / "scores.parquet")
    frame[["pair_id", *figure8.FEATURES]].to_parquet(tmp_path / "pairs.parquet")
    found = figure8.collect(tmp_path)
    assert list(found) == figure8.COLUMNS
    pd.testing.assert_series_equal(found["overlap"], frame["overlap"])
    frame.head(3).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(InputError, match="no texts for 1 of the pairs, first p3"):
        figure8.collect(tmp_path)
    scores.assign(method="bt").to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(InputError, match="no rows of method untrained"):
        figure8.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure8.draw(frame.head(0))
