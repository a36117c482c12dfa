"""README: short, in order, and its answers are those of the committed files."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import style
from pipeline.experiments import readme
from rm.errors import InputError
from tests.analysis.test_table1 import collected, scores

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def answers(root: Path) -> str:
    return readme.answers(root, readme.overview(root / "results"))


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
    assert readme.updated(TEXT, answers(ROOT)) == TEXT, "run make readme"


def test_the_figure_is_that_of_the_committed_files(tmp_path: Path) -> None:
    """By its picture: its title and caption may stay the same when its data change."""
    style.write_figure(readme.overview(ROOT / "results"), tmp_path / "figure12")
    here, there = (
        np.asarray(Image.open(path).convert("L"), dtype=float)
        for path in (tmp_path / "figure12.png", ROOT / readme.FIGURE)
    )
    assert here.shape == there.shape, "run make readme"
    assert np.abs(here - there).mean() < 0.1, "run make readme"


def test_the_answers_are_a_table_of_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {
        "question": "Reasoning?",
        "kind": "primary",
        "paper": "+5.3",
        "gemma": "–",
        "real": "–",
    }
    row = cells | {"generated": "−1.2 [−3.0, 0.6], refuted"}
    monkeypatch.setattr(readme, "build", lambda results: pd.DataFrame([row]))
    assert readme.answers(tmp_path, Figure()) == "The confirmatory results are being computed."
    manifest = tmp_path / readme.RESULTS / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"runs": []}')
    table = [
        "| Question | Paper, 2–3B | Generated pairs, SmolLM2 135M | Generated pairs, Gemma 3 270M "
        "| Real pairs, SmolLM2 135M |",
        "| --- | --- | --- | --- | --- |",
        "| Reasoning? | +5.3 | −1.2 [−3.0, 0.6], refuted | – | – |",
    ]
    frame = collected(tmp_path, scores({"bt": {}, "normbt": {"Reasoning": 20}}))
    monkeypatch.setattr(readme.figure12, "collect", lambda data: frame.assign(backbone=str(data)))
    for name in ("cpu", "real"):
        (tmp_path / "results" / name / "data").mkdir(parents=True)
    *start, figure, caption = answers(tmp_path).split("\n\n")
    assert "\n\n".join(start) == "\n".join(table) + "\n\n" + readme.CAPTION.format(primary=1)
    assert figure == f"![NormBT − BT, Reasoning: 0.0, 0.0 points]({readme.FIGURE})"
    assert caption.startswith("Each method minus BT")
    assert len(readme.overview(tmp_path / "results").axes) == 2
    lacking = {"runs": [], "freeze": {}, "command": "matrix=replication"}
    (tmp_path / "results/real/manifest.json").write_text(json.dumps(lacking))
    assert answers(tmp_path).startswith(
        "Real pairs, SmolLM2 135M: Interim: 0 of the 16 planned runs"
    )
    monkeypatch.setattr(readme, "build", lambda results: pd.DataFrame([row] * 10))
    with pytest.raises(InputError, match=r"10 claims .* question, and README's table takes 9"):
        answers(tmp_path)


def test_only_what_stands_between_the_marks_is_rewritten() -> None:
    text = f"a\n{readme.BEGIN}\nold\n{readme.END}\nb\n"
    assert readme.updated(text, "new") == text.replace("old", "new")
    for broken in ("a b", text + readme.END, text.replace(readme.BEGIN, "")):
        with pytest.raises(InputError, match="once each"):
            readme.updated(broken, "new")
