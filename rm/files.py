"""Files that are either whole or absent: written beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rm.errors import InputError

_NAME = re.compile(r"\w[\w.+-]*")


def file_name(name: str, key: str) -> str:
    """Return `name` if it names one file or folder and nothing above it.

    Letters, digits, `_`, `.`, `+`, `-`, and no `.` or `-` first: so no path, no hidden file and no
    command-line option. Raises InputError, which names the configuration's `key`.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{key}={name}: must be a plain name (letters, digits, _ . + -, no path), since a file "
            "or folder is called so"
        )
    return name


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`: readers see the old file or the whole new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN is refused, not written."""
    atomic_write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends without error.

    A folder already at `path` is replaced; after an error it is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
