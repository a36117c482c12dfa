"""Models that people bring, through the commands: trained, scored, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from generated import generate
from pipeline.run.evaluation import evaluate
from pipeline.settings.configuration import compose_config, hydra_words
from rm.data.preferences import write_pairs
from rm.errors import InputError
from tests.marks import two_ranks
from tests.models import gemma3_folder

Train = Callable[..., Path]
PAIRS = ("data.train_pairs=48", "training.max_length=256", "loss=normbt")
TRUNK = ("training.part=top_layers", "training.top_layers=2", "training.reuse_trunk=true")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty generated test pairs."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs([made.pair for made in generate("test", 20, 0)], path)
    return path


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def facts_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return found


def scores(run_dir: Path, pairs: Path, output: Path, *words: str) -> pd.DataFrame:
    """Rewards of the pairs by a run's checkpoint."""
    own = [f"checkpoint='{run_dir}/checkpoint'", f"output='{output}'", f"cache_dir='{output}-c'"]
    own += ["benchmark=pairs", f"data={pairs}", "eval.resamples=50", *words]
    evaluate(compose_config("evaluate", hydra_words(own)))
    return pd.read_parquet(output / "scores.parquet")[["reward_chosen", "reward_rejected"]]


# --- Sliding windows ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sliding(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 with a window of 256 tokens, as many as the longest row may have."""
    folder = tmp_path_factory.mktemp("sliding") / "gemma3"
    return gemma3_folder(backbone_folders["gemma"], folder, window=256)


@pytest.mark.parametrize("trunk", [(), TRUNK], ids=["whole", "trunk"])
def test_rows_within_the_window_share_prefixes_and_train_the_same(
    sliding: Path, train_smoke: Train, pairs: Path, tmp_path: Path, trunk: tuple[str, ...]
) -> None:
    own = ("model=local", f"model.path={sliding}", *PAIRS, *trunk)
    one, other = (train_smoke(*own, f"training.share_prefix={share}") for share in (False, True))
    assert len(steps_of(one)) == len(steps_of(other)) == 6
    for a, b in zip(steps_of(one), steps_of(other), strict=True):
        for key in ("loss", "mu", "distance_mean", "weight_mean", "gradient_norm"):
            assert a[key] == pytest.approx(b[key], rel=2e-4, abs=2e-4), key
    assert facts_of(other)["batches"]["computed"] < facts_of(one)["batches"]["computed"]
    alone = scores(other, pairs, tmp_path / "alone", "eval.share_prefix=false")
    together = scores(other, pairs, tmp_path / "together")
    assert facts_of(tmp_path / "together")["scoring"]["share_prefix"]
    assert alone.to_numpy() == pytest.approx(together.to_numpy(), rel=1e-4, abs=1e-5)


