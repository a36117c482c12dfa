"""What an architecture can do besides the plain forward, found out before anything relies on it."""

from __future__ import annotations

import inspect

import torch

from rm.models import RewardModel, miniature
from rm.prefix import KERNEL, forward_shared, no_kernel, shared_batch
from rm.tokens import pad


def can_share(model: RewardModel) -> str | None:
    """Why this backbone cannot share prefixes, in one line; None if it can.

    What a short example cannot show (windows, position scaling) is read from the configuration;
    everything else is tried: the shared forward must equal the two-row forward on a small float32
    model of the same architecture.
    """
    return _refusal_by_config(model) or _refusal_by_trial(model)


def _refusal_by_config(model: RewardModel) -> str | None:
    config, name = model.config, type(model.backbone).__name__
    kernel = config._attn_implementation
    if kernel not in ("sdpa", KERNEL):
        return no_kernel(kernel)
    if not hasattr(model.backbone, "layers"):
        return f"{name} is no stack of decoder layers"
    if "position_ids" not in inspect.signature(model.backbone.forward).parameters:
        return f"{name} takes no position ids"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        return f"{name} has layers that do not attend to the whole prefix: {', '.join(kinds)}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"{name} attends within a sliding window of {config.sliding_window} tokens"
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling in ("dynamic", "longrope"):
        return f"rope type {scaling} depends on the longest row of a batch"
    return None


@torch.no_grad()
def _refusal_by_trial(model: RewardModel) -> str | None:
    small = miniature(model)
    start = tuple(range(2, 10))
    rows = [(*start, 3, 5, 4), (*start, 7, 6, 9, 8)]
    ids, mask = pad(rows, pad_id=0)
    alone = small(mask, input_ids=ids).hidden
    together = forward_shared(small, shared_batch(rows)).hidden
    error = (torch.linalg.vector_norm(together - alone) / torch.linalg.vector_norm(alone)).item()
    if error < 1e-4:
        return None
    return f"{type(model.backbone).__name__} gives other results for shared prefixes ({error:.1%})"
