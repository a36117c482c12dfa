"""How scored pairs become accuracies: subset → section (weighted) → average of the sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from rm.errors import InputError

TIE_IS_LOSS = "a tie counts as a loss"

Summary = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """The aggregation of a pair benchmark.

    `sections` maps section → subset → weight. A section's score is the weighted mean of its
    subsets' accuracies; the average is the plain mean of the sections. `rows` maps subset → number
    of rows in the official set; it is empty if there is no official count.
    """

    name: str
    sections: Mapping[str, Mapping[str, float]]
    tie_rule: str = TIE_IS_LOSS
    rows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_counts(cls, name: str, frame: pd.DataFrame) -> Protocol:
        """Build a protocol whose weights are the row counts of `frame` (columns section, subset).

        Raises InputError if a column is missing or a subset occurs in two sections.
        """
        check_columns(frame, ("section", "subset"), "the scores")
        counts = Counter(zip(frame["section"], frame["subset"], strict=True))
        sections: dict[str, dict[str, float]] = {}
        for (section, subset), count in counts.items():
            sections.setdefault(section, {})[subset] = float(count)
        names = [subset for weights in sections.values() for subset in weights]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"subset {twice[0]!r} occurs in more than one section; rename one")
        return cls(name, sections)

    def section_of(self, subset: str) -> str:
        """Return the section of `subset`. Raises InputError that lists the valid subsets."""
        for section, weights in self.sections.items():
            if subset in weights:
                return section
        raise InputError(f"unknown subset {subset!r} for {self.name}; valid: {self._names()}")

    def _names(self) -> str:
        return ", ".join(subset for weights in self.sections.values() for subset in weights)

    def roll_up(self, accuracies: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
        """Aggregate subset accuracies (arrays of the same shape) to sections and the average.

        Keys of the result are (level, name), in the protocol's order; level is "subset", "section"
        or "average". A subset that is absent or NaN is left out of its section's weighted mean (as
        in RewardBench). A section without any subset is left out of the average.
        """
        subsets: dict[tuple[str, str], np.ndarray] = {}
        sections: dict[tuple[str, str], np.ndarray] = {}
        for section, weights in self.sections.items():
            present = [name for name in weights if name in accuracies]
            if present:
                values = np.stack([accuracies[name] for name in present])
                subsets.update({("subset", name): accuracies[name] for name in present})
                shares = np.array([weights[name] for name in present], dtype=float)
                sections["section", section] = _weighted_mean(values, shares)
        means = np.stack(list(sections.values()))
        average = _weighted_mean(means, np.ones(len(means)))
        return {**subsets, **sections, ("average", "average"): average}


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average over the first axis, skipping NaN; NaN if all values are NaN."""
    shares = weights.reshape(-1, *[1] * (values.ndim - 1)) * ~np.isnan(values)
    total = shares.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return (shares * np.nan_to_num(values)).sum(axis=0) / total


def check_columns(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    """Raise InputError if `frame` has no rows or lacks some of `columns`; they are named."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{what} lack the columns {', '.join(missing)}")
    if frame.empty:
        raise InputError(f"{what} contain no rows")


def check_finite(frame: pd.DataFrame, columns: tuple[str, ...], key: str) -> None:
    """Raise InputError if a reward is NaN or infinite, or a column is not numeric.

    The message counts the values of `key` with such a reward and quotes the first.
    """
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise InputError(f"column {name!r} must be numeric, not {frame[name].dtype}")
    values = frame[list(columns)].to_numpy(dtype=float)
    bad = frame[~np.isfinite(values).all(axis=1)]
    if len(bad):
        raise InputError(
            f"{bad[key].nunique()} of {frame[key].nunique()} have a NaN or infinite reward, "
            f"first {bad[key].iloc[0]!r}: check the model and its precision"
        )


def check_scores(scores: pd.DataFrame) -> None:
    """Raise InputError unless scored pairs have all columns, unique ids and finite rewards."""
    check_columns(scores, ("pair_id", "subset", "reward_chosen", "reward_rejected"), "the scores")
    twice = scores.loc[scores["pair_id"].duplicated(), "pair_id"]
    if len(twice):
        raise InputError(f"{len(twice)} rows repeat a pair_id, first {twice.iloc[0]!r}")
    check_finite(scores, ("reward_chosen", "reward_rejected"), "pair_id")


def outcomes(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Turn scored pairs into outcomes: seed, pair_id, subset, correct (0.0 or 1.0) [, cluster].

    Correct means r_w > r_l: a tie counts as a loss. Raises InputError as `check_scores`.
    """
    check_scores(scores)
    frame = scores[["pair_id", "subset"]].copy()
    frame.insert(0, "seed", seed)
    frame["correct"] = (scores["reward_chosen"] > scores["reward_rejected"]).astype(float)
    if "cluster" in scores.columns:
        frame["cluster"] = scores["cluster"]
    return frame


def summarize(scores: pd.DataFrame, protocol: Protocol) -> Summary:
    """Summarise scored pairs (pair_id, subset, reward_chosen, reward_rejected) under a protocol.

    The result is ready for JSON. Accuracies are fractions in [0, 1]. A section without rows is None
    and left out of the average. `partial` lists for each section what differs from the official
    set. Raises InputError for a NaN or infinite reward, a repeated pair_id or an unknown subset.
    """
    check_scores(scores)
    for subset in scores["subset"].unique():
        protocol.section_of(subset)
    subsets = _subset_table(scores)
    accuracies = {name: np.array(entry["accuracy"]) for name, entry in subsets.items()}
    rolled = protocol.roll_up(accuracies)
    return {
        "benchmark": protocol.name,
        "subsets": {name: subsets[name] for level, name in rolled if level == "subset"},
        "sections": {name: _number(rolled.get(("section", name))) for name in protocol.sections},
        "average": _number(rolled["average", "average"]),
        "pairs": len(scores),
        "ties": sum(entry["ties"] for entry in subsets.values()),
        "tie_rule": protocol.tie_rule,
        "partial": partial(subsets, protocol),
    }


def _subset_table(scores: pd.DataFrame) -> dict[str, dict[str, Any]]:
    frame = scores.assign(
        correct=scores["reward_chosen"] > scores["reward_rejected"],
        tie=scores["reward_chosen"] == scores["reward_rejected"],
    )
    return {
        str(name): {
            "accuracy": float(group["correct"].mean()),
            "pairs": len(group),
            "ties": int(group["tie"].sum()),
        }
        for name, group in frame.groupby("subset", sort=False)
    }


def _number(value: np.ndarray | None) -> float | None:
    return None if value is None else float(value)


def partial(subsets: Mapping[str, Mapping[str, Any]], protocol: Protocol) -> dict[str, list[str]]:
    """List for each section how its rows differ from the official set; {} if none differ."""
    notes: dict[str, list[str]] = {}
    for section, weights in protocol.sections.items():
        if not any(name in subsets for name in weights):
            notes[section] = ["no rows: left out of the average"]
            continue
        found = [_row_note(name, subsets, protocol.rows.get(name)) for name in weights]
        if any(found):
            notes[section] = [note for note in found if note]
    return notes


def _row_note(
    name: str, subsets: Mapping[str, Mapping[str, Any]], official: int | None
) -> str | None:
    if name not in subsets:
        return f"missing subset {name}"
    pairs = subsets[name]["pairs"]
    if official is None or pairs == official:
        return None
    return f"{name} has {pairs} of {official} rows"
