"""Pair weights: how much each pair's loss counts, from its representation distance.

A weight has two pure parts: `weigh(distance, mu, error)` gives the weights of a micro-batch, and
`update(mu, batch_mean)` the state after an optimiser step, from the mean distance of the *global*
batch (all ranks, all accumulation steps). So one step has one μ, however the batch is divided.
μ is None until the first batch: the trainer then measures that batch's distances beforehand and
calls `start` with them; a weight with `every_step` gets them before every step.

Beside NormBT's weight stand other forms of it (table 2), a rival, and controls: three weights, and
three ways to redistribute a batch's weights by category.
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

    Both inputs: (pairs, hidden), any float dtype. Returns (pairs,), float32 (float64 if given
    float64). Autocast is off inside, so a low-precision context cannot round the difference.
    """
    with torch.autocast(hidden_chosen.device.type, enabled=False):
        dtype = torch.promote_types(hidden_chosen.dtype, torch.float32)
        return torch.linalg.vector_norm(hidden_chosen.to(dtype) - hidden_rejected.to(dtype), dim=-1)


class PairWeight(Protocol):
    """What the trainer asks of a pair weight."""

    @property
    def needs_start(self) -> bool:
        """Whether μ must be set from a global batch before its first backward pass."""

    @property
    def every_step(self) -> bool:
        """Whether that is so for every global batch, not only the first."""

    @property
    def whole_batch(self) -> bool:
        """Whether `weigh` must be given the whole global batch at once."""

    def start(self, distance: Tensor) -> float | None:
        """μ from the distances (pairs,) of a global batch."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) of distances (pairs,) and prediction errors 1 − σ(d) (pairs,).

        They carry no gradient.
        """

    def update(self, mu: float | None, batch_mean: float) -> float | None:
        """μ_{t+1} from μ_t and the mean distance of the global batch at step t."""


def is_due(weight: PairWeight, mu: float | None) -> bool:
    """Whether μ must be set from the next global batch before its backward pass."""
    return weight.needs_start and (mu is None or weight.every_step)


