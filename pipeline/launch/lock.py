"""One process at a time in a folder of runs: a second one is refused before it writes a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rm.errors import InputError
from rm.files import remove_unfinished

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` for the block. The lock ends with its process, however that ends.

    Deletes unfinished files that a killed writer left in the folder. Raises InputError if another
    process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another process works in {folder}: wait until it has ended, or choose another folder"
        ) from error
    try:
        remove_unfinished(folder)
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def only_one_draws(results: Path) -> Iterator[None]:
    """Hold a results folder as `only_one` does, with its data, figures and tables."""
    with only_one(results):
        for name in ("data", "figures", "tables"):
            remove_unfinished(results / name)
        yield
