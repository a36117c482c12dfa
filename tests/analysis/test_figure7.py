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
    """Seed s has loss 1 + s at every step; the accuracy is step / 100."""
    step = np.arange(1, steps + 1)
    rows = [
        pd.DataFrame(
            {
                **{"method": method, "seed": seed, "step": step, "loss": 9.0},
                **{"pair_loss": 1.0 + seed, "accuracy": step / 100, "learning_rate": 1e-5},
                **{"distance_q10": 1.0, "distance_q50": 2.0, "distance_q90": 3.0},
                "mu": 2.0 if method == "normbt" else np.nan,
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
        *("method", "seed", "step", "pair_loss", "accuracy", "mu"),
        *("distance_q50", "distance_q10", "distance_q90"),
    ]
    assert set(frame["method"]) == {"bt", "normbt"}
    assert frame["accuracy"].max() == pytest.approx(10.0)  # percent
    only = collected(tmp_path, metrics().drop(columns="pair_loss"))
    assert "loss" in only  # the weighted loss where the unweighted one is not recorded


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
    assert set(run["pair_loss"]) == {2.0}  # never mixed with the other seed


def test_bands_are_mean_and_range_over_seeds(tmp_path: Path) -> None:
    table = figure7.bands(collected(tmp_path, metrics()))
    loss = table[(table["column"] == "pair_loss") & (table["method"] == "bt")]
    assert len(loss) == 10
    assert loss[["mean", "low", "high", "seeds"]].drop_duplicates().values.tolist() == [
        [2, 1, 3, 3]
    ]
    assert set(table.loc[table["column"] == "mu", "method"]) == {"normbt"}


def test_draw_has_a_panel_a_quantity_and_names_what_is_absent(tmp_path: Path) -> None:
    figure = figure7.draw(collected(tmp_path, metrics()), note="tiny · 3 seeds")
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert len(figure.axes) == 9
    assert "Pair loss, before weights" in panels
    assert "Loss as minimised, with weights" not in panels
    assert len(panels["Accuracy on the batch"].lines) == 2
    assert (
        len(panels["$\\mu$, moving average of distance"].lines[0].get_xdata()) == 0
    )  # BT has none
    assert [t.get_text() for t in panels["Gradient norm of the batch"].texts] == ["not recorded"]
    assert "BT 3 seeds, NormBT 3 seeds; 10 optimiser steps" in figure.get_supxlabel()
    assert "tiny · 3 seeds" in figure.get_supxlabel()
    end = "batch accuracy over the last tenth of the steps BT 10%, NormBT 10%"
    assert figure.get_suptitle().replace("\n", " ") == f"Training dynamics: {end}"


def test_extreme_inputs_draw_or_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        figure7.draw(metrics().head(0))
    with pytest.raises(InputError, match="nothing to show"):
        figure7.draw(metrics()[["method", "seed", "step"]])
    figure = figure7.draw(collected(tmp_path, metrics(steps=1, seeds=1, methods=("bt",))))
    assert "BT 1 seed; 1 optimiser step." in figure.get_supxlabel()
