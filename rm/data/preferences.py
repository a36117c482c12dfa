"""Preference pairs from any source, in one schema.

`rm.data.sources` reads the rows. The columns decide which schema of `rm.data.schemas` turns a row
into a `PreferencePair`. `LoadReport` counts every row, so no row is lost silently.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rm.data.columns import identifier, ignored, optional_text
from rm.data.schemas import Message, Turns, answer_turns, detect_schema, read_parts
from rm.data.sources import DropRow, Reason, Row, Rows, local_path, read_rows, short_name
from rm.errors import InputError, visible
from rm.files import atomic_write_bytes

SCHEMA_ROWS = 100
"""The combined columns of the first readable rows decide the schema (JSON may omit keys)."""


def section_key(section: str) -> str:
    """Return a section's name as a metric or column key: "Chat Hard" gives "chat_hard"."""
    return section.strip().lower().replace(" ", "_").replace("-", "_")


@dataclass(frozen=True)
class PreferencePair:
    """One comparison (x, y_w, y_l): a prompt with its chosen and its rejected response.

    `margin` is the rating difference (> 0, on the source's scale), or None if the source has none.
    `category` is a RewardBench section name or None. `source` names the data set.
    `chosen_history` and `rejected_history` are the turns between the prompt and each response. They
    are empty unless the two conversations differ before the last response.
    """

    pair_id: str
    prompt: Turns
    chosen: str
    rejected: str
    margin: float | None = None
    category: str | None = None
    source: str = ""
    chosen_history: Turns = ()
    rejected_history: Turns = ()

    @property
    def sides(self) -> tuple[Turns, Turns]:
        """The turns after the prompt, ending with the response: (chosen, rejected)."""
        return (
            (*self.chosen_history, *answer_turns(self.chosen)),
            (*self.rejected_history, *answer_turns(self.rejected)),
        )


def swapped(pair: PreferencePair) -> PreferencePair:
    """Return the pair with the chosen and rejected sides exchanged."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_history=pair.rejected_history,
        rejected_history=pair.chosen_history,
    )


@dataclass
class LoadReport:
    """The counts of all rows: `rows == kept + sum(dropped.values()) + not_taken`.

    `dropped` counts rows per `Reason` value; `first_problems` describes the first row per reason.
    `not_taken` counts usable pairs that `limit` left out. `duplicate_ids` counts usable pairs whose
    id was already used; they got a suffix. `without_margin` counts kept pairs without a margin.
    """

    source: str
    schema: str
    rows: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first_problems: dict[str, str] = field(default_factory=dict)
    not_taken: int = 0
    duplicate_ids: int = 0
    without_margin: int = 0

    def drop(self, number: int, problem: DropRow) -> None:
        """Count one dropped row; `number` is its row number in the source."""
        reason = problem.reason.value
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first_problems.setdefault(reason, f"row {number}: {problem.detail}")

    def lines(self) -> list[str]:
        """Return the report as text: a headline, then one line per nonzero count."""
        head = f"{self.source}: {self.rows:,} rows ({self.schema}), {self.kept:,} pairs kept"
        notes = [
            (self.not_taken, "left out by the limit, which takes a seeded random sample"),
            (self.duplicate_ids, "renamed: duplicate ids get #2, #3, ..."),
            (self.without_margin, "kept without a margin"),
        ]
        drops = [
            f"  {count:,} dropped: {reason} (first: {self.first_problems[reason]})"
            for reason, count in self.dropped.items()
        ]
        lines = [head, *drops, *(f"  {count:,} {text}" for count, text in notes if count)]
        return [visible(line) for line in lines]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


# --- Loading -------------------------------------------------------------------------------------


def load_preferences(
    source: str | Path,
    *,
    split: str = "train",
    name: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    ignore: Iterable[str] = (),
) -> tuple[list[PreferencePair], LoadReport]:
    """Return the usable pairs of a source in its order, and the report on every row.

    `source` is a .json, .jsonl, .json.gz, .jsonl.gz or .parquet file, a folder in the Hub's layout,
    or a Hub name with its config `name`. `split` applies to folders and the Hub.

    `limit` draws a random sample of that many usable pairs, determined by the rows and `seed`. The
    first `limit` pairs would be biased, because sources are sorted. Duplicate ids get the suffix
    #2, #3, ... and are counted. A pair without a source column gets the name of `source`. Rows with
    tools, images and the like are dropped unless `ignore` names them (`rm.data.columns.NOT_TEXT`).

    Raises InputError: the source cannot be read, its schema is unknown, or no row is usable.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give a positive number of pairs, or none for all")
    schema, rows = _with_schema(read_rows(source, split=split, name=name), str(source))
    report = LoadReport(_label(source, split, name), schema)
    sample = _Sample(limit, seed)
    used: dict[str, int] = {}
    default_source, left_out = short_name(source), ignored(ignore)
    for number, row in rows:
        report.rows += 1
        try:
            if isinstance(row, DropRow):
                raise row
            pair = parse_row(
                row,
                schema,
                ignore=left_out,
                default_id=f"row-{number}",
                default_source=default_source,
            )
            _check_different(pair)
        except DropRow as problem:
            report.drop(number, problem)
        else:
            sample.add(_with_unique_id(pair, used, report))
    return _finish(sample, report), report


