"""Pair losses: pure functions of the reward difference d = r_w − r_l and the pair's margin m.

Every function returns one loss a pair; the trainer multiplies it by the pair's weight
(`rm.weights`) and takes the mean. All tensors have the shape (pairs,) and float32 or float64
values; `logsigmoid` is used throughout because log(sigmoid(d)) underflows for d < −88 in float32.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import logsigmoid

PairLoss = Callable[[Tensor, Tensor | None], Tensor]
"""(difference (pairs,), margin (pairs,) or None) -> loss (pairs,)."""


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
    """−(1 − α) log σ(d) − α log σ(−d) with α = `smoothing` (GRM). `margin` is not used."""
    return -(1 - smoothing) * logsigmoid(difference) - smoothing * logsigmoid(-difference)


def _required(margin: Tensor | None, loss: str) -> Tensor:
    if margin is None:
        raise ValueError(f"{loss} needs the margin of every pair, and this batch has none")
    return margin
