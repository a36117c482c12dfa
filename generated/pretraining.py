"""A little language modelling, for backbones that are built here and not fetched.

A random backbone's representation distances mean nothing; one that has read some text has some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel

from rm.data.tokens import Row, pad
from rm.model.likelihood import IGNORED


@dataclass(frozen=True)
class LanguageSettings:
    """How long and on what: `pairs` generated pairs, `steps` of `rows` conversations each."""

    pairs: int
    steps: int
    rows: int
    learning_rate: float


def train_language_model(
    model: PreTrainedModel, rows: Sequence[Row], settings: LanguageSettings, seed: int
) -> float:
    """Minimise the next-token loss over seeded batches of `rows` (AdamW, linear decay), float32.

    Returns the last step's loss, nats a token. The model is left in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.steps)
    model.train()
    loss = torch.tensor(0.0)
    bar = tqdm(range(settings.steps), desc="train the backbone", unit="step")
    for _ in bar:
        chosen = torch.randint(len(rows), (settings.rows,), generator=generator)
        ids, mask = pad([rows[index] for index in chosen.tolist()], 0)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels_of(ids, mask)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()
    return loss.item()


def labels_of(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Labels (rows, length) int64 for transformers' causal loss: every real token, no padding."""
    return ids.masked_fill(mask == 0, IGNORED)
