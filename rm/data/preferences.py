"""Preference pairs from any source, in one schema.

Rows come from `rm.data.sources`; a row becomes a `PreferencePair` by the schema of
`rm.data.schemas` that its columns show. No row disappears silently: `LoadReport` counts every one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rm.data.columns import identifier, ignored, optional_text
from rm.data.schemas import Message, Turns, answer_turns, detect_schema, read_parts
from rm.data.sources import DropRow, Reason, Row, Rows, local_path, read_rows, short_name
from rm.errors import InputError, visible
from rm.files import atomic_write_bytes

SCHEMA_ROWS = 100
"""Readable rows whose columns, taken together, decide the schema (JSON rows may lack some)."""


def section_key(section: str) -> str:
    """Return a section's name as a key of metrics and columns: "Chat Hard" gives "chat_hard"."""
    return section.strip().lower().replace(" ", "_").replace("-", "_")


@dataclass(frozen=True)
class PreferencePair:
    """One comparison (x, y_w, y_l): a prompt with its chosen and its rejected response.

    `margin` is the rating difference of the pair (> 0, the source's own scale) or None where the
    source has none; `category` is a RewardBench section name or None; `source` names the data set.
    `chosen_history` and `rejected_history` are the turns between the prompt and the response of a
    side whose conversation parts from the other's before its last response; mostly empty.
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
        """What follows the prompt on the chosen and on the rejected side, the response last."""
        return (
            (*self.chosen_history, *answer_turns(self.chosen)),
            (*self.rejected_history, *answer_turns(self.rejected)),
        )


def swapped(pair: PreferencePair) -> PreferencePair:
    """Return the pair with chosen and rejected side exchanged."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_history=pair.rejected_history,
        rejected_history=pair.chosen_history,
    )


@dataclass
class LoadReport:
    """What became of every row: `rows == kept + sum(dropped.values()) + not_taken`.

    `dropped` counts by `Reason` value and `first_problems` shows each reason's first row.
    `not_taken` are usable pairs that `limit` left out; `duplicate_ids` counts the usable pairs
    whose id was taken (they got a suffix); `without_margin` counts the kept pairs without a margin.
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
        """Return the report for people: a headline, then one line per count that is not zero."""
        head = f"{self.source}: {self.rows:,} rows ({self.schema}), {self.kept:,} pairs kept"
        notes = [
            (self.not_taken, "not taken: the limit takes a seeded random sample"),
            (self.duplicate_ids, "with an id already used: #2, #3, ... added to it"),
            (self.without_margin, "of the kept without a margin"),
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
    progress: Callable[[int], None] | None = None,
) -> tuple[list[PreferencePair], LoadReport]:
    """Return the usable pairs of a source in its order, and the report on every row.

    `source` is a .json, .jsonl, .json.gz, .jsonl.gz or .parquet file, a folder in the Hub's layout,
    or a Hub name with its config `name`; `split` applies to folders and the Hub. `limit` takes a
    random sample of that many usable pairs, the same for the same rows and `seed` (the first n are
    biased: sources are sorted). Ids that occur again get #2, #3, ... and are counted. A pair
    without a source column is given the source's own name. Rows with tools, images and the like are
    dropped unless `ignore` names them (`rm.data.columns.NOT_TEXT`). `progress` gets the number of
    rows read, every 10,000 rows.

    Raises InputError: a source that cannot be read, an unknown schema, or no usable row at all.
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
        if progress is not None and report.rows % 10_000 == 0:
            progress(report.rows)
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
    """Return the schema that the first readable rows show, and all rows again.

    A source without one readable row has schema "unknown": there is nothing to parse. Raises
    InputError as `schema_of`.
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
    """Return the schema that the columns of the first rows show; InputError if there is none."""
    try:
        return detect_schema(chain.from_iterable(rows[:SCHEMA_ROWS]))
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _finish(sample: _Sample, report: LoadReport) -> list[PreferencePair]:
    """Fill the report's totals and return the pairs; InputError where no row was usable."""
    pairs = sample.pairs()
    report.kept = len(pairs)
    report.not_taken = sample.offered - len(pairs)
    report.without_margin = sum(pair.margin is None for pair in pairs)
    if pairs:
        return pairs
    if not report.rows:
        raise InputError(f"{report.source}: holds no rows; give a source with preference pairs")
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
    """All pairs offered or, under a limit, a uniform random sample of them (reservoir sampling).

    Holds at most `limit` pairs at a time, however many are offered.
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
    """Return the pair under an id that is not in `used`: its own, or with the next free #2, #3, ...

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
    """Return the row as a pair; `default_*` stand in where the row has no id or no source.

    `ignore` as in `rm.data.schemas.read_parts`. Raises DropRow (the row is unusable, and why),
    InputError for a schema that does not exist.
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
    """DropRow where the sides differ in outer white space only: there is nothing to learn."""
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

    `validation` is a number of pairs (int) or a share of them (float below 1). Prompts are the same
    if they differ in case and white space only. They are ranked by SHA-256 of seed and prompt and
    taken in that order, one with more pairs than are still wanted being passed over; so the choice
    depends on the set of pairs and the seed, not on the input order, and the size is hit unless
    prompts with many pairs prevent it (never exceeded).

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
    """A pair, or another row with a prompt, such as a benchmark's."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation that is answered."""


