"""Comparing finished evaluations: read their folders, compare them, write the table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from eval import comparison
from eval.benchmarks import BENCHMARKS, benchmark_of
from eval.comparison import Evaluation, Options
from eval.protocol import check_scores
from eval.spreadsheet import csv_text
from pipeline.run.evaluation import damaged_outputs
from pipeline.settings import configuration
from rm.errors import InputError
from rm.files import atomic_write_text

FILES = ("scores.parquet", "summary.json", "manifest.json")


def compare(cfg: DictConfig) -> str:
    """Compare the evaluations of `cfg`, write comparison.md and .csv, and return the Markdown.

    Raises InputError for missing or unfinished evaluations, and for whatever
    `eval.comparison.compare` rejects.
    """
    a, b = _read_side(cfg.a, "a"), _read_side(cfg.b, "b")
    given = {name: cfg[name] for name in ("resamples", "seed", "level")}
    options = configuration.typed(Options, OmegaConf.create(given))
    if options.seed < 0:
        raise InputError(f"seed={options.seed}: must be 0 or more")
    table, text = comparison.compare(a, b, options)
    atomic_write_text(Path(cfg.output) / "comparison.csv", csv_text(table))
    atomic_write_text(Path(cfg.output) / "comparison.md", text)
    return text


def _read_side(folders: str | ListConfig, side: str) -> list[Evaluation]:
    names = [*map(str, folders)] if isinstance(folders, ListConfig) else [str(folders)]
    if not names:
        raise InputError(f"{side} is empty: give an output folder of scripts.evaluate")
    resolved = [Path(name).resolve() for name in names]
    if len(set(resolved)) < len(names):
        raise InputError(f"{side} names a folder twice: one evaluation would count as two seeds")
    return [read_evaluation(Path(name)) for name in names]


def read_evaluation(folder: Path) -> Evaluation:
    """Read one evaluation of a pair benchmark. Raises InputError that says what is missing."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} holds no finished evaluation (no {', '.join(missing)}): run "
            f"scripts.evaluate with output={folder}"
        )
    try:
        scores = pd.read_parquet(folder / "scores.parquet")
        summary = json.loads((folder / "summary.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        name, scoring = manifest["inputs"]["benchmark"], dict(manifest.get("scoring", {}))
        summary["sections"], summary["average"], summary["pairs"]
        damaged = [name for name in damaged_outputs(folder) if name in FILES]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(f"{folder}: cannot be read ({reason}); evaluate again") from error
    if damaged:
        raise InputError(f"{folder}: {damaged[0]} has changed since it was written; evaluate again")
    if not benchmark_of(name).in_pairs:
        valid = ", ".join(key for key, each in BENCHMARKS.items() if each.in_pairs)
        raise InputError(f"{folder} is of {name}, scored by item; compare takes {valid}")
    check_scores(scores)
    return Evaluation(folder, name, scores, summary, scoring)
