"""Per-pair gradients against autograd on the loss itself, and projections against whole vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.model.checkpoints import new_reward_model
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel, set_head
from rm.objective.losses import bt
from rm.training.batches import PairCollator, model_inputs
from rm.training.gradients import HEAD, Projection, cosines, pair_gradients

PAIRS = [
    TokenPair("a", (1, 5, 6, 7), (1, 5, 9)),
    TokenPair("b", (1, 8), (1, 8, 3, 4, 5, 6)),
    TokenPair("c", (1, 4, 4), (1, 4, 2)),
]


@pytest.fixture
def model(backbones: dict[str, Path]) -> RewardModel:
    made, _ = new_reward_model(backbones["llama"], torch.float32, seed=0)
    train_part(made, "top_layers", top_layers=1)
    return made


def loss_gradient(model: RewardModel, pair: TokenPair) -> dict[str, torch.Tensor]:
    """∇_θ L_BT of one pair by an ordinary backward pass."""
    model.zero_grad()
    chosen, rejected = model(**model_inputs(PairCollator(0)([pair]))).rewards
    bt((chosen - rejected).unsqueeze(0)).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_norms_are_those_of_the_bt_loss(model: RewardModel) -> None:
    frame, sketches = pair_gradients(model, PAIRS, PairCollator(0))
    assert sketches.shape == (3, 0)
    for pair, (_, row) in zip(PAIRS, frame.iterrows(), strict=True):
        gradient = loss_gradient(model, pair)
        whole = torch.cat([part.flatten() for part in gradient.values()]).norm().item()
        assert row["gradient_norm"] == pytest.approx(whole, rel=1e-4)
        head = gradient[f"{HEAD}weight"].norm().item()
        assert row["head_gradient_norm"] == pytest.approx(head, rel=1e-4)
        # the paper's identity for the head, and the definition of the rest
        assert row["head_gradient_norm"] == pytest.approx(row["error"] * row["distance"], rel=1e-4)
        assert row["error"] == pytest.approx(1 / (1 + np.exp(row["difference"])), rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(row["error"] * row["gradient_distance"])


def test_the_heads_part_is_that_of_all_its_layers(model: RewardModel) -> None:
    set_head(model, "mlp", seed=0)
    frame, _ = pair_gradients(model, PAIRS[:1], PairCollator(0))
    gradient = loss_gradient(model, PAIRS[0])
    head = torch.cat([g.flatten() for name, g in gradient.items() if name.startswith(HEAD)])
    assert frame["head_gradient_norm"][0] == pytest.approx(head.norm().item(), rel=1e-4)


def test_no_pair_is_an_error(model: RewardModel) -> None:
    with pytest.raises(InputError, match="no pair"):
        pair_gradients(model, [], PairCollator(0))


def test_cosines_are_those_of_the_loss_gradients(model: RewardModel) -> None:
    frame, sketches = pair_gradients(model, PAIRS, PairCollator(0), Projection(2**20))
    table = cosines(frame["pair_id"].tolist(), sketches, frame["gradient_distance"].tolist())
    assert table[["pair_a", "pair_b"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    vectors = {
        pair.pair_id: torch.cat([g.flatten() for g in loss_gradient(model, pair).values()])
        for pair in PAIRS
    }
    for row in table.itertuples():
        exact = torch.cosine_similarity(vectors[row.pair_a], vectors[row.pair_b], dim=0).item()
        assert row.cosine == pytest.approx(exact, abs=1e-5)


def test_projection_keeps_inner_products_within_its_stated_error() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(20_000, generator=generator)
    vectors = [shared + torch.randn(20_000, generator=generator) for _ in range(12)]
    projection = Projection(2048)
    sketches = torch.stack([projection({"x": v[:7000], "y": v[7000:]}) for v in vectors])
    assert sketches.shape == (12, 2048)
    table = cosines(list("abcdefghijkl"), sketches, [v.norm().item() for v in vectors])["cosine"]
    exact = torch.corrcoef(torch.stack(vectors))[*np.triu_indices(12, k=1)].numpy()
    bound = projection.error(20_000)
    assert bound == pytest.approx((2 / 2048) ** 0.5)
    deviation = table.to_numpy() - exact
    assert np.sqrt(np.mean(deviation**2)) < bound and abs(deviation.mean()) < bound
    assert torch.equal(projection({"x": vectors[0]}), sketches[0])  # the same every time
    assert Projection(2048, seed=1)({"x": vectors[0]}).ne(sketches[0]).any()


def test_projections_of_orthogonal_gradients_stay_orthogonal() -> None:
    """Of one sign alone: without random signs, buckets that both share would add up."""
    first = torch.cat([torch.ones(10_000), torch.zeros(10_000)])
    projection = Projection(2048)
    sketches = torch.stack([projection({"x": first}), projection({"x": 1 - first})])
    (cosine,) = cosines(["a", "b"], sketches, [100.0, 100.0])["cosine"]
    assert abs(cosine) < 4 * projection.error(20_000)


def test_cosines_do_not_leave_their_range() -> None:
    sketches = torch.tensor([[1.0, 0.0], [1.1, 0.0], [-1.0, 0.0]])  # longer than the exact norms
    assert cosines(["a", "b", "c"], sketches, [0.9] * 3)["cosine"].tolist() == [1, -1, -1]


def test_short_gradients_are_kept_whole() -> None:
    projection = Projection(8)
    assert projection({"a": torch.tensor([[1.0], [2.0]])}).tolist() == [1, 2]
    assert projection.error(8) == 0 and projection.error(9) == 0.5


def test_a_zero_gradient_has_no_direction() -> None:
    table = cosines(["a", "b"], torch.tensor([[1.0, 0.0], [0.0, 0.0]]), [1.0, 0.0])
    assert table["cosine"].isna().all()
