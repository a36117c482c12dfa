"""Tiny random backbones of the two architectures, made once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    Qwen2Config,
)

from generated.backbones import build_tiny
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.reward_model import RewardModel

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of each tiny backbone: "llama" (pad = eos, the trap) and "gemma" (no system role)."""
    folder = tmp_path_factory.mktemp("backbones")
    found = {}
    for name in ("llama", "gemma"):
        content = yaml.safe_load((CONF / f"model/tiny-{name}.yaml").read_text())
        found[name] = prepare_backbone(BackboneSettings(**content), folder, build_tiny)
    return found


SMALL: dict[str, Any] = {
    **{"hidden_size": 16, "intermediate_size": 16, "vocab_size": 256, "num_hidden_layers": 6},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_labels": 1},
    "pad_token_id": 0,
}
KINDS = ("sliding_attention", "sliding_attention", "full_attention")
WINDOWED = {
    "gemma2": lambda window: Gemma2Config(**SMALL, layer_types=[*KINDS] * 2, sliding_window=window),
    "gemma3": lambda window: Gemma3TextConfig(
        **SMALL, layer_types=[*KINDS] * 2, sliding_window=window
    ),
    "qwen2": lambda window: Qwen2Config(
        **SMALL, use_sliding_window=True, max_window_layers=3, sliding_window=window
    ),
    "mistral": lambda window: MistralConfig(**SMALL, sliding_window=window),
}
"""Architectures in which all layers see a window, or some by their place."""


def windowed_model(kind: str, window: int) -> RewardModel:
    """A random model of one of these architectures, its window `window` tokens wide."""
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(WINDOWED[kind](window))
    return RewardModel(made, torch.float32).eval()


@pytest.fixture(params=WINDOWED)
def windowed(request: pytest.FixtureRequest) -> Any:
    """Gives `windowed(window)`, a model with a sliding window, of each architecture in turn."""
    return lambda window: windowed_model(request.param, window)
