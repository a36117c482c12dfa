"""Closed forms for the FLOPs and the memory of training and scoring a decoder.

We count the FLOPs of matrix products and attention; one multiply-add is two FLOPs. Norms,
activations and the score head are not counted: together they are well below 1% for any model worth
planning for. Memory is what a run keeps on one device. Parameters and optimiser states are float32,
also under DeepSpeed (conf/deepspeed says why). Matrix products use the compute dtype. `footprint`
measures what a step needs on top of the model's states.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rm.model.reward_model import RewardModel

FLOAT32 = 4
"""Bytes."""

ATTENTION_BACKWARD = 2.5
"""FLOPs of backward / forward in a fused attention kernel: five matrix products instead of two."""

READS_INPUT = ("q_proj", "k_proj", "v_proj")
"""Matrices that read the layer's input (Llama, Gemma, Mistral, Qwen)."""


@dataclass(frozen=True)
class Decoder:
    """The sizes of a reward model that determine its costs; weights and parameters are counts.

    layers: number of decoder layers. hidden: width. attention: heads × head size. Per layer:
    matrices, weights of the matrix products without LoRA; adapters, LoRA's weights; first, weights
    of both kinds that read the layer's input; last, weights of the layer's last matrix. Whole
    model: parameters; trained; largest, parameters of the largest tensor; stored, bytes of all
    parameters.
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
    """Count the sizes of `model` after `rm.model.parts.train_part`; the meta device is enough."""
    config, layer = model.config, model.backbone.layers[0]
    named = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
    own = [(name, linear.weight.numel()) for name, linear in named if ".lora_" not in name]
    adapters = [(name, linear.weight.numel()) for name, linear in named if ".lora_" in name]
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


@dataclass(frozen=True)
class Load:
    """Number of computed tokens, and the size of their attention.

    tokens: computed positions, padding included, tokens shared by rows once. squares: sum of the
    rows' squared lengths in attention. The full square is counted, although a causal kernel that
    skips the upper half does less.
    """

    tokens: float
    squares: float

    def __mul__(self, times: float) -> Load:
        return Load(self.tokens * times, self.squares * times)

    def __add__(self, other: Load) -> Load:
        return Load(self.tokens + other.tokens, self.squares + other.squares)


def forward_flops(decoder: Decoder, load: Load, layers: int | None = None) -> float:
    """FLOPs of a forward pass through `layers` layers (None: all).

    Per layer: 2 · weights · tokens, plus 4 · heads · head size · squares for attention.
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
    """FLOPs of a forward and a backward pass. `part`, `top_layers`: as in conf/training.

    Backward costs 2 · weights · tokens for the gradients of the inputs of matrix products, the same
    again for the gradients of trained weights, and 2.5 forward passes of attention. It stops at the
    lowest trained layer. With LoRA, the matrices that read this layer's input need no gradient of
    that input, because nothing below is trained.

    `trunk`: the output of the frozen layers is cached. `checkpointing`: backward recomputes each
    layer's forward except its last matrix, whose output nothing needs (torch stops before it).
    transformers then makes the embeddings require a gradient, so backward passes through all
    computed layers.
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
    """Sizes of DeepSpeed's buffers, in elements.

    reduce: gradients being reduced. live: gathered parameters alive at once.
    """

    reduce: int
    live: int


@dataclass(frozen=True)
class States:
    """Bytes of a model's states on one device.

    kept: always allocated. backward: extra buffers during backward. step: extra buffers during the
    optimiser step. host: host memory of all ranks together (only with offload).
    """

    kept: int
    backward: int
    step: int
    host: int = 0

    def peak(self, activations: int) -> int:
        """Peak bytes if a micro-batch needs `activations` bytes on top of the states."""
        return self.kept + max(self.backward + activations, self.step)


def model_states(
    decoder: Decoder, stage: int, devices: int, *, offload: bool = False, buckets: Buckets
) -> States:
    """Bytes of parameters, gradients and AdamW's states on one of `devices` equal devices.

    P: bytes of all stored parameters. T: bytes of the trained ones in float32. N: devices. Kept at
    each ZeRO stage:

    0: P + T (gradients) + 2 T (moments). Backward on several devices adds T for all-reduce buckets.
    1: P + T (gradients) + 3 T / N (this rank's copy of its parameters, and two moments).
    2: P + T / N (gradients) + 3 T / N.
    3: (P + T (gradients) + 3 T) / N. Backward adds the gathered parameters alive at once. With
    offload, everything kept is in host memory.

    Stages 1 to 3 have a bucket of gradients during backward. Stages 1 and 2 flatten the gradients
    of this rank's share for the step. Source: the code of DeepSpeed 0.19.8. Its own estimators
    assume two-byte parameters, which this project does not use.
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
