"""The training objective: it turns the rewards of a batch into one value per pair.

    value = weight · loss(d, m) + penalty,    d = r_w − r_l,    weight = NormBT's or another

A rival may replace d by another difference.

A file in conf/loss names the parts. The parts themselves say what they need: margins, categories,
every token or the whole batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rm.errors import InputError
from rm.objective.distances import PairDistance, Representation
from rm.objective.losses import Difference, PairLoss, Regularizer, TextGeneration
from rm.objective.weights import Deal, PairWeight
from rm.objective.whole_batch import needs_whole_batch


class PairValues(NamedTuple):
    """The values of an objective for each pair, all (pairs,)."""

    difference: Tensor
    """d = r_w − r_l."""
    weight: Tensor
    """Without gradient."""
    loss: Tensor
    """The pair loss, before its weight."""
    value: Tensor
    """Training minimises its mean over the global batch."""


@dataclass(frozen=True)
class Objective:
    """A pair loss, its weight and optional parts (paper, NormBT section).

    `distance`: the weight is computed from it; by default ‖h_w − h_l‖. `difference`: replaces d in
    the pair loss; the weight still gets the prediction error of d. `regularizer`: a penalty on the
    rewards. `text`: GRM's text term. `deal`: redistributes a batch's weights by category. `head`:
    the kind of score head. `name` is for messages and records.
    """

    pair_loss: PairLoss
    weight: PairWeight
    distance: PairDistance = field(default_factory=Representation)
    difference: Difference | None = None
    regularizer: Regularizer | None = None
    text: TextGeneration | None = None
    deal: Deal | None = None
    head: str = "linear"
    name: str = ""

    def __post_init__(self) -> None:
        """Try every part on two pairs.

        Raises InputError for a number out of range, an argument that a part does not take, or an
        object of the wrong kind for its role.
        """
        one = torch.tensor([0.5, -0.5])
        try:
            self.pair_loss(one, one)
            self.weight.weigh(one.abs(), 1.0, one.abs())
            if self.difference is not None:
                self.difference(one, one, one.abs())
            if self.regularizer is not None:
                self.regularizer(one, one)
            if self.text is not None:
                self.text.combine(one, one)
            if self.deal is not None:
                self.deal(one[:0], [])
            _ = self.needs_margin, self.every_token, self.whole_batch
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(f"loss={self.name}: {error}") from error

    def values(
        self,
        chosen: Tensor,
        rejected: Tensor,
        distance: Tensor,
        mu: float | None,
        *,
        margin: Tensor | None = None,
        categories: Sequence[str] = (),
        log_likelihood: Tensor | None = None,
    ) -> PairValues:
        """Weight × pair loss + penalty of every pair, then combined with the text term if any.

        `chosen`, `rejected`: rewards (pairs,), float32 or better. `distance` (pairs,): input of the
        weight and of `difference`. `mu`: the weight's state. Only some parts need `margin`
        (pairs,), `categories` (one per pair) or `log_likelihood` (pairs,) = log π(y_w | x). Raises
        ValueError if a needed one is missing.
        """
        difference = chosen - rejected
        weight = self.weight.weigh(distance, mu, torch.sigmoid(-difference.detach()))
        if self.deal is not None:
            if len(categories) != len(weight):
                raise ValueError(f"{len(weight)} pairs but {len(categories)} categories")
            weight = self.deal(weight, categories)
        read = difference
        if self.difference is not None:
            read = self.difference(chosen, rejected, distance)
        loss = self.pair_loss(read, margin)
        value = weight * loss
        if self.regularizer is not None:
            value = value + self.regularizer(chosen, rejected)
        if self.text is not None:
            if log_likelihood is None:
                raise ValueError("the text term needs log π(y_w | x) of every pair")
            value = self.text.combine(value, log_likelihood)
        return PairValues(difference, weight, loss, value)

    @property
    def whole_batch(self) -> bool:
        """Whether a part looks across pairs, so the global batch must be one micro-batch."""
        functions = (self.pair_loss, self.difference, self.regularizer, self.deal)
        return (
            self.weight.whole_batch
            or self.distance.whole_batch
            or any(map(needs_whole_batch, functions))
        )

    @property
    def needs_margin(self) -> bool:
        """Whether every pair needs a margin: the pair loss's second argument has no default."""
        _, margin, *_ = inspect.signature(self.pair_loss).parameters.values()
        return margin.default is margin.empty

    @property
    def needs_category(self) -> bool:
        """Whether every pair needs a category."""
        return self.deal is not None

    @property
    def category_weights(self) -> Mapping[str, float] | None:
        """The weight of every allowed category for `weights.fixed_within`, None for other deals."""
        found: Mapping[str, float] | None = getattr(self.deal, "keywords", {}).get("weights")
        return found

    @property
    def every_token(self) -> bool:
        """Whether a part reads more than the last tokens, so prefixes cannot be shared."""
        return self.distance.by_mean or self.text is not None
