"""Rows of preference data from files, folders and the Hub, before any schema is applied.

Every reader yields `(row number, row)`. Row numbers start at 1 and are line numbers in JSON-lines
files. An unreadable row is yielded as a `DropRow`, so the caller counts it and continues. An
unreadable source raises `InputError`.

The source is untrusted: memory is bounded (`LONGEST_ROW`, `UNPACKED_BYTES`), files outside a folder
are not read, and code of a data set is never run. pyarrow reads parquet files. `datasets` reads the
Hub and says which files of a folder belong to a split. This module reads JSON itself, because both
libraries stop at the first bad row, silently keep the last of two equal keys, and set no bound.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, Any

import yaml

from rm.errors import InputError

BATCH_ROWS = 100
"""Largest number of rows of a parquet file or Hub data set that are decoded at once."""
BATCH_BYTES = 2**32
"""Largest number of bytes of a parquet file that are decoded at once (4 GiB)."""
LONGEST_ROW = 2**25
"""Rows with more bytes (JSON lines) or characters (other rows) are dropped (32 Mi)."""
LARGEST_LIST = 2**31
"""Largest JSON list in bytes (2 GiB), because it is read whole; JSON-lines files may be larger."""
UNPACKED_BYTES, UNPACKED_RATIO = 2**28, 200
"""A gzip file may unpack to 256 MiB or 200 times its size, whichever is more (text: about 10x)."""
ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json")
"""Metadata files that `datasets` writes next to the data."""
PIECE = 2**20
"""Bytes per read."""

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\n\r"
_SPACES = re.compile(f"[{_SPACE}]*")
_OUTSIDE = re.compile(r'"(/[^"]*|(?:[^"]*/)?\.\.(?:/[^"]*)?|[^"]*(?:::|://)[^"]*)"')
"""A text in JSON that is an absolute path, a path with `..` in it, or an address."""


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
    TOO_LONG = "row too long"
    REPEATED_KEY = "repeated key"
    NOT_TEXT = "tools, images or other parts that are not read"


class DropRow(Exception):
    """One row is unusable: `reason` is counted, `detail` tells a person what is wrong and where."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


Row = Mapping[str, Any]
Rows = Iterator[tuple[int, Row | DropRow]]


def read_rows(source: str | Path, *, split: str = "train", name: str | None = None) -> Rows:
    """Yield `(row number, row or DropRow)` of a local file, a local folder or a Hub data set.

    An existing path is read locally. Any other string of the form `owner/name` is looked up on the
    Hub. `split` and `name` (the Hub's config) apply to folders and the Hub; a file is one split.

    Raises InputError, on call or while iterating: no such file, unknown extension, damaged file, a
    pipe or device, a folder with links that lead outside (`folder_files`), or a data set that
    `datasets` cannot load (offline, unknown name, config or split).
    """
    if not str(source).strip():
        raise InputError("the source is empty; give a file, a folder or a Hub name")
    path = local_path(source)
    if path is not None:
        return _read_folder(path, split, name) if path.is_dir() else _read_file(path)
    if isinstance(source, Path) or not is_hub_name(source) or _extension(Path(source)):
        raise InputError(f"{source}: no such file or folder; check the path")
    return _read_hub(source, split, name)


def is_hub_name(text: str) -> bool:
    """Return whether `text` looks like a Hub name (`name` or `owner/name`), not like a path."""
    return _HUB_NAME.fullmatch(text) is not None


def local_path(source: str | Path) -> Path | None:
    """Return the path of an existing file or folder, or None if there is none.

    Raises InputError for a pipe, socket or device, which may never end and cannot be read twice.
    Also raises it for a loop of links and for a path that cannot be accessed.
    """
    try:
        path = Path(source).expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{source}: cannot be opened ({reason}); check the path") from error
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return path
    raise InputError(f"{source}: is a pipe, socket or device; write its content to a file first")


def short_name(source: str | Path) -> str:
    """Return the default source of the pairs of `source`: its name without suffix."""
    path = local_path(source)
    if path is None:
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


def _read_file(path: Path) -> Rows:
    """Yield a file's rows. Raises InputError for an unknown extension."""
    extension = _extension(path).lower()
    if not extension:
        raise InputError(f"{path}: unknown extension; use one of {', '.join(_READERS)}")
    return _READERS[extension](path)


