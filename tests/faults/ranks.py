"""Two ranks, one of which (or the command that started them) is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.faults.commands import ROOT
from tests.faults.targets import TRAINING
from tests.faults.workplace import Row, Workplace

BOUND = 60.0
"""Seconds within which the command must have ended after one of its ranks was killed."""
OWN = ("devices=2", "training.micro_batch=4", "threads=1")


def drop_rank(place: Workplace, number: int, deepspeed: str = "off") -> Row:
    """Kill one of two ranks at a random step, `number` times, and finish each run."""
    row = Row(f"SIGKILL of one of two ranks, deepspeed={deepspeed}", seed=place.seed)
    expected = _undisturbed(place, deepspeed)
    for _ in range(number):
        folder, rank = place.trial(TRAINING), place.draw.randrange(2)
        ended = _killed_at(folder, place.draw.randint(1, 11), rank, deepspeed)
        row.count(_says_which(ended, rank) and _finishes(folder, expected, deepspeed))
    return row


def drop_command(place: Workplace, number: int) -> Row:
    """Kill the command over two ranks: they end too, and the same command goes on at once."""
    row = Row("SIGKILL of the command over two ranks", seed=place.seed)
    expected = _undisturbed(place, "off")
    for _ in range(number):
        folder = place.trial(TRAINING)
        _killed_at(folder, place.draw.randint(1, 11), None, "off")
        time.sleep(1)
        left = ranks_of(folder)
        if left:
            print(f"ranks that outlive their command: {left}")
        row.count(not left and _finishes(folder, expected, "off"))
    return row


def _start(folder: Path, deepspeed: str) -> subprocess.Popen[str]:
    ((name, *words),) = TRAINING.commands(folder)
    return subprocess.Popen(
        [sys.executable, "-m", f"scripts.{name}", *words, *OWN, f"deepspeed={deepspeed}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )


def _undisturbed(place: Workplace, deepspeed: str) -> dict[str, bytes]:
    folder = place.folder / f"two-ranks-{deepspeed}"
    if not folder.exists():
        TRAINING.prepare(place.folder, folder)
        _, errors = (process := _start(folder, deepspeed)).communicate()
        if process.returncode:
            raise RuntimeError(f"two ranks, undisturbed: {errors[-2000:]}")
    return TRAINING.outcome(folder)


def _killed_at(folder: Path, step: int, rank: int | None, deepspeed: str) -> tuple[int, str]:
    """Start two ranks, kill one (None: the command) after a step; return status and errors.

    Raises RuntimeError if the command does not end within BOUND seconds after that.
    """
    process, metrics = _start(folder, deepspeed), folder / "run/metrics.jsonl"
    while process.poll() is None and not (_lines(metrics) >= step and len(ranks_of(folder)) == 2):
        time.sleep(0.02)
    os.kill(process.pid if rank is None else ranks_of(folder)[rank], signal.SIGKILL)
    try:
        _, errors = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise RuntimeError(f"{folder}: not ended {BOUND} s after rank {rank} was killed") from error
    return process.returncode, errors


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def ranks_of(folder: Path) -> dict[int, int]:
    """Process ids of a run's ranks, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        is_rank = "pipeline.run.training_rank" in words and "-u" in words
        if is_rank and words[-2].startswith(str(folder)):
            try:
                found[int(process.environ()["RANK"])] = process.pid
            except (psutil.Error, KeyError):  # it ended meanwhile, or is the launcher
                continue
    return found


def _says_which(ended: tuple[int, str], rank: int) -> bool:
    status, errors = ended
    line = errors.strip().splitlines()[-1]
    said = status == 1 and line.startswith("error: ") and f"rank {rank} on " in line
    said = said and "was killed" in line
    if not said:
        print(f"rank {rank} killed, status {status}: {errors[-1500:]}")
    return said


def _finishes(folder: Path, expected: dict[str, bytes], deepspeed: str) -> bool:
    process = _start(folder, deepspeed)
    _, errors = process.communicate()
    if process.returncode:
        print(f"{folder}: resumed with status {process.returncode}: {errors[-5000:]}")
        for path in sorted((folder / "run/ranks").glob("rank*")):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}")
        return False
    found = TRAINING.outcome(folder)
    wrong = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
    if wrong:
        print(f"{folder}: {wrong} differ")
        return False
    shutil.rmtree(folder)
    return True