def _with_schema(rows: Rows, source: str) -> tuple[str, Rows]:
    """Return the schema of the first readable rows, and an iterator over all rows.

    The schema is "unknown" if no row is readable. Raises InputError as `schema_of`.
    """
    head: list[tuple[int, Row | DropRow]] = []
    readable: list[Row] = []
    for number, row in rows:
        head.append((number, row))
        if not isinstance(row, DropRow):
            readable.append(row)
        if len(readable) == SCHEMA_ROWS:
            break
    return schema_of(readable, source) if readable else "unknown", chain(head, rows)


def schema_of(rows: Sequence[Row], source: str) -> str:
    """Return the schema that the first rows' columns fit. Raises InputError if none fits."""
    try:
        return detect_schema(chain.from_iterable(rows[:SCHEMA_ROWS]))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _finish(sample: _Sample, report: LoadReport) -> list[PreferencePair]:
    """Fill the report's totals and return the pairs. Raises InputError if no row is usable."""
    pairs = sample.pairs()
    report.kept = len(pairs)
    report.not_taken = sample.offered - len(pairs)
    report.without_margin = sum(pair.margin is None for pair in pairs)
    if pairs:
        return pairs
    if not report.rows:
        raise InputError(f"{report.source}: contains no rows; give a source with preference pairs")
    counts = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.items())
    first = next(iter(report.first_problems.values()))
    raise InputError(
        f"{report.source}: none of {report.rows:,} rows is usable ({counts}); first {first}"
    )


def _label(source: str | Path, split: str, name: str | None) -> str:
    path = local_path(source)
    if path is not None and path.is_file():
        return str(source)
    return f"{source} ({name + ', ' if name else ''}{split})"


class _Sample:
    """All pairs added or, with a limit, a uniform random sample of them (reservoir sampling).

    Holds at most `limit` pairs in memory.
    """

    def __init__(self, limit: int | None, seed: int) -> None:
        self.offered = 0
        self._limit = limit
        self._random = random.Random(seed)
        self._taken: list[tuple[int, PreferencePair]] = []

    def add(self, pair: PreferencePair) -> None:
        self.offered += 1
        if self._limit is None or len(self._taken) < self._limit:
            self._taken.append((self.offered, pair))
            return
        place = self._random.randrange(self.offered)
        if place < self._limit:
            self._taken[place] = (self.offered, pair)

    def pairs(self) -> list[PreferencePair]:
        return [pair for _, pair in sorted(self._taken, key=lambda taken: taken[0])]


def _with_unique_id(
    pair: PreferencePair, used: dict[str, int], report: LoadReport
) -> PreferencePair:
    """Return the pair with a unique id: its own, or its own plus the next free #2, #3, ...

    `used` maps each id to the number of its last copy, so that no number is tried twice.
    """
    copy = used.get(pair.pair_id, 0) + 1
    if copy == 1:
        used[pair.pair_id] = 1
        return pair
    while (pair_id := f"{pair.pair_id}#{copy}") in used:
        copy += 1
    used[pair.pair_id], used[pair_id] = copy, 1
    report.duplicate_ids += 1
    return replace(pair, pair_id=pair_id)


def parse_row(
    row: Row,
    schema: str,
    *,
    ignore: frozenset[str] = frozenset(),
    default_id: str = "",
    default_source: str = "",
) -> PreferencePair:
    """Return the row as a pair; `default_*` replace a missing id or source.

    `ignore` as in `rm.data.schemas.read_parts`. Raises DropRow with the reason if the row is
    unusable, and InputError for an unknown schema.
    """
    parts = read_parts(row, schema, ignore)
    source = optional_text(row, "source")
    return PreferencePair(
        pair_id=identifier(row) or default_id,
        prompt=parts.prompt,
        chosen=parts.chosen[-1]["content"],
        rejected=parts.rejected[-1]["content"],
        margin=parts.margin,
        category=optional_text(row, "category"),
        source=default_source if source is None else source,
        chosen_history=parts.chosen[:-1],
        rejected_history=parts.rejected[:-1],
    )


