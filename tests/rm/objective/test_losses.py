"""Pair losses against closed forms and TRL's formula; gradients in float64 against the paper's."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rm.objective import losses
from rm.objective.weights import InverseDistance, NormBT, Uniform, representation_distance

DIFFERENCES = torch.tensor([-3.0, -0.5, 0.0, 0.7, 4.0], dtype=torch.float64)
MARGINS = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)
SMOOTH = partial(losses.bt_label_smoothing, smoothing=0.1)
FOCAL = partial(losses.focal, gamma=2.0)
CONSTANT = partial(losses.constant_margin, size=1.0)
CHOSEN = torch.tensor([1.5, -0.5, 0.25, 2.0], dtype=torch.float64)
REJECTED = torch.tensor([0.5, 0.5, 0.0, -1.0], dtype=torch.float64)
DISTANCE = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)


def log_sigmoid(value: torch.Tensor) -> torch.Tensor:
    return -torch.log1p(torch.exp(-value))


def test_bt_is_minus_log_sigmoid() -> None:
    assert torch.allclose(losses.bt(DIFFERENCES), -log_sigmoid(DIFFERENCES), rtol=1e-12)


def test_bt_at_zero_is_log_two() -> None:
    assert losses.bt(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(
        0.6931471805599453, rel=1e-15
    )


def test_bt_margin_shifts_the_difference() -> None:
    expected = -log_sigmoid(DIFFERENCES - MARGINS)
    assert torch.allclose(losses.bt_margin(DIFFERENCES, MARGINS), expected, rtol=1e-12)


def test_bt_margin_out_multiplies_the_loss() -> None:
    expected = -MARGINS * log_sigmoid(DIFFERENCES)
    assert torch.allclose(losses.bt_margin_out(DIFFERENCES, MARGINS), expected, rtol=1e-12)


def test_label_smoothing_is_the_expected_loss_under_flipped_labels() -> None:
    expected = -0.9 * log_sigmoid(DIFFERENCES) - 0.1 * log_sigmoid(-DIFFERENCES)
    assert torch.allclose(SMOOTH(DIFFERENCES), expected, rtol=1e-12)


def test_label_smoothing_has_its_minimum_where_the_probability_is_one_minus_alpha() -> None:
    best = torch.logit(torch.tensor(0.9, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(SMOOTH(best), best)
    assert abs(slope.item()) < 1e-12


@pytest.mark.parametrize("loss", [losses.bt_margin, losses.bt_margin_out])
def test_losses_with_margin_refuse_to_run_without(loss: losses.PairLoss) -> None:
    with pytest.raises(ValueError, match="margin"):
        loss(DIFFERENCES, None)


@pytest.mark.parametrize(
    "loss", [losses.bt, SMOOTH, losses.bt_margin, losses.bt_margin_out, FOCAL, CONSTANT]
)
def test_huge_differences_stay_finite(loss: losses.PairLoss) -> None:
    difference = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = loss(difference, torch.ones(2))
    (gradient,) = torch.autograd.grad(value.sum(), difference)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


@given(st.floats(-50, 50))
def test_bt_gradient_is_sigma_minus_one(value: float) -> None:
    difference = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.bt(difference), difference)
    assert gradient.item() == pytest.approx(torch.sigmoid(difference).item() - 1, abs=1e-12)


@pytest.mark.parametrize("margin", [None, MARGINS])
def test_mean_bt_loss_equals_trls(margin: torch.Tensor | None) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: see requirements-dev.txt")
    rewards = torch.cat([DIFFERENCES + 1, torch.ones_like(DIFFERENCES)])
    stub = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=None),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": __import__("collections").defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {} if margin is None else {"margin": margin}
    model = lambda **_: SimpleNamespace(logits=rewards.unsqueeze(-1))  # noqa: E731
    theirs = trl.RewardTrainer.compute_loss(stub, model, inputs)
    ours = losses.bt(DIFFERENCES) if margin is None else losses.bt_margin(DIFFERENCES, margin)
    assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-12)


def head_gradient_norms(weight: object, mu: float | None) -> tuple[torch.Tensor, ...]:
    """Per-pair gradient norm of a linear head, with the pairs' prediction errors and distances."""
    torch.manual_seed(0)
    chosen, rejected = torch.randn(2, 16, 8, dtype=torch.float64)
    head = torch.randn(8, dtype=torch.float64, requires_grad=True)
    difference = (chosen - rejected) @ head
    distance = representation_distance(chosen, rejected)
    weighted = weight.weigh(distance, mu) * losses.bt(difference)  # type: ignore[attr-defined]
    norms = [torch.autograd.grad(value, head, retain_graph=True)[0].norm() for value in weighted]
    return torch.stack(norms), (torch.sigmoid(difference) - 1).abs().detach(), distance


