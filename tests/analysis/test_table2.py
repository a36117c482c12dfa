"""Table 2 from hand-made scores."""

from pathlib import Path

import pandas as pd
import pytest

from analysis import table1, table2
from rm.errors import InputError


def write_scores(folder: Path, right: dict[str, int], seeds: int = 2) -> None:
    """`right[method]` of ten Reasoning pairs are right in every seed; all Chat pairs are."""
    rows = [
        {
            **{"method": method, "backbone": "tiny", "data": "made", "benchmark": "generated"},
            **{"seed": seed, "pair_id": f"{section}{i}", "subset": section, "section": section},
            **{"distance": 1.0, "reward_rejected": 0.5},
            "reward_chosen": 1.0 if section == "Chat" or i < wins else 0.0,
        }
        for method, wins in right.items()
        for seed in range(seeds)
        for section in ("Chat", "Reasoning")
        for i in range(10)
    ]
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")


RIGHT = {"normbt_no_ema": 4, "normbt": 7, "bt": 5, "bt_margin": 9, "normbt_margin": 9}


def test_the_forms_of_the_weight_and_nothing_else(tmp_path: Path) -> None:
    write_scores(tmp_path, RIGHT)
    frame = table2.collect(tmp_path)
    table = table2.build(frame, resamples=100)
    assert table["method"].tolist() == ["bt", "normbt", "normbt_no_ema"]
    assert table["reasoning"].tolist() == [50, 70, 40]
    found = table2.differences(frame, resamples=100)
    assert found[["method", "minus"]].values.tolist() == [["normbt", "normbt_no_ema"]]
    assert found["reasoning"].tolist() == pytest.approx([30])
    assert found["average"].tolist() == pytest.approx([15])


def test_table1_compares_a_form_of_the_weight_with_plain_bt(tmp_path: Path) -> None:
    write_scores(tmp_path, RIGHT)
    found = table1.differences(table1.collect(tmp_path), resamples=50)
    assert found[["method", "minus"]].values.tolist() == [
        ["normbt", "bt"], ["normbt_margin", "bt_margin"], ["normbt_no_ema", "bt"],
    ]  # fmt: skip
    assert found["reasoning"].tolist() == pytest.approx([20, 0, -10])


def test_written_beside_the_papers_two_rows(tmp_path: Path) -> None:
    write_scores(tmp_path, RIGHT, seeds=1)
    paths = table2.write(tmp_path, tmp_path / "out", "tiny")
    assert len(paths) == 9
    beside = pd.read_csv(tmp_path / "out" / "table2_paper.csv")
    paper = beside[beside["source"] == "paper"].set_index("method")["average"]
    assert paper.to_dict() == {"normbt": 73.57, "normbt_no_ema": 67.78}
    assert "NormBT without EMA" in (tmp_path / "out" / "table2.md").read_text()


def test_baselines_stand_in_the_last_rows(tmp_path: Path) -> None:
    write_scores(tmp_path, RIGHT)
    (tmp_path / "baselines.csv").write_text(
        "baseline,level,name,accuracy,low,high\nlength,section,Chat,51,40,62\n"
    )
    paths = table2.write(tmp_path, tmp_path / "tables")
    text = paths[1].read_text()
    assert text.splitlines()[-1].startswith("| length (baseline) | none |")
    assert "51.0 [40.0, 62.0]" in text and "read no prompt" in text


def test_without_another_form_there_is_no_table(tmp_path: Path) -> None:
    for methods in ({"bt": 5, "normbt": 7}, {"bt": 5, "normbt_no_ema": 4}):
        write_scores(tmp_path, methods)
        with pytest.raises(InputError, match="run both, methods="):
            table2.collect(tmp_path)
