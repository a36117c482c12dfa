"""The worked examples of docs/ run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rm.batches import PairCollator
from rm.tokens import TokenPair
from scripts.config import compose_config
from scripts.evaluate import hydra_words

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/extending.md").read_text()

TRACKING = (ROOT / "docs/tracking.md").read_text()
COMMANDS = re.findall(r"^python -m scripts\.(\w+) (.*)", TRACKING, re.MULTILINE)


def block(language: str, name: str) -> str:
    (found,) = re.findall(rf"```{language} {name}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The example's module under a name of its own."""
    module = ModuleType("example")
    sys.modules["example"] = module
    exec(block("python", request.param), module.__dict__)
    yield module
    del sys.modules["example"]


def settings(name: str) -> Any:
    text = block("yaml", name)
    return OmegaConf.create(
        re.sub(r"_target_: rm\.(losses|distances)\.", "_target_: example.", text)
    )


@pytest.mark.parametrize("example", ["loss"], indirect=True)
def test_the_loss(example: ModuleType) -> None:
    loss = settings("loss")
    found = instantiate(loss.pair_loss)(torch.tensor([0.0, 1.0]), None)
    assert found.tolist() == pytest.approx([1, 0.36788], rel=1e-4)
    assert instantiate(loss.weight).weigh(torch.ones(2), None).tolist() == [1, 1]


@pytest.mark.parametrize("example", ["distance"], indirect=True)
def test_the_distance(example: ModuleType) -> None:
    distance = instantiate(settings("distance").distance)
    pairs = [TokenPair("a", (1, 2, 3), (1,)), TokenPair("b", (1,), (2,))]
    assert PairCollator(0, distance=distance.of_pair)(pairs)["distance"].tolist() == [3, 1]


@pytest.mark.parametrize("example", ["benchmark"], indirect=True)
def test_the_benchmark(example: ModuleType) -> None:
    rows = example.load("anywhere")
    scores = pd.DataFrame(
        {
            "pair_id": [row.pair_id for row in rows],
            "subset": [row.subset for row in rows],
            "section": [row.section for row in rows],
            "reward_chosen": [1.0, 0.0],
            "reward_rejected": [0.0, 1.0],
        }
    )
    assert example.summarize(scores)["average"] == pytest.approx(0.25)


def test_every_path_that_the_docs_name_exists() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(
            r"`((?:rm|eval|analysis|scripts|tests|conf)/[\w/.-]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def first_job(word: str) -> str:
    """One value of a word that sweeps over several; those of an interval are Optuna's to choose."""
    return re.sub(r"^([\w./]+)=([^\[(,]*),.*", r"\1=\2", word)


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_every_command_about_tracking_composes(name: str, words: str) -> None:
    overrides = [first_job(word) for word in shlex.split(words) if word != "-m"]
    overrides = [word for word in overrides if "interval(" not in word]
    compose_config(name, hydra_words(overrides) if name == "evaluate" else overrides)


def test_commands_about_tracking_are_there_and_make_knows_them() -> None:
    assert {"train", "evaluate", "tune", "jobs"} == {name for name, _ in COMMANDS}
    for words in re.findall(r"^make (.*)", TRACKING, re.MULTILINE):
        command = ["make", "--dry-run", *words.split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        (line,) = re.findall(r"-m scripts\.dashboard (.*)", done.stdout)
        assert compose_config("dashboard", line.split()).project == "owner/normbt"
