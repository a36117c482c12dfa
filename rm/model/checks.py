"""What an architecture can do besides the plain forward, found out before anything relies on it."""

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
"""Kinds of layers in which a token sees the tokens before it: all of them, or those in a window."""
TRIAL_WINDOW = 64
"""Tokens that a sliding layer sees in a trial: more than the trial's rows have."""


def can_share(model: RewardModel, max_length: int) -> str | None:
    """Why rows of up to `max_length` tokens cannot share prefixes, in one line; None if they can.

    What a short example cannot show (windows, position scaling) is read from the configuration;
    everything else is tried: the shared forward must equal the two-row forward on a small float32
    model of the same architecture. A sliding window that no row exceeds hides nothing.
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
    """Tokens that the layers with a sliding window see; None where no layer has one."""
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "use_sliding_window", True) if kinds is None else SLIDING in kinds
    return getattr(config, "sliding_window", None) if slides else None


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """The rope types of a configuration, which may have one for each kind of layer."""
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
    return f"{type(model.backbone).__name__} gives other results for shared prefixes ({error:.1%})"


def can_flex(model: RewardModel) -> str | None:
    """Why shared rows cannot attend by FlexAttention here, in one line; None if they can.

    Tried on the GPU, on a small model of the same architecture: hidden states and the gradients of
    all weights must equal those of SDPA row by row.
    """
    if best_device() == "cpu":
        return "torch trains with FlexAttention on CUDA GPUs alone, and there is none here"
    if getattr(model.config, "attention_dropout", 0.0):
        return f"FlexAttention has no dropout ({model.config.attention_dropout} in this backbone)"
    reason = _flex_refusal_by_trial(model, best_device())
    torch.cuda.empty_cache()
    return reason


def _flex_refusal_by_trial(model: RewardModel, device: str) -> str | None:
    small = miniature(model).to(device)
    start = tuple(2 + place % 7 for place in range(100))  # rows fork within a block and across
    rows = [(*start, 3), (*start, 4, *start), (5, *start, 6), (5, *start, 7, *start), (2, 3, 9)]
    # Two sizes, both above what the compiler has a kernel of its own for (128): from the second on
    # it makes one for any.
    batches = [shared_batch(rows[:count]).to(device) for count in (3, len(rows))]
    found = []
    for small.flex_attention in (False, True):
        small.zero_grad()
        try:
            hidden = torch.cat([small(shared=batch).hidden for batch in batches])
            hidden.square().sum().backward()
        except (RuntimeError, ImportError) as error:  # the compiler's are RuntimeErrors
            return f"FlexAttention does not run here: {str(error).strip().splitlines()[0]}"
        gradients = [p.grad for p in small.parameters() if p.grad is not None]
        found.append(torch.cat([one.flatten() for one in (hidden.detach(), *gradients)]))
    difference = torch.linalg.vector_norm(found[1] - found[0]) / torch.linalg.vector_norm(found[0])
    if difference < 1e-3:
        return None
    return f"FlexAttention gives other results here ({difference.item():.1%})"
