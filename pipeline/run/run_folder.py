"""The folder of a training run: which run it holds, whether it is finished or out of date."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.run.card import write_card
from pipeline.settings import configuration
from pipeline.settings.data import source_fingerprint
from rm.errors import InputError
from rm.files import (
    atomic_write_json,
    atomic_write_text,
    changed,
    damage,
    is_sealed,
    read_json,
    remove_unfinished,
)
from rm.model.backbones import folder_fingerprint

# Settings that do not change a run's result: not compared between two configurations.
NEUTRAL = (
    *("run_dir", "cache_dir", "debug", "tracking", "profile", "experiment", "launch"),
    *("training.attention", "training.save_steps", "data.license", "data.test_pairs"),
    *("loss.label", "loss.base", "loss.role"),  # words for tables
)
ADDED: dict[str, Any] = {"model.head": "auto", "data.ignore": [], "training.trunk_pool": False}
"""Settings that older runs lack → the value that behaves as before, which counts as equal."""
MODEL_FILE = "reward_model.json"
INPUTS_FILE = "inputs.json"
RECORDS = ("metrics.jsonl", "split.json")
"""Files of a run that its manifest holds the checksums of."""
BEGUN = ("metrics.jsonl", "trainer", "checkpoint", "manifest.json")
"""Files and folders; at least one of them exists from a run's first step on."""
VERSION = 1
"""Increased when the same configuration and data train another model; makes runs out of date."""


def claim_run_dir(cfg: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """Save the configuration in `run_dir`; return the manifest if the run is finished.

    Raises InputError as `finished_manifest` does, and for files of a run without its config.yaml.
    """
    others = [name for name in BEGUN if (run_dir / name).exists()]
    if others and not (run_dir / "config.yaml").is_file():
        raise InputError(f"{run_dir} contains {others[0]} but no config.yaml: give another run_dir")
    finished = finished_manifest(cfg, run_dir)
    if finished is None:
        atomic_write_json(run_dir / INPUTS_FILE, inputs_of(cfg))
        atomic_write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    return finished


def finished_manifest(cfg: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """Return the manifest of the run in `run_dir`, None if it is not finished.

    Raises InputError, naming the difference, if the folder holds a run of another configuration
    (number of ranks included), of other data, or of an earlier training code; and if what a
    finished run wrote is damaged.
    """
    different = stale_because(cfg, run_dir)
    if different:
        raise InputError(
            f"{run_dir} holds a run with other settings ({'; '.join(different[:3])}): "
            f"choose another run_dir or delete {run_dir}"
        )
    saved, manifest = run_dir / "config.yaml", run_dir / "manifest.json"
    if saved.is_file() and manifest.is_file():
        finished = read_json(manifest)
        require_records(run_dir, finished)
        return finished
    return None


def require_records(run_dir: Path, manifest: dict[str, Any]) -> None:
    """Raise InputError if a finished run's metrics, split or checkpoint are not as it wrote them.

    A checkpoint that was deleted to save space does not count as damaged.
    """
    noted, checkpoint = manifest.get("records", {}), run_dir / "checkpoint"
    wrong = [f"{name} is damaged or missing" for name in changed(run_dir, noted)]
    found = damage(checkpoint) if is_sealed(checkpoint) else None
    wrong += [f"checkpoint: {found}"] if found else []
    if wrong:
        raise InputError(
            f"{run_dir}: {wrong[0]}: delete {run_dir}, and the same command retrains it"
        )


def stale_because(cfg: DictConfig, run_dir: Path) -> list[str]:
    """Name what differs between `cfg` and the run in `run_dir`, begun or finished; [] if nothing.

    A run that ended before its first step (a misspelt file) has not begun.
    """
    saved, noted = run_dir / "config.yaml", run_dir / INPUTS_FILE
    begun = any((run_dir / name).exists() for name in BEGUN)
    if not saved.is_file() or not begun:
        return []
    different = differences(comparable(cfg), comparable(configuration.load_saved(saved)))
    inputs = read_json(noted) if noted.is_file() else {}
    return different + differences(inputs_of(cfg), inputs)


def inputs_of(cfg: DictConfig) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    inputs = {"training code": VERSION, "data fingerprint": source_fingerprint(cfg.data)}
    return inputs | backbone_of(cfg.model)


def backbone_of(model: DictConfig) -> dict[str, str]:
    """The fingerprint of a folder of the user's own, which may change under its name; else {}."""
    return {"backbone fingerprint": folder_fingerprint(model.path)} if model.path else {}


def comparable(cfg: Any) -> dict[str, Any]:
    """Return the settings that change a run's result, flat: dotted key -> value."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    neutral = tuple(f"{name}." for name in NEUTRAL)
    return {
        k: v
        for k, v in _flatten(content).items()
        if not f"{k}.".startswith(neutral) and not (k in ADDED and ADDED[k] == v)
    }


def _flatten(content: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the keys in which two flat configurations differ, with both values."""
    keys = sorted(set(one) | set(other))
    return [f"{k}: {one.get(k)} ≠ {other.get(k)}" for k in keys if one.get(k) != other.get(k)]


def complete(run_dir: Path) -> None:
    """Give a run's checkpoint its card, and delete what only resuming needs.

    Comes after the manifest, so a kill can come between: a finished run is completed again.
    """
    checkpoint = run_dir / "checkpoint"
    remove_unfinished(checkpoint)  # half a card
    if checkpoint.is_dir() and not (checkpoint / "README.md").is_file():
        write_card(run_dir)
    shutil.rmtree(run_dir / "trainer", ignore_errors=True)


def steps_done(run_dir: Path) -> int:
    """How many optimiser steps a run has recorded."""
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        return sum(1 for _ in file)