# --- JSON ----------------------------------------------------------------------------------------


@dataclass
class _Bounded:
    """A file that raises InputError once more than `left` bytes are read."""

    path: Path
    file: IO[bytes]
    left: int

    def read(self, size: int, *, line: bool = False) -> bytes:
        """Read at most `size` bytes; with `line`, stop at the end of the line."""
        piece = self.file.readline(size) if line else self.file.read(size)
        self.left -= len(piece)
        if self.left < 0:
            raise InputError(
                f"{self.path}: unpacks to more than {_unpacked(self.path):,} bytes; "
                "unpack it yourself if you trust it"
            )
        return piece


def _unpacked(path: Path) -> int:
    """Return the limit on a file's bytes, after unpacking gzip."""
    packed = path.suffix.lower() == ".gz"
    return max(UNPACKED_BYTES, UNPACKED_RATIO * path.stat().st_size) if packed else sys.maxsize


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Bounded]:
    """Open for reading and unpack gzip. Raises InputError if the file is damaged or too large."""
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as file:
            yield _Bounded(path, file, _unpacked(path))
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); fetch it again") from error


def _read_jsonl(path: Path) -> Rows:
    """Yield one row per line, without blank lines. Raises InputError if the file is damaged."""
    parser = _Parser()
    with _open(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None:
                yield number, DropRow(Reason.TOO_LONG, f"more than {LONGEST_ROW:,} bytes")
                continue
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield number, parser.line(text)


def _lines(file: _Bounded) -> Iterator[bytes | None]:
    """Yield the file's lines, and None for a line longer than LONGEST_ROW."""
    while line := file.read(LONGEST_ROW + 1, line=True):
        cut = too_long = len(line) > LONGEST_ROW and not line.endswith(b"\n")
        while cut and (piece := file.read(PIECE, line=True)):
            cut = not piece.endswith(b"\n")
        yield None if too_long else line


def _read_json(path: Path) -> Rows:
    """Yield the objects of a JSON list; a file that does not start with `[` is JSON lines.

    Invalid UTF-8 bytes become lone surrogates here, so that later only their row is dropped.
    """
    with _open(path) as file:
        content = bytearray(file.read(PIECE).removeprefix(_BOM).lstrip())
        if not content.startswith(b"["):
            yield from _read_jsonl(path)
            return
        while len(content) <= LARGEST_LIST and (piece := file.read(PIECE)):
            content += piece
    if len(content) > LARGEST_LIST:
        raise InputError(f"{path}: the JSON list has over {LARGEST_LIST:,} bytes; use JSON lines")
    try:
        items = _Parser().items(content.decode("utf-8", errors="surrogateescape"))
        yield from enumerate(items, start=1)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON list ({one_line(error)}); correct it") from error


class _Parser:
    """A JSON parser that never changes a row silently.

    Python's parser keeps the last of two equal keys; here a duplicate key drops the row. Python's
    parser fails at an integer of more than 4,300 digits; here such a number is infinite.
    """

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_int=_whole_number)
        self._repeated: list[str] = []

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = Counter(name for name, _ in pairs)
            self._repeated += [name for name, count in names.items() if count > 1]
        return found

    def line(self, line: bytes) -> Row | DropRow:
        """Return the row that one line holds."""
        try:
            text = line.decode("utf-8").strip(_SPACE)
            row, end = self._next(text, 0)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
            return row
        except UnicodeDecodeError as error:
            return DropRow(Reason.UNDECODABLE, f"not UTF-8 at byte {error.start}")
        except (ValueError, RecursionError) as error:
            return DropRow(Reason.INVALID_JSON, one_line(error))

    def items(self, text: str) -> Iterator[Row | DropRow]:
        """Yield the items of a JSON list. Raises ValueError or RecursionError for invalid JSON."""
        place, separator = _after_space(text, 1), ","
        if text[place : place + 1] == "]":
            separator, place = "]", place + 1
        while separator == ",":
            item, place = self._next(text, place)
            yield item
            place = _after_space(text, place)
            separator = text[place : place + 1]
            place = _after_space(text, place + 1)
        if separator != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        if _after_space(text, place) < len(text):
            raise json.JSONDecodeError("Extra data", text, place)

    def _next(self, text: str, start: int) -> tuple[Row | DropRow, int]:
        """Return the row that starts at `start`, and its end. Raises as `items`."""
        self._repeated.clear()
        value, end = self._decoder.raw_decode(text, start)
        if end - start > LONGEST_ROW:
            return DropRow(Reason.TOO_LONG, f"more than {LONGEST_ROW:,} characters"), end
        if self._repeated:
            return DropRow(Reason.REPEATED_KEY, f"duplicate key {self._repeated[0][:40]!r}"), end
        if not isinstance(value, Mapping):
            detail = f"the row is a {type(value).__name__}, not an object"
            return DropRow(Reason.WRONG_TYPE, detail), end
        return value, end


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < sys.int_info.default_max_str_digits else float(digits)


