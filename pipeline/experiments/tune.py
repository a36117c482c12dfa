"""A job of a sweep: train one configuration and score it on the held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.experiments.matrix import train_and_validate, train_config, validation_data
from pipeline.experiments.measure import Run
from pipeline.run.run_folder import comparable
from pipeline.settings.data import source_fingerprint
from rm.provenance import fingerprint_of


def tune(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Train and score one configuration; skips finished work.

    Returns `accuracy` (fraction, the mean of the sections), `pairs` and the accuracy of each
    section. The run's folder is named by method, seed and the configuration's fingerprint.
    """
    runs_dir = Path(cfg.runs_dir)
    one = train_config(cfg, overrides, cfg.loss.name, cfg.seed, "tune")
    name = f"{cfg.loss.name}-seed{cfg.seed}-{fingerprint_of(comparable(one))[:8]}"
    one.run_dir = str(runs_dir / name)
    # Named by all that decides which pairs are held out: jobs with other data may run at once.
    section = OmegaConf.to_container(cfg.data, resolve=True)
    data = fingerprint_of([source_fingerprint(cfg.data), section])
    held_out = validation_data(cfg, f"validation-{data}.jsonl")
    run = Run(cfg.loss.name, cfg.seed, runs_dir / name)
    summary = train_and_validate(cfg, one, run, held_out)
    facts = {"accuracy": summary["average"], "pairs": summary["pairs"]}
    return facts | summary["sections"]
