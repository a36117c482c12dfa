"""Figure 4 from hand-made scores."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import claims, figure4
from analysis.tables import AbsentError
from eval import crossed
from rm.errors import InputError

PLACE = {"backbone": "tiny", "data": "made", "benchmark": "generated"}


def outcomes(
    gains: dict[str, list[int]], seeds: int = 3, spread: float = 0.0, **place: str
) -> pd.DataFrame:
    """What `collect` returns: per subset the pairs' NormBT − BT; the i-th pair's distance is i.

    `spread`: the share of seed × pair outcomes that are 0 instead.
    """
    rng = np.random.default_rng(0)
    rows = [
        {
            **(PLACE | place),
            **{"seed": seed, "pair_id": f"{subset}/{i}", "cluster": f"pair:{subset}/{i}"},
            **{"subset": subset, "distance": float(i), "correct": float(value)},
            "wrapping": subset.rpartition("-")[2] if "-" in subset else "all",
        }
        for subset, values in gains.items()
        for i, value in enumerate(values)
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(rows)
    frame["correct"] *= rng.random(len(frame)) >= spread
    return frame[figure4.COLUMNS]


HALF = [0, 1] * 20
WRAPPED = {"sums-close": HALF, "code-close": [1] * 10, "sums-far": [0] * 40, "code-far": [0] * 10}


def scores(section: str = "reasoning") -> pd.DataFrame:
    """Ten pairs, close and far; BT right on even pairs, NormBT on p0 to p4."""
    rows = [
        {
            **PLACE,
            **{"method": method, "seed": seed, "pair_id": f"p{i}", "section": section},
            **{"subset": "sums-close" if i < 5 else "sums-far", "reward_rejected": 0.0},
            "reward_chosen": float(i % 2 == 0 if method == "bt" else i < 5),  # else a tie: a loss
            "distance": float(i) if method == "untrained" else 100.0,
        }
        for method in ("untrained", "bt", "normbt")
        for seed in range(1 if method == "untrained" else 2)
        for i in range(10)
    ]
    return pd.DataFrame(rows)


def test_collect_joins_reasoning_pairs_and_the_untrained_distance(tmp_path: Path) -> None:
    both = pd.concat([scores(), scores("Chat").assign(pair_id=lambda f: "chat" + f["pair_id"])])
    both.to_parquet(tmp_path / "scores.parquet")
    frame = figure4.collect(tmp_path)
    assert list(frame) == figure4.COLUMNS and len(frame) == 20
    first = frame[frame["seed"] == 0].sort_values("pair_id")
    assert first["distance"].tolist() == list(range(10))
    assert first["correct"].tolist() == [0, 1, 0, 1, 0, 0, -1, 0, -1, 0]
    assert first["wrapping"].tolist() == ["close"] * 5 + ["far"] * 5
    scores().assign(subset="sums").to_parquet(tmp_path / "scores.parquet")
    assert set(figure4.collect(tmp_path)["wrapping"]) == {"all"}


def test_collect_says_what_is_missing(tmp_path: Path) -> None:
    frame, path = scores(), tmp_path / "scores.parquet"
    method, third = frame["method"], frame["pair_id"] == "p3"
    elsewhere = frame.assign(seed=frame["seed"] + 10 * (method == "bt"))
    cases = [
        (scores("Chat"), "section Reasoning, has no rows"),
        (frame[method != "untrained"], "no rows of method untrained"),
        (frame[method != "bt"], "no rows of method bt"),
        (elsewhere, "share no seed"),
        (frame[~((method == "untrained") & third)], "2 rows have no distance"),
        (frame[~((method == "bt") & third)], "no counterpart"),
    ]
    for rows, message in cases:
        rows.to_parquet(path)
        with pytest.raises(InputError, match=message):
            figure4.collect(tmp_path)


def test_bins_are_quantiles_of_distinct_pairs_within_each_wrapping() -> None:
    table = figure4.bin_table(outcomes({"a-close": HALF, "a-far": HALF[:20]}), bins=2)
    assert table["wrapping"].tolist() == ["close"] * 2 + ["far"] * 2
    assert table["pairs"].tolist() == [20, 20, 10, 10]
    assert table["distance"].tolist() == [9.5, 29.5, 4.5, 14.5]
    alone = figure4.bin_table(outcomes({"a-close": HALF}, seeds=7), bins=2)
    assert alone["distance"].tolist() == [9.5, 29.5]  # seeds do not move the edges


def test_a_bins_gain_and_interval_are_those_of_crossed_effects() -> None:
    frame = outcomes({"sums": [1] * 20 + [0] * 20}, spread=0.5)
    table = figure4.bin_table(frame, bins=2)
    close = frame[frame["distance"] < 20]
    expected = crossed.estimate(close, {"sums": 1.0}).population
    found = table.iloc[0][["gain", "gain_low", "gain_high"]].to_numpy(float)
    assert found == pytest.approx([100 * v for v in (expected.value, *expected.interval())])
    assert table["gain"].tolist() == pytest.approx([100 * close["correct"].mean(), 0])


def test_close_minus_far_is_the_claims_number(tmp_path: Path) -> None:
    frame = scores()
    wide = pd.concat(
        [frame.assign(pair_id=frame["pair_id"] + f"/{i}", distance=frame["distance"] + i)
         for i in range(8)]
    )  # fmt: skip
    flipped = (wide["method"] == "normbt") & (wide["seed"] == 1) & wide["pair_id"].str.endswith("3")
    wide.loc[flipped, "reward_chosen"] = 1.0
    wide.to_parquet(tmp_path / "scores.parquet")
    found = figure4.overall(figure4.collect(tmp_path))
    claim = claims.close_minus_far(tmp_path, "normbt", "bt", "reasoning")
    assert list(found) == ["close", "far", "difference"]
    assert found["difference"]["gain"] == pytest.approx(claim.estimate.value)
    assert found["difference"]["gain_low"] == pytest.approx(claim.low)
    assert found["close"]["gain"] - found["far"]["gain"] == pytest.approx(claim.estimate.value)


def test_a_wrapping_weighs_its_subsets_by_their_pairs() -> None:
    found = figure4.overall(outcomes(WRAPPED))
    assert found["close"]["gain"] == pytest.approx(100 * 30 / 50) and found["far"]["gain"] == 0
    assert found["difference"]["gain"] == pytest.approx(60)
    assert [*figure4.overall(outcomes({"sums": HALF}))] == ["all"]


def test_the_title_compares_close_with_far_or_the_outermost_bins() -> None:
    title = figure4.draw(outcomes(WRAPPED)).get_suptitle()
    assert title == "Reasoning gain: +60.0 points on close pairs, 0.0 on far pairs"
    title = figure4.draw(outcomes({"sums": [1] * 10 + [0] * 20 + [-1] * 10})).get_suptitle()
    assert title == "Reasoning gain: +100.0 points on the closest pairs, −100.0 on the farthest"


def test_one_panel_has_a_line_per_wrapping_and_the_difference_below() -> None:
    figure = figure4.draw(outcomes(WRAPPED, spread=0.2), note="tiny · 3 seeds")
    (axes,) = figure.axes
    close, far = (bar.lines[0] for bar in axes.containers)
    assert len(close.get_xdata()) == len(far.get_xdata()) == figure4.BINS
    assert close.get_linestyle() != far.get_linestyle()  # told apart in grey
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "close pairs, same faults",
        "far pairs, same faults",
    ]
    caption = str(figure.get_label())
    assert "100 Reasoning pairs, 3 seeds" in caption and "Close minus far: +" in caption
    assert "Close minus far" not in str(figure4.draw(outcomes({"sums": HALF})).get_label())


def test_the_caption_has_no_interval_where_one_seed_gives_none() -> None:
    for seeds, expected in (
        (1, r"far: \+60\.0 points\."),
        (3, r"far: \+60\.0 \[\S+, \S+\] points\."),
    ):
        frame = outcomes(WRAPPED, seeds=seeds)
        said = figure4.caption(frame, [figure4.overall(frame)["difference"]])
        assert re.search(expected, said) and "–" not in said


def test_extreme_inputs_draw_or_say_why() -> None:
    with pytest.raises(AbsentError, match="no rows"):
        figure4.draw(outcomes(WRAPPED).head(0))
    with pytest.raises(InputError, match="lacks the columns distance"):
        figure4.draw(outcomes(WRAPPED).drop(columns="distance"))
    alone = figure4.bin_table(outcomes({"sums": HALF}, seeds=1))
    assert alone["gain"].notna().all() and alone["gain_low"].isna().all()
    same = figure4.draw(outcomes({"sums": HALF}).assign(distance=2.0))
    assert "too few distances to compare" in same.get_suptitle()
    assert figure4.draw(outcomes({"sums": [1]})).axes


def test_each_backbone_and_data_set_has_its_own_panel() -> None:
    other = outcomes({"sums": HALF}, data="other").assign(distance=lambda f: 100 + f["distance"])
    figure = figure4.draw(pd.concat([outcomes(WRAPPED), other]))
    left, right = figure.axes
    assert "tiny · made · generated. Reasoning gain: +60.0" in left.get_title().replace("\n", " ")
    assert right.get_xlim()[0] > 90
    assert "140 Reasoning pairs" in str(figure.get_label())
