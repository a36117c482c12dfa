"""Make a reward model from a backbone, load a trained one, and save one.

A checkpoint is a plain `AutoModelForSequenceClassification` folder with one label.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from rm.data.sources import is_hub_name
from rm.data.templates import ChatTemplate
from rm.data.tokens import choose_pad_token, pad
from rm.errors import InputError
from rm.files import atomic_folder, require_undamaged
from rm.model.parts import lower_precision
from rm.model.reward_model import RewardModel, _make_head, set_head
from rm.model.untrusted import (
    MODEL_FILES,
    check_files,
    explained,
    load,
    load_weights,
    stored_shape,
)


def new_reward_model(
    backbone: Path, compute_dtype: torch.dtype, seed: int, *, keep_head: bool = False
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Make the reward model that training starts from, with the backbone in folder `backbone`.

    Its head is drawn from N(0, 1/(hidden + 1)) and depends only on `seed`, so it is the same for
    every loss. With `keep_head` it is the head of the reward model in the folder (`keeps_head`).
    All parameters are float32 (`train_part` lowers the frozen ones). While an `HfDeepSpeedConfig`
    of ZeRO-3 exists, this rank holds only its part of the parameters, and the trial forward pass is
    skipped. Raises InputError for a folder that cannot be read, lacks weights or fails the trial.
    """
    _check_folder(backbone)
    with explained(backbone):
        model, tokenizer = _open(backbone, compute_dtype, fresh_head=not keep_head)
        if not keep_head:
            draw_head(model, seed)
        set_pad_token(tokenizer, model.classifier)
        if not is_deepspeed_zero3_enabled():  # only DeepSpeed's engine can run a divided model
            _try(model, tokenizer)
    return model, tokenizer


def draw_head(model: RewardModel, seed: int) -> None:
    """Draw a linear score head from `seed`. Backbones of equal width get equal heads."""
    head = cast(nn.Linear, model.score)
    generator = torch.Generator().manual_seed(seed)
    with whole(head.weight), torch.no_grad():
        drawn = torch.randn(1, head.in_features, generator=generator)
        head.weight.copy_(drawn / (head.in_features + 1) ** 0.5)


@contextlib.contextmanager
def whole(parameter: Tensor) -> Iterator[None]:
    """Gather a parameter that ZeRO-3 may have divided among ranks; the block may change it."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed  # takes seconds

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield


def set_pad_token(tokenizer: PreTrainedTokenizerBase, classifier: PreTrainedModel) -> None:
    """Choose a pad token that does not end a turn. Set it in the tokenizer and the model config."""
    turn = ChatTemplate(tokenizer).encode([{"role": "user", "content": "a"}], "b")
    choose_pad_token(tokenizer, [*turn[-3:], tokenizer.eos_token_id])
    for config in (classifier.config, classifier.config.get_text_config(decoder=True)):
        config.pad_token_id = tokenizer.pad_token_id


def keeps_head(folder: Path, choice: str, kind: str) -> bool:
    """Whether training starts from the score head in `folder`.

    choice: model.head: "keep", "new", or "auto", which keeps the head of a reward model. kind: the
    head that the loss needs (`set_head`). Raises InputError for any other choice. Raises it too if
    the head to keep is missing, has several labels or is of another kind.
    """
    if choice not in ("auto", "keep", "new"):
        raise InputError(f"model.head={choice}: choose auto, keep or new")
    _check_folder(folder)
    with explained(folder):
        config = load(AutoConfig, folder)
        classifies = _architecture(config).endswith(CLASSIFIER)
    if choice == "new" or (choice == "auto" and not classifies):
        return False
    if not classifies:
        raise InputError(
            f"model.head=keep: {folder} holds {_architecture(config)}, which has no score head: "
            "give model.head=new"
        )
    new = "or give model.head=new, which draws a new head"
    _check_labels(folder, config, new)
    own = _head_kind(config)
    if own != kind:
        raise InputError(
            f"{folder} has the head {own}, but the loss needs {kind}: choose another loss, {new}"
        )
    return True


def load_reward_model(
    checkpoint: Path | str, compute_dtype: torch.dtype
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load a trained reward model: any one-label sequence-classification folder (or Hub name).

    Matrices are read and stored in `compute_dtype`, everything else in float32. Raises InputError
    if the checkpoint is missing, damaged or not a reward model, or if reading it would run its code
    (`rm.model.untrusted`).
    """
    with explained(checkpoint):
        folder = _local_folder(checkpoint)
        require_undamaged(folder)
        config = load(AutoConfig, folder)
        if not _architecture(config).endswith(CLASSIFIER):
            raise InputError(
                f"{checkpoint} holds {_architecture(config)}, not a reward model "
                "(…ForSequenceClassification with one label): train one with scripts.train"
            )
        _check_labels(folder, config, "or train one with scripts.train")
        model, tokenizer = _open(folder, compute_dtype, fresh_head=False, lowered=True)
        lower_precision(model.backbone, compute_dtype)
        if tokenizer.pad_token_id is None:
            set_pad_token(tokenizer, model.classifier)
        _try(model, tokenizer)
    return model.eval(), tokenizer


