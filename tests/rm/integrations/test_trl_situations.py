"""TRL's RewardTrainer and ours in the situations that TRL itself tests.

With weights of 1 ours must be TRL's; with NormBT the mean weight and μ must follow the logged
distances. The pad token ends conversations, as TRL chooses it for Llama.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    GPT2Config,
    GPT2ForTokenClassification,
    MixtralConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from rm.errors import InputError
from rm.objective.weights import PairWeight, Uniform
from tests.marks import two_ranks

pytest.importorskip("trl", reason="trl is not installed: pip install --no-deps trl==1.16.0")

from tests.rm.integrations.drop_in import (
    GLOBAL_BATCH,
    STEPS,
    classifier,
    conversations,
    steps_of,
    tokenised,
    trainer,
)

Change = Callable[[Path], dict[str, Any]]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
pytestmark = [
    pytest.mark.filterwarnings("ignore:in .* rows the model reads the reward"),
    pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_search() -> Iterator[None]:
    """accelerate collects garbage in every run: half of the time, among all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def backbone(backbones: dict[str, Path]) -> Path:
    return backbones["llama"]


def experts(backbone: Path, kind: type[Any], **own: int) -> PreTrainedModel:
    """A tiny random mixture of experts for the backbone's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=1,
        initializer_range=0.2,
        **own,
    )
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def mixtral(backbone: Path) -> PreTrainedModel:
    return experts(backbone, MixtralConfig, num_local_experts=4, num_experts_per_tok=2)


def qwen(backbone: Path) -> PreTrainedModel:
    return experts(backbone, Qwen3MoeConfig, **EXPERTS)


def lora(*modules: str, **own: Any) -> LoraConfig:
    """Adapters that are not zero at first, so that they matter from the first step."""
    return LoraConfig(
        r=4, target_modules=list(modules), init_lora_weights=False, task_type="SEQ_CLS", **own
    )


def rows(change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Dataset:
    made = conversations(GLOBAL_BATCH * STEPS)
    return Dataset.from_list([change(number, row) for number, row in enumerate(made)])


def stream(_: Path) -> dict[str, Any]:
    made = conversations(GLOBAL_BATCH * STEPS)
    return {"data": IterableDataset.from_generator(lambda: iter(made))}


def plain_text(_: int, row: dict[str, Any]) -> dict[str, Any]:
    return {side: " ".join(turn["content"] for turn in turns) for side, turns in row.items()}


def checkpointing(reentrant: bool) -> dict[str, Any]:
    return {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }


SITUATIONS: dict[str, Change] = {
    "dense": lambda _: {},
    "bfloat16": lambda _: {"bf16": True},
    "accumulation": lambda _: {
        "per_device_train_batch_size": GLOBAL_BATCH // 2,
        "gradient_accumulation_steps": 2,
    },
    "mixtral": lambda backbone: {"model": mixtral(backbone)},
    "qwen3_moe": lambda backbone: {"model": qwen(backbone)},
    "reentrant_checkpointing": lambda _: checkpointing(True),
    "checkpointing": lambda _: checkpointing(False),
    "lora": lambda _: {"options": {"peft_config": lora("q_proj", modules_to_save=["score"])}},
    "lora_of_the_head_too": lambda _: {"options": {"peft_config": lora("q_proj", "score")}},
    "lora_and_reentrant_checkpointing": lambda _: (
        checkpointing(True) | {"options": {"peft_config": lora("v_proj")}}
    ),
    "lora_and_checkpointing": lambda _: (
        checkpointing(False) | {"options": {"peft_config": lora("v_proj")}}
    ),
    "lora_of_experts": lambda backbone: {
        "model": qwen(backbone),
        "options": {"peft_config": lora("q_proj", "score")},
    },
    "adapted_before": lambda backbone: {
        "model": get_peft_model(classifier(backbone), lora("q_proj"))
    },
    "prompt_tuning": lambda _: {
        "options": {"peft_config": PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)}
    },
    "iterable": stream,
    "tokenised_under_old_names": lambda backbone: {
        "data": tokenised(backbone).rename_columns(
            {"chosen_ids": "chosen_input_ids", "rejected_ids": "rejected_input_ids"}
        )
    },
    "conversations": lambda _: {"data": rows(lambda _, row: row)},
    "explicit_prompt": lambda _: {
        "data": rows(
            lambda _, row: {
                "prompt": row["chosen"][:-1],
                **{side: turns[-1:] for side, turns in row.items()},
            }
        )
    },
    "plain_text": lambda _: {"data": rows(plain_text)},
    "margin": lambda _: {"data": rows(lambda number, row: row | {"margin": number % 3 / 2})},
    "centring": lambda _: {"center_rewards_coefficient": 0.05},
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_with_weights_of_one_it_is_trls_own_trainer(
    backbone: Path, tmp_path: Path, name: str
) -> None:
    def run(weight: PairWeight | None) -> Any:
        torch.manual_seed(0)
        made = trainer(backbone, tmp_path / "out", weight=weight, **SITUATIONS[name](backbone))
        made.train()
        return made

    ours, theirs = run(Uniform()), run(None)
    assert len(steps_of(ours)) == STEPS
    for one, other in zip(steps_of(ours), steps_of(theirs), strict=True):
        for key in ("loss", "grad_norm", "mean_reward", "accuracy", "margin"):
            assert one[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6), key
        assert one["weight_mean"] == 1
    parameters = dict(theirs.model.named_parameters())
    for key, value in ours.model.named_parameters():
        assert torch.allclose(value, parameters[key], rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize("name", SITUATIONS)
def test_mu_and_weights_follow_the_distances(backbone: Path, tmp_path: Path, name: str) -> None:
    """μ_0 is the first batch's mean, then β μ + (1 − β) mean; the first mean weight is above 1."""
    made = trainer(backbone, tmp_path, **SITUATIONS[name](backbone))
    before = {key: value.clone() for key, value in made.model.named_parameters()}
    made.train()
    steps = steps_of(made)
    assert len(steps) == STEPS
    mu = steps[0]["distance_mean"]
    assert mu > 0 and steps[0]["weight_mean"] > 1  # Jensen: the distances are unlike
    for step in steps:
        assert step["mu"] == pytest.approx(mu, rel=1e-5)
        mu = 0.9 * mu + 0.1 * step["distance_mean"]
    assert made.mu == pytest.approx(mu, rel=1e-5)
    moved = [key for key, value in made.model.named_parameters() if not value.equal(before[key])]
    assert moved == [key for key, value in made.model.named_parameters() if value.requires_grad]


