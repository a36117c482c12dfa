"""Training pairs relabelled by the gold: its two scores give a pair's order and margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rm.data.preferences import PreferencePair, swapped
from rm.errors import InputError


@dataclass
class RelabelReport:
    """What became of the pairs: `pairs == kept + ties + unscored`; `turned` were flipped.

    `disagreement` is the share of kept pairs whose original label the gold flipped.
    """

    pairs: int = 0
    kept: int = 0
    turned: int = 0
    ties: int = 0
    unscored: int = 0
    mean_margin: float = 0.0

    @property
    def disagreement(self) -> float:
        """Flipped pairs as a fraction of the kept ones."""
        return self.turned / self.kept if self.kept else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for a manifest."""
        return {**asdict(self), "disagreement": self.disagreement}

    def line(self) -> str:
        """Return the report in one line, for people."""
        return (
            f"{self.kept} of {self.pairs} pairs relabelled, {self.turned} flipped "
            f"({100 * self.disagreement:.1f}% disagreement with the original labels), "
            f"{self.ties} ties and {self.unscored} that the gold cannot score dropped"
        )


def relabel(
    pairs: Sequence[PreferencePair], scores: Sequence[Sequence[float | None]]
) -> tuple[list[PreferencePair], RelabelReport]:
    """Relabel every pair by the gold's `scores`: (chosen side's, rejected side's) for each pair.

    The side with the higher score becomes chosen; the margin is |difference|, in the gold's own
    units. Ties and pairs without a score are dropped and counted. Raises InputError if no pair is
    left, or if a score is not finite.
    """
    report, kept = RelabelReport(pairs=len(pairs)), []
    for pair, (chosen, rejected) in zip(pairs, scores, strict=True):
        if chosen is None or rejected is None:
            report.unscored += 1
            continue
        difference = chosen - rejected
        if not math.isfinite(difference):
            raise InputError(f"the gold's scores of pair {pair.pair_id} are not finite")
        if difference == 0:
            report.ties += 1
            continue
        report.turned += difference < 0
        kept.append(_relabelled(pair, difference))
    report.kept = len(kept)
    if not kept:
        raise InputError(f"no training pair is left after relabelling: {report.line()}")
    report.mean_margin = sum(pair.margin or 0.0 for pair in kept) / len(kept)
    return kept, report


def _relabelled(pair: PreferencePair, difference: float) -> PreferencePair:
    return replace(pair if difference > 0 else swapped(pair), margin=abs(difference))
