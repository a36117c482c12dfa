"""What a reproduction says at its end: the main table, the verdicts, the committed numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analysis import claims
from analysis.report import claim_row
from analysis.style import method_label
from eval.spreadsheet import read_csv

TABLE = Path("tables") / "table1.csv"
CELLS = {
    "chat": "Chat",
    "chat_hard": "Chat Hard",
    "safety": "Safety",
    "reasoning": "Reasoning",
    "average": "Average",
}


def closing_lines(results: Path, committed: Path) -> Iterator[str]:
    """Lines for the person who ran the command; `committed`: results folder to compare with."""
    if (results / TABLE).is_file():
        yield "\nAccuracy by section, percent; [95% interval] in tables/table1.md"
        yield main_table(results)
    else:
        yield "\nNo Table 1: the benchmark has none of RewardBench's sections"
    yield "\nClaims that these runs can judge (conf/claims.yaml)"
    yield from verdict_lines(results)
    if results.resolve() != committed.resolve():
        yield f"\nAverage here and in {committed}, percent"
        absent = f"  nothing to compare: {committed} has other methods, backbones or data"
        yield from beside(results, committed) or [absent]
    yield f"\nreport: {results / 'report.html'}   figures: {results / 'figures'}"


def main_table(results: Path) -> str:
    """Table 1 without its intervals, as aligned text and without sections that were not scored."""
    table = read_csv(results / TABLE)
    table["method"] = [method_label(name) for name in table["method"]]
    known = [name for name in CELLS if name in table and table[name].notna().any()]
    shown = table[["method", *known, "seeds"]].rename(columns=CELLS)
    return shown.to_string(index=False, float_format="%.1f")


def verdict_lines(results: Path) -> Iterator[str]:
    """One line per claim that was measured: verdict, claim, number with its interval."""
    for one in claims.judge_all(results / "data", claims.read_claims()):
        if one.verdict != claims.NOT_RUN:
            row = claim_row(one)
            number = " ".join(filter(None, (row["number"], row["interval"])))
            yield f"  {one.verdict:14} {one.claim.text}: {number} {row['unit']}"


def beside(results: Path, committed: Path) -> list[str]:
    """Our averages beside the committed ones with their intervals; [] without common rows."""
    if not ((results / TABLE).is_file() and (committed / TABLE).is_file()):
        return []
    ours, theirs = (_averages(folder / TABLE) for folder in (results, committed))
    if ours.index.names != theirs.index.names:
        return []
    both = [key for key in ours.index if key in theirs.index]
    return [_beside_line(key, ours.loc[key], theirs.loc[key]) for key in both]


def _averages(path: Path) -> pd.DataFrame:
    keys = ["method", "backbone", "data", "benchmark"]
    return read_csv(path).set_index(keys)[["average", "average_low", "average_high"]]


def _beside_line(key: tuple[str, ...], ours: pd.Series, theirs: pd.Series) -> str:
    low, high = theirs["average_low"], theirs["average_high"]
    where = "inside" if low <= ours["average"] <= high else "OUTSIDE"
    return (
        f"  {method_label(key[0])}: {ours['average']:.1f} here, {theirs['average']:.1f} "
        f"[{low:.1f}, {high:.1f}] committed: {where} its interval"
    )
