"""Pair weights: the EMA, the stop-gradient, and the distance under autocast."""

from __future__ import annotations

import pytest
import torch

from rm.objective.weights import (
    BatchMean,
    GradientClip,
    InverseDistance,
    MeanForAll,
    MeanOne,
    NormBT,
    Proportional,
    Shuffled,
    Uniform,
    dealt_within,
    fixed_within,
    mean_within,
    representation_distance,
)

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
    means, mu = [3.0, 1.0, 2.0, 8.0], NORMBT.start(torch.tensor([2.0, 4.0]))
    expected = 3.0
    for mean in means:
        mu = NORMBT.update(mu, mean)
        expected = 0.9 * expected + 0.1 * mean
    assert mu == pytest.approx(expected, rel=1e-12)


def test_ema_of_a_constant_is_the_constant() -> None:
    mu = NORMBT.start(torch.tensor([1.7], dtype=torch.float64))
    for _ in range(50):
        mu = NORMBT.update(mu, 1.7)
    assert mu == pytest.approx(1.7, rel=1e-12)


EVERY = [
    Uniform(),
    NORMBT,
    InverseDistance(epsilon=1e-6),
    BatchMean(0.9, 1e-6),
    MeanOne(0.9, 1e-6),
    GradientClip(0.1),
    Proportional(0.9),
    Shuffled(0.9, 1e-6),
    MeanForAll(0.9, 1e-6),
]


@pytest.mark.parametrize("weight", EVERY)
def test_weights_carry_no_gradient(weight: object) -> None:
    hidden = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    distance = representation_distance(*hidden)
    assert distance.requires_grad
    error = distance.sigmoid()
    assert not weight.weigh(distance, 2.0, error).requires_grad  # type: ignore[attr-defined]


@pytest.mark.parametrize("weight", EVERY)
def test_identical_representations_give_a_finite_weight(weight: object) -> None:
    found = weight.weigh(torch.zeros(3), 2.0, torch.rand(3))  # type: ignore[attr-defined]
    assert torch.isfinite(found).all()


DISTANCES = torch.tensor([0.5, 1.0, 4.0, 10.0], dtype=torch.float64)


def test_cap_cuts_large_weights_alone() -> None:
    capped = NormBT(0.9, 0.0, cap=3.0).weigh(DISTANCES, 4.0)
    assert capped.tolist() == [3.0, 3.0, 1.0, 0.4]


def test_batch_mean_weighs_by_the_batch_itself_at_every_step() -> None:
    weight = BatchMean(0.9, 0.0)
    assert weight.every_step and not NORMBT.every_step
    assert weight.start(DISTANCES) == DISTANCES.mean().item()
    assert weight.update(10.0, 20.0) == 10.0  # no average of batches
    with pytest.raises(ValueError, match="not set"):
        weight.update(None, 20.0)


def test_the_mean_weight_under_the_batch_mean_is_at_least_one() -> None:
    """AM–HM: mean(d) · mean(1/d) ≥ 1, equal only where all distances are."""
    weight, generator = BatchMean(0.9, 0.0), torch.Generator().manual_seed(0)
    for _ in range(100):
        distance = torch.rand(16, generator=generator, dtype=torch.float64) + 1e-3
        mu = weight.start(distance)
        assert weight.weigh(distance, mu).mean().item() > 1
    same = torch.full((16,), 0.7, dtype=torch.float64)
    assert weight.weigh(same, weight.start(same)).mean().item() == pytest.approx(1, rel=1e-12)


