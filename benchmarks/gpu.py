"""On a CUDA GPU: exactness of the forwards, and time and memory of a full training step.

    python -m benchmarks.gpu [--backbone FOLDER] [--rounds 10]

A step is full fine-tuning on 8 pairs of random tokens, half of each shared: bfloat16 matrix
products, float32 master weights, fused AdamW. Three forwards are timed, each with and without
gradient checkpointing: two-row; shared, with attention row by row; shared, with FlexAttention in
one kernel. Before that, rewards of the shared forwards are compared with those of the two-row
forward, in float32. Writes results/benchmarks/gpu.csv with the GPU's name. Without a GPU nothing is
measured. (`--device cpu` runs the same steps to test the script.)
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig

from benchmarks.common import RESULTS, backbone, interleave, machine, with_ratios, write
from benchmarks.prefix import sides, synthetic
from rm.data.tokens import Row, TokenPair
from rm.model.checkpoints import new_reward_model
from rm.model.checks import can_flex
from rm.model.reward_model import RewardModel
from rm.objective.losses import bt
from rm.objective.weights import NormBT, representation_distance
from rm.training.batches import PairCollator, model_inputs

PAIRS, TOLERANCE = 8, 1e-4


def groups_of(length: int, vocabulary: int) -> list[tuple[Row, Row]]:
    """PAIRS pairs of random tokens."""
    return [synthetic(0.5, length, random.Random(seed), vocabulary) for seed in range(PAIRS)]


@dataclass(frozen=True)
class Way:
    """A forward pass: whether rows share prefixes, and if so, whether in one attention kernel."""

    name: str
    share: bool
    flex: bool


TWO_ROW = Way("two-row", share=False, flex=False)
WAYS = (TWO_ROW, Way("shared", share=True, flex=False), Way("shared, flex", share=True, flex=True))


def ways_on(backbone: Path, device: str) -> tuple[Way, ...]:
    """The ways that `device` supports; prints why if FlexAttention is not among them."""
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    reason = can_flex(model) if device.startswith("cuda") else "it trains on CUDA only"
    if reason is not None:
        print(f"without FlexAttention: {reason}", flush=True)
    return tuple(way for way in WAYS if reason is None or not way.flex)


def difference(
    backbone: Path, groups: list[tuple[Row, Row]], device: str, ways: Sequence[Way]
) -> float:
    """Largest relative difference of rewards from those of the first way, float32."""
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    model.to(device).eval()
    inputs, found = both_inputs(groups, device), []
    for way in ways:
        model.flex_attention = way.flex
        with torch.no_grad():
            found.append(model(**inputs[way.share]).rewards)
    return max(((one - found[0]).abs().max() / found[0].abs().max()).item() for one in found)


def both_inputs(groups: list[tuple[Row, Row]], device: str) -> list[dict[str, torch.Tensor]]:
    """The batch as two-row tensors, and with shared prefixes."""
    pairs = [TokenPair(str(n), *rows) for n, rows in enumerate(groups)]
    return [
        {k: v.to(device) for k, v in model_inputs(PairCollator(0, share=share)(pairs)).items()}
        for share in (False, True)
    ]


def step_of(
    backbone: Path, groups: list[tuple[Row, Row]], device: str, way: Way, *, checkpointing: bool
) -> Callable[[], None]:
    """One NormBT training step."""
    model, _ = new_reward_model(backbone, torch.bfloat16, seed=0)
    model.flex_attention = way.flex
    model.to(device).train()
    if checkpointing:
        model.classifier.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    inputs, weight = both_inputs(groups, device)[way.share], NormBT(0.9, 1e-6)

    def step() -> None:
        run_step(model, optimizer, inputs, weight)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return step


def run_step(
    model: RewardModel,
    optimizer: torch.optim.Optimizer,
    inputs: dict[str, torch.Tensor],
    weight: NormBT,
) -> None:
    """Forward, backward, clipping, update."""
    output = model(**inputs)
    chosen, rejected = output.rewards.chunk(2)
    distance = representation_distance(*output.hidden.chunk(2))
    mu = weight.start(distance.detach())
    (weight.weigh(distance, mu) * bt(chosen - rejected)).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()


def measure(
    backbone: Path, length: int, device: str, rounds: int, ways: Sequence[Way]
) -> pd.DataFrame:
    """Time every way at one length; on a GPU also its peak memory."""
    groups = groups_of(length, AutoConfig.from_pretrained(backbone).vocab_size)
    exact = difference(backbone, groups, device, ways)
    if exact > TOLERANCE:
        raise SystemExit(f"shared and two-row rewards differ by {exact:.1e} on {device}")
    steps = {
        f"{way.name}{', checkpointing' if saves else ''}": step_of(
            backbone, groups, device, way, checkpointing=saves
        )
        for way in ways
        for saves in (False, True)
    }
    found = with_ratios(interleave(steps, rounds, f"length {length}", warm_up=2), TWO_ROW.name)
    if device.startswith("cuda"):
        peaks = []
        for step in steps.values():
            torch.cuda.reset_peak_memory_stats()
            step()
            peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        found["peak_mb"] = peaks
    tokens = sum(map(len, sides(groups)))
    found["row_tokens_per_s"] = tokens / found.wall_s
    return found.assign(length=length, pairs=PAIRS, row_tokens=tokens, difference=exact)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, help="a model folder; else SmolLM2-135M-Instruct")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.csv")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU found, so nothing was measured; --device cpu tests the script")
        return
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu"
    folder = given.backbone or backbone()
    ways = ways_on(folder, given.device)
    for length in given.lengths:
        found = measure(folder, length, given.device, given.rounds, ways)
        found = found.assign(device=name, backbone=folder.name, **machine())
        write(found, given.output, ["device", "backbone", "length"])


if __name__ == "__main__":
    main()
