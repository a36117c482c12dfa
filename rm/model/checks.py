"""Check whether an architecture can share prefixes and use FlexAttention."""

from __future__ import annotations

import inspect

import torch
from transformers import PreTrainedConfig

from rm.data.tokens import pad
from rm.model.attention import no_kernel, shared_batch
from rm.model.precision import best_device
from rm.model.reward_model import RewardModel, miniature

SLIDING = "sliding_attention"
ATTENTION = {"full_attention", SLIDING}
"""Layer types in which a token sees all earlier tokens, or those in a window."""
TRIAL_WINDOW = 64
"""Sliding window of the trial, in tokens: longer than the trial's rows."""


def can_share(model: RewardModel, max_length: int) -> str | None:
    """Why rows of up to `max_length` tokens cannot share prefixes, in one line; None if they can.

    Windows and position scaling do not show in a short example, so they are read from the
    configuration. Everything else is tried on a small float32 model of the same architecture: the
    shared forward must equal the two-row forward. A sliding window is allowed if no row is longer.
    """
    return _refusal_by_config(model, max_length) or _refusal_by_trial(model)


def _refusal_by_config(model: RewardModel, max_length: int) -> str | None:
    config, name = model.config, type(model.backbone).__name__
    kernel = no_kernel(model.classifier)
    if kernel is not None:
        return kernel
    if not hasattr(model.backbone, "layers"):
        return f"{name} is not a stack of decoder layers"
    if "position_ids" not in inspect.signature(model.backbone.forward).parameters:
        return f"{name} takes no position ids"
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - ATTENTION:
        others = ", ".join(sorted(kinds - ATTENTION))
        return f"{name} has layers that do not attend to the whole prefix: {others}"
    window = attention_window(config)
    if window is not None and max_length > window:
        return (
            f"{name} attends within a sliding window of {window} tokens, and rows have up to "
            f"{max_length}: lower max_length"
        )
    changing = sorted({"dynamic", "longrope"} & _rope_types(config))
    if changing:
        return f"rope type {changing[0]} depends on the longest row of a batch"
    return None


def attention_window(config: PreTrainedConfig) -> int | None:
    """Length of the sliding window in tokens; None if no layer has one."""
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "use_sliding_window", True) if kinds is None else SLIDING in kinds
    return getattr(config, "sliding_window", None) if slides else None


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """The rope types of a configuration. Each layer type may have its own."""
    found = getattr(config, "rope_parameters", None) or {}
    each = [found, *(value for value in found.values() if isinstance(value, dict))]
    return {one.get("rope_type", "default") for one in each}


@torch.no_grad()
def _refusal_by_trial(model: RewardModel) -> str | None:
    small = miniature(model, window=TRIAL_WINDOW)
    start = tuple(range(2, 10))
    rows = [(*start, 3, 5, 4), (*start, 7, 6, 9, 8)]
    ids, mask = pad(rows, pad_id=0)
    alone = small(mask, input_ids=ids).hidden
    together = small(shared=shared_batch(rows)).hidden
    error = (torch.linalg.vector_norm(together - alone) / torch.linalg.vector_norm(alone)).item()
    if error < 1e-4:
        return None
    return (
        f"{type(model.backbone).__name__} gives different hidden states with shared prefixes "
        f"(they differ by {error:.1%})"
    )


def can_flex(model: RewardModel) -> str | None:
    """Why shared rows cannot use FlexAttention here, in one line; None if they can.

    A small model of the same architecture is tried on the GPU. Its hidden states and the gradients
    of all weights must equal those of row-by-row SDPA.
    """
    if best_device() == "cpu":
        return "torch trains with FlexAttention only on CUDA GPUs, and this machine has none"
    if getattr(model.config, "attention_dropout", 0.0):
        return (
            "FlexAttention does not support attention dropout "
            f"({model.config.attention_dropout} in this backbone)"
        )
    reason = _flex_refusal_by_trial(model, best_device())
    torch.cuda.empty_cache()
    return reason


def _flex_refusal_by_trial(model: RewardModel, device: str) -> str | None:
    small = miniature(model).to(device)
    start = tuple(2 + place % 7 for place in range(100))  # forks within and across blocks
    rows = [(*start, 3), (*start, 4, *start), (5, *start, 6), (5, *start, 7, *start), (2, 3, 9)]
    # Two sizes above 128: up to 128 the compiler makes a special kernel. The second size makes it
    # compile a kernel for all sizes.
    batches = [shared_batch(rows[:count]).to(device) for count in (3, len(rows))]
    found = []
    for small.flex_attention in (False, True):
        small.zero_grad()
        try:
            hidden = torch.cat([small(shared=batch).hidden for batch in batches])
            hidden.square().sum().backward()
        except (RuntimeError, ImportError) as error:  # compiler errors are RuntimeErrors
            return f"FlexAttention does not run here: {str(error).strip().splitlines()[0]}"
        gradients = [p.grad for p in small.parameters() if p.grad is not None]
        found.append(torch.cat([one.flatten() for one in (hidden.detach(), *gradients)]))
    difference = torch.linalg.vector_norm(found[1] - found[0]) / torch.linalg.vector_norm(found[0])
    if difference < 1e-3:
        return None
    return f"FlexAttention and SDPA give different results here ({difference.item():.1%} apart)"
