"""The settings of one training run (conf/training), typed and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    TrainingArguments,
)

from rm.errors import InputError, require_range


@dataclass
class TrainingSettings:
    """One file of conf/training. Units: pairs for batches, tokens for lengths."""

    part: str
    learning_rate: float
    epochs: float
    global_batch: int
    micro_batch: int
    micro_batch_tokens: int | None
    max_length: int
    parse_special_text: bool
    schedule: str
    warmup_ratio: float
    clip_norm: float
    optimizer: str
    weight_decay: float
    compute_dtype: str
    top_layers: int
    reuse_trunk: bool
    share_prefix: bool
    attention: str | None
    gradient_checkpointing: bool
    save_steps: int
    trunk_pool: bool = False
    lora: dict[str, Any] = field(default_factory=dict)


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""The schedules of transformers that `TrainingSettings` can fully specify."""
POLYNOMIAL_END = 1e-7
"""Final learning rate of transformers' polynomial schedule."""
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop")
"""The optimisers of transformers that need no additional package."""
LORA = {"r", "alpha", "dropout", "target_modules"}


def step_count(epochs: float, pairs: int, global_batch: int) -> int:
    """Optimiser steps of a run: complete global batches in all epochs together."""
    return int(epochs * pairs) // global_batch


def check_settings(settings: TrainingSettings) -> None:
    """Raise InputError for a number out of range, an unknown name or an incomplete lora section."""
    positive = ("epochs", "learning_rate", "max_length", "global_batch", "micro_batch")
    for name in (*positive, "micro_batch_tokens"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"training.{name}={value}: must be above zero, and finite")
    for name in ("clip_norm", "weight_decay", "save_steps"):
        require_range(f"training.{name}", getattr(settings, name), 0)
    require_range("training.warmup_ratio", settings.warmup_ratio, 0, 1)  # fraction of the steps
    for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
        if getattr(settings, name) not in known:
            raise InputError(
                f"training.{name}={getattr(settings, name)}: choose one of {', '.join(known)}"
            )
    if settings.schedule == "polynomial" and settings.learning_rate <= POLYNOMIAL_END:
        raise InputError(
            f"training.learning_rate={settings.learning_rate}: must be above {POLYNOMIAL_END}, "
            "where schedule=polynomial ends"
        )
    if settings.part == "lora":
        check_lora(settings.lora)


def check_lora(lora: dict[str, Any]) -> None:
    """Raise InputError unless `lora` has exactly the keys in LORA, with valid values."""
    if set(lora) != LORA:
        raise InputError(
            f"training.part=lora needs exactly {', '.join(sorted(LORA))} in training.lora: "
            "see conf/training/grm_lora.yaml"
        )
    r, alpha, dropout, modules = (lora[k] for k in ("r", "alpha", "dropout", "target_modules"))
    named = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    for name, right, asked in (
        ("r", _is_number(r) and isinstance(r, int) and r >= 1, "a whole number, 1 or more"),
        ("alpha", _is_number(alpha) and alpha > 0, "a number above zero"),
        ("dropout", _is_number(dropout) and 0 <= dropout < 1, "a fraction, 0 or more and below 1"),
        ("target_modules", named and modules, "a list of module names, such as [q_proj,v_proj]"),
    ):
        if not right:
            raise InputError(f"training.lora.{name}={lora[name]}: must be {asked}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_batches(settings: TrainingSettings, devices: int) -> None:
    """Raise InputError unless every device gets the same number of micro-batches per step."""
    by_tokens = settings.micro_batch_tokens is not None
    share = devices if by_tokens else settings.micro_batch * devices
    if settings.global_batch % share or settings.global_batch < share:
        factors = f"devices = {devices}"
        if not by_tokens:
            factors = f"micro_batch × devices = {settings.micro_batch} × {devices}"
        raise InputError(
            f"training.global_batch={settings.global_batch} is not a multiple of {factors}: "
            "change one of them"
        )


def training_arguments(
    settings: TrainingSettings,
    *,
    run_dir: Path,
    accumulation: int,
    steps: int,
    seed: int,
    report_to: Sequence[str],
    run_name: str,
    deepspeed: dict[str, Any] | None,
) -> TrainingArguments:
    """Translate our settings into transformers' arguments.

    `accumulation`: micro-batches per step on one device. transformers sees one micro-batch as one
    example, so its batch size is 1. `bf16` is off, because `RewardModel` does its own autocast:
    this keeps the score head and the master weights in float32, also under DeepSpeed.
    """
    arguments = TrainingArguments(
        output_dir=str(run_dir / "trainer"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup_ratio * steps),
        max_grad_norm=settings.clip_norm,
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        seed=seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 1,
        save_total_limit=2,
        report_to=list(report_to),
        run_name=run_name,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        deepspeed=deepspeed,
    )
    # One device per process: transformers would otherwise use all visible GPUs (DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
