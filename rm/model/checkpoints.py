"""Reward models on disk: a fresh head on a backbone, a trained model, saving one.

A checkpoint is a plain `AutoModelForSequenceClassification` folder with one label.
"""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rm.data.sources import is_hub_name
from rm.data.tokens import ChatTemplate, choose_pad_token
from rm.errors import InputError
from rm.files import atomic_folder, require_undamaged
from rm.model.parts import lower_precision
from rm.model.reward_model import RewardModel, _make_head, check_classifier, set_head
from rm.model.untrusted import MODEL_FILES, load, load_weights


def new_reward_model(
    backbone: Path, compute_dtype: torch.dtype, seed: int
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Put a fresh score head on the causal backbone in folder `backbone`.

    The head is drawn from N(0, 1/(hidden + 1)) by `seed` alone, so that it is the same for every
    loss. All parameters are float32 (`train_part` lowers the frozen ones). Raises InputError for a
    folder that cannot be read or lacks weights.
    """
    _check_folder(backbone)
    tokenizer = load(AutoTokenizer, backbone)
    classifier = load_weights(
        AutoModelForSequenceClassification,
        backbone,
        fresh_head=True,
        num_labels=1,
        dtype=torch.float32,
    )
    check_classifier(classifier)
    hidden = classifier.score.in_features
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        classifier.score.weight.copy_(
            torch.randn(1, hidden, generator=generator) / (hidden + 1) ** 0.5
        )
    set_pad_token(tokenizer, classifier)
    return RewardModel(classifier, compute_dtype), tokenizer


def set_pad_token(tokenizer: PreTrainedTokenizerBase, classifier: PreTrainedModel) -> None:
    """Choose a pad token that ends no conversation, and write it into the model's config too."""
    turn = ChatTemplate(tokenizer).encode([{"role": "user", "content": "a"}], "b")
    choose_pad_token(tokenizer, [*turn[-3:], tokenizer.eos_token_id])
    classifier.config.pad_token_id = tokenizer.pad_token_id


def load_reward_model(
    checkpoint: Path | str, compute_dtype: torch.dtype
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load a trained reward model: any one-label sequence-classification folder (or Hub name).

    Weights of matrix products take `compute_dtype`, everything else float32. Raises InputError if
    there is no such checkpoint, if it is damaged, if it is not a reward model, or if reading it
    would run code of somebody else (`rm.model.untrusted`).
    """
    try:
        folder = _local_folder(checkpoint)
        require_undamaged(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no model could be read from {checkpoint}: {reason}") from error
    config = load(AutoConfig, folder)
    names = config.architectures or ["an unnamed architecture"]
    if not names[0].endswith("ForSequenceClassification"):
        raise InputError(
            f"{checkpoint} holds {names[0]}, not a reward model "
            "(…ForSequenceClassification with one label): train one with scripts.train"
        )
    kind = getattr(config, "reward_head", "linear")
    classifier = load_weights(
        AutoModelForSequenceClassification,
        folder,
        fresh_head=kind != "linear",
        dtype=torch.float32,
    )
    model = RewardModel(classifier, compute_dtype)
    if kind != "linear":
        set_head(model, kind, seed=0)
        _load_head(model, folder)
    lower_precision(model.backbone, compute_dtype)
    tokenizer = load(AutoTokenizer, folder)
    if tokenizer.pad_token_id is None:
        set_pad_token(tokenizer, classifier)
    return model.eval(), tokenizer


def _load_head(model: RewardModel, folder: Path) -> None:
    """Load the weights of a head that transformers does not know. Raises InputError: one lacks."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored = file.keys()
            names = [name for name in stored if name.startswith("score.")]
            found |= {name.removeprefix("score."): file.get_tensor(name) for name in names}
    lacking = model.score.load_state_dict(found, strict=False).missing_keys
    if lacking:
        listed = ", ".join(f"score.{name}" for name in sorted(lacking))
        raise InputError(f"{folder} lacks weights: {listed}: fetch or save it anew")


def _local_folder(checkpoint: Path | str) -> Path:
    """Return the folder of a checkpoint, fetched from the Hub if it is a name there."""
    source = Path(checkpoint)
    if source.exists() or "/" not in str(checkpoint) or not is_hub_name(str(checkpoint)):
        _check_folder(source)
        return source
    return Path(snapshot_download(str(checkpoint), allow_patterns=list(MODEL_FILES)))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"no checkpoint at {folder}: give a folder or a Hub name (owner/name)")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")


def plain_state(model: RewardModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the plain classifier from the wrapper's `state`: prefix off, LoRA merged.

    A LoRA layer's weight becomes W + (alpha / r) · B A, computed in float32. Backbone weights take
    the compute dtype, the score head keeps float32.
    """
    prefix = "classifier."
    inner = {name.removeprefix(prefix): value for name, value in state.items()}
    merged = _merge_lora(inner, _lora_scaling(model))
    return {
        name: value if name.startswith("score.") else value.to(model.compute_dtype)
        for name, value in merged.items()
    }


def _lora_scaling(model: RewardModel) -> float:
    for module in model.backbone.modules():
        if isinstance(module, LoraLayer):
            return float(module.scaling["default"])
    return 1.0


def _merge_lora(state: dict[str, Tensor], scaling: float) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            stem = name.split(".base_layer.")[0]
            if name.endswith(".weight"):
                lower = state[f"{stem}.lora_A.default.weight"].float()
                upper = state[f"{stem}.lora_B.default.weight"].float()
                value = value.float() + scaling * upper @ lower
            name = name.replace(".base_layer.", ".")
        merged[name] = value
    return merged


def save_reward_model(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    state: dict[str, Tensor] | None = None,
    extra: dict[str, str] | None = None,
) -> None:
    """Write a plain `AutoModelForSequenceClassification` folder, whole or not at all.

    `state`: the wrapper's gathered state dict (ZeRO-3); default the model's own.
    `extra`: further text files, name -> content (the pair weight's state, for one).
    """
    weights = plain_state(model, state if state is not None else model.state_dict())
    with torch.device("meta"):
        plain = AutoModelForSequenceClassification.from_config(model.config)
        kind = getattr(model.config, "reward_head", "linear")
        if kind != "linear":
            plain.score = _make_head(kind, plain.score, seed=0)
    plain.load_state_dict(weights, assign=True)
    plain.config.dtype = model.compute_dtype
    plain.config.architectures = [type(plain).__name__]
    with atomic_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, content in (extra or {}).items():
            (temporary / name).write_text(content)
