"""The README: every command parses, every make target exists, results are those of the files."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from scripts import readme
from scripts.config import compose_config
from scripts.evaluate import hydra_words
from tests.marks import needs_committed_results

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python -m scripts\.(\w+) ([^#\n]*)", TEXT, re.MULTILINE)


def test_there_are_commands() -> None:
    assert {"train", "evaluate"} <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_every_command_composes(name: str, words: str) -> None:
    overrides = [word for word in shlex.split(words) if word != "-m"]
    # A glob stands for every file of its group; tests/scripts/test_sweep.py composes them all.
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


@needs_committed_results
def test_results_are_those_of_the_committed_files() -> None:
    if not (ROOT / readme.RESULTS / "manifest.json").is_file():
        pytest.skip("no results/cpu: run `make reproduce`")
    assert readme.updated(TEXT, readme.section(ROOT)) == TEXT


def test_markers_are_there_once() -> None:
    assert TEXT.count("<!-- results -->") == TEXT.count("<!-- /results -->") == 1
