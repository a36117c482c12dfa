"""Figure 3 from hand-made gradients whose slopes are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure3
from rm.errors import InputError


def gradients(pairs: int = 80, seeds: int = 1, method: str = "bt") -> pd.DataFrame:
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


def test_slope_is_twice_the_error_under_bt_and_zero_under_normbt(tmp_path: Path) -> None:
    table = figure3.relations(collected(tmp_path, gradients()), bins=4, resamples=200)
    assert table["update"].tolist() == ["bt", "normbt"] * 4
    bt, normbt = (table[table["update"] == name] for name in ("bt", "normbt"))
    np.testing.assert_allclose(bt["slope"], bt["error_low"] + bt["error_high"], rtol=0.01)
    assert (bt["pearson"] > 0.99).all() and (bt["slope_low"] > 0.9).all()
    np.testing.assert_allclose(normbt["slope"], 0, atol=0.01)
    assert ((normbt["slope_low"] <= 1e-9) & (normbt["slope_high"] >= -1e-9)).all()


def test_verdict_counts_bins() -> None:
    rows = pd.DataFrame(
        {
            "update": ["bt"] * 3 + ["normbt"] * 3,
            "slope": [1.0, 1.0, -1.0, 0.0, 0.1, np.nan],
            "slope_low": [0.5, -0.1, -2.0, -0.1, 0.05, np.nan],
            "slope_high": [1.5, 2.0, -0.5, 0.1, 0.2, np.nan],
        }
    )
    words = figure3.verdict(rows)
    assert "BT grows in 1, falls in 1, neither in 1 of 3 bins" in words
    assert "NormBT grows in 1, falls in 0, neither in 1 of 2 bins" in words


def test_draw_shows_the_untrained_model_unless_told(tmp_path: Path) -> None:
    both = pd.concat([gradients(), gradients(method="untrained")])
    frame = collected(tmp_path, both)
    figure = figure3.draw(frame, note="tiny · 1 seed")
    assert len(figure.axes) == 8
    caption = figure.get_supxlabel().replace("\n", " ")
    assert "untrained backbone: 80 pairs × 1 seed" in caption and "tiny · 1 seed" in caption
    assert "BT grows in 4" in figure.get_suptitle()
    assert "slope 0.9" in figure.axes[0].get_title()
    assert "after BT training" in figure3.draw(frame, model="bt").get_supxlabel()
    with pytest.raises(InputError, match=r"no model 'normbt' .* untrained, bt"):
        figure3.draw(frame, model="normbt")


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
