"""Reward models on disk: a fresh head on a backbone, a trained model, saving one.

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
    """Make the reward model that training starts from, of the backbone in folder `backbone`.

    Its head is drawn from N(0, 1/(hidden + 1)) by `seed` alone, so that it is the same for every
    loss; with `keep_head` it is the one of the reward model in the folder (`keeps_head`). All
    parameters are float32 (`train_part` lowers the frozen ones). Where an `HfDeepSpeedConfig` of
    ZeRO-3 lives, this rank holds its part of them alone, and the model is not tried. Raises
    InputError, in one line, for a folder that cannot be read, lacks weights or does not work.
    """
    _check_folder(backbone)
    with explained(backbone):
        model, tokenizer = _open(backbone, compute_dtype, fresh_head=not keep_head)
        if not keep_head:
            draw_head(model, seed)
        set_pad_token(tokenizer, model.classifier)
        if not is_deepspeed_zero3_enabled():  # there, only DeepSpeed's engine can run a divided one
            _try(model, tokenizer)
    return model, tokenizer


def draw_head(model: RewardModel, seed: int) -> None:
    """Draw a linear score head by `seed`, the same for every backbone of its width."""
    head = cast(nn.Linear, model.score)
    generator = torch.Generator().manual_seed(seed)
    with whole(head.weight), torch.no_grad():
        drawn = torch.randn(1, head.in_features, generator=generator)
        head.weight.copy_(drawn / (head.in_features + 1) ** 0.5)


@contextlib.contextmanager
def whole(parameter: Tensor) -> Iterator[None]:
    """Let the block see and change all of a parameter that ZeRO-3 may have divided among ranks."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    import deepspeed  # takes seconds

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield


def set_pad_token(tokenizer: PreTrainedTokenizerBase, classifier: PreTrainedModel) -> None:
    """Choose a pad token that ends no conversation, and write it into the model's config too."""
    turn = ChatTemplate(tokenizer).encode([{"role": "user", "content": "a"}], "b")
    choose_pad_token(tokenizer, [*turn[-3:], tokenizer.eos_token_id])
    for config in (classifier.config, classifier.config.get_text_config(decoder=True)):
        config.pad_token_id = tokenizer.pad_token_id


def keeps_head(folder: Path, choice: str, kind: str) -> bool:
    """Whether training on `folder` starts from the score head in it (pitfall 26).

    choice: model.head, "keep", "new", or "auto", which keeps the head of a reward model. kind: the
    head that the loss asks for (`set_head`). Raises InputError for another choice and where the
    folder's head cannot be kept: a classifier of several labels, another kind of head, or none.
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
    new = "or give model.head=new, which draws a new head on its backbone"
    _check_labels(folder, config, new)
    own = _head_kind(config)
    if own != kind:
        raise InputError(
            f"{folder} has a head {own} and the loss needs {kind}: choose a loss, {new}"
        )
    return True


def load_reward_model(
    checkpoint: Path | str, compute_dtype: torch.dtype
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load a trained reward model: any one-label sequence-classification folder (or Hub name).

    Matrices are read and stored in `compute_dtype`, everything else in float32. Raises InputError
    if there is no such checkpoint, if it is damaged, if it is not a reward model, or if reading it
    would run its code (`rm.model.untrusted`).
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
"""How the name of an architecture with a score head ends."""
PLACEHOLDERS = frozenset(("<image_soft_token>", "<audio_soft_token>"))
"""Names in Gemma's tokenizers for which its text models have no embedding: text never gives one."""


def _open(
    folder: Path, compute_dtype: torch.dtype, *, fresh_head: bool, lowered: bool = False
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Read a model and its tokenizer, which must fit each other.

    In float32; `lowered`: what `lower_precision` stores in `compute_dtype` is read in it.
    """
    tokenizer, config = load(AutoTokenizer, folder), load(AutoConfig, folder)
    kind: Any = AutoModelForSequenceClassification
    options = {"num_labels": 1} if fresh_head else {}
    if fresh_head and type(config) not in kind._model_mapping:
        kind, options = AutoModelForImageTextToText, {}  # whose text part may have a classifier
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
    """The class of a model whose matrices are made in `dtype`.

    transformers reads every weight in the dtype of its place in the new model, so the whole is
    never there in float32.
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
    """Raise InputError unless configuration and score head both have one label (pitfall 28)."""
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
    """Raise InputError if the tokenizer can give a token without an embedding (pitfall 27)."""
    rows = cast(nn.Embedding, model.classifier.get_input_embeddings()).num_embeddings
    names = {index: name for name, index in tokenizer.get_vocab().items()}
    beyond = [names[i] for i in sorted(names) if i >= rows and names[i] not in PLACEHOLDERS]
    if beyond:
        raise InputError(
            f"{folder}: the tokenizer has {max(names) + 1} tokens and the embedding {rows} rows "
            f"(first without one: {beyond[0]}): resize it, "
            "model.resize_token_embeddings(len(tokenizer)), and save it, or remove added tokens"
        )


@torch.no_grad()
def _try(model: RewardModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Score one short conversation: a model that cannot work ends here, not after an hour.

    It is scored in training mode too, which shows an impossible dropout. The random state stays as
    it was. A tokenizer without a chat template is asked for plain text.
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
    check_files(folder)


def plain_state(model: RewardModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the plain classifier from the wrapper's `state`: prefix off, LoRA merged.

    A LoRA layer's weight becomes W + (alpha / r) · B A, computed in float32, transposed where its
    weight is. Backbone weights take the compute dtype, the score head keeps float32.
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

    Its configuration says float32, whatever the weights are stored in: stock transformers then
    computes the head in float32 as we do, not in bfloat16 (pitfall 31). And it says regression:
    pipelines give the reward as it is, not through a sigmoid (pitfall 30).
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
    plain.config.problem_type = "regression"
    plain.config.architectures = [type(plain).__name__]
    with atomic_folder(folder) as temporary:
        plain.save_pretrained(temporary)
        plain.config.dtype = torch.float32  # save_pretrained has noted the first weight's
        plain.config.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for name, content in (extra or {}).items():
            (temporary / name).write_text(content)
