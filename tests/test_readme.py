"""README: short, in order, and its answers are those of the committed files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from eval.spreadsheet import csv_text
from pipeline.experiments import readme
from rm.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_it_is_short_and_its_parts_stand_in_order() -> None:
    assert len(TEXT.splitlines()) <= 200
    assert re.findall(r"^## (.*)", TEXT, re.MULTILINE) == [
        *("What NormBT is", "What we found", "Limits", "Quickstart", "Use it"),
        *("Reproduce the paper's setting", "Layout", "Citation and licences"),
    ]


def test_its_only_comments_are_two_lines_around_the_answers() -> None:
    assert re.findall(r"^.*<!--.*$", TEXT, re.MULTILINE) == [readme.BEGIN, readme.END]


def test_every_make_target_exists_and_is_listed() -> None:
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    listed = set(re.findall(r"make ([a-z-]+)", made.stdout))
    assert made.returncode == 0
    assert set(re.findall(r"`?make ([a-z-]+)", TEXT)) <= listed


def test_the_answers_are_those_of_the_committed_files() -> None:
    assert readme.updated(TEXT, readme.answers(ROOT)) == TEXT, "run make readme"


def written(root: Path, frame: pd.DataFrame) -> Path:
    """A checkout that has these answers."""
    path = root / readme.ANSWERS
    path.parent.mkdir(parents=True)
    path.write_text(csv_text(frame))
    return root


def answer(question: str, **cells: str | None) -> dict[str, str | None]:
    return {"question": question, "paper": None, "generated": None, "gemma": None} | {
        "real": None,
        **cells,
    }


def test_the_answers_are_a_table_of_the_files_cells(tmp_path: Path) -> None:
    rows = [answer("Reasoning?", paper="+5.3", generated="−1.2 [−3.0, 0.6] **refuted**")]
    root = written(tmp_path, pd.DataFrame(rows))
    assert readme.answers(root).splitlines() == [
        "| Question | Paper, 2–3B | Generated pairs, 135M | Gemma 3 270M | Real pairs |",
        "| --- | --- | --- | --- | --- |",
        "| Reasoning? | +5.3 | −1.2 [−3.0, 0.6] **refuted** | – | – |",
    ]
    figure = root / readme.FIGURE
    figure.parent.mkdir()
    figure.touch()
    assert readme.answers(root).endswith(f"({readme.FIGURE})")


def test_answers_of_another_form_are_refused(tmp_path: Path) -> None:
    many = pd.DataFrame([answer(f"{n}?") for n in range(10)])
    with pytest.raises(InputError, match=r"at most 9 rows, .* 10 rows"):
        readme.answers(written(tmp_path / "many", many))
    other = many.head(2).rename(columns={"real": "truth"})
    with pytest.raises(InputError, match=r"needs the columns question, .* gemma, truth and 2 rows"):
        readme.answers(written(tmp_path / "other", other))


def test_without_the_file_one_line_says_so(tmp_path: Path) -> None:
    assert "\n" not in readme.answers(tmp_path)
    assert "results/README.md" in readme.answers(tmp_path)


def test_only_what_stands_between_the_marks_is_rewritten() -> None:
    text = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.updated(text, "new") == text.replace("old", "new")
    for broken in ("a b", text + readme.END, text.replace(readme.BEGIN, "")):
        with pytest.raises(InputError, match="once each"):
            readme.updated(broken, "new")
