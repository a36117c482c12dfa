"""Read the rows of a benchmark strictly: a row is scored or raises an error, never dropped.

Conversations are read as in training, by `rm.data.schemas`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rm.data.columns import ignored, optional_text, plain_text
from rm.data.preferences import PreferencePair, parse_row
from rm.data.schemas import Answer, Turns
from rm.data.sources import DropRow, Row, read_rows
from rm.errors import InputError

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class EvaluationRow(PreferencePair):
    """A pair with its subset and section in a benchmark.

    `pair_id` is unique in the benchmark. Rows with the same `cluster` are not independent (a hep-*
    problem occurs in six languages); "" means that the row is independent of all others.
    """

    subset: str = field(kw_only=True)
    section: str = field(kw_only=True)
    cluster: str = field(default="", kw_only=True)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What is scored: the chosen and the rejected side."""
        return self.sides


@dataclass(frozen=True)
class EvaluationItem:
    """One prompt with k responses, some correct (RewardBench 2, RM-Bench).

    `responses` and `correct` have the same length k, correct ones first, in the source's order.
    Scoring an item gives k rows: item_id, subset, section, response (0 … k − 1), correct, reward.
    """

    item_id: str
    prompt: Turns
    responses: tuple[str, ...]
    correct: tuple[bool, ...]
    subset: str
    section: str

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What is scored: the responses."""
        return self.responses


def sample_rows(rows: Sequence[EvaluationRow], pairs_a_section: int) -> list[EvaluationRow]:
    """Take `pairs_a_section` rows, or all if fewer, from each section, evenly spaced."""
    chosen = []
    for section in dict.fromkeys(row.section for row in rows):
        members = [row for row in rows if row.section == section]
        count = min(pairs_a_section, len(members))
        chosen += [members[index * len(members) // count] for index in range(count)]
    return chosen


def read_records(source: str, *, split: str) -> list[Row]:
    """Read every record of a local json, jsonl, gz or parquet file, or of a data set's `split`.

    `rm.data.sources` defines what a row is and how large it may be. Raises InputError if the source
    or one of its rows (named) cannot be read, or if there are no rows.
    """
    records = []
    for number, row in read_rows(source, split=split):
        if isinstance(row, DropRow):
            raise InputError(f"{source}: row {number} cannot be used: {row}")
        records.append(row)
    if not records:
        raise InputError(f"{source}: contains no rows; give a source with benchmark rows")
    return records


def parse_rows(
    records: Sequence[Row],
    parse: Callable[[Row, int, frozenset[str]], Parsed],
    source: str,
    ignore: Iterable[str] = (),
) -> list[Parsed]:
    """Apply `parse(record, row number from 1, ignore)` to all records.

    `ignore`: kinds of parts to leave out (`rm.data.columns.NOT_TEXT`). Raises InputError that names
    the source and the malformed row.
    """
    rows, left_out = [], ignored(ignore)
    for number, record in enumerate(records, start=1):
        try:
            rows.append(parse(record, number, left_out))
        except (InputError, DropRow) as error:
            raise InputError(f"{source}: row {number}: {error}") from error
    return rows


def evaluation_row(
    record: Row,
    schema: str,
    *,
    pair_id: str,
    subset: str,
    section: str,
    cluster: str = "",
    ignore: frozenset[str] = frozenset(),
) -> EvaluationRow:
    """Return a record as a row, with texts read as in training. Raises DropRow if malformed."""
    pair = parse_row(record, schema, ignore=ignore)
    named = {"pair_id": pair_id, "subset": subset, "section": section, "cluster": cluster}
    return EvaluationRow(**{**vars(pair), **named})


def identifier_of(record: Row, number: int) -> str:
    """Return a record's id as text, or the row number if it has no id."""
    return str(number if record.get("id") is None else record["id"])


def check_unique(identifiers: Iterable[str], source: str) -> None:
    """Raise InputError naming the first identifier that occurs twice."""
    seen: set[str] = set()
    for identifier in identifiers:
        if identifier in seen:
            raise InputError(f"{source}: id {identifier!r} occurs more than once")
        seen.add(identifier)


def text_field(record: Row, key: str) -> str:
    """Return `record[key]`, a text that is not blank.

    Raises InputError if it is missing or blank, DropRow if it is not a text.
    """
    value = optional_text(record, key)
    if value is None:
        raise InputError(f"column {key!r} is missing or null")
    if not value.strip():
        raise InputError(f"column {key!r} is empty")
    return value


def text_list(record: Row, key: str, length: int | None = None) -> tuple[str, ...]:
    """Return `record[key]`, a non-empty list of texts (of the given length).

    A text may be empty, because a sampled response may be. Raises InputError if this is no such
    list or has another length, DropRow if an entry is not a text.
    """
    values = record.get(key)
    if not isinstance(values, list) or not values:
        raise InputError(f"column {key!r} must be a list of texts")
    if length is not None and len(values) != length:
        raise InputError(f"column {key!r} has {len(values)} texts, must have {length}")
    return tuple(plain_text(value, f"{key}[{index}]") for index, value in enumerate(values))
