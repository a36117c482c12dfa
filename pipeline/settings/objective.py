"""The objective that a file of conf/loss names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from eval.methods import described
from pipeline.settings import configuration
from rm.errors import InputError
from rm.objective.objective import Objective

PARTS = ("pair_loss", "weight", "distance", "difference", "regularizer", "text", "deal")
"""Keys that name a function or a class."""
FOR_TABLES = ("label", "base", "role")
"""Keys that eval/methods.py reads."""
SAID_BY_PARTS = ("whole_batch", "needs_margin")
"""Keys that loss files used to have."""


def objective_of(loss: DictConfig) -> Objective:
    """Build what a loss section describes.

    Raises InputError for unknown or missing keys, impossible numbers, and arguments that a part
    does not take.
    """
    _check_keys(loss)
    made = {part: _made(loss, part) for part in PARTS if loss.get(part) is not None}
    absent = [part for part in ("pair_loss", "weight") if part not in made]
    if absent:
        raise InputError(f"loss={loss.name} has no {absent[0]}: conf/loss/bt.yaml shows one")
    described(loss.name)  # raises before training what tables would raise after it
    return Objective(**made, name=loss.name, head=loss.get("head", "linear"))


def _check_keys(loss: DictConfig) -> None:
    if not isinstance(loss.name, str):
        raise InputError(f"loss.name={loss.name}: give a text")
    valid = [*(field.name for field in fields(Objective)), *FOR_TABLES]
    unknown = [str(key) for key in loss if key not in valid]
    if unknown:
        own = "the parts say so themselves (docs/extending.md): delete it"
        why = own if unknown[0] in SAID_BY_PARTS else f"valid: {', '.join(valid)}"
        raise InputError(f"loss={loss.name}: unknown key {unknown[0]}; {why}")


def _made(loss: DictConfig, part: str) -> Any:
    try:
        return instantiate(loss[part])
    except HydraException as error:
        if isinstance(error.__cause__, InputError):  # an impossible number, which says its key
            raise error.__cause__ from error
        why = configuration.explain(error, "train")
        raise InputError(f"loss={loss.name}: {part}: {why}") from error
