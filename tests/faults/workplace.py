"""Where faults are tried: undisturbed runs to compare with, and a count of what came out."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from generated import generate
from rm.data.preferences import write_pairs
from tests.faults import commands
from tests.faults.targets import PIPELINE_RUN, TRUNK_CACHE, Outcome, Target


@dataclass
class Row:
    """A line of faults.csv: kind of fault, faults tried, runs they hit, runs that survived."""

    fault: str
    tried: int = 0
    runs: int = 0
    survived: int = 0
    seed: int = 0

    def count(self, survived: bool, faults: int = 1) -> None:
        """Count one run that `faults` faults hit."""
        self.tried += faults
        self.runs += 1
        self.survived += survived

    def as_dict(self) -> dict[str, str | int]:
        """The line, column -> value."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it left, its seconds, and how often it changed a file or folder."""

    outcome: Outcome
    seconds: float
    writes: int


class Workplace:
    """A folder for trials, with what the targets need in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Make the backbone, a trained run over a trunk, and pairs to score."""
        self.folder, self.seed = folder, seed
        self.draw = random.Random(seed)
        self._trials = 0
        write_pairs([made.pair for made in generate("test", 24, 0)], folder / "data/test.jsonl")
        self.reference(TRUNK_CACHE)
        made = self.reference_folder(TRUNK_CACHE)
        shutil.copytree(made / "cache/backbones", folder / "cache/backbones")
        shutil.copytree(made / "run", folder / "run")

    @property
    def log(self) -> Path:
        """Where the last command's output is."""
        return self.folder / "log.txt"

    def new_folder(self) -> Path:
        """Return the path of a folder that is not there yet."""
        self._trials += 1
        return self.folder / f"trial{self._trials}"

    def trial(self, target: Target) -> Path:
        """Return a new folder with what `target` needs in it."""
        return target.prepare(self.folder, self.new_folder())

    @cache  # noqa: B019 (one workplace a process)
    def reference(self, target: Target) -> Reference:
        """Run a target undisturbed, once. Raises RuntimeError if that fails."""
        folder = target.prepare(self.folder, self.reference_folder(target))
        counter = self.folder / "writes"
        before = commands.count_writes(counter, folder)
        ended = commands.run(target.commands(folder), self.log, before=before)
        if ended.status:
            raise RuntimeError(f"{target.name}, undisturbed, ended with {ended}")
        return Reference(target.outcome(folder), ended.seconds, counter.stat().st_size)

    def add_results(self) -> None:
        """Put the pipeline's results where `figures` finds them."""
        self.reference(PIPELINE_RUN)
        made = self.reference_folder(PIPELINE_RUN) / "results"
        shutil.copytree(made, self.folder / "results", dirs_exist_ok=True)

    def reference_folder(self, target: Target) -> Path:
        """Where the undisturbed run of a target is."""
        return self.folder / "undisturbed" / target.name.replace(" ", "-")

    def ends_well(self, target: Target, folder: Path) -> bool:
        """Run the commands in `folder`: whether they leave what an undisturbed run does."""
        ended = commands.run(target.commands(folder), self.log)
        if ended.status:
            print(f"{target.name} in {folder} ended with {ended.status}: {ended.errors[-2000:]}")
            return False
        return self.is_equal(target, folder)

    def is_equal(self, target: Target, folder: Path) -> bool:
        """Compare what a run left with what the undisturbed one did; say what differs."""
        expected, found = self.reference(target).outcome, target.outcome(folder)
        wrong = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        if wrong:
            print(f"{target.name} in {folder}: {', '.join(sorted(wrong))} differ")
        return not wrong
