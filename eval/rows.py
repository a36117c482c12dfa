"""Rows of a benchmark, read strictly: an evaluation row is scored or is an error, never dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rm.data.preferences import Message
from rm.data.sources import DropRow, Row, one_line, read_rows
from rm.errors import InputError

Record = dict[str, Any]
Parsed = TypeVar("Parsed")

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class EvaluationRow:
    """One labelled comparison of a benchmark.

    `pair_id` is unique in its benchmark. `cluster` names what rows share when they are not
    independent (a hep-* problem occurs in six languages); "" means that the row stands alone.
    """

    pair_id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    subset: str
    section: str
    cluster: str = ""


@dataclass(frozen=True)
class EvaluationItem:
    """One prompt with k responses, some correct (RewardBench 2, RM-Bench).

    `responses` and `correct` have the same length k, correct ones first, in the source's order.
    Scored, an item gives k rows: item_id, subset, section, response (0 … k − 1), correct, reward.
    """

    item_id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    correct: tuple[bool, ...]
    subset: str
    section: str


def sample_rows(rows: Sequence[EvaluationRow], pairs_a_section: int) -> list[EvaluationRow]:
    """Take the same number of rows of every section, spread evenly over its rows."""
    chosen = []
    for section in dict.fromkeys(row.section for row in rows):
        members = [row for row in rows if row.section == section]
        count = min(pairs_a_section, len(members))
        chosen += [members[index * len(members) // count] for index in range(count)]
    return chosen


def read_records(source: str, *, split: str) -> list[Record]:
    """Read every record of a local json, jsonl, gz or parquet file, or of a data set's `split`.

    InputError when the source cannot be read, a row of it cannot (it is named), or nothing is in
    it. What counts as a row, and how large one may be, is as in `rm.data.sources`.
    """
    records = []
    for number, row in read_rows(source, split=split):
        if isinstance(row, DropRow):
            raise InputError(f"{source}: row {number} cannot be used: {row}")
        _check_unicode(row, f"{source}: row {number}")
        records.append(dict(row))
    if not records:
        raise InputError(f"{source}: holds no rows")
    return records


def _check_unicode(row: Row, what: str) -> None:
    r"""InputError where a text holds a lone surrogate (JSON's "\ud800"), which no UTF-8 can."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} holds text that is not valid Unicode") from error
    except (RecursionError, ValueError, TypeError) as error:
        raise InputError(f"{what} holds a value that is no JSON ({one_line(error)})") from error


def parse_rows(
    records: Sequence[Record], parse: Callable[[Record, int], Parsed], source: str
) -> list[Parsed]:
    """Apply `parse(record, row number from 1)` to all records.

    InputError names the source and the row, whatever went wrong in it.
    """
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            rows.append(parse(record, number))
        except InputError as error:
            raise InputError(f"{source}: row {number}: {error}") from error
    return rows


def check_unique(identifiers: Iterable[str], source: str) -> None:
    """Raise InputError naming the first identifier that occurs twice."""
    seen: set[str] = set()
    for identifier in identifiers:
        if identifier in seen:
            raise InputError(f"{source}: id {identifier!r} occurs more than once")
        seen.add(identifier)


def text_field(record: Record, key: str) -> str:
    """Return `record[key]`, a text that holds more than white space; else InputError."""
    value = record.get(key)
    if value is None:
        raise InputError(f"column {key!r} is missing or null")
    return check_text(value, f"column {key!r}")


def check_text(value: object, what: str) -> str:
    """Return `value` if it is a non-blank text; InputError names `what` otherwise."""
    if not isinstance(value, str):
        raise InputError(f"{what} must be a text, not {type(value).__name__}")
    if not value.strip():
        raise InputError(f"{what} is empty")
    return value


def text_list(record: Record, key: str, length: int | None = None) -> tuple[str, ...]:
    """Return `record[key]`, a list of texts (of the given length); else InputError.

    A text may be empty here: among many sampled responses a model may have said nothing.
    """
    values = record.get(key)
    if not isinstance(values, list) or not values:
        raise InputError(f"column {key!r} must be a list of texts")
    if length is not None and len(values) != length:
        raise InputError(f"column {key!r} has {len(values)} texts, must have {length}")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{key}[{index}] must be a text, not {type(value).__name__}")
    return tuple(values)


def parse_prompt(value: object) -> tuple[Message, ...]:
    """Turn a text, or a list of {role, content} messages ending with the user, into a prompt."""
    if isinstance(value, list):
        messages = parse_messages(value, "column 'prompt'")
        if messages[-1]["role"] != "user":
            raise InputError("column 'prompt' must end with a user message")
        return messages
    return ({"role": "user", "content": check_text(value, "column 'prompt'")},)


def parse_messages(values: Sequence[object], what: str) -> tuple[Message, ...]:
    """Check a non-empty list of {role, content} messages; InputError says what is wrong."""
    if not values:
        raise InputError(f"{what} holds no messages")
    return tuple(_parse_message(value, f"{what}[{i}]") for i, value in enumerate(values))


def _parse_message(value: object, what: str) -> Message:
    if not isinstance(value, dict) or value.get("role") not in ROLES:
        raise InputError(f"{what} must be {{role, content}} with a role of {', '.join(ROLES)}")
    return {"role": value["role"], "content": check_text(value.get("content"), f"{what}.content")}
