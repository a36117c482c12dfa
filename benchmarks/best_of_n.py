"""Scoring N responses to one prompt: shared prompt, row by row, and a plain padded batch.

    python -m benchmarks.best_of_n [--n 16 64 256] [--prompts 128] [--rounds 3] [--threads 2]

Writes results/benchmarks/best_of_n.csv. Ratio: the time of "one by one" divided by the way's time.
"""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.common import RESULTS, backbone, interleave, machine, with_ratios, write
from rm.data.tokens import pad
from rm.model.attention import shared_batch
from rm.model.checkpoints import new_reward_model
from rm.model.parts import lower_precision
from rm.model.precision import DTYPES, fast_dtype
from rm.model.reward_model import RewardModel
from rm.model.tree import batches_by_shared_tokens
from rm.model.trunk import Row

OUTPUT = RESULTS / "best_of_n.csv"
RESPONSE = (16, 80)
BATCH_TOKENS = 8192
Way = Callable[[RewardModel, Sequence[Row]], Tensor]


def one_by_one(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """Every row in its own forward pass."""
    return torch.cat([forward(model, [row]) for row in rows])


def batched(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """All rows in one padded batch; each row computes the prompt again."""
    return forward(model, rows)


@torch.inference_mode()
def shared(model: RewardModel, rows: Sequence[Row]) -> Tensor:
    """The prompt computed once, with all responses branching off it (`rm.model.attention`)."""
    batches = batches_by_shared_tokens(rows, BATCH_TOKENS)
    found: dict[Row, Tensor] = {}
    for batch in batches:
        rewards = model(shared=shared_batch(batch)).rewards
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


def measure(model: RewardModel, prompt: int, n: int, rounds: int) -> pd.DataFrame:
    """Time all ways on the same rows; one row per way."""
    rows = make_rows(prompt, n)
    rewards: dict[str, Tensor] = {}

    def keep(name: str, way: Way) -> None:
        rewards[name] = way(model, rows)

    ways = {name: functools.partial(keep, name, way) for name, way in WAYS.items()}
    times = interleave(ways, rounds, f"prompt {prompt}, N {n}", warm_up=0)
    found = with_ratios(times, "one by one")
    found["largest_difference"] = [
        (rewards[name] - rewards["one by one"]).abs().max().item() for name in found.way
    ]
    response = sum(map(len, rows)) / n - prompt
    return found.assign(prompt_tokens=prompt, response_tokens=response, n=n)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default=fast_dtype(), choices=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    model, _ = new_reward_model(backbone(), DTYPES[words.dtype], seed=0)
    lower_precision(model.eval().backbone, DTYPES[words.dtype])
    one_by_one(model, make_rows(16, 2))  # warm up
    frames = [
        measure(model, prompt, n, words.rounds).assign(**machine() | {"dtype": words.dtype})
        for prompt in words.prompts
        for n in words.n
    ]
    write(pd.concat(frames), words.output, ["dtype", "prompt_tokens", "n"])


if __name__ == "__main__":
    main()