def _after_space(text: str, place: int) -> int:
    return _SPACES.match(text, place).end()  # type: ignore[union-attr]


# --- Parquet and other Arrow tables --------------------------------------------------------------


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            # A small file may repeat one huge text; the row group's size bounds every text in it.
            largest = max((group.total_byte_size for group in groups), default=1)
            at_once = min(max(BATCH_BYTES // max(largest, 1), 1), BATCH_ROWS)
            yield from _arrow_rows(file.iter_batches(at_once))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # or in column names
        raise InputError(f"{path}: not a readable parquet file ({one_line(error)})") from error


def _arrow_rows(batches: Iterator[Any]) -> Rows:
    """Yield the numbered rows of arrow tables or record batches."""
    return enumerate(chain.from_iterable(map(_batch_rows, batches)), start=1)


def _batch_rows(batch: Any) -> Iterator[Row | DropRow]:
    """Yield a batch's rows, converted one by one if the batch is large or has a bad row."""
    if batch.nbytes <= LONGEST_ROW:
        with contextlib.suppress(ValueError, OverflowError):
            yield from batch.to_pylist()
            return
    yield from (_single_row(batch.slice(index, 1)) for index in range(batch.num_rows))


def _single_row(batch: Any) -> Row | DropRow:
    try:
        row = batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return DropRow(Reason.UNDECODABLE, f"not UTF-8 at byte {error.start} of a text")
    except (ValueError, OverflowError) as error:
        return DropRow(Reason.WRONG_TYPE, f"a value cannot be read ({one_line(error)})")
    if _characters(row) > LONGEST_ROW:
        return DropRow(Reason.TOO_LONG, f"more than {LONGEST_ROW:,} characters")
    return row


def _characters(value: object) -> int:
    """Return the number of characters of all texts in a row, at any depth."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list | tuple) else 0


# --- Folders and the Hub -------------------------------------------------------------------------


def folder_files(folder: Path) -> list[Path]:
    """Return the files of a data folder and its subfolders, sorted, without hidden files.

    A link may lead to another file in the folder or, in the Hub's cache (snapshots/…), to a file of
    the same repository. Raises InputError for any other link, for a link to a folder (it may form a
    loop), and for a pipe or device.
    """
    root = folder.resolve()
    cached = root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir()
    files = []
    for place, folders, names in os.walk(root, onerror=_unreadable):
        for name in folders:
            if Path(place, name).is_symlink():
                raise InputError(
                    f"{Path(place, name)}: is a link to a folder; replace it with a copy"
                )
        files += [Path(place, name) for name in names if not name.startswith(".")]
    for path in files:
        _check_inside(path, root.parents[1] if cached else root)
    return sorted(files)


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be opened ({error.strerror})") from error


def _check_inside(path: Path, root: Path) -> None:
    """Raise InputError unless the path is a regular file below `root`, or a link to one."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: is a broken link; remove it") from error
    if not target.is_relative_to(root):
        raise InputError(
            f"{path}: is a link to {target}, outside the folder; replace it with a copy, or give "
            "the file itself"
        )
    local_path(path)


def _read_folder(folder: Path, split: str, name: str | None) -> Rows:
    """Yield the rows of a split's files in a folder with the Hub's layout, numbered across files.

    `datasets` only says which files belong to the split. This module reads them, so that a bad row
    drops only itself. Raises InputError for a data file in no split: `datasets` takes files of one
    extension and, if some are named by their split, only those.
    """
    files = folder_files(folder)
    found = _splits(folder, split, name)
    taken = {path for paths in found.values() for path in paths}
    data = [path for path in files if _extension(path) and path.name not in ABOUT_DATA]
    left = [path.name for path in data if path not in taken]
    if left and not _card_chooses(folder):  # a card may leave files out
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise InputError(
            f"{folder}: {left[0]}{more} would not be read: data files must share one extension, "
            "and either all or none are named by their split (train…, validation…, test…); give "
            "the file itself, or move files that do not belong"
        )
    before = 0
    for path in found[split]:
        if path not in files:
            raise InputError(f"{folder}: {path} is not in this folder; give the file itself")
        number = 0
        for number, row in _read_file(path):
            yield before + number, row
        before += number


def splits_of(source: str | Path) -> list[str]:
    """Return the split names of a local data folder; [] for other sources. Raises InputError."""
    path = local_path(source)
    return list(_splits(path, None, None)) if path is not None and path.is_dir() else []


def _splits(folder: Path, split: str | None, name: str | None) -> dict[str, list[Path]]:
    """Return the files of every split. Raises InputError if `split` does not exist."""
    _card_chooses(folder)  # raises if the card leads outside: `datasets` would follow it
    with _explained(str(folder), split or "train", name) as datasets:
        found = datasets.load_dataset_builder(str(folder), name).config.data_files or {}
        if split not in (None, *found):
            raise ValueError(f"its splits are {', '.join(map(str, found)) or 'none'}")
    return {str(key): [*map(Path, paths)] for key, paths in found.items()}


def _card_chooses(folder: Path) -> bool:
    """Return whether the folder's card says which files are data.

    Raises InputError if the card cannot be read or names files outside the folder.
    """
    chosen = False
    for path in filter(Path.is_file, (folder / "README.md", folder / ".huggingface.yaml")):
        try:
            card = _card(path)
            configs = json.dumps(card.get("configs") if isinstance(card, Mapping) else None)
        except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)}); correct it") from error
        outside = _OUTSIDE.search(configs)
        if outside:
            raise InputError(f"{path}: names data outside the folder ({outside[1]}); remove it")
        chosen |= '"' in configs
    return chosen


