"""Pair weights: how much each pair's loss counts, computed from its distance.

A weight has two pure functions. `weigh(distance, mu, error)` returns the weights of a micro-batch.
`update(mu, batch_mean)` returns the next μ from the mean distance of the *global* batch (all ranks,
all accumulation steps). So one step has one μ, however the batch is divided.

μ is None before the first batch. The trainer then measures that batch's distances in an extra
forward pass and passes them to `start`. If `every_step` is true it does so before every step.

This module has NormBT's weight, other forms of it (table 2), one rival and controls. Three controls
are weights; three redistribute a batch's weights by category.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from rm.errors import require_range
from rm.objective.whole_batch import whole_batch


def representation_distance(hidden_chosen: Tensor, hidden_rejected: Tensor) -> Tensor:
    """‖h_w − h_l‖₂ in float32 or better (paper, notation table).

    Inputs: (pairs, hidden), any float dtype. Returns (pairs,), float32, or float64 for float64
    inputs. Autocast is off inside, so a low-precision context cannot round the difference.
    """
    with torch.autocast(hidden_chosen.device.type, enabled=False):
        dtype = torch.promote_types(hidden_chosen.dtype, torch.float32)
        return torch.linalg.vector_norm(hidden_chosen.to(dtype) - hidden_rejected.to(dtype), dim=-1)


class PairWeight(Protocol):
    """The interface of a pair weight."""

    @property
    def needs_start(self) -> bool:
        """Whether μ must be set from a global batch before its first backward pass."""

    @property
    def every_step(self) -> bool:
        """Whether μ must be set again from every global batch, not only from the first."""

    @property
    def whole_batch(self) -> bool:
        """Whether `weigh` needs the whole global batch in one call."""

    def start(self, distance: Tensor) -> float | None:
        """μ from the distances (pairs,) of a global batch."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,), without a gradient.

        `distance` (pairs,); `error` (pairs,): prediction errors 1 − σ(d).
        """

    def update(self, mu: float | None, batch_mean: float) -> float | None:
        """μ_{t+1} from μ_t and the mean distance of the global batch at step t."""


def is_due(weight: PairWeight, mu: float | None) -> bool:
    """Whether μ must be set from the next global batch before its backward pass."""
    return weight.needs_start and (mu is None or weight.every_step)


class _Stateless:
    """A weight without μ."""

    whole_batch: ClassVar[bool] = False

    @property
    def needs_start(self) -> bool:
        return False

    @property
    def every_step(self) -> bool:
        return False

    def start(self, distance: Tensor) -> float | None:
        return None

    def update(self, mu: float | None, batch_mean: float) -> float | None:
        return None


@dataclass(frozen=True)
class _Averaging:
    """A weight whose μ is an exponential moving average (EMA) of the batches' mean distances."""

    beta: float
    whole_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise InputError unless 0 ≤ β ≤ 1."""
        require_range("weight.beta", self.beta, 0, 1)

    @property
    def needs_start(self) -> bool:
        """True: μ_0 comes from the first batch."""
        return True

    @property
    def every_step(self) -> bool:
        return False

    def start(self, distance: Tensor) -> float:
        """μ_0 = μ̂_0, the mean distance of the first batch [inferred]."""
        return distance.mean().item()

    def update(self, mu: float | None, batch_mean: float) -> float:
        """β μ_t + (1 − β) μ̂_t. Raises ValueError if μ is None."""
        return self.beta * _started(mu) + (1 - self.beta) * batch_mean


@dataclass(frozen=True)
class Uniform(_Stateless):
    """Every pair counts the same: plain BT."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Ones, (pairs,)."""
        return torch.ones_like(distance).detach()


