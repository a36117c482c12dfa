"""Which stages of a pipeline are done, out of date, unfinished, missing or left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from pipeline.experiments.matrix import known_rates, run_configs
from pipeline.experiments.reproduce import best_of_n_left_out
from pipeline.run.run_folder import BEGUN, stale_because
from rm.files import read_json

OLD = "out of date"


def status(cfg: DictConfig, overrides: Sequence[str]) -> pd.DataFrame:
    """Columns: stage, state, seconds, megabytes, why.

    State: done, out of date, unfinished, missing or left out.

    Raises InputError for damaged records, and for a best_of_n=true that cannot work.
    """
    rates = known_rates(cfg)
    configs = run_configs(cfg, overrides, rates)
    rows = [row for one in configs for row in _training(one)]
    if cfg.grid:
        rows.insert(0, _row("learning rates", "done" if rates else "missing", Path("-"), None))
    folder = Path(cfg.results_dir)
    unfinished = any(row["state"] != "done" for row in rows)
    rows.append(_best_of_n(cfg, folder / "data" / "best_of_n.json"))
    manifest = folder / "manifest.json"
    state = "done" if manifest.is_file() else "missing"
    why = ""
    if state == "done" and unfinished:
        state, why = OLD, "not all of its runs are done"
    rows.append({**_row("results", state, folder, _seconds(manifest)), "why": why})
    return pd.DataFrame(rows)


def _training(one: DictConfig) -> list[dict[str, object]]:
    """The lines of one run: its training and its scores."""
    run = Path(one.run_dir)
    name = str(run.relative_to(run.parent.parent))
    stale, manifest = stale_because(one, run), run / "manifest.json"
    state = OLD if stale else "done" if manifest.is_file() else _begun(run)
    scored = (run / "evaluation" / "manifest.json").is_file()
    scores = "missing" if not scored else OLD if stale else "done"
    return [
        {**_row(name, state, run, _seconds(manifest)), "why": "; ".join(stale)},
        _row(f"{name}, scores", scores, run / "evaluation", None),
    ]


def _best_of_n(cfg: DictConfig, made: Path) -> dict[str, object]:
    """The line of Best-of-N, which may be left out, or made with another conf/bon."""
    state, why = "done" if made.is_file() else "missing", best_of_n_left_out(cfg) or ""
    if why:
        state = "left out"
    elif state == "done" and (different := _other_settings(cfg.bon, read_json(made)["bon"])):
        state, why = OLD, different
    return {**_row("Best-of-N", state, made, _seconds(made)), "why": why}


def _other_settings(bon: DictConfig, made: dict[str, Any]) -> str:
    """How a finished Best-of-N differs from the configured one: its size, or its engine."""
    if made["name"] != bon.name:
        return f"bon: {bon.name} ≠ {made['name']}"
    engine = made["policy"]["engine"]
    return "" if engine == bon.policy.engine else f"engine: {bon.policy.engine} ≠ {engine}"


def _begun(folder: Path) -> str:
    return "unfinished" if any((folder / name).exists() for name in BEGUN) else "missing"


def _row(stage: str, state: str, folder: Path, seconds: float | None) -> dict[str, object]:
    files = [folder] if folder.is_file() else folder.rglob("*")
    size = sum(path.stat().st_size for path in files if path.is_file())
    return {
        "stage": stage,
        "state": state,
        "seconds": seconds,
        "megabytes": round(size / 1e6, 1),
        "why": "",
    }


def _seconds(path: Path) -> float | None:
    if not path.is_file():
        return None
    noted = read_json(path)
    return noted.get("seconds", noted.get("seconds_of_this_call"))
