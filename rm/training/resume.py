"""The checkpoints from which an unfinished run resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import nn

from rm.files import damage, is_sealed

TRAINABLE_FILE = "trainable.safetensors"
WEIGHT_STATE_FILE = "pair_weight.json"
METRICS_FILE = "metrics.jsonl"


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, value in model.named_parameters() if value.requires_grad]


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint from which training can resume, or None."""
    folders = (run_dir / "trainer").glob("checkpoint-*")
    return max(filter(is_sealed, folders), key=_step_of, default=None)


def drop_damaged_checkpoints(run_dir: Path) -> list[str]:
    """Delete a run's damaged checkpoints and return one line about each.

    A good checkpoint is complete, and metrics.jsonl has every step up to it. Training resumes from
    the last good checkpoint, or starts from step 0 if there is none.
    """
    lines, metrics = [], run_dir / METRICS_FILE
    for folder in sorted((run_dir / "trainer").glob("checkpoint-*"), key=_step_of):
        found = damage(folder)
        if found is None and end_of_steps(metrics, _step_of(folder)) is None:
            found = f"{metrics} lacks an earlier step"
        if found is not None:
            shutil.rmtree(folder)
            lines.append(f"{folder}: {found}; deleted")
    return lines


def end_of_steps(metrics: Path, steps: int) -> int | None:
    """Return the size in bytes of the lines of steps 1 to `steps` in metrics.jsonl.

    None if one of these lines is missing, damaged or out of order.
    """
    if steps == 0:
        return 0
    if not metrics.is_file():
        return None
    end = 0
    with metrics.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if _recorded_step(line) != number:
                return None
            end += len(line)
            if number == steps:
                return end
    return None


def _recorded_step(line: bytes) -> int | None:
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError):
        return None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def load_mu(checkpoint: Path) -> float | None:
    """Return μ, the pair weight's state, from a checkpoint."""
    return json.loads((checkpoint / WEIGHT_STATE_FILE).read_text())["mu"]
