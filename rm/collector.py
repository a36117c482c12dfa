"""Python's garbage collector, kept off what is there to stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Let the collector pass over all objects that live now while the block runs.

    The token rows of a data set are many, and it would walk them again and again: time a token
    would grow with the number of rows (benchmarks/growth.py). Objects that are made in the block
    are collected as ever.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
