"""The parallel coordinates of a sweep, from hand-made jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import sweep_jobs
from rm.errors import InputError


def jobs() -> pd.DataFrame:
    """Two methods × three rates, accuracy 0.5 to 0.75, and a failed job."""
    rows: list[dict[str, Any]] = [
        {
            **{"loss": loss, "training.learning_rate": rate, "status": "done", "seconds": 1.0},
            **{"accuracy": 0.5 + 0.05 * (3 * i + j), "pairs": 80, "Chat": 0.5},
        }
        for i, loss in enumerate(("bt", "normbt"))
        for j, rate in enumerate((1e-5, 1e-4, 1e-3))
    ]
    failed = {**rows[0], "status": "failed", "accuracy": np.nan, "pairs": np.nan}
    return pd.DataFrame([*rows, failed])


def collected(folder: Path, frame: pd.DataFrame) -> pd.DataFrame:
    frame.to_csv(folder / "jobs.csv", index=False)
    return sweep_jobs.collect(folder)


def test_collect_gives_percent_and_what_was_varied(tmp_path: Path) -> None:
    frame = collected(tmp_path, jobs())
    assert [*frame.columns[:2]] == ["loss", "training.learning_rate"] and "Chat" not in frame
    assert frame["accuracy"].max() == pytest.approx(75)
    assert sweep_jobs.varied(frame) == ["loss", "training.learning_rate"]


def test_draw_has_an_axis_a_parameter_and_a_line_a_job(tmp_path: Path) -> None:
    figure = sweep_jobs.draw(collected(tmp_path, jobs()), note="n")
    (axes,) = figure.axes
    names = {text.get_text() for text in axes.texts if text.get_weight() == "bold"}
    assert names == {"method", "learning rate", "validation accuracy (%)"}
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(lines) == 6
    assert "method NormBT, learning rate 0.001: 75.0%" in figure.get_suptitle()
    caption = str(figure.get_label())
    assert "6 jobs" in caption and "80 pairs" in caption
    assert "Not drawn, without an accuracy: 1 failed." in caption


def test_the_best_line_is_outlined_and_the_brightest(tmp_path: Path) -> None:
    (axes,) = sweep_jobs.draw(collected(tmp_path, jobs())).axes
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    ends = [float(np.asarray(line.get_ydata())[-1]) for line in lines]
    assert ends == sorted(ends) and ends[0] == 0 and ends[-1] == 1
    light = [sum(np.asarray(line.get_color())[:3]) for line in lines]
    assert light == sorted(light)
    (outline,) = [line for line in axes.lines if line.get_linewidth() == 3.2]
    assert np.array_equal(np.asarray(outline.get_ydata()), np.asarray(lines[-1].get_ydata()))


def test_scales_are_linear_logarithmic_or_of_words() -> None:
    place, ticks = sweep_jobs.scale(pd.Series([1e-5, 1e-3, 1e-4]))
    assert place.tolist() == pytest.approx([0, 1, 0.5])
    assert [tick for tick, _ in ticks] == [1e-5, 1e-4, 1e-3]
    assert sweep_jobs.scale(pd.Series([0.0, 1.0, 0.25]))[0].tolist() == [0, 1, 0.25]
    place, ticks = sweep_jobs.scale(pd.Series(["b", "a", "c"]))
    assert place.tolist() == [0.5, 0, 1] and ticks == [("a", 0), ("b", 0.5), ("c", 1)]
    assert len(sweep_jobs.scale(pd.Series(np.linspace(0, 1, 50)))[1]) == 5
    assert sweep_jobs.scale(pd.Series([2.0, 2.0]))[0].tolist() == [0.5, 0.5]


def test_jobs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    frame = jobs()
    with pytest.raises(InputError, match="fractions from 0 to 1"):
        collected(tmp_path, frame.assign(accuracy=50.0))
    for few in (frame.head(1), frame.assign(accuracy=np.nan), frame.iloc[[0, 0]]):
        assert not sweep_jobs.can_draw(few)
        with pytest.raises(InputError, match="run more"):
            sweep_jobs.draw(few)
    with pytest.raises(InputError, match="is missing"):
        sweep_jobs.collect(tmp_path / "nowhere")
