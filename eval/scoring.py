"""Rewards and representations of any rows, by one engine: batches by length, every row counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from eval.rows import EvaluationItem, EvaluationRow
from rm.models import RewardModel
from rm.preferences import Message
from rm.tokens import ChatTemplate, encode_pair, pad
from rm.trunk import Row, TrunkCache, batches_by_tokens, open_cache


@dataclass
class Scorer:
    """A reward model with the settings that scores may depend on.

    `batch_tokens`: padded tokens a batch. `trunk_layers`: number of top layers above a frozen
    trunk whose output is kept in `cache_dir` and shared by all checkpoints over the same trunk;
    0 runs the whole model.
    """

    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    batch_tokens: int
    trunk_layers: int = 0
    cache_dir: Path = Path("runs/cache")
    label: str = "score"

    def encode(self, prompt: Sequence[Message], responses: Sequence[str]) -> tuple[list[Row], bool]:
        """Token rows of a prompt's responses by the training truncation policy; whether cut."""
        encoded, cut, _ = encode_pair(
            ChatTemplate(self.tokenizer), prompt, responses, self.max_length
        )
        return [tuple(ids) for ids in encoded], cut is not None

    @torch.no_grad()
    def score(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Rewards (rows,) and last-token hidden states (rows, hidden), float32, in row order.

        Equal rows are computed once. The result does not depend on the order of the rows or on the
        batch size beyond floating point.
        """
        self.model.eval()
        unique = sorted(set(rows), key=lambda row: (len(row), row))
        trunk = self._trunk(unique)
        rewards: dict[Row, Tensor] = {}
        hidden: dict[Row, Tensor] = {}
        tokens = sum(map(len, unique))
        with tqdm(total=tokens, desc=self.label, unit="tok", unit_scale=True) as bar:
            for batch in batches_by_tokens(unique, self.batch_tokens):
                output = self.model(**self._inputs(batch, trunk))
                rewards.update(zip(batch, output.rewards.cpu(), strict=True))
                hidden.update(zip(batch, output.hidden.cpu(), strict=True))
                bar.update(sum(map(len, batch)))
        return torch.stack([rewards[row] for row in rows]), torch.stack(
            [hidden[row] for row in rows]
        )

    def _trunk(self, rows: Sequence[Row]) -> TrunkCache | None:
        if not self.trunk_layers:
            return None
        return open_cache(self.model, self.trunk_layers, rows, self.cache_dir)

    def _inputs(self, batch: Sequence[Row], trunk: TrunkCache | None) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        if trunk is not None:
            states, mask = trunk.batch(batch)
            return {"trunk_states": states.to(device), "attention_mask": mask.to(device)}
        ids, mask = pad(batch, int(self.tokenizer.pad_token_id))
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def score_pairs(scorer: Scorer, rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """Score every pair: no row is dropped.

    Columns: pair_id, subset, section, cluster, reward_chosen, reward_rejected, distance
    (‖h_w − h_l‖ of this model), tokens_chosen, tokens_rejected, truncated.
    """
    encoded = [scorer.encode(row.prompt, (row.chosen, row.rejected)) for row in rows]
    flat = [ids for sides, _ in encoded for ids in sides]
    rewards, hidden = scorer.score(flat)
    pairs = rewards.double().view(-1, 2)
    distance = torch.linalg.vector_norm(hidden[0::2] - hidden[1::2], dim=-1)
    return pd.DataFrame(
        {
            **_names(rows),
            "cluster": [row.cluster for row in rows],
            "reward_chosen": pairs[:, 0].numpy(),
            "reward_rejected": pairs[:, 1].numpy(),
            "distance": distance.double().numpy(),
            "tokens_chosen": [len(sides[0]) for sides, _ in encoded],
            "tokens_rejected": [len(sides[1]) for sides, _ in encoded],
            "truncated": [cut for _, cut in encoded],
        }
    )


def _names(rows: Sequence[EvaluationRow]) -> dict[str, list[str]]:
    return {
        "pair_id": [row.pair_id for row in rows],
        "subset": [row.subset for row in rows],
        "section": [row.section for row in rows],
    }


def score_items(scorer: Scorer, items: Sequence[EvaluationItem]) -> pd.DataFrame:
    """Score every response of every item: one row a response.

    Columns: item_id, subset, section, response (index), correct, reward, tokens, truncated.
    """
    encoded = [scorer.encode(item.prompt, item.responses) for item in items]
    flat = [ids for sides, _ in encoded for ids in sides]
    rewards, _ = scorer.score(flat)
    records: list[dict[str, Any]] = []
    for item, (sides, cut) in zip(items, encoded, strict=True):
        for index, (ids, correct) in enumerate(zip(sides, item.correct, strict=True)):
            records.append(
                {
                    "item_id": item.item_id,
                    "subset": item.subset,
                    "section": item.section,
                    "response": index,
                    "correct": correct,
                    "tokens": len(ids),
                    "truncated": cut,
                }
            )
    return pd.DataFrame(records).assign(reward=rewards.double().numpy())
