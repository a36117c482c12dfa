"""Rewards of many responses to one prompt, the prompt's part computed once.

The token rows of one prompt's responses start alike. That common start runs through the reward
model once, as one row; its KV cache is then continued by all the different endings in a batch. The
rewards are those of the plain forward up to the rounding of another summation order.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers.cache_utils import DynamicCache

from eval.scoring import Scorer
from rm.models import RewardModel, last_real_token
from rm.tokens import pad
from rm.trunk import Row, batches_by_tokens


def common_start(rows: Sequence[Row]) -> int:
    """Length of the longest common start that leaves every row at least one token of its own."""
    first, last = min(rows), max(rows)  # what these two share, all rows between them share too
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return min(sum(1 for _ in alike), min(len(row) for row in rows) - 1)


@torch.inference_mode()
def score_rows(model: RewardModel, rows: Sequence[Row], batch_tokens: int) -> Tensor:
    """Rewards (rows,) float32 of token rows that start alike; equal rows are computed once.

    `batch_tokens`: tokens a batch, the common start counted for every row (it is in its cache).
    """
    unique = sorted(set(rows), key=lambda row: (len(row), row))
    start = common_start(unique)
    device = next(model.parameters()).device
    prompt = _cache(model, torch.tensor([unique[0][:start]], device=device)) if start else None
    rewards: dict[Row, Tensor] = {}
    for batch in batches_by_tokens(unique, batch_tokens):
        ids, mask = pad([row[start:] for row in batch], pad_id=0)
        scored = _continue(model, prompt, start, ids.to(device), mask.to(device))
        rewards.update(zip(batch, scored.cpu(), strict=True))
    return torch.stack([rewards[row] for row in rows])


def _cache(model: RewardModel, ids: Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with model._autocast(ids.device.type):
        model.backbone(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def _continue(
    model: RewardModel, prompt: DynamicCache | None, start: int, ids: Tensor, mask: Tensor
) -> Tensor:
    """Rewards (rows,) of right-padded endings `ids` (rows, length) after the cached start."""
    cache = DynamicCache(config=model.config) if prompt is None else copy.deepcopy(prompt)
    if prompt is not None:
        cache.batch_repeat_interleave(len(ids))
    positions = (start + mask.cumsum(-1) - 1).clamp(min=0)
    whole = torch.cat([mask.new_ones(len(ids), start), mask], dim=-1)
    with model._autocast(ids.device.type):
        states = model.backbone(
            input_ids=ids,
            attention_mask=whole,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    hidden = last_real_token(states, mask)
    return model._head(hidden.to(torch.promote_types(hidden.dtype, torch.float32)))


def score_prompts(scorer: Scorer, encoded: Sequence[Sequence[Row]]) -> list[list[float]]:
    """Rewards of every prompt's rows, prompt by prompt.

    A model over a frozen trunk goes through the trunk's cache instead, which all models over the
    same trunk share: the larger saving where many of them score the same responses.
    """
    if scorer.trunk_layers:
        flat, _ = scorer.score([row for rows in encoded for row in rows])
        values = iter(flat.double().tolist())
        return [[next(values) for _ in rows] for rows in encoded]
    scorer.model.eval()
    return [
        score_rows(scorer.model, rows, scorer.batch_tokens).double().tolist()
        for rows in tqdm(encoded, desc=scorer.label, unit="prompt")
    ]
