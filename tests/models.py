"""Tiny model folders of kinds that people bring, each with the tokenizer of another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedModel,
)

VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}


def gemma3_folder(tokenizer: Path, folder: Path, *, window: int, vision: bool = False) -> Path:
    """A random Gemma 3 whose layers slide, but for the second; with `vision` one that sees too."""
    text: dict[str, Any] = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
        **{"vocab_size": len(AutoTokenizer.from_pretrained(tokenizer)), "sliding_window": window},
        **{"layer_types": ["sliding_attention", "full_attention", *["sliding_attention"] * 2]},
        **{"max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 3},
    }
    torch.manual_seed(0)
    if not vision:
        return save(Gemma3ForCausalLM(Gemma3TextConfig(**text)), tokenizer, folder)
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return save(Gemma3ForConditionalGeneration(config), tokenizer, folder)


def save(model: PreTrainedModel, tokenizer: Path, folder: Path) -> Path:
    """Write the model and a copy of the other folder's tokenizer into `folder`; return it."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def move_weights(model: nn.Module) -> None:
    """Add a little noise to every weight, as training might: none is that of the backbone then."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) / 20)
