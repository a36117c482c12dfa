"""Pair losses: pure functions of the reward difference d = r_w − r_l and the pair's margin m.

Every function returns one loss per pair; the objective (`rm.objective.objective`) multiplies it by
the pair's weight (`rm.objective.weights`). A regularizer returns one penalty per pair, from the
rewards. All tensors have the shape (pairs,) and float32 or float64 values; `logsigmoid` is used
throughout because log(sigmoid(d)) underflows for d < −88 in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from rm.errors import require_range
from rm.objective.whole_batch import whole_batch

PairLoss = Callable[[Tensor, Tensor | None], Tensor]
"""(difference (pairs,), margin (pairs,) or None) -> loss (pairs,).

A loss that needs margins has no default for `margin`: data without are refused then."""

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


def centring(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (r_w + r_l)², one value per pair: rewards stay near zero (TRL's formula).

    Raises InputError for a coefficient below 0.
    """
    require_range("loss.regularizer.coefficient", coefficient, 0)
    return coefficient * (chosen + rejected).square()


@whole_batch
def batch_sum_to_zero(chosen: Tensor, rejected: Tensor, *, coefficient: float) -> Tensor:
    """coefficient · (mean of all the batch's rewards)², the same value for every pair.

    Batch sum-to-zero regularisation (arXiv 2505.07271) [inferred: of the mean, so that it does not
    grow with the batch]. The batch must be whole: one micro-batch. Raises InputError for a
    coefficient below 0.
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
