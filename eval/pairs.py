"""Benchmarks of your own preference pairs; subsets are weighted by their row counts.

Two benchmarks share this code. "pairs" is any file of pairs with a `category` column.
"generated" is the project's own test set, in RewardBench's schema plus a `section` column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

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
from rm.data.columns import identifier
from rm.data.preferences import schema_of
from rm.data.sources import Row
from rm.errors import InputError

Benchmark = Literal["pairs", "generated"]


def load(
    source: str, ignore: Iterable[str] = (), *, benchmark: Benchmark = "pairs"
) -> list[EvaluationRow]:
    """Read preference pairs from a local file, or the split "test" of a Hub data set.

    The texts may have any schema of training data (`rm.data.schemas`). "pairs" also needs the
    column category, used as section and subset; "generated" needs section and subset. `pair_id` is
    the column pair_id or id, else the row number. Rows with the same `cluster` are resampled
    together. `ignore`: kinds of parts to leave out (`rm.data.columns.NOT_TEXT`). Raises InputError
    that names a malformed row.
    """
    if source == "hub":
        raise InputError(f"benchmark={benchmark} has no data set on the Hub; give data=PATH")
    records = read_records(source, split="test")
    schema = schema_of(records, source)
    sections = ("category", "category") if benchmark == "pairs" else ("subset", "section")
    parse = partial(_parse, schema=schema, columns=sections)
    rows = parse_rows(records, parse, source, ignore)
    check_unique((row.pair_id for row in rows), source)
    return rows


def _parse(
    record: Row, number: int, ignore: frozenset[str], *, schema: str, columns: Sequence[str]
) -> EvaluationRow:
    subset, section = (text_field(record, key) for key in columns)
    cluster = record.get("cluster")
    return evaluation_row(
        record,
        schema,
        pair_id=identifier(record) or str(number),
        subset=subset,
        section=section,
        cluster="" if cluster is None else str(cluster),
        ignore=ignore,
    )


def protocol(scores: pd.DataFrame, benchmark: Benchmark = "pairs") -> Protocol:
    """Build the protocol of these pairs: their sections and subsets, weighted by row counts."""
    return Protocol.from_counts(benchmark, scores)


def summarize(scores: pd.DataFrame, benchmark: Benchmark = "pairs") -> Summary:
    """Summarise scored pairs (with a section column); see `eval.protocol.summarize`."""
    return summarize_pairs(scores, protocol(scores, benchmark))
