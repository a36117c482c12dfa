"""Disturb the project's commands in every way that a machine does, and count what survives.

    make faults [ARGS='--seed 1 --only kills']      all kinds; about an hour on two cores
    python -m tests.faults.harness --short          a few of the quick kinds, for `make test`

Kinds: kills (SIGKILL of training, cache, evaluation, figures and report, whole pipeline, at random
moments and just before random changes of files), changes (SIGKILL just before each change of a
file of training, cache and evaluation, one run a change), disk (full tmpfs, quota), damage (files
cut short, bits flipped), permissions, ranks (one of two ranks killed, the command over two ranks
killed), fuzz (damaged files for the loaders), models (damaged model folders). A run has survived if
it ends, after the same command again, with the very bytes of a run that nobody disturbed, or if it
refuses in one line and does so after what the line says to delete is deleted.

Each kind's lines are written to results/benchmarks/faults.csv (fault, tried, runs, survived, seed)
as soon as it is done, in the place of its older ones: an interrupted call resumes with --only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from rm.files import atomic_write_text
from tests.faults import commands, damage, fuzz, hindrances, kills, model_folders, ranks
from tests.faults.workplace import Row, Workplace

OUTPUT = commands.ROOT / "results/benchmarks/faults.csv"
COLUMNS = ["fault", "tried", "runs", "survived", "seed"]


def all_kills(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Kill every target, `hundred` kills in all; in short the quick ones."""
    if short:
        return [kills.kill(place, target, number) for target, number in kills.SHORT.items()]
    return [
        kills.kill(place, target, round(hundred * share / 100))
        for target, share in kills.SHARES.items()
    ]


def every_change(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Kill just before each change of a file, whatever `hundred` is; in short the last ones."""
    if short:
        return [kills.kill_at_every_change(place, kills.TRAINING, last=6)]
    return [kills.kill_at_every_change(place, target) for target in kills.EVERY]


def disk(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Fill the disk and reach the quota."""
    number = 1 if short else max(1, hundred // 5)
    full = hindrances.full_disk(place, number)
    if full is None:
        print("disk full: left out, no file system can be mounted here (the quota takes its place)")
    return [*([full] if full else []), hindrances.quota(place, number)]


def damaged(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Cut files short and flip bits."""
    return damage.damage(place, 1 if short else max(1, hundred // 2))


def permissions(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Take the right to write."""
    return [hindrances.permissions(place, 1 if short else max(1, hundred // 10))]


def dropped_ranks(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Kill one of two ranks, and the command over them; not in short, where pytest does."""
    if short:
        return []
    number = max(1, hundred // 20)
    dropped = [ranks.drop_rank(place, number, name) for name in ("off", "zero2", "zero3")]
    return [*dropped, ranks.drop_command(place, number)]


def fuzzed(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Damaged data files for the loaders, five minutes of them; not in short, where pytest does."""
    if short:
        return []
    ends, failures = fuzz.fuzz(hundred / 20, place.seed, commands.ROOT / "runs/fuzz")
    for seed, trace in failures[:10]:
        print(f"--- {seed}\n{trace}")
    return [Row(**fuzz.row(ends, place.seed))]


def model_fuzz(place: Workplace, hundred: int, short: bool) -> list[Row]:
    """Damaged model folders, 2,500 of them; not in short, where pytest does."""
    if short:
        return []
    ends, failures = model_folders.fuzzed(25 * hundred, place.seed, commands.ROOT / "runs/fuzz")
    for seed, trace in failures[:10]:
        print(f"--- {seed}\n{trace}")
    return [model_folders.row(ends, place.seed)]


# Another kind is a function of (place, hundred, short) that returns rows.
KINDS: dict[str, Callable[[Workplace, int, bool], list[Row]]] = {
    "kills": all_kills,
    "changes": every_change,
    "disk": disk,
    "damage": damaged,
    "permissions": permissions,
    "ranks": dropped_ranks,
    "fuzz": fuzzed,
    "models": model_fuzz,
}


def write(rows: Sequence[Row], output: Path) -> pd.DataFrame:
    """Put the rows into the table at `output`, in place of those of the same faults."""
    made = pd.DataFrame([row.as_dict() for row in rows], columns=COLUMNS)
    if output.is_file():
        older = pd.read_csv(output)
        made = pd.concat([older[~older["fault"].isin(made["fault"])], made])
    atomic_write_text(output, made.to_csv(index=False))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb, count, write; exit with 1 if anything did not survive."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="number of kills; the rest by it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    commands.load()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        place = Workplace(Path(name), given.seed)
        for kind in given.only:
            found = KINDS[kind](place, given.kills, given.short)
            print("\n".join(f"{row}" for row in found), flush=True)
            rows += found
            write(rows, given.output)
    print(pd.read_csv(given.output).to_string(index=False))
    if any(row.survived < row.runs for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
