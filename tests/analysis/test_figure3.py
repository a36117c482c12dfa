"""Figure 3 from hand-made gradients whose slopes are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure3
from rm.errors import InputError


def gradients(pairs: int = 80, seeds: int = 1, method: str = "untrained") -> pd.DataFrame:
    """‖∇L‖ = 2 · error · distance and w̃ = 10 / distance; d and distance run independently."""
    index = np.arange(pairs)
    rows = [
        pd.DataFrame(
            {
                **{"method": method, "seed": seed, "pair_id": [f"p{i}" for i in index]},
                "distance": 1.0 + index % 8,
                "difference": (index // 8) / 100.0,  # nearly fixed: |σ(d) − 1| near one half
            }
        )
        for seed in range(seeds)
    ]
    frame = pd.concat(rows, ignore_index=True)
    error = 1 / (1 + np.exp(frame["difference"]))
    return frame.assign(
        error=error,
        gradient_norm=2 * error * frame["distance"],
        weight=10.0 / frame["distance"],
        section="Chat",
    )


def collected(tmp_path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_csv(tmp_path / "gradients.csv", index=False)
    return figure3.collect(tmp_path)


def test_collect_multiplies_the_gradient_by_the_weight(tmp_path: Path) -> None:
    frame = collected(tmp_path, gradients(seeds=2))
    assert list(frame) == figure3.COLUMNS and len(frame) == 160
    np.testing.assert_allclose(frame["update_bt"], 2 * frame["error"] * frame["distance"])
    np.testing.assert_allclose(frame["update_normbt"], 20 * frame["error"])


def test_bins_leave_the_tails_out_and_hold_equally_many() -> None:
    frame = pd.DataFrame({"difference": np.arange(101.0)})
    place, edges = figure3.assign_bins(frame, bins=4)
    np.testing.assert_allclose(edges, [10, 30, 50, 70, 90])
    assert (place == -1).sum() == 20
    assert [(place == index).sum() for index in range(4)] == [21, 20, 20, 20]
    assert figure3.assign_bins(pd.DataFrame({"difference": [2.0] * 5}))[0].tolist() == [0] * 5


def test_slope_is_the_error_under_bt_and_zero_under_normbt(tmp_path: Path) -> None:
    """‖∇L‖ = 2 · error · distance, and the error is near one half in every bin."""
    frame = collected(tmp_path, gradients())
    frame = frame.assign(bin=figure3.assign_bins(frame)[0]).query("bin >= 0")
    table = figure3.relations(frame, resamples=200).set_index("update")
    assert table.loc["bt", "slope"] == pytest.approx(2 * frame["error"].mean(), rel=0.01)
    assert table.loc["bt", "pearson"] > 0.99 and table.loc["bt", "slope_low"] > 0.9
    assert table.loc["normbt", "slope"] == pytest.approx(0, abs=0.01)
    assert table.loc["normbt", "slope_low"] <= 1e-9 <= table.loc["normbt", "slope_high"] + 2e-9


def test_pairs_are_compared_within_their_bin_alone() -> None:
    """Between the bins update and distance rise together; within each the update falls."""
    frame = pd.DataFrame(
        {
            **{"seed": 0, "pair_id": [f"p{i}" for i in range(20)], "bin": np.arange(20) // 10},
            "distance": [*range(10), *range(100, 110)],
            "update_bt": [*range(10, 0, -1), *range(1010, 1000, -1)],
            "update_normbt": 1.0,
        }
    )
    table = figure3.relations(frame, resamples=20)
    assert table["slope"][0] == pytest.approx(-1) and table["pearson"][0] == pytest.approx(-1)
    assert np.isnan(table["pearson"][1])


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ([0.5, -0.1], [0.9, 0.1], "BT's update grows with distance, NormBT's is unclear"),
        ([0.5, -0.9], [0.9, -0.1], "BT's update grows with distance, NormBT's falls"),
        ([-0.5, -0.9], [0.9, 0.1], "neither update clearly follows the distance"),
        ([np.nan] * 2, [np.nan] * 2, "Too few pairs: no slope to give"),
    ],
)
def test_the_title_says_how_updates_go_with_distance(
    low: list[float], high: list[float], words: str
) -> None:
    rows = pd.DataFrame({"pearson": low, "pearson_low": low, "pearson_high": high})
    title = figure3.verdict(rows)
    assert title.endswith(words) and len(title.split()) <= 12


def test_draw_shows_the_untrained_model_in_a_panel_per_update(tmp_path: Path) -> None:
    both = pd.concat([gradients(), gradients(method="bt")])
    figure = figure3.draw(collected(tmp_path, both), note="tiny · 1 seed")
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes] == [
        "BT update",
        "NormBT update",
    ]
    caption = str(figure.get_label())
    assert (
        "of 80 pairs, untrained backbone" in caption and figure.get_supxlabel() == "tiny · 1 seed"
    )
    assert "BT's update grows with distance" in figure.get_suptitle()
    assert "slope 0.9" in figure.axes[0].get_title(loc="left")


def test_every_point_and_line_is_inside_the_shared_axis(tmp_path: Path) -> None:
    frame = gradients()
    frame["weight"] *= 10  # NormBT's updates far above those of BT's panels
    drawn = figure3.draw(collected(tmp_path, frame))
    low, high = drawn.axes[0].get_ylim()
    assert low == 0
    for axes in drawn.axes:
        shown = [*axes.collections[0].get_offsets()[:, 1], *axes.lines[0].get_ydata()]
        assert axes.get_ylim() == (low, high) and 0 <= min(shown) <= max(shown) <= high


def test_extreme_inputs_draw_or_say_why(tmp_path: Path) -> None:
    frame = collected(tmp_path, gradients())
    with pytest.raises(InputError, match="no rows"):
        figure3.draw(frame.head(0))
    assert "Too few pairs" in figure3.draw(frame.head(3)).get_suptitle()
    assert "Too few pairs" in figure3.draw(frame.head(1)).get_suptitle()
    same = figure3.draw(frame.assign(distance=0.0))  # no spread, no slope
    assert "Too few pairs" in same.get_suptitle()
