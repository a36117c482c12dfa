"""scripts.baselines, in process: generated and real rows, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from generated import SUBSETS
from pipeline.experiments.baselines import held_out_rows, run
from pipeline.settings.configuration import compose_config
from rm.data.preferences import PreferencePair
from rm.errors import InputError

SMALL = ("data.pool_pairs=160", "data.train_pairs=120", "data.validation_pairs=96", "resamples=50")


def table_of(tmp_path: Path, *words: str) -> pd.DataFrame:
    path = tmp_path / "made" / "baselines.csv"
    run(compose_config("baselines", [f"output='{path}'", *words]))
    return pd.read_csv(path)


def test_validation_pairs_are_scored_by_subset(tmp_path: Path) -> None:
    table = table_of(tmp_path, *SMALL)
    assert set(table["baseline"]) == {"n-grams", "length"}
    subsets = table[table["level"] == "subset"]
    assert set(subsets["name"]) == {name for names in SUBSETS.values() for name in names}
    sections = table[table["level"] == "section"]
    assert sections["trained_on"].tolist() == [30] * 8 and sections["pairs"].tolist() == [24] * 8
    assert (table["low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()


def test_a_benchmark_of_generated_pairs(tmp_path: Path) -> None:
    words = ("benchmark=generated", "data.test_pairs=48", "data.seed=7")
    table = table_of(tmp_path, *SMALL, *words)
    assert table.loc[table["level"] == "average", "pairs"].tolist() == [48, 48]


@pytest.mark.slow
def test_real_rows(tmp_path: Path, shared_data: Path) -> None:
    table = table_of(
        tmp_path,
        *("data=files", "data.limit=60", "resamples=20", "benchmark=rewardbench"),
        f"data.train={shared_data / 'skywork_schema_train.jsonl.gz'}",
        f"benchmark_data={shared_data / 'rewardbench_mini.jsonl.gz'}",
    )
    assert table.loc[table["level"] == "average", "pairs"].tolist() == [2859, 2859]


def test_validation_pairs_keep_turns_that_their_sides_do_not_share() -> None:
    turns = ({"role": "assistant", "content": "first"}, {"role": "user", "content": "and?"})
    prompt = ({"role": "user", "content": "question"},)
    pair = PreferencePair("p", prompt, "a", "b", category="Chat", chosen_history=turns)
    (row,) = held_out_rows([pair])
    assert row.sides == pair.sides and (row.subset, row.section) == ("", "Chat")


def test_rows_with_tools_are_refused_unless_these_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "category": "c", "tools": [{"name": "x"}]}
    path.write_text("".join(json.dumps(row | {"prompt": f"q{i}"}) + "\n" for i in range(4)))
    words = (*SMALL, "benchmark=pairs", f"benchmark_data={path}")
    with pytest.raises(InputError, match="tools"):
        table_of(tmp_path, *words)
    table = table_of(tmp_path, *words, "ignore=[tools]")
    assert table.loc[table["level"] == "average", "pairs"].tolist() == [4, 4]


def test_data_without_validation_pairs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data=files", f"data.train='{path}'", "data.validation_share=0.0")
    with pytest.raises(InputError, match=r"data=files has no validation pairs: give benchmark=…"):
        table_of(tmp_path, *words)
    with pytest.raises(InputError, match="benchmark=nonsense: choose"):
        table_of(tmp_path, *SMALL, "benchmark=nonsense")
