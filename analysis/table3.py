"""Table 3: hyperparameters and cost of every run, from the manifest."""

from pathlib import Path
from typing import Any, Final

import pandas as pd

from analysis.tables import from_manifest, require, write_table

CAPTION: Final = (
    "Table 3. Hyperparameters and cost of every run. Seconds: wall time of the training run on the "
    "machine named, with data and trunk cached where they were; tokens: both sides, one epoch."
)
TRAINING: Final = (
    "part", "top_layers", "learning_rate", "epochs", "global_batch", "max_length", "schedule",
    "optimizer", "weight_decay", "clip_norm", "compute_dtype",
)  # fmt: skip


def collect(results: Path) -> pd.DataFrame:
    """Return one row per run of `results`/manifest.json.

    Columns: method, seed, backbone, data, beta, epsilon (of NormBT's weight; empty without), then
    the training settings, steps, pairs, tokens, seconds, machine.

    Raises InputError: the manifest is missing, unreadable or names no runs.
    """
    rows = from_manifest(results, lambda manifest: [row(run) for run in manifest["runs"]])
    table = pd.DataFrame(rows, columns=None if rows else ["method"])
    return require(table, ["method"], f"{results / 'manifest.json'}")


def row(run: dict[str, Any]) -> dict[str, Any]:
    """Return one run's cells."""
    config, weight = run["config"], run["config"]["loss"]["weight"]
    machine = run["environment"]
    return {
        "method": run["method"],
        "seed": run["seed"],
        "backbone": config["model"]["name"],
        "data": config["data"]["name"],
        "beta": exact(weight.get("beta")),
        "epsilon": exact(weight.get("epsilon")),
        **{name: exact(config["training"].get(name)) for name in TRAINING},
        "steps": run["steps"],
        "pairs": run["tokens"]["pairs"],
        "tokens": run["tokens"]["tokens"],
        "seconds": run["seconds"],
        "machine": ", ".join(machine["accelerators"]) or f"{machine['cpus']} CPUs",
    }


def exact(value: Any) -> Any:
    """Return a float as the shortest text that reads back the same (3e-4 is not 0.0)."""
    return f"{value:g}" if isinstance(value, float) else value


def write(results: Path, folder: Path, note: str = "") -> list[Path]:
    """Write table3 into `folder` and return its paths. Raises InputError: as `collect`."""
    return [*write_table(collect(results), folder / "table3", CAPTION, note)]
