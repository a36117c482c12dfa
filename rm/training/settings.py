"""The numbers of one training run (conf/training), typed and checked."""

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
    """One file of conf/training, typed. Units: pairs for batches, tokens for lengths."""

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
"""Those of transformers that need nothing beside what `TrainingSettings` has."""
POLYNOMIAL_END = 1e-7
"""Where transformers' polynomial schedule ends: it must start above."""
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop")
"""Those of transformers that need no package beside what is required."""
LORA = {"r", "alpha", "dropout", "target_modules"}


def step_count(epochs: float, pairs: int, global_batch: int) -> int:
    """Optimiser steps of a run: whole global batches of all epochs together."""
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
    require_range("training.warmup_ratio", settings.warmup_ratio, 0, 1)  # a share of the steps
    for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
        if getattr(settings, name) not in known:
            raise InputError(
                f"training.{name}={getattr(settings, name)}: choose one of {', '.join(known)}"
            )
    if settings.schedule == "polynomial" and settings.learning_rate <= POLYNOMIAL_END:
        raise InputError(
            f"training.learning_rate={settings.learning_rate}: schedule=polynomial ends at "
            f"{POLYNOMIAL_END} and must start above"
        )
    if settings.part == "lora":
        check_lora(settings.lora)


def check_lora(lora: dict[str, Any]) -> None:
    """Raise InputError unless `lora` has the four settings of an adapter, each of its type."""
    if set(lora) != LORA:
        raise InputError(
            f"training.part=lora needs exactly {', '.join(sorted(LORA))} in training.lora, as "
            "training=grm_lora has them"
        )
    r, alpha, dropout, modules = (lora[k] for k in ("r", "alpha", "dropout", "target_modules"))
    named = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    for name, right, asked in (
        ("r", _is_number(r) and isinstance(r, int) and r >= 1, "a whole number, 1 or more"),
        ("alpha", _is_number(alpha) and alpha > 0, "a number above zero"),
        ("dropout", _is_number(dropout) and 0 <= dropout < 1, "a share, 0 or more and below 1"),
        ("target_modules", named and modules, "a list of module names, such as [q_proj,v_proj]"),
    ):
        if not right:
            raise InputError(f"training.lora.{name}={lora[name]}: must be {asked}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_batches(settings: TrainingSettings, devices: int) -> None:
    """Raise InputError unless all devices can take equally many micro-batches a step."""
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

    `accumulation`: micro-batches of a step on one device; what transformers calls a batch is one.
    `bf16` stays off there: `RewardModel` does its own autocast, so that the head and the master
    weights stay float32 under DeepSpeed too.
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
    # One device a process: without ranks transformers would take every GPU it sees (DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
