"""Distances by layer: the last layer's last token is what the score head reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rm.data.tokens import TokenPair
from rm.model.checkpoints import new_reward_model
from rm.model.reward_model import RewardModel
from rm.objective.weights import representation_distance
from rm.training.batches import PairCollator, model_inputs
from rm.training.layers import every_state, layer_distances, pool

PAIRS = [TokenPair("a", (1, 5, 6, 7), (1, 5, 7)), TokenPair("b", (1, 8), (1, 8, 3, 4, 5, 6))]


@pytest.fixture
def model(backbones: dict[str, Path]) -> RewardModel:
    return new_reward_model(backbones["llama"], torch.float32, seed=0)[0]


def test_last_layer_is_the_representation_distance(model: RewardModel) -> None:
    table = layer_distances(model, PAIRS, pad_id=0)
    count = len(model.backbone.layers)
    assert len(table) == 2 * 2 * (count + 1) and table["layer"].max() == count
    last = table[(table["layer"] == count) & (table["pooling"] == "last")].set_index("pair_id")
    with torch.no_grad():
        hidden = model(**model_inputs(PairCollator(0)(PAIRS))).hidden
    for index, distance in enumerate(representation_distance(*hidden.chunk(2))):
        assert last["distance"].iloc[index] == pytest.approx(distance.item(), rel=1e-4)
        norm = (hidden[index].norm() + hidden[index + 2].norm()).item() / 2
        assert last["norm"].iloc[index] == pytest.approx(norm, rel=1e-4)


def test_embeddings_of_one_last_token_are_alike(model: RewardModel) -> None:
    table = layer_distances(model, PAIRS, pad_id=0)
    first = table[table["layer"] == 0].set_index(["pair_id", "pooling"])["distance"]
    assert first["a", "last"] == 0 and first["b", "last"] > 0 and first["a", "mean"] > 0


def test_pooling_leaves_padding_out(model: RewardModel) -> None:
    states = torch.tensor([[[2.0], [4.0], [100.0]], [[1.0], [2.0], [3.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "last").tolist() == [[4.0], [3.0]]
    assert pool(states, mask, "mean").tolist() == [[3.0], [2.0]]
    batch = PairCollator(0)(PAIRS)
    assert len(every_state(model, batch)) == len(model.backbone.layers) + 1
