"""Tiny backbones that are built here, with random weights: for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from generated import generate
from rm.errors import InputError
from rm.files import atomic_write_json
from rm.model.backbones import SOURCE_FILE

TINY_TEMPLATES = {
    "llama": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}
TINY_TOKENS = {
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<pad>"],
}
TINY_ENDS = {"llama": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<eos>")}


def build_tiny(folder: Path, settings: dict[str, Any]) -> None:
    """Write the tiny model that `settings` (model.tiny) describe into `folder`, with its origin."""
    model, tokenizer, origin = _tiny_model(**settings)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    atomic_write_json(folder / SOURCE_FILE, {"source": origin, "settings": settings})


def _tiny_model(
    architecture: str, hidden: int, layers: int, heads: int, vocabulary: int, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, str]:
    """Make a small random causal model with a BPE tokenizer of its own; also say how it came about.

    The tokenizer is trained on generated pairs; its template has the shape of the architecture's
    own (Llama 3 headers and an eot token that is also eos and has no spare pad; Gemma turns without
    a system role).
    """
    if architecture not in TINY_TEMPLATES:
        raise InputError(f"model.tiny.architecture={architecture}: choose llama or gemma")
    tokenizer = tiny_tokenizer(architecture, vocabulary, _training_texts(seed))
    config = _tiny_config(architecture, len(tokenizer), hidden, layers, heads, tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    return model, tokenizer, f"random weights (seed {seed}), {architecture}, built on this machine"


def _training_texts(seed: int) -> list[str]:
    pairs = [made.pair for made in generate("train", 400, seed)]
    return [f"{pair.prompt[-1]['content']} {pair.chosen} {pair.rejected}" for pair in pairs]


def tiny_tokenizer(
    architecture: str, vocabulary: int, texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most `vocabulary` tokens with a chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = TINY_TOKENS[architecture]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    bos, eos = TINY_ENDS[architecture]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=eos,
        pad_token="<pad>" if "<pad>" in special else eos,
        additional_special_tokens=[token for token in special if token not in (bos, eos, "<pad>")],
    )
    tokenizer.chat_template = TINY_TEMPLATES[architecture]
    return tokenizer


def _tiny_config(
    architecture: str,
    vocabulary: int,
    hidden: int,
    layers: int,
    heads: int,
    tokenizer: PreTrainedTokenizerFast,
) -> PretrainedConfig:
    kind = {"llama": LlamaConfig, "gemma": GemmaConfig}[architecture]
    return kind(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=hidden // heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
