"""Independent jobs side by side, each in a process of its own with its share of the cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from rm.errors import InputError, InterruptedRunError
from rm.provenance import usable_cores

POLL_SECONDS = 0.2
KNOWN = {error.__name__: error for error in (InputError, InterruptedRunError, FloatingPointError)}
"""Errors that a job's process passes on unchanged."""


@dataclass(frozen=True)
class Job:
    """A call of `work` with `arguments`, both of which can be pickled; `name` is for messages."""

    name: str
    work: Callable[..., object]
    arguments: tuple[Any, ...]


def run_all(jobs: Sequence[Job], workers: int, log: Path) -> None:
    """Run the jobs, `workers` at a time; append what they print to `log`.

    If one fails, the running ones are ended and its error is raised; an unexpected error becomes
    an InterruptedRunError that names the log. The jobs also end if this process does.
    """
    waiting = deque(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Running(waiting.popleft(), workers, log))
            time.sleep(POLL_SECONDS)
            ended = [one for one in running if not one.process.is_alive()]
            running = [one for one in running if one not in ended]
            for one in ended:
                one.raise_error(log)
    finally:
        for one in running:
            one.process.terminate()
            one.process.join()


class _Running:
    """A job in its own process, spawned and not forked: torch's threads do not survive a fork."""

    def __init__(self, job: Job, workers: int, log: Path) -> None:
        self.job = job
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        self.process: SpawnProcess = multiprocessing.get_context("spawn").Process(
            target=_work, args=(job, workers, log, writer), daemon=False
        )
        self.process.start()
        writer.close()

    def raise_error(self, log: Path) -> None:
        """Raise the job's error, if it had one."""
        kind, message = "", ""
        with contextlib.suppress(
            EOFError
        ):  # a process that was killed, or ended well, sent nothing
            kind, message = self.reader.recv()
        if kind in KNOWN:
            raise KNOWN[kind](message)
        if self.process.exitcode:
            what = f"{kind}: {message}" if kind else "was killed (out of memory, or from outside)"
            raise InterruptedRunError(f"{self.job.name}: {what}; see {log}")


def _work(job: Job, workers: int, log: Path, writer: Connection) -> None:
    """In the job's process: do the work with this process's share of the cores."""
    _end_with_the_parent()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(max(1, usable_cores() // workers))
    try:
        job.work(*job.arguments)
    except BaseException as error:
        writer.send((type(error).__name__, str(error)))
        if not isinstance(error, tuple(KNOWN.values())):
            raise
        sys.exit(1)


def _end_with_the_parent() -> None:
    """End when the parent ends (a thread waits for it), so that no job writes without it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