def test_bt_head_gradient_is_error_times_distance() -> None:
    norms, error, distance = head_gradient_norms(Uniform(), None)
    assert torch.allclose(norms, error * distance, rtol=1e-12)


def test_normbt_head_gradient_is_error_times_mu() -> None:
    norms, error, distance = head_gradient_norms(NormBT(beta=0.9, epsilon=1e-6), 2.5)
    assert torch.allclose(norms, error * 2.5, rtol=1e-5)
    assert torch.allclose(norms, error * 2.5 * distance / (distance + 1e-6), rtol=1e-12)


def test_head_gradient_without_ema_is_the_error_alone() -> None:
    norms, error, _ = head_gradient_norms(InverseDistance(epsilon=0.0), None)
    assert torch.allclose(norms, error, rtol=1e-12)


def test_hinge_is_zero_beyond_its_width_and_linear_before() -> None:
    found = losses.hinge(DIFFERENCES, width=1.0)
    assert found.tolist() == pytest.approx([4.0, 1.5, 1.0, 0.3, 0.0])
    difference = DIFFERENCES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses.hinge(difference, width=1.0).sum(), difference)
    assert slope.tolist() == [-1.0, -1.0, -1.0, -1.0, 0.0]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_and_its_gradient_are_the_closed_forms(gamma: float) -> None:
    difference = DIFFERENCES.clone().requires_grad_()
    found = losses.focal(difference, gamma=gamma)
    (slope,) = torch.autograd.grad(found.sum(), difference)
    won = 1 / (1 + torch.exp(-DIFFERENCES))
    factor, loss = (1 - won) ** gamma, -torch.log(won)
    assert torch.allclose(found, factor * loss, rtol=1e-12)
    assert torch.allclose(slope, -factor * (gamma * won * loss + (1 - won)), rtol=1e-12)
    assert (slope < 0).all() and (found < losses.bt(DIFFERENCES)).all()


def test_focal_with_gamma_zero_and_a_margin_of_zero_are_bt() -> None:
    assert torch.equal(losses.focal(DIFFERENCES, gamma=0.0), losses.bt(DIFFERENCES))
    assert torch.equal(losses.constant_margin(DIFFERENCES, size=0.0), losses.bt(DIFFERENCES))
    found = losses.similarity_margin(CHOSEN, REJECTED, DISTANCE, size=0.0)
    assert torch.equal(found, CHOSEN - REJECTED)


def test_a_constant_margin_is_bt_margin_with_one_rating_difference_for_all() -> None:
    difference = DIFFERENCES.clone().requires_grad_()
    found = losses.constant_margin(difference, MARGINS, size=1.5)  # whatever the pairs' ratings
    same = torch.full_like(MARGINS, 1.5)
    assert torch.equal(found, losses.bt_margin(difference, same))
    (slope,) = torch.autograd.grad(found.sum(), difference)
    assert torch.allclose(slope, -1 / (1 + torch.exp(DIFFERENCES - 1.5)), rtol=1e-12)


def test_the_normalised_difference_and_its_gradient_are_the_closed_forms() -> None:
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    found = losses.normalised_difference(chosen, rejected, DISTANCE, epsilon=1e-9)
    squares = CHOSEN**2 + REJECTED**2
    assert torch.allclose(found, (CHOSEN - REJECTED) / squares.sqrt(), rtol=1e-12)
    of_chosen, of_rejected = torch.autograd.grad(found.sum(), [chosen, rejected])
    common = (CHOSEN + REJECTED) / squares**1.5
    assert torch.allclose(of_chosen, REJECTED * common, rtol=1e-12)
    assert torch.allclose(of_rejected, -CHOSEN * common, rtol=1e-12)
    # Moving both rewards away from zero changes nothing.
    assert (CHOSEN * of_chosen + REJECTED * of_rejected).abs().max() < 1e-12


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0.1, 1e3))
def test_the_normalised_difference_knows_no_scale_and_ends_at_the_root_of_two(
    one: float, other: float, scale: float
) -> None:
    chosen, rejected, _ = torch.tensor([[one], [other], [0.0]], dtype=torch.float64)
    compared = partial(losses.normalised_difference, distance=torch.ones(1), epsilon=1e-12)
    found = compared(chosen, rejected)
    assert torch.sign(found) == torch.sign(chosen - rejected)
    assert found.abs().item() <= math.sqrt(2) * (1 + 1e-12)
    assert torch.equal(compared(rejected, chosen), -found)
    if max(abs(one), abs(other)) > 1e-3:
        assert torch.allclose(compared(scale * chosen, scale * rejected), found, rtol=1e-9)


def test_rewards_of_zero_have_a_normalised_difference_and_a_gradient() -> None:
    zero = torch.zeros(2, requires_grad=True)
    found = losses.normalised_difference(zero, torch.zeros(2), torch.ones(2), epsilon=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), zero)
    assert found.tolist() == [0, 0] and slope.tolist() == pytest.approx([1e6, 1e6])