def _card(path: Path) -> object:
    """Return the YAML of a data card. Raises ValueError for aliases: they may expand endlessly."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        found = REGEX_YAML_BLOCK.search(text)
        text = found[2] if found else ""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("it has YAML aliases")
    return yaml.safe_load(text)


def _read_hub(source: str, split: str, name: str | None) -> Rows:
    """Yield the rows of a split of a data set on the Hub."""
    with _explained(source, split, name) as datasets:
        data = datasets.load_dataset(source, name, split=split)
    return _arrow_rows(data.with_format("arrow").iter(batch_size=BATCH_ROWS))


def hub_files(source: str, split: str, name: str | None) -> list[str]:
    """Return the local cache files of a split of a data set on the Hub.

    Their names contain the data set's revision, so a new revision has other names. Raises
    InputError as `read_rows`.
    """
    with _explained(source, split, name) as datasets:
        data = datasets.load_dataset(source, name, split=split)
    return [file["filename"] for file in data.cache_files]


@contextlib.contextmanager
def _explained(source: str, split: str, name: str | None) -> Iterator[Any]:
    """Yield the `datasets` package and turn its errors into an InputError."""
    import datasets  # slow import (1 s) that files do not need
    import httpx2  # the Hub client's transport: its errors pass through

    known = (datasets.exceptions.DatasetsError, httpx2.HTTPError)
    try:
        yield datasets
    except (OSError, ValueError, RuntimeError, *known) as error:
        raise InputError(_dataset_problem(source, split, name, error)) from error


def _dataset_problem(source: str, split: str, name: str | None, error: Exception) -> str:
    if "scripts are no longer supported" in str(error):
        return (
            f"{source}: loads its data with a script, and scripts of data sets are not run; use "
            "its json, jsonl or parquet files (on the Hub: the revision refs/convert/parquet)"
        )
    if isinstance(error.__cause__, Exception) and not isinstance(error, OSError):
        error = error.__cause__  # datasets hides the reason in an uninformative error
    asked = f"split {split!r}" + (f" of config {name!r}" if name else "")
    if Path(source).is_dir():
        return f"{source}: cannot load {asked} ({one_line(error)}); check folder and split"
    return (
        f"{source}: not a local file or folder, and cannot load {asked} from the Hub"
        f" ({one_line(error)}); give a local path, or check name, config, split and connection"
    )


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".json.gz": _read_json,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
}
