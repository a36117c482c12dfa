"""The jobs of a sweep: each leaves a record in <folder>/jobs; a table of them; rerunning some."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from eval.spreadsheet import csv_text
from eval.tables import markdown
from pipeline.launch.launchers import ROOT
from pipeline.settings.configuration import key_of
from pipeline.settings.words import quoted
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text
from rm.provenance import fingerprint_of

JOBS = "jobs"
DONE, FAILED, RUNNING, INTERRUPTED = "done", "failed", "running", "interrupted"


@contextlib.contextmanager
def recorded(module: str, folder: Path, run_dir: str | None = None) -> Iterator[dict[str, Any]]:
    """Keep a record of a sweep's job in `folder`/jobs; yield the results for the job to fill.

    `run_dir`: given if the job's folder is named by what the sweep varies, since its overrides
    alone do not tell the folder. The record: module, overrides, run_dir, status, seconds, results
    and, if it failed, the error's first line. It is locked while the job runs, so that a killed job
    is known as such. Outside of a sweep nothing is written.
    """
    results: dict[str, Any] = {}
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        yield results
        return
    words = [word for word in hydra.overrides.task if key_of(word) != "run_dir"]
    job = {"module": module, "overrides": words, **({"run_dir": run_dir} if run_dir else {})}
    path, started = folder / JOBS / f"{fingerprint_of(job)}.json", time.time()

    def write(status: str, error: str = "") -> None:
        facts = {"status": status, "seconds": round(time.time() - started, 1), "error": error}
        atomic_write_json(path, {**job, **facts, "results": results})

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=0):
        write(RUNNING)
        try:
            yield results
        except BaseException as error:
            failed = FAILED if isinstance(error, Exception) else INTERRUPTED
            write(failed, (str(error).strip() or type(error).__name__).splitlines()[0])
            raise
        write(DONE)


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the records in `folder`/jobs, by their overrides; InputError if there are none."""
    paths = sorted((folder / JOBS).glob("*.json"))
    if not paths:
        raise InputError(
            f"{folder} has no jobs: run a sweep first (python -m scripts.tune -m …, "
            f"runs_dir={folder})"
        )
    jobs = [{**json.loads(path.read_text()), "path": path} for path in paths]
    for job in jobs:
        if job["status"] == RUNNING and not _is_held(job["path"].with_suffix(".lock")):
            job["status"] = INTERRUPTED
    return sorted(jobs, key=lambda job: job["overrides"])


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def table(jobs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per job, the best first and then the unfinished ones.

    Columns: the overrides in which the jobs differ (all of them where there is one job), status,
    seconds, accuracy and pairs of validation (NaN without), accuracy by section, error. Accuracies
    are fractions.
    """
    from analysis import sweep_jobs  # matplotlib: a job that only keeps its record needs none

    words = [dict(word.lstrip("+~").split("=", 1) for word in job["overrides"]) for job in jobs]
    names = list(dict.fromkeys(name for one in words for name in one))
    varied = [name for name in names if len({one.get(name) for one in words}) > 1]
    rows = [
        {
            **{name: one.get(name, "") for name in varied or names},
            **{name: job.get(name) for name in sweep_jobs.RESULTS},
            **job["results"],
            "error": job["error"],
        }
        for one, job in zip(words, jobs, strict=True)
    ]
    frame = pd.DataFrame(rows).astype({"accuracy": float, "pairs": "Int64"})
    ends = [*frame.columns.drop("error"), "error"]
    return frame[ends].sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)


def rerun(jobs: Sequence[dict[str, Any]]) -> int:
    """Rerun the failed and interrupted jobs, one after the other; return how many failed."""
    again = [job for job in jobs if job["status"] in (FAILED, INTERRUPTED)]
    failures = 0
    for number, job in enumerate(again, start=1):
        print(f"[{number}/{len(again)}] {' '.join(job['overrides'])}", flush=True)
        place = [f"run_dir={quoted(str(job['run_dir']))}"] if "run_dir" in job else []
        command = [sys.executable, "-m", job["module"], "-m", *job["overrides"], *place]
        failures += subprocess.run(command, cwd=ROOT).returncode != 0
    return failures


def write(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Write jobs.csv, jobs.md and, where two jobs can be compared, the figure; return the paths."""
    from analysis import sweep_jobs
    from analysis.style import write_figure

    paths = [folder / "jobs.csv", folder / "jobs.md"]
    atomic_write_text(paths[0], csv_text(frame))
    cells = frame.astype(object).where(frame.notna(), "")
    parts = [markdown(list(frame.columns), cells.values.tolist())]
    if sweep_jobs.can_draw(frame):
        figure = sweep_jobs.draw(sweep_jobs.collect(folder), note=str(folder))
        paths += write_figure(figure, folder / "jobs")
        parts += ["![The jobs](jobs.png)", str(figure.get_label())]
    atomic_write_text(paths[1], "\n\n".join(parts) + "\n")
    return paths
