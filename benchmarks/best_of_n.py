"""Scoring N responses to one prompt: the prompt's part once, against row by row and a plain batch.

    python -m benchmarks.best_of_n [--n 16 64] [--prompts 60 240] [--rounds 3] [--threads 2]

Every round runs every way once, in turn, so that a busy machine slows all alike; medians over
rounds. `ratio_wall` and `ratio_cpu` are the time of scoring one by one over that of the way, by the
clock and by processor time (which other processes disturb less). Prints a table and writes
results/benchmarks/best_of_n.csv.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rm.files import atomic_write_text
from rm.models import RewardModel, new_reward_model
from rm.prefix import batches_by_shared_tokens, forward_shared, shared_batch
from rm.tokens import pad
from rm.trunk import Row

BACKBONE = Path("runs/cache/backbones/smollm2-135m-instruct")
OUTPUT = Path("results/benchmarks/best_of_n.csv")
RESPONSE = (16, 80)
BATCH_TOKENS = 8192
Way = Callable[[RewardModel, Sequence[Row]], Tensor]


def one_by_one(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """Every row in a forward of its own."""
    return torch.cat([forward(model, [row]) for row in rows])


def batched(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """All rows in one padded batch, the prompt computed again in each."""
    return forward(model, rows)


@torch.inference_mode()
def shared(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """The common start once, all endings branching off it (`rm.prefix`)."""
    batches = batches_by_shared_tokens(rows, BATCH_TOKENS)
    found: dict[Row, Tensor] = {}
    for batch in batches:
        rewards = forward_shared(model, shared_batch(batch)).rewards
        found.update(zip(batch, rewards, strict=True))
    return torch.stack([found[row] for row in rows])


WAYS: dict[str, Way] = {"one by one": one_by_one, "plain batch": batched, "shared prompt": shared}


@torch.inference_mode()
def forward(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """Rewards (rows,) of the plain forward."""
    ids, mask = pad(rows, 0)
    return model(mask, input_ids=ids).rewards


def make_rows(prompt: int, n: int, seed: int = 0) -> list[Row]:
    """N rows of random tokens that share `prompt` tokens; the endings have RESPONSE tokens."""
    draw = random.Random(seed)

    def tokens(count: int) -> Row:
        return tuple(draw.randrange(10, 40_000) for _ in range(count))

    start = tokens(prompt)
    return [(*start, *tokens(draw.randint(*RESPONSE))) for _ in range(n)]


def measure(model: RewardModel, prompt: int, n: int, rounds: int) -> list[dict[str, object]]:
    """Time all ways on the same rows; one record a way."""
    rows = make_rows(prompt, n)
    wall: dict[str, list[float]] = {name: [] for name in WAYS}
    used: dict[str, list[float]] = {name: [] for name in WAYS}
    rewards: dict[str, Tensor] = {}
    for _ in tqdm(range(rounds), desc=f"prompt {prompt}, N {n}", leave=False):
        for name, way in WAYS.items():
            clock, processor = time.perf_counter(), time.process_time()
            rewards[name] = way(model, rows)
            wall[name].append(time.perf_counter() - clock)
            used[name].append(time.process_time() - processor)
    first = {k: statistics.median(v["one by one"]) for k, v in (("wall", wall), ("cpu", used))}
    return [
        {
            "prompt_tokens": prompt,
            "response_tokens": sum(map(len, rows)) / n - prompt,
            "n": n,
            "way": name,
            "wall_s": statistics.median(wall[name]),
            "cpu_s": statistics.median(used[name]),
            "ratio_wall": first["wall"] / statistics.median(wall[name]),
            "ratio_cpu": first["cpu"] / statistics.median(used[name]),
            "largest_difference": (rewards[name] - rewards["one by one"]).abs().max().item(),
            "rounds": rounds,
        }
        for name in WAYS
    ]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--prompts", type=int, nargs="+", default=[60, 240])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    model, _ = new_reward_model(BACKBONE, torch.float32, seed=0)
    model.eval()
    one_by_one(model, make_rows(16, 2))  # warm up
    records = []
    for prompt in words.prompts:
        for n in words.n:
            records += measure(model, prompt, n, words.rounds)
    frame = pd.DataFrame(records).assign(
        backbone=BACKBONE.name, dtype="float32", threads=words.threads
    )
    print(frame.to_string(index=False, float_format="{:.3g}".format))
    atomic_write_text(words.output, frame.to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
