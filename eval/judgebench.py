"""JudgeBench (ScalerLab/JudgeBench): objectively correct against incorrect answers.

Four categories by source: knowledge (MMLU-Pro), reasoning and math (LiveBench), coding
(LiveCodeBench). In the summary, `overall` is the share of all pairs that are right, as in its
paper; `average` is the mean of the categories, as for every other benchmark here.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from eval.protocol import Protocol, Summary
from eval.protocol import summarize as summarize_pairs
from eval.rows import (
    EvaluationRow,
    check_unique,
    evaluation_row,
    parse_rows,
    read_records,
    text_field,
)
from rm.data.sources import Row
from rm.errors import InputError

HUB = "ScalerLab/JudgeBench"
SPLIT = "gpt"  # the GPT-4o responses, 350 pairs; the other split is "claude", 270 pairs

CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
# Rows of split "gpt" by category: JudgeBench's paper (arXiv 2410.12784).
ROWS = {"knowledge": 154, "reasoning": 98, "math": 56, "coding": 42}
PROTOCOL = Protocol(
    "judgebench",
    {category: {category: float(rows)} for category, rows in ROWS.items()},
    rows=ROWS,
)


def load(source: str = "hub", ignore: Iterable[str] = ()) -> list[EvaluationRow]:
    """Read JudgeBench pairs from the Hub ("hub"), or of a local file in its schema.

    Columns: pair_id, source, question, response_A, response_B, label ("A>B" or "B>A"). Section and
    subset are the category. InputError names a malformed row.
    """
    name = HUB if source == "hub" else source
    rows = parse_rows(read_records(name, split=SPLIT), parse_row, name, ignore)
    check_unique((row.pair_id for row in rows), name)
    return rows


def parse_row(record: Row, number: int, ignore: frozenset[str]) -> EvaluationRow:
    """Turn one JudgeBench record into a row. Raises InputError or DropRow for a malformed one."""
    sides = [text_field(record, "response_A"), text_field(record, "response_B")]
    label = record.get("label")
    if label not in ("A>B", "B>A"):
        raise InputError(f"column 'label' must be 'A>B' or 'B>A', not {label!r}")
    chosen, rejected = sides if label == "A>B" else reversed(sides)
    texts = {"prompt": text_field(record, "question"), "chosen": chosen, "rejected": rejected}
    category = category_of(text_field(record, "source"))
    return evaluation_row(
        {**record, **texts},
        "explicit_prompt",
        pair_id=text_field(record, "pair_id"),
        subset=category,
        section=category,
        ignore=ignore,
    )


def category_of(source: str) -> str:
    """Return the category of a JudgeBench `source`; InputError for an unknown one."""
    for prefix, category in CATEGORIES.items():
        if source.startswith(prefix):
            return category
    raise InputError(f"unknown source {source!r}; known: {', '.join(CATEGORIES)}")


def summarize(scores: pd.DataFrame) -> Summary:
    """Summarise scored pairs by category; see `eval.protocol.summarize`. Adds `overall`."""
    summary = summarize_pairs(scores, PROTOCOL)
    correct = scores["reward_chosen"] > scores["reward_rejected"]
    return {**summary, "overall": float(correct.mean())}
