"""The verdicts of the confirmatory experiment's five primary claims, by hand."""

from __future__ import annotations

import pytest

from eval.crossed import Student
from eval.statistics import holm
from eval.verdicts import (
    EQUIVALENT,
    INCONCLUSIVE,
    NOT_TESTABLE,
    REFUTED,
    SUPPORTED,
    Margins,
    Verdict,
    judge,
)  # fmt: skip
from rm.errors import InputError

PRIMARY = {
    "reasoning": Margins(0, refuted=3.2, equivalent=4),
    "average": Margins(0, refuted=1.2, equivalent=1.5),
    "safety": Margins(-2, refuted=-2, refuted_by="high"),
    "category weights": Margins(0, equivalent=3),
    "close minus far": Margins(0, equivalent=5),
}
"""The margins in percentage points."""


def near(value: float, error: float) -> Student:
    """An estimate whose intervals are the normal ones."""
    return Student(value, error, 1e9)


def alone(name: str, value: float, error: float) -> Verdict:
    return judge({name: PRIMARY[name]}, {name: near(value, error)})[name]


@pytest.mark.parametrize(
    ("claim", "value", "error", "verdict", "reason"),
    [
        ("reasoning", 6.0, 1.2, SUPPORTED, "low > 0"),
        ("reasoning", -1.0, 2.5, REFUTED, "upper < 3.2"),  # the upper bound is 3.11, high is 3.9
        ("reasoning", -0.9, 2.5, INCONCLUSIVE, "no rule is met"),  # 3.21
        ("reasoning", 1.5, 1.2, EQUIVALENT, "90% interval within ±4"),  # [-0.5, 3.5]
        ("reasoning", 3.0, 2.0, INCONCLUSIVE, "no rule is met"),
        ("average", 1.0, 0.5, SUPPORTED, "low > 0"),
        ("average", 0.1, 0.5, REFUTED, "upper < 1.2; 90% interval within ±1.5"),
        ("safety", 0.0, 0.4, SUPPORTED, "low > -2"),
        ("safety", -3.0, 0.4, REFUTED, "high < -2"),
        ("safety", -2.7, 0.4, INCONCLUSIVE, "no rule is met"),  # upper is −2.04, high −1.92
        ("category weights", 0.5, 0.8, EQUIVALENT, "90% interval within ±3"),
        ("category weights", -4.0, 0.8, INCONCLUSIVE, "no rule is met"),
        ("close minus far", 2.0, 1.6, EQUIVALENT, "90% interval within ±5"),
        ("close minus far", 4.0, 1.6, SUPPORTED, "low > 0"),
    ],
)
def test_each_rule_of_the_table(
    claim: str, value: float, error: float, verdict: str, reason: str
) -> None:
    found = alone(claim, value, error)
    assert (found.verdict, found.reason) == (verdict, reason)


def test_every_rule_that_is_met_is_said() -> None:
    """Small, positive and precise: supported, and too small for the paper's effect."""
    found = alone("reasoning", 1.5, 0.5)
    assert found.verdict == SUPPORTED and found.met == (SUPPORTED, REFUTED, EQUIVALENT)
    assert found.reason == "low > 0; upper < 3.2; 90% interval within ±4"
    assert found.p == pytest.approx(0.0027, abs=1e-4) and found.p_holm == found.p


def test_support_must_survive_holm_over_the_claims_that_are_tested() -> None:
    estimates = {
        "reasoning": near(2.3 * 1.2, 1.2),  # p = 0.021
        "average": near(5 * 0.5, 0.5),
        "safety": near(-2 + 2.4 * 0.4, 0.4),  # p = 0.016
        "category weights": near(0, 2),
        "close minus far": near(0, 4),
    }
    found = judge(PRIMARY, estimates)
    p = [one.p for one in found.values()]
    assert [one.p_holm for one in found.values()] == pytest.approx(holm(p).tolist())
    assert found["average"].verdict == SUPPORTED
    assert found["safety"].verdict == INCONCLUSIVE
    assert found["reasoning"].reason == "low > 0, but p = 0.066 after Holm's correction"
    gates = dict.fromkeys(("category weights", "close minus far", "average"), "BT is at 55%")
    fewer = judge(PRIMARY, estimates, gates)
    assert [fewer[name].verdict for name in ("reasoning", "safety")] == [SUPPORTED, SUPPORTED]
    assert fewer["average"].verdict == NOT_TESTABLE


def test_a_gate_that_failed_hides_the_estimate() -> None:
    found = judge(PRIMARY, {}, dict.fromkeys(PRIMARY, "BT is at 55% on validation pairs"))
    assert {one.verdict for one in found.values()} == {NOT_TESTABLE}
    assert {one.reason for one in found.values()} == {"BT is at 55% on validation pairs"}


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="claim reasoning has no estimate with an interval"):
        judge({"reasoning": Margins()}, {})
    with pytest.raises(InputError, match="claim reasoning has no estimate with an interval"):
        judge({"reasoning": Margins()}, {"reasoning": near(1, float("nan"))})
    with pytest.raises(InputError, match="refuted_by=low: choose upper or high"):
        Margins(refuted_by="low")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="equivalent=-1: must be above 0"):
        Margins(equivalent=-1)
