"""No space and no permission: an error of one line, and the same command ends well afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import commands
from tests.faults.targets import TRAINING, TRUNK_CACHE, Target
from tests.faults.workplace import Row, Workplace

DISK = 32 * 2**20
"""Bytes of the small disk that is filled up."""


def full_disk(place: Workplace, number: int) -> Row | None:
    """Fill a small tmpfs so that a run meets its end at a random moment; None if none can be had.

    The run must end with one line that says what to free and, once there is room, go on to the
    same end.
    """
    row = Row("disk full during a training run", seed=place.seed)
    target = TRUNK_CACHE
    needed = _size(place.reference_folder(target))
    for _ in range(number):
        with small_disk(place.folder / "disk") as disk:
            if disk is None:
                return None
            filler, folder = disk / "filler", disk / "trial"
            folder.mkdir()
            left = place.draw.randrange(int(0.9 * needed))
            filler.write_bytes(bytes(DISK - left - 2**18))
            row.count(_refused_then_well(place, target, folder, filler.unlink, "free"))
    return row


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path | None]:
    """Mount a tmpfs of DISK bytes; yield None where that is not allowed."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def quota(place: Workplace, number: int) -> Row:
    """Limit the size of a file (RLIMIT_FSIZE) to a random number of bytes, then lift it."""
    row = Row("quota reached during a training run", seed=place.seed)
    target = TRUNK_CACHE
    made = place.reference_folder(target)
    largest = max(path.stat().st_size for path in made.rglob("*") if path.is_file())
    for _ in range(number):
        limit = place.draw.randrange(200, largest)

        def before(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        folder = place.trial(target)
        row.count(_refused_then_well(place, target, folder, lambda: None, "free", before=before))
    return row


def permissions(place: Workplace, number: int) -> Row:
    """Take the right to write from a folder, before a run or in the middle of it, then return it.

    The run must refuse in a line, or end well where it had no more to write there.
    A file in the folder's place where root, whom permissions do not bind, runs this and the file
    system knows no immutable folders.
    """
    row = Row("no permission to write during a training run", seed=place.seed)
    for _ in range(number):
        folder = place.trial(TRAINING)
        if place.draw.random() < 0.5:  # a run that is half done
            kill = commands.kill_at_write(place.draw.randint(20, 80), folder)
            commands.run(TRAINING.commands(folder), place.log, before=kill)
        name = place.draw.choice(["run", "run/trainer"])
        hindered = folder / name
        hindered.mkdir(parents=True, exist_ok=True)
        allow = forbid(hindered)
        try:
            words = TRAINING.commands(folder)
            ended = commands.run(words, place.log)
        finally:
            allow()
        as_told = ended.refused or ended.status == 0
        if not as_told:
            print(f"without permission for {name}: {ended.errors[-1500:]}")
        row.count(as_told and place.ends_well(TRAINING, folder))
    return row


def forbid(folder: Path) -> Callable[[], None]:
    """Make a folder unwritable; return what undoes it."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        return lambda: folder.chmod(0o755)
    if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode == 0:
        return lambda: subprocess.run(["chattr", "-i", str(folder)], check=True) and None
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.write_text("in the way")

    def undo() -> None:
        folder.unlink()
        aside.rename(folder)

    return undo


def _refused_then_well(
    place: Workplace,
    target: Target,
    folder: Path,
    mend: Callable[[], None],
    expected: str,
    before: Callable[[], None] | None = None,
) -> bool:
    """Run hindered, mend, run again: one line about it first, then the undisturbed outcome."""
    ended = commands.run(target.commands(folder), place.log, before=before)
    mend()
    if ended.status and not (ended.refused and expected in ended.errors):
        print(f"{target.name} in {folder}: status {ended.status}: {ended.errors[-2000:]}")
        return False
    survived = place.ends_well(target, folder)
    if survived:
        shutil.rmtree(folder)
    return survived


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
