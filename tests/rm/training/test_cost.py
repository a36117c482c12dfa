"""Closed forms of cost against torch's own counter, and against what tensors really take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)
from transformers import AutoConfig, AutoModelForSequenceClassification

from rm.model.parts import train_part
from rm.model.reward_model import RewardModel
from rm.training.cost import (
    Buckets,
    Decoder,
    Load,
    decoder_of,
    forward_flops,
    model_states,
    training_flops,
)
from rm.training.footprint import run_step

CONF = Path(__file__).resolve().parents[3] / "conf"
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
ROWS, LENGTH = 4, 96
CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
BUCKETS = Buckets(reduce=50, live=1000)


def attention(q: Any, k: Any, *_: Any, **__: Any) -> int:
    """Forward, with grouped keys counted as the queries they serve."""
    return sdpa_flop_count(q, (*q[:2], *k[2:]), (*q[:2], *k[2:]))


def attention_backward(g: Any, q: Any, k: Any, *_: Any, **__: Any) -> int:
    wide = (*q[:2], *k[2:])
    return sdpa_backward_flop_count(g, q, wide, wide)


def counted(function: Any) -> int:
    formulas = {CPU: attention, CPU_BACKWARD: attention_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops()


def tiny(
    folder: Path, part: str = "full", top: int = 0, checkpointing: bool = False
) -> RewardModel:
    config = AutoConfig.from_pretrained(folder, num_labels=1)
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model = RewardModel(classifier, torch.float32)
    train_part(model, part, top_layers=top, lora=LORA)  # type: ignore[arg-type]
    if checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[1, -5:] = 0
    return torch.randint(5, 100, (ROWS, LENGTH)), mask


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_forward_against_the_counter(kind: str, backbones: dict[str, Path]) -> None:
    model, (ids, mask) = tiny(backbones[kind]).eval(), rows()
    with torch.no_grad():
        found = counted(lambda: model(mask, input_ids=ids))
    expected = forward_flops(decoder_of(model), Load(ids.numel(), ROWS * LENGTH**2))
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("part", "top"), [("full", 0), ("top_layers", 2), ("lora", 0)])
@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_training_against_the_counter(
    kind: str, part: str, top: int, checkpointing: bool, backbones: dict[str, Path]
) -> None:
    model, (ids, mask) = tiny(backbones[kind], part, top, checkpointing), rows()
    expected = training_flops(
        decoder_of(model),
        Load(ids.numel(), ROWS * LENGTH**2),
        part,
        top_layers=top,
        checkpointing=checkpointing,
    )
    assert counted(lambda: run_step(model, ids, mask)) == pytest.approx(expected, rel=2e-3)


def test_a_trunk_at_hand_saves_the_layers_below(backbones: dict[str, Path]) -> None:
    decoder, load = decoder_of(tiny(backbones["llama"], "top_layers", 2)), Load(100, 900)
    whole, above = (
        training_flops(decoder, load, "top_layers", top_layers=2, trunk=trunk)
        for trunk in (False, True)
    )
    assert whole - above == forward_flops(decoder, load, decoder.layers - 2)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gemma-2b-it", 2_506_172_416),
        ("llama-3.2-3b-instruct", 3_212_749_824),
        ("smollm2-135m-instruct", 134_515_008),
    ],
)
def test_public_configurations_have_the_models_sizes(name: str, parameters: int) -> None:
    """The published counts, of tied embeddings; the score head is the hidden size more."""
    content = yaml.safe_load((CONF / f"architecture/{name}.yaml").read_text())
    config = AutoConfig.for_model(**content, num_labels=1, pad_token_id=0)
    with torch.device("meta"):
        model = RewardModel(AutoModelForSequenceClassification.from_config(config), torch.bfloat16)
    decoder = decoder_of(model)
    assert decoder.parameters == parameters + config.hidden_size
    embedding, norms = config.vocab_size * config.hidden_size, 2 * decoder.layers + 1
    others = embedding + (norms + 1) * config.hidden_size
    assert decoder.layers * decoder.matrices == decoder.parameters - others
    assert decoder.largest == embedding


@pytest.mark.parametrize(("part", "top"), [("full", 0), ("top_layers", 1), ("lora", 0)])
def test_states_without_deepspeed_are_what_training_holds(
    part: str, top: int, backbones: dict[str, Path]
) -> None:
    model, (ids, mask) = tiny(backbones["gemma"], part, top), rows()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(mask, input_ids=ids).rewards.sum().backward()
    optimizer.step()
    held = [*model.parameters(), *(value.grad for value in trained)]
    moments = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    real = sum(value.numel() * value.element_size() for value in [*held, *moments])
    assert model_states(decoder_of(model), 0, 1, buckets=BUCKETS).kept == real


DECODER = Decoder(2, 8, 8, 100, 0, 40, 20, parameters=800, trained=400, largest=160, stored=3200)


def test_states_by_stage() -> None:
    """By hand: P = 3200 bytes stored, T = 1600 bytes trained, 4 devices."""
    found = [model_states(DECODER, stage, 4, buckets=BUCKETS) for stage in range(4)]
    assert [one.kept for one in found] == [3200 + 4800, 3200 + 1600 + 1200, 3200 + 1600, 800 + 1600]
    assert [one.backward for one in found] == [1600, 200, 200, 200 + 3200]
    assert [one.step for one in found] == [0, 400, 400, 0]
    assert model_states(DECODER, 0, 1, buckets=BUCKETS).backward == 0
    offloaded = model_states(DECODER, 3, 4, offload=True, buckets=BUCKETS)
    assert (offloaded.kept, offloaded.host) == (0, 3200 + 4 * 1600)


def test_peak_is_in_backward_or_in_the_step() -> None:
    states = model_states(DECODER, 2, 4, buckets=BUCKETS)
    assert states.peak(1000) == 4800 + 200 + 1000
    assert states.peak(0) == 4800 + 400
