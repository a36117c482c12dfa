"""The registry of benchmarks: how each is read, scored, summarised and given intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from eval import judgebench, pairs, rewardbench, rewardbench2, rm_bench
from eval.protocol import Protocol, outcomes
from eval.scoring import Scorer, score_items, score_pairs
from eval.statistics import section_intervals
from rm.errors import InputError


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, scored, summarised and given intervals.

    `load(source, ignore)` reads its rows; `ignore` names the parts of a row to leave out
    (conf/eval).
    """

    load: Callable[..., list[Any]]
    summarize: Callable[[pd.DataFrame], dict[str, Any]]
    protocol: Callable[[pd.DataFrame], Protocol]
    score: Callable[[Scorer, Any], pd.DataFrame] = score_pairs
    outcomes: Callable[[pd.DataFrame], pd.DataFrame] = outcomes

    @property
    def in_pairs(self) -> bool:
        """Whether each row of the scores is a pair, as scripts.compare needs."""
        return self.score is score_pairs


BENCHMARKS = {
    "rewardbench": Benchmark(
        rewardbench.load, rewardbench.summarize, lambda _: rewardbench.PROTOCOL
    ),
    "rewardbench2": Benchmark(
        rewardbench2.load,
        rewardbench2.summarize,
        lambda _: rewardbench2.PROTOCOL,
        score_items,
        rewardbench2.outcomes,
    ),
    "rm_bench": Benchmark(
        rm_bench.load,
        rm_bench.summarize,
        rm_bench.protocol,
        score_items,
        rm_bench.outcomes,
    ),
    "judgebench": Benchmark(judgebench.load, judgebench.summarize, lambda _: judgebench.PROTOCOL),
    "pairs": Benchmark(pairs.load, pairs.summarize, pairs.protocol),
    "generated": Benchmark(
        lambda source, ignore=(): pairs.load(source, ignore, benchmark="generated"),
        lambda scores: pairs.summarize(scores, "generated"),
        lambda scores: pairs.protocol(scores, "generated"),
    ),
}


def benchmark_of(name: str) -> Benchmark:
    """Return the benchmark called `name`; InputError names the known ones."""
    if name not in BENCHMARKS:
        raise InputError(f"benchmark={name}: choose {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def summarize(benchmark: Benchmark, scores: pd.DataFrame, resamples: int) -> dict[str, Any]:
    """Summarise scores with row counts and intervals (as fractions); the result is JSON-ready.

    Raises InputError for NaN or infinite rewards.
    """
    summary = benchmark.summarize(scores)
    row = scores.drop_duplicates("pair_id" if benchmark.in_pairs else "item_id")
    summary["rows"] = len(row)
    for fact in ("truncated", "special_text"):
        summary[fact] = int(row[fact].sum())
    summary["resamples"] = resamples
    found = intervals(benchmark, scores, summary, resamples)
    summary["intervals"] = found.to_dict("records")
    return summary


def intervals(
    benchmark: Benchmark, scores: pd.DataFrame, summary: dict[str, Any], resamples: int
) -> pd.DataFrame:
    """Bootstrap intervals of every score that is a mean over rows: level, name, mean, low, high, n.

    Levels: subset, section, average; RM-Bench's "difficulty", JudgeBench's "overall". RewardBench
    2's Ties has no interval, nor does any average that includes it.
    """
    found, protocol = benchmark.outcomes(scores), benchmark.protocol(scores)
    if found.empty:
        return pd.DataFrame(columns=["level", "name", "mean", "low", "high", "pairs", "seeds"])
    parts = [section_intervals(found, protocol, resamples=resamples)]
    covered = set(parts[0].loc[parts[0]["level"] == "section", "name"])
    if covered != {name for name, value in summary["sections"].items() if value is not None}:
        parts[0] = parts[0][parts[0]["level"] != "average"]
    if "difficulties" in summary:
        parts.append(_difficulty_intervals(scores, found, protocol, resamples))
    if "overall" in summary:
        counts = {str(name): float(n) for name, n in found["subset"].value_counts().items()}
        whole = Protocol("overall", {"overall": counts})
        parts.append(_average_of(found, whole, resamples, "overall", "overall"))
    return pd.concat(parts, ignore_index=True)


def _difficulty_intervals(
    scores: pd.DataFrame, found: pd.DataFrame, protocol: Protocol, resamples: int
) -> pd.DataFrame:
    _, wins, _ = rm_bench.win_matrices(scores)
    shares = rm_bench.difficulties(wins)
    return pd.concat(
        _average_of(found.assign(correct=column), protocol, resamples, "difficulty", name)
        for name, column in zip(rm_bench.DIFFICULTIES, shares.T, strict=True)
    )


def _average_of(
    found: pd.DataFrame, protocol: Protocol, resamples: int, level: str, name: str
) -> pd.DataFrame:
    frame = section_intervals(found, protocol, resamples=resamples)
    return frame[frame["level"] == "average"].assign(level=level, name=name)
