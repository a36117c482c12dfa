"""Verdicts on claims, from intervals and from margins fixed before the test data are scored.

Verdicts: supported; refuted (the effect that the paper reports is excluded); equivalent (no effect
large enough to matter); inconclusive; not testable (a gate failed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from eval.crossed import Student
from eval.statistics import holm
from rm.errors import InputError

SUPPORTED: Final = "supported"
REFUTED: Final = "refuted"
EQUIVALENT: Final = "equivalent"
INCONCLUSIVE: Final = "inconclusive"
NOT_TESTABLE: Final = "not testable"
ALPHA: Final = 0.05


class Estimate(Protocol):
    """A number with an interval at any level."""

    @property
    def value(self) -> float:
        """The number."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided interval: (low, high)."""


@dataclass(frozen=True)
class Margins:
    """The rules of one claim, in the estimate's unit; a rule that is None cannot be met.

    supported: the low end of the 95% interval lies above this value. refuted: a bound lies below
    this value; `refuted_by` "upper" is the one-sided 95% upper bound, "high" the high end of the
    95% interval. equivalent: the 90% interval lies within ± this value.
    """

    supported: float = 0.0
    refuted: float | None = None
    refuted_by: Literal["upper", "high"] = "upper"
    equivalent: float | None = None

    def __post_init__(self) -> None:
        if self.refuted_by not in ("upper", "high"):
            raise InputError(f"refuted_by={self.refuted_by}: choose upper or high")
        if self.equivalent is not None and self.equivalent <= 0:
            raise InputError(f"equivalent={self.equivalent}: must be above 0")

    def met(self, estimate: Estimate) -> dict[str, str]:
        """Return the verdicts whose rule `estimate` meets, each with the rule in words."""
        low, high = estimate.interval(1 - ALPHA)
        found = {}
        if low > self.supported:
            found[SUPPORTED] = f"low > {self.supported:g}"
        if self.refuted is not None:
            upper = self.refuted_by == "upper"
            if (estimate.interval(1 - 2 * ALPHA)[1] if upper else high) < self.refuted:
                found[REFUTED] = f"{self.refuted_by} < {self.refuted:g}"
        if self.equivalent is not None:
            lower, upper_end = estimate.interval(1 - 2 * ALPHA)
            if -self.equivalent < lower and upper_end < self.equivalent:
                found[EQUIVALENT] = f"90% interval within ±{self.equivalent:g}"
        return found

    def in_words(self) -> str:
        """Return the rules as a sentence."""
        rules = [f"supported if low > {self.supported:g}"]
        if self.refuted is not None:
            end = "one-sided 95% upper bound" if self.refuted_by == "upper" else "high"
            rules.append(f"refuted if {end} < {self.refuted:g}")
        if self.equivalent is not None:
            rules.append(f"equivalent if the 90% interval lies within ±{self.equivalent:g}")
        return "; ".join(rules)


@dataclass(frozen=True)
class Verdict:
    """One claim's verdict with the reason.

    `met`: all verdicts whose rules are met; the first is `verdict`. `p`: two-sided p-value against
    the margin that support must exceed. `p_holm`: `p` after Holm's correction over tested claims.
    """

    verdict: str
    reason: str
    met: tuple[str, ...] = ()
    p: float = float("nan")
    p_holm: float = float("nan")


def judge(
    margins: Mapping[str, Margins],
    estimates: Mapping[str, Student],
    gates: Mapping[str, str] | None = None,
) -> dict[str, Verdict]:
    """Return the verdict of every claim that has `margins`.

    `gates`: claim → why it is not testable; its estimate is ignored. Other claims are judged in the
    order supported, refuted, equivalent. Support also needs p < 0.05 after Holm's correction.

    Raises InputError if a claim has no failed gate and no estimate with a finite error.
    """
    failed = gates or {}
    tested = [name for name in margins if name not in failed]
    for name in tested:
        if name not in estimates or not np.isfinite(estimates[name].error):
            raise InputError(f"claim {name} has no estimate with an interval, and no failed gate")
    p = [estimates[name].p_differs(margins[name].supported) for name in tested]
    adjusted = dict(zip(tested, zip(p, holm(p).tolist(), strict=True), strict=True))
    return {
        name: Verdict(NOT_TESTABLE, failed[name])
        if name in failed
        else _judge_one(margins[name], estimates[name], *adjusted[name])
        for name in margins
    }


def judge_alone(margins: Margins, estimate: Estimate) -> Verdict:
    """Return the verdict of one secondary claim by its margins, without Holm's correction."""
    met = margins.met(estimate)
    return Verdict(
        next(iter(met), INCONCLUSIVE), "; ".join(met.values()) or "no rule is met", tuple(met)
    )


def _judge_one(margins: Margins, estimate: Estimate, p: float, p_holm: float) -> Verdict:
    met, missed = margins.met(estimate), ""
    if SUPPORTED in met and p_holm >= ALPHA:
        missed = f"{met.pop(SUPPORTED)}, but p = {p_holm:.3f} after Holm's correction"
    reason = "; ".join([*met.values(), *([missed] if missed else [])])
    verdict = next(iter(met), INCONCLUSIVE)
    return Verdict(verdict, reason or "no rule is met", tuple(met), p, p_holm)