# --- where the distance is taken ----------------------------------------------------------------


def states_before_the_end(model: PreTrainedModel, ids: list[list[int]]) -> torch.Tensor:
    """Last hidden states, row by row, at the token before the last one."""
    with torch.no_grad():
        return torch.stack(
            [
                model.base_model(torch.tensor([row[:-1]])).last_hidden_state[0, -1]  # causal
                for row in ids
            ]
        )


def test_the_distance_is_taken_at_the_token_of_the_reward(backbone: Path, tmp_path: Path) -> None:
    """With pad = end of turn, the model reads its reward one token before the end."""
    made = trainer(backbone, tmp_path, max_steps=1)
    first = made.train_dataset.select(range(GLOBAL_BATCH))
    end = made.processing_class.pad_token_id
    sides = [first["chosen_ids"], first["rejected_ids"]]
    assert all(row[-1] == end and row[-2] != end for side in sides for row in side)
    chosen, rejected = (states_before_the_end(made.model, list(side)) for side in sides)
    distance = (chosen - rejected).norm(dim=-1)
    made.train()
    (step,) = steps_of(made)
    assert step["distance_mean"] == pytest.approx(distance.mean().item(), rel=1e-5)
    weights = distance.mean() / (distance + 1e-6)
    assert step["weight_mean"] == pytest.approx(weights.mean().item(), rel=1e-5)


def test_one_warning_where_that_token_is_not_the_last(backbone: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="in 8 of 8 rows .* pad token '<.eot_id.>'") as found:
        trainer(backbone, tmp_path).train()
    assert len([one for one in found if "reads the reward" in str(one.message)]) == 1


def test_no_warning_with_a_pad_token_that_ends_no_row(backbone: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "in .* rows")
        trainer(backbone, tmp_path, max_steps=1, pad_token="<|start_header_id|>").train()


def test_a_model_without_a_score_head_is_refused(backbone: Path, tmp_path: Path) -> None:
    size = len(AutoTokenizer.from_pretrained(backbone))
    config = GPT2Config(vocab_size=size, n_embd=8, n_layer=1, n_head=1, num_labels=1)
    with pytest.raises(InputError, match="GPT2ForTokenClassification has no head named `score`"):
        trainer(backbone, tmp_path, model=GPT2ForTokenClassification(config))