@dataclass(frozen=True)
class NormBT(_Averaging):
    """w̃ = sg(μ_t / (‖h_w − h_l‖ + ε)), μ_{t+1} = β μ_t + (1 − β) μ̂_t (paper, NormBT section).

    `cap`: the largest weight, None for no limit (ours, not the paper's).
    """

    epsilon: float
    cap: float | None = None

    def __post_init__(self) -> None:
        """Raise InputError unless 0 ≤ β ≤ 1, ε ≥ 0 and cap ≥ 1e-12 or None."""
        super().__post_init__()
        require_range("weight.epsilon", self.epsilon, 0)
        if self.cap is not None:
            require_range("weight.cap", self.cap, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError if μ is None."""
        weight = _started(mu) / (distance.detach() + self.epsilon)
        return weight if self.cap is None else weight.clamp(max=self.cap)


# --- Other forms of NormBT's weight --------------------------------------------------------------


@dataclass(frozen=True)
class InverseDistance(_Stateless):
    """w = sg(c / (‖h_w − h_l‖ + ε)): NormBT without the EMA (paper, table 2) [inferred form].

    With c = 1 the loss's scale depends on the backbone's scale, because the mean weight is not near
    1. Another c is a fixed constant in place of μ.
    """

    epsilon: float
    constant: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError unless ε ≥ 0 and c ≥ 1e-12."""
        require_range("weight.epsilon", self.epsilon, 0)
        require_range("weight.constant", self.constant, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient."""
        return self.constant / (distance.detach() + self.epsilon)


@dataclass(frozen=True)
class BatchMean(NormBT):
    """NormBT with μ = the current batch's mean distance, without the EMA (β is not used)."""

    @property
    def every_step(self) -> bool:
        """True: every batch has its own μ."""
        return True

    def update(self, mu: float | None, batch_mean: float) -> float:
        """μ_t unchanged: `start` sets the next batch's μ. Raises ValueError if μ is None."""
        return _started(mu)


@dataclass(frozen=True)
class MeanOne(BatchMean):
    """w ∝ 1 / (‖h_w − h_l‖ + ε), scaled so that the mean over the global batch is exactly 1.

    This is NormBT's weight with μ = the harmonic mean of (‖h_w − h_l‖ + ε) over the batch.
    """

    def start(self, distance: Tensor) -> float:
        """1 / mean(1 / (distance + ε))."""
        return 1 / (1 / (distance + self.epsilon)).mean().item()


# --- A rival and three controls ------------------------------------------------------------------


@dataclass(frozen=True)
class GradientClip(_Stateless):
    """w = min(1, limit / (error · distance)): clips each pair's score-head gradient to `limit`.

    error · distance = |σ(d) − 1| · ‖h_w − h_l‖ is the norm of the score head's BT gradient (paper,
    analysis section). It is a proxy for the norm of the pair's full gradient.
    """

    limit: float

    def __post_init__(self) -> None:
        """Raise InputError unless limit ≥ 1e-12."""
        require_range("weight.limit", self.limit, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError without prediction errors."""
        if error is None:
            raise ValueError("GradientClip needs the prediction errors of the pairs")
        return (self.limit / (error.detach() * distance.detach())).clamp(max=1)


@dataclass(frozen=True)
class Proportional(_Averaging):
    """w = sg(‖h_w − h_l‖ / μ): NormBT reversed. We expect the opposite effect."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError if μ is None."""
        return distance.detach() / _started(mu)


@dataclass(frozen=True)
class Shuffled(NormBT):
    """NormBT's weights, shuffled among the pairs of the batch.

    The batch has the same weights, but a weight no longer depends on its own pair's distance. The
    global batch must be one micro-batch, because `weigh` shuffles only the pairs it gets.
    """

    whole_batch: ClassVar[bool] = True

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Shuffled weights (pairs,) under stop-gradient. The distances seed the shuffle."""
        weight = super().weigh(distance, mu)
        return weight[_order(len(weight), distance).to(weight.device)]


@dataclass(frozen=True)
class MeanForAll(NormBT):
    """Every pair gets the batch's mean NormBT weight.

    The sum of the weights is NormBT's, but all pairs count the same: BT with each step scaled by
    the mean weight. AdamW nearly cancels that scale.

    The global batch must be one micro-batch, because `weigh` averages only the pairs it gets.
    """

    whole_batch: ClassVar[bool] = True

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Equal weights (pairs,) under stop-gradient."""
        weight = super().weigh(distance, mu)
        return weight.mean().expand(len(weight))


# --- Controls: a batch's weights redistributed by category --------------------------------------

Deal = Callable[[Tensor, Sequence[str]], Tensor]
"""(weights, categories) of a whole batch -> redistributed weights, each (pairs,)."""


@whole_batch
def dealt_within(weight: Tensor, categories: Sequence[str]) -> Tensor:
    """Weights (pairs,) of a whole batch, shuffled among the pairs of the same category.

    Every category keeps its own weights, in another order, so within a category a weight no longer
    depends on the pair. The distances come from this run's model and drift away from those of a
    NormBT run.
    `categories`: the category of each pair, in order.
    """
    order = torch.arange(len(weight), device=weight.device)
    for places in _places(categories, weight.device):
        order[places] = places[_order(len(places), weight[places]).to(weight.device)]
    return weight[order]


@whole_batch
def mean_within(weight: Tensor, categories: Sequence[str]) -> Tensor:
    """Every pair gets the mean weight of its category in a whole batch, (pairs,).

    Every category keeps its total weight, and the pairs of one category count the same. The
    distances come from this run's model and drift away from those of a NormBT run.
    """
    found = weight.clone()
    for places in _places(categories, weight.device):
        found[places] = weight[places].mean()
    return found


def fixed_within(
    weight: Tensor, categories: Sequence[str], *, weights: Mapping[str, float]
) -> Tensor:
    """The fixed weight in `weights` of each pair's category, (pairs,); ignores `weight`'s values.

    Raises KeyError for a category without a weight, InputError for a weight below 0.
    """
    for name, value in weights.items():
        require_range(f"loss.deal.weights.{name}", value, 0)
    return weight.new_tensor([weights[name] for name in categories])


def _places(categories: Sequence[str], device: torch.device) -> list[Tensor]:
    """Indices of the pairs of each category; categories in alphabetical order."""
    return [
        torch.tensor([n for n, one in enumerate(categories) if one == name], device=device)
        for name in sorted(set(categories))
    ]


def _order(size: int, seeding: Tensor) -> Tensor:
    """A random permutation of `size`, seeded by the sum of `seeding`.

    It has its own generator: the global one draws dropout, which must be the same in every method.
    """
    # Non-finite numbers count as 0 here: the trainer reports their pairs after the step.
    seed = int(torch.nan_to_num(seeding.double(), 0, 0, 0).sum().item() * 1e6) % 2**63
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _started(mu: float | None) -> float:
    if mu is None:
        raise ValueError("the weight's mean distance is not set: call start() on the first batch")
    return mu
