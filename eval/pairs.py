"""Preference pairs of one's own: weights are the row counts.

Two benchmarks share this code: "pairs" is any file of pairs with a `category` column, "generated"
is the project's own test set in RewardBench's schema plus a `section` column.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd

from eval.protocol import Protocol, Summary
from eval.protocol import summarize as summarize_pairs
from eval.rows import (
    EvaluationRow,
    Message,
    Record,
    check_text,
    check_unique,
    parse_messages,
    parse_prompt,
    parse_rows,
    read_records,
    text_field,
)
from rm.data.schemas import prompt_messages, reply_of
from rm.data.sources import DropRow
from rm.errors import InputError

Benchmark = Literal["pairs", "generated"]


def load(source: str, benchmark: Benchmark = "pairs") -> list[EvaluationRow]:
    """Read preference pairs from a local file, or the split "test" of a Hub data set.

    "pairs" needs a column category (section and subset alike), "generated" needs section and
    subset. The texts: prompt (a text or messages) with chosen and rejected as texts; or chosen and
    rejected as whole conversations that differ in the last message alone. `pair_id` is the column
    pair_id or id, or the row number; rows with one `cluster` are resampled together. InputError
    names a malformed row.
    """
    if source == "hub":
        raise InputError(f"benchmark={benchmark} has no data set on the Hub; give data=PATH")
    parse = _parse_category if benchmark == "pairs" else _parse_section
    rows = parse_rows(read_records(source, split="test"), parse, source)
    check_unique((row.pair_id for row in rows), source)
    return rows


def _parse_category(record: Record, number: int) -> EvaluationRow:
    category = text_field(record, "category")
    return _parse_row(record, number, subset=category, section=category)


def _parse_section(record: Record, number: int) -> EvaluationRow:
    subset, section = text_field(record, "subset"), text_field(record, "section")
    return _parse_row(record, number, subset=subset, section=section)


def _parse_row(record: Record, number: int, *, subset: str, section: str) -> EvaluationRow:
    prompt, chosen, rejected = _parse_texts(record)
    cluster = record.get("cluster")
    return EvaluationRow(
        pair_id=_identifier(record, number),
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        subset=subset,
        section=section,
        cluster="" if cluster is None else str(cluster),
    )


def _identifier(record: Record, number: int) -> str:
    known = (record[key] for key in ("pair_id", "id") if record.get(key) is not None)
    return str(next(known, number))


def _parse_texts(record: Record) -> tuple[tuple[Message, ...], str, str]:
    if isinstance(record.get("chosen"), list):
        return _parse_conversations(record)
    if not isinstance(record.get("prompt"), str):
        prompt = parse_prompt(record.get("prompt"))
        return prompt, text_field(record, "chosen"), text_field(record, "rejected")
    try:  # as in training, where a text may be a transcript of hh-rlhf's form
        prompt = tuple(prompt_messages(text_field(record, "prompt")))
        chosen, rejected = (
            reply_of(text_field(record, key), key, prompt) for key in ("chosen", "rejected")
        )
    except DropRow as error:
        raise InputError(str(error)) from error
    return prompt, chosen, rejected


def _parse_conversations(record: Record) -> tuple[tuple[Message, ...], str, str]:
    """Split two conversations into their common prompt and their two last messages."""
    if not isinstance(record.get("rejected"), list):
        raise InputError("column 'rejected' must be a list of messages, as 'chosen' is")
    chosen = parse_messages(record["chosen"], "column 'chosen'")
    rejected = parse_messages(record["rejected"], "column 'rejected'")
    prompt = chosen[:-1] or parse_prompt(record.get("prompt"))
    if rejected[:-1] != chosen[:-1]:
        raise InputError("'chosen' and 'rejected' must differ in the last message alone")
    for last in (chosen[-1], rejected[-1]):
        if last["role"] != "assistant":
            raise InputError("'chosen' and 'rejected' must end with an assistant message")
    return prompt, check_text(chosen[-1]["content"], "chosen"), rejected[-1]["content"]


def protocol(scores: pd.DataFrame, benchmark: Benchmark = "pairs") -> Protocol:
    """Build the protocol of these pairs: their sections and subsets, weighted by row counts."""
    return Protocol.from_counts(benchmark, scores)


def summarize(scores: pd.DataFrame, benchmark: Benchmark = "pairs") -> Summary:
    """Summarise scored pairs (with a section column); see `eval.protocol.summarize`."""
    return summarize_pairs(scores, protocol(scores, benchmark))
