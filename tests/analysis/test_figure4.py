"""Figure 4 from hand-made scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure4
from eval.bootstrap import draw_counts, percentile_interval
from eval.protocol import Protocol
from eval.statistics import section_intervals
from rm.errors import InputError

PLACE = {"backbone": "tiny", "data": "made", "benchmark": "generated"}


def disagreements(outcomes: list[tuple[int, float, str]], seeds: int = 1) -> pd.DataFrame:
    """One row per seed and pair: (pair, distance, who is right: "b", "n", "bn" or "")."""
    rows = [
        {
            **PLACE,
            **{"seed": seed, "pair_id": f"p{pair}", "cluster": f"pair:p{pair}"},
            **{"distance": distance, "correct_bt": "b" in who, "correct_normbt": "n" in who},
        }
        for seed in range(seeds)
        for pair, distance, who in outcomes
    ]
    return pd.DataFrame(rows)


def ladder(pairs: int = 60, seeds: int = 1) -> pd.DataFrame:
    """Close pairs: NormBT alone is right; far pairs: BT alone; the middle third: both."""
    third = pairs // 3
    who = ["n"] * third + ["bn"] * third + ["b"] * third
    return disagreements([(i, float(i), w) for i, w in enumerate(who)], seeds)


def scores(seeds: int = 2) -> pd.DataFrame:
    """Ten pairs of distance 0 … 9 before training; BT right on even pairs, NormBT on p0 to p4."""
    rows = []
    for method in ("untrained", "bt", "normbt"):
        for seed in range(1 if method == "untrained" else seeds):
            for i in range(10):
                right = i % 2 == 0 if method == "bt" else i < 5
                rows.append(
                    {
                        **PLACE,
                        **{"method": method, "seed": seed, "pair_id": f"p{i}", "subset": "s"},
                        **{"section": "Chat", "reward_chosen": float(right)},
                        "reward_rejected": 0.0,  # wrong ones tie: a tie is a loss
                        "distance": float(i) if method == "untrained" else 100.0,
                    }
                )
    return pd.DataFrame(rows)


def test_collect_joins_seeds_pairs_and_the_untrained_distance(tmp_path: Path) -> None:
    scores().to_parquet(tmp_path / "scores.parquet")
    frame = figure4.collect(tmp_path)
    assert list(frame) == figure4.COLUMNS and len(frame) == 20
    first = frame[frame["seed"] == 0].sort_values("pair_id")
    assert first["distance"].tolist() == list(range(10))
    assert first["correct_bt"].tolist() == [i % 2 == 0 for i in range(10)]
    assert first["correct_normbt"].tolist() == [i < 5 for i in range(10)]


def test_collect_says_what_is_missing(tmp_path: Path) -> None:
    frame, path = scores(), tmp_path / "scores.parquet"
    method, third = frame["method"], frame["pair_id"] == "p3"
    elsewhere = frame.assign(seed=frame["seed"] + 10 * (method == "bt"))
    cases = [
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


def test_bins_are_quantiles_over_distinct_pairs() -> None:
    frame = ladder(60, seeds=3)
    place, edges = figure4.assign_bins(frame, 6)
    assert np.bincount(place).tolist() == [30] * 6
    assert edges[0] == 0 and edges[-1] == 59 and len(edges) == 7
    table = figure4.bin_table(frame, 6, resamples=50)
    assert table["pairs"].tolist() == [10] * 6
    lop = pd.concat([frame, frame[frame["pair_id"] == "p0"].assign(seed=9)])
    np.testing.assert_allclose(figure4.assign_bins(lop, 6)[1], edges)  # seeds do not move edges


def test_wins_shares_and_differences_bin_by_bin() -> None:
    table = figure4.bin_table(ladder(60, seeds=3), 3, resamples=200)
    assert table["wins_normbt"].tolist() == [60, 0, 0]
    assert table["wins_bt"].tolist() == [0, 0, 60]
    assert table["voting"].tolist() == [20, 0, 20]
    assert table["share"].tolist() == pytest.approx([1, np.nan, 0], nan_ok=True)
    assert table["vote"].tolist() == pytest.approx([1, np.nan, 0], nan_ok=True)
    assert table["difference"].tolist() == [100, 0, -100]
    # Clopper–Pearson of 20 votes out of 20, not of 60 wins: (0.025)^(1/20)
    assert table["vote_low"][0] == pytest.approx(0.025 ** (1 / 20))
    assert table["vote_high"][2] == pytest.approx(1 - 0.025 ** (1 / 20))
    assert np.isnan(table["vote_low"][1]) and np.isnan(table["share_low"][1])


def test_seeds_do_not_narrow_the_interval() -> None:
    """Twelve copies of the same outcomes are no more evidence than one."""
    outcomes = [(i, 1.0, "n" if i % 2 else "b") for i in range(40)]
    one, many = (
        figure4.bin_table(disagreements(outcomes, seeds), 1, resamples=2000).iloc[0]
        for seeds in (1, 12)
    )
    assert many["wins_bt"] == 12 * one["wins_bt"] == 240
    for name in ("share_low", "share_high", "vote_low", "vote_high", "difference_low"):
        assert many[name] == pytest.approx(one[name])
    assert one["share_high"] - one["share_low"] == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, abs=0.06)


def opposed(pairs: int = 400) -> pd.DataFrame:
    """In seed 0 NormBT alone is right on every pair, in seed 1 BT alone."""
    rows = [(i, float(i)) for i in range(pairs)]
    return pd.concat(
        [disagreements([(*row, who) for row in rows]).assign(seed=s) for s, who in enumerate("nb")]
    )


def test_seeds_are_redrawn_too() -> None:
    """Two seeds of opposite gains: one resample in four holds seed 0 alone, one seed 1 alone."""
    row = figure4.bin_table(opposed(), 1, resamples=500).iloc[0]
    assert (row["share"], row["share_low"], row["share_high"]) == (0.5, 0, 1)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, -100, 100)


def test_the_trend_redraws_the_same_seeds_in_both_bins() -> None:
    """A gain that differs by seed and not by distance leaves no trend, whatever seeds are drawn."""
    frame = opposed()
    assert figure4.trend(frame, 2, 500) == {"trend": 0, "trend_low": 0, "trend_high": 0}
    far = frame["distance"] >= 200
    tilted = frame.assign(correct_bt=far, correct_normbt=far | (frame["seed"] == 0))
    assert figure4.trend(tilted, 2, 500) == {"trend": 50, "trend_low": 0, "trend_high": 100}


def mixed(seeds: int) -> pd.DataFrame:
    """Eighty pairs, two a cluster, with outcomes that differ by seed and pair."""
    rng = np.random.default_rng(3)
    frame = disagreements([(i, 1.0, "") for i in range(80)], seeds)
    right = rng.random((2, len(frame))) < [[0.5], [0.7]]
    cluster = [f"c{int(pair[1:]) // 2:02}" for pair in frame["pair_id"]]
    return frame.assign(correct_bt=right[0], correct_normbt=right[1], cluster=cluster)


def test_intervals_are_those_of_eval_statistics() -> None:
    """One seed: its bootstrap over pairs, draw by draw; more: table 1's, up to the draws."""
    frame = mixed(seeds=1)
    row = figure4.bin_table(frame, 1, resamples=500).iloc[0]
    apart = frame["correct_normbt"].astype(float) - frame["correct_bt"].astype(float)
    clusters = apart.groupby(frame["cluster"]).agg(["sum", "count"]).to_numpy()
    drawn = draw_counts(np.random.default_rng(0), 500, len(clusters)) @ clusters
    ends = percentile_interval(drawn[:, 0] / drawn[:, 1])
    found = [row[f"difference{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([100 * value for value in (apart.mean(), *ends)])

    frame = mixed(seeds=3)
    row = figure4.bin_table(frame, 1, resamples=4000).iloc[0]
    gains = frame["correct_normbt"].astype(float) - frame["correct_bt"].astype(float)
    outcomes = frame.assign(subset="s", correct=gains)
    protocol = Protocol.from_counts("one", outcomes.assign(section="Chat"))
    table = section_intervals(outcomes, protocol, resamples=4000).iloc[0]
    found = [row[f"difference{end}"] for end in ("", "_low", "_high")]
    expected = [100 * table[name] for name in ("mean", "low", "high")]
    assert found == pytest.approx(expected, abs=1.0)


def test_a_seed_without_pairs_of_a_bin_is_drawn_and_counts_nothing() -> None:
    frame = pd.concat([ladder(60), disagreements([(0, 0.0, "b")]).assign(seed=1)])
    trend = figure4.trend(frame, 3, resamples=200)
    assert trend["trend"] == pytest.approx(100 * 19 / 21 + 100)
    assert np.isfinite([trend["trend_low"], trend["trend_high"]]).all()


def test_pairs_of_one_problem_are_resampled_together() -> None:
    frame = disagreements([(i, 1.0, "n" if i < 20 else "b") for i in range(40)])
    alone = figure4.bin_table(frame, 1, resamples=500).iloc[0]
    frame["cluster"] = ["a"] * 20 + ["b"] * 20
    joint = figure4.bin_table(frame, 1, resamples=500).iloc[0]
    assert (joint["share_low"], joint["share_high"]) == (0, 1)
    assert alone["share_low"] > 0.3


def test_majority_over_seeds_and_ties_of_votes() -> None:
    frame = pd.concat(
        [
            disagreements([(0, 1.0, "n"), (1, 1.0, "n"), (2, 1.0, "bn")]),
            disagreements([(0, 1.0, "n"), (1, 1.0, "b"), (2, 1.0, "b")]).assign(seed=1),
        ]
    )
    row = figure4.bin_table(frame, 1, resamples=20).iloc[0]
    assert (row["wins_normbt"], row["wins_bt"]) == (3, 2)
    assert (row["votes"], row["voting"]) == (1, 2)  # p0 for NormBT, p2 for BT, p1 undecided
    assert row["share"] == pytest.approx(0.6)
    assert row["difference"] == pytest.approx(100 / 6)


def test_trend_and_verdict() -> None:
    frame = ladder(60)
    trend = figure4.trend(frame, 3, resamples=200)
    assert trend == {"trend": 200.0, "trend_low": 200.0, "trend_high": 200.0}
    words = figure4.verdict(figure4.bin_table(frame, 3, 50), trend)
    assert "largest in bin 1 of 3" in words and "+100.0 points" in words
    assert "closest bin gains more than the farthest: +200.0" in words
    swapped = frame.rename(columns={"correct_bt": "correct_normbt", "correct_normbt": "correct_bt"})
    words = figure4.verdict(figure4.bin_table(swapped, 3, 50), figure4.trend(swapped, 3, 50))
    assert "largest in bin 3 of 3" in words and "gains less than the farthest: −200.0" in words
    worse = disagreements([(i, float(i), "b") for i in range(12)])
    words = figure4.verdict(figure4.bin_table(worse, 3, 50), figure4.trend(worse, 3, 50))
    assert "positive in no bin" in words and "is inconclusive: " in words


def test_draw_states_counts_and_bars() -> None:
    figure = figure4.draw(ladder(60, seeds=2), note="tiny · 2 seeds")
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "60 pairs, 2 seeds, 80 disagreements" in caption and "tiny · 2 seeds" in caption
    assert "bootstrap over seeds and then pairs" in caption
    wins = figure.axes[0]
    heights = [bar.get_height() for bar in wins.patches]
    assert heights == [0, 0, 0, 0, 20, 20, 20, 20, 0, 0, 0, 0]
    assert wins.get_xticklabels()[0].get_text() == "0"
    assert wins.get_legend() is not None


def test_extreme_inputs_draw_or_say_why() -> None:
    with pytest.raises(InputError, match="no rows"):
        figure4.draw(ladder().head(0))
    with pytest.raises(InputError, match="lacks the columns distance"):
        figure4.draw(ladder().drop(columns="distance"))
    agreed = figure4.draw(disagreements([(i, float(i), "bn") for i in range(9)]))
    assert agreed.get_suptitle() == "BT and NormBT never disagree"
    same = figure4.draw(disagreements([(i, 2.0, "n") for i in range(9)]))
    assert "one bin" in same.get_suptitle()
    assert figure4.draw(disagreements([(0, 1.0, "n")])).axes


def test_each_backbone_and_data_set_has_its_own_row_and_bins() -> None:
    other = ladder(30).assign(data="other", distance=lambda f: 100 + f["distance"])
    figure = figure4.draw(pd.concat([ladder(60), other]))
    assert len(figure.axes) == 6
    assert figure.axes[3].get_xticklabels()[0].get_text() == "100"
    assert "90 pairs" in figure.get_supxlabel()
