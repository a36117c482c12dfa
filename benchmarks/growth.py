"""How time and memory grow with the number of pairs that are scored, and with their length.

    python -m benchmarks.growth [--pairs 1000 2000 4000 8000 16000] [--lengths 128 256 512 1024]

pairs   Scoring generated pairs with a tiny random Llama, so that our own code dominates. In every
        round each size runs in its own process. `time_a_token`: time per token divided by that of
        the largest size (1: linear). `memory_mb`: peak memory minus the peak before scoring. Values
        are medians over rounds.
length  One full training step of SmolLM2-135M on 4 pairs of random tokens, half of each shared.
        `time_a_token`: time per token divided by that of the shortest length. `attention_share`:
        attention's share of the step's CPU time (torch.profiler). `kernel_s`: seconds
        of the plain causal kernel in all layers on the unshared rows, forward and backward.

Writes results/benchmarks/growth.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoConfig

from benchmarks.common import (
    DTYPE,
    RESULTS,
    Way,
    backbone,
    interleave,
    machine,
    profiled,
    timed,
    write,
)
from benchmarks.prefix import synthetic
from benchmarks.training import Task, our_step
from eval.scoring import Scorer
from generated import generate
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.configuration import compose_config
from rm.data.token_table import TokenPairs
from rm.data.tokens import TokenPair
from rm.model.checkpoints import new_reward_model
from rm.objective.weights import NormBT


def score(pairs: int) -> dict[str, float]:
    """Score generated pairs in this process; return seconds, growth of peak memory (MB), tokens."""
    config = compose_config("train", ["model=tiny-llama"])
    folder = backbone_folder(config.model, config.cache_dir)
    model, tokenizer = new_reward_model(folder, torch.float32, seed=0)
    scorer = Scorer(model, tokenizer, max_length=384, batch_tokens=4096, share_prefix=True)
    made = [one.pair for one in generate("train", pairs, 0)]
    encoded = [scorer.encode(p.prompt, (p.chosen, p.rejected))[0] for p in made]
    rows = [row for sides in encoded for row in sides]
    scorer.rewards(rows[:64])
    before = _peak()
    wall, cpu = timed(lambda: scorer.rewards(rows))
    tokens = sum(map(len, rows))
    return {"wall_s": wall, "cpu_s": cpu, "memory_mb": _peak() - before, "tokens": tokens}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(pairs: int, threads: int) -> dict[str, float]:
    """Run `score` in its own process."""
    command = [sys.executable, "-m", "benchmarks.growth", "--score", str(pairs)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def by_pairs(sizes: list[int], threads: int, rounds: int) -> pd.DataFrame:
    """Score every size once per round."""
    found = [
        {"size": size, **in_a_process(size, threads)}
        for _ in tqdm(range(rounds), desc="pairs", leave=False)
        for size in sorted(sizes)
    ]
    by_size = pd.DataFrame(found).groupby("size")
    frame = by_size.median()
    wall = by_size["wall_s"]
    frame = frame.assign(wall_low=wall.min(), wall_high=wall.max(), rounds=rounds).reset_index()
    each = frame.wall_s / frame.tokens
    return frame.assign(what="pairs", time_a_token=each / each.iloc[-1])


def by_length(lengths: list[int], rounds: int) -> pd.DataFrame:
    """One training step at every length."""
    with tempfile.TemporaryDirectory() as folder:
        ways, tokens = {}, {}
        for length in sorted(lengths):
            rows = [synthetic(0.5, length, random.Random(seed)) for seed in range(4)]
            pairs = TokenPairs.of(TokenPair(str(n), *two) for n, two in enumerate(rows))
            task = Task(str(length), pairs, Path(folder))
            tokens[str(length)] = task.row_tokens
            ways[str(length)] = our_step(
                task, share_prefix=True, weight=NormBT(0.9, 1e-6), micro_batch=4
            )
        frame = interleave(ways, rounds, "length").rename(columns={"way": "size"})
        frame["attention_share"] = [attention_share(ways[size]) for size in frame["size"]]
    frame = frame.assign(what="length", tokens=frame["size"].map(tokens))
    frame["kernel_s"] = [kernel_seconds(int(size), rows=8) for size in frame["size"]]
    each = frame.wall_s / frame.tokens
    return frame.assign(time_a_token=each / each.iloc[0], size=frame["size"].astype(int))


def attention_share(step: Way) -> float:
    """Attention's share of a step's CPU time: kernels, or batched products and softmax."""
    table = profiled(step)
    kinds = "scaled_dot_product|bmm|_softmax"
    return float(table.share[table.operation.str.contains(kinds)].sum())


def kernel_seconds(length: int, rows: int) -> float:
    """Seconds of PyTorch's causal attention, forward and backward, in all layers of SmolLM2.

    `rows` rows of `length` tokens; the median of five calls, times the number of layers.
    """
    config = AutoConfig.from_pretrained(backbone())
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shape = (3, rows, heads, length, width)
    states = torch.randn(shape, dtype=DTYPE, requires_grad=True)

    def work() -> None:
        query, key, value = states
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended.sum().backward()

    work()
    seconds = statistics.median(timed(work)[0] for _ in range(5))
    return config.num_hidden_layers * seconds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = [1000, 2000, 4000, 8000, 16000]
    parser.add_argument("--pairs", nargs="*", type=int, default=sizes)
    parser.add_argument("--lengths", nargs="*", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--score", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "growth.csv")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.score:
        print(json.dumps(score(given.score)))
        return
    if given.pairs:
        found = by_pairs(given.pairs, given.threads, given.rounds).assign(**machine())
        write(found, given.output, ["what", "size"])
    if given.lengths:
        found = by_length(given.lengths, given.rounds).assign(**machine())
        write(found, given.output, ["what", "size"])


if __name__ == "__main__":
    main()
