"""Baselines that read no prompt, on the pairs that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from eval.baselines import baselines
from eval.benchmarks import BENCHMARKS
from eval.rows import EvaluationRow
from eval.spreadsheet import csv_text
from pipeline.experiments.matrix import benchmark_data
from pipeline.settings import configuration
from pipeline.settings.data import load_data
from rm.data.preferences import PreferencePair
from rm.errors import InputError
from rm.files import atomic_write_text


def run(cfg: DictConfig) -> pd.DataFrame:
    """Fit the baselines to the training pairs, write their table to `cfg.output` and return it.

    They are scored on a benchmark or, with benchmark=validation, on the data's validation pairs.
    Raises InputError for data or a benchmark that cannot be used.
    """
    configuration.check_types(cfg)
    data = load_data(cfg.data)
    if cfg.benchmark == "validation":
        rows = held_out_rows(data.validation)
    else:
        test = benchmark_data(cfg, Path(cfg.output).parent)
        rows = BENCHMARKS[cfg.benchmark].load(test, cfg.ignore)
    if not rows:
        raise InputError(f"data={cfg.data.name} has no validation pairs: give benchmark=…")
    table = baselines(data.train, rows, cfg.resamples)
    atomic_write_text(Path(cfg.output), csv_text(table))
    return table


def held_out_rows(pairs: list[PreferencePair]) -> list[EvaluationRow]:
    """Turn validation pairs into rows; a source is a subset where it lies in one category."""
    named = {(pair.source, pair.category) for pair in pairs}
    fine = len({source for source, _ in named}) == len(named)
    return [
        EvaluationRow(
            **vars(pair),
            subset=pair.source if fine else pair.category or "all",
            section=pair.category or "all",
        )
        for pair in pairs
    ]
