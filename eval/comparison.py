"""Compare two checkpoints, or two methods over several seeds, on the same evaluated pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval import crossed
from eval.benchmarks import benchmark_of
from eval.protocol import Protocol, outcomes
from eval.statistics import cluster_p, cohens_h, holm, mcnemar, section_intervals
from eval.strata import check_same_pairs, paired
from eval.tables import NO_INTERVAL, average_note, markdown, marked, percent
from rm.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """One finished evaluation of a pair benchmark, as scripts.evaluate wrote it."""

    folder: Path
    benchmark: str
    scores: pd.DataFrame
    summary: dict[str, Any]
    scoring: dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How intervals and p-values are computed."""

    resamples: int
    seed: int
    level: float


def compare(
    a: Sequence[Evaluation], b: Sequence[Evaluation], options: Options
) -> tuple[pd.DataFrame, str]:
    """Compare the evaluations of `b` with those of `a`, one per seed; return a table and Markdown.

    Raises InputError for unlike benchmarks or pairs, and lists of unlike length.
    """
    if len(a) != len(b):
        raise InputError(
            f"a has {len(a)} evaluations, b has {len(b)}: give one per seed on each side"
        )
    check_comparable([*a, *b])
    protocol = benchmark_of(a[0].benchmark).protocol(a[0].scores)
    first, second = ([each.scores for each in side] for side in (a, b))
    table = compared(first, second, protocol, options)
    return table, render(table, a, b, options)


def compared(
    a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], protocol: Protocol, options: Options
) -> pd.DataFrame:
    """Compare scored pairs, one table per seed on each side, section by section and overall.

    Columns: level, name, difference (b − a, fractions, weighted as the protocol says), low, high,
    pairs, seeds, then a and b, each with `_low` and `_high`, and cohens_h. With one seed the
    intervals are bootstrapped over pairs and the tests are those of `_tests_of_one`. Several seeds
    are paired in the order given; intervals and p come from `eval.crossed.intervals`, and p_holm is
    corrected over all rows.

    Raises InputError: the sides have different pairs, or put a pair in different subsets.
    """
    several = len(a) > 1
    sides = {"a": _outcomes(a), "b": _outcomes(b)}
    _check_subsets(sides["a"], sides["b"])
    apart = paired(sides["b"], sides["a"])

    def interval(frame: pd.DataFrame) -> pd.DataFrame:
        if several:
            return crossed.intervals(frame, protocol, level=options.level)
        return section_intervals(frame, protocol, **vars(options))

    table = interval(apart).rename(columns={"mean": "difference"})
    table = table[table["level"] != "subset"]
    for side, frame in sides.items():
        names = {"mean": side, "low": f"{side}_low", "high": f"{side}_high"}
        own = interval(frame).rename(columns=names)[["level", "name", *names.values()]]
        table = table.merge(own, on=["level", "name"], how="left", validate="one_to_one")
    table["cohens_h"] = [cohens_h(*each) for each in zip(table["a"], table["b"], strict=True)]
    if not several:
        return _tests_of_one(table, apart, protocol, options)
    known = table["p"].notna()
    table.loc[known, "p_holm"] = holm(table.loc[known, "p"].to_numpy())
    return table


