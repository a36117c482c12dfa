"""Exact gradients of single pairs, which the paper's proxy ‖h_w − h_l‖ approximates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.model.reward_model import RewardModel
from rm.objective.weights import representation_distance
from rm.training.batches import PairCollator, model_inputs

HEAD = "classifier.score."


@dataclass
class Projection:
    """A fixed random projection of ∇_θ to `size` numbers that approximately keeps inner products.

    Count sketch (Charikar, Chen, Farach-Colton 2002): every coordinate is added, with a random
    sign, to one random bucket of `size`. The inner product of two sketches is that of the vectors a
    and b plus an error. The error has mean 0 and standard deviation at most √(2 / size) · ‖a‖ ‖b‖.
    A gradient of at most `size` numbers is kept unchanged, without error.
    """

    size: int
    seed: int = 0
    _buckets: Tensor | None = field(default=None, repr=False)

    def __call__(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """Sketch (size,), or the gradient itself if it is no longer than `size`; float32, CPU."""
        whole = torch.cat([part.detach().float().flatten() for part in gradient.values()])
        if len(whole) <= self.size:
            return whole.cpu()
        if self._buckets is None or len(self._buckets) != len(whole):
            generator = torch.Generator().manual_seed(self.seed)
            # 2 · size buckets, the second half subtracted: one draw gives bucket and sign.
            drawn = torch.randint(
                2 * self.size, (len(whole),), generator=generator, dtype=torch.int32
            )
            self._buckets = drawn.to(whole.device)
        sums = whole.new_zeros(2 * self.size).index_add_(0, self._buckets, whole)
        return (sums[: self.size] - sums[self.size :]).cpu()

    def error(self, numbers: int) -> float:
        """Bound on the standard deviation of a cosine's error if θ has `numbers` parameters."""
        return 0.0 if numbers <= self.size else (2 / self.size) ** 0.5


def difference_gradient(
    model: RewardModel, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """d = r_w − r_l (), ‖h_w − h_l‖ () and ∇_θ d (by parameter name) of a batch of one pair.

    θ are the parameters that require a gradient. The gradient of the BT loss is (σ(d) − 1) · ∇_θ d
    (paper, analysis section). So one backward pass gives the gradient of any function of d.
    """
    output = model(**model_inputs(batch, next(model.parameters()).device))
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
    model: RewardModel,
    pairs: Sequence[TokenPair],
    collator: PairCollator,
    projection: Projection | None = None,
) -> tuple[pd.DataFrame, Tensor]:
    """Measure every pair alone, with one forward and one backward pass per pair.

    Returns a table and the projected gradients. The table has one row per pair and the columns
    pair_id; distance ‖h_w − h_l‖; difference d; error |σ(d) − 1|; gradient_distance
    ‖∇_θ(r_w − r_l)‖; gradient_norm ‖∇_θ L_BT‖ = error · gradient_distance; head_gradient_norm, the
    score head's part of gradient_norm. Norms are L2, over the parameters that require a gradient.
    Projected gradients: ∇_θ d under `projection`, (pairs, numbers), or (pairs, 0) without one.

    Raises InputError without pairs.
    """
    if not pairs:
        raise InputError("no pairs to measure gradients of: give at least one pair")
    model.eval()
    records, sketches = [], []
    for pair in tqdm(pairs, desc="pair gradients", unit="pair"):
        difference, distance, gradient = difference_gradient(model, collator([pair]))
        error = torch.sigmoid(-difference.double()).item()
        squares = {name: part.double().square().sum().item() for name, part in gradient.items()}
        whole = sum(squares.values()) ** 0.5
        head = sum(part for name, part in squares.items() if name.startswith(HEAD))
        records.append(
            {
                "pair_id": pair.pair_id,
                "distance": distance.item(),
                "difference": difference.item(),
                "error": error,
                "gradient_distance": whole,
                "gradient_norm": error * whole,
                "head_gradient_norm": error * head**0.5,
            }
        )
        sketches.append(torch.empty(0) if projection is None else projection(gradient))
    return pd.DataFrame(records), torch.stack(sketches)


def cosines(pair_ids: Sequence[str], sketches: Tensor, norms: Sequence[float]) -> pd.DataFrame:
    """Cosine between the gradients of any two pairs, one row each: pair_a, pair_b, cosine.

    `sketches`: (pairs, numbers) from `pair_gradients`. `norms`: (pairs,), the exact L2 norms of the
    gradients, so only the inner product has a projection error. Cosines are clipped to [−1, 1] and
    NaN where a gradient is zero. They are also the cosines of the loss gradients, because each
    pair's loss gradient is a negative multiple of its ∇_θ d.
    """
    lengths = torch.as_tensor(list(norms), dtype=torch.float64)
    inner = sketches.double() @ sketches.double().T
    table = (inner / torch.outer(lengths, lengths)).clamp(-1, 1).numpy()
    first, second = np.triu_indices(len(pair_ids), k=1)
    names = np.asarray(pair_ids, dtype=object)
    return pd.DataFrame(
        {"pair_a": names[first], "pair_b": names[second], "cosine": table[first, second]}
    )
