"""Scored pairs of several seeds as arrays, in strata of subsets; differences of two methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.protocol import Protocol, check_columns
from rm.errors import InputError

Key = tuple[str, str]
"""(level, name): level is "subset", "section" or "average"."""


@dataclass(frozen=True)
class Stratum:
    """Subsets that are resampled together because they share clusters of pairs.

    A unit is a cluster, or a pair without a cluster. `values` (seeds, units, subsets) are summed
    outcomes; `counts` (units, subsets) are numbers of pairs.
    """

    subsets: tuple[str, ...]
    values: np.ndarray
    counts: np.ndarray

    def means(self, of_values: np.ndarray, of_counts: np.ndarray) -> np.ndarray:
        """Average outcomes with unit weights (resamples, units) → (resamples, seeds, subsets)."""
        totals = np.stack([of_values @ values for values in self.values], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return totals / (of_counts @ self.counts)[:, None, :]


def strata_of(outcomes: pd.DataFrame, protocol: Protocol | None = None) -> list[Stratum]:
    """Return the strata of `outcomes` (seed, pair_id, subset, correct and optionally cluster).

    Raises InputError if a column is missing, `correct` is not finite, a pair occurs twice within a
    seed, the seeds have different pairs, or `protocol` does not know a subset.
    """
    frame = _checked(outcomes, protocol)
    seeds = sorted(frame["seed"].unique())
    return [_stratum(frame, subsets, seeds) for subsets in _linked_subsets(frame)]


def _checked(outcomes: pd.DataFrame, protocol: Protocol | None) -> pd.DataFrame:
    """Check the outcomes and add a column unit: the cluster, or the pair if it has none."""
    check_columns(outcomes, ("seed", "pair_id", "subset", "correct"), "the outcomes")
    if protocol is not None:
        for subset in outcomes["subset"].unique():
            protocol.section_of(subset)
    if not np.isfinite(outcomes["correct"].to_numpy(dtype=float)).all():
        raise InputError("the outcomes' column correct contains NaN or infinite values")
    _check_seeds(outcomes)
    pair = "pair:" + outcomes["pair_id"].astype(str)
    if "cluster" not in outcomes.columns:
        return outcomes.assign(unit=pair)
    cluster = outcomes["cluster"].fillna("").astype(str)
    return outcomes.assign(unit=pair.where(cluster == "", "cluster:" + cluster))


def _check_seeds(outcomes: pd.DataFrame) -> None:
    twice = outcomes[outcomes.duplicated(["seed", "pair_id"])]
    if len(twice):
        row = twice.iloc[0]
        raise InputError(f"pair {row['pair_id']!r} occurs twice for seed {row['seed']}")
    seeds = sorted(outcomes["seed"].unique().tolist())
    groups = [set(outcomes.loc[outcomes["seed"] == seed, "pair_id"]) for seed in seeds]
    for seed, pairs in zip(seeds, groups, strict=True):
        check_same_pairs(groups[0], pairs, f"seed {seeds[0]}", f"seed {seed}")


def check_same_pairs(a: set[str], b: set[str], name_a: str, name_b: str) -> None:
    """Raise InputError naming the pairs that only one of two evaluations has."""
    for only, has, lacks in ((a - b, name_a, name_b), (b - a, name_b, name_a)):
        if only:
            some = ", ".join(sorted(map(str, only))[:3])
            raise InputError(f"{len(only)} pairs are in {has} and not in {lacks}: {some}")


def _linked_subsets(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """Group subsets that share a unit, directly or through others."""
    groups: list[set[str]] = []
    for members in frame.groupby("unit")["subset"].agg(frozenset).unique():
        linked = [group for group in groups if group & members]
        groups = [group for group in groups if not group & members]
        groups.append(set(members).union(*linked))
    return sorted(tuple(sorted(group)) for group in groups)


def _stratum(frame: pd.DataFrame, subsets: tuple[str, ...], seeds: Sequence[int]) -> Stratum:
    part = frame[frame["subset"].isin(subsets)]
    units = pd.Categorical(part["unit"])  # sorted: the draw does not depend on the row order
    shape = (len(seeds), len(units.categories), len(subsets))
    index = (
        pd.Categorical(part["seed"], categories=list(seeds)).codes,
        units.codes,
        pd.Categorical(part["subset"], categories=list(subsets)).codes,
    )
    values, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(values, index, part["correct"].to_numpy(dtype=float))
    np.add.at(counts, index, 1.0)
    return Stratum(subsets, values, counts[0])


def pair_counts(outcomes: pd.DataFrame, protocol: Protocol) -> dict[Key, int]:
    """Return the number of pairs in each subset, each section and the average."""
    unique = outcomes.drop_duplicates("pair_id")
    subsets = unique["subset"].value_counts()
    sections = unique["subset"].map(protocol.section_of).value_counts()
    return {
        **{("subset", str(name)): int(count) for name, count in subsets.items()},
        **{("section", str(name)): int(count) for name, count in sections.items()},
        ("average", "average"): len(unique),
    }


def paired(ours: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Return outcomes whose `correct` is the difference ours − base, from −1 to 1.

    One row per pair and seed that both have. Columns subset and cluster (if `ours` has it) are
    kept. Raises InputError as `pair_up`.
    """
    keys = ["seed", "pair_id"]
    both = pair_up(ours, base, keys, "correct", "the differences")
    both = both.assign(correct=both["correct_left"] - both["correct_right"])
    names = [*keys, "subset", *(["cluster"] if "cluster" in ours else [])]
    return both[[*keys, "correct"]].merge(ours[names], on=keys)


def pair_up(
    left: pd.DataFrame, right: pd.DataFrame, keys: Sequence[str], value: str, name: str
) -> pd.DataFrame:
    """Return one row per seed and pair that both sides have.

    Columns: `keys`, which contain seed and pair_id, then `value` of each side with the suffixes
    _left and _right. Seeds that only one side has are left out.

    Raises InputError if, within a shared seed, the two sides have different pairs.
    """
    sides = [side[[*keys, value]] for side in (left, right)]
    runs = [key for key in keys if key != "pair_id"]
    shared = sides[0][runs].merge(sides[1][runs].drop_duplicates()).drop_duplicates()
    sides = [side.merge(shared, on=runs) for side in sides]
    both = sides[0].merge(sides[1], on=list(keys), suffixes=("_left", "_right"))
    alone = sum(len(side) for side in sides) - 2 * len(both)
    if alone:
        raise InputError(
            f"{name}: {alone} rows of the two methods have no counterpart of the same seed: "
            "evaluate both on the same pairs"
        )
    return both
