"""Our accuracies against those of the official rewardbench command and of TRL's RewardTrainer."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BatchEncoding
from transformers.utils import logging

from eval import pairs
from eval.scoring import Scorer, score_pairs
from generated import generate
from rm.model.checkpoints import load_reward_model
from rm.model.precision import DTYPES

MAX_LENGTH = 2048


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pairs as whole conversations, which all three programs read."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    with path.open("w") as file:
        for number, made in enumerate(generate("test", 60, 0)):
            prompt = [dict(turn) for turn in made.pair.prompt]
            sides = {"chosen": made.pair.chosen, "rejected": made.pair.rejected}
            record: dict[str, Any] = {
                side: [*prompt, {"role": "assistant", "content": text}]
                for side, text in sides.items()
            }
            record |= {"category": made.pair.category or "all", "id": f"row {number}"}
            file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture
def ours(checkpoint: Path, pairs_file: Path) -> pd.DataFrame:
    """Our scores of the pairs."""
    model, tokenizer = load_reward_model(checkpoint, DTYPES["float32"])
    scorer = Scorer(model, tokenizer, max_length=MAX_LENGTH, batch_tokens=4096)
    return score_pairs(scorer, pairs.load(str(pairs_file)))


def accuracy(scores: pd.DataFrame) -> float:
    return float((scores["reward_chosen"] > scores["reward_rejected"]).mean())


# --- rewardbench 0.1.4 --------------------------------------------------------------------------


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


@pytest.fixture
def rewardbench_command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], None]]:
    """The official `rewardbench` command: its own main, data formatting and default pipeline.

    Left out, as they cannot be imported beside our versions: fastchat's templates (unused where the
    tokenizer has one), the zoo of models that are not plain classifiers, DPO, pkg_resources. On a
    machine without a GPU its hard-wired move of the inputs to "cuda" does nothing.
    """
    found = importlib.util.find_spec("rewardbench")
    if found is None or found.origin is None:
        pytest.skip("rewardbench is not installed: pip install --no-deps rewardbench==0.1.4")
    folder = Path(found.origin).parent
    stubs = {
        "fastchat": _module("fastchat"),
        "fastchat.conversation": _module("fastchat.conversation", Conversation=object),
        "pkg_resources": _module("pkg_resources"),
        "rewardbench": _module("rewardbench", __path__=[str(folder)]),
        "rewardbench.models": _module("rewardbench.models", __path__=[str(folder / "models")]),
    }
    for name, stub in stubs.items():
        monkeypatch.setitem(sys.modules, name, stub)
    pipeline = importlib.import_module("rewardbench.models.pipeline")
    config = {
        "model_builder": AutoModelForSequenceClassification.from_pretrained,
        "pipeline_builder": pipeline.RewardBenchPipeline,
        "quantized": True,
        "custom_dialogue": False,
        "model_type": "Seq. Classifier",
    }  # "default" of rewardbench/models/__init__.py, word by word
    zoo = {"REWARD_MODEL_CONFIG": {"default": config}, "DPO_MODEL_CONFIG": {}}
    stubs["rewardbench.models"].__dict__.update(zoo)
    utils = importlib.import_module("rewardbench.utils")
    stubs["rewardbench"].__dict__.update({**vars(utils), **zoo})
    if not torch.cuda.is_available():
        monkeypatch.setattr(BatchEncoding, "to", lambda self, *_, **__: self)
    original = Dataset.map
    monkeypatch.setattr(  # eight processes for sixty rows
        Dataset, "map", lambda self, *a, **k: original(self, *a, **{**k, "num_proc": None})
    )
    program = importlib.import_module("rewardbench.rewardbench")

    def run(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["rewardbench", *words])
        program.main()

    yield run
    for name in [name for name in sys.modules if name.split(".")[0] == "rewardbench"]:
        if name not in stubs:
            del sys.modules[name]
    AcceleratorState._reset_state(reset_partial_state=True)
    logging.set_verbosity_warning()
    logging.reset_format()


def test_the_official_command_gives_our_accuracy(
    rewardbench_command: Callable[[list[str]], None],
    checkpoint: Path,
    pairs_file: Path,
    ours: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(checkpoint)  # its outputs are named after the model
    words = f"--model model --dataset {pairs_file} --load_json --not_quantized --output_dir out/"
    rewardbench_command([*words.split(), "--torch_dtype=float32", f"--max_length={MAX_LENGTH}"])
    summary = json.loads((tmp_path / "out/model.json").read_text())
    lines = (tmp_path / "out/model_outputs.jsonl").read_text().splitlines()
    theirs = pd.DataFrame(map(json.loads, lines))
    assert summary["num_prompts"] == len(ours) == 60
    assert theirs["id"].tolist() == ours["pair_id"].tolist()
    for side in ("chosen", "rejected"):
        expected = theirs[f"scores_{side}"].to_numpy()
        assert ours[f"reward_{side}"].to_numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert summary["accuracy"] == accuracy(ours)
    by_category = theirs.groupby("category")["results"].mean()
    subsets = pairs.summarize(ours)["subsets"]
    assert {name: entry["accuracy"] for name, entry in subsets.items()} == pytest.approx(
        by_category.to_dict()
    )


# --- TRL 1.16.0 ---------------------------------------------------------------------------------


def test_trl_evaluates_to_our_accuracy(
    checkpoint: Path, pairs_file: Path, ours: pd.DataFrame, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl", reason="trl is absent: pip install --no-deps trl==1.16.0")
    records = map(json.loads, pairs_file.read_text().splitlines())
    data = Dataset.from_list([{k: r[k] for k in ("chosen", "rejected")} for r in records])
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path),
        per_device_eval_batch_size=12,  # divides 60: TRL averages the batches' accuracies
        max_length=MAX_LENGTH,
        bf16=False,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
    )
    trainer = trl.RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32),
        arguments,
        train_dataset=data,
        eval_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
    )
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(accuracy(ours))
    difference = ours["reward_chosen"] - ours["reward_rejected"]
    assert metrics["eval_margin"] == pytest.approx(difference.mean(), rel=1e-3, abs=1e-5)