def test_a_constant_factor_of_the_loss_changes_nothing_under_adamw() -> None:
    """So the mean weight for all pairs is BT; ε is taken small against the gradients."""
    ends = []
    for factor in (1.0, 2.7):
        x = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        optimizer = torch.optim.AdamW([x], lr=0.1, eps=1e-16, weight_decay=0.01)
        for step in range(20):
            optimizer.zero_grad()
            (factor * ((x - step / 10) ** 4).sum()).backward()
            optimizer.step()
        ends.append(x.detach())
    assert torch.allclose(ends[0], ends[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_dealing_leaves_it_to_the_trainer_to_name_numbers_that_are_not_finite(value: float) -> None:
    distance = torch.tensor([1.0, value, 2.0])
    assert len(Shuffled(0.9, 0.0).weigh(distance, 1.0)) == 3
    assert len(dealt_within(distance, ["a", "a", "b"])) == 3


def test_mean_one_has_mean_one_and_keeps_normbts_proportions() -> None:
    weight = MeanOne(0.9, 1e-6)
    found = weight.weigh(DISTANCES, weight.start(DISTANCES))
    assert found.mean().item() == pytest.approx(1, rel=1e-12)
    ratio = found / NORMBT.weigh(DISTANCES, 2.0)
    assert torch.allclose(ratio, ratio[0].expand(4), rtol=1e-12)


def test_a_fixed_constant_takes_mus_place() -> None:
    fixed = InverseDistance(epsilon=0.5, constant=3.0).weigh(DISTANCES, None)
    assert torch.allclose(fixed, NormBT(0.9, 0.5).weigh(DISTANCES, 3.0))


def test_clipping_bounds_the_heads_gradient_and_leaves_small_ones() -> None:
    hidden = torch.randn(2, 40, 6, dtype=torch.float64)
    head = torch.randn(6, dtype=torch.float64, requires_grad=True)
    distance = representation_distance(*hidden)
    limit = 0.5 * distance.median().item()
    difference = (hidden[0] - hidden[1]) @ head
    error = torch.sigmoid(-difference)
    weight = GradientClip(limit).weigh(distance, None, error)
    norms = torch.stack(
        [
            torch.autograd.grad(w * -torch.nn.functional.logsigmoid(d), head, retain_graph=True)[0]
            for w, d in zip(weight, difference, strict=True)
        ]
    ).norm(dim=-1)
    free = (error * distance).detach()
    assert torch.allclose(norms, free.clamp(max=limit), rtol=1e-9)
    assert (free > limit).any() and (free < limit).any()
    with pytest.raises(ValueError, match="prediction errors"):
        GradientClip(1.0).weigh(distance, None)


def test_mean_for_all_has_normbts_sum_and_no_pairing() -> None:
    found = MeanForAll(0.9, 0.0).weigh(DISTANCES, 2.0)
    plain = NormBT(0.9, 0.0).weigh(DISTANCES, 2.0)
    assert found.sum().item() == pytest.approx(plain.sum().item(), rel=1e-12)
    assert len(set(found.tolist())) == 1


def test_proportional_is_normbt_turned_round() -> None:
    product = Proportional(0.9).weigh(DISTANCES, 2.0) * NormBT(0.9, 0.0).weigh(DISTANCES, 2.0)
    assert torch.allclose(product, torch.ones(4, dtype=torch.float64))


def test_shuffled_deals_the_same_weights_the_same_way_without_the_global_generator() -> None:
    distance = torch.rand(64, dtype=torch.float64) + 0.1
    state = torch.get_rng_state()
    found = Shuffled(0.9, 0.0).weigh(distance, 2.0)
    again = Shuffled(0.9, 0.0).weigh(distance, 2.0)
    plain = NormBT(0.9, 0.0).weigh(distance, 2.0)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(found, again)
    assert torch.equal(found.sort().values, plain.sort().values)
    assert (found == plain).float().mean() < 0.2


CATEGORIES = ["Reasoning", "Chat", "Reasoning", "Chat", "Chat", "Safety"]
DEALT = torch.tensor([8.0, 1.0, 6.0, 0.5, 0.3, 2.0], dtype=torch.float64)


def test_weights_are_dealt_within_their_categories_alone() -> None:
    state = torch.get_rng_state()
    found = dealt_within(DEALT, CATEGORIES)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found, dealt_within(DEALT, CATEGORIES))
    for name in set(CATEGORIES):
        places = [n for n, one in enumerate(CATEGORIES) if one == name]
        assert sorted(found[places].tolist()) == sorted(DEALT[places].tolist())
    many = torch.rand(400, dtype=torch.float64)
    assert (dealt_within(many, ["a", "b"] * 200) != many).double().mean() > 0.9


def test_every_pair_gets_the_weight_of_its_category_whatever_it_had() -> None:
    found = fixed_within(DEALT, CATEGORIES, weights={"Chat": 0.5, "Reasoning": 4, "Safety": 1.0})
    assert found.tolist() == [4.0, 0.5, 4.0, 0.5, 0.5, 1.0] and found.dtype == DEALT.dtype
    with pytest.raises(KeyError, match="Safety"):
        fixed_within(DEALT, CATEGORIES, weights={"Chat": 0.5, "Reasoning": 4})


def test_every_pair_gets_the_mean_of_its_category() -> None:
    found = mean_within(DEALT, CATEGORIES)
    assert found.tolist() == pytest.approx([7.0, 0.6, 7.0, 0.6, 0.6, 2.0], rel=1e-12)
    assert DEALT.tolist() == [8.0, 1.0, 6.0, 0.5, 0.3, 2.0]
    one = mean_within(DEALT, ["a"] * 6)
    assert torch.allclose(one, DEALT.mean().expand(6), rtol=1e-12)
