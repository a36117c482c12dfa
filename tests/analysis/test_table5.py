"""Table 5 from hand-made scores."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import table1, table5
from eval import rewardbench
from rm.errors import InputError
from tests.analysis.test_table1 import rewardbench_rows, scores


def swept(parameter: str, value: float, right: dict[str, dict[str, int]]) -> pd.DataFrame:
    return scores(right).assign(parameter=parameter, value=value)


def made() -> pd.DataFrame:
    """Ten pairs a section; only Reasoning moves. β is swept for NormBT alone, and comes last."""
    return pd.concat(
        [
            swept("label_noise", 0.4, {"bt": {"Reasoning": 5}, "normbt": {"Reasoning": 4}}),
            swept("label_noise", 0.0, {"bt": {"Reasoning": 6}, "normbt": {"Reasoning": 9}}),
            swept("learning_rate", 3e-5, {"normbt": {"Reasoning": 7}}),
        ]
    )


def collected(folder: Path) -> pd.DataFrame:
    made().to_parquet(folder / "sweep_scores.parquet")
    return table5.collect(folder)


def test_a_row_a_value_and_method_with_table_1_s_cells(tmp_path: Path) -> None:
    frame = collected(tmp_path)
    table = table5.build(frame, resamples=200)
    assert table[["parameter", "value", "method", "reasoning"]].values.tolist() == [
        ["learning_rate", "3e-05", "normbt", 70],
        ["label_noise", "0", "bt", 60],
        ["label_noise", "0", "normbt", 90],
        ["label_noise", "0.4", "bt", 50],
        ["label_noise", "0.4", "normbt", 40],
    ]
    one = frame[(frame["parameter"] == "label_noise") & (frame["value"] == 0.4)]
    alone = table1.build(one, resamples=200).reset_index(drop=True)
    pd.testing.assert_frame_equal(table.iloc[3:][alone.columns].reset_index(drop=True), alone)


def test_no_interval_of_an_accuracy_passes_0_or_100_percent(tmp_path: Path) -> None:
    parts = [scores({"bt": {"Reasoning": n, "Safety": 10 - n}}, seeds=1) for n in (10, 9, 7)]
    frame = pd.concat([part.assign(seed=seed) for seed, part in enumerate(parts)])
    frame.assign(parameter="beta", value=0.5).to_parquet(tmp_path / "sweep_scores.parquet")
    collected = table5.collect(tmp_path)
    assert table1.build(collected, crossed=True)["reasoning_high"].max() > 100
    ends = table5.build(collected, crossed=True).filter(regex="_(low|high)$").to_numpy()
    assert ends.min() == 0 and ends.max() == 100


def test_differences_are_taken_within_a_value(tmp_path: Path) -> None:
    table = table5.differences(collected(tmp_path), resamples=200)
    assert table[["value", "method", "minus", "reasoning", "chat"]].values.tolist() == [
        ["0", "normbt", "bt", pytest.approx(30), 0],
        ["0.4", "normbt", "bt", pytest.approx(-10), 0],
    ]
    assert (table["reasoning_low"] < table["reasoning"]).all()


def test_files_name_parameters_as_figure_11_does(tmp_path: Path) -> None:
    collected(tmp_path)
    paths = table5.write(tmp_path, tmp_path / "out", "tiny · made")
    assert [path.name for path in paths] == [
        *(f"table5.{end}" for end in ("csv", "md", "tex")),
        *(f"table5_differences.{end}" for end in ("csv", "md", "tex")),
    ]
    text = paths[4].read_text()
    assert "| swapped labels among Reasoning | 0.4 | NormBT | BT |" in text
    assert "(a rival or control: minus BT) at each value" in text
    assert "learning rate" not in text and "tiny · made" in text
    assert "| learning rate | 3e-05 | NormBT |" in paths[1].read_text()


def test_a_value_whose_runs_saw_part_of_rewardbench_is_said(tmp_path: Path) -> None:
    short = {**rewardbench.ROWS, "math-prm": 5}
    runs = [
        rewardbench_rows(rows).assign(parameter="beta", value=value)
        for value, rows in ((0.5, rewardbench.ROWS), (0.9, short))
    ]
    pd.concat(runs).to_parquet(tmp_path / "sweep_scores.parquet")
    paths = table5.write(tmp_path, tmp_path / "out")
    said = "RewardBench is partial here (Reasoning: math-prm has 5 of 447 rows)."
    assert said in paths[1].read_text() and said in paths[4].read_text()


def test_a_parameter_of_one_method_alone_has_no_differences(tmp_path: Path) -> None:
    swept("beta", 0.5, {"normbt": {}}).to_parquet(tmp_path / "sweep_scores.parquet")
    assert table5.differences(table5.collect(tmp_path)).empty


def test_a_run_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    pd.concat([made(), made()]).to_parquet(tmp_path / "sweep_scores.parquet")
    with pytest.raises(InputError, match="more than one row for parameter, value, method"):
        table5.collect(tmp_path)


def test_methods_that_share_one_seed_get_the_bootstrap(tmp_path: Path) -> None:
    """Seed by seed, a sweep may hold a method's seeds before its base's."""
    one = swept("beta", 0.9, {"bt": {"Reasoning": 5}, "normbt": {"Reasoning": 4}})
    one = one[one["seed"] == one["seed"].min()]
    whole = pd.concat([one.assign(seed=seed) for seed in (0, 1, 2)])
    frame = whole[whole["seed"].ne(2) | whole["method"].eq("normbt")]
    frame = frame[frame["seed"].ne(0) | frame["method"].eq("bt")]
    assert table5.several_seeds(whole) and not table5.several_seeds(frame)
    frame.to_parquet(tmp_path / "sweep_scores.parquet")
    assert table5.write(tmp_path, tmp_path / "out", crossed=True)
