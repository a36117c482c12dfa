"""How far apart the two sides of a pair are: the paper's proxy, and others to compare it with.

A pair weight (`rm.objective.weights`) is computed from one of these. Some read the forward pass,
some the tokens, one the exact gradients. All give (pairs,) values of 0 or more, float32 or better,
without a gradient.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from rm.data.tokens import TokenPair
from rm.errors import require_range
from rm.model.reward_model import RewardOutput
from rm.objective.weights import representation_distance


class PairDistance(Protocol):
    """What the trainer asks of a distance."""

    by_tokens: bool
    """Known from a pair's tokens: `of_pair` gives it, without a forward pass."""
    by_gradient: bool
    """Needs the forward pass's graph."""
    by_mean: bool
    """Needs the mean hidden state of every row (no shared prefixes then)."""
    whole_batch: bool
    """Depends on the other pairs of the batch (no division into micro-batches then)."""

    def of_pair(self, pair: TokenPair) -> float:
        """Distance of a pair's two token rows."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Distances (pairs,) from a forward pass: rows chosen first, then rejected."""


class _Forward:
    """A distance read from the forward pass."""

    by_tokens = by_gradient = by_mean = whole_batch = False

    def of_pair(self, pair: TokenPair) -> float:
        raise NotImplementedError


class _Tokens:
    """A distance read from the tokens."""

    by_tokens = True
    by_gradient = by_mean = whole_batch = False

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Representation(_Forward):
    """‖h_w − h_l‖₂ of the last tokens' hidden states: the paper's."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Activation units."""
        return representation_distance(*output.hidden.detach().chunk(2))


@dataclass(frozen=True)
class Cosine(_Forward):
    """1 − cos(h_w, h_l), from 0 to 2: blind to the vectors' lengths."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """½‖a − b‖² of the unit vectors: 1 − a·b would cancel where they are close."""
        hidden = nn.functional.normalize(output.hidden.detach(), dim=-1)
        return representation_distance(*hidden.chunk(2)).square() / 2


@dataclass(frozen=True)
class Standardised(_Forward):
    """‖(h_w − h_l) / s‖₂ / √hidden, s the standard deviation of each dimension over the batch.

    The diagonal form of the Mahalanobis (whitened) distance: a batch has too few rows for the whole
    covariance. The batch must be whole: one micro-batch.
    """

    epsilon: float = 1e-6
    whole_batch = True

    def __post_init__(self) -> None:
        """Raise InputError for an ε below 0."""
        require_range("loss.distance.epsilon", self.epsilon, 0)

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """In standard deviations, root mean square over the dimensions."""
        hidden = output.hidden.detach()
        spread = hidden.std(dim=0, correction=0) + self.epsilon
        return representation_distance(*(hidden / spread).chunk(2)) / math.sqrt(hidden.shape[-1])


@dataclass(frozen=True)
class MeanPooled(_Forward):
    """‖·‖₂ between the means of all tokens' last hidden states, prompt included."""

    by_mean = True

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Activation units. Raises ValueError if the forward pass kept no means."""
        if output.mean is None:
            raise ValueError("the forward pass kept no mean states: set RewardModel.keep_mean")
        return representation_distance(*output.mean.detach().chunk(2))


@dataclass(frozen=True)
class ExactGradient(_Forward):
    """‖∇_θ(r_w − r_l)‖₂, an oracle: one backward pass per pair, which the paper's proxy saves."""

    by_gradient = True

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Reward units per parameter unit; keeps the graph for the loss's own backward pass."""
        norms = []
        for value in difference:
            parts = torch.autograd.grad(value, trained, retain_graph=True)
            norms.append(torch.stack([part.norm() for part in parts]).norm())
        return torch.stack(norms).detach()


@dataclass(frozen=True)
class Edit(_Tokens):
    """Levenshtein distance of the two rows' tokens: how unlike their wording is."""

    def of_pair(self, pair: TokenPair) -> float:
        """Number of tokens inserted, deleted or replaced."""
        return float(Levenshtein.distance(pair.chosen, pair.rejected))


@dataclass(frozen=True)
class RandomDistance(_Tokens):
    """exp(N(0, 1)), drawn by pair id and seed: a distance unrelated to the pair."""

    seed: int

    def of_pair(self, pair: TokenPair) -> float:
        """The same for a pair in every run with this seed."""
        return math.exp(random.Random(f"{self.seed}/{pair.pair_id}").gauss(0, 1))
