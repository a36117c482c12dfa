"""One parameter varied at a time: its runs, and the files behind Figure 11 and Table 5.

Each call replaces the rows of its own runs and keeps all others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from analysis.style import plural
from analysis.table5 import SWEPT
from eval.spreadsheet import csv_text, read_csv, write_parquet
from pipeline.experiments.freeze import check_freeze
from pipeline.experiments.matrix import (
    Rates,
    benchmark_data,
    benchmark_name,
    check_call,
    choose_rates,
    command,
    for_others,
    label,
    run_facts,
    scored_how,
    train_and_score,
    train_config,
)
from pipeline.experiments.measure import Run
from pipeline.experiments.runs import do_all, log_file
from pipeline.launch.lock import only_one
from pipeline.launch.side_by_side import Job
from pipeline.launch.terminal import Screen, screen
from pipeline.run.run_folder import comparable, differences, stale_because
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text, read_json
from rm.provenance import environment

COLUMNS = ["method", "parameter", "value", "seed", "section", "accuracy"]
RUN = [*SWEPT, "method", "seed"]
"""Columns that identify a run among those of all sweeps."""
OF_A_PAIR = (
    *("pair_id", "subset", "section", "cluster"),
    *("reward_chosen", "reward_rejected", "truncated"),
)
"""Columns of a run's scores that sweep_scores.parquet keeps."""
OF_A_LOSS = ("seed", "training.micro_batch", "training.micro_batch_tokens", "training.share_prefix")
"""Settings that depend on the method and the seed, and so differ within a sweep."""
RATE = "training.learning_rate"
DIGITS = ".6g"
"""Format of numbers in sweep.csv; two values are equal if they are written alike."""


