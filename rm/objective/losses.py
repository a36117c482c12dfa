"""Pair losses: pure functions of the reward difference d = r_w − r_l and the pair's margin m.

Every function returns one loss per pair; the objective (`rm.objective.objective`) multiplies it by
the pair's weight (`rm.objective.weights`). A difference returns what the loss reads in d's place. A
regularizer returns one penalty per pair, from the rewards. All tensors have the shape (pairs,) and
float32 or float64 values; `logsigmoid` is used throughout because log(sigmoid(d)) underflows for
d < −88 in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rm.errors import require_range
from rm.objective.whole_batch import whole_batch

PairLoss = Callable[[Tensor, Tensor | None], Tensor]
"""(difference (pairs,), margin (pairs,) or None) -> loss (pairs,).

A loss that needs margins has no default for `margin`: data without are refused then."""

Difference = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(chosen rewards, rejected rewards, distance) -> what the pair loss reads in d's place.

All (pairs,)."""

Regularizer = Callable[[Tensor, Tensor], Tensor]
"""(chosen rewards (pairs,), rejected rewards (pairs,)) -> penalty (pairs,), not weighted."""


def bt(difference: Tensor, margin: Tensor | None = None) -> Tensor:
    """Bradley-Terry loss −log σ(d) (paper, analysis section). `margin` is not used."""
    return -logsigmoid(difference)


def bt_margin(difference: Tensor, margin: Tensor | None) -> Tensor:
    """−log σ(d − m), m the pair's rating difference (Llama 2; HelpSteer2-Preference).

    Raises ValueError if `margin` is None.
    """
    return -logsigmoid(difference - _required(margin, "bt_margin"))


def bt_margin_out(difference: Tensor, margin: Tensor | None) -> Tensor:
    """m · (−log σ(d)), "scaled BT" of HelpSteer2-Preference [inferred from the paper's name].

    Raises ValueError if `margin` is None.
    """
    return -_required(margin, "bt_margin_out") * logsigmoid(difference)


def bt_label_smoothing(
    difference: Tensor, margin: Tensor | None = None, *, smoothing: float
) -> Tensor:
    """−(1 − α) log σ(d) − α log σ(−d) with α = `smoothing` (GRM). `margin` is not used.

    Raises InputError unless α is from 0 to 0.5: above, the rejected side would be preferred.
    """
    require_range("loss.pair_loss.smoothing", smoothing, 0, 0.5)
    return -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)


def hinge(difference: Tensor, margin: Tensor | None = None, *, width: float) -> Tensor:
    """max(0, width − d): no gradient once a pair is won by `width`. `margin` is not used.

    Raises InputError for a width below 0.
    """
    require_range("loss.pair_loss.width", width, 0)
    return (width - difference).clamp(min=0)


def focal(difference: Tensor, margin: Tensor | None = None, *, gamma: float) -> Tensor:
    """(1 − σ(d))^γ · (−log σ(d)): pairs that are won count less (Skywork-Reward, arXiv 2410.18451).

    The factor carries a gradient too. γ = 0 is BT. `margin` is not used. Raises InputError for a
    γ below 0.
    """
    require_range("loss.pair_loss.gamma", gamma, 0)
    return -(gamma * logsigmoid(-difference)).exp() * logsigmoid(difference)


def constant_margin(difference: Tensor, margin: Tensor | None = None, *, size: float) -> Tensor:
    """−log σ(d − size), the same margin for every pair (a baseline in the code of BSR).

    The pair's own `margin` is not used. Raises InputError for a size below 0.
    """
    require_range("loss.pair_loss.size", size, 0)
    return -logsigmoid(difference - size)


def normalised_difference(
    chosen: Tensor, rejected: Tensor, distance: Tensor, *, epsilon: float
) -> Tensor:
    """d / √(r_w² + r_l² + ε²), from −√2 to √2 (a baseline in the code of BSR) [inferred: ε].

    Where ε is far below both rewards, multiplying both by one number changes nothing. ε keeps the
    gradient finite where both are zero. `distance` is not used. Raises InputError for an ε that is
    not above 0.
    """
    require_range("loss.difference.epsilon", epsilon, 1e-12)
    return (chosen - rejected) / (chosen.square() + rejected.square() + epsilon**2).sqrt()


@whole_batch
def similarity_margin(chosen: Tensor, rejected: Tensor, distance: Tensor, *, size: float) -> Tensor:
    """d − m with m = sg(size · exp(−distance / the batch's mean distance)): more for similar pairs.

    A margin by similarity as in APLOT (arXiv 2510.10963) [inferred form: no optimal transport, no
    reward gap]. m is `size` for equal states and size / e at the mean distance. The cosine of last
    hidden states would make m a constant: with SmolLM2 it averages 0.98. The batch must be whole:
    one micro-batch. Raises InputError for a size below 0.
    """
    require_range("loss.difference.size", size, 0)
    apart = distance.detach()
    mean = apart.mean().clamp(min=torch.finfo(apart.dtype).tiny)  # 0 where all states are equal
    return chosen - rejected - size * (-apart / mean).exp()


def centring(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (r_w + r_l)², one value per pair: rewards stay near zero (TRL's formula).

    Raises InputError for a coefficient below 0.
    """
    require_range("loss.regularizer.coefficient", coefficient, 0)
    return coefficient * (chosen + rejected).square()


@whole_batch
def batch_sum_to_zero(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (mean of all the batch's rewards)², the same value for every pair.

    Batch sum-to-zero regularisation (arXiv 2505.07271), of the mean as in its code. The batch must
    be whole: one micro-batch. Raises InputError for a coefficient below 0.
    """
    require_range("loss.regularizer.coefficient", coefficient, 0)
    mean = (chosen.mean() + rejected.mean()) / 2
    return (coefficient * mean.square()).expand(len(chosen))


@dataclass(frozen=True)
class TextGeneration:
    """GRM's regularisation, sft variant (arXiv 2406.10216): the backbone goes on writing y_w.

    (1 − ratio) · loss − ratio · log σ(β log π(y_w | x)), one value per pair.
    """

    ratio: float
    beta: float

    def __post_init__(self) -> None:
        """Raise InputError for numbers that make no such loss."""
        require_range("loss.text.ratio", self.ratio, 0, 1)
        require_range("loss.text.beta", self.beta, 0)

    def combine(self, loss: Tensor, log_likelihood: Tensor) -> Tensor:
        """`loss`, `log_likelihood` = log π(y_w | x): (pairs,). Returns (pairs,)."""
        return (1 - self.ratio) * loss - self.ratio * logsigmoid(self.beta * log_likelihood)


def _required(margin: Tensor | None, loss: str) -> Tensor:
    if margin is None:
        raise ValueError(f"{loss} needs the margin of every pair, and this batch has none")
    return margin
