"""Table 4 from hand-made scores."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis import table4

RIGHT = {("bt", "sums"): 4, ("bt", "code"): 8, ("normbt", "sums"): 6, ("normbt", "code"): 10}


def scores() -> pd.DataFrame:
    """Ten pairs a subset; "sums" and "code" of Reasoning, "talk" of Chat, where all are right."""
    return pd.DataFrame(
        [
            {
                **{"method": method, "backbone": "tiny", "data": "made", "benchmark": "generated"},
                **{"seed": seed, "pair_id": f"{subset}{i}", "subset": subset, "distance": 1.0},
                "section": "Chat" if subset == "talk" else "Reasoning",
                "reward_chosen": float(i < RIGHT.get((method, subset), 10)),
                "reward_rejected": 0.5,
            }
            for method in ("bt", "normbt")
            for seed in (0, 1)
            for subset in ("sums", "code", "talk")
            for i in range(10)
        ]
    )


def test_a_row_a_subset_and_a_column_a_method(tmp_path: Path) -> None:
    scores().to_parquet(tmp_path / "scores.parquet")
    paths = table4.write(tmp_path, tmp_path / "out", "n")
    table = pd.read_csv(paths[0])
    assert table[["section", "subset"]].values.tolist() == [
        ["Chat", "talk"], ["Reasoning", "code"], ["Reasoning", "sums"],
    ]  # fmt: skip
    assert table["bt"].tolist() == [100, 80, 40] and table["normbt"].tolist() == [100, 100, 60]
    assert table["pairs"].tolist() == [10, 10, 10]
    assert (table["bt_low"] <= table["bt"]).all() and table.loc[2, "bt_high"] > 40
    assert "| Section | Subset | Pairs | BT | NormBT |" in paths[1].read_text()


def test_baselines_stand_in_the_last_columns(tmp_path: Path) -> None:
    scores().to_parquet(tmp_path / "scores.parquet")
    rows = "baseline,level,name,accuracy,low,high\nlength,subset,talk,51,40,62\n"
    rows += "length,section,x,1,1,1\n"
    (tmp_path / "baselines.csv").write_text(rows)
    paths = table4.write(tmp_path, tmp_path / "out")
    table = pd.read_csv(paths[0])
    assert table["length"].tolist()[0] == 51 and table["length"].isna().tolist() == [
        False,
        True,
        True,
    ]
    text = paths[1].read_text()
    assert "Last columns: logistic regressions" in text
    assert "| NormBT | length (baseline) |" in text and "| 51.0 [40.0, 62.0] |" in text


def test_a_method_that_another_data_set_lacks_is_empty_there(tmp_path: Path) -> None:
    frame = scores()
    other = frame[frame["method"] == "bt"].assign(data="other")
    pd.concat([frame, other]).to_parquet(tmp_path / "scores.parquet")
    table = table4.build(table4.table1.collect(tmp_path), resamples=20)
    assert len(table) == 6
    assert np.isnan(table.loc[table["data"] == "other", "normbt"]).all()
