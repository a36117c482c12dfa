"""The reward model: a causal backbone, a float32 score head, and what of them is trained.

A reward model on disk is a plain `AutoModelForSequenceClassification` folder with one label; in
memory it is wrapped in `RewardModel`, which reads the hidden state at the last *real* token by the
attention mask and applies the score head in float32 (pitfalls 1, 2, 8).
"""

from __future__ import annotations

import contextlib
import copy
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rm.errors import InputError
from rm.files import atomic_folder, require_undamaged
from rm.likelihood import head_of, log_likelihood
from rm.prefix import SharedBatch, shared_hidden
from rm.sources import is_hub_name
from rm.tokens import ChatTemplate, choose_pad_token
from rm.untrusted import MODEL_FILES, load, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class RewardOutput:
    """`rewards` (rows,) and `hidden` (rows, hidden): both float32 (float64 for a float64 model).

    `mean` (rows, hidden): the mean state of each row's real tokens, where `keep_mean` asks for it.
    `log_likelihood` (rows,): of each row's targets, where the forward pass was given some.
    """

    rewards: Tensor
    hidden: Tensor
    mean: Tensor | None = None
    log_likelihood: Tensor | None = None


class RewardModel(nn.Module):
    """Rewards and last-token hidden states of token rows.

    `classifier` is a sequence-classification model with one label whose backbone is a stack of
    decoder layers (Llama, Gemma and their like). Matrix products of the backbone run in
    `compute_dtype` under autocast; the pooled hidden state, the head and everything after it stay
    in float32. `flex_attention`: shared rows attend in one kernel (`rm.flex`), not row by row.
    """

    def __init__(self, classifier: PreTrainedModel, compute_dtype: torch.dtype) -> None:
        """Raise InputError if `classifier` is not a one-label model with a linear score head."""
        super().__init__()
        check_classifier(classifier)
        self.classifier = classifier
        self.compute_dtype = compute_dtype
        self.config = classifier.config
        self.keep_mean = False
        self.flex_attention = False
        # In a list, because its layers are the backbone's own and must not be registered twice.
        self._upper: list[nn.Module] = []

    @property
    def backbone(self) -> Any:
        """The decoder stack (`layers`, `norm`), without its head."""
        return self.classifier.base_model

    @property
    def score(self) -> nn.Module:
        """The score head w_s: Linear(hidden, 1), no bias (b_s cancels in every difference).

        Or one of the rivals that `set_head` puts there.
        """
        return cast(nn.Module, self.classifier.score)

    def run(self, stack: nn.Module, attention_mask: Tensor, **inputs: Any) -> Any:
        """Run a stack of decoder layers on rows (rows, length) with padding on either side."""
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        with self._autocast(attention_mask.device.type):
            return stack(
                **inputs, attention_mask=attention_mask, position_ids=positions, use_cache=False
            )

    def forward(
        self,
        attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        trunk_states: Tensor | None = None,
        shared: SharedBatch | None = None,
        targets: Tensor | None = None,
    ) -> RewardOutput:
        """Score rows given as token ids, or as the output of the frozen trunk (`rm.trunk`).

        attention_mask: (rows, length) int64, 1 at real tokens, padding on either side.
        input_ids: (rows, length) int64; or trunk_states: (rows, length, hidden).
        shared: the rows as one tree (`rm.prefix`), in place of all that.
        targets: (rows, length) int64, next tokens whose likelihood is asked for (`rm.likelihood`).
        """
        if shared is not None:
            if self.keep_mean:
                raise InputError("mean states need every token: set training.share_prefix=false")
            return self._output(shared_hidden(self, shared))
        assert attention_mask is not None
        if trunk_states is None:
            found = self.run(self.backbone, attention_mask, input_ids=input_ids)
        else:
            embeddings = trunk_states.to(self.state_dtype)
            found = self.run(self.upper_stack, attention_mask, inputs_embeds=embeddings)
        states = found.last_hidden_state
        output = self._output(last_real_token(states, attention_mask))
        if self.keep_mean:
            output.mean = mean_of_real_tokens(states, attention_mask)
        if targets is not None:
            with self._autocast(states.device.type):
                head = head_of(self.classifier)
                output.log_likelihood = log_likelihood(states, targets, head)
        return output

    def _output(self, hidden: Tensor) -> RewardOutput:
        """Hidden states (rows, hidden) of any dtype, and rewards from them, in float32 at least."""
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        return RewardOutput(self._head(hidden), hidden)

    @property
    def upper_stack(self) -> nn.Module:
        """The trained layers above the frozen trunk. Raises ValueError before `divide`."""
        if not self._upper:
            raise ValueError("trunk states were given, but the backbone was never divided")
        return self._upper[0]

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of the residual stream: float32 at least (see `lower_precision`)."""
        return torch.promote_types(self.compute_dtype, torch.float32)

    def divide(self, upper_stack: nn.Module) -> None:
        """Set the stack that runs on trunk states (`rm.trunk.split_backbone` makes it)."""
        self._upper = [upper_stack]

    def _autocast(self, device: str) -> contextlib.AbstractContextManager[Any]:
        if self.compute_dtype in (torch.float32, torch.float64):
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=self.compute_dtype)

    def _head(self, hidden: Tensor) -> Tensor:
        """Apply the head outside any autocast, as a module (so that ZeRO-3 gathers its weight)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.score(hidden).squeeze(-1)


