"""Training runs of a pipeline, side by side where that is faster, with one progress display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from analysis.style import plural
from pipeline.experiments.measure import Run
from pipeline.launch.side_by_side import Job, run_all
from pipeline.launch.terminal import Screen
from pipeline.run.run_folder import stale_because, steps_done
from pipeline.run.training import prepare
from rm.errors import InputError
from rm.provenance import usable_cores
from rm.training.settings import step_count

TRAINING_SHARE = 0.9
"""Part of a run's time that training takes; the rest is scoring (about so on two CPU cores)."""


def do_all(
    cfg: DictConfig,
    screen: Screen,
    name: str,
    jobs: Sequence[Job],
    runs: Sequence[Run],
    configs: Sequence[DictConfig],
) -> None:
    """Do the `jobs` that train and score `runs`, as many at a time as `workers_of` says.

    jobs[i], runs[i] and configs[i] belong together.

    Jobs side by side are preceded by a stage that prepares what they share: backbone, tokens and
    frozen layers. If a job fails, the others are ended and its error is raised. Runs that are out
    of date are named before they are retrained.
    """
    workers = min(workers_of(cfg), len(jobs))
    stale = [stale_because(one, run.folder) for one, run in zip(configs, runs, strict=True)]
    if any(stale):
        named = plural(sum(map(bool, stale)), "run")
        why = "; ".join(next(filter(None, stale))[:3])
        screen.line(f"out of date, to be retrained: {named} in {cfg.runs_dir} ({why})")
    steps = [most_steps(one) for one in configs]
    if workers > 1:
        begun = next((one for one in configs if not is_trained(Path(one.run_dir))), None)
        if begun is not None:
            with screen.stage("prepare backbone, tokens and frozen layers"):
                prepare(begun)  # with all cores
    with screen.stage(name, lambda: progress(runs, steps)):
        here, beside = (jobs, []) if workers == 1 else split(jobs, runs, stale)
        for job in here:
            print(job.name, flush=True)
            job.work(*job.arguments)
        run_all(beside, workers, log_file(cfg))


def split(
    jobs: Sequence[Job], runs: Sequence[Run], stale: Sequence[list[str]]
) -> tuple[list[Job], list[Job]]:
    """The jobs of finished runs, checked faster than a process starts, and the other jobs."""
    here: list[Job] = []
    beside: list[Job] = []
    for job, run, why in zip(jobs, runs, stale, strict=True):
        (here if is_scored(run) and not why else beside).append(job)
    return here, beside


def workers_of(cfg: DictConfig) -> int:
    """How many runs go side by side: `workers`, or one per core if a run takes one CPU process.

    Raises InputError for a number below 1.
    """
    if cfg.workers is not None:
        if not isinstance(cfg.workers, int) or cfg.workers < 1:
            raise InputError(f"workers={cfg.workers}: must be a whole number, 1 or more, or null")
        return int(cfg.workers)
    alone = cfg.devices == 1 and not torch.cuda.is_available() and cfg.launch.name == "local"
    return usable_cores() if alone else 1


def log_file(cfg: DictConfig) -> Path:
    """The log: everything that is not for the person at the terminal."""
    return Path(cfg.runs_dir) / "log.txt"


def most_steps(one: DictConfig) -> int | None:
    """Optimiser steps of a run on generated pairs, None where the number of pairs is not known."""
    pairs = one.data.get("train_pairs")
    settings = one.training
    return None if pairs is None else step_count(settings.epochs, pairs, settings.global_batch)


def is_trained(folder: Path) -> bool:
    """Whether a run is trained to its end."""
    return (folder / "manifest.json").is_file()


def progress(runs: Sequence[Run], steps: Sequence[int | None]) -> tuple[float, str]:
    """Share of the runs' steps that is done, and what is at work: "run 3 of 6, bt seed 1"."""
    done = [_done(run, most) for run, most in zip(runs, steps, strict=True)]
    working = [run for run, share in zip(runs, done, strict=True) if 0 < share < 1]
    finished = sum(share == 1 for share in done)
    names = ", ".join(f"{run.method} seed {run.seed}" for run in working)
    place = min(finished + max(len(working), 1), len(runs))
    sizes = [most or 1 for most in steps]
    total = sum(size * share for size, share in zip(sizes, done, strict=True)) / sum(sizes)
    return total, f"run {place} of {len(runs)}" + (f", {names}" if names else "")


def is_scored(run: Run) -> bool:
    """Whether a run is trained and scored to its end."""
    return (run.scores / "manifest.json").is_file()


def _done(run: Run, most: int | None) -> float:
    if is_scored(run):
        return 1.0
    if is_trained(run.folder):
        return TRAINING_SHARE
    if most is None:
        return 0.0
    return TRAINING_SHARE * min(steps_done(run.folder) / most, 1.0)
