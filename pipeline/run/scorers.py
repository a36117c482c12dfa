"""A checkpoint, loaded and ready to score with the settings that it was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from eval.resume import PartialScores
from eval.scoring import Scorer
from pipeline.launch.terminal import say
from pipeline.run.run_folder import MODEL_FILE
from pipeline.settings import configuration
from pipeline.settings.checks import (
    check_attention,
    check_length,
    choose_attention,
    require_sharing,
)
from rm.errors import InputError
from rm.model.checkpoints import load_reward_model
from rm.model.checks import can_share
from rm.model.precision import DTYPES, emulation
from rm.model.reward_model import RewardModel

DEFAULT_MAX_LENGTH = 2048


@dataclass
class EvalSettings:
    """conf/eval, typed. null: as the checkpoint was trained, or what the backbone supports."""

    batch_tokens: int
    max_length: int | None
    parse_special_text: bool | None
    compute_dtype: str | None
    padding_side: str
    reuse_trunk: bool
    share_prefix: bool | None
    attention: str | None
    resamples: int
    ignore: list[str]


def check_settings(section: DictConfig) -> EvalSettings:
    """Return the typed eval section. Raises InputError for a wrong type or an impossible number."""
    settings = configuration.typed(EvalSettings, section)
    for name in ("batch_tokens", "resamples", "max_length"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"eval.{name}={value}: must be 1 or more")
    return settings


def scores_depend_on(section: DictConfig) -> dict[str, Any]:
    """Return the keys of the eval section that can change a response's score."""
    settings = asdict(check_settings(section))
    return {key: value for key, value in settings.items() if key not in ("resamples", "ignore")}


def load_scorer(
    checkpoint: str,
    settings: DictConfig,
    cache_dir: Path,
    *,
    label: str,
    device: str,
    partial: PartialScores | None = None,
) -> Scorer:
    """Load a checkpoint; where `settings` are null, use those it was trained with.

    settings: conf/eval. Raises InputError for a setting that is not possible.
    """
    own, chosen = own_settings(Path(checkpoint)), check_settings(settings)
    dtype = chosen.compute_dtype or own.get("compute_dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(f"eval.compute_dtype={dtype}: choose {', '.join(DTYPES)}")
    slow = emulation(DTYPES[dtype], "eval.compute_dtype")
    if slow:
        say(slow)
    model, tokenizer = load_reward_model(checkpoint, DTYPES[dtype])
    if chosen.max_length is not None:
        check_length(model, chosen.max_length, "eval.max_length")
    model.to(device)
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    max_length = chosen.max_length or own.get("max_length", min(DEFAULT_MAX_LENGTH, positions))
    share_prefix = decide_sharing(model, chosen, max_length)
    check_attention(chosen.attention, share_prefix, "eval")
    choose_attention(model, chosen.attention, "eval")
    return Scorer(
        model,
        tokenizer,
        max_length=max_length,
        parse_special_text=own.get("parse_special_text", False)
        if chosen.parse_special_text is None
        else chosen.parse_special_text,
        batch_tokens=chosen.batch_tokens,
        trunk_layers=own.get("top_layers", 0) if chosen.reuse_trunk else 0,
        cache_dir=cache_dir / "trunk",
        label=label,
        padding_side=chosen.padding_side,
        share_prefix=share_prefix,
        partial=partial,
    )


def own_settings(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its own training (reward_model.json); {} if nothing.

    The checkpoint is untrusted input. Raises InputError if a setting that scoring reads is of
    another type than ours.
    """
    path = folder / MODEL_FILE
    kinds = {"compute_dtype": str, "max_length": int, "top_layers": int, "parse_special_text": bool}
    if not path.is_file():
        return {}
    try:
        own = json.loads(path.read_text())
        unlike = [key for key, kind in kinds.items() if not isinstance(own.get(key, kind()), kind)]
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a JSON object: delete it, or fetch the model again"
        ) from error
    if unlike:
        raise InputError(f"{path}: {unlike[0]} is of the wrong type: delete the file")
    return own


def decide_sharing(model: RewardModel, settings: EvalSettings, max_length: int) -> bool:
    """Whether rows share their prefixes: as asked; by default, if the backbone can.

    `max_length`: tokens of the longest row. Raises InputError if asked for and impossible.
    """
    if settings.share_prefix:
        require_sharing(model, max_length, "eval.share_prefix")
    if settings.share_prefix is not None or settings.padding_side == "left":
        return bool(settings.share_prefix)
    reason = can_share(model, max_length)
    if reason is not None:
        say(f"prefixes are not shared: {reason}")
    return reason is None


def scoring_facts(scorer: Scorer, attention: str | None, devices: int) -> dict[str, Any]:
    """What may change scores by rounding: precision, attention kernel, padding, ranks."""
    config = scorer.model.config
    return {
        "compute_dtype": str(scorer.model.compute_dtype).removeprefix("torch."),
        "attention": attention or config._attn_implementation,
        "padding_side": scorer.padding_side,
        "max_length": scorer.max_length,
        "parse_special_text": scorer.parse_special_text,
        "batch_tokens": scorer.batch_tokens,
        "trunk_layers": scorer.trunk_layers,
        "share_prefix": scorer.share_prefix,
        "ranks": devices,
    }
