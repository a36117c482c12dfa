"""Write tables as parquet, and as CSV in which no untrusted text is a formula.

A spreadsheet evaluates a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break. Such a
formula can send the sheet's other cells to a server. Therefore such a text is written with a `'`
before it (one more if it begins with `'=` and the like), which spreadsheets read as text. Numbers
stay numbers, also those stored as text. `read_csv` restores every cell. All CSV and parquet files
of the project are written here.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Literal

import pandas as pd

from rm.files import atomic_write_bytes

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_MARKED = re.compile(r"''*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NAMES = ("pair_id", "pair_a", "pair_b", "section", "subset", "cluster")
"""Columns of names, read as texts even if all look like numbers or empty cells."""
Compression = Literal["zstd", "snappy"]
LEVEL = 19
"""Of zstd: files that are committed are written once and kept for ever."""
EMPTY = ("", "nan", "NaN")
"""Cells that mean "no value" in other columns."""


def neutral(text: str) -> str:
    """Return `text`, with `'` before it if a spreadsheet would evaluate it as a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def restored(cell: str) -> str:
    """Return the text from which `neutral` made `cell`."""
    return cell[1:] if _MARKED.match(cell) else cell


def csv_text(frame: pd.DataFrame, float_format: str | None = None) -> str:
    """Return the frame as CSV without its index."""
    # Some readers end a row at a bare carriage return, which csv does not quote by itself.
    bare = False
    safe = frame.rename(columns=lambda name: neutral(str(name)))
    for place in range(safe.shape[1]):
        column = safe.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            cells = [neutral(value) if isinstance(value, str) else value for value in column]
            bare = bare or any("\r" in value for value in cells if isinstance(value, str))
            safe.isetitem(place, cells)
    return safe.to_csv(
        index=False,
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL,
        float_format=float_format,
    )


def read_csv(source: Path | str) -> pd.DataFrame:
    """Read a frame from a file (Path) or text (str) made by `csv_text`.

    Columns in `NAMES` are texts. Raises the errors of `pandas.read_csv`.
    """
    content = source.read_bytes() if isinstance(source, Path) else source.encode()
    columns = pd.read_csv(io.BytesIO(content), nrows=0).columns
    frame = pd.read_csv(
        io.BytesIO(content),
        dtype=dict.fromkeys(columns.intersection(list(NAMES)), str),
        na_values={name: EMPTY for name in columns.difference(list(NAMES))},
        keep_default_na=False,
    )
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column):
            cells = [restored(value) if isinstance(value, str) else value for value in column]
            frame.isetitem(place, pd.Series(cells, dtype=column.dtype).array)
    return frame.rename(columns=restored)


def parquet_bytes(frame: pd.DataFrame, compression: Compression = "zstd") -> bytes:
    """Return the frame, without its index, as the bytes of a parquet file.

    Floats are split into byte streams, which compress to two thirds without loss.
    """
    buffer = io.BytesIO()
    split = [name for name in frame if frame[name].dtype.kind == "f"]
    frame.to_parquet(
        buffer,
        index=False,
        compression=compression,
        compression_level=LEVEL if compression == "zstd" else None,
        use_byte_stream_split=split,
        use_dictionary=[name for name in frame if name not in split],
    )
    return buffer.getvalue()


def write_parquet(frame: pd.DataFrame, path: Path, compression: Compression = "zstd") -> None:
    """Write the frame as a parquet file, whole or not at all. Raises as `rm.files.writing`."""
    atomic_write_bytes(path, parquet_bytes(frame, compression))
