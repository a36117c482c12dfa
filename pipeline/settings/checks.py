"""Reject settings of a training configuration that cannot work together, before it starts."""

from __future__ import annotations

import json

import yaml
from omegaconf import DictConfig

from pipeline.settings import configuration
from pipeline.settings.data import check_data
from pipeline.settings.objective import objective_of
from rm.errors import InputError
from rm.model.attention import FLEX
from rm.model.backbones import model_folder
from rm.model.checks import can_flex, can_share
from rm.model.precision import DTYPES
from rm.model.reward_model import RewardModel
from rm.training.settings import TrainingSettings, check_batches, check_settings


def check(cfg: DictConfig) -> TrainingSettings:
    """Raise InputError for settings that can't work together; return the typed training section."""
    check_run(cfg)
    check_data(cfg.data)
    check_copy(cfg.model)
    settings = configuration.typed(TrainingSettings, cfg.training)
    check_settings(settings)
    check_batches(settings, cfg.devices)
    if settings.compute_dtype not in DTYPES:
        raise InputError(f"training.compute_dtype: choose one of {', '.join(DTYPES)}")
    if settings.reuse_trunk and settings.part != "top_layers":
        raise InputError(
            f"training.reuse_trunk=true needs training.part=top_layers, not {settings.part}"
        )
    if settings.reuse_trunk and zero_stage(cfg) == 3:
        raise InputError("training.reuse_trunk=true does not work with ZeRO-3: set it to false")
    check_attention(settings.attention, settings.share_prefix, "training")
    check_loss(cfg, settings)
    return settings


def check_run(cfg: DictConfig) -> None:
    """Raise InputError for values that no run can have."""
    configuration.check_types(cfg)
    settings = cfg.deepspeed.settings
    if settings is not None and not isinstance(settings, DictConfig):
        raise InputError(f"deepspeed.settings={settings}: give DeepSpeed's settings, or null")
    zero_stage(cfg)


def check_copy(model: DictConfig) -> None:
    """Raise InputError if model.path is not a copy of the model that conf/model describes.

    Cards and tables would show the wrong name and licence. The model's configuration is compared
    with the public one in conf/architecture, if there is one.
    """
    noted = configuration.CONF / "architecture" / f"{model.name}.yaml"
    if not model.path or not noted.is_file():
        return
    path = model_folder(model.path) / "config.json"
    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:  # JSON, UTF-8, or another kind of value
        raise InputError(f"{path} is not a model configuration: fetch the model again") from error
    unlike = [
        f"{key} {content.get(key)}, not {value}"
        for key, value in yaml.safe_load(noted.read_text()).items()
        if key in content and content[key] != value
    ]
    if unlike:
        raise InputError(
            f"model.path={model.path} is not a copy of {model.name} ({unlike[0]}): give model=local"
        )


def zero_stage(cfg: DictConfig) -> int:
    """The ZeRO stage of a configuration; 0 without DeepSpeed. Raises InputError for none."""
    section = (cfg.deepspeed.settings or {}).get("zero_optimization", {})
    stage = section.get("stage", 0) if isinstance(section, dict | DictConfig) else section
    if stage not in (0, 1, 2, 3):
        raise InputError(f"deepspeed.settings.zero_optimization: stage {stage}: choose 0, 1, 2, 3")
    return int(stage)


def check_loss(cfg: DictConfig, settings: TrainingSettings) -> None:
    """Raise InputError for a loss with impossible numbers or one that does not fit the settings."""
    objective = objective_of(cfg.loss)
    if objective.every_token and settings.share_prefix:
        raise InputError(f"loss={cfg.loss.name} needs every token: training.share_prefix=false")
    if objective.text is not None and zero_stage(cfg) == 3:
        raise InputError(f"loss={cfg.loss.name} needs the whole embedding: deepspeed=zero2 or less")
    whole = settings.micro_batch == settings.global_batch and settings.micro_batch_tokens is None
    if objective.whole_batch and not (whole and cfg.devices == 1):
        raise InputError(
            f"loss={cfg.loss.name} needs the global batch in one piece: training.micro_batch="
            f"{settings.global_batch} training.micro_batch_tokens=null devices=1"
        )


def check_length(model: RewardModel, max_length: int, key: str) -> None:
    """Raise InputError, naming the configuration's `key`, if the backbone has fewer positions."""
    positions = getattr(model.classifier.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise InputError(f"{key}={max_length}: the backbone has {positions} positions: give fewer")


def require_sharing(model: RewardModel, max_length: int, key: str) -> None:
    """Raise InputError, naming the configuration's `key`, if rows cannot share prefixes."""
    reason = can_share(model, max_length)
    if reason is not None:
        raise InputError(f"{key}=true: {reason}; set it to false")


def check_attention(kernel: str | None, share_prefix: bool | None, part: str) -> None:
    """Raise InputError for an unknown attention kernel, or one without shared prefixes."""
    if kernel not in (None, FLEX):
        raise InputError(f"{part}.attention={kernel}: leave it null, or choose {FLEX}")
    if kernel == FLEX and share_prefix is False:
        raise InputError(f"{part}.attention={FLEX} needs {part}.share_prefix=true")


def choose_attention(model: RewardModel, kernel: str | None, part: str) -> None:
    """Let shared rows attend by `kernel`. Raises InputError where that is not possible."""
    reason = can_flex(model) if kernel == FLEX else None
    if reason is not None:
        raise InputError(f"{part}.attention={FLEX}: {reason}; leave it null")
    model.flex_attention = kernel == FLEX
