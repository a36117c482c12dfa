"""Training steps: ours against TRL's RewardTrainer, NormBT against BT, cached trunk against none.

    python -m benchmarks.training [--what trl weight trunk profile] [--data generated_v2 …]

trl      Full fine-tuning of SmolLM2-135M: TRL's RewardTrainer, and our trainer without and with
         prefix sharing. All take the same 8 pairs per step, matrix products in `common.DTYPE`,
         float32 master weights and fused AdamW. A step is collation, forward, backward, clipping
         and the optimiser. `skywork` has real pairs of all lengths; in `skywork, nothing shared`
         every row begins differently.
weight   The cpu profile's step (top layers over a cached trunk) with BT's and with NormBT's weight.
trunk    The cpu profile's step with a cached trunk and shared prefixes, against a step that
         computes all layers of both rows; and the time to fill the cache. `experiment_ratio`:
         speed-up of 4 losses × 3 seeds × 75 steps, computed from these times.
profile  Our full step with nothing to share, by operation (torch.profiler).

`of_product_rate`: FLOP per second of the matrix products that the loss needs (6 FLOP per weight and
computed token), divided by the rate of plain products on this machine in this run.
Writes results/benchmarks/training_*.csv.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from transformers import AutoTokenizer, Trainer, TrainingArguments

from benchmarks.common import (
    DTYPE,
    RESULTS,
    Way,
    backbone,
    interleave,
    machine,
    matrix_numbers,
    product_rate,
    profiled,
    timed,
    with_ratios,
    write,
)
from benchmarks.prefix import SKYWORK, SYNTHETIC, synthetic
from generated import generate
from rm.data.preferences import PreferencePair, load_preferences
from rm.data.templates import ChatTemplate
from rm.data.token_table import TokenPairs, tokenize_pairs
from rm.data.tokens import TokenPair
from rm.model.checkpoints import new_reward_model
from rm.model.parts import train_part
from rm.model.trunk import open_cache
from rm.objective.losses import bt
from rm.objective.objective import Objective
from rm.objective.weights import NormBT, Uniform
from rm.training.batches import PairCollator, PairStream, batch_tokens, micro_batches, rows_of
from rm.training.trainer import PairTrainer

BATCH, MICRO_BATCH, MAX_LENGTH, TOP_LAYERS = 8, 8, 320, 6
REAL = "skywork"
UNSHARED = "skywork, nothing shared"
EXPERIMENT_RUNS, EXPERIMENT_STEPS, EXPERIMENT_PAIRS = 12, 75, 1200


@dataclass
class Task:
    """A batch of pairs, and where temporary files go."""

    name: str
    pairs: TokenPairs
    folder: Path

    @property
    def row_tokens(self) -> int:
        """Tokens of both rows of every pair, without padding."""
        return int(self.pairs.row_tokens.sum())

    def parts(self, micro_batch: int) -> list[list[int]]:
        """The batch cut into micro-batches."""
        count = len(self.pairs)
        return micro_batches(self.pairs, range(count), global_batch=count, micro_batch=micro_batch)

    def tree_tokens(self, micro_batch: int) -> int:
        """Tokens that are computed if the rows of a micro-batch share their prefixes."""
        return int(batch_tokens(self.pairs, self.parts(micro_batch), share_prefix=True)["computed"])


def task_of(data: str, pairs: int, shared: Path, folder: Path) -> Task:
    """`pairs` pairs of at most MAX_LENGTH tokens per row: every eighth, ordered by length."""
    if data in SYNTHETIC:
        made = [
            TokenPair(str(seed), *synthetic(SYNTHETIC[data], 256, random.Random(seed)))
            for seed in range(pairs)
        ]
        return Task(data, TokenPairs.of(made), folder)
    tokens = list(tokenized(preferences(data, shared), MAX_LENGTH))[: 8 * pairs]
    tokens.sort(key=lambda pair: max(len(pair.chosen), len(pair.rejected)))
    chosen = tokens[::8]
    made = nothing_shared(chosen) if data == UNSHARED else chosen
    return Task(data, TokenPairs.of(made), folder)


def nothing_shared(pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """The same pairs with another first token in every row, so that rows share no prefix."""
    return [
        replace(
            pair,
            chosen=(100 + 2 * number, *pair.chosen[1:]),
            rejected=(101 + 2 * number, *pair.rejected[1:]),
        )
        for number, pair in enumerate(pairs)
    ]


def preferences(data: str, shared: Path) -> list[PreferencePair]:
    """Generated pairs, or a seeded sample of real ones."""
    if data == "generated_v2":
        return [made.pair for made in generate("train", 400, 0)]
    return load_preferences(shared / SKYWORK, limit=400, seed=0)[0]


def tokenized(pairs: Sequence[PreferencePair], max_length: int) -> TokenPairs:
    """Token pairs as training sees them."""
    template = ChatTemplate(AutoTokenizer.from_pretrained(backbone()))
    return tokenize_pairs(pairs, template, max_length, drop=True)[0]


def arguments(folder: Path) -> dict[str, Any]:
    """Settings that both trainers share."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-5,
        "optim": "adamw_torch_fused",
        "max_grad_norm": 5.0,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
    }


