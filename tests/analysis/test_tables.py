"""Tidy files in, tables out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import tables
from rm.errors import InputError

CELL = st.text(alphabet="ab_*|\\`<>~$&[](). −é", max_size=8)
FRAME = pd.DataFrame(
    {
        "method": ["bt", "normbt"],
        "chat_hard": [67.25, -0.04],
        "chat_hard_low": [64.1, np.nan],
        "chat_hard_high": [70.19, np.nan],
        "seeds": [3, 1],
    }
)


def scores(**changes: object) -> pd.DataFrame:
    row = {
        **{"method": "bt", "backbone": "b", "data": "d", "benchmark": "generated", "seed": 0},
        **{"pair_id": "p", "subset": "s", "section": "Chat", "distance": 1.0},
        **{"reward_chosen": 1.0, "reward_rejected": 0.0},
    }
    return pd.DataFrame([row | changes])


def test_two_floats_that_differ_by_rounding_are_one_number() -> None:
    noisy = 76.55 + 2**-46
    assert f"{noisy:.1f}" != f"{76.55:.1f}"
    assert tables.decimals(noisy, 1) == tables.decimals(76.55, 1) == "76.5"
    assert tables.decimals(-0.004, 2) == "0.00"


def test_display_folds_intervals_and_leaves_unknown_cells_empty() -> None:
    shown = tables.display(FRAME)
    assert list(shown) == ["method", "chat_hard", "seeds"]
    assert shown["chat_hard"].tolist() == ["67.2 [64.1, 70.2]", "0.0"]
    assert shown["seeds"].tolist() == ["3", "1"]
    assert tables.display(pd.DataFrame({"a": [np.nan], "b": [None]})).values.tolist() == [["", ""]]


def test_write_table_as_csv_markdown_and_latex(tmp_path: Path) -> None:
    labels = {"method": str.upper}
    paths = tables.write_table(
        FRAME, tmp_path / "t" / "table9", "Accuracy, 95%", "x_y", None, labels
    )
    csv, md, tex = (path.read_text() for path in paths)
    assert [path.name for path in paths] == ["table9.csv", "table9.md", "table9.tex"]
    assert csv.splitlines()[1] == "bt,67.2500,64.1000,70.1900,3"
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), FRAME)
    assert "| Method | Chat Hard | Seeds |" in md
    assert "| BT | 67.2 [64.1, 70.2] | 3 |" in md
    assert md.startswith("Accuracy, 95%\n") and md.endswith("*x_y*\n")
    assert r"\caption{Accuracy, 95\% x\_y}" in tex and r"\label{tab:table9}" in tex
    assert r"BT & 67.2 [64.1, 70.2] & 3 \\" in tex
    assert tex.count(r"\toprule") == tex.count(r"\midrule") == tex.count(r"\bottomrule") == 1


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    runs = [tables.write_table(FRAME, tmp_path / name / "t", "c") for name in ("a", "b")]
    assert [p.read_bytes() for p in runs[0]] == [p.read_bytes() for p in runs[1]]


def test_latex_and_markdown_escape_what_would_break_them() -> None:
    assert tables.escape("50% & a_b − #1 {x}") == r"50\% \& a\_b $-$ \#1 \{x\}"
    assert r"a\|b" in tables.markdown(pd.DataFrame({"x": ["a|b"]}), "", "")


@given(st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=4), CELL)
def test_markdown_is_read_back_as_it_was(rows: list[list[str]], name: str) -> None:
    frame = pd.DataFrame(rows, columns=["a", f"{name}b"], dtype=object)
    caption, found = tables.read_markdown(tables.markdown(frame, "Caption.", "note"))
    assert caption == "Caption." and list(found) == list(frame)
    assert found.values.tolist() == frame.values.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), ("a\n", "has no rows"), ("b\n1\n", "lacks the columns a"),
     ("", "cannot be read")],
)  # fmt: skip
def test_unusable_files_say_why(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        tables.read_tidy(path, ["a"])


def test_read_scores_counts_a_tie_as_a_loss_and_names_clusters(tmp_path: Path) -> None:
    rows = [
        scores(),
        scores(pair_id="q", reward_rejected=1.0, cluster="hep-1"),
        scores(pair_id="r", reward_rejected=2.0, cluster=""),
    ]
    pd.concat(rows).to_parquet(tmp_path / "scores.parquet")
    found = tables.read_scores(tmp_path / "scores.parquet")
    assert found["correct"].tolist() == [True, False, False]
    assert found["cluster"].tolist() == ["pair:p", "cluster:hep-1", "pair:r"]


@pytest.mark.parametrize(
    ("second", "message"),
    [(scores(), "more than one row"), (scores(pair_id="q", reward_chosen=np.nan), "NaN")],
)
def test_read_scores_refuses_repeats_and_rewards_that_are_no_numbers(
    tmp_path: Path, second: pd.DataFrame, message: str
) -> None:
    pd.concat([scores(), second]).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(InputError, match=message):
        tables.read_scores(tmp_path / "scores.parquet")
