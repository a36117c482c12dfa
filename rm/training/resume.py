"""The checkpoints of an unfinished run, from which it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import nn

from rm.files import damage, is_sealed

TRAINABLE_FILE = "trainable.safetensors"
WEIGHT_STATE_FILE = "pair_weight.json"


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, value in model.named_parameters() if value.requires_grad]


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of the run from which training can go on, or None."""
    folders = (run_dir / "trainer").glob("checkpoint-*")
    return max(filter(is_sealed, folders), key=_step_of, default=None)


def drop_damaged_checkpoints(run_dir: Path) -> list[str]:
    """Delete a run's checkpoints that are not whole; return a line about each.

    Training then goes on from the last good one, or from the start.
    """
    lines = []
    for folder in sorted((run_dir / "trainer").glob("checkpoint-*"), key=_step_of):
        found = damage(folder)
        if found is not None:
            shutil.rmtree(folder)
            lines.append(f"{folder}: {found}; deleted")
    return lines


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def load_mu(checkpoint: Path) -> float | None:
    """Return the pair weight's state that was saved with a checkpoint."""
    return json.loads((checkpoint / WEIGHT_STATE_FILE).read_text())["mu"]