# --- Steppers: one optimiser step on one batch ----------------------------------------------------


def trl_step(task: Task) -> Way:
    """TRL's RewardTrainer on pairs that are tokenised already."""
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rows = [{"chosen_ids": [*p.chosen], "rejected_ids": [*p.rejected]} for p in task.pairs]
    config = RewardConfig(
        **arguments(task.folder),
        bf16=torch.bfloat16 == DTYPE,
        gradient_checkpointing=False,
        max_length=None,
        disable_dropout=False,
    )
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            backbone(), num_labels=1, dtype=torch.float32
        ),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(backbone()),
    )
    return stepper(trainer, lambda: [trainer.data_collator(rows)], lambda: None)


def our_step(
    task: Task,
    *,
    share_prefix: bool,
    weight: Uniform | NormBT,
    part: str = "full",
    cache: Path | None = None,
    micro_batch: int = BATCH,
) -> Way:
    """Our trainer, of all layers or of the top layers; with `cache`, over a cached trunk."""
    model, tokenizer = new_reward_model(backbone(), DTYPE, seed=0)
    frozen = DTYPE if part == "top_layers" else None
    train_part(model, part, top_layers=TOP_LAYERS, frozen_dtype=frozen)  # type: ignore[arg-type]
    trunk = None
    if cache is not None:
        trunk = open_cache(model, TOP_LAYERS, rows_of(task.pairs), cache, share=share_prefix)
    collator = PairCollator(int(tokenizer.pad_token_id), trunk, share=share_prefix)
    stream = PairStream(task.pairs, task.parts(micro_batch))
    given = arguments(task.folder) | {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(stream),
    }
    trainer = PairTrainer(
        model,
        TrainingArguments(**given, remove_unused_columns=False),
        stream=stream,
        collator=collator,
        objective=Objective(bt, weight),
    )

    def batches() -> list[Any]:
        collated = iter([collator(stream[number]) for number in range(len(stream))])
        return trainer.get_batch_samples(collated, len(stream), torch.device("cpu"))[0]

    return stepper(trainer, batches, trainer.finish_step)


def stepper(
    trainer: Trainer, batches: Callable[[], Sequence[Any]], finish: Callable[[], None]
) -> Way:
    """One optimiser step of a transformers Trainer, as in its own loop."""
    trainer.create_optimizer()
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)

    def step() -> None:
        micro = batches()
        trainer.current_gradient_accumulation_steps = len(micro)
        for inputs in micro:
            trainer.training_step(model, inputs)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        finish()
        model.zero_grad()

    return step


# --- What is measured -----------------------------------------------------------------------------


def against_trl(task: Task, rounds: int) -> pd.DataFrame:
    """Full fine-tuning on one batch: TRL, our two-row forward, our shared prefixes."""
    ours = functools.partial(our_step, task, weight=NormBT(0.9, 1e-6))
    ways = {
        "trl": trl_step(task),
        "two-row": ours(share_prefix=False),
        "shared": ours(share_prefix=True),
    }
    found = with_ratios(interleave(ways, rounds, task.name), "trl")
    tree = task.tree_tokens(BATCH)
    found["tokens"] = [tree if way == "shared" else task.row_tokens for way in found.way]
    found["saved"] = 1 - found.tokens / task.row_tokens
    found["pairs_per_s"] = len(task.pairs) / found.wall_s
    found["row_tokens_per_s"] = task.row_tokens / found.wall_s
    model, _ = new_reward_model(backbone(), DTYPE, seed=0)
    rate = product_rate()
    work = 6 * matrix_numbers([model.backbone]) * found.tokens
    found["product_gflops"] = rate / 1e9
    found["of_product_rate"] = work / found.wall_s / rate
    return found.assign(data=task.name, pairs=len(task.pairs), row_tokens=task.row_tokens)


