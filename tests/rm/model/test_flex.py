"""FlexAttention over a tree of rows: the rewards and gradients of SDPA row by row, or a refusal.

Without a GPU it runs uncompiled on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rm.model import checks as capability
from rm.model.attention import attention_plan, flex_plan, shared_batch
from rm.model.checks import can_flex
from rm.model.parts import train_part
from rm.model.precision import best_device
from rm.model.reward_model import RewardModel
from rm.model.tree import share
from tests.rm.model.test_attention import (
    ALL,
    LORA,
    PROMPT,
    error,
    grow_adapters,
    model_of,
    one_tree,
    results,
)

ON_GPU = best_device() != "cpu"


@pytest.fixture(params=["llama", "gemma"])
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Path:
    return backbones[request.param]


def assert_same_results(model: RewardModel, tolerance: float) -> None:
    by_rows = results(model, one_tree)
    model.flex_attention = True
    in_one = results(model, one_tree)
    assert by_rows.keys() == in_one.keys() and len(in_one) > 4
    for name, value in by_rows.items():
        assert error(value, in_one[name]) <= tolerance, name


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("part", ["full", "lora", "top_layers"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_gradients_of_many_pairs(backbone: Path, part: Any, checkpointing: bool) -> None:
    model = model_of(backbone)
    train_part(model, part, top_layers=2, lora=LORA)
    grow_adapters(model)
    if checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_results(model.train(), 1e-5)


@pytest.mark.usefixtures("uncompiled")
def test_bfloat16_differs_by_no_more_than_its_rounding(backbone: Path) -> None:
    exact, model = results(model_of(backbone), one_tree), model_of(backbone, torch.bfloat16)
    by_rows = results(model, one_tree)
    model.flex_attention = True
    in_one = results(model, one_tree)
    for name, value in exact.items():
        rounding = error(value, by_rows[name])
        assert error(value, in_one[name]) <= max(2 * rounding, 0.01), name


def test_blocks_that_nobody_sees_are_skipped() -> None:
    """Rows without a common token, two blocks of 128 each: a row sees its own blocks alone."""
    rows = [tuple(1000 * row + place for place in range(256)) for row in range(4)]
    plan = flex_plan(attention_plan(share(rows)))
    assert plan.mask.to_dense()[0, 0].tolist() == [
        [int(2 * (row // 2) <= column <= row) for column in range(8)] for row in range(8)
    ]


@pytest.mark.skipif(ON_GPU, reason="there is a GPU here")
def test_without_a_gpu_it_is_refused(backbone: Path) -> None:
    assert "only on CUDA GPUs" in (can_flex(model_of(backbone)) or "")


def test_dropout_is_refused(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "best_device", lambda: "cuda")
    model = model_of(backbone)
    model.config.attention_dropout = 0.1
    assert "attention dropout (0.1" in (can_flex(model) or "")


@pytest.mark.usefixtures("uncompiled")
def test_the_trial_passes_what_is_the_same_and_names_what_is_not(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(backbone)
    trial = capability._flex_refusal_by_trial
    assert trial(model, "cpu") is None

    def without_a_fork(plan: Any) -> Any:
        plan.behind = torch.full_like(plan.behind, len(plan.behind))
        return flex_plan(plan)

    monkeypatch.setattr("rm.model.reward_model.flex_plan", without_a_fork)
    assert "give different results here" in (trial(model, "cpu") or "")

    def failing(_: Any) -> Any:
        raise RuntimeError("no compiler\nmore of it")

    monkeypatch.setattr("rm.model.reward_model.flex_plan", failing)
    assert trial(model, "cpu") == "FlexAttention does not run here: no compiler"


@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_on_a_gpu(backbone: Path, dtype: torch.dtype) -> None:
    model = model_of(backbone, dtype).to("cuda").train()
    assert can_flex(model) is None
    long = [(*PROMPT, *row * 20) for row in ALL]
    for rows in (ALL[:2], long[:4], ALL, long):  # one block, several, and other shapes again
        batch = shared_batch(rows).to("cuda")
        found = []
        for model.flex_attention in (False, True):
            model.zero_grad()
            output = model(shared=batch)
            output.rewards.sum().backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            found.append(torch.cat([output.hidden.detach().flatten(), *gradients]))
        assert error(*found) <= (1e-3 if dtype == torch.float32 else 0.05)