def test_the_similarity_margin_is_larger_for_closer_pairs_and_has_no_gradient() -> None:
    chosen, distance = CHOSEN.clone().requires_grad_(), DISTANCE.clone().requires_grad_()
    found = losses.similarity_margin(chosen, REJECTED, distance, size=2.0)
    margin = 2 * torch.exp(-DISTANCE / 4)  # their mean
    assert torch.allclose(found, CHOSEN - REJECTED - margin, rtol=1e-12)
    assert margin[2].item() == pytest.approx(2 / math.e)
    slope, through = torch.autograd.grad(found.sum(), [chosen, distance], allow_unused=True)
    assert slope.tolist() == [1, 1, 1, 1] and through is None


def test_the_similarity_margin_knows_no_unit_of_distance_and_is_whole_for_equal_states() -> None:
    compared = partial(losses.similarity_margin, CHOSEN, REJECTED, size=2.0)
    assert torch.allclose(compared(1e3 * DISTANCE), compared(DISTANCE), rtol=1e-12)
    equal = compared(torch.zeros_like(DISTANCE))
    assert torch.equal(equal, CHOSEN - REJECTED - 2)
    one_equal = compared(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))
    assert one_equal[0] == CHOSEN[0] - REJECTED[0] - 2


def test_centring_is_trls_term() -> None:
    chosen, rejected = DIFFERENCES, MARGINS
    found = losses.centring(chosen, rejected, coefficient=0.01).mean()
    assert found.item() == pytest.approx(0.01 * ((chosen + rejected) ** 2).mean().item(), rel=1e-12)


def test_sum_to_zero_sees_the_batch_alone_and_shifts_all_rewards_alike() -> None:
    chosen, rejected = DIFFERENCES.clone().requires_grad_(), MARGINS.clone().requires_grad_()
    found = losses.batch_sum_to_zero(chosen, rejected, coefficient=2.0)
    mean = torch.cat([chosen, rejected]).mean().item()
    assert found.tolist() == pytest.approx(5 * [2 * mean**2], rel=1e-12)
    slopes = torch.cat(torch.autograd.grad(found.mean(), [chosen, rejected]))
    assert torch.allclose(slopes, torch.full_like(slopes, 2 * 2 * mean / 10), rtol=1e-12)
    balanced = losses.batch_sum_to_zero(DIFFERENCES, -DIFFERENCES, coefficient=2.0)
    assert balanced.abs().max() < 1e-30


@given(
    st.lists(st.tuples(st.floats(-1e30, 1e30), st.floats(0, 1e6)), min_size=1, max_size=20),
    st.floats(0, 0.5),
)
def test_losses_of_any_finite_differences_are_finite_not_negative_and_a_pairs_own(
    rows: list[tuple[float, float]], smoothing: float
) -> None:
    difference = torch.tensor([d for d, _ in rows], dtype=torch.float64)
    margin = torch.tensor([m for _, m in rows], dtype=torch.float64)
    smooth = partial(losses.bt_label_smoothing, smoothing=smoothing)
    hinge = partial(losses.hinge, width=1.0)
    others = (smooth, hinge, FOCAL, CONSTANT)
    for loss in (losses.bt, losses.bt_margin, losses.bt_margin_out, *others):
        found = loss(difference, margin)
        assert found.shape == difference.shape
        assert found.isfinite().all() and (found >= 0).all()
        alone = torch.cat(
            [loss(difference[i : i + 1], margin[i : i + 1]) for i in range(len(rows))]
        )
        assert torch.allclose(found, alone, rtol=1e-12)  # no pair sees another
        # Label smoothing punishes certainty too; focal's factor has a rounding error of its own.
        if loss not in (smooth, FOCAL):
            order = difference.argsort()
            same_margin = loss(difference[order], torch.ones_like(margin))
            assert (same_margin.diff() <= 1e-14 * same_margin[1:]).all()  # but for rounding


@given(
    st.lists(st.floats(0, 1e20), min_size=1, max_size=20),
    st.floats(1e-6, 1e6),
    st.floats(0, 1),
)
def test_normbt_of_any_distances_is_finite_positive_and_mu_stays_between_its_means(
    values: list[float], mu: float, beta: float
) -> None:
    distance = torch.tensor(values, dtype=torch.float64)
    weight = NormBT(beta=beta, epsilon=1e-6)
    found = weight.weigh(distance, mu)
    assert found.isfinite().all() and (found > 0).all()
    assert torch.allclose(found * (distance + 1e-6), torch.full_like(distance, mu), rtol=1e-9)
    mean = distance.mean().item()
    after = weight.update(mu, mean)
    assert min(mu, mean) * (1 - 1e-9) <= after <= max(mu, mean) * (1 + 1e-9)