# --- evaluation ---------------------------------------------------------------------------------


def test_evaluation_is_trls_and_moves_nothing(backbone: Path, tmp_path: Path) -> None:
    """Two named sets of raw rows and a metric of the user's, after every step."""
    held_out = Dataset.from_list(conversations(30)[-12:])

    def mean(found: EvalPrediction) -> dict[str, float]:
        return {"mine": float(np.mean(found.predictions))}

    options = {"eval_dataset": {"a": held_out, "b": held_out.select(range(5))}}
    options |= {"compute_metrics": mean}
    evaluating = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 12}
    ours = trainer(backbone, tmp_path, **evaluating, options=options)
    silent = trainer(backbone, tmp_path)
    for one in (ours, silent):
        one.train()
    assert steps_of(ours) == steps_of(silent)
    theirs = trainer(
        backbone, tmp_path, weight=None, model=ours.model, **evaluating, options=options
    )
    found, expected = ours.evaluate(), theirs.evaluate()
    for key in ("eval_a_loss", "eval_b_loss", "eval_a_mine", "eval_accuracy", "eval_margin"):
        assert found[key] == pytest.approx(expected[key], rel=1e-6), key
    assert not any("weight" in key or "mu" in key.split("_") for key in found)
    again = ours.evaluate(held_out)  # raw rows, given by hand
    assert again["eval_loss"] == pytest.approx(found["eval_a_loss"], rel=1e-6)
    assert ours.mu == silent.mu


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("restored", [False, True])
def test_a_resumed_run_has_the_steps_of_one_that_was_not_interrupted(
    backbone: Path, tmp_path: Path, restored: bool
) -> None:
    """`restored`: transformers restores callbacks too, and puts new ones in place of ours."""
    saving = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    saving |= {"restore_callback_states_from_checkpoint": restored}
    whole = trainer(backbone, tmp_path, **saving)
    whole.train()
    resumed = trainer(backbone, tmp_path, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    own, other = steps_of(resumed), steps_of(whole)
    assert [step["step"] for step in own] == [1, 2, 3, 4]  # two from the checkpoint's log
    for one, expected in zip(own, other, strict=True):
        for key in ("loss", "mu", "weight_mean", "distance_mean", "learning_rate"):
            assert one[key] == pytest.approx(expected[key], rel=1e-6), (one["step"], key)
    assert resumed.mu == pytest.approx(whole.mu, rel=1e-6)
    parameters = dict(whole.model.named_parameters())
    for name, value in resumed.model.named_parameters():
        assert torch.allclose(value, parameters[name], atol=1e-6), name
    # So that a μ that starts anew would be seen:
    assert other[2]["mu"] != pytest.approx(other[2]["distance_mean"], rel=1e-3)


def test_a_checkpoint_without_mu_is_named(backbone: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer(backbone, tmp_path, weight=None, **saving).train()
    resumed = trainer(backbone, tmp_path)
    with pytest.warns(UserWarning, match=r"checkpoint of step 2 has no μ .* from the next batch"):
        resumed.train(resume_from_checkpoint=True)
    third = steps_of(resumed)[2]
    assert third["mu"] == pytest.approx(third["distance_mean"], rel=1e-5)


# --- ranks --------------------------------------------------------------------------------------


@two_ranks
@pytest.mark.slow
def test_two_ranks_equal_one(backbone: Path, tmp_path: Path) -> None:
    """Two ranks with two pieces each against one rank with the four pairs at once."""
    alone = trainer(backbone, tmp_path / "alone")
    alone.train()
    words = "-m torch.distributed.run --standalone --nproc-per-node=2"
    words += f" -m tests.rm.integrations.drop_in {backbone} {tmp_path}"
    done = subprocess.run(
        [sys.executable, *words.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = json.loads((tmp_path / "steps.json").read_text())
    assert len(both) == STEPS
    for one, two in zip(steps_of(alone), both, strict=True):
        for key in ("mu", "distance_mean", "weight_mean", "accuracy", "loss"):
            assert two[key] == pytest.approx(one[key], rel=2e-4, abs=1e-5), (one["step"], key)
    parameters = load_file(tmp_path / "parameters.safetensors")
    for name, value in alone.model.named_parameters():
        assert torch.allclose(value, parameters[name], rtol=2e-4, atol=2e-4), name
