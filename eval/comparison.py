"""Compare two checkpoints, or two methods over several seeds, on the same evaluated pairs.

python -m scripts.compare a=DIR b=DIR
python -m scripts.compare 'a=[DIR,DIR,DIR]' 'b=[DIR,DIR,DIR]'

Prints the table and writes comparison.md and comparison.csv to `output`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from eval import statistics
from eval.benchmarks import BENCHMARKS, benchmark_of
from eval.protocol import Protocol, check_scores, outcomes
from eval.spreadsheet import csv_text
from eval.tables import average_note, markdown, percent, section_label
from pipeline.run.evaluation import damaged_outputs
from pipeline.settings import configuration
from rm.errors import InputError
from rm.files import atomic_write_text

FILES = ("scores.parquet", "summary.json", "manifest.json")


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


def compare(cfg: DictConfig) -> str:
    """Compare the evaluations of `cfg`, write both files and return the Markdown.

    InputError for missing or unfinished evaluations, unlike benchmarks or pairs, and lists of
    unlike length.
    """
    a, b = _read_side(cfg.a, "a"), _read_side(cfg.b, "b")
    if len(a) != len(b):
        raise InputError(
            f"a has {len(a)} evaluations, b has {len(b)}: give one a seed on each side"
        )
    check_comparable([*a, *b])
    given = {name: cfg[name] for name in ("resamples", "seed", "level")}
    options = configuration.typed(Options, OmegaConf.create(given))
    if options.seed < 0:
        raise InputError(f"seed={options.seed}: must be 0 or more")
    protocol = benchmark_of(a[0].benchmark).protocol(a[0].scores)
    if len(a) == 1:
        table = _one_seed(a[0], b[0], protocol, options)
    else:
        table = _several_seeds(a, b, protocol, options)
    text = render(table, a, b, options)
    atomic_write_text(Path(cfg.output) / "comparison.csv", csv_text(table))
    atomic_write_text(Path(cfg.output) / "comparison.md", text)
    return text


def _read_side(folders: str | ListConfig, side: str) -> list[Evaluation]:
    names = [*map(str, folders)] if isinstance(folders, ListConfig) else [str(folders)]
    if not names:
        raise InputError(f"{side} is empty: give an output folder of scripts.evaluate")
    resolved = [Path(name).resolve() for name in names]
    if len(set(resolved)) < len(names):
        raise InputError(f"{side} names a folder twice: one evaluation would count as two seeds")
    return [read_evaluation(Path(name)) for name in names]


def read_evaluation(folder: Path) -> Evaluation:
    """Read one evaluation of a pair benchmark; InputError says what is missing."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} holds no finished evaluation (no {', '.join(missing)}): run "
            f"scripts.evaluate with output={folder}"
        )
    try:
        scores = pd.read_parquet(folder / "scores.parquet")
        summary = json.loads((folder / "summary.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        name, scoring = manifest["inputs"]["benchmark"], dict(manifest.get("scoring", {}))
        summary["sections"], summary["average"], summary["pairs"]
        damaged = [name for name in damaged_outputs(folder) if name in FILES]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"{folder}: cannot be read ({reason}); evaluate again") from error
    if damaged:
        raise InputError(f"{folder}: {damaged[0]} is not as it was written; evaluate again")
    if not benchmark_of(name).in_pairs:
        valid = ", ".join(key for key, each in BENCHMARKS.items() if each.in_pairs)
        raise InputError(f"{folder} is of {name}, scored by item; compare takes {valid}")
    check_scores(scores)
    return Evaluation(folder, name, scores, summary, scoring)


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raise InputError unless all are of one benchmark and of the same pairs, text by text."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.benchmark != first.benchmark:
            raise InputError(
                f"{first.folder} is of benchmark {first.benchmark}, {other.folder} of "
                f"{other.benchmark}: compare evaluations of one benchmark"
            )
        names = str(first.folder), str(other.folder)
        ids = set(first.scores["pair_id"]), set(other.scores["pair_id"])
        statistics.check_same_pairs(*ids, *names)
        _check_texts(first, other)


def _check_texts(first: Evaluation, other: Evaluation) -> None:
    columns = ["pair_id", "content"]
    if not all("content" in each.scores.columns for each in (first, other)):
        raise InputError(
            f"{first.folder} or {other.folder} was written by an older version, without the "
            "fingerprints of its texts: evaluate it again"
        )
    both = first.scores[columns].merge(other.scores[columns], on="pair_id")
    unlike = both.loc[both["content_x"] != both["content_y"], "pair_id"]
    if len(unlike):
        raise InputError(
            f"{len(unlike)} pairs have other texts in {other.folder} than in {first.folder}, first "
            f"{unlike.iloc[0]!r}: evaluate both on the same data"
        )


def _one_seed(a: Evaluation, b: Evaluation, protocol: Protocol, options: Options) -> pd.DataFrame:
    """Add to `eval.statistics.compare` both sides' own intervals and Holm for p_cluster."""
    table = statistics.compare(a.scores, b.scores, protocol, **vars(options))
    sides = {"a": outcomes(a.scores), "b": outcomes(b.scores)}
    table = _with_intervals(table, sides, protocol, options)
    table["p_cluster_holm"] = statistics.holm(table["p_cluster"].to_numpy())
    return table.assign(seeds=1)


def _with_intervals(
    table: pd.DataFrame, sides: dict[str, pd.DataFrame], protocol: Protocol, options: Options
) -> pd.DataFrame:
    for side, frame in sides.items():
        own = statistics.section_intervals(frame, protocol, **vars(options))
        own = own.rename(columns={"low": f"{side}_low", "high": f"{side}_high"})
        columns = ["level", "name", f"{side}_low", f"{side}_high"]
        table = table.merge(own[columns], on=["level", "name"], how="left", validate="one_to_one")
    return table


def _several_seeds(
    a: Sequence[Evaluation], b: Sequence[Evaluation], protocol: Protocol, options: Options
) -> pd.DataFrame:
    """Compare over seeds: the i-th of a with the i-th of b.

    The interval of the difference is hierarchical (seeds, then pairs within subsets), p the sign
    flip of the seeds' differences, Holm's correction over all rows.
    """
    sides = {"a": _seeds(a), "b": _seeds(b)}
    joined = sides["a"].merge(sides["b"], on=["seed", "pair_id"], suffixes=("", "_b"))
    joined = joined.assign(correct=joined["correct_b"] - joined["correct"])
    table = statistics.section_intervals(joined, protocol, **vars(options))
    table = table[table["level"] != "subset"].rename(columns={"mean": "difference"})
    by_seed = {side: _scores_by_seed(frame, protocol) for side, frame in sides.items()}
    keys = list(zip(table["level"], table["name"], strict=True))
    for side, scores in by_seed.items():
        table[side] = [float(scores[key].mean()) for key in keys]
    table = _with_intervals(table, sides, protocol, options)
    table["p_permutation"] = [
        statistics.paired_permutation(by_seed["b"][key] - by_seed["a"][key], seed=options.seed)
        for key in keys
    ]
    table["p_holm"] = statistics.holm(table["p_permutation"].to_numpy())
    table["cohens_h"] = [
        statistics.cohens_h(x, y) for x, y in zip(table["a"], table["b"], strict=True)
    ]
    return table


def _seeds(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    return pd.concat(
        [outcomes(each.scores, seed) for seed, each in enumerate(evaluations)], ignore_index=True
    )


def _scores_by_seed(frame: pd.DataFrame, protocol: Protocol) -> dict[tuple[str, str], np.ndarray]:
    """Roll up each seed on its own: (level, name) → scores (seeds,)."""
    means = frame.pivot_table(index="subset", columns="seed", values="correct", aggfunc="mean")
    return protocol.roll_up({str(name): row.to_numpy() for name, row in means.iterrows()})


def render(
    table: pd.DataFrame, a: Sequence[Evaluation], b: Sequence[Evaluation], options: Options
) -> str:
    """Render a comparison as Markdown: what was compared, how, and one row a section."""
    partial = {**a[0].summary["partial"], **b[0].summary["partial"]}
    rows = [
        [
            _label(row["level"], row["name"], partial),
            *(_with_range(row, side) for side in ("a", "b")),
            f"{_points(row['difference'])} [{_points(row['low'])}, {_points(row['high'])}]",
            *_tests(row),
            f"{row['cohens_h']:+.2f}",
            row["pairs"],
            row["seeds"],
            _note(row["level"], row["name"], partial),
        ]
        for row in table.to_dict("records")
    ]
    interval = f"[{100 * options.level:g} % interval]"
    header = ["section", f"a % {interval}", f"b % {interval}", f"b − a, points {interval}"]
    header += ["a : b alone right", "p McNemar (Holm)", "p cluster (Holm)"] if len(a) == 1 else []
    header += ["p permutation (Holm)"] if len(a) > 1 else []
    header += ["effect h", "n", "seeds", "note"]
    return "\n".join([*_head(a, b, options), "", markdown(header, rows)]) + "\n"


def _label(level: str, name: str, partial: dict[str, list[str]]) -> str:
    if level == "average":
        return f"{name} (partial)" if partial else name
    return section_label(name, partial)


def _note(level: str, name: str, partial: dict[str, list[str]]) -> str:
    return average_note(partial) if level == "average" else "; ".join(partial.get(name, []))


def _with_range(row: dict[Any, Any], side: str) -> str:
    return f"{percent(row[side])} [{percent(row[f'{side}_low'])}, {percent(row[f'{side}_high'])}]"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _tests(row: dict[Any, Any]) -> list[str]:
    if "p_permutation" in row:
        return [f"{_p(row['p_permutation'])} ({_p(row['p_holm'])})"]
    return [
        f"{row['n10']} : {row['n01']}",
        f"{_p(row['p_mcnemar'])} ({_p(row['p_holm'])})",
        f"{_p(row['p_cluster'])} ({_p(row['p_cluster_holm'])})",
    ]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _head(a: Sequence[Evaluation], b: Sequence[Evaluation], options: Options) -> list[str]:
    sides = {"a": a, "b": b}
    named = [f"- {s}: {', '.join(str(each.folder) for each in side)}" for s, side in sides.items()]
    first = f"{a[0].benchmark}: b against a on {len(a[0].scores)} pairs, {len(a)} seed(s) a side."
    drawn = f"{options.resamples} resamples"
    if len(a) == 1:
        how = (
            f"Intervals: paired bootstrap within each subset, whole clusters, {drawn}. "
            "p: McNemar's exact test (every pair once, independent) and sign flips of whole "
            "clusters on the weighted difference; in brackets Holm's correction over the rows. "
            "One checkpoint a side: training noise is in none of it. h: Cohen's, 0.2 small, "
            "0.5 medium, 0.8 large."
        )
    else:
        least = 2.0 ** (1 - len(a))
        how = (
            "Intervals: hierarchical bootstrap (seeds, then pairs within each subset, whole "
            f"clusters), {drawn}; with few seeds the seeds' share of the variance is too small, by "
            f"(n − 1)/n. p: paired permutation over seeds, which cannot fall below {least:g} with "
            f"{len(a)} seeds; in brackets Holm's correction over the rows. h: Cohen's, 0.2 small, "
            "0.5 medium, 0.8 large."
        )
    return [first, *named, *_unlike_scoring([*a, *b]), "", how]


def _unlike_scoring(evaluations: Sequence[Evaluation]) -> list[str]:
    """Name the settings that move scores in which evaluations differ: no error, but no secret."""
    lines = []
    for key in ("max_length", "compute_dtype", "parse_special_text"):
        values = list(dict.fromkeys(str(each.scoring.get(key)) for each in evaluations))
        if len(values) > 1:
            lines.append(f"- scored with unlike {key}: {', '.join(values)}")
    return lines