def last_real_token(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Gather (rows, hidden) from `states` (rows, length, hidden) at each row's last real token.

    The place comes from the attention mask alone, never from a token's id (pitfall 1).
    """
    places = torch.arange(states.shape[1], device=states.device)
    last = (attention_mask * places).argmax(-1)
    return states[torch.arange(states.shape[0], device=states.device), last]


def mean_of_real_tokens(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean (rows, hidden), float32 or better, of `states` (rows, length, hidden) at real tokens."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    mask = attention_mask.unsqueeze(-1).to(wide.dtype)
    return (wide * mask).sum(dim=1) / mask.sum(dim=1)


def miniature(
    model: RewardModel, layers: Sequence[int] = (0, 1), window: int | None = None
) -> RewardModel:
    """A small random float32 model of the same architecture: what capability checks run on.

    There an architecture that computes something else is told apart from rounding, at any size of
    the backbone. `layers`: those whose kind of attention its own have; `window`: tokens that a
    layer with a sliding window sees (None: as many as the backbone's). Leaves the random state as
    it was.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = len(layers), 16, 0
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in layers]
    if window is not None and getattr(config, "sliding_window", None):
        config.sliding_window = window
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = type(model.classifier)(config)
    return RewardModel(classifier.float(), torch.float32).eval()


def check_classifier(classifier: nn.Module) -> None:
    """Raise InputError unless `classifier` has one label and a linear head named `score`."""
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise InputError(
            f"{type(classifier).__name__} is not a reward model: it needs a linear head `score` "
            "with one output (an AutoModelForSequenceClassification of a decoder, num_labels=1)"
        )


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


def set_head(model: RewardModel, kind: str, seed: int) -> None:
    """Put another head in front of the linear one, which stays the last layer: a rival.

    layer_norm: LayerNorm(hidden), so that no state is far from any other by its length. mlp:
    Linear(hidden, hidden), GELU. The configuration notes it as `reward_head`; such a checkpoint is
    read by `load_reward_model` alone. "linear" changes nothing. Raises InputError for another kind.
    """
    if kind != "linear":
        model.classifier.score = _make_head(kind, cast(nn.Linear, model.score), seed)
        model.config.reward_head = kind


def _make_head(kind: str, last: nn.Linear, seed: int) -> nn.Sequential:
    width = last.in_features
    if kind == "layer_norm":
        return nn.Sequential(nn.LayerNorm(width), last)
    if kind != "mlp":
        raise InputError(f"loss.head={kind}: choose linear, layer_norm or mlp")
    first = nn.Linear(width, width, device=last.weight.device)
    if not first.weight.is_meta:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            first.weight.copy_(torch.randn(width, width, generator=generator) / width**0.5)
            first.bias.zero_()
    return nn.Sequential(first, nn.GELU(), last)


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
    would run code of somebody else (`rm.untrusted`).
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


def train_part(
    model: RewardModel,
    part: Literal["full", "lora", "top_layers"],
    *,
    top_layers: int = 0,
    lora: dict[str, Any] | None = None,
    frozen_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Choose what is trained: everything, LoRA adapters, or the top layers; the head always is.

    `top_layers`: number of decoder layers from the top (the final norm is trained with them).
    `lora`: r, alpha, dropout, target_modules (GRM: 32, 64, 0.05, q/k/v/o projections).
    `frozen_dtype`: what frozen matrices are stored in (`lower_precision`); None keeps float32.
    `seed`: of the adapters' first values, which depend on nothing else.
    Trained weights stay float32 master weights. Raises InputError for an impossible choice.
    """
    if part == "lora":
        _add_lora(model, seed, **(lora or {}))
    elif part == "top_layers":
        _freeze_below(model, top_layers)
    elif part != "full":
        raise InputError(f"training.part={part}: choose full, lora or top_layers")
    model.score.requires_grad_(True)
    if frozen_dtype is not None:
        lower_precision(model.backbone, frozen_dtype, frozen_only=True)


def lower_precision(backbone: nn.Module, dtype: torch.dtype, *, frozen_only: bool = False) -> None:
    """Round weights to `dtype`, as a checkpoint stores them, and store matrices in it.

    Embeddings and norms hold the rounded values in float32, so that the residual stream, to which
    every layer adds, stays in float32: in bfloat16 it would round away much of a close pair's
    distance (benchmarks/precision.py), and no matrix product gains by it.
    """
    for module in backbone.modules():
        stored = (
            dtype if isinstance(module, nn.Linear) else torch.promote_types(dtype, torch.float32)
        )
        for parameter in module.parameters(recurse=False):
            if not (frozen_only and parameter.requires_grad):
                parameter.data = parameter.data.to(dtype).to(stored)


def _freeze_below(model: RewardModel, top_layers: int) -> None:
    layers, norm = (getattr(model.backbone, name, None) for name in ("layers", "norm"))
    if layers is None or norm is None:
        raise InputError(
            f"training.part=top_layers: a {type(model.backbone).__name__} does not keep its layers "
            "where those of the Llama family are: choose training.part=full or lora"
        )
    if not 0 <= top_layers <= len(layers):
        raise InputError(f"training.top_layers={top_layers}: the backbone has {len(layers)} layers")
    model.backbone.requires_grad_(False)
    for layer in layers[len(layers) - top_layers :]:
        layer.requires_grad_(True)
    norm.requires_grad_(top_layers > 0)


def _add_lora(
    model: RewardModel,
    seed: int,
    r: int,
    alpha: int,
    dropout: float,
    target_modules: Sequence[str],
) -> None:
    """Inject adapters into the backbone in place; the head stays an ordinary Linear.

    Raises InputError for settings that PEFT refuses, a module that the backbone lacks, and one that
    is an embedding.
    """
    modules = {f".{name}": module for name, module in model.backbone.named_modules()}
    absent = [x for x in target_modules if not any(name.endswith(f".{x}") for name in modules)]
    if absent:
        linear = {x.split(".")[-1] for x in modules if isinstance(modules[x], nn.Linear)}
        raise InputError(
            f"training.lora.target_modules: the backbone has no {', '.join(absent)}; its linear "
            f"modules are {', '.join(sorted(linear)) or 'none'}"
        )
    embeddings = [
        x
        for x in target_modules
        if any(n.endswith(f".{x}") and isinstance(m, nn.Embedding) for n, m in modules.items())
    ]
    if embeddings:  # PEFT can, but their weights are not merged like a product's
        raise InputError(
            f"training.lora.target_modules: {', '.join(embeddings)} is an embedding: name modules "
            "that multiply"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            settings = LoraConfig(
                r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(target_modules)
            )
            LoraModel(model.backbone, settings, "default")
        except ValueError as error:
            raise InputError(f"training.lora: {error}") from error


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


def best_device() -> str:
    """Name of the device to compute on: cuda where there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def multiplies_bfloat16(device: str) -> bool:
    """Whether `device` ("cpu", "cuda", "cuda:1") multiplies bfloat16 matrices in hardware.

    GPUs do from Ampere on, x86 processors with AVX-512 BF16 or AMX, Arm's with BF16. Elsewhere it
    is emulated: on an AVX2 processor a product took 7 times as long as in float32.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("aarch64", "arm64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported()


def fast_dtype() -> str:
    """Name of the dtype for matrix products on this machine: bfloat16, float32 if it's emulated."""
    return "bfloat16" if multiplies_bfloat16(best_device()) else "float32"


def emulation(dtype: torch.dtype, key: str) -> str | None:
    """What to say where this machine only emulates `dtype`; `key` is the configuration's."""
    if dtype != torch.bfloat16 or multiplies_bfloat16(best_device()):
        return None
    return f"bfloat16 is emulated on this machine: {key}=float32 takes a fraction of the time"
