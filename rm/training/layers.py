"""Representation distances at every layer of a backbone, for analysis only.

Training and scoring keep only the last layer's states, to save memory. This module keeps the states
of all layers, one pair at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rm.data.tokens import TokenPair
from rm.model.reward_model import RewardModel, last_real_token, mean_of_real_tokens
from rm.objective.weights import representation_distance
from rm.training.batches import PairCollator, model_inputs

POOLINGS = ("last", "mean")


@torch.no_grad()
def layer_distances(model: RewardModel, pairs: Sequence[TokenPair], pad_id: int) -> pd.DataFrame:
    """Measure ‖p_w − p_l‖₂ for the pooled state p of every layer.

    One row per pair, layer and pooling. Columns: pair_id; layer, 0 for the embeddings, n for the
    output of decoder layer n (the last one after the final norm); pooling, "last" (last real token)
    or "mean" (all real tokens); distance; norm, the mean of ‖p_w‖ and ‖p_l‖. Both are float32.
    """
    model.eval()
    collate, records = PairCollator(pad_id), []
    for pair in tqdm(pairs, desc="layer distances", unit="pair"):
        batch = model_inputs(collate([pair]), next(model.parameters()).device)
        for layer, states in enumerate(every_state(model, batch)):
            for pooling in POOLINGS:
                chosen, rejected = pool(states, batch["attention_mask"], pooling)
                records.append(
                    {
                        "pair_id": pair.pair_id,
                        "layer": layer,
                        "pooling": pooling,
                        "distance": representation_distance(chosen, rejected).item(),
                        "norm": (chosen.norm() + rejected.norm()).item() / 2,
                    }
                )
    return pd.DataFrame(records)


def every_state(model: RewardModel, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Return the states (rows, length, hidden) of the embeddings and of every decoder layer."""
    return model.run(
        model.backbone,
        batch["attention_mask"],
        input_ids=batch["input_ids"],
        output_hidden_states=True,
    ).hidden_states


def pool(states: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Pool `states` (rows, length, hidden) into (rows, hidden) float32: "last" or "mean"."""
    pooled = last_real_token if pooling == "last" else mean_of_real_tokens
    return pooled(states.float(), attention_mask)
