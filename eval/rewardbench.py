"""RewardBench, version 1 (allenai/reward-bench, split "filtered"): 23 subsets in four sections.

The paper's average is the mean of the four sections; RewardBench's fifth, prior sets, is left out.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd

from eval.protocol import Protocol, Summary
from eval.protocol import summarize as summarize_pairs
from eval.rows import (
    EvaluationRow,
    Record,
    check_unique,
    parse_prompt,
    parse_rows,
    read_records,
    text_field,
)
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


def load(source: str = "hub") -> list[EvaluationRow]:
    """Read all rows of RewardBench from the Hub ("hub"), or of a local file in its schema.

    Columns: id, prompt, chosen, rejected, subset. `pair_id` is "subset/id" (the row number where
    there is no id); `cluster` of a hep-* row is its problem. InputError names a malformed row.
    """
    name = HUB if source == "hub" else source
    rows = parse_rows(read_records(name, split=SPLIT), _Parser(), name)
    check_unique((row.pair_id for row in rows), name)
    return rows


class _Parser:
    """Parse records in file order, counting hep-* problems: each language lists the same 164."""

    def __init__(self) -> None:
        self.problems: Counter[str] = Counter()

    def __call__(self, record: Record, number: int) -> EvaluationRow:
        subset = text_field(record, "subset")
        identifier = number if record.get("id") is None else record["id"]
        return EvaluationRow(
            pair_id=f"{subset}/{identifier}",
            section=_section(subset, record),
            prompt=parse_prompt(record.get("prompt")),
            chosen=text_field(record, "chosen"),
            rejected=text_field(record, "rejected"),
            subset=subset,
            cluster=self._cluster(subset),
        )

    def _cluster(self, subset: str) -> str:
        if not subset.startswith("hep-"):
            return ""
        self.problems[subset] += 1
        return f"hep-problem-{self.problems[subset]}"


def _section(subset: str, record: Record) -> str:
    try:
        return PROTOCOL.section_of(subset)
    except InputError as error:
        hint = "; for rows with sections of their own use benchmark=generated"
        raise InputError(f"{error}{hint if 'section' in record else ''}") from error


def summarize(scores: pd.DataFrame) -> Summary:
    """Summarise scored rows by RewardBench's weights; see `eval.protocol.summarize`."""
    return summarize_pairs(scores, PROTOCOL)
