"""What training minimises: an Objective turns the rewards of a batch into one value per pair.

    value = weight · loss(d, m) + penalty,    d = r_w − r_l,    weight = NormBT's or another

A rival may read another difference in d's place.

A loss file of conf/loss names the parts. What they need of a run (margins, categories, every token,
the whole batch) is read from the parts themselves.
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
    """What an objective says of each pair, all (pairs,)."""

    difference: Tensor
    """d = r_w − r_l."""
    weight: Tensor
    """Without gradient."""
    loss: Tensor
    """The pair loss, before its weight."""
    value: Tensor
    """What is minimised, averaged over the global batch."""


@dataclass(frozen=True)
class Objective:
    """A pair loss, its weight, and what may come with them (paper, NormBT section).

    `distance`: what the weight is computed from, by default the paper's. `difference`: what the
    pair loss reads in d's place; weights are given the prediction error of d. `regularizer`: a
    penalty on the rewards. `text`: GRM's text term. `deal`: gives a batch's weights to pairs by
    category. `head`: the score head's kind. `name`, `label`, `base` (the method it is compared
    with) and `role` are for tables.
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
    label: str = ""
    base: str | None = None
    role: str = ""

    def __post_init__(self) -> None:
        """Try every part on two pairs.

        Raises InputError for impossible numbers, arguments that a part does not take, and parts
        that are not what their place asks for.
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
        """Weight × pair loss + penalty, and the text term, of every pair.

        `chosen`, `rejected`: rewards (pairs,), float32 or better. `distance` (pairs,): what the
        weight is computed from, and what `difference` is given. `mu`: the weight's state. `margin`
        (pairs,), `categories` (one per pair) and `log_likelihood` (pairs,), log π(y_w | x), where
        the parts need them. Raises ValueError if one that is needed is absent.
        """
        difference = chosen - rejected
        weight = self.weight.weigh(distance, mu, torch.sigmoid(-difference.detach()))
        if self.deal is not None:
            if len(categories) != len(weight):
                raise ValueError(f"{len(weight)} pairs and {len(categories)} categories")
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
        """Whether a part looks across pairs, so that a global batch must not be divided."""
        functions = (self.pair_loss, self.difference, self.regularizer, self.deal)
        return (
            self.weight.whole_batch
            or self.distance.whole_batch
            or any(map(needs_whole_batch, functions))
        )

    @property
    def needs_margin(self) -> bool:
        """Whether every pair must have a margin: the pair loss has no default for its second."""
        _, margin, *_ = inspect.signature(self.pair_loss).parameters.values()
        return margin.default is margin.empty

    @property
    def needs_category(self) -> bool:
        """Whether every pair must have a category: weights are given by it."""
        return self.deal is not None

    @property
    def category_weights(self) -> Mapping[str, float] | None:
        """The weights of a deal that fixes them (`weights.fixed_within`): it knows no other."""
        found: Mapping[str, float] | None = getattr(self.deal, "keywords", {}).get("weights")
        return found

    @property
    def every_token(self) -> bool:
        """Whether more than last tokens is read, so that no shared prefix may be computed once."""
        return self.distance.by_mean or self.text is not None
