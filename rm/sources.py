"""Rows of preference data from files, folders and the Hub, before any schema is applied.

Every reader yields `(row number, row)`: numbers count from 1 and are line numbers in JSON-lines
files; a row that cannot be read at all arrives as a `DropRow` in its place, so that the caller
counts it and goes on. What spoils the whole source is an `InputError`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from rm.errors import InputError

BATCH_ROWS = 1000
"""Rows of a parquet file or Hub data set that are turned into Python objects at a time."""

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_BOM = b"\xef\xbb\xbf"


class Reason(StrEnum):
    """Why a row is not used; the values are the keys of `LoadReport.dropped`."""

    TIE = "tie"
    CONTRADICTORY = "contradictory ratings"
    BAD_MARGIN = "non-finite or negative margin"
    EMPTY_PROMPT = "empty prompt"
    EMPTY_RESPONSE = "empty response"
    IDENTICAL = "identical pair"
    MALFORMED = "malformed messages"
    MISSING = "missing field"
    WRONG_TYPE = "wrong type"
    INVALID_JSON = "invalid JSON"
    UNDECODABLE = "undecodable text"


class DropRow(Exception):
    """One row is unusable: `reason` is what is counted, `detail` what a person needs to find it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


Row = Mapping[str, Any]
Rows = Iterator[tuple[int, Row | DropRow]]


def read_rows(source: str | Path, *, split: str = "train", name: str | None = None) -> Rows:
    """Yield `(row number, row or DropRow)` of a local file, a local folder or a Hub data set.

    An existing path is local; any other string of the Hub's form (`owner/name`) is asked of the
    Hub. `split` and `name` (the Hub's config) apply to folders and the Hub; a file is one split.

    Raises InputError: no such file, unknown extension, damaged file, or a data set that `datasets`
    cannot give (offline, unknown name, config or split). Raised on call or while iterating.
    """
    path = Path(source).expanduser()
    if not str(source).strip():
        raise InputError("the source is empty; give a file, a folder or a Hub name")
    if path.is_file():
        return _reader(path)(path)
    if path.is_dir():
        return _read_dataset(str(path), split, name)
    if isinstance(source, Path) or not _HUB_NAME.fullmatch(source) or _extension(path):
        raise InputError(f"{source}: no such file or folder; check the path")
    return _read_dataset(source, split, name)


def short_name(source: str | Path) -> str:
    """Return what pairs of `source` are called where they name no source: its name, no suffix."""
    path = Path(source).expanduser()
    if not path.exists():
        return str(source)
    return path.name.removesuffix(_extension(path)) or path.resolve().name


def one_line(error: BaseException) -> str:
    """Return the first non-empty line of the error's message, else its class name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _extension(path: Path) -> str:
    """Return the known extension that the path ends with, or ""."""
    known = [extension for extension in _READERS if path.name.lower().endswith(extension)]
    return path.name[-len(known[0]) :] if known else ""


def _reader(path: Path) -> Callable[[Path], Rows]:
    """Return the reader for the path's extension; InputError names the known ones."""
    extension = _extension(path).lower()
    if not extension:
        known = ", ".join(_READERS)
        raise InputError(f"{path}: unknown extension; use one of {known}")
    return _READERS[extension]


def _open(path: Path) -> IO[bytes]:
    """Open for reading, unpacking gzip by the file's suffix."""
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _read_jsonl(path: Path) -> Rows:
    """Yield one row a line; blank lines are no rows. InputError where the file is damaged."""
    try:
        with _open(path) as file:
            yield from _parse_lines(file)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); fetch it again") from error


def _parse_lines(lines: Iterator[bytes] | IO[bytes]) -> Rows:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield number, _parse_line(line)


def _parse_line(line: bytes) -> Row | DropRow:
    try:
        return _as_row(json.loads(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return DropRow(Reason.UNDECODABLE, f"not UTF-8 at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return DropRow(Reason.INVALID_JSON, one_line(error))


def _as_row(value: object) -> Row | DropRow:
    """Return the value if it is a JSON object, else the DropRow that says what it is."""
    if isinstance(value, Mapping):
        return value
    return DropRow(Reason.WRONG_TYPE, f"the row is a {type(value).__name__}, not an object")


def _read_json(path: Path) -> Rows:
    """Yield the objects of a JSON list; a file that does not open with `[` is read as JSON lines.

    Bytes that are not UTF-8 become lone surrogates here, for which the row alone is dropped later.
    """
    try:
        with _open(path) as file:
            content = file.read().removeprefix(_BOM).lstrip()
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); fetch it again") from error
    if not content.startswith(b"["):
        yield from _read_jsonl(path)
        return
    try:
        items = json.loads(content.decode("utf-8", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON list ({one_line(error)}); correct it") from error
    for number, item in enumerate(items, start=1):
        yield number, _as_row(item)


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _arrow_rows(file.iter_batches(BATCH_ROWS))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({one_line(error)})") from error


def _arrow_rows(batches: Iterator[Any]) -> Rows:
    """Yield the rows of arrow tables or record batches, numbered through."""
    rows = chain.from_iterable(map(_batch_rows, batches))
    yield from enumerate(rows, start=1)


def _batch_rows(batch: Any) -> list[Row | DropRow]:
    """Return a batch's rows; one by one where a text is not UTF-8, so that only its row goes."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [DropRow(Reason.UNDECODABLE, f"not UTF-8 at byte {error.start} of a text")]
    single = (_batch_rows(batch.slice(index, 1)) for index in range(batch.num_rows))
    return list(chain.from_iterable(single))


def _read_dataset(source: str, split: str, name: str | None) -> Rows:
    """Yield the rows of a split that `datasets.load_dataset` gives, from a folder or the Hub."""
    import datasets  # takes a second, and files do not need it
    import httpx  # the Hub client's transport: its errors pass through

    errors = (OSError, ValueError, datasets.exceptions.DatasetsError, httpx.HTTPError)
    try:
        data = datasets.load_dataset(source, name, split=split)
    except errors as error:
        raise InputError(_dataset_problem(source, split, name, error)) from error
    return _arrow_rows(data.with_format("arrow").iter(batch_size=BATCH_ROWS))


def _dataset_problem(source: str, split: str, name: str | None, error: Exception) -> str:
    if isinstance(error.__cause__, Exception) and not isinstance(error, OSError):
        error = error.__cause__  # datasets wraps what spoilt a file in an error that says nothing
    asked = f"split {split!r}" + (f" of config {name!r}" if name else "")
    if Path(source).is_dir():
        return f"{source}: the folder gives no {asked} ({one_line(error)}); check folder and split"
    return (
        f"{source}: no file or folder of that name, and the Hub gave no {asked}"
        f" ({one_line(error)}); give a local path, or check name, config, split and connection"
    )


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".json.gz": _read_json,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
}
