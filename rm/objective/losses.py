"""Pair losses: pure functions of the reward difference d = r_w − r_l and the pair's margin m.

Every pair loss returns one loss per pair. The objective (`rm.objective.objective`) multiplies it by
the pair's weight (`rm.objective.weights`). A difference function replaces d in the pair loss. A
regularizer returns one penalty per pair, computed from the rewards. All tensors are (pairs,),
float32 or float64. `logsigmoid` avoids the underflow of log(sigmoid(d)) for d < −88 in float32.
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

A loss without a default for `margin` needs margins: data without margins are rejected."""

Difference = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(chosen rewards, rejected rewards, distance) -> the value that replaces d in the pair loss.

All (pairs,)."""

Regularizer = Callable[[Tensor, Tensor], Tensor]
"""(chosen rewards (pairs,), rejected rewards (pairs,)) -> unweighted penalty (pairs,)."""


def bt(difference: Tensor, margin: Tensor | None = None) -> Tensor:
    """Bradley-Terry loss −log σ(d) (paper, analysis section). `margin` is not used."""
    return -logsigmoid(difference)


def bt_margin(difference: Tensor, margin: Tensor | None) -> Tensor:
    """−log σ(d − m), where m is the pair's rating difference (Llama 2; HelpSteer2-Preference).

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

    Raises InputError unless 0 ≤ α ≤ 0.5: a larger α would prefer the rejected side.
    """
    require_range("loss.pair_loss.smoothing", smoothing, 0, 0.5)
    return -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)


def hinge(difference: Tensor, margin: Tensor | None = None, *, width: float) -> Tensor:
    """max(0, width − d): no gradient where d ≥ `width`. `margin` is not used.

    Raises InputError if width < 0.
    """
    require_range("loss.pair_loss.width", width, 0)
    return (width - difference).clamp(min=0)


def focal(difference: Tensor, margin: Tensor | None = None, *, gamma: float) -> Tensor:
    """(1 − σ(d))^γ · (−log σ(d)): correctly ranked pairs count less.

    Source: Skywork-Reward, arXiv 2410.18451. The factor (1 − σ(d))^γ has a gradient too. γ = 0
    gives BT. `margin` is not used. Raises InputError if γ < 0.
    """
    require_range("loss.pair_loss.gamma", gamma, 0)
    return -(gamma * logsigmoid(-difference)).exp() * logsigmoid(difference)


def constant_margin(difference: Tensor, margin: Tensor | None = None, *, size: float) -> Tensor:
    """−log σ(d − size), the same margin for every pair (a baseline in BSR's code).

    The pair's own `margin` is not used. Raises InputError if size < 0.
    """
    require_range("loss.pair_loss.size", size, 0)
    return -logsigmoid(difference - size)


def normalised_difference(
    chosen: Tensor, rejected: Tensor, distance: Tensor, *, epsilon: float
) -> Tensor:
    """d / √(r_w² + r_l² + ε²), from −√2 to √2 (a baseline in BSR's code) [inferred: ε].

    The result does not depend on the scale of the rewards if ε is far below both. ε keeps the
    gradient finite where both rewards are zero. `distance` is not used. Raises InputError if
    ε < 1e-12.
    """
    require_range("loss.difference.epsilon", epsilon, 1e-12)
    return (chosen - rejected) / (chosen.square() + rejected.square() + epsilon**2).sqrt()


@whole_batch
def similarity_margin(chosen: Tensor, rejected: Tensor, distance: Tensor, *, size: float) -> Tensor:
    """d − m with m = sg(size · exp(−distance / mean distance of the batch)).

    Similar pairs get a larger margin, as in APLOT (arXiv 2510.10963) [inferred form: no optimal
    transport, no reward gap]. m is `size` for equal states and size / e at the mean distance. We do
    not use the cosine of the last hidden states: it averages 0.98 with SmolLM2, so m would be
    nearly constant. The global batch must be one micro-batch. Raises InputError if size < 0.
    """
    require_range("loss.difference.size", size, 0)
    apart = distance.detach()
    mean = apart.mean().clamp(min=torch.finfo(apart.dtype).tiny)  # 0 where all states are equal
    return chosen - rejected - size * (-apart / mean).exp()


def centring(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (r_w + r_l)², one value per pair: keeps rewards near zero (TRL's formula).

    Raises InputError if coefficient < 0.
    """
    require_range("loss.regularizer.coefficient", coefficient, 0)
    return coefficient * (chosen + rejected).square()


@whole_batch
def batch_sum_to_zero(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (mean of all rewards in the batch)², the same value for every pair.

    Batch sum-to-zero regularisation (BSR, arXiv 2505.07271). Its code uses the mean, as here. The
    global batch must be one micro-batch. Raises InputError if coefficient < 0.
    """
    require_range("loss.regularizer.coefficient", coefficient, 0)
    mean = (chosen.mean() + rejected.mean()) / 2
    return (coefficient * mean.square()).expand(len(chosen))


@dataclass(frozen=True)
class TextGeneration:
    """GRM's text-generation regularisation, sft variant (arXiv 2406.10216).

    (1 − ratio) · loss − ratio · log σ(β log π(y_w | x)), one value per pair. It trains the backbone
    to keep generating the chosen response y_w.
    """

    ratio: float
    beta: float

    def __post_init__(self) -> None:
        """Raise InputError unless 0 ≤ ratio ≤ 1 and β ≥ 0."""
        require_range("loss.text.ratio", self.ratio, 0, 1)
        require_range("loss.text.beta", self.beta, 0)

    def combine(self, loss: Tensor, log_likelihood: Tensor) -> Tensor:
        """`loss`, `log_likelihood` = log π(y_w | x): (pairs,). Returns (pairs,)."""
        return (1 - self.ratio) * loss - self.ratio * logsigmoid(self.beta * log_likelihood)


def _required(margin: Tensor | None, loss: str) -> Tensor:
    if margin is None:
        raise ValueError(f"{loss} needs a margin for every pair, but this batch has none")
    return margin
