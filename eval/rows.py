"""Rows of a benchmark, read strictly: an evaluation row is scored or is an error, never dropped."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rm.errors import InputError
from rm.preferences import Message

Record = dict[str, Any]
Row = TypeVar("Row")

ROLES = ("system", "user", "assistant")
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")


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
    """Read every record of a local json, jsonl, gz or parquet file, or of a Hub data set's `split`.

    InputError when the source cannot be read, a line is not a JSON object, or nothing is in it.
    """
    path = Path(source)
    if path.is_file():
        records = _read_file(path)
    elif path.name.endswith(SUFFIXES):
        raise InputError(f"no such file: {source}")
    else:
        records = _read_hub(source, split)
    if not records:
        raise InputError(f"{source}: holds no rows")
    return records


def _read_file(path: Path) -> list[Record]:
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown file type; known: {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    return _parse_json(_read_text(path), path)


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({_first_line(error)})") from error


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({_first_line(error)})") from error


def _parse_json(text: str, path: Path) -> list[Record]:
    """Parse a JSON array of objects, or one object a line; the content decides, not the suffix."""
    if text.lstrip().startswith("["):
        try:
            values = list(enumerate(json.loads(text), start=1))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not valid JSON ({error})") from error
    else:
        # split on "\n" alone: U+2028 and its like are legal inside a JSON string
        lines = enumerate(text.split("\n"), start=1)
        values = [(n, _parse_line(line, n, path)) for n, line in lines if line.strip()]
    for number, value in values:
        if not isinstance(value, dict):
            raise InputError(f"{path}: row {number} is not a JSON object")
    return [value for _, value in values]


def _parse_line(line: str, number: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: row {number} is not valid JSON ({error.msg})") from error


def _read_hub(name: str, split: str) -> list[Record]:
    import datasets

    try:
        return list(datasets.load_dataset(name, split=split))
    except Exception as error:  # the Hub client raises dozens of types; all mean "not had"
        raise InputError(
            f"cannot load {name!r} (split {split!r}) from the Hub: {_first_line(error)}; "
            "check the name, or give a local file"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def parse_rows(
    records: Sequence[Record], parse: Callable[[Record, int], Row], source: str
) -> list[Row]:
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
