"""Pair distances: the paper's proxy ‖h_w − h_l‖ and alternatives to compare it with.

A pair weight (`rm.objective.weights`) is computed from one distance. A distance reads the forward
pass, the tokens or the exact gradients. All return non-negative values (pairs,), float32 or better,
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
    """The interface of a distance."""

    by_tokens: bool
    """`of_pair` computes it from the tokens, without a forward pass."""
    by_gradient: bool
    """Needs the autograd graph of the forward pass."""
    by_mean: bool
    """Needs the mean hidden state of every row, so prefixes cannot be shared."""
    whole_batch: bool
    """Depends on the other pairs, so the global batch must be one micro-batch."""

    def of_pair(self, pair: TokenPair) -> float:
        """Distance between the two token rows of a pair."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Distances (pairs,) from a forward pass whose rows are all chosen, then all rejected."""


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
    """‖h_w − h_l‖₂ of the last tokens' hidden states, the paper's proxy."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Activation units."""
        return representation_distance(*output.hidden.detach().chunk(2))


@dataclass(frozen=True)
class Cosine(_Forward):
    """1 − cos(h_w, h_l), from 0 to 2: ignores the norms of the states."""

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """½‖a − b‖² of the unit vectors a, b: 1 − a·b loses precision where they are close."""
        hidden = nn.functional.normalize(output.hidden.detach(), dim=-1)
        return representation_distance(*hidden.chunk(2)).square() / 2


@dataclass(frozen=True)
class Standardised(_Forward):
    """‖(h_w − h_l) / s‖₂ / √hidden, where s is each dimension's standard deviation in the batch.

    The diagonal form of the Mahalanobis (whitened) distance: a batch has too few rows for the full
    covariance. The global batch must be one micro-batch.
    """

    epsilon: float = 1e-6
    whole_batch = True

    def __post_init__(self) -> None:
        """Raise InputError if ε < 0."""
        require_range("loss.distance.epsilon", self.epsilon, 0)

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Root mean square over the dimensions, in standard deviations."""
        hidden = output.hidden.detach()
        spread = hidden.std(dim=0, correction=0) + self.epsilon
        return representation_distance(*(hidden / spread).chunk(2)) / math.sqrt(hidden.shape[-1])


@dataclass(frozen=True)
class MeanPooled(_Forward):
    """L2 distance between the mean final hidden states of the two rows, prompt included."""

    by_mean = True

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Activation units. Raises ValueError if the forward pass kept no mean states."""
        if output.mean is None:
            raise ValueError("the forward pass kept no mean states: set RewardModel.keep_mean")
        return representation_distance(*output.mean.detach().chunk(2))


@dataclass(frozen=True)
class ExactGradient(_Forward):
    """‖∇_θ(r_w − r_l)‖₂, an oracle: one backward pass per pair, which the paper's proxy avoids."""

    by_gradient = True

    def measure(
        self, output: RewardOutput, difference: Tensor, trained: Sequence[nn.Parameter]
    ) -> Tensor:
        """Reward units per parameter unit. Keeps the graph for the loss's backward pass."""
        norms = []
        for value in difference:
            parts = torch.autograd.grad(value, trained, retain_graph=True)
            norms.append(torch.stack([part.norm() for part in parts]).norm())
        return torch.stack(norms).detach()


@dataclass(frozen=True)
class Edit(_Tokens):
    """Levenshtein distance between the two token rows."""

    def of_pair(self, pair: TokenPair) -> float:
        """Smallest number of inserted, deleted or replaced tokens."""
        return float(Levenshtein.distance(pair.chosen, pair.rejected))


@dataclass(frozen=True)
class RandomDistance(_Tokens):
    """exp(N(0, 1)), drawn from pair id and seed: a distance unrelated to the pair's text."""

    seed: int

    def of_pair(self, pair: TokenPair) -> float:
        """A pair has the same distance in every run with this seed."""
        return math.exp(random.Random(f"{self.seed}/{pair.pair_id}").gauss(0, 1))
