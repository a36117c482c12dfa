"""Files cut short or with a bit flipped: noticed and mended, or refused with what to delete."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.faults import commands
from tests.faults.targets import RUN_AND_SCORES, Target
from tests.faults.workplace import Row, Workplace

UNREAD = (".lock", "writes", "log.txt")
"""Files without content that matters."""


def damage(place: Workplace, number: int) -> list[Row]:
    """Damage the files of an unfinished and of a finished run: each in turn, as often as asked."""
    target = RUN_AND_SCORES
    rows = []
    for state, what in ((unfinished(place, target), "unfinished"), (finished(place), "finished")):
        for kind in (truncate, flip):
            row = Row(f"{kind.__doc__} of {article(what)} run", seed=place.seed)
            rows.append(row)
            for name in chosen(place.draw, state, number):
                row.count(survives(place, target, state, name, kind))
    return rows


def article(word: str) -> str:
    """Put an article before a word."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def chosen(draw: random.Random, state: Path, number: int) -> list[str]:
    """Names of `number` files below `state`: all in random order, again and again if need be."""
    names = sorted(
        str(path.relative_to(state))
        for path in state.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and path.name not in UNREAD
        and path.suffix != ".lock"
        and "data/" not in str(path.relative_to(state))
    )
    found: list[str] = []
    while len(found) < number:
        found += draw.sample(names, len(names))
    return found[:number]


def unfinished(place: Workplace, target: Target) -> Path:
    """A run that was killed when it was about to write its final checkpoint: two others are there.

    Raises RuntimeError if it is not there in the end.
    """
    folder = place.trial(target)
    commands.run(
        target.commands(folder), place.log, before=lambda: _kill_before_the_last_checkpoint()
    )
    if len(list(folder.glob("run/trainer/checkpoint-*"))) != 2:
        raise RuntimeError(f"{folder} has not two checkpoints: {place.log.read_text()[-2000:]}")
    return folder


def _kill_before_the_last_checkpoint() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.mkdir" and "/run/.checkpoint." in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def finished(place: Workplace) -> Path:
    """A run with its scores."""
    folder = place.trial(RUN_AND_SCORES)
    if not place.ends_well(RUN_AND_SCORES, folder):
        raise RuntimeError(f"an undisturbed run in {folder} did not end well")
    return folder


def truncate(content: bytes, draw: random.Random) -> bytes:
    """a file cut short"""
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    """a flipped bit in a file"""
    bit = draw.randrange(8 * len(content))
    return b"".join(
        (content[: bit // 8], bytes([content[bit // 8] ^ 1 << bit % 8]), content[bit // 8 + 1 :])
    )


def survives(place: Workplace, target: Target, state: Path, name: str, kind: Any) -> bool:
    """Damage a file in a copy of `state` and start the command again.

    It must end as if nothing had happened, or refuse in one line; then it must end so after what
    the line says to delete is deleted.
    """
    folder = place.new_folder()
    shutil.copytree(state, folder)
    path = folder / name
    path.write_bytes(kind(path.read_bytes(), place.draw))
    ended = commands.run(target.commands(folder), place.log)
    for _ in range(3):  # one thing may depend on another that is damaged too
        if not ended.refused:
            break
        if ended.remedy is None:
            print(f"{kind.__doc__}, {name}: no remedy in: {ended.errors[-500:]}")
            return False
        delete(ended.remedy)
        ended = commands.run(target.commands(folder), place.log)
    survived = ended.status == 0 and place.is_equal(target, folder)
    if survived:
        shutil.rmtree(folder)
    else:
        print(f"{kind.__doc__}, {name}: status {ended.status}: {ended.errors[-1500:]}")
    return survived


def delete(path: Path) -> None:
    """Delete a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