def _check_different(pair: PreferencePair) -> None:
    """Raise DropRow if the sides are equal apart from leading or trailing white space."""
    if (pair.chosen.strip(), pair.chosen_history) == (
        pair.rejected.strip(),
        pair.rejected_history,
    ):
        raise DropRow(Reason.IDENTICAL, "chosen and rejected are the same text")


# --- Splitting and writing -----------------------------------------------------------------------


def split_pairs(
    pairs: Sequence[PreferencePair], validation: int | float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return (train, validation), each in input order, with no prompt in both.

    `validation` is a number of pairs (int) or a share of them (float below 1). Prompts that differ
    only in case and white space count as the same.

    Prompts are sorted by the SHA-256 of seed and prompt and taken in that order. A prompt with more
    pairs than are still needed is skipped. So the split depends on the set of pairs and the seed,
    not on the input order. Validation is never larger than `validation`; it is smaller only if the
    remaining prompts have too many pairs.

    Raises InputError: a size that leaves train or validation empty (except validation = 0).
    """
    wanted = validation_size(len(pairs), validation)
    keys = [_prompt_key(pair, seed) for pair in pairs]
    chosen: set[str] = set()
    left = wanted
    for key, count in sorted(Counter(keys).items()):
        if count <= left:
            chosen.add(key)
            left -= count
    if wanted and left == wanted:
        raise InputError(f"every prompt has more than {wanted} pairs; ask for a larger validation")
    train = [pair for pair, key in zip(pairs, keys, strict=True) if key not in chosen]
    return train, [pair for pair, key in zip(pairs, keys, strict=True) if key in chosen]


class Prompted(Protocol):
    """A pair, or another row with a prompt, such as a benchmark row."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation before the response."""


AnyPrompted = TypeVar("AnyPrompted", bound=Prompted)


def unseen(pairs: Sequence[AnyPrompted], train: Sequence[Prompted]) -> list[AnyPrompted]:
    """Return the pairs whose prompt does not occur in `train`, in order.

    Prompts that differ only in case and white space count as the same.
    """
    seen = {_prompt_key(pair, 0) for pair in train}
    return [pair for pair in pairs if _prompt_key(pair, 0) not in seen]


def validation_size(total: int, validation: int | float) -> int:
    """Return the largest number of pairs that `split_pairs` holds out. Raises as `split_pairs`."""
    number = isinstance(validation, int | float) and not isinstance(validation, bool)
    wanted = validation
    if isinstance(validation, float):
        wanted = round(validation * total) if 0 <= validation < 1 else -1
    if not number or not (wanted == 0 or 0 < wanted < total):
        raise InputError(
            f"validation is {validation} for {total} pairs; give a number of pairs below {total},"
            " or a share below 1 such as 0.05"
        )
    return max(int(wanted), 1) if validation else 0


def _prompt_key(pair: Prompted, seed: int) -> str:
    """Return the hex SHA-256 of the seed and the prompt with case and white space normalised."""
    turns = [[turn["role"], " ".join(turn["content"].casefold().split())] for turn in pair.prompt]
    return hashlib.sha256(json.dumps([seed, turns]).encode()).hexdigest()


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """Return the hex SHA-256 of the pairs in order, written as canonical JSON lines."""
    digest = hashlib.sha256()
    for pair in pairs:
        line = json.dumps(_fields(pair), sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def write_pairs(pairs: Iterable[PreferencePair], path: str | Path) -> None:
    """Write the pairs as JSON lines that `load_preferences` and TRL's trainers read.

    Rows have the schema explicit_prompt with message lists, plus pair_id, margin, category and
    source. The write is atomic, and equal pairs give equal bytes. Missing folders are created.

    Raises InputError unless the path ends in .jsonl or .jsonl.gz.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: unknown extension for pairs; use .jsonl or .jsonl.gz")
    lines = (json.dumps(_as_json(pair), ensure_ascii=False).encode() + b"\n" for pair in pairs)
    data = b"".join(lines)
    # Without a time in gzip's header, equal pairs give equal bytes.
    atomic_write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _fields(pair: PreferencePair) -> dict[str, Any]:
    """Return the fields by name; empty histories are left out to keep older fingerprints valid."""
    histories = ("chosen_history", "rejected_history")
    return {key: value for key, value in _values(pair).items() if value or key not in histories}


def _values(pair: PreferencePair) -> dict[str, Any]:
    """Field → value, without the deep copies of `dataclasses.asdict`."""
    return {field.name: getattr(pair, field.name) for field in fields(pair)}


def _as_json(pair: PreferencePair) -> dict[str, Any]:
    histories = ("chosen_history", "rejected_history")
    row = {key: value for key, value in _values(pair).items() if key not in histories}
    chosen, rejected = pair.sides
    return row | {"chosen": list(chosen), "rejected": list(rejected)}