AnyPrompted = TypeVar("AnyPrompted", bound=Prompted)


def unseen(pairs: Sequence[AnyPrompted], train: Sequence[Prompted]) -> list[AnyPrompted]:
    """Return those of `pairs` whose prompt no pair of `train` has, in order.

    Prompts are the same if they differ in case and white space only.
    """
    seen = {_prompt_key(pair, 0) for pair in train}
    return [pair for pair in pairs if _prompt_key(pair, 0) not in seen]


def validation_size(total: int, validation: int | float) -> int:
    """Return how many of `total` pairs `split_pairs` holds out at most. Errors: as there."""
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
    """Return the hex SHA-256 of the seed and the prompt without its case and white space."""
    turns = [[turn["role"], " ".join(turn["content"].casefold().split())] for turn in pair.prompt]
    return hashlib.sha256(json.dumps([seed, turns]).encode()).hexdigest()


def fingerprint(pairs: Iterable[PreferencePair]) -> str:
    """Return the hex SHA-256 of all fields of the pairs in order, as canonical JSON lines."""
    digest = hashlib.sha256()
    for pair in pairs:
        line = json.dumps(_fields(pair), sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def write_pairs(pairs: Iterable[PreferencePair], path: str | Path) -> None:
    """Write the pairs as JSON lines, which `load_preferences` and TRL's trainers read.

    The rows are explicit_prompt with message lists, and pair_id, margin, category, source. The file
    appears whole or not at all, with the same bytes for the same pairs; missing folders are made.

    Raises InputError unless the path ends in .jsonl or .jsonl.gz.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: pairs are written as .jsonl or .jsonl.gz; name the file so")
    lines = (json.dumps(_as_json(pair), ensure_ascii=False).encode() + b"\n" for pair in pairs)
    data = b"".join(lines)
    # Without a time in gzip's header, equal pairs give equal bytes.
    atomic_write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _fields(pair: PreferencePair) -> dict[str, Any]:
    """Return the fields by name, without histories that are empty (pairs once had none)."""
    histories = ("chosen_history", "rejected_history")
    return {key: value for key, value in asdict(pair).items() if value or key not in histories}


def _as_json(pair: PreferencePair) -> dict[str, Any]:
    histories = ("chosen_history", "rejected_history")
    row = {key: value for key, value in asdict(pair).items() if key not in histories}
    chosen, rejected = pair.sides
    return row | {"chosen": list(chosen), "rejected": list(rejected)}
