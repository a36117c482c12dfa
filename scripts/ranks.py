"""What a command and the ranks that it starts know of each other: who is alive, how each ended.

The command opens a named pipe that the ranks wait on: when the command is gone, however it ended,
they end too, and no orphan goes on writing into a folder that a new command has taken. Each rank
notes its end in a file, so that the command can say which one was killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from rm.errors import InterruptedRunError

FOLDER = "ranks"
PIPE = "alive"
STARTED, DONE = "started", "done"


@contextlib.contextmanager
def watched(folder: Path, devices: int) -> Iterator[None]:
    """In the command: let the ranks that the block starts live as long as this process.

    `folder`: the run's or the evaluation's. Raises InterruptedRunError, naming the ranks that
    failed, if not all of them got through.
    """
    notes = folder / FOLDER
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    os.mkfifo(notes / PIPE)
    handle = os.open(notes / PIPE, os.O_RDWR)  # for reading too, or it would wait for a reader
    try:
        yield
    finally:
        os.close(handle)
    found = failed(notes, devices)
    if found is not None:
        raise InterruptedRunError(
            f"{folder}: {found}; the same command goes on from what is finished"
        )
    shutil.rmtree(notes)


@contextlib.contextmanager
def one_of(folder: Path, rank: int) -> Iterator[None]:
    """In a rank: note how the block ends, and end with the command that started it."""
    notes = folder / FOLDER
    _end_with_the_command(notes / PIPE)
    with (notes / str(rank)).open("w") as file:
        file.write(STARTED)
        file.flush()
        # The launcher ends the other ranks by SIGTERM: faulthandler adds a line to the note at
        # once, even from within a collective operation, and lets the signal do its work.
        faulthandler.register(signal.SIGTERM, file=file, all_threads=False, chain=True)
        try:
            yield
        except BaseException as error:
            _note(notes, rank, f"{type(error).__name__}: {str(error).strip()}")
            raise
        finally:
            faulthandler.unregister(signal.SIGTERM)
    _note(notes, rank, DONE)


def _note(notes: Path, rank: int, text: str) -> None:
    (notes / str(rank)).write_text(text)


def _end_with_the_command(pipe: Path) -> None:
    handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)

    def wait() -> None:
        os.read(handle, 1)  # nothing is ever written: this returns when the command is gone
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def failed(notes: Path, devices: int) -> str | None:
    """Say which ranks failed and how: the killed ones, or else the first; None if none did."""
    ends = {rank: _end_of(notes / str(rank)) for rank in range(devices)}
    killed = [str(rank) for rank, end in ends.items() if end == STARTED]
    if killed:
        return f"rank {' and '.join(killed)} was killed (by a signal, or for want of memory)"
    missing = [str(rank) for rank, end in ends.items() if end is None]
    if missing:
        return f"rank {' and '.join(missing)} ended before it had started: see above"
    errors = [rank for rank, end in ends.items() if end != DONE]
    if not errors:
        return None
    first = min(errors, key=lambda rank: (notes / str(rank)).stat().st_mtime_ns)
    line = str(ends[first]).removeprefix(STARTED).strip().splitlines()[0]
    return f"rank {first} failed first ({line})"


def _end_of(note: Path) -> str | None:
    return note.read_text() if note.is_file() else None
