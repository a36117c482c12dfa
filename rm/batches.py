"""Which pairs go into which optimiser step, and how a micro-batch becomes tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rm.errors import InputError
from rm.likelihood import IGNORED, next_tokens
from rm.prefix import share, shared_batch
from rm.tokens import TokenPair, pad
from rm.trunk import TrunkCache

NOT_FOR_THE_MODEL = ("margin", "pair_id", "distance")
"""Entries of a batch that are the loss's and the weight's."""


def training_order(
    pairs: Sequence[TokenPair], *, epochs: float, global_batch: int, seed: int
) -> list[int]:
    """Indices of the pairs in training order, a whole number of global batches.

    The stream is one seeded permutation after another, cut into global batches; the pairs of the
    last, incomplete batch are left out (fewer than `global_batch`; the manifest counts them).
    Within a global batch pairs are sorted by their longer side, so that micro-batches hold pairs of
    like length: which pairs share a step does not depend on their length (pitfall 21). Raises
    InputError if there are too few pairs for one batch.
    """
    total = int(epochs * len(pairs))
    steps = total // global_batch
    if steps == 0:
        raise InputError(
            f"{len(pairs)} pairs × {epochs} epochs do not fill one global batch of {global_batch}: "
            "lower training.global_batch or give more pairs"
        )
    generator = torch.Generator().manual_seed(seed)
    stream: list[int] = []
    while len(stream) < steps * global_batch:
        stream += torch.randperm(len(pairs), generator=generator).tolist()
    order: list[int] = []
    for start in range(0, steps * global_batch, global_batch):
        batch = stream[start : start + global_batch]
        order += sorted(batch, key=lambda index: (_longer(pairs[index]), index))
    return order


def _longer(pair: TokenPair) -> int:
    return max(len(pair.chosen), len(pair.rejected))


class PairStream(Dataset[TokenPair]):
    """The training pairs in the order in which they are visited: read it sequentially."""

    def __init__(self, pairs: Sequence[TokenPair], order: Sequence[int]) -> None:
        """`order`: indices into `pairs`, from `training_order`.

        Raises InputError for a margin that is not finite: −inf would silently train on nothing.
        """
        bad = [p.pair_id for p in pairs if p.margin is not None and not math.isfinite(p.margin)]
        if bad:
            raise InputError(
                f"the margins of {len(bad)} pairs are not finite, first {bad[0]}: give numbers or "
                "leave these pairs out"
            )
        self.pairs, self.order = pairs, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> TokenPair:
        return self.pairs[self.order[index]]


class PairCollator:
    """Micro-batches of pairs as tensors, ready for `RewardModel.forward`.

    Rows are the chosen sides of all pairs, then the rejected sides in the same order:

    >>> collate = PairCollator(pad_id=0)
    >>> batch = collate([TokenPair("a", (5, 6), (7,)), TokenPair("b", (8,), (9,))])
    >>> batch["input_ids"].tolist()
    [[5, 6], [8, 0], [7, 0], [9, 0]]
    """

    def __init__(
        self,
        pad_id: int,
        trunk: TrunkCache | None = None,
        side: str = "right",
        share: bool = False,
        distance: Callable[[TokenPair], float] | None = None,
        likelihood: bool = False,
    ) -> None:
        """With `trunk`, rows are given as cached trunk states instead of token ids.

        With `share`, tokens that rows share are in the batch once (`rm.prefix`). `distance`: of a
        pair's tokens, for weights that go by one. `likelihood`: ask for that of the chosen
        responses (pairs with a `response_start`, no shared prefixes).
        """
        self.pad_id, self.trunk, self.side, self.share = pad_id, trunk, side, share
        self.distance, self.likelihood = distance, likelihood

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Any]:
        """Return attention_mask and input_ids or trunk_states (2·pairs rows), margin if known.

        With `share`, `shared` (a SharedBatch of the rows) takes the place of the first three.
        `targets` (2·pairs, length), where the collator is to ask for likelihoods.
        `margin` (pairs,) float32 is there only if every pair of the batch has one. `pair_id`
        names the pairs, in order. `distance` (pairs,) float32, where the collator has one.
        """
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        batch = self._rows(rows) | {"pair_id": [pair.pair_id for pair in pairs]}
        if self.likelihood:
            batch["targets"] = self._targets(pairs)
        if self.distance is not None:
            batch["distance"] = torch.tensor([self.distance(pair) for pair in pairs])
        if all(pair.margin is not None for pair in pairs):
            batch["margin"] = torch.tensor([pair.margin for pair in pairs], dtype=torch.float32)
        return batch

    def _targets(self, pairs: Sequence[TokenPair]) -> Tensor:
        """The chosen responses' tokens at the places before them; nothing of the rejected."""
        starts = [pair.response_start for pair in pairs]
        assert all(start is not None for start in starts)
        chosen = [next_tokens(p.chosen, start or 0) for p, start in zip(pairs, starts, strict=True)]
        rejected = [[IGNORED] * len(pair.rejected) for pair in pairs]
        return pad([*chosen, *rejected], IGNORED, self.side)[0]

    def _rows(self, rows: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        if self.share:
            return {"shared": shared_batch(rows, self.trunk.states if self.trunk else None)}
        if self.trunk is not None:
            states, mask = self.trunk.batch(rows)
            return {"trunk_states": states, "attention_mask": mask}
        ids, mask = pad(rows, self.pad_id, self.side)
        return {"input_ids": ids, "attention_mask": mask}


def batch_tokens(
    pairs: Sequence[TokenPair], order: Sequence[int], micro_batch: int, share_prefix: bool
) -> dict[str, float]:
    """Count what a run's micro-batches hold.

    row_tokens: tokens of all rows. computed: places that are computed, with padding or with shared
    tokens once. padding: fraction of the computed places that is padding (0 where prefixes are
    shared).
    """
    own = computed = 0
    for start in range(0, len(order), micro_batch):
        rows = rows_of([pairs[index] for index in order[start : start + micro_batch]])
        own += sum(map(len, rows))
        computed += len(share(rows)) if share_prefix else len(rows) * max(map(len, rows))
    return {
        "row_tokens": own,
        "computed": computed,
        "padding": 0.0 if share_prefix or not computed else 1 - own / computed,
    }


def rows_of(pairs: Sequence[TokenPair]) -> list[tuple[int, ...]]:
    """All token rows of the pairs, both sides."""
    return [row for pair in pairs for row in (pair.chosen, pair.rejected)]


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a collated batch that `RewardModel.forward` takes."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
