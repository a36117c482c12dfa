"""What a step needs, counted without data, against the same step with data and a closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rm.model.parts import train_part
from rm.model.reward_model import RewardModel
from rm.training.footprint import LiveBytes, run_step, step_bytes

LORA = {"r": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
ROWS, LENGTH = 2, 64


def made(
    folder: Path, device: str, part: str, checkpointing: bool, dtype: torch.dtype, layers: int = 3
) -> RewardModel:
    config = AutoConfig.from_pretrained(folder, num_labels=1, num_hidden_layers=layers)
    with torch.device(device):
        classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        model = RewardModel(classifier, dtype)
        train_part(model, part, top_layers=2, lora=LORA)  # type: ignore[arg-type]
    if checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("part", ["full", "top_layers", "lora"])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_without_data_as_with_data(
    kind: str, part: str, checkpointing: bool, backbones: dict[str, Path]
) -> None:
    real = made(backbones[kind], "cpu", part, checkpointing, torch.bfloat16)
    ids = torch.randint(5, 100, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with LiveBytes() as counter:
        run_step(real, ids, mask)
    assert counter.live < counter.peak / 10
    fake = step_bytes(
        made(backbones[kind], "meta", part, checkpointing, torch.bfloat16), ROWS, LENGTH
    )
    assert fake == pytest.approx(counter.peak, rel=0.02)


def test_a_checkpointed_layer_more_keeps_its_input(backbones: dict[str, Path]) -> None:
    """float32, long rows: hidden states of the rows, and nothing else."""
    five, six = (
        step_bytes(
            made(backbones["llama"], "meta", "full", True, torch.float32, layers), ROWS, 1024
        )
        for layers in (5, 6)
    )
    hidden = AutoConfig.from_pretrained(backbones["llama"]).hidden_size
    assert six - five == ROWS * 1024 * hidden * 4


def test_checkpointing_takes_less(backbones: dict[str, Path]) -> None:
    without, with_it = (
        step_bytes(made(backbones["gemma"], "meta", "full", way, torch.bfloat16), ROWS, 1024)
        for way in (False, True)
    )
    assert with_it < 0.7 * without