def weights(task: Task, cache: Path, rounds: int) -> pd.DataFrame:
    """The cpu profile's step with BT's weight and with NormBT's."""
    ours = functools.partial(
        our_step, task, share_prefix=True, part="top_layers", cache=cache, micro_batch=MICRO_BATCH
    )
    ways = {"bt": ours(weight=Uniform()), "normbt": ours(weight=NormBT(0.9, 1e-6))}
    found = with_ratios(interleave(ways, rounds, "weights", warm_up=3), "bt")
    found["time_of_bt"] = 1 / found.ratio_cpu
    return found.assign(data=task.name, pairs=len(task.pairs), row_tokens=task.row_tokens)


def trunk_reuse(task: Task, cache: Path, rounds: int) -> pd.DataFrame:
    """The cpu profile's step without and with its cache; an experiment's time computed from it."""
    ours = functools.partial(our_step, task, weight=NormBT(0.9, 1e-6), part="top_layers")
    ways = {
        "all layers, two-row": ours(share_prefix=False, micro_batch=MICRO_BATCH),
        "cached, two-row": ours(share_prefix=False, cache=cache, micro_batch=MICRO_BATCH),
        "cached, shared": ours(share_prefix=True, cache=cache, micro_batch=MICRO_BATCH),
    }
    found = with_ratios(interleave(ways, rounds, "trunk"), "all layers, two-row")
    model, _ = new_reward_model(backbone(), DTYPE, seed=0)
    train_part(model, "top_layers", top_layers=TOP_LAYERS, frozen_dtype=DTYPE)
    fills = []
    for shared in (False, True):
        with tempfile.TemporaryDirectory() as empty:
            rows, to = list(rows_of(task.pairs)), Path(empty)
            fill = functools.partial(open_cache, model, TOP_LAYERS, rows, to, share=shared)
            fills.append(timed(fill)[0])
    found["fill_s_a_pair"] = [0.0, *(seconds / len(task.pairs) for seconds in fills)]
    runs = EXPERIMENT_RUNS * EXPERIMENT_STEPS * found.wall_s
    found["experiment_s"] = runs + EXPERIMENT_PAIRS * found.fill_s_a_pair
    found["experiment_ratio"] = found.experiment_s.iloc[0] / found.experiment_s
    return found.assign(data=task.name, pairs=len(task.pairs), row_tokens=task.row_tokens)


def profile(task: Task) -> pd.DataFrame:
    """A full step with prefix sharing, by operation (see `profiled`)."""
    step = our_step(task, share_prefix=True, weight=NormBT(0.9, 1e-6))
    return profiled(step).assign(data=task.name)


def main() -> None:
    """Measure, print, write."""
    names = [REAL, UNSHARED, "generated_v2", *SYNTHETIC]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", default=["trl", "weight", "trunk", "profile"])
    parser.add_argument("--data", nargs="+", default=names, choices=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for data in given.data if "trl" in given.what else ():
            if data in (REAL, UNSHARED) and not (given.shared / SKYWORK).is_file():
                print(f"{data} is left out: there is no {given.shared / SKYWORK}")
                continue
            found = against_trl(task_of(data, BATCH, given.shared, folder), given.rounds)
            write(found.assign(**machine()), given.output / "training_trl.csv", ["data"])
        task = task_of("generated_v2", 16, given.shared, folder)
        if "profile" in given.what:
            found = profile(task_of("synthetic 0 %", BATCH, given.shared, folder))
            write(found.assign(**machine()), given.output / "training_profile.csv", ["data"])
        for what, measure, factor in (("weight", weights, 6), ("trunk", trunk_reuse, 1)):
            if what in given.what:
                found = measure(task, folder / "trunk", factor * given.rounds)
                write(found.assign(**machine()), given.output / f"training_{what}.csv", ["data"])


if __name__ == "__main__":
    main()
