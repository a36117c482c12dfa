"""Which part of a reward model is trained: everything, LoRA adapters, or the top layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rm.errors import InputError
from rm.model.reward_model import RewardModel


def train_part(
    model: RewardModel,
    part: Literal["full", "lora", "top_layers"],
    *,
    top_layers: int = 0,
    lora: dict[str, Any] | None = None,
    frozen_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Choose what is trained besides the head: everything, LoRA adapters, or the top layers.

    `top_layers`: number of decoder layers from the top (the final norm is trained with them).
    `lora`: r, alpha, dropout, target_modules (GRM: 32, 64, 0.05, q/k/v/o projections).
    `frozen_dtype`: dtype of stored frozen matrices (`lower_precision`); None keeps float32.
    `seed`: the adapters' initial values depend only on it.
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

    Norms store the rounded values in float32, and embeddings output float32. So the residual stream
    stays in float32. In bfloat16 the distance's rounding error would be larger
    (benchmarks/precision.py), and no matrix product would be faster. With `frozen_only` (training),
    trained weights are unchanged, and embeddings are stored in float32 too.
    """
    wide = torch.promote_types(dtype, torch.float32)
    for module in backbone.modules():
        # Not an embedding that scales its rows (Gemma 3): it would round the scale to `dtype`.
        looked_up = type(module) is nn.Embedding and not frozen_only
        stored = dtype if isinstance(module, nn.Linear) or looked_up else wide
        if looked_up and module.weight.dtype != dtype:
            module.register_forward_hook(_widen)
        for parameter in module.parameters(recurse=False):
            if not (frozen_only and parameter.requires_grad):
                parameter.data = parameter.data.to(dtype).to(stored)


def _widen(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    """Return an embedding's rows in float32 or wider."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _freeze_below(model: RewardModel, top_layers: int) -> None:
    layers, norm = (getattr(model.backbone, name, None) for name in ("layers", "norm"))
    if layers is None or norm is None:
        raise InputError(
            f"training.part=top_layers: {type(model.backbone).__name__} has no `layers` and `norm` "
            "like Llama: choose training.part=full or lora"
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

    Raises InputError for settings that PEFT rejects, for modules that the backbone lacks, and for
    modules that are not linear layers (embeddings, convolutions): `plain_state` cannot merge them.
    """
    modules = {f".{name}": module for name, module in model.backbone.named_modules()}
    absent = [x for x in target_modules if not any(name.endswith(f".{x}") for name in modules)]
    if absent:
        linear = {x.split(".")[-1] for x in modules if isinstance(modules[x], nn.Linear)}
        raise InputError(
            f"training.lora.target_modules: the backbone has no {', '.join(absent)}; its linear "
            f"modules are {', '.join(sorted(linear)) or 'none'}"
        )
    for name, module in modules.items():
        asked = any(name.endswith(f".{x}") for x in target_modules)
        if asked and not isinstance(module, nn.Linear | Conv1D):
            raise InputError(
                f"training.lora.target_modules: {name[1:]} is not a linear layer "
                f"({type(module).__name__}): name linear layers"
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
