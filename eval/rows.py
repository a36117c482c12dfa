"""Rows of a benchmark, read strictly: an evaluation row is scored or is an error, never dropped.

Conversations are read as training reads them, through `rm.data.schemas`.
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
    """One labelled comparison of a benchmark: a pair with its place in the benchmark.

    `pair_id` is unique in its benchmark. `cluster` names what rows share when they are not
    independent (a hep-* problem occurs in six languages); "" means that the row stands alone.
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
    Scored, an item gives k rows: item_id, subset, section, response (0 … k − 1), correct, reward.
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
    """Take the same number of rows of every section, spread evenly over its rows."""
    chosen = []
    for section in dict.fromkeys(row.section for row in rows):
        members = [row for row in rows if row.section == section]
        count = min(pairs_a_section, len(members))
        chosen += [members[index * len(members) // count] for index in range(count)]
    return chosen


def read_records(source: str, *, split: str) -> list[Row]:
    """Read every record of a local json, jsonl, gz or parquet file, or of a data set's `split`.

    InputError when the source cannot be read, a row of it cannot (it is named), or nothing is in
    it. What counts as a row, and how large one may be, is as in `rm.data.sources`.
    """
    records = []
    for number, row in read_rows(source, split=split):
        if isinstance(row, DropRow):
            raise InputError(f"{source}: row {number} cannot be used: {row}")
        records.append(row)
    if not records:
        raise InputError(f"{source}: holds no rows")
    return records


def parse_rows(
    records: Sequence[Row],
    parse: Callable[[Row, int, frozenset[str]], Parsed],
    source: str,
    ignore: Iterable[str] = (),
) -> list[Parsed]:
    """Apply `parse(record, row number from 1, ignore)` to all records.

    `ignore`: kinds of parts that are left out (`rm.data.columns.NOT_TEXT`). InputError names the
    source and the row, whatever went wrong in it.
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
    """Return a record as a row, its texts read as in training. Raises DropRow: what is wrong."""
    pair = parse_row(record, schema, ignore=ignore)
    named = {"pair_id": pair_id, "subset": subset, "section": section, "cluster": cluster}
    return EvaluationRow(**{**vars(pair), **named})


def identifier_of(record: Row, number: int) -> str:
    """Return a record's id as text, the row's number where it has none."""
    return str(number if record.get("id") is None else record["id"])


def check_unique(identifiers: Iterable[str], source: str) -> None:
    """Raise InputError naming the first identifier that occurs twice."""
    seen: set[str] = set()
    for identifier in identifiers:
        if identifier in seen:
            raise InputError(f"{source}: id {identifier!r} occurs more than once")
        seen.add(identifier)


def text_field(record: Row, key: str) -> str:
    """Return `record[key]`, a text that holds more than white space.

    Raises InputError where there is none, DropRow for another type.
    """
    value = optional_text(record, key)
    if value is None:
        raise InputError(f"column {key!r} is missing or null")
    if not value.strip():
        raise InputError(f"column {key!r} is empty")
    return value


def text_list(record: Row, key: str, length: int | None = None) -> tuple[str, ...]:
    """Return `record[key]`, a list of texts (of the given length).

    A text may be empty here: among many sampled responses a model may have said nothing. Raises
    InputError for another number of texts, DropRow for one that is none.
    """
    values = record.get(key)
    if not isinstance(values, list) or not values:
        raise InputError(f"column {key!r} must be a list of texts")
    if length is not None and len(values) != length:
        raise InputError(f"column {key!r} has {len(values)} texts, must have {length}")
    return tuple(plain_text(value, f"{key}[{index}]") for index, value in enumerate(values))
