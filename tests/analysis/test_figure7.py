"""Figure 7 from hand-made metrics."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figure7
from rm.errors import InputError


def metrics(
    steps: int = 10, seeds: int = 3, methods: tuple[str, ...] = ("bt", "normbt")
) -> pd.DataFrame:
    """Seed s has gradient norm 1 + s at every step; the accuracy is step / 100."""
    step = np.arange(1, steps + 1)
    rows = [
        pd.DataFrame(
            {
                **{"method": method, "seed": seed, "step": step, "learning_rate": 1e-5},
                **{"gradient_norm": 1.0 + seed, "accuracy": step / 100},
                **{"distance_q10": 1.0, "distance_q50": 2.0, "distance_q90": 3.0},
                "weight_q50": 2.0 if method == "normbt" else np.nan,
            }
        )
        for method in methods
        for seed in range(seeds)
    ]
    return pd.concat(rows, ignore_index=True)


def collected(tmp_path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_parquet(tmp_path / "metrics.parquet")
    return figure7.collect(tmp_path)


def test_collect_keeps_what_is_shown(tmp_path: Path) -> None:
    frame = collected(tmp_path, metrics(methods=("normbt", "bt", "hinge")))
    assert list(frame) == [
        *("method", "seed", "step", "accuracy", "gradient_norm"),
        *("distance_q50", "distance_q10", "distance_q90", "weight_q50"),
    ]
    assert set(frame["method"]) == {"bt", "normbt"}
    assert frame["accuracy"].max() == pytest.approx(10.0)  # percent


def test_collect_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the columns"):
        collected(tmp_path, metrics()[["method", "seed", "step"]])
    with pytest.raises(InputError, match="methods bt, normbt, has no rows"):
        collected(tmp_path, metrics(methods=("hinge",)))
    with pytest.raises(InputError, match="more than one row"):
        collected(tmp_path, pd.concat([metrics(), metrics()]))


def test_smoothing_is_a_centred_mean_within_a_run(tmp_path: Path) -> None:
    frame = collected(tmp_path, metrics(steps=45, seeds=2))
    found = figure7.smooth(frame)
    run = found[(found["method"] == "bt") & (found["seed"] == 1)].reset_index()
    assert run["accuracy"][40] == pytest.approx(41.0)  # window of 3: 40, 41, 42
    assert run["accuracy"][0] == pytest.approx(1.5)  # 1 and 2 at the edge
    assert set(run["gradient_norm"]) == {2.0}  # never mixed with the other seed


def test_bands_are_mean_and_range_over_seeds(tmp_path: Path) -> None:
    table = figure7.bands(collected(tmp_path, metrics()))
    norm = table[(table["column"] == "gradient_norm") & (table["method"] == "bt")]
    assert len(norm) == 10
    assert norm[["mean", "low", "high", "seeds"]].drop_duplicates().values.tolist() == [
        [2, 1, 3, 3]
    ]
    assert set(table.loc[table["column"] == "weight_q50", "method"]) == {"normbt"}


def test_draw_has_four_panels_and_names_what_is_absent(tmp_path: Path) -> None:
    frame = collected(tmp_path, metrics().drop(columns="gradient_norm"))
    figure = figure7.draw(frame, note="tiny · 3 seeds")
    accuracy, norm, distance, weight = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["BT", "NormBT"]
    assert accuracy.lines[0].get_linestyle() == "--"  # told apart in grey
    assert [t.get_text() for t in norm.texts] == ["not recorded"]
    assert len(distance.lines) == 6 and len(weight.lines) == 1  # BT has no weight
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["BT", "NormBT"]
    assert "BT 3 seeds, NormBT 3 seeds; 10 optimiser steps" in str(figure.get_label())
    title = "Accuracy on training batches ends at 10% with BT, 10% with NormBT"
    assert figure.get_suptitle() == title


def test_a_long_run_is_drawn_by_part_of_its_steps_the_last_included(tmp_path: Path) -> None:
    axes = figure7.draw(collected(tmp_path, metrics(steps=450))).axes[0]
    places = axes.lines[0].get_xdata()
    assert len(places) == figure7.POINTS and places[-1] == 450


def test_extreme_inputs_draw_or_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        figure7.draw(metrics().head(0))
    with pytest.raises(InputError, match="nothing to show"):
        figure7.draw(metrics()[["method", "seed", "step"]])
    figure = figure7.draw(collected(tmp_path, metrics(steps=1, seeds=1, methods=("bt",))))
    assert "BT 1 seed; 1 optimiser step." in str(figure.get_label())
