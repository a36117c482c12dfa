"""TRL's RewardTrainer, or ours in its place, on a few generated pairs.

As a module (`python -m tests.rm.integrations.drop_in BACKBONE FOLDER`): one rank of several, which
trains four steps of NormBT; rank 0 writes what was logged and the parameters to FOLDER.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedModel

from generated import generate
from rm.model.checkpoints import new_reward_model
from rm.objective.weights import NormBT, PairWeight

Row = dict[str, Any]
GLOBAL_BATCH, STEPS = 4, 4
NORMBT = NormBT(beta=0.9, epsilon=1e-6)


def conversations(count: int) -> list[Row]:
    """Short generated pairs as TRL's conversational preference rows (implicit prompt)."""
    made = [one.pair for one in generate("train", 4 * count, 0)]
    made = sorted(made, key=lambda pair: len(pair.prompt[-1]["content"] + pair.chosen))[:count]
    return [
        {
            side: [*map(dict, pair.prompt), {"role": "assistant", "content": text}]
            for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
        }
        for pair in made
    ]


@cache
def tokenised(backbone: Path, count: int = GLOBAL_BATCH * STEPS) -> Dataset:
    """The rows as token ids, which TRL takes as they are."""
    template = AutoTokenizer.from_pretrained(backbone).apply_chat_template
    return Dataset.from_list(
        [
            {
                f"{side}_ids": template(turns, tokenize=True, return_dict=False)
                for side, turns in row.items()
            }
            for row in conversations(count)
        ]
    )


def classifier(backbone: Path) -> PreTrainedModel:
    """The backbone with a fresh head, the same one every time."""
    return new_reward_model(backbone, torch.float32, seed=0)[0].classifier


def trainer(
    backbone: Path,
    folder: Path,
    *,
    weight: PairWeight | None = NORMBT,
    model: PreTrainedModel | None = None,
    data: Any = None,
    pad_token: str | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """A trainer of four steps of four pairs in order; `weight` None: TRL's own.

    `settings` go to RewardConfig, `options` to the trainer. The pad token is the one that ends
    conversations, as TRL chooses it for Llama, unless `pad_token` names another.
    """
    from trl import RewardConfig, RewardTrainer

    from rm.integrations.trl import WeightedRewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.pad_token = pad_token or tokenizer.eos_token
    own = {
        "per_device_train_batch_size": GLOBAL_BATCH,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    chosen = RewardTrainer if weight is None else WeightedRewardTrainer
    return chosen(
        model=model if model is not None else classifier(backbone),
        args=RewardConfig(str(folder), **{**own, **settings}),
        train_dataset=data or tokenised(backbone),
        processing_class=tokenizer,
        **({} if weight is None else {"pair_weight": weight}),
        **(options or {}),
    )


def steps_of(trained: Any) -> list[dict[str, float]]:
    """What a trainer logged of its steps."""
    return [entry for entry in trained.state.log_history if "loss" in entry]


def main(backbone: Path, folder: Path) -> None:
    """Train as one of two ranks: one pair at once, two accumulation steps."""
    made = trainer(
        backbone, folder / "trainer", per_device_train_batch_size=1, gradient_accumulation_steps=2
    )
    assert made.args.world_size == 2 and GLOBAL_BATCH == 4
    made.train()
    if made.is_world_process_zero():
        (folder / "steps.json").write_text(json.dumps(steps_of(made)))
        save_file(dict(made.model.named_parameters()), folder / "parameters.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
