"""The README: every command parses, every make target exists, results are those of the files."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from eval.spreadsheet import read_csv
from pipeline.experiments import readme
from pipeline.settings.configuration import compose_config, hydra_words
from rm.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python -m scripts\.(\w+) ([^#\n]*)", TEXT, re.MULTILINE)


def test_there_are_commands() -> None:
    assert {"train", "evaluate"} <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_every_command_composes(name: str, words: str) -> None:
    overrides = [word for word in shlex.split(words) if word != "-m"]
    # A glob stands for every file of its group; tests/pipeline/test_sweep.py composes them all.
    overrides = [word for word in overrides if not word.endswith("=glob(*)")]
    if name == "train":  # one combination of a sweep
        overrides = [re.sub(r"^(loss|seed)=([^,]*),.*", r"\1=\2", word) for word in overrides]
    compose_config(name, hydra_words(overrides) if name == "evaluate" else overrides)


def test_arguments_of_make_compose() -> None:
    for words in re.findall(r"ARGS='([^']*)'", TEXT):
        compose_config("reproduce", ["profile=paper", *words.split()])


def test_every_make_target_exists_and_is_listed() -> None:
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    listed = set(re.findall(r"make ([a-z-]+)", made.stdout))
    assert made.returncode == 0
    assert set(re.findall(r"`?make ([a-z-]+)", TEXT)) <= listed | {"target"}


def test_every_requirement_is_explained() -> None:
    names = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    section = TEXT.split("## Dependencies")[1]
    assert [name for name in names if name not in section] == []


def test_results_are_those_of_the_committed_files() -> None:
    if not (ROOT / readme.RESULTS / "manifest.json").is_file():
        pytest.skip("no results/cpu: run `make reproduce`")
    assert readme.updated(TEXT, readme.section(ROOT)) == TEXT


def test_markers_are_there_once() -> None:
    assert TEXT.count("<!-- results -->") == TEXT.count("<!-- /results -->") == 1


def test_numbers_of_claims_are_those_of_the_committed_files() -> None:
    assert len(readme.SAID.findall(TEXT)) > 20
    assert not re.search(r"^ *<!-- (?!/?results)", TEXT, re.MULTILINE)  # it would end the paragraph
    assert readme.with_numbers(TEXT, ROOT) == TEXT, "run python -m scripts.readme"
    assert readme.page(ROOT) == (ROOT / readme.PAGE).read_text(), "run python -m scripts.readme"


def test_a_sentence_that_gives_a_claim_another_verdict_is_refused() -> None:
    said = "<!-- cpu mean-weight: holds -->1.00 [0.9, 1.1]<!-- / -->"
    with pytest.raises(InputError, match="mean-weight in results/cpu: holds; it is does not hold"):
        readme.with_numbers(f"a {said} b", ROOT)
    right = readme.with_numbers(f"a {said.replace('holds', 'does not hold')} b", ROOT)
    assert re.fullmatch(r"a <!-- .* -->\d\.\d+ \[\d\.\d+, \d\.\d+\]<!-- / --> b", right)


def test_what_is_said_of_holms_adjustment_and_of_safety_is_so() -> None:
    """The findings' words that no claim stands for."""
    tables = [
        read_csv(ROOT / f"results/{name}/tables/table1_differences.csv").set_index("method")
        for name in ("cpu", "cpu_rates")
    ]
    assert (tables[0]["reasoning_holm"] > 0.05).all() and len(tables[0]) == 11
    assert (tables[1]["reasoning_holm"] < 0.05).all() and len(tables[1]) == 4
    variants = tables[0].loc[["normbt_margin", "normbt_margin_out", "normbt_label_smoothing"]]
    assert (variants["reasoning_low"] > 0).all()
    assert (variants["safety_high"].iloc[:2] < 0).all()
    assert (tables[1]["safety_high"] > 0).all()
    assert set(tables[1].index[tables[1]["average_low"] > 0]) == {"normbt_margin_out"}
    rates = read_csv(ROOT / "results/cpu_rates/data/grid.csv").query("chosen")
    rates = rates.set_index("method")["learning_rate"]
    larger = [
        base for base in rates.index[::2] if rates[base.replace("bt", "normbt")] > rates[base]
    ]
    assert larger == ["bt_margin", "bt_margin_out"]
    fixed = tables[0].loc["category_weights"]
    assert fixed["reasoning_low"] > 0 and fixed["safety_high"] < 0
    others = read_csv(ROOT / "results/cpu_rivals/tables/table1_differences.csv")
    others = others.set_index("method")
    rivals = ["hinge", "clip", "centring", "bsr", "grm", "layer_norm", "mlp"]
    assert others.loc["normbt_random", "reasoning"] < 0 and (others["seeds"] == 5).all()
    assert (others.loc[rivals, "reasoning_low"] <= 0.05).all()  # of clipping: an exact 0, at most
    assert (others.loc[["bsr", "centring"], "average_high"] < 0).all()
    forms = others.drop(index=[*rivals, "normbt", "normbt_random"])
    weaker = {"normbt_mean_pooled", "normbt_mlp"}
    assert set(forms.index[forms["reasoning_low"] <= 0]) == weaker
    assert set(others.index[others["reasoning_holm"] < 0.05]) == {"normbt_cap"}
    worse = others.loc["normbt", "safety_low"]
    assert (others.loc[["normbt_cosine", "normbt_edit"], "safety_high"] < worse).all()
