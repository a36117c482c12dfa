"""What training and scoring a decoder cost: floating-point operations and memory, by closed forms.

Operations are those of matrix products and attention; a multiplication and an addition are two.
Norms, activations and the score head (one product per row) are left out: well below 1% at any size
that is worth planning. Memory is what a run of this project keeps on one device: parameters and
optimiser states in float32, also under DeepSpeed (conf/deepspeed says why), products in the compute
dtype. What a step needs beside the model's states is measured, not derived (`footprint`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from rm.model.reward_model import RewardModel

FLOAT32 = 4
"""Bytes."""

ATTENTION_BACKWARD = 2.5
"""Backward over forward of a fused attention kernel: five products of its size instead of two."""

READS_INPUT = ("q_proj", "k_proj", "v_proj")
"""Matrices that read what comes into a layer (Llama, Gemma, Mistral, Qwen)."""


@dataclass(frozen=True)
class Decoder:
    """The numbers of a reward model that its costs follow from.

    layers, hidden. attention: heads × head size. matrices, adapters: weights of one layer's matrix
    products, without and of LoRA. first: those of both kinds that read the layer's input. last: the
    layer's last matrix. parameters, trained: of the whole model; largest: of its largest tensor.
    """

    layers: int
    hidden: int
    attention: int
    matrices: int
    adapters: int
    first: int
    last: int
    parameters: int
    trained: int
    largest: int
    stored: int


def decoder_of(model: RewardModel) -> Decoder:
    """Count a model, after `rm.model.parts.train_part`; one on the meta device will do."""
    config, layer = model.config, model.backbone.layers[0]
    named = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
    own = [(name, _numbers([linear])) for name, linear in named if ".lora_" not in name]
    adapters = [(name, _numbers([linear])) for name, linear in named if ".lora_" in name]
    first = [
        count
        for name, count in [*own, *adapters]
        if any(part in name for part in READS_INPUT) and ".lora_B" not in name
    ]
    parameters = list(model.parameters())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Decoder(
        layers=len(model.backbone.layers),
        hidden=config.hidden_size,
        attention=config.num_attention_heads * size,
        matrices=sum(count for _, count in own),
        adapters=sum(count for _, count in adapters),
        first=sum(first),
        last=own[-1][1],
        parameters=sum(value.numel() for value in parameters),
        trained=sum(value.numel() for value in parameters if value.requires_grad),
        largest=max(value.numel() for value in parameters),
        stored=sum(value.numel() * value.element_size() for value in parameters),
    )


def _numbers(modules: Iterable[nn.Linear]) -> int:
    return sum(module.weight.numel() for module in modules)


@dataclass(frozen=True)
class Load:
    """Tokens that are computed, and what attention has to do with them.

    tokens: computed places, padding included, tokens shared by rows once. squares: sum over rows of
    the squared length that attention runs over, counted in full (a causal kernel that skips the
    upper half does less).
    """

    tokens: float
    squares: float

    def __mul__(self, times: float) -> Load:
        return Load(self.tokens * times, self.squares * times)

    def __add__(self, other: Load) -> Load:
        return Load(self.tokens + other.tokens, self.squares + other.squares)


def forward_flops(decoder: Decoder, load: Load, layers: int | None = None) -> float:
    """Operations of a forward pass through `layers` layers (all of them if None).

    A layer: 2 · weights · tokens, and 4 · heads · head size · squares for scores and values.
    """
    products = 2 * (decoder.matrices + decoder.adapters) * load.tokens
    count = decoder.layers if layers is None else layers
    return count * (products + 4 * decoder.attention * load.squares)


def training_flops(
    decoder: Decoder,
    load: Load,
    part: str,
    *,
    top_layers: int = 0,
    trunk: bool = False,
    checkpointing: bool = False,
) -> float:
    """Operations of forward and backward; part, top_layers: as in conf/training.

    Backward takes 2 · weights · tokens for the gradient of a product's input, the same for that of
    its weights where they are trained, and 2.5 forward passes of attention. It ends at the lowest
    trained layer. There, matrices that read the layer's input need no gradient of it if nothing
    before them is trained (LoRA). `trunk`: the frozen layers' output is at hand. `checkpointing`: a
    layer's forward is done again but for its last matrix, whose output nothing needs (torch stops
    there); transformers then asks for the embeddings' gradient, so backward goes all the way down.
    """
    lora = part == "lora"
    trained = top_layers if part == "top_layers" else decoder.layers
    run = trained if trunk else decoder.layers
    reached = run if checkpointing else trained
    weights = trained * (decoder.adapters if lora else decoder.matrices)
    inputs = reached * (decoder.matrices + decoder.adapters)
    if lora and not checkpointing:
        inputs -= decoder.first
    attention = ATTENTION_BACKWARD * reached * 4 * decoder.attention * load.squares
    total = forward_flops(decoder, load, run) + 2 * (weights + inputs) * load.tokens + attention
    if checkpointing:
        total += forward_flops(decoder, load, reached) - 2 * reached * decoder.last * load.tokens
    return total


@dataclass(frozen=True)
class Buckets:
    """DeepSpeed's buffers, in numbers: of gradients on their way, and of gathered parameters."""

    reduce: int
    live: int


@dataclass(frozen=True)
class States:
    """Bytes of a model's states on one device: `kept` all the time, then what comes on top.

    backward: buffers while gradients are made. step: while the optimiser steps. host: bytes in this
    machine's own memory, all ranks together (offload alone).
    """

    kept: int
    backward: int
    step: int
    host: int = 0

    def peak(self, activations: int) -> int:
        """Largest bytes at once, where a micro-batch needs `activations` beside them."""
        return self.kept + max(self.backward + activations, self.step)


def model_states(
    decoder: Decoder, stage: int, devices: int, *, offload: bool = False, buckets: Buckets
) -> States:
    """Bytes of parameters, gradients and AdamW's states on one of `devices` equal devices.

    With P bytes of stored parameters, T bytes (float32) of trained ones, N devices:

    0: P + T gradients + 2 T moments; on several devices T more for the buckets of all-reduce.
    1: P + T gradients + 3 T / N (a copy of the own share, two moments).
    2: P + T / N gradients + 3 T / N.
    3: (P + T gradients + 3 T) / N; beside it the gathered parameters that are alive at once. With
    offload all that is kept lies in the host's memory.

    1 to 3 hold a bucket of gradients during backward; 1 and 2 flatten the own share's gradients for
    the step. Read from DeepSpeed 0.19.8; its own estimators count two-byte parameters, which this
    project does not use.
    """
    trained = FLOAT32 * decoder.trained
    share, bucket = trained // devices, FLOAT32 * buckets.reduce
    if stage == 0:
        return States(decoder.stored + 3 * trained, trained if devices > 1 else 0, 0)
    if stage in (1, 2):
        gradients = trained if stage == 1 else share
        return States(decoder.stored + gradients + 3 * share, bucket, share)
    gathered = FLOAT32 * min(decoder.parameters, max(buckets.live, decoder.largest))
    if offload:
        return States(0, bucket + gathered, 0, host=decoder.stored + 4 * trained)
    return States(decoder.stored // devices + 4 * share, bucket + gathered, 0)
