"""Kill a training run at random moments, again and again, until it is through.

    make faults [ARGS='--kills 100 --seed 0']

The smoke profile's run is started, killed with SIGKILL after a random time, and started again by
the same command until it ends. Then its weights, its μ and its metrics must be those of a run that
nobody disturbed, byte for byte. Prints and writes results/benchmarks/faults.csv: fault, tried,
survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from rm.files import atomic_write_text

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results/benchmarks/faults.csv"
SETTINGS = ("profile=smoke", "loss=normbt", "training.save_steps=3", "data.train_pairs=320")
TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


@dataclass
class Tally:
    """How many kills hit a run, and how many runs ended as they should."""

    kills: int = 0
    runs: int = 0
    equal: int = 0


def start(run_dir: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Start the run's command in a process group of its own."""
    words = [*SETTINGS, f"run_dir={run_dir}", f"cache_dir={cache}"]
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.train", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def finish(run_dir: Path, cache: Path) -> float:
    """Run the command to its end; return its seconds. RuntimeError if it fails."""
    began = time.monotonic()
    status = start(run_dir, cache).wait()
    if status:
        raise RuntimeError(f"the command ended with status {status} in {run_dir}")
    return time.monotonic() - began


def killed_or_done(run_dir: Path, cache: Path, seconds: float) -> bool:
    """Start the command and kill it after `seconds`; return whether it ended before that."""
    process = start(run_dir, cache)
    try:
        status = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if status:
        raise RuntimeError(f"the command ended with status {status} after a kill in {run_dir}")
    return True


def outcome(run_dir: Path) -> tuple[bytes, str, list[dict[str, float]]]:
    """What must not depend on kills: weights, the weight's state, metrics without wall times."""
    checkpoint = run_dir / "checkpoint"
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return (
        (checkpoint / "model.safetensors").read_bytes(),
        (checkpoint / "reward_model.json").read_text(),
        metrics,
    )


def trial(
    folder: Path, cache: Path, expected: object, seconds: float, draw: random.Random, tally: Tally
) -> None:
    """One run, killed at random moments until it is through."""
    while not killed_or_done(folder, cache, draw.uniform(0.3, 1.1) * seconds):
        tally.kills += 1
    tally.runs += 1
    tally.equal += outcome(folder) == expected


def kill_runs(kills: int, seed: int, folder: Path) -> Tally:
    """Kill runs `kills` times or a little more; every run is carried to its end."""
    cache, draw, tally = folder / "cache", random.Random(seed), Tally()
    finish(folder / "warm-up", cache)  # makes the backbone
    seconds = finish(folder / "reference", cache)
    expected = outcome(folder / "reference")
    with tqdm(total=kills, desc="kills", unit="kill") as bar:
        while tally.kills < kills:
            trial(folder / f"run{tally.runs}", cache, expected, seconds, draw, tally)
            bar.update(min(tally.kills, kills) - bar.n)
    return tally


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        tally = kill_runs(given.kills, given.seed, Path(name))
    row = {
        "fault": "SIGKILL at a random moment of a training run",
        "tried": tally.kills,
        "runs": tally.runs,
        "survived": tally.equal,
        "seed": given.seed,
    }
    table = pd.DataFrame([row])
    print(table.to_string(index=False))
    atomic_write_text(given.output, table.to_csv(index=False))
    if tally.equal < tally.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
