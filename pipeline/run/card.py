"""The model card of a checkpoint, from the run's manifest and its scores, if it has any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from rm.errors import InputError
from rm.files import atomic_write_text, read_json

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
SPDX = {"Apache-2.0": "apache-2.0", "MIT": "mit"}
"""Licences that the Hub has a name for; all others are "other" there."""


def write_card(run_dir: Path) -> Path:
    """Write `checkpoint/README.md` of a finished run; return its path.

    Raises InputError if the run is not finished.
    """
    path = run_dir / "checkpoint" / "README.md"
    atomic_write_text(path, card(run_dir))
    return path


def card(run_dir: Path) -> str:
    """Render the card. Raises InputError if the run is not finished."""
    manifest_file, weight_file = (
        run_dir / "manifest.json",
        run_dir / "checkpoint" / "reward_model.json",
    )
    if not manifest_file.is_file() or not weight_file.is_file():
        raise InputError(f"{run_dir} holds no finished run: train it first (scripts.train)")
    manifest = read_json(manifest_file)
    summary_file = run_dir / "evaluation" / "summary.json"
    scores = json.loads(summary_file.read_text()) if summary_file.is_file() else None
    template = jinja2.Template(
        TEMPLATE.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return template.render(scores=scores, **facts(manifest, json.loads(weight_file.read_text())))


def facts(manifest: dict[str, Any], weight: dict[str, Any]) -> dict[str, Any]:
    """What the card says of a run; no folder of the machine is in it."""
    config, environment = manifest["config"], manifest["environment"]
    training, data = config["training"], config["data"]
    parts = {
        "top_layers": f"top {training['top_layers']} layers and the head",
        "full": "all layers",
    }
    return {
        "method": config["loss"]["name"],
        "mu": weight["mu"],
        "model": config["model"]["name"],
        "base_model": config["model"]["hub"],
        "source": manifest["backbone"],
        "head_kept": manifest.get("head") == "kept",
        "license": config["model"]["license"],
        "spdx": SPDX.get(config["model"]["license"]),
        "data": data["name"],
        "data_license": data["license"],
        "generated": data["kind"] == "generated",
        "pairs": manifest["tokens"]["pairs"],
        "part": parts.get(training["part"], training["part"]),
        "steps": manifest["steps"],
        "global_batch": training["global_batch"],
        "learning_rate": training["learning_rate"],
        "max_length": training["max_length"],
        "seed": manifest["seed"],
        "commit": environment["code"]["commit"],
        "changed": environment["code"]["changed"],
        "torch": environment["packages"]["torch"],
        "transformers": environment["packages"]["transformers"],
    }
