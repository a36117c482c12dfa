"""A model's architecture without its weights: for plan and dry run, which train nothing."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch
import yaml
from huggingface_hub import constants, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from omegaconf import DictConfig
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from generated.backbones import build_tiny
from pipeline.run.training import choose_part
from pipeline.settings.checks import check
from pipeline.settings.configuration import CONF, typed
from pipeline.settings.objective import objective_of
from rm.errors import InputError
from rm.model.backbones import SOURCE_FILE, BackboneSettings, prepare_backbone
from rm.model.precision import DTYPES
from rm.model.reward_model import RewardModel, set_head
from rm.model.untrusted import explained, load


@dataclass(frozen=True)
class Architecture:
    """A model's configuration, where it is from, and its folder if it is on this machine."""

    name: str
    config: PretrainedConfig
    origin: str
    folder: Path | None


def architecture_of(model: DictConfig, cache: Path, scratch: Path) -> Architecture:
    """Find the architecture of a file of conf/model.

    In this order: the model's folder on this machine, its config.json on the Hub, its public
    configuration in conf/architecture. A tiny model is built in `scratch`, untrained. Raises
    InputError if none of them exists.
    """
    settings = typed(BackboneSettings, model)
    folder = local_backbone(settings, cache, scratch)
    return _find(settings.name, folder, settings.hub)


def architecture_of_checkpoint(checkpoint: str) -> Architecture:
    """Find the architecture of a reward model, a folder or a Hub name. Raises InputError."""
    path = Path(checkpoint)
    if path.is_dir():
        return _find(path.name, path, None)
    return _find(path.name.lower(), _snapshot(checkpoint), checkpoint)


def local_backbone(settings: BackboneSettings, cache: Path, scratch: Path) -> Path | None:
    """Return the backbone's folder if it is on this machine; fetch nothing.

    Raises InputError for a model.path that is no model folder.
    """
    if settings.path is not None:
        return prepare_backbone(settings, scratch)
    fetched = cache / "backbones" / settings.name
    if (fetched / SOURCE_FILE).is_file():
        return fetched
    if settings.tiny is not None:
        return prepare_backbone(settings, scratch, build_tiny)
    if settings.chat_template is not None:
        return None  # its copy with the template is made before training
    return _snapshot(settings.hub) if settings.hub else None


def _snapshot(hub: str) -> Path | None:
    """The whole model in the Hub's cache on this machine, if it is there."""
    try:
        folder = Path(snapshot_download(hub, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def _find(name: str, folder: Path | None, hub: str | None) -> Architecture:
    if folder is not None:
        return Architecture(name, _config_in(folder), f"config.json in {folder.name}", folder)
    noted = CONF / "architecture" / f"{name}.yaml"
    try:
        if hub is not None:
            path = Path(hf_hub_download(hub, "config.json", local_files_only=not hub_answers()))
            return Architecture(name, _config_in(path.parent), "config.json on the Hub", None)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if not noted.is_file():
            raise InputError(
                f"{hub}: the Hub gave no config.json ({type(error).__name__}) and there is no "
                f"conf/architecture/{name}.yaml; give model.path=FOLDER, or write that file"
            ) from error
    content: dict[str, Any] = yaml.safe_load(noted.read_text())
    config = AutoConfig.for_model(**content)
    return Architecture(name, config, f"public configuration, conf/architecture/{name}.yaml", None)


@functools.cache
def hub_answers() -> bool:
    """Whether the Hub can be reached: asked once, without the retries of a download."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except (httpx2.HTTPError, OSError):
        return False
    return True


def _config_in(folder: Path) -> PretrainedConfig:
    """The configuration of the language part, the only part that is trained."""
    with explained(folder):
        return load(AutoConfig, folder).get_text_config(decoder=True)


def meta_model(architecture: Architecture, cfg: DictConfig) -> RewardModel:
    """Build the reward model of a training run on the meta device: shapes alone, no memory.

    cfg: a configuration of scripts.train. Its head, part and checkpointing are applied as in
    training. Raises InputError for settings or an architecture that cannot work.
    """
    settings, head = check(cfg), objective_of(cfg.loss).head
    dtype = DTYPES[settings.compute_dtype]
    with torch.device("meta"):
        model = RewardModel(_classifier(architecture), dtype)
        set_head(model, head, cfg.seed)
        choose_part(model, cfg, settings)
    return model


def scoring_model(architecture: Architecture, dtype: str) -> RewardModel:
    """Build a reward model that only scores, on the meta device. Raises InputError likewise."""
    with torch.device("meta"):
        return RewardModel(_classifier(architecture), DTYPES[dtype])


def _classifier(architecture: Architecture) -> Any:
    config = copy.deepcopy(architecture.config)
    config.num_labels = 1
    if config.pad_token_id is None:
        config.pad_token_id = 0
    try:
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise InputError(
            f"{architecture.name}: transformers has no reward model of type {config.model_type}"
        ) from error
