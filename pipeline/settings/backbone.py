"""The backbone that a configuration names, on this machine."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from generated.backbones import build_tiny
from pipeline.settings import configuration
from rm.model.backbones import BackboneSettings, prepare_backbone


def backbone_folder(model: DictConfig, cache_dir: str | Path) -> Path:
    """Return the local folder of the model of a conf/model file; fetch or build it first if absent.

    Raises InputError, with a remedy, if that is not possible.
    """
    settings = configuration.typed(BackboneSettings, model)
    return prepare_backbone(settings, Path(cache_dir) / "backbones", build_tiny)
