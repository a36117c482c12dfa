"""How much low precision changes the representation distance, by which NormBT divides.

    python -m benchmarks.precision [--pairs 40] [--threads 2]

Untrained SmolLM2-135M on generated test pairs; the reference computes in float32 throughout.
"bfloat16 stream": all weights in bfloat16. "float32 stream": matrices in bfloat16, residual stream
in float32 (`rm.model.parts.lower_precision`). Each runs the two-row and the shared forward. The
table has quantiles over pairs of the relative errors of the hidden state and of ‖h_w − h_l‖. Writes
results/benchmarks/precision.csv. Time is not measured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import RESULTS, backbone, machine, write
from generated import generate
from rm.data.templates import ChatTemplate
from rm.data.token_table import tokenize_pairs
from rm.data.tokens import TokenPair
from rm.model.checkpoints import new_reward_model
from rm.model.parts import lower_precision
from rm.model.reward_model import RewardModel
from rm.objective.weights import representation_distance
from rm.training.batches import PairCollator, model_inputs

QUANTILES = {"median": 0.5, "q90": 0.9, "largest": 1.0}


def models() -> dict[str, RewardModel]:
    """The same weights, rounded to bfloat16 once, for each way of computing."""
    made = {}
    for name in ("float32", "float32 stream", "bfloat16 stream"):
        dtype = torch.float32 if name == "float32" else torch.bfloat16
        model, _ = new_reward_model(backbone(), dtype, seed=0)
        lower_precision(model.backbone, torch.bfloat16)
        if name == "float32":
            model.backbone.float()
        if name == "bfloat16 stream":
            model.backbone.to(torch.bfloat16)
        made[name] = model.eval()
    return made


@torch.no_grad()
def hidden(model: RewardModel, pair: TokenPair, share: bool) -> Tensor:
    """Last-token states (2, hidden) of one pair."""
    return model(**model_inputs(PairCollator(0, share=share)([pair]))).hidden


def error(exact: Tensor, found: Tensor) -> tuple[float, float]:
    """Relative errors of the states (the worse of two) and of the distance between them."""
    state = ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
    distances = [representation_distance(*both.unsqueeze(1)) for both in (found, exact)]
    return state.item(), (distances[0] / distances[1] - 1).abs().item()


def errors(pairs: Sequence[TokenPair]) -> pd.DataFrame:
    """One row per way: quantiles of the relative errors over pairs."""
    made = models()
    exact = [hidden(made["float32"], pair, share=False) for pair in pairs]
    rows = []
    for name in ("float32 stream", "bfloat16 stream"):
        for share in (False, True):
            way = f"{name}, {'shared' if share else 'two-row'}"
            found = [hidden(made[name], pair, share) for pair in tqdm(pairs, desc=way)]
            values = pd.DataFrame(map(error, exact, found), columns=["state", "distance"])
            quantiles = {
                f"{column}_{label}": values[column].quantile(level)
                for column in values
                for label, level in QUANTILES.items()
            }
            rows.append({"way": way, **quantiles})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.csv")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    _, tokenizer = new_reward_model(backbone(), torch.float32, seed=0)
    made = [one.pair for one in generate("test", given.pairs, 0)]
    pairs, _ = tokenize_pairs(made, ChatTemplate(tokenizer), 384, drop=True)
    found = errors(pairs).assign(data="generated_v2", pairs=len(pairs), **machine())
    write(found.drop(columns="load"), given.output, ["way"])


if __name__ == "__main__":
    main()
