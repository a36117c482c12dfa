"""One parameter varied at a time: python -m scripts.sweep profile=cpu sweep=beta  (Figure 11).

Trains and scores every value × method × seed of conf/sweep/<name>.yaml as scripts.reproduce would,
and writes results/<profile>/data/sweep.csv: method, parameter, value, seed, section, accuracy
(fraction). Rows of other parameters stay. A finished run is not repeated, and the value that the
configuration has anyway is the run that scripts.reproduce makes. Weights that a sweep made are
dropped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from eval.spreadsheet import csv_text, read_csv
from rm.files import atomic_write_text
from scripts import config as configuration
from scripts.lock import only_one
from scripts.matrix import benchmark_data, train_and_score, train_config
from scripts.measure import Run

COLUMNS = ["method", "parameter", "value", "seed", "section", "accuracy"]


def sweep(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run what is missing of one sweep; return the table's path."""
    with only_one(Path(cfg.runs_dir)):
        return _sweep(cfg, overrides)


def _sweep(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    test = benchmark_data(cfg, Path(cfg.runs_dir))
    plan = [
        (value, method, seed)
        for value in cfg.sweep["values"]
        for method in cfg.sweep.methods
        for seed in cfg.seeds
    ]
    rows: list[dict[str, Any]] = []
    for number, (value, method, seed) in enumerate(plan, start=1):
        print(f"[{number}/{len(plan)}] {cfg.sweep.key}={value}, {method}, seed {seed}", flush=True)
        one = sweep_config(cfg, overrides, method, seed, value)
        run = Run(method, seed, Path(one.run_dir))
        had_weights = run.checkpoint.is_dir()
        train_and_score(cfg, one, run, test)
        if not had_weights:
            shutil.rmtree(run.checkpoint, ignore_errors=True)
        rows += rows_of(run, cfg.sweep.parameter, value)
    path = Path(cfg.results_dir) / "data" / "sweep.csv"
    write(pd.DataFrame(rows)[COLUMNS], path)
    return path


def sweep_config(
    cfg: DictConfig, overrides: Sequence[str], method: str, seed: int, value: float
) -> DictConfig:
    """Compose one run of the sweep, in a folder of the value, or reproduce's where it is the same.

    The same: without the sweep's word the run has that value already.
    """
    base = train_config(cfg, overrides, method, seed, "train")
    if OmegaConf.select(base, cfg.sweep.key) == value:
        return base
    words = [*overrides, f"{cfg.sweep.key}={value}"]
    return train_config(cfg, words, method, seed, f"sweep/{cfg.sweep.parameter}={value}")


def rows_of(run: Run, parameter: str, value: float) -> list[dict[str, Any]]:
    """Section accuracies of a scored run, one row each, and their average."""
    summary = json.loads((run.scores / "summary.json").read_text())
    facts = {"method": run.method, "parameter": parameter, "value": value, "seed": run.seed}
    sections = {**summary["sections"], "average": summary["average"]}
    return [{**facts, "section": name, "accuracy": found} for name, found in sections.items()]


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write the sweep's rows; those of other parameters stay."""
    if path.is_file():
        earlier = read_csv(path)
        frame = pd.concat([earlier[~earlier["parameter"].isin(frame["parameter"])], frame])
    ordered = frame.sort_values(COLUMNS[:-1], kind="stable")
    atomic_write_text(path, csv_text(ordered, float_format="%.6g"))


@configuration.main("sweep")
def main(cfg: DictConfig) -> None:
    """Run one sweep and say where its table is."""
    print(sweep(cfg, HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
