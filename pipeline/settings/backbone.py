"""The backbone that a configuration names, on this machine."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from generated.backbones import build_tiny
from pipeline.settings import configuration
from rm.model.backbones import BackboneSettings, prepare_backbone


def backbone_folder(model: DictConfig, cache_dir: str | Path) -> Path:
    """Return the local folder of a file of conf/model, fetched or built first where it is absent.

    Raises InputError, with a remedy, where it cannot be had.
    """
    settings = configuration.typed(BackboneSettings, model)
    return prepare_backbone(settings, Path(cache_dir) / "backbones", build_tiny)
