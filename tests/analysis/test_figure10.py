"""Figure 10 from hand-made distances by layer."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure10
from rm.errors import InputError


def layers(sections: tuple[str, ...] = ("Chat", "Reasoning"), pairs: int = 4) -> pd.DataFrame:
    """Layer 0: last token alike; layer 1: all categories alike; layer 2: each at its own size."""
    rows = [
        {
            **{"method": "untrained", "pair_id": f"{section}{i}", "section": section},
            **{"pooling": pooling, "layer": layer, "norm": 2.0},
            "distance": (float(pooling == "mean"), 1.0 + 0.1 * i, 10.0**place)[layer],
        }
        for place, section in enumerate(sections)
        for i in range(pairs)
        for pooling in ("last", "mean")
        for layer in range(3)
    ]
    return pd.DataFrame(rows)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(relative=frame["distance"] / frame["norm"])[figure10.COLUMNS]


def test_profiles_are_medians_of_the_relative_distance() -> None:
    table = figure10.profiles(tidy(layers())).set_index(["pooling", "section", "layer"])
    row = table.loc[("last", "Chat", 1)]
    assert row["median"] == pytest.approx(1.15 / 2) and row["pairs"] == 4
    assert (row["q25"], row["q75"]) == (pytest.approx(1.075 / 2), pytest.approx(1.225 / 2))


def test_separation_is_the_share_of_variance_between_categories() -> None:
    table = figure10.separation(tidy(layers()), resamples=50).set_index(["pooling", "layer"])
    assert np.isnan(table.loc[("last", 0), "share"]) and table.loc[("last", 0), "pairs"] == 0
    assert table.loc[("last", 1), "share"] == pytest.approx(0, abs=1e-12)
    row = table.loc[("mean", 2)]
    assert (row["share"], row["share_low"], row["share_high"]) == (1, 1, 1)
    values = [np.array([[1.0, 3.0]]), np.array([[5.0, 7.0]])]
    assert figure10.between(values)[0] == pytest.approx(16 / 20)  # 4·2² of 9 + 1 + 1 + 9


def test_draw_says_where_categories_separate() -> None:
    figure = figure10.draw(tidy(layers()), note="n")
    title = "Last token: layer 2 of 2 separates sections most, 100% of variance"
    assert figure.get_suptitle() == title
    split = {"pooling": ["last", "last", "mean"], "layer": [1, 2, 2], "share": [0.2, 0.1, 0.9]}
    assert "layer 1 of 2 separates sections most, 20%" in figure10.verdict(pd.DataFrame(split))
    assert "8 pairs (Chat 4, Reasoning 4)" in str(figure.get_label())
    first = figure.axes[0].get_lines()[0]
    assert list(first.get_xdata()) == [1, 2]  # layer 0 of the last token is 0: not on a log axis
    assert figure.axes[0].get_yscale() == "log"


def test_the_axis_of_shares_starts_at_04_unless_an_interval_is_below() -> None:
    bottom = figure10.draw(tidy(layers())).axes[2].get_ylim()[0]
    assert bottom == 0  # layer 1 has a share of 0
    apart = layers()
    apart = apart[(apart["layer"] == 2) | (apart["pooling"] == "x")]
    axes = figure10.draw(tidy(apart)).axes[2]
    assert axes.get_ylim() == (0.4, 1)


def test_one_category_and_single_pairs_draw_and_claim_nothing() -> None:
    for frame in (layers(("Chat",)), layers(pairs=1)):
        figure = figure10.draw(tidy(frame))
        assert figure.get_suptitle().startswith("One section, or too few pairs")


def test_collect_keeps_the_untrained_backbone(tmp_path: Path) -> None:
    path = tmp_path / "layers.parquet"
    frame = layers().replace({"section": {"Reasoning": "reasoning"}})
    pd.concat([frame, frame.assign(method="bt")]).to_parquet(path)
    found = figure10.collect(tmp_path)
    assert list(found) == figure10.COLUMNS and len(found) == 48
    assert set(found["section"]) == {"Chat", "Reasoning"}
    assert found["relative"].max() == pytest.approx(5)
    frame.assign(norm=0.0, distance=0.0).to_parquet(path)
    assert (figure10.collect(tmp_path)["relative"] == 0).all()
    frame.assign(method="bt").to_parquet(path)
    with pytest.raises(InputError, match="no rows of method untrained"):
        figure10.collect(tmp_path)
    pd.concat([frame, frame]).to_parquet(path)
    with pytest.raises(InputError, match="more than one row"):
        figure10.collect(tmp_path)
    with pytest.raises(InputError, match="no rows"):
        figure10.draw(found.head(0))