def test_rows_longer_than_the_window_do_not_share(
    sliding: Path, train_smoke: Train, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    own = ("model=local", f"model.path={sliding}", *PAIRS, "training.max_length=257")
    message = r"training\.share_prefix=true: .* window of 256 tokens, and rows have up to 257"
    with pytest.raises(InputError, match=message):
        train_smoke(*own, "training.share_prefix=true")
    made = train_smoke(*own)
    scores(made, pairs, tmp_path / "scored")
    assert "prefixes are not shared: Gemma3TextModel attends within" in capsys.readouterr().out
    assert not facts_of(tmp_path / "scored")["scoring"]["share_prefix"]


# --- Reward models, towers, added tokens ----------------------------------------------------------


def test_training_on_from_a_reward_model_keeps_its_head_and_says_so(
    train_smoke: Train, pairs: Path, tmp_path: Path, capsys: Any
) -> None:
    first = train_smoke(*PAIRS)
    assert facts_of(first)["head"] == "new"
    assert "score head: new, drawn by seed 0" in capsys.readouterr().out
    assert "| Score head | new" in (first / "checkpoint/README.md").read_text()
    own = ("model=local", f"model.path={first}/checkpoint", *PAIRS, "training.learning_rate=1e-12")
    kept, drawn = train_smoke(*own), train_smoke(*own, "model.head=new", "seed=1")
    assert (facts_of(kept)["head"], facts_of(drawn)["head"]) == ("kept", "new")
    assert f"score head: kept from {first}/checkpoint" in capsys.readouterr().out
    assert (
        "| Score head | kept from the reward model" in (kept / "checkpoint/README.md").read_text()
    )
    found = [
        scores(run, pairs, tmp_path / str(number)).to_numpy()
        for number, run in enumerate((first, kept, drawn))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5)
    assert abs(found[0] - found[2]).max() > 0.05
    with pytest.raises(InputError, match=r"model\.head=keep: .* has no score head"):
        train_smoke(*PAIRS, "model.head=keep")


def test_older_runs_stay_valid_without_the_new_setting(train_smoke: Train) -> None:
    made = train_smoke(*PAIRS)
    saved = yaml.safe_load((made / "config.yaml").read_text())
    assert saved["model"].pop("head") == "auto"
    (made / "config.yaml").write_text(yaml.safe_dump(saved))
    before = (made / "manifest.json").read_bytes()
    train_smoke(*PAIRS, run_dir=made)
    assert (made / "manifest.json").read_bytes() == before
    with pytest.raises(InputError, match=r"model\.head: new ≠ None"):
        train_smoke(*PAIRS, "model.head=new", run_dir=made)


@pytest.fixture(scope="module")
def seeing(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 with a vision tower."""
    folder = tmp_path_factory.mktemp("seeing") / "gemma3"
    return gemma3_folder(backbone_folders["gemma"], folder, window=256, vision=True)


@pytest.fixture(scope="module")
def seen(seeing: Path, train_smoke: Train) -> Path:
    """A run on it, one device."""
    return train_smoke("model=local", f"model.path={seeing}", *PAIRS)


def test_a_model_that_sees_is_trained_and_scored_like_one_that_does_not(
    seeing: Path, seen: Path, train_smoke: Train, pairs: Path, tmp_path: Path
) -> None:
    weights = load_file(seen / "checkpoint/model.safetensors")
    assert not [name for name in weights if "vision" in name or "multi_modal" in name]
    assert len(scores(seen, pairs, tmp_path / "scored")) == 20
    own = ("model=local", f"model.path={seeing}", *PAIRS, *TRUNK, "training.share_prefix=true")
    assert len(steps_of(train_smoke(*own))) == 6
    with pytest.raises(InputError, match=r"max_length=513: the backbone has 512 positions"):
        train_smoke("model=local", f"model.path={seeing}", *PAIRS, "training.max_length=513")


@pytest.mark.slow
@two_ranks
def test_a_model_that_sees_trains_the_same_on_two_ranks(
    seeing: Path, seen: Path, train_smoke: Train
) -> None:
    own = ("model=local", f"model.path={seeing}", *PAIRS, "training.micro_batch=4", "devices=2")
    two = train_smoke(*own)
    for a, b in zip(steps_of(seen), steps_of(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-4)
    weights = load_file(two / "checkpoint/model.safetensors")
    for name, value in load_file(seen / "checkpoint/model.safetensors").items():
        assert torch.allclose(value, weights[name], rtol=2e-4, atol=2e-4), name


def test_a_token_without_an_embedding_ends_the_command_before_any_step(
    run: Callable[..., int], backbone_folders: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    folder = Path(shutil.copytree(backbone_folders["llama"], tmp_path / "mine"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    words = ("profile=smoke", "model=local", f"model.path={folder}", "training.share_prefix=true")
    assert run("train", *words, f"run_dir={tmp_path}/run", f"cache_dir={tmp_path}/cache") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line for line in errors if line.startswith("error: ")] == errors[-1:]
    assert "1025 tokens and the embedding 1024 rows" in errors[-1]
    assert not (tmp_path / "run/metrics.jsonl").exists()