CLASSIFIER = "ForSequenceClassification"
"""Suffix of the names of architectures with a score head."""
PLACEHOLDERS = frozenset(("<image_soft_token>", "<audio_soft_token>"))
"""Tokens of Gemma's tokenizers without an embedding in its text models; text never gives them."""


def _open(
    folder: Path, compute_dtype: torch.dtype, *, fresh_head: bool, lowered: bool = False
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Read a model in float32, and its tokenizer. Raises InputError if they do not match.

    `lowered`: weights that `lower_precision` stores in `compute_dtype` are read in that dtype.
    """
    tokenizer, config = load(AutoTokenizer, folder), load(AutoConfig, folder)
    kind: Any = AutoModelForSequenceClassification
    options = {"num_labels": 1} if fresh_head else {}
    if fresh_head and type(config) not in kind._model_mapping:
        kind, options = AutoModelForImageTextToText, {}  # its text part may have a classifier
    own = kind
    if lowered and type(config) in kind._model_mapping:
        own = kind._model_mapping[type(config)]
        kind = _lowered(own, compute_dtype)
    head = "linear" if fresh_head else _head_kind(config)
    loaded = load_weights(
        kind, folder, fresh_head=fresh_head or head != "linear", dtype=torch.float32, **options
    )
    if own is not kind:
        loaded.__class__ = own
    model = RewardModel(loaded, compute_dtype)
    if head != "linear":
        set_head(model, head, seed=0)
        _load_head(model, folder)
    _check_tokens(tokenizer, model, folder)
    return model, tokenizer


def _lowered(own: type[PreTrainedModel], dtype: torch.dtype) -> type[PreTrainedModel]:
    """A subclass of `own` that makes its matrices in `dtype`.

    transformers reads each weight in the dtype of the new model's parameter. So memory never holds
    the whole model in float32.
    """

    def make(self: PreTrainedModel, *args: Any, **options: Any) -> None:
        own.__init__(self, *args, **options)
        lower_precision(self.base_model, dtype)

    return type(own.__name__, (own,), {"__init__": make, "__module__": own.__module__})


def _architecture(config: PreTrainedConfig) -> str:
    names = config.architectures
    return str(names[0]) if isinstance(names, list) and names else "an unnamed architecture"


def _head_kind(config: PreTrainedConfig) -> str:
    return str(getattr(config, "reward_head", "linear"))


def _check_labels(folder: Path, config: PreTrainedConfig, otherwise: str) -> None:
    """Raise InputError unless configuration and score head both have one label."""
    shape = stored_shape(folder, "score.weight")
    rows = config.num_labels if shape is None else shape[0]
    if rows != 1:
        raise InputError(
            f"{folder} is a classifier of {rows} labels, not a reward model, whose head has one "
            f"output: take another model, {otherwise}"
        )
    if config.num_labels != 1:
        raise InputError(
            f"{folder / 'config.json'} says num_labels {config.num_labels} (the default "
            'where it is missing) and the score head has 1 row: set "num_labels" to 1 there, and '
            'remove "id2label" and "label2id"'
        )


def _check_tokens(tokenizer: PreTrainedTokenizerBase, model: RewardModel, folder: Path) -> None:
    """Raise InputError if the tokenizer can give a token without an embedding."""
    rows = cast(nn.Embedding, model.classifier.get_input_embeddings()).num_embeddings
    names = {index: name for name, index in tokenizer.get_vocab().items()}
    beyond = [names[i] for i in sorted(names) if i >= rows and names[i] not in PLACEHOLDERS]
    if beyond:
        raise InputError(
            f"{folder}: the tokenizer has {max(names) + 1} tokens and the embedding {rows} rows "
            f"(first token without a row: {beyond[0]}): resize the embedding by "
            "model.resize_token_embeddings(len(tokenizer)) and save the model, or remove added "
            "tokens"
        )


@torch.no_grad()
def _try(model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Score one short conversation, so that a broken model fails now and not after an hour.

    Training mode is tried too, because it shows an invalid dropout. The random state is restored.
    Without a chat template, plain text is scored.
    """
    turns = [{"role": "user", "content": "a"}]
    if tokenizer.chat_template is None:
        row = list(tokenizer("a b")["input_ids"])
    else:
        row = ChatTemplate(tokenizer).encode(turns, "b")
    ids, mask = pad([row], int(tokenizer.pad_token_id or 0))
    backbone = model.backbone
    was_training = backbone.training
    with torch.random.fork_rng(devices=[]):
        for mode in (True, False):
            backbone.train(mode)
            model(mask, input_ids=ids)
    backbone.train(was_training)


def _load_head(model: RewardModel, folder: Path) -> None:
    """Load the weights of a head that transformers does not know; InputError if one is missing."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored = file.keys()
            names = [name for name in stored if name.startswith("score.")]
            found |= {name.removeprefix("score."): file.get_tensor(name) for name in names}
    lacking = model.score.load_state_dict(found, strict=False).missing_keys
    if lacking:
        listed = ", ".join(f"score.{name}" for name in sorted(lacking))
        raise InputError(f"{folder} lacks weights: {listed}: fetch or save it again")


def _local_folder(checkpoint: Path | str) -> Path:
    """Return the folder of a checkpoint. A Hub name is fetched."""
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
    check_files(folder)


def plain_state(model: RewardModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the plain classifier from the wrapper's `state`, with LoRA merged.

    A LoRA layer's weight becomes W + (alpha / r) · B A, computed in float32. B A is transposed if
    the layer stores W transposed. Backbone weights take the compute dtype. The score head keeps
    float32.
    """
    prefix = "classifier."
    inner = {name.removeprefix(prefix): value for name, value in state.items()}
    layers = {n: m for n, m in model.classifier.named_modules() if isinstance(m, LoraLayer)}
    merged = _merge_lora(inner, layers)
    return {
        name: value if name.startswith("score.") else value.to(model.compute_dtype)
        for name, value in merged.items()
    }


def _merge_lora(state: dict[str, Tensor], layers: dict[str, Any]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            stem = name.split(".base_layer.")[0]
            if name.endswith(".weight"):
                lower = state[f"{stem}.lora_A.default.weight"].float()
                upper = state[f"{stem}.lora_B.default.weight"].float()
                change = float(layers[stem].scaling["default"]) * upper @ lower
                value = value.float() + (change.T if layers[stem].fan_in_fan_out else change)
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

    The configuration says float32, whatever the dtype of the weights. So stock transformers
    computes the head in float32 as we do, not in bfloat16. The configuration also says
    regression, so pipelines give the reward itself and apply no sigmoid.
    `state`: the wrapper's gathered state dict (ZeRO-3); default: the model's own.
    `extra`: further text files, name -> content (for example the pair weight's state).
    """
    weights = plain_state(model, state if state is not None else model.state_dict())
    with torch.device("meta"):
        plain = AutoModelForSequenceClassification.from_config(model.config)
        kind = getattr(model.config, "reward_head", "linear")
        if kind != "linear":
            plain.score = _make_head(kind, plain.score, seed=0)
    plain.load_state_dict(weights, assign=True)
    plain.config.problem_type = "regression"
    plain.config.architectures = [type(plain).__name__]
    with atomic_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        plain.config.dtype = torch.float32  # save_pretrained wrote the first weight's dtype
        plain.config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, content in (extra or {}).items():
            (temporary / name).write_text(content)
