"""Prefix sharing against the two-row forward, interleaved in one process.

    python -m benchmarks.prefix [--parts top6 full] [--data NAME …] [--rounds 7] [--threads 2]

Measures a training step (one global batch: forward and backward of every micro-batch, clipping,
AdamW), the forward pass alone, and the frozen trunk's pass; writes results/benchmarks/prefix.csv.

Layouts:

two-row  the reference
shared   prefixes shared by `rm.model.attention`
mask     prefixes shared in one padded tensor row per pair, under one 4-D mask
packed   as mask, with several pairs in tensor rows of 512 tokens

`tokens`: tokens that a layout computes, without padding; `padded`: with padding.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.common import DTYPE, RESULTS, backbone, interleave, machine, with_ratios, write
from generated import generate
from rm.data.preferences import PreferencePair, load_preferences
from rm.data.templates import ChatTemplate
from rm.data.token_table import tokenize_pairs
from rm.data.tokens import pad
from rm.model.attention import shared_batch
from rm.model.checkpoints import new_reward_model
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel, RewardOutput
from rm.model.tree import TokenTree, share
from rm.model.trunk import Row, _lower_states, split_backbone
from rm.objective.losses import bt

SKYWORK = "skywork_schema_train.jsonl.gz"
OUTPUT = RESULTS / "prefix.csv"
TOP_LAYERS, MICRO_BATCH, MAX_LENGTH = 6, 4, 384
SYNTHETIC = {f"synthetic {share} %": share / 100 for share in (0, 25, 50, 75)}
PACKED = 512
Group = tuple[Row, ...]


@dataclass
class Bench:
    """A model, its frozen trunk if it has one, and the optimiser of the rest."""

    model: RewardModel
    lower: nn.Module | None
    optimizer: torch.optim.Optimizer


def build(part: str) -> Bench:
    """SmolLM2-135M: "top6" over a frozen trunk, or "full"."""
    model, _ = new_reward_model(backbone(), DTYPE, seed=0)
    lower = None
    if part == "top6":
        train_part(model, "top_layers", top_layers=TOP_LAYERS, frozen_dtype=DTYPE)
        lower = split_backbone(model, TOP_LAYERS)
    trained = [value for value in model.parameters() if value.requires_grad]
    return Bench(model, lower, torch.optim.AdamW(trained, lr=1e-5))


def groups_of(data: str, count: int, shared: Path) -> list[Group]:
    """`count` pairs as token rows, sorted by the longer side as in one global batch."""
    if data in SYNTHETIC:
        return [synthetic(SYNTHETIC[data], 192, random.Random(i)) for i in range(count)]
    if data == "generated_v2":
        pairs = [made.pair for made in generate("train", 400, 0)]
    else:
        pairs, _ = load_preferences(shared / SKYWORK, limit=400, seed=0)
    return sorted(encoded(pairs)[:count], key=lambda group: max(map(len, group)))


def encoded(pairs: Sequence[PreferencePair]) -> list[Group]:
    """Token rows as training sees them, in a seeded order."""
    _, tokenizer = new_reward_model(backbone(), DTYPE, seed=0)
    found, _ = tokenize_pairs(pairs, ChatTemplate(tokenizer), MAX_LENGTH, drop=True)
    made = list(found)
    random.Random(0).shuffle(made)
    return [(pair.chosen, pair.rejected) for pair in made]


def synthetic(
    share: float, length: int, draw: random.Random, vocabulary: int = 40_000
) -> tuple[Row, Row]:
    """Two rows of `length` random tokens that share the first `share` of them."""

    def tokens(count: int) -> Row:
        return tuple(draw.randrange(10, vocabulary) for _ in range(count))

    prefix = tokens(round(share * length))
    rest = length - len(prefix)
    return (*prefix, *tokens(rest)), (*prefix, *tokens(rest))


def sides(groups: Sequence[Group]) -> list[Row]:
    """All chosen rows, then all rejected ones."""
    return [group[side] for side in (0, 1) for group in groups]


class TwoRow:
    """A micro-batch as `RewardModel.forward` takes it."""

    def __init__(self, groups: Sequence[Group], bench: Bench) -> None:
        self.bench, self.rows = bench, sides(groups)
        self.ids, self.mask = pad(self.rows, 0)
        self.states: Tensor | None = None

    def trunk(self) -> Tensor:
        """Trunk states (rows, length, hidden)."""
        return _lower_states(self.bench.model, self.bench.lower, self.ids, self.mask)  # type: ignore[arg-type]

    def forward(self) -> RewardOutput:
        """Rewards, from ids or from the trunk states."""
        inputs = {"input_ids": self.ids} if self.states is None else {"trunk_states": self.states}
        return self.bench.model(self.mask, **inputs)

    def tokens(self) -> tuple[int, int]:
        """Tokens that are computed, without and with padding."""
        return int(self.mask.sum()), self.mask.numel()


class Shared:
    """The same micro-batch with prefixes shared by `rm.model.attention`."""

    def __init__(self, groups: Sequence[Group], bench: Bench) -> None:
        self.bench, self.batch = bench, shared_batch(sides(groups))
        self.states: Tensor | None = None

    def trunk(self) -> Tensor:
        """Trunk states (1, tokens, hidden)."""
        with torch.no_grad():
            return self.bench.model.shared_states(self.bench.lower, self.batch).to(DTYPE)

    def forward(self) -> RewardOutput:
        """Rewards, from ids or from the trunk states."""
        self.batch.trunk_states = self.states
        return self.bench.model(shared=self.batch)

    def tokens(self) -> tuple[int, int]:
        """Tokens that are computed, without and with padding."""
        return self.batch.position_ids.numel(), self.batch.position_ids.numel()


class Masked:
    """The same micro-batch as trees under a 4-D mask, in tensor rows of at least `capacity`."""

    def __init__(self, groups: Sequence[Group], bench: Bench, capacity: int) -> None:
        self.bench, trees = bench, [share(group) for group in groups]
        rows = packed(trees, max(capacity, *map(len, trees)))
        length = max(sum(map(len, row)) for row in rows)
        self.ids, _ = pad([[t for tree in row for t in tree.tokens] for row in rows], 0)
        self.positions, _ = pad([[p for tree in row for p in tree.positions] for row in rows], 0)
        seen = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1, 1)
        ends: dict[Row, tuple[int, int]] = {}
        for index, row in enumerate(rows):
            start = 0
            for tree in row:
                places = slice(start, start + len(tree))
                seen[index, 0, places, places] = tree_mask(tree)
                for line, runs in zip(tree.rows, tree.runs, strict=True):
                    ends[line] = (index, start + runs[-1][1] - 1)
                start = places.stop
        self.last = torch.tensor([ends[row] for row in sides(groups)])
        self.mask = torch.zeros(seen.shape, dtype=DTYPE).masked_fill(~seen, -torch.inf)
        self.real, self.states = sum(map(len, trees)), None

    def _run(self, stack: Any, inputs: dict[str, Any]) -> Tensor:
        with self.bench.model._autocast("cpu"):
            return stack(
                **inputs, attention_mask=self.mask, position_ids=self.positions, use_cache=False
            ).last_hidden_state

    def trunk(self) -> Tensor:
        """Trunk states (rows, length, hidden)."""
        with torch.no_grad():
            return self._run(self.bench.lower, {"input_ids": self.ids}).to(DTYPE)

    def forward(self) -> RewardOutput:
        """Rewards, from ids or from the trunk states."""
        model = self.bench.model
        if self.states is None:
            states = self._run(model.backbone, {"input_ids": self.ids})
        else:
            states = self._run(model.upper_stack, {"inputs_embeds": self.states})
        hidden = states[self.last[:, 0], self.last[:, 1]].float()
        return RewardOutput(model._head(hidden), hidden)

    def tokens(self) -> tuple[int, int]:
        """Tokens that are computed, without and with padding."""
        return self.real, self.ids.numel()


def tree_mask(tree: TokenTree) -> Tensor:
    """Bool (length, length): which tokens of the tree (columns) each token (rows) attends to."""
    seen = torch.ones(len(tree), len(tree), dtype=torch.bool).tril()
    for runs in tree.runs:
        own = slice(*runs[-1])
        seen[own, : own.start] = False
        for start, stop in runs[:-1]:
            seen[own, start:stop] = True
    return seen


def packed(trees: Sequence[TokenTree], capacity: int) -> list[list[TokenTree]]:
    """Pack trees into tensor rows of `capacity` tokens, first-fit decreasing."""
    rows: list[list[TokenTree]] = []
    for tree in sorted(trees, key=len, reverse=True):
        fitting = (row for row in rows if sum(map(len, row)) + len(tree) <= capacity)
        row = next(fitting, None)
        if row is None:
            rows.append(row := [])
        row.append(tree)
    return rows


Micro = TwoRow | Shared | Masked
MAKERS: dict[str, Callable[[Sequence[Group], Bench], Micro]] = {
    "two-row": TwoRow,
    "shared": Shared,
    "mask": lambda groups, bench: Masked(groups, bench, 0),
    "packed": lambda groups, bench: Masked(groups, bench, PACKED),
}


def micro_batches(layout: str, groups: Sequence[Group], bench: Bench) -> list[Micro]:
    """The global batch in micro-batches, with trunk states where there is a trunk."""
    made = [
        MAKERS[layout](groups[start : start + MICRO_BATCH], bench)
        for start in range(0, len(groups), MICRO_BATCH)
    ]
    if bench.lower is not None:
        for micro in made:
            micro.states = micro.trunk()
    return made


def train_step(micros: Sequence[Micro], bench: Bench, pairs: int) -> None:
    """One optimiser step over a global batch of `pairs` pairs."""
    bench.optimizer.zero_grad()
    for micro in micros:
        chosen, rejected = micro.forward().rewards.chunk(2)
        (bt(chosen - rejected).sum() / pairs).backward()
    nn.utils.clip_grad_norm_(bench.model.parameters(), 5.0)
    bench.optimizer.step()


def phases(micros: Sequence[Micro], bench: Bench, pairs: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""

    def forward() -> None:
        with torch.no_grad():
            for micro in micros:
                micro.forward()

    found: dict[str, Callable[[], object]] = {
        "train": lambda: train_step(micros, bench, pairs),
        "forward": forward,
    }
    if bench.lower is not None:
        found["trunk"] = lambda: [micro.trunk() for micro in micros]
    return found


def measure(
    data: str, groups: Sequence[Group], bench: Bench, layouts: Sequence[str], rounds: int
) -> pd.DataFrame:
    """Time every phase in every layout; one row each, with medians over the rounds."""
    micros = {layout: micro_batches(layout, groups, bench) for layout in layouts}
    work = {layout: phases(made, bench, len(groups)) for layout, made in micros.items()}
    tokens = {
        layout: [sum(column) for column in zip(*(micro.tokens() for micro in made), strict=True)]
        for layout, made in micros.items()
    }
    real, frames = sum(map(len, sides(groups))), []
    for phase in work[layouts[0]]:
        ways = {layout: named[phase] for layout, named in work.items()}
        times = interleave(ways, rounds, f"{data}, {phase}").rename(columns={"way": "layout"})
        times["tokens"] = [tokens[layout][0] for layout in times.layout]
        times["padded"] = [tokens[layout][1] for layout in times.layout]
        frames.append(with_ratios(times.assign(phase=phase), "two-row", by="layout"))
    found = pd.concat(frames).assign(data=data, pairs=len(groups), row_tokens=real)
    return found.assign(saved=1 - found.tokens / real)


def main() -> None:
    """Measure, print, write."""
    names = ["generated_v2", "skywork", *SYNTHETIC]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["top6", "full"], choices=["top6", "full"])
    parser.add_argument("--data", nargs="+", default=names, choices=names)
    parser.add_argument("--layouts", nargs="+", default=list(MAKERS), choices=list(MAKERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=16, help="pairs per step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    frames = []
    for part in given.parts:
        bench = build(part)
        for data in given.data:
            groups = groups_of(data, given.pairs, given.shared)
            found = measure(data, groups, bench, given.layouts, given.rounds)
            frames.append(found.assign(part=part, **machine()))
            write(pd.concat(frames), given.output, ["part", "data"])


if __name__ == "__main__":
    main()
