"""The record of every training step, and the file it is written to."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rm.errors import InputError
from rm.files import writing
from rm.training.resume import end_of_steps

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SPIKE_FACTOR = 5.0
"""A step's loss is a spike if it exceeds this factor times the running median."""
SPIKE_WINDOW = 100
"""The running median is over the losses of this many preceding steps."""
SPIKE_START = 20
"""No spike is reported before this many steps: the median of fewer losses is unreliable."""


def running_median(losses: Sequence[float]) -> float | None:
    """Median of `losses`, those of at most SPIKE_WINDOW steps; None below SPIKE_START steps."""
    return statistics.median(losses) if len(losses) >= SPIKE_START else None


def spike_line(step: int, loss: float, median: float, shares: Mapping[str, float]) -> str:
    """One line about a loss spike. `shares`: pair id -> weight × loss of the pair."""
    largest = sorted(shares, key=lambda pair: shares[pair], reverse=True)[:3]
    named = ", ".join(f"{pair} ({shares[pair]:.3g})" for pair in largest)
    return (
        f"step {step}: loss spike: {loss:.3g} is {loss / median:.1f} times the median of earlier "
        f"steps ({median:.3g}); pairs with the largest weight × loss: {named}"
    )


def step_record(pairs: Tensor, mu: float | None) -> dict[str, float]:
    """The record of one step from its pairs.

    `pairs`: (global batch, 4) float64, the columns difference, distance, weight and loss.

    `pair_loss` is the unweighted mean. `weight_share_q1` … `q4` are the shares of the total weight
    in each distance quartile (q1: closest pairs), 0 if all weights are 0.
    """
    difference, distance, weight, loss = pairs.T
    levels = torch.tensor(QUANTILES, dtype=pairs.dtype)
    record = {
        "accuracy": (difference > 0).double().mean().item(),
        "ties": (difference == 0).double().mean().item(),
        "pair_loss": loss.mean().item(),
        "reward_margin": difference.mean().item(),
        "distance_mean": distance.mean().item(),
        "weight_mean": weight.mean().item(),
    }
    if mu is not None:
        record["mu"] = mu
    for name, values in (("distance", distance), ("weight", weight)):
        for level, value in zip(QUANTILES, values.quantile(levels).tolist(), strict=True):
            record[f"{name}_q{round(100 * level)}"] = value
    quarters, total = weight[distance.argsort()].tensor_split(4), weight.sum().item()
    for number, quarter in enumerate(quarters, start=1):
        record[f"weight_share_q{number}"] = quarter.sum().item() / total if total else 0.0
    return record


def category_record(weight: Tensor, category: Tensor, names: Sequence[str]) -> dict[str, float]:
    """weight_mean_<category> of one step: the mean weight of each category's pairs in the batch.

    `weight` (global batch,); `category` (global batch,): indices into `names`, −1 for none. A
    category without pairs in the batch has no key.
    """
    return {
        f"weight_mean_{name}": weight[category == number].mean().item()
        for number, name in enumerate(names)
        if (category == number).any()
    }


class FinishStep(TrainerCallback):
    """Calls the trainer's `finish_step` after every optimiser step, before it is logged."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Finish the step."""
        self.trainer.finish_step()


class CompactProgress(ProgressCallback):
    """A progress bar with loss and accuracy, instead of one printed dict per step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Count in steps."""
        super().on_train_begin(args, state, control, **more)
        if self.training_bar is not None:
            self.training_bar.unit = "step"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the step's loss and accuracy."""
        if state.is_world_process_zero and self.training_bar and logs and "accuracy" in logs:
            self.training_bar.set_postfix(
                loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.2f}", refresh=False
            )


class MetricsFile(TrainerCallback):
    """Writes metrics.jsonl: one JSON object per step. The source of truth for every figure.

    Checkpoints do not contain the steps, because they would grow with every step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Truncate the file after the step from which the run resumes, so no step is there twice.

        Raises InputError if an earlier step is missing (see `drop_damaged_checkpoints`).
        """
        if not state.is_world_process_zero:
            return
        end = end_of_steps(self.path, state.global_step)
        if end is None:
            raise InputError(
                f"{self.path} lacks a step before {state.global_step}: delete {self.path.parent} "
                "and run the same command again"
            )
        with writing(self.path):
            self.path.touch()
            os.truncate(self.path, end)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Append one step; before a checkpoint, flush the file to disk."""
        if state.is_world_process_zero and logs and "learning_rate" in logs:
            with writing(self.path), self.path.open("a") as file:
                file.write(_metrics_line({**logs, "step": state.global_step}))
                if control.should_save:
                    file.flush()
                    os.fsync(file.fileno())


def _metrics_line(entry: Mapping[str, float]) -> str:
    """One step as a line; floats keep six digits: what is computed in float32 has no more."""
    ordered = {"step": entry["step"], **dict(sorted(entry.items()))}
    six = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in ordered.items()}
    return json.dumps(six, allow_nan=False) + "\n"
