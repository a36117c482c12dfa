"""A rank that makes a reward model under ZeRO-3 and says what it holds of it."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import torch
from transformers.integrations import HfDeepSpeedConfig

from rm.model.checkpoints import new_reward_model, whole

ZERO = {"stage": 3, "stage3_param_persistence_threshold": 0}


def anonymous() -> int:
    """Bytes of memory that this process shares with no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main(folder: str, tiny: str, output: str) -> None:
    """Read `tiny` to have everything loaded that is loaded once, then `folder`."""
    kept = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": ZERO})
    new_reward_model(Path(tiny), torch.float32, seed=3)
    before, ended, seen = anonymous(), threading.Event(), [0]

    def look() -> None:
        while not ended.wait(0.002):
            seen.append(anonymous() - before)

    watching = threading.Thread(target=look)
    watching.start()
    model, _ = new_reward_model(Path(folder), torch.float32, seed=3)
    ended.set()
    watching.join()
    held = sum(value.ds_tensor.numel() for value in model.parameters())  # type: ignore[attr-defined]
    gathered = {}
    for name, value in model.named_parameters():
        with whole(value):
            gathered[name] = value.detach().clone()
    rank = int(os.environ["RANK"])
    facts = {"held": held, "peak_bytes": max(seen)}
    (Path(output) / f"rank{rank}.json").write_text(json.dumps(facts))
    if rank == 0:
        torch.save(gathered, Path(output) / "gathered.pt")
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