class _Stateless:
    """A weight without μ: nothing to start, nothing to update."""

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
    """A weight whose μ is the moving average of the batches' mean distances."""

    beta: float
    whole_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise InputError for a β that makes no average."""
        require_range("weight.beta", self.beta, 0, 1)

    @property
    def needs_start(self) -> bool:
        """True: μ_0 comes from the first batch."""
        return True

    @property
    def every_step(self) -> bool:
        return False

    def start(self, distance: Tensor) -> float:
        """μ_0 = μ̂_0, the first batch's mean [inferred]."""
        return distance.mean().item()

    def update(self, mu: float | None, batch_mean: float) -> float:
        """β μ_t + (1 − β) μ̂_t. Raises ValueError before `start` has set μ."""
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

    `cap`: no weight is larger (ours, not the paper's); None for no cap.
    """

    epsilon: float
    cap: float | None = None

    def __post_init__(self) -> None:
        """Raise InputError for numbers that no weight has."""
        super().__post_init__()
        require_range("weight.epsilon", self.epsilon, 0)
        if self.cap is not None:
            require_range("weight.cap", self.cap, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError before `start` has set μ."""
        weight = _started(mu) / (distance.detach() + self.epsilon)
        return weight if self.cap is None else weight.clamp(max=self.cap)


# --- Other forms of NormBT's weight --------------------------------------------------------------


@dataclass(frozen=True)
class InverseDistance(_Stateless):
    """w = sg(c / (‖h_w − h_l‖ + ε)): NormBT without the EMA (paper, table 2) [inferred form].

    With c = 1 the loss shrinks or grows with the backbone's scale: nothing brings the mean weight
    near 1. Another c is the fixed constant in μ's place.
    """

    epsilon: float
    constant: float = 1.0

    def __post_init__(self) -> None:
        """Raise InputError for numbers that no weight has."""
        require_range("weight.epsilon", self.epsilon, 0)
        require_range("weight.constant", self.constant, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient."""
        return self.constant / (distance.detach() + self.epsilon)


@dataclass(frozen=True)
class BatchMean(NormBT):
    """μ is the mean distance of the very batch that is weighed: no memory (β is not used)."""

    @property
    def every_step(self) -> bool:
        """True: every batch brings its own μ."""
        return True

    def update(self, mu: float | None, batch_mean: float) -> float:
        """μ_t as it is, until `start` sets the next batch's. Raises ValueError before that."""
        return _started(mu)


@dataclass(frozen=True)
class MeanOne(BatchMean):
    """Weights ∝ 1 / (‖h_w − h_l‖ + ε) whose mean over the global batch is exactly 1.

    That is NormBT's weight with the harmonic mean of the distances in μ's place.
    """

    def start(self, distance: Tensor) -> float:
        """1 / mean(1 / (distance + ε))."""
        return 1 / (1 / (distance + self.epsilon)).mean().item()


# --- A rival and three controls ------------------------------------------------------------------


@dataclass(frozen=True)
class GradientClip(_Stateless):
    """w = min(1, limit / (error · distance)): clips each pair's head gradient to `limit`.

    error · distance = |σ(d) − 1| · ‖h_w − h_l‖ is the norm of the score head's BT gradient (paper,
    analysis section), the proxy of the pair's whole gradient.
    """

    limit: float

    def __post_init__(self) -> None:
        """Raise InputError for a limit that lets nothing pass."""
        require_range("weight.limit", self.limit, 1e-12)

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError without prediction errors."""
        if error is None:
            raise ValueError("GradientClip needs the prediction errors of the pairs")
        return (self.limit / (error.detach() * distance.detach())).clamp(max=1)


@dataclass(frozen=True)
class Proportional(_Averaging):
    """w = sg(‖h_w − h_l‖ / μ): NormBT reversed: it should have the opposite effect."""

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError before `start` has set μ."""
        return distance.detach() / _started(mu)


@dataclass(frozen=True)
class Shuffled(NormBT):
    """NormBT's weights shuffled among the pairs of the batch: the same numbers, no pairing.

    It shuffles what `weigh` is given, so the whole global batch must be one micro-batch.
    """

    whole_batch: ClassVar[bool] = True

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient, in an order that the distances themselves seed."""
        weight = super().weigh(distance, mu)
        return weight[_order(len(weight), distance).to(weight.device)]


@dataclass(frozen=True)
class MeanForAll(NormBT):
    """The mean of NormBT's weights over the batch, for every pair: their sum, no pairing.

    Plain SGD takes NormBT's larger step with it; AdamW divides a loss's scale out and takes BT's.

    Means over what `weigh` is given, so the whole global batch must be one micro-batch.
    """

    whole_batch: ClassVar[bool] = True

    def weigh(self, distance: Tensor, mu: float | None, error: Tensor | None = None) -> Tensor:
        """Weights (pairs,) under stop-gradient, all the same."""
        weight = super().weigh(distance, mu)
        return weight.mean().expand(len(weight))


# --- Controls: a batch's weights redistributed by category --------------------------------------

Deal = Callable[[Tensor, Sequence[str]], Tensor]
"""(weights, categories) of a whole batch → weights, each (pairs,)."""


@whole_batch
def dealt_within(weight: Tensor, categories: Sequence[str]) -> Tensor:
    """Weights (pairs,) of a whole batch, shuffled among the pairs of the same category.

    Every category keeps its weights, so only the weight of each category is left of NormBT. The
    distances are this model's own, which drift from those of a run under NormBT. `categories` names
    each pair's, in order.
    """
    order = torch.arange(len(weight), device=weight.device)
    for places in _places(categories, weight.device):
        order[places] = places[_order(len(places), weight[places]).to(weight.device)]
    return weight[order]


@whole_batch
def mean_within(weight: Tensor, categories: Sequence[str]) -> Tensor:
    """The mean weight of each pair's category in a whole batch, (pairs,).

    A category counts as much as under NormBT, and its pairs count alike. The distances are this
    model's own, which drift from those of a run under NormBT.
    """
    found = weight.clone()
    for places in _places(categories, weight.device):
        found[places] = weight[places].mean()
    return found


def fixed_within(
    weight: Tensor, categories: Sequence[str], *, weights: Mapping[str, float]
) -> Tensor:
    """The weight that `weights` gives to each pair's category, (pairs,), whatever `weight` is.

    Raises KeyError for a category that has none, InputError for a weight below 0.
    """
    for name, value in weights.items():
        require_range(f"loss.deal.weights.{name}", value, 0)
    return weight.new_tensor([weights[name] for name in categories])


def _places(categories: Sequence[str], device: torch.device) -> list[Tensor]:
    """The places of each category's pairs, in the categories' alphabetical order."""
    return [
        torch.tensor([n for n, one in enumerate(categories) if one == name], device=device)
        for name in sorted(set(categories))
    ]


def _order(size: int, seeding: Tensor) -> Tensor:
    """A permutation that the numbers in `seeding` draw.

    By a generator of its own: the global one also draws dropout, which must stay paired.
    """
    # Numbers that are not finite seed nothing: the trainer names their pairs after the step.
    seed = int(torch.nan_to_num(seeding.double(), 0, 0, 0).sum().item() * 1e6) % 2**63
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _started(mu: float | None) -> float:
    if mu is None:
        raise ValueError("the weight's mean distance is not set: call start() on the first batch")
    return mu
