"""Pair losses against closed forms and TRL's formula; gradients in float64 against the paper's."""

from __future__ import annotations

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


@pytest.mark.parametrize("loss", [losses.bt, SMOOTH, losses.bt_margin, losses.bt_margin_out])
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
    for loss in (losses.bt, losses.bt_margin, losses.bt_margin_out, smooth, hinge):
        found = loss(difference, margin)
        assert found.shape == difference.shape
        assert found.isfinite().all() and (found >= 0).all()
        alone = torch.cat(
            [loss(difference[i : i + 1], margin[i : i + 1]) for i in range(len(rows))]
        )
        assert torch.allclose(found, alone, rtol=1e-12)  # no pair sees another
        if loss is not smooth:  # label smoothing punishes certainty too
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