def sweep(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run the missing runs of one sweep; return the table's path."""
    with only_one(Path(cfg.runs_dir)), screen(log_file(cfg)) as shown:
        return _sweep(cfg, overrides, shown)


def _sweep(cfg: DictConfig, overrides: Sequence[str], shown: Screen) -> Path:
    check_call(cfg, overrides)
    check_freeze(cfg)
    if cfg.grid and cfg.sweep.key == RATE:
        raise InputError(f"a sweep of {RATE} chooses no learning rates: give grid=[]")
    noted = Path(cfg.results_dir) / "data" / "sweep.json"
    parts = read_json(noted) if noted.is_file() else {}
    check(cfg, parts, noted.parent)
    test = benchmark_data(cfg, Path(cfg.runs_dir))

    def planned(rates: Rates) -> list[tuple[float, str, int, DictConfig]]:
        return [
            (value, method, seed, sweep_config(cfg, overrides, method, seed, value, rates))
            for value in cfg.sweep["values"]
            for method in cfg.sweep.methods
            for seed in cfg.seeds
        ]

    plan = planned({})  # raises what is wrong before anything is trained
    if cfg.grid:  # rates are chosen at the configured value and kept at all others
        asked = OmegaConf.create({**cfg, "methods": cfg.sweep.methods})
        plan = planned(choose_rates(asked, overrides, shown, keep_others=True))
    check_alike(cfg, plan[0][-1], parts, noted.parent)
    runs = [Run(method, seed, Path(one.run_dir)) for _, method, seed, one in plan]
    jobs = [
        Job(f"{cfg.sweep.key}={value}, {method}, seed {seed}", train_one, (cfg, one, run, test))
        for (value, method, seed, one), run in zip(plan, runs, strict=True)
    ]
    shown.line(f"{cfg.sweep.key} = {cfg.sweep['values']}, {label(cfg)}; log: {log_file(cfg)}")
    name = f"train and score {plural(len(runs), 'model')}"
    do_all(cfg, shown, name, jobs, runs, [one for *_, one in plan])
    table = write(cfg, [value for value, *_ in plan], runs)
    write_manifest(cfg, overrides, Path(cfg.results_dir))
    return table


def train_one(cfg: DictConfig, one: DictConfig, run: Run, test: str) -> None:
    """Train and score a run; delete the checkpoint of one that only the sweep reads."""
    train_and_score(cfg, one, run, test)
    if run.folder.is_relative_to(Path(cfg.runs_dir) / "sweep"):
        shutil.rmtree(run.checkpoint, ignore_errors=True)


def write(cfg: DictConfig, values: Sequence[float], runs: Sequence[Run]) -> Path:
    """Write the files of a sweep's finished runs, one value for each; return the table's path."""
    rows: list[dict[str, Any]] = []
    scores, facts = [], []
    for value, run in zip(values, runs, strict=True):
        rows += rows_of(run, cfg.sweep.parameter, value)
        scores.append(scores_of(cfg, run, value))
        facts.append({"value": value, **run_facts(run)})
    folder = Path(cfg.results_dir) / "data"
    merge(pd.DataFrame(rows)[COLUMNS], folder / "sweep.csv", COLUMNS[:-1])
    merge(pd.concat(scores), folder / "sweep_scores.parquet", RUN)
    note(cfg, facts, folder / "sweep.json")
    return folder / "sweep.csv"


def write_manifest(cfg: DictConfig, overrides: Sequence[str], results: Path) -> None:
    """Write the manifest that figures need, if `reproduce` has not written one here."""
    path = results / "manifest.json"
    if path.is_file() and "sweeps" not in read_json(path):
        return
    parts = read_json(results / "data" / "sweep.json")
    atomic_write_json(
        path,
        {
            "profile": cfg.profile.name,
            "label": label(cfg),
            "command": command("scripts.sweep", overrides),
            "sweeps": [*parts],
            "runs": [run for part in parts.values() for run in part["runs"]],
            "benchmark": cfg.benchmark,
            "benchmark_data": benchmark_name(cfg),
            **({"intervals": "crossed"} if len(cfg.seeds) > 1 else {}),
            "environment": environment(),
        },
    )


def result(table: Path, parameter: str) -> str:
    """The average accuracy at each value of a parameter, percent, one column per method."""
    frame = read_csv(table)
    rows = frame[(frame["parameter"] == parameter) & (frame["section"] == "average")]
    means = rows.pivot_table(index="value", columns="method", values="accuracy") * 100
    means.columns.name, means.index.name = None, parameter
    means.index = means.index.map("{:g}".format)
    return means.reset_index().to_string(index=False, float_format="%.1f")


def check(cfg: DictConfig, parts: dict[str, Any], folder: Path) -> None:
    """Raise InputError for a results folder of other sweeps; `parts`: its sweep.json."""
    others = {str(part["label"]) for part in parts.values()} - {label(cfg)}
    if others:
        raise InputError(
            f"{folder} has sweeps of {'; '.join(sorted(others))}: give another results_dir"
        )
    asked = scored_how(cfg)
    for part in parts.values():
        unlike = [key for key, value in asked.items() if part.get(key, value) != value]
        if unlike:
            raise InputError(
                f"{folder} has a sweep that was scored with other {' and '.join(unlike)}: give "
                "another results_dir"
            )


def check_alike(cfg: DictConfig, one: DictConfig, parts: dict[str, Any], folder: Path) -> None:
    """Raise InputError if a recorded run has other settings than `one`, a run of this sweep.

    Seed, loss, the swept key, what a loss asks for (`train_config`) and learning rates chosen from
    a grid may differ.
    """
    asked: Any = OmegaConf.to_container(one, resolve=True)
    for part in parts.values():
        swept = {part["sweep"]["key"], cfg.sweep.key, *([RATE] if cfg.grid else [])}
        ours = settings_beside(asked, swept)
        for noted in part["runs"]:
            unlike = differences(ours, settings_beside(noted["config"], swept))
            if unlike:
                raise InputError(
                    f"{folder} has a sweep of other settings ({'; '.join(unlike[:3])}), which one "
                    "curve would mix: give another results_dir"
                )


def settings_beside(config: dict[str, Any], swept: set[str]) -> dict[str, Any]:
    """What a run's result depends on, flat, except seed, loss and the `swept` keys.

    The seed's own draw of training pairs goes with the seed.
    """
    flat = comparable(OmegaConf.create(for_others(config)))
    if flat.get("data.draw") == config["seed"]:
        del flat["data.draw"]
    return {
        key: value
        for key, value in flat.items()
        if key not in {*swept, *OF_A_LOSS} and not key.startswith("loss.")
    }


def sweep_config(
    cfg: DictConfig, overrides: Sequence[str], method: str, seed: int, value: float, rates: Rates
) -> DictConfig:
    """Compose one run of the sweep, in the value's own folder or in that of reproduce's run.

    The latter if the configuration has that value anyway, and no run of other settings lies there.

    Raises InputError for a method whose loss has no such key.
    """
    own = rates.get(method, [])
    overrides = [*overrides, *own]
    base = train_config(cfg, overrides, method, seed, "-".join(["train", *own]))
    same = OmegaConf.select(base, cfg.sweep.key) == value
    if same and not stale_because(base, Path(base.run_dir)):
        return base
    written = int(value) if float(value).is_integer() else value  # 4 and 4.0 are one value
    words = [*overrides, f"{cfg.sweep.key}={written}"]
    return train_config(cfg, words, method, seed, f"sweep/{cfg.sweep.parameter}={written}")


def rows_of(run: Run, parameter: str, value: float) -> list[dict[str, Any]]:
    """Section accuracies of a scored run, one row each, and their average."""
    summary = json.loads((run.scores / "summary.json").read_text())
    facts = {"method": run.method, "parameter": parameter, "value": value, "seed": run.seed}
    sections = {**summary["sections"], "average": summary["average"]}
    return [{**facts, "section": name, "accuracy": found} for name, found in sections.items()]


def scores_of(cfg: DictConfig, run: Run, value: float) -> pd.DataFrame:
    """A scored run's pairs: what Table 5 reads of them, and the columns that identify the run."""
    frame = pd.read_parquet(run.scores / "scores.parquet")
    frame = frame[[name for name in OF_A_PAIR if name in frame]]
    facts = {"parameter": cfg.sweep.parameter, "value": float(value)}
    facts |= {"method": run.method, "seed": run.seed, "backbone": cfg.model.name}
    return frame.assign(**facts, data=cfg.data.name, benchmark=cfg.benchmark)


def merge(frame: pd.DataFrame, path: Path, keys: list[str]) -> None:
    """Write a table of the sweep, ordered by `keys`; keep the rows of runs that `frame` lacks."""
    as_csv = path.suffix == ".csv"
    if path.is_file():
        earlier = read_csv(path) if as_csv else pd.read_parquet(path)
        frame = pd.concat([earlier[~runs_in(earlier).isin(runs_in(frame))], frame])
    ordered = frame.sort_values(keys, kind="stable")
    if as_csv:
        atomic_write_text(path, csv_text(ordered, float_format=f"%{DIGITS}"))
    else:
        write_parquet(ordered, path)


def runs_in(frame: pd.DataFrame) -> pd.MultiIndex:
    """The run of each row, as `RUN` names it."""
    values = [format(value, DIGITS) for value in frame["value"]]
    return pd.MultiIndex.from_frame(frame[RUN].assign(value=values))


def note(cfg: DictConfig, runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the manifest of one parameter's sweep into `path`; keep those of other parameters.

    Other runs of this parameter stay too. Settings and environment are those of this call.
    """
    parts = read_json(path) if path.is_file() else {}
    earlier = parts.get(cfg.sweep.parameter, {}).get("runs", [])
    noted = {run_key(one): one for one in [*earlier, *runs]}
    parts[cfg.sweep.parameter] = {
        "label": label(cfg),
        "sweep": OmegaConf.to_container(cfg.sweep),
        "runs": sorted(noted.values(), key=lambda one: (one["value"], one["method"], one["seed"])),
        **scored_how(cfg),
        "environment": environment(),
    }
    atomic_write_json(path, dict(sorted(parts.items())))


def run_key(facts: dict[str, Any]) -> tuple[str, str, int]:
    """What identifies a recorded run among the others of its parameter."""
    return format(facts["value"], DIGITS), facts["method"], facts["seed"]