def _outcomes(scores: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([outcomes(each, n) for n, each in enumerate(scores)], ignore_index=True)


def _check_subsets(a: pd.DataFrame, b: pd.DataFrame) -> None:
    check_same_pairs(set(a["pair_id"]), set(b["pair_id"]), "a", "b")
    both = a.merge(b, on=["seed", "pair_id"])
    moved = both.loc[both["subset_x"] != both["subset_y"], "pair_id"]
    if len(moved):
        raise InputError(f"{len(moved)} pairs are in different subsets, first {moved.iloc[0]!r}")


def _tests_of_one(
    table: pd.DataFrame, apart: pd.DataFrame, protocol: Protocol, options: Options
) -> pd.DataFrame:
    """Add the tests between two checkpoints, with Holm's correction over all rows.

    n01 (only b right), n10 (only a right), p_mcnemar, p_holm; p_cluster (sign flips of whole
    clusters on the weighted difference), p_cluster_holm. McNemar counts every pair once and as
    independent, so for hep-* or an up-weighted subset p_cluster belongs to `difference`.
    """
    keys = [*zip(table["level"], table["name"], strict=True)]
    flips = cluster_p(apart, protocol, resamples=options.resamples, seed=options.seed)
    tests = []
    for level, name in keys:
        rows = apart if level == "average" else apart[apart["subset"].isin(protocol.sections[name])]
        test = mcnemar(rows["correct"] < 0, rows["correct"] > 0)
        tests.append((test.n01, test.n10, test.p, flips[level, name]))
    found = pd.DataFrame(tests, columns=["n01", "n10", "p_mcnemar", "p_cluster"], index=table.index)
    adjusted = {
        name: holm(found[p].to_numpy())
        for name, p in (("p_holm", "p_mcnemar"), ("p_cluster_holm", "p_cluster"))
    }
    return table.join(found.assign(**adjusted))


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise InputError unless all are of one benchmark and of the same pairs with equal texts."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.benchmark != first.benchmark:
            raise InputError(
                f"{first.folder} is of benchmark {first.benchmark}, {other.folder} of "
                f"{other.benchmark}: compare evaluations of one benchmark"
            )
        names = str(first.folder), str(other.folder)
        ids = set(first.scores["pair_id"]), set(other.scores["pair_id"])
        check_same_pairs(*ids, *names)
        _check_texts(first, other)


def _check_texts(first: Evaluation, other: Evaluation) -> None:
    columns = ["pair_id", "content"]
    if not all("content" in each.scores.columns for each in (first, other)):
        raise InputError(
            f"{first.folder} or {other.folder} was written by an older version and lacks the "
            "fingerprints of its texts: evaluate both again"
        )
    both = first.scores[columns].merge(other.scores[columns], on="pair_id")
    unlike = both.loc[both["content_x"] != both["content_y"], "pair_id"]
    if len(unlike):
        raise InputError(
            f"{len(unlike)} pairs have other texts in {other.folder} than in {first.folder}, first "
            f"{unlike.iloc[0]!r}: evaluate both on the same data"
        )


def render(
    table: pd.DataFrame, a: Sequence[Evaluation], b: Sequence[Evaluation], options: Options
) -> str:
    """Render a comparison as Markdown: what was compared, how, and one row per section."""
    partial = {**a[0].summary["partial"], **b[0].summary["partial"]}
    rows = [
        [
            marked(row["name"], partial, whole=row["level"] == "average"),
            *(f"{percent(row[side])} {_range(row, side, percent)}" for side in ("a", "b")),
            f"{_points(row['difference'])} {_range(row, '', _points)}",
            *_tests(row),
            f"{row['cohens_h']:+.2f}",
            row["pairs"],
            row["seeds"],
            _note(row["level"], row["name"], partial),
        ]
        for row in table.to_dict("records")
    ]
    interval = f"[{100 * options.level:g}% interval]"
    header = ["section", f"a % {interval}", f"b % {interval}", f"b − a, points {interval}"]
    header += ["a : b alone right", "p McNemar (Holm)", "p cluster (Holm)"] if len(a) == 1 else []
    header += ["p (Holm)", "seeds alone"] if len(a) > 1 else []
    header += ["effect h", "n", "seeds", "note"]
    return "\n".join([*_head(a, b, options), "", markdown(header, rows)]) + "\n"


def _note(level: str, name: str, partial: dict[str, list[str]]) -> str:
    return average_note(partial) if level == "average" else "; ".join(partial.get(name, []))


def _range(row: dict[Any, Any], of: str, form: Callable[[float], str]) -> str:
    """Format the ends of an interval; a subset of one pair has none."""
    ends = [row[f"{of}_{end}" if of else end] for end in ("low", "high")]
    return f"[{', '.join(map(form, ends))}]" if np.isfinite(ends).all() else f"[{NO_INTERVAL}]"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _tests(row: dict[Any, Any]) -> list[str]:
    if "seed_low" in row:
        return [f"{_p(row['p'])} ({_p(row['p_holm'])})", _range(row, "seed", _points)]
    return [
        f"{row['n10']} : {row['n01']}",
        f"{_p(row['p_mcnemar'])} ({_p(row['p_holm'])})",
        f"{_p(row['p_cluster'])} ({_p(row['p_cluster_holm'])})",
    ]


def _p(value: float) -> str:
    if not np.isfinite(value):
        return NO_INTERVAL
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _head(a: Sequence[Evaluation], b: Sequence[Evaluation], options: Options) -> list[str]:
    sides = {"a": a, "b": b}
    named = [f"- {s}: {', '.join(str(each.folder) for each in side)}" for s, side in sides.items()]
    seeds = "1 seed" if len(a) == 1 else f"{len(a)} seeds"
    first = f"{a[0].benchmark}: b against a on {len(a[0].scores)} pairs, {seeds} per side."
    effect = "h: Cohen's, 0.2 small, 0.5 medium, 0.8 large."
    if len(a) == 1:
        how = (
            "Intervals: paired bootstrap within each subset, whole clusters, "
            f"{options.resamples} resamples. p: McNemar's exact test (every pair once, "
            "independent) and sign flips of whole clusters on the weighted difference. In "
            "parentheses: Holm's correction over the rows. One checkpoint per side: the intervals "
            f"leave out the variation between training seeds. {effect}"
        )
    else:
        how = (
            "Intervals and p: seeds and pairs as crossed random effects (mean squares, "
            "Satterthwaite's degrees of freedom; pairs within each subset, whole clusters). They "
            "hold for new seeds and new pairs. Seeds alone: Student's t over the "
            f"{len(a)} seeds, for these pairs as a fixed benchmark. In parentheses: Holm's "
            f"correction over the rows. {effect}"
        )
    return [first, *named, *_unlike_scoring([*a, *b]), "", how]


def _unlike_scoring(evaluations: Sequence[Evaluation]) -> list[str]:
    """Name the settings that can change scores and differ between evaluations; not an error."""
    lines = []
    for key in ("max_length", "compute_dtype", "parse_special_text"):
        values = list(dict.fromkeys(str(each.scoring.get(key)) for each in evaluations))
        if len(values) > 1:
            lines.append(f"- scored with unlike {key}: {', '.join(values)}")
    return lines
