"""Exact gradients of single pairs: what the paper's proxy ‖h_w − h_l‖ stands for."""

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
    """A fixed random projection of ∇_θ onto `size` numbers that keeps inner products.

    Count sketch (Charikar, Chen, Farach-Colton 2002): every coordinate is added, with a random
    sign, to one random bucket of `size`. The inner product of two sketches is that of the vectors
    plus an error of mean 0 and standard deviation at most √(2 / size) · ‖a‖ ‖b‖. θ of at most
    `size` numbers is kept as it is, without error.
    """

    size: int
    seed: int = 0
    _buckets: Tensor | None = field(default=None, repr=False)

    def __call__(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """Sketch (size,), or the whole gradient where it is no longer than that; float32, CPU."""
        whole = torch.cat([part.detach().float().flatten() for part in gradient.values()])
        if len(whole) <= self.size:
            return whole.cpu()
        if self._buckets is None or len(self._buckets) != len(whole):
            generator = torch.Generator().manual_seed(self.seed)
            # Twice as many buckets, the second half subtracted: one draw for bucket and sign.
            drawn = torch.randint(
                2 * self.size, (len(whole),), generator=generator, dtype=torch.int32
            )
            self._buckets = drawn.to(whole.device)
        sums = whole.new_zeros(2 * self.size).index_add_(0, self._buckets, whole)
        return (sums[: self.size] - sums[self.size :]).cpu()

    def error(self, numbers: int) -> float:
        """Bound on the standard deviation of a cosine's error for θ of `numbers` numbers."""
        return 0.0 if numbers <= self.size else (2 / self.size) ** 0.5


def difference_gradient(
    model: RewardModel, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """d = r_w − r_l (), ‖h_w − h_l‖ () and ∇_θ d (by parameter name) of a batch of one pair.

    θ are the parameters that require a gradient. The BT loss's gradient is (σ(d) − 1) · ∇_θ d
    (paper, analysis section), so one backward pass gives the gradient of every loss of d.
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
    """Measure every pair on its own, a forward and a backward pass each.

    Columns: pair_id; distance ‖h_w − h_l‖; difference d; error |σ(d) − 1|; gradient_distance
    ‖∇_θ(r_w − r_l)‖; gradient_norm ‖∇_θ L_BT‖ = error · gradient_distance; head_gradient_norm,
    the score head's part of it. Norms are L2, over the parameters that require a gradient.
    Second: ∇_θ d of every pair under `projection`, (pairs, numbers); (pairs, 0) without one.

    Raises InputError without pairs.
    """
    if not pairs:
        raise InputError("there is no pair whose gradient could be measured")
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
    """Cosine of the gradients of every two pairs, a row each: pair_a, pair_b, cosine.

    `sketches` (pairs, numbers) from `pair_gradients`; `norms` (pairs,) the gradients' exact L2
    norms, so that the projection's error enters the inner product alone. Clipped to [−1, 1]; NaN
    where a gradient is zero. The loss's gradient is a negative multiple of ∇_θ d in every pair, so
    these are the cosines of the loss gradients too.
    """
    lengths = torch.as_tensor(list(norms), dtype=torch.float64)
    inner = sketches.double() @ sketches.double().T
    table = (inner / torch.outer(lengths, lengths)).clamp(-1, 1).numpy()
    first, second = np.triu_indices(len(pair_ids), k=1)
    names = np.asarray(pair_ids, dtype=object)
    return pd.DataFrame(
        {"pair_a": names[first], "pair_b": names[second], "cosine": table[first, second]}
    )
