"""TRL's RewardTrainer with our weight against our trainer, step by step on the same batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoTokenizer, TrainingArguments

from generated import generate
from generated.backbones import build_tiny
from pipeline.settings.configuration import CONF
from rm.data.templates import ChatTemplate
from rm.data.token_table import TokenPairs, tokenize_pairs
from rm.errors import InputError
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import new_reward_model
from rm.objective.losses import bt, bt_margin, centring
from rm.objective.objective import Objective
from rm.objective.weights import GradientClip, MeanForAll, MeanOne, NormBT, PairWeight, Uniform
from rm.training.batches import PairCollator, PairStream, micro_batches
from rm.training.records import MetricsFile
from rm.training.trainer import PairTrainer

trl = pytest.importorskip("trl", reason="trl is not installed: pip install --no-deps trl==1.16.0")
STEPS, MICRO, ACCUMULATION = 6, 4, 2


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = yaml.safe_load((CONF / "model/tiny-llama.yaml").read_text())
    return prepare_backbone(
        BackboneSettings(**content), tmp_path_factory.mktemp("backbone"), build_tiny
    )


@pytest.fixture(scope="module")
def pairs(backbone: Path) -> TokenPairs:
    made = [one.pair for one in generate("train", STEPS * MICRO * ACCUMULATION, 0)]
    template = ChatTemplate(AutoTokenizer.from_pretrained(backbone))
    found, _ = tokenize_pairs(made, template, 512, drop=False)
    return TokenPairs.of(replace(pair, margin=None) for pair in found)


def options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": MICRO,
        "gradient_accumulation_steps": ACCUMULATION,
        "num_train_epochs": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "average_tokens_across_devices": False,
    }


def theirs(
    backbone: Path,
    pairs: TokenPairs,
    weight: PairWeight,
    folder: Path,
    **own: Any,
) -> Any:
    from rm.integrations.trl import WeightedRewardTrainer

    rows = [
        {"chosen_ids": [*p.chosen], "rejected_ids": [*p.rejected]}
        | ({} if p.margin is None else {"margin": p.margin})
        for p in pairs
    ]
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    trainer = WeightedRewardTrainer(
        model=model.classifier,
        args=trl.RewardConfig(**options(folder), bf16=False, max_length=None, **own),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        pair_weight=weight,
    )
    trainer.train()
    return trainer


def ours(
    backbone: Path, pairs: TokenPairs, weight: PairWeight, folder: Path, **own: Any
) -> PairTrainer:
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    trainer = PairTrainer(
        model,
        TrainingArguments(
            **options(folder) | {"per_device_train_batch_size": 1}, remove_unused_columns=False
        ),
        stream=PairStream(
            pairs,
            micro_batches(
                pairs, range(len(pairs)), global_batch=MICRO * ACCUMULATION, micro_batch=MICRO
            ),
        ),
        collator=PairCollator(int(model.config.pad_token_id)),
        objective=Objective(**{"pair_loss": bt, "weight": weight} | own),
    )
    trainer.add_callback(MetricsFile(folder / "metrics.jsonl"))
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "weight", [Uniform(), NormBT(0.9, 1e-6), MeanOne(0.9, 1e-6), GradientClip(0.5)]
)
def test_losses_weights_mu_and_parameters_equal_ours_at_every_step(
    backbone: Path, pairs: TokenPairs, weight: PairWeight, tmp_path: Path
) -> None:
    one = theirs(backbone, pairs, weight, tmp_path / "trl")
    other = ours(backbone, pairs, weight, tmp_path / "ours")
    assert_equal(one, other, weight)


def test_margins_and_centring_equal_ours(backbone: Path, pairs: TokenPairs, tmp_path: Path) -> None:
    rated = TokenPairs.of(
        replace(pair, margin=0.5 + number % 3) for number, pair in enumerate(pairs)
    )
    weight = NormBT(0.9, 1e-6)
    one = theirs(backbone, rated, weight, tmp_path / "trl", center_rewards_coefficient=0.1)
    added = {"pair_loss": bt_margin, "regularizer": partial(centring, coefficient=0.1)}
    assert_equal(one, ours(backbone, rated, weight, tmp_path / "ours", **added), weight)


def assert_equal(one: Any, other: PairTrainer, weight: PairWeight) -> None:
    """Assert that TRL's trainer and ours took the same steps."""
    logs = [log for log in one.state.log_history if "loss" in log]
    steps = [log for log in other.state.log_history if "loss" in log]
    assert len(logs) == len(steps) == STEPS
    for theirs_log, our_log in zip(logs, steps, strict=True):
        for key in ("loss", "weight_mean", "distance_mean", "accuracy"):
            assert theirs_log[key] == pytest.approx(our_log[key], rel=2e-4, abs=2e-4), key
        if weight.needs_start:
            assert theirs_log["mu"] == pytest.approx(our_log["mu"], rel=1e-5)
    assert one.mu == (pytest.approx(other.mu, rel=1e-5) if other.mu else None)
    parameters = dict(other.reward_model.classifier.named_parameters())
    for name, value in one.model.named_parameters():
        assert torch.allclose(value, parameters[name], atol=2e-4), name


def test_a_weight_over_the_whole_batch_is_refused_with_accumulation(
    backbone: Path, pairs: TokenPairs, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="MeanForAll needs the global batch in one piece, not 2"):
        theirs(backbone, pairs, MeanForAll(0.9, 1e-6), tmp_path)
