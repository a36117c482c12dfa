"""Pair weights: how much each pair's loss counts, from its representation distance.

A weight has two pure parts: `weigh(distance, mu)` gives the weights of a micro-batch, and
`update(mu, batch_mean)` the state after an optimiser step, from the mean distance of the *global*
batch (all ranks, all accumulation steps). So one step has one μ, however the batch is divided.
μ is None until the first batch: the trainer then measures that batch's mean distance beforehand
and calls `start` with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


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
        """Whether μ must be set from the first global batch before its first backward pass."""

    def start(self, batch_mean: float) -> float | None:
        """μ_0 from the mean distance of the first global batch."""

    def weigh(self, distance: Tensor, mu: float | None) -> Tensor:
        """Weights (pairs,) of distances (pairs,); they carry no gradient."""

    def update(self, mu: float | None, batch_mean: float) -> float | None:
        """μ_{t+1} from μ_t and the mean distance of the global batch at step t."""


class _Stateless:
    """A weight without μ: nothing to start, nothing to update."""

    @property
    def needs_start(self) -> bool:
        return False

    def start(self, batch_mean: float) -> float | None:
        return None

    def update(self, mu: float | None, batch_mean: float) -> float | None:
        return None


@dataclass(frozen=True)
class Uniform(_Stateless):
    """Every pair counts the same: plain BT."""

    def weigh(self, distance: Tensor, mu: float | None) -> Tensor:
        """Ones, (pairs,)."""
        return torch.ones_like(distance).detach()


@dataclass(frozen=True)
class InverseDistance(_Stateless):
    """w = sg(1 / (‖h_w − h_l‖ + ε)): NormBT without the EMA (paper, table 2) [inferred form].

    The loss then shrinks or grows with the backbone's scale: nothing brings the mean weight to 1.
    """

    epsilon: float

    def weigh(self, distance: Tensor, mu: float | None) -> Tensor:
        """Weights (pairs,) under stop-gradient."""
        return 1 / (distance.detach() + self.epsilon)


@dataclass(frozen=True)
class NormBT:
    """w̃ = sg(μ_t / (‖h_w − h_l‖ + ε)), μ_{t+1} = β μ_t + (1 − β) μ̂_t (paper, NormBT section).

    μ_0 is the first global batch's mean distance [inferred].
    """

    beta: float
    epsilon: float

    @property
    def needs_start(self) -> bool:
        """True: μ_0 comes from the first batch."""
        return True

    def start(self, batch_mean: float) -> float:
        """μ_0 = μ̂_0 [inferred]."""
        return batch_mean

    def weigh(self, distance: Tensor, mu: float | None) -> Tensor:
        """Weights (pairs,) under stop-gradient. Raises ValueError before `start` has set μ."""
        return _started(mu) / (distance.detach() + self.epsilon)

    def update(self, mu: float | None, batch_mean: float) -> float:
        """β μ_t + (1 − β) μ̂_t. Raises ValueError before `start` has set μ."""
        return self.beta * _started(mu) + (1 - self.beta) * batch_mean


def _started(mu: float | None) -> float:
    if mu is None:
        raise ValueError("NormBT's mean distance is not set: call start() on the first batch")
    return mu
