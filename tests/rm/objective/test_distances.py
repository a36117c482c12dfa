"""Distances between the two sides of a pair against their definitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import kstest, lognorm

from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.model.checkpoints import new_reward_model
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel, RewardOutput
from rm.objective.distances import (
    Cosine,
    Edit,
    ExactGradient,
    MeanPooled,
    PairDistance,
    RandomDistance,
    Representation,
    Standardised,
)
from rm.objective.weights import representation_distance
from rm.training.batches import PairCollator, model_inputs

PAIRS = [
    TokenPair("a", (1, 5, 6, 7), (1, 5, 9)),
    TokenPair("b", (1, 8), (1, 8, 3, 4, 5, 6)),
    TokenPair("c", (1, 4, 4), (1, 4, 5)),
]
HIDDEN = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def measured(distance: PairDistance, hidden: torch.Tensor) -> torch.Tensor:
    chosen, rejected = hidden.chunk(2)
    difference = (chosen - rejected).sum(dim=-1)
    return distance.measure(RewardOutput(hidden.sum(dim=-1), hidden), difference, [])


@pytest.fixture
def model(backbones: dict[str, Path]) -> RewardModel:
    made, _ = new_reward_model(backbones["llama"], torch.float32, seed=0)
    train_part(made, "top_layers", top_layers=1)
    return made


def test_the_papers_distance_is_the_default_of_the_trainer() -> None:
    expected = representation_distance(*HIDDEN.chunk(2))
    assert torch.equal(measured(Representation(), HIDDEN), expected)


def test_cosine_against_its_definition_also_where_it_is_tiny() -> None:
    expected = 1 - torch.nn.functional.cosine_similarity(*HIDDEN.chunk(2))
    assert torch.allclose(measured(Cosine(), HIDDEN), expected, rtol=1e-9)
    scaled = torch.cat([3 * HIDDEN[:3], HIDDEN[3:]])
    assert torch.allclose(measured(Cosine(), scaled), expected, rtol=1e-9)
    near = torch.ones(2, 4) + torch.tensor([[1e-4, 0.0, 0.0, 0.0], [0.0] * 4])
    assert 0 < measured(Cosine(), near).item() < 1e-8


def test_standardised_is_scipys_mahalanobis_with_a_diagonal_covariance() -> None:
    found = measured(Standardised(epsilon=0.0), HIDDEN)
    inverse = torch.diag(1 / HIDDEN.var(dim=0, correction=0)).numpy()
    for value, one, other in zip(found, *HIDDEN.chunk(2), strict=True):
        expected = mahalanobis(one.numpy(), other.numpy(), inverse) / 7**0.5
        assert value.item() == pytest.approx(expected, rel=1e-9)
    stretched = HIDDEN * torch.arange(1, 8)
    assert torch.allclose(measured(Standardised(0.0), stretched), found, rtol=1e-9)


def test_mean_pooled_is_the_mean_over_real_tokens_on_either_padding_side(
    model: RewardModel,
) -> None:
    model.keep_mean = True
    found = []
    for side in ("left", "right"):
        output = model(**model_inputs(PairCollator(0, side=side)(PAIRS)))
        found.append(MeanPooled().measure(output, output.rewards, []))
    assert torch.allclose(found[0], found[1], rtol=1e-4)
    means = []
    for row in (PAIRS[1].chosen, PAIRS[1].rejected):
        ids = torch.tensor([row])
        states = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
        means.append(states[0].mean(dim=0))
    assert found[1][1].item() == pytest.approx((means[0] - means[1]).norm().item(), rel=1e-4)


def test_mean_pooled_needs_every_token(model: RewardModel) -> None:
    model.keep_mean = True
    with pytest.raises(InputError, match="share_prefix=false"):
        model(**model_inputs(PairCollator(0, share=True)(PAIRS)))
    with pytest.raises(ValueError, match="keep_mean"):
        measured(MeanPooled(), HIDDEN)


@pytest.mark.parametrize("share", [False, True])
def test_exact_gradient_is_that_of_every_pair_alone(model: RewardModel, share: bool) -> None:
    trained = [value for value in model.parameters() if value.requires_grad]

    def norms(pairs: list[TokenPair]) -> torch.Tensor:
        output = model(**model_inputs(PairCollator(0, share=share)(pairs)))
        chosen, rejected = output.rewards.chunk(2)
        found = ExactGradient().measure(output, chosen - rejected, trained)
        (chosen - rejected).sum().backward()  # the graph is still there for the loss
        return found

    together = norms(PAIRS)
    alone = torch.cat([norms([pair]) for pair in PAIRS])
    assert not together.requires_grad
    assert torch.allclose(together, alone, rtol=1e-4)
    assert (together > 0).all()


@pytest.mark.parametrize(
    ("chosen", "rejected", "edits"),
    [((1, 2, 3), (1, 2, 3), 0), ((1, 2, 3), (1, 9, 3), 1), ((1, 2), (1, 2, 3, 4), 2)],
)
def test_edit_distance_by_hand(chosen: tuple, rejected: tuple, edits: int) -> None:
    assert Edit().of_pair(TokenPair("a", chosen, rejected)) == edits


def test_random_distances_depend_on_pair_and_seed_alone() -> None:
    one, other = RandomDistance(0), RandomDistance(1)
    values = [one.of_pair(pair) for pair in PAIRS]
    assert values == [one.of_pair(pair) for pair in PAIRS]
    assert len(set(values)) == 3 and min(values) > 0
    assert values != [other.of_pair(pair) for pair in PAIRS]


def test_random_distances_are_lognormal() -> None:
    drawn = [RandomDistance(0).of_pair(replace(PAIRS[0], pair_id=str(n))) for n in range(2000)]
    assert kstest(drawn, lognorm(s=1).cdf).pvalue > 0.01


def test_token_distances_travel_with_the_batch_and_not_into_the_model() -> None:
    batch = PairCollator(0, distance=Edit().of_pair)(PAIRS)
    assert batch["distance"].tolist() == [2, 4, 1]
    assert set(model_inputs(batch)) == {"input_ids", "attention_mask"}
