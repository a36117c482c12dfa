"""The objective: its arithmetic against closed forms, and what it derives from its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from rm.errors import InputError
from rm.model.reward_model import RewardOutput
from rm.objective import distances, losses, weights
from rm.objective.objective import Objective
from rm.objective.whole_batch import needs_whole_batch, whole_batch

CHOSEN = torch.tensor([1.5, -0.5, 0.25, 2.0], dtype=torch.float64)
REJECTED = torch.tensor([0.5, 0.5, 0.0, -1.0], dtype=torch.float64)
DISTANCE = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
MARGIN = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
CATEGORIES = ("a", "b", "a", "b")
NORMBT = weights.NormBT(beta=0.9, epsilon=0.0)


def log_sigmoid(value: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-value))


def test_normbt_is_the_papers_equation() -> None:
    found = Objective(losses.bt, NORMBT).values(CHOSEN, REJECTED, DISTANCE, 2.0)
    expected = 2.0 / DISTANCE * -log_sigmoid(CHOSEN - REJECTED)
    assert torch.allclose(found.value, expected, rtol=1e-12)
    assert torch.equal(found.difference, CHOSEN - REJECTED)
    assert torch.equal(found.weight, 2.0 / DISTANCE)
    assert torch.allclose(found.loss, -log_sigmoid(CHOSEN - REJECTED), rtol=1e-12)


def test_the_penalty_is_not_weighted_and_the_text_term_mixes_with_both() -> None:
    objective = Objective(
        losses.bt_margin,
        NORMBT,
        regularizer=partial(losses.centring, coefficient=0.1),
        text=losses.TextGeneration(ratio=0.25, beta=0.5),
    )
    likelihood = torch.tensor([-1.0, -2.0, -3.0, -4.0], dtype=torch.float64)
    found = objective.values(
        CHOSEN, REJECTED, DISTANCE, 2.0, margin=MARGIN, log_likelihood=likelihood
    )
    loss = -log_sigmoid(CHOSEN - REJECTED - MARGIN)
    added = 2.0 / DISTANCE * loss + 0.1 * (CHOSEN + REJECTED) ** 2
    expected = 0.75 * added - 0.25 * log_sigmoid(0.5 * likelihood)
    assert torch.allclose(found.value, expected, rtol=1e-12)
    assert torch.allclose(found.loss, loss, rtol=1e-12)


def test_no_gradient_flows_through_the_weight() -> None:
    chosen = CHOSEN.clone().requires_grad_()
    distance = (2 * chosen).abs()
    found = Objective(losses.bt, NORMBT).values(chosen, REJECTED, distance, 1.0)
    (slope,) = torch.autograd.grad(found.value.sum(), chosen)
    expected = (torch.sigmoid(CHOSEN - REJECTED) - 1) / distance.detach()
    assert torch.allclose(slope, expected, rtol=1e-12)


def test_the_weight_is_given_the_prediction_errors() -> None:
    found = Objective(losses.bt, weights.GradientClip(limit=0.4)).values(
        CHOSEN, REJECTED, DISTANCE, None
    )
    gradient = torch.sigmoid(REJECTED - CHOSEN) * DISTANCE  # of the score head, by pair
    assert gradient.min() < 0.4 < gradient.max()
    assert torch.allclose(found.weight * gradient, gradient.clamp(max=0.4), rtol=1e-12)


def test_a_difference_is_what_the_loss_reads_and_nothing_else() -> None:
    chosen = CHOSEN.clone().requires_grad_()
    margin = partial(losses.similarity_margin, size=2.0)
    clip = weights.GradientClip(limit=0.4)
    found = Objective(losses.bt, clip, difference=margin).values(chosen, REJECTED, DISTANCE, None)
    plain = Objective(losses.bt, clip).values(CHOSEN, REJECTED, DISTANCE, None)
    assert torch.equal(found.difference, plain.difference)
    assert torch.equal(found.weight, plain.weight)
    read = CHOSEN - REJECTED - 2 * torch.exp(-DISTANCE / DISTANCE.mean())
    assert torch.allclose(found.loss, -log_sigmoid(read), rtol=1e-12)
    assert torch.allclose(found.value, found.weight * found.loss, rtol=1e-12)
    (slope,) = torch.autograd.grad(found.loss.sum(), chosen)
    assert torch.allclose(slope, -torch.sigmoid(-read), rtol=1e-12)


def test_a_deal_gives_weights_by_category() -> None:
    objective = Objective(losses.bt, NORMBT, deal=weights.mean_within)
    found = objective.values(CHOSEN, REJECTED, DISTANCE, 8.0, categories=CATEGORIES)
    assert found.weight.tolist() == [5.0, 2.5, 5.0, 2.5]  # of 8, 4, 2, 1
    with pytest.raises(ValueError, match="4 pairs but 0 categories"):
        objective.values(CHOSEN, REJECTED, DISTANCE, 8.0)


def test_what_a_part_needs_and_does_not_get_is_an_error() -> None:
    text = losses.TextGeneration(ratio=0.5, beta=1.0)
    with pytest.raises(ValueError, match="log π"):
        Objective(losses.bt, NORMBT, text=text).values(CHOSEN, REJECTED, DISTANCE, 1.0)
    with pytest.raises(ValueError, match="margin"):
        Objective(losses.bt_margin, NORMBT).values(CHOSEN, REJECTED, DISTANCE, 1.0)


# --- What is derived ------------------------------------------------------------------------------


def of_weight(weight: weights.PairWeight) -> Callable[[slice], Tensor]:
    return lambda part: weight.weigh(DISTANCE[part], 2.0, torch.full_like(DISTANCE[part], 0.5))


def of_distance(distance: distances.PairDistance) -> Callable[[slice], Tensor]:
    hidden = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

    def measured(part: slice) -> Tensor:
        rows = torch.cat([hidden[:4][part], hidden[4:][part]])
        mean = torch.cat([hidden[4:][part], hidden[:4][part]])
        output = RewardOutput(rows.sum(dim=-1), rows, mean)
        return distance.measure(output, torch.zeros(len(rows) // 2), [])

    return measured


def of_difference(difference: losses.Difference) -> Callable[[slice], Tensor]:
    return lambda part: difference(CHOSEN[part], REJECTED[part], DISTANCE[part])


def of_regularizer(regularizer: losses.Regularizer) -> Callable[[slice], Tensor]:
    return lambda part: regularizer(CHOSEN[part], REJECTED[part])


def of_deal(deal: weights.Deal) -> Callable[[slice], Tensor]:
    return lambda part: deal(DISTANCE[part], CATEGORIES[part])


EVERY_PART = [
    *(
        (of_weight, {"weight": weight})
        for weight in (
            weights.Uniform(),
            NORMBT,
            weights.NormBT(0.9, 0.0, cap=1.5),
            weights.InverseDistance(epsilon=0.0),
            weights.BatchMean(0.9, 0.0),
            weights.MeanOne(0.9, 0.0),
            weights.GradientClip(0.1),
            weights.Proportional(0.9),
            weights.Shuffled(0.9, 0.0),
            weights.MeanForAll(0.9, 0.0),
        )
    ),
    *(
        (of_distance, {"distance": distance})
        for distance in (
            distances.Representation(),
            distances.Cosine(),
            distances.MeanPooled(),
            distances.Standardised(),
        )
    ),
    *(
        (of_difference, {"difference": difference})
        for difference in (
            partial(losses.normalised_difference, epsilon=1e-6),
            partial(losses.similarity_margin, size=1.0),
        )
    ),
    *(
        (of_regularizer, {"regularizer": partial(penalty, coefficient=0.1)})
        for penalty in (losses.centring, losses.batch_sum_to_zero)
    ),
    *(
        (of_deal, {"deal": deal})
        for deal in (
            weights.dealt_within,
            weights.mean_within,
            partial(weights.fixed_within, weights={"a": 1.0, "b": 2.0}),
        )
    ),
]


@pytest.mark.parametrize(("function_of", "part"), EVERY_PART)
def test_a_part_says_that_it_needs_the_whole_batch_just_where_halves_give_other_values(
    function_of: Callable[[Any], Callable[[slice], Tensor]], part: dict[str, Any]
) -> None:
    of = function_of(next(iter(part.values())))
    halves = torch.cat([of(slice(0, 2)), of(slice(2, 4))])
    divided = torch.allclose(of(slice(0, 4)), halves, rtol=1e-6)
    objective = Objective(losses.bt, **{"weight": NORMBT, **part})
    assert objective.whole_batch == (not divided)


def test_a_decorated_function_is_known_behind_partial_ones() -> None:
    @whole_batch
    def centred(difference: Tensor, margin: Tensor | None = None, *, by: float = 1.0) -> Tensor:
        return by * (difference - difference.mean())

    assert needs_whole_batch(partial(partial(centred), by=2.0))
    assert Objective(partial(centred, by=2.0), NORMBT).whole_batch
    assert not needs_whole_batch(losses.bt) and not needs_whole_batch(None)


@pytest.mark.parametrize(
    ("pair_loss", "needed"),
    [
        (losses.bt, False),
        (losses.bt_margin, True),
        (losses.bt_margin_out, True),
        (partial(losses.bt_label_smoothing, smoothing=0.1), False),
        (partial(losses.hinge, width=1.0), False),
        (partial(losses.focal, gamma=2.0), False),
        (partial(losses.constant_margin, size=1.0), False),
        (lambda d, m: -(d - m), True),
        (lambda d, _=None: -d, False),
    ],
)
def test_a_loss_without_a_default_for_its_margin_needs_one(
    pair_loss: losses.PairLoss, needed: bool
) -> None:
    assert Objective(pair_loss, NORMBT).needs_margin == needed


def test_categories_and_every_token() -> None:
    plain = Objective(losses.bt, NORMBT)
    assert not plain.needs_category and not plain.every_token and plain.category_weights is None
    fixed = partial(weights.fixed_within, weights={"a": 1.0})
    dealt = Objective(losses.bt, NORMBT, deal=fixed)
    assert dealt.needs_category and dealt.category_weights == {"a": 1.0}
    assert Objective(losses.bt, NORMBT, deal=weights.mean_within).category_weights is None
    assert Objective(losses.bt, NORMBT, distance=distances.MeanPooled()).every_token
    assert Objective(losses.bt, NORMBT, text=losses.TextGeneration(0.1, 0.1)).every_token


class Silent:
    """A weight that does not say whether it looks across pairs."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        return torch.ones_like(distance)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"pair_loss": partial(losses.hinge, width=-1.0)}, "width=-1.0: must be"),
        ({"pair_loss": partial(losses.focal, gamma=-1.0)}, "gamma=-1.0: must be"),
        ({"pair_loss": partial(losses.constant_margin, size=-1.0)}, "pair_loss.size=-1.0: must be"),
        ({"difference": partial(losses.similarity_margin, size=-1.0)}, "difference.size=-1.0"),
        ({"difference": partial(losses.normalised_difference, epsilon=0)}, "epsilon=0: must be"),
        ({"difference": losses.bt}, "loss=mine: .*argument"),
        ({"pair_loss": partial(losses.bt, width=1.0)}, "loss=mine: .*'width'"),
        ({"pair_loss": lambda difference: difference}, "loss=mine: .*argument"),
        ({"pair_loss": torch.sub}, "loss=mine: .*signature"),
        ({"weight": "NormBT"}, "loss=mine: .*'weigh'"),
        ({"weight": Silent()}, "loss=mine: .*'whole_batch'"),
        ({"distance": object()}, "loss=mine: .*'by_mean'"),
        ({"regularizer": partial(losses.centring, coefficient="a")}, "coefficient=a: must be"),
        ({"deal": partial(weights.mean_within, weights={})}, "loss=mine: .*'weights'"),
        ({"deal": partial(weights.fixed_within, weights={"a": -1.0})}, "weights.a=-1.0"),
        ({"text": object()}, "loss=mine: .*'combine'"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Objective(**{"pair_loss": losses.bt, "weight": NORMBT, "name": "mine", **parts})
