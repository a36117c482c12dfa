"""Exact gradients of single pairs: what the paper's proxy ‖h_w − h_l‖ stands for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rm.batches import PairCollator, model_inputs
from rm.models import RewardModel
from rm.tokens import TokenPair
from rm.weights import representation_distance

HEAD = "classifier.score.weight"


def difference_gradient(
    model: RewardModel, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """d = r_w − r_l (), ‖h_w − h_l‖ () and ∇_θ d (by parameter name) of a batch of one pair.

    θ are the parameters that require a gradient. The BT loss's gradient is (σ(d) − 1) · ∇_θ d
    (paper, analysis section), so one backward pass gives the gradient of every loss of d.
    """
    output = model(**model_inputs(batch))
    chosen, rejected = output.rewards
    distance = representation_distance(*output.hidden.chunk(2)).squeeze(0)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    gradient = torch.autograd.grad(chosen - rejected, list(trained.values()))
    return (
        (chosen - rejected).detach(),
        distance.detach(),
        dict(zip(trained, gradient, strict=True)),
    )


def pair_gradients(
    model: RewardModel, pairs: Sequence[TokenPair], collator: PairCollator
) -> pd.DataFrame:
    """Measure every pair on its own, a forward and a backward pass each.

    Columns: pair_id; distance ‖h_w − h_l‖; difference d; error |σ(d) − 1|; gradient_distance
    ‖∇_θ(r_w − r_l)‖; gradient_norm ‖∇_θ L_BT‖ = error · gradient_distance; head_gradient_norm,
    the score head's part of it. Norms are L2, over the parameters that require a gradient.
    """
    model.eval()
    records = []
    for pair in tqdm(pairs, desc="pair gradients", unit="pair"):
        difference, distance, gradient = difference_gradient(model, collator([pair]))
        error = torch.sigmoid(-difference.double()).item()
        squares = {name: part.double().square().sum().item() for name, part in gradient.items()}
        whole = sum(squares.values()) ** 0.5
        records.append(
            {
                "pair_id": pair.pair_id,
                "distance": distance.item(),
                "difference": difference.item(),
                "error": error,
                "gradient_distance": whole,
                "gradient_norm": error * whole,
                "head_gradient_norm": error * squares[HEAD] ** 0.5,
            }
        )
    return pd.DataFrame(records)
