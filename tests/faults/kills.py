"""SIGKILL at random: after some seconds, or just before some change of a file; and before each."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults import commands
from tests.faults.targets import EVALUATION, FIGURES, PIPELINE_RUN, TRAINING, TRUNK_CACHE, Target
from tests.faults.workplace import Row, Workplace

SHARES = {TRAINING: 40, TRUNK_CACHE: 20, EVALUATION: 15, FIGURES: 10, PIPELINE_RUN: 15}
"""How many of a hundred kills hit what."""
A_RUN = 5
"""Kills that hit one run at most; then it is left to end."""
EVERY = (TRAINING, TRUNK_CACHE, EVALUATION)
"""What is killed before each change of a file."""
SHORT = {TRAINING: 3, TRUNK_CACHE: 2, EVALUATION: 1}


def kill(place: Workplace, target: Target, kills: int) -> Row:
    """Kill runs of `target` until `kills` have hit; carry every run to its end."""
    row = Row(f"SIGKILL of {target.name}", seed=place.seed)
    if target is FIGURES:
        place.add_results()
    while row.tried < kills:
        folder = place.trial(target)
        hits, most = 0, min(A_RUN, kills - row.tried)
        while hits < most and (ended := killed_or_ended(place, target, folder)).killed:
            hits += 1
        if hits == most:
            ended = commands.run(target.commands(folder), place.log)
        if ended.status:
            print(f"{target.name} in {folder} ended with {ended.status}: {ended.errors[-2000:]}")
        survived = ended.status == 0 and place.is_equal(target, folder)
        row.count(survived, hits)
        if survived:
            shutil.rmtree(folder)
    return row


def kill_at_every_change(place: Workplace, target: Target, last: int | None = None) -> Row:
    """Kill one run just before its first change of a file or folder, one before its second, …

    Or before the `last` ones alone, where what was made is put in its place.
    """
    row = Row(f"SIGKILL before each change of a file by {target.name}", seed=place.seed)
    changes = range(1, place.reference(target).writes + 1)
    for number in changes if last is None else changes[-last:]:
        folder = place.trial(target)
        before = commands.kill_at_write(number, folder)
        if not commands.run(target.commands(folder), place.log, before=before).killed:
            break  # it changes fewer files than the undisturbed run, which made the caches
        survived = place.ends_well(target, folder)
        row.count(survived)
        if survived:
            shutil.rmtree(folder)
        else:
            print(f"{target.name}: killed before change {number}")
    return row


def killed_or_ended(place: Workplace, target: Target, folder: Path) -> commands.Ended:
    """Start the command and kill it at a random moment, if it has not ended by then."""
    reference = place.reference(target)
    words, log = target.commands(folder), place.log
    if place.draw.random() < 0.5:
        seconds = place.draw.uniform(0, 1.1) * reference.seconds
        return commands.run(words, log, kill_after=seconds)
    number = place.draw.randint(1, round(1.1 * reference.writes))
    return commands.run(words, log, before=commands.kill_at_write(number, folder))
