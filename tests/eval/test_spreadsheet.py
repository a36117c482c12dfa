"""CSV files of untrusted words: never a formula, always read back as it was."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eval.spreadsheet import csv_text, neutral, read_csv, restored
from eval.tables import markdown, markdown_text

ROOT = Path(__file__).resolve().parents[2]
FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", "=cmd|' /C calc'!A0", "＝1+1"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
HOSTILE = st.text(st.sampled_from("=+-@\t\r\n'\",1aé\x00 "), max_size=6) | TEXT


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_is_no_formula(text: str) -> None:
    written = csv_text(pd.DataFrame({"name": [text], text: ["x"]}))
    for row in csv.reader(io.StringIO(written, newline="")):
        assert not any(re.match(r"[=+\-@\t\r\n＝＋－＠]", cell) for cell in row)
    assert neutral(text) == f"'{text}" and restored(neutral(text)) == text


def test_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"x": [-1.5, 2.0], "n": [-3, 4], "mixed": ["-0.25", "+1e-05"]})
    assert csv_text(frame) == "x,n,mixed\n-1.5,-3,-0.25\n2.0,4,+1e-05\n"
    pd.testing.assert_frame_equal(read_csv("x,y\n-1,2.5\n"), pd.DataFrame({"x": [-1], "y": [2.5]}))


def test_names_are_texts_even_where_they_look_like_numbers_or_nothing() -> None:
    names = ["1", "01", "NA", "null", "", "-5", "1e3"]
    frame = pd.DataFrame({"pair_id": names, "section": names, "value": range(7)})
    assert read_csv(csv_text(frame)).to_dict("list") == frame.to_dict("list")


@settings(deadline=None, max_examples=200)
@given(st.lists(HOSTILE, min_size=1, max_size=5), HOSTILE.filter(bool))
@example(["'=", "''=", "'", "=", "\r", "a\rb", '"'], "=x")
def test_texts_are_read_back_to_the_character(names: list[str], column: str) -> None:
    frame = pd.DataFrame({"pair_id": names, "number": range(len(names))})
    assert read_csv(csv_text(frame))["pair_id"].tolist() == names
    assert restored(neutral(column)) == column


def test_every_csv_of_the_project_is_written_here() -> None:
    for package in ("rm", "eval", "analysis", "scripts"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "spreadsheet.py":
                found = re.findall(r"to_csv\(|csv\.(?:writer|DictWriter)\(", path.read_text())
                assert not found, f"{path}: write it by eval.spreadsheet.csv_text"


MARKDOWN = {
    "a|b": r"a\|b",
    "`x` *y* ~~z~~": r"\`x\` \*y\* \~\~z\~\~",
    "_x_ but a_b": r"\_x\_ but a_b",
    "[x](javascript:a) ![y](z)": r"[x]\(javascript:a) ![y]\(z)",
    "<b>&amp;$x$": r"\<b\>\&amp;\$x\$",
    "two\nlines\x1b[0m": r"two\\nlines\\x1b[0m",
    "67.3 [64.1, 70.2]": "67.3 [64.1, 70.2]",
}


@pytest.mark.parametrize(("text", "expected"), MARKDOWN.items())
def test_a_markdown_cell_shows_its_text(text: str, expected: str) -> None:
    assert markdown_text(text) == expected
    assert len(markdown(["a", "b"], [[text, text]]).splitlines()) == 3
