"""Finished batches of a scoring run on disk: a killed run resumes from them, ranks share them.

Each rank appends to its own file; every process reads all files. A file starts with one line (magic
and key). Then come records: header (rows, columns, bytes per number, CRC-32), row fingerprints,
values. Reading stops at the first incomplete or damaged record, so no batch is read in part.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rm.errors import InputError
from rm.files import writing

MAGIC = b"normbt-scores-1"
HEADER = struct.Struct("<IIII")
ROW_BYTES = 16

Found = dict[bytes, np.ndarray]
"""Row fingerprint → values of the row."""


def row_fingerprint(row: Sequence[int]) -> bytes:
    """Return the first 16 bytes of SHA-256 over a row's token ids (as int32)."""
    return hashlib.sha256(np.asarray(row, dtype=np.int32).tobytes()).digest()[:ROW_BYTES]


@dataclass(frozen=True)
class PartialScores:
    """The partial files of one run in `folder`.

    `key` identifies everything besides the row that the values depend on. Files with another key
    are ignored. `rank` selects the file that this process appends to.
    """

    folder: Path
    key: str
    rank: int = 0

    @property
    def path(self) -> Path:
        """The file that this rank appends to."""
        return self.folder / f".scores-rank{self.rank}.partial"

    def read(self) -> Found:
        """Return the values of every row scored so far, by any rank."""
        found: Found = {}
        for path in sorted(self.folder.glob(".scores-rank*.partial")):
            for fingerprints, values, _ in _records(path, self._first_line()):
                found.update(zip(fingerprints, values, strict=True))
        return found

    def open(self) -> BinaryIO:
        """Open this rank's file for `append`, truncated after its last complete record.

        Raises InputError if another process is writing to it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(
                f"another process is scoring into {self.folder}: wait for it or choose another "
                "output"
            ) from error
        end = max((end for _, _, end in _records(self.path, self._first_line())), default=0)
        file.truncate(end)
        if not end:
            file.write(self._first_line())
        return file

    def append(self, file: BinaryIO, rows: Sequence[bytes], values: np.ndarray) -> None:
        """Write one finished batch: row fingerprints and values (rows, columns), floating point.

        Raises InterruptedRunError if the disk is full.
        """
        payload = b"".join(rows) + np.ascontiguousarray(values).tobytes()
        header = HEADER.pack(*values.shape, values.dtype.itemsize, zlib.crc32(payload))
        with writing(self.path):
            file.write(header + payload)
            file.flush()

    def remove(self) -> None:
        """Delete the partial files of all ranks."""
        for path in self.folder.glob(".scores-rank*.partial"):
            path.unlink(missing_ok=True)

    def _first_line(self) -> bytes:
        return MAGIC + b" " + self.key.encode() + b"\n"


def _records(path: Path, first_line: bytes) -> Iterator[tuple[list[bytes], np.ndarray, int]]:
    """Yield (fingerprints, values (rows, columns), end of record) up to the first bad record."""
    with path.open("rb") as file:
        if file.readline() != first_line:
            return
        size = os.fstat(file.fileno()).st_size
        while len(header := file.read(HEADER.size)) == HEADER.size:
            rows, columns, width, checksum = HEADER.unpack(header)
            length = rows * (ROW_BYTES + columns * width)
            if width not in (4, 8) or length > size - file.tell():
                return
            payload = file.read(length)
            if zlib.crc32(payload) != checksum:
                return
            names = [payload[i * ROW_BYTES : (i + 1) * ROW_BYTES] for i in range(rows)]
            values = np.frombuffer(payload, f"<f{width}", offset=rows * ROW_BYTES)
            yield names, values.reshape(rows, columns), file.tell()
