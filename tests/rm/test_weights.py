"""Pair weights: the EMA, the stop-gradient, and the distance under autocast."""

from __future__ import annotations

import pytest
import torch

from rm.weights import InverseDistance, NormBT, Uniform, representation_distance

NORMBT = NormBT(beta=0.9, epsilon=1e-6)


def test_distance_is_the_euclidean_norm() -> None:
    chosen, rejected = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert representation_distance(chosen, rejected).tolist() == [5.0]


def test_distance_is_computed_in_float32_under_autocast_and_from_bfloat16() -> None:
    chosen = torch.randn(4, 64, dtype=torch.bfloat16)
    rejected = chosen + torch.randn(4, 64, dtype=torch.bfloat16) / 64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distance = representation_distance(chosen, rejected)
    exact = (chosen.double() - rejected.double()).norm(dim=-1)
    assert distance.dtype == torch.float32
    assert torch.allclose(distance.double(), exact, rtol=1e-6)


def test_distance_of_float64_stays_float64() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert representation_distance(zeros, zeros).dtype == torch.float64


def test_weights_are_mu_over_distance() -> None:
    weight = NORMBT.weigh(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), 2.0)
    assert weight.tolist() == pytest.approx([2.0, 1.0, 0.5], rel=1e-5)


def test_weights_average_one_when_weighted_by_distance() -> None:
    distance = torch.rand(100, dtype=torch.float64) + 0.1
    weight = NormBT(beta=0.9, epsilon=0.0).weigh(distance, distance.mean().item())
    assert (weight * distance).mean().item() == pytest.approx(distance.mean().item(), rel=1e-12)


def test_ema_follows_the_recursion() -> None:
    means, mu = [3.0, 1.0, 2.0, 8.0], NORMBT.start(3.0)
    expected = 3.0
    for mean in means:
        mu = NORMBT.update(mu, mean)
        expected = 0.9 * expected + 0.1 * mean
    assert mu == pytest.approx(expected, rel=1e-12)


def test_ema_of_a_constant_is_the_constant() -> None:
    mu = NORMBT.start(1.7)
    for _ in range(50):
        mu = NORMBT.update(mu, 1.7)
    assert mu == pytest.approx(1.7, rel=1e-12)


@pytest.mark.parametrize("weight", [Uniform(), NORMBT, InverseDistance(epsilon=1e-6)])
def test_weights_carry_no_gradient(weight: object) -> None:
    hidden = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    distance = representation_distance(*hidden)
    assert distance.requires_grad
    assert not weight.weigh(distance, 2.0).requires_grad  # type: ignore[attr-defined]


@pytest.mark.parametrize("weight", [NORMBT, InverseDistance(epsilon=1e-6)])
def test_identical_representations_give_a_finite_weight(weight: object) -> None:
    assert torch.isfinite(weight.weigh(torch.zeros(3), 2.0)).all()  # type: ignore[attr-defined]


def test_normbt_before_its_start_is_an_error() -> None:
    with pytest.raises(ValueError, match="start"):
        NORMBT.weigh(torch.ones(2), None)
    with pytest.raises(ValueError, match="start"):
        NORMBT.update(None, 1.0)


def test_only_normbt_needs_a_start() -> None:
    assert NORMBT.needs_start
    assert not Uniform().needs_start and not InverseDistance(epsilon=1.0).needs_start
    assert Uniform().start(3.0) is None and Uniform().update(None, 3.0) is None
    assert Uniform().weigh(torch.rand(3), None).tolist() == [1, 1, 1]
