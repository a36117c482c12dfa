"""RewardBench, version 1 (allenai/reward-bench, split "filtered"): 23 subsets in four sections.

The paper's average is the mean of four sections; RewardBench's fifth, prior sets, is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from eval.protocol import Protocol, Summary
from eval.protocol import summarize as summarize_pairs
from eval.rows import (
    EvaluationRow,
    check_unique,
    evaluation_row,
    identifier_of,
    parse_rows,
    read_records,
    text_field,
)
from rm.data.sources import Row
from rm.errors import InputError

HUB = "allenai/reward-bench"
SPLIT = "filtered"

# Weights: EXAMPLE_COUNTS and SUBSET_MAPPING of the package rewardbench 0.1.4 (a test compares).
SECTIONS: dict[str, dict[str, float]] = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,  # 447 rows, weighted up to equal the six hep-* together
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
MATH_PRM_ROWS = 447
ROWS: dict[str, int] = {
    subset: MATH_PRM_ROWS if subset == "math-prm" else int(weight)
    for weights in SECTIONS.values()
    for subset, weight in weights.items()
}
PROTOCOL = Protocol("rewardbench", SECTIONS, rows=ROWS)
CODE = "hep-"
CODE_SECTION = PROTOCOL.section_of("hep-cpp")
NO_PROBLEMS = "hep-* have unequal row counts: resampled row by row, not by problem"


def load(source: str = "hub", ignore: Iterable[str] = ()) -> list[EvaluationRow]:
    """Read all rows of RewardBench from the Hub ("hub") or from a local file in its schema.

    Columns: id, prompt, chosen, rejected, subset. `pair_id` is "subset/id", with the row number if
    there is no id. The `cluster` of a hep-* row is its problem (`with_problems`). Raises InputError
    that names a malformed row.
    """
    name = HUB if source == "hub" else source
    rows = parse_rows(read_records(name, split=SPLIT), _parse, name, ignore)
    check_unique((row.pair_id for row in rows), name)
    return with_problems(rows)


def _parse(record: Row, number: int, ignore: frozenset[str]) -> EvaluationRow:
    subset = text_field(record, "subset")
    return evaluation_row(
        record,
        "explicit_prompt",
        pair_id=f"{subset}/{identifier_of(record, number)}",
        subset=subset,
        section=_section(subset, record),
        ignore=ignore,
    )


def with_problems(rows: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """Return the rows, with the problem of each hep-* row as its `cluster`.

    The rows do not name their problem. Each language lists the same 164 problems in the same order,
    so a row's position in its language identifies the problem. If languages have unequal row
    counts, no clusters are set. Equal counts are assumed to be in the official order.
    """
    if not places_are_problems(row.subset for row in rows):
        return list(rows)
    places: Counter[str] = Counter()
    clustered = []
    for row in rows:
        places[row.subset] += 1
        cluster = f"hep-problem-{places[row.subset]}" if row.subset.startswith(CODE) else ""
        clustered.append(replace(row, cluster=cluster))
    return clustered


def places_are_problems(subsets: Iterable[str]) -> bool:
    """Return whether all languages in `subsets` (one per row) have the same number of rows."""
    counts = Counter(subset for subset in subsets if subset.startswith(CODE))
    return len(set(counts.values())) <= 1


def _section(subset: str, record: Row) -> str:
    try:
        return PROTOCOL.section_of(subset)
    except InputError as error:
        hint = "; for rows with a section column use benchmark=generated"
        raise InputError(f"{error}{hint if 'section' in record else ''}") from error


def summarize(scores: pd.DataFrame) -> Summary:
    """Summarise scored rows with RewardBench's weights; see `eval.protocol.summarize`.

    `partial` also says if hep-* rows are not clustered by problem (`with_problems`).
    """
    summary = summarize_pairs(scores, PROTOCOL)
    if not places_are_problems(scores["subset"]):
        summary["partial"].setdefault(CODE_SECTION, []).append(NO_PROBLEMS)
    return summary
