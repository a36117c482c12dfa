"""Assign pairs to optimiser steps and micro-batches, and collate micro-batches into tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rm.data.token_table import TokenPairs
from rm.data.tokens import Row, TokenPair, pad
from rm.errors import InputError
from rm.model.attention import shared_batch
from rm.model.likelihood import IGNORED, next_tokens
from rm.model.tree import share
from rm.model.trunk import TrunkCache
from rm.training.settings import step_count

NOT_FOR_THE_MODEL = ("margin", "pair_id", "category", "distance")
"""Entries of a batch for the loss and the weight."""


def training_order(pairs: TokenPairs, *, epochs: float, global_batch: int, seed: int) -> list[int]:
    """Indices of the pairs in training order, a whole number of global batches.

    One seeded permutation per epoch, concatenated and cut into global batches. The last, incomplete
    global batch is dropped (the manifest counts its pairs). Pairs within a global batch are sorted
    by their longer side, so a micro-batch has pairs of similar length. Which pairs share a step
    does not depend on length. Raises InputError if there are too few pairs for one global batch.
    """
    steps = step_count(epochs, len(pairs), global_batch)
    if steps == 0:
        raise InputError(
            f"{len(pairs)} pairs × {epochs} epochs do not fill one global batch of {global_batch}: "
            "lower training.global_batch or give more pairs"
        )
    generator = torch.Generator().manual_seed(seed)
    stream: list[int] = []
    while len(stream) < steps * global_batch:
        stream += torch.randperm(len(pairs), generator=generator).tolist()
    order = np.array(stream[: steps * global_batch])
    step = np.arange(len(order)) // global_batch
    return order[np.lexsort((order, pairs.longer[order], step))].tolist()


def micro_batches(
    pairs: TokenPairs,
    order: Sequence[int],
    *,
    global_batch: int,
    micro_batch: int,
    tokens: int | None = None,
    devices: int = 1,
    share_prefix: bool = False,
) -> list[list[int]]:
    """Cut every global batch of `order` into micro-batches, the same number in each step.

    Without `tokens`, a micro-batch has `micro_batch` pairs. With `tokens`, it has at most
    `micro_batch` pairs and at most `tokens` tokens; a pair with more tokens is alone in its own.
    Tokens are those of both sides, padding included. With `share_prefix` there is no padding, and
    tokens that the sides of a pair share count once.

    All steps have the same number of micro-batches, so that ranks and accumulation stay in step. It
    is what the largest step needs, rounded up to a multiple of `devices`. The largest micro-batch
    of every step is as small as possible.
    """
    steps = _slices(order, global_batch)
    if tokens is None:
        return [list(part) for step in steps for part in _slices(step, micro_batch)]
    each = pairs.tree_tokens if share_prefix else 2 * pairs.longer
    sizes = [each[list(step)].tolist() for step in steps]

    def cut(own: Sequence[int], limit: int) -> list[int]:
        return _cut(own, limit, micro_batch, padded=not share_prefix)

    most = max(len(cut(own, tokens)) for own in sizes)
    parts = devices * math.ceil(most / devices)
    made = []
    for step, own in zip(steps, sizes, strict=True):
        lengths = _even(own, parts, tokens, cut)
        ends = list(accumulate(lengths))
        made += [list(step[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    return made


def _slices(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _cut(sizes: Sequence[int], limit: int, most: int, *, padded: bool) -> list[int]:
    """Sizes of the fewest consecutive parts with at most `limit` tokens and `most` pairs each."""
    lengths = [0]
    tokens = longest = 0
    for size in sizes:
        count, longest = lengths[-1] + 1, max(longest, size)
        tokens = count * longest if padded else tokens + size
        if count > 1 and (tokens > limit or count > most):
            lengths.append(0)
            count, tokens, longest = 1, size, size
        lengths[-1] = count
    return lengths


def _even(
    sizes: Sequence[int], parts: int, limit: int, cut: Callable[[Sequence[int], int], list[int]]
) -> list[int]:
    """Sizes of exactly `parts` consecutive parts, the largest part as small as possible.

    Needs `parts` large enough for parts of at most `limit` tokens (a larger pair is alone).
    """
    low, high = min(max(sizes), limit), limit
    while low < high:
        middle = (low + high) // 2
        if len(cut(sizes, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    lengths = cut(sizes, low)
    while len(lengths) < parts:  # halving never enlarges the largest part
        place = max(range(len(lengths)), key=lengths.__getitem__)
        lengths[place : place + 1] = [lengths[place] // 2, lengths[place] - lengths[place] // 2]
    return lengths


class PairStream(Dataset[list[TokenPair]]):
    """The micro-batches of pairs in training order: read it sequentially."""

    def __init__(self, pairs: TokenPairs, batches: Sequence[Sequence[int]]) -> None:
        """`batches`: indices into `pairs`, from `micro_batches`.

        Raises InputError for a non-finite margin: with −inf a pair would silently teach nothing.
        """
        bad = pairs.not_finite
        if len(bad):
            raise InputError(
                f"the margins of {len(bad)} pairs are not finite, first {pairs[bad[0]].pair_id}: "
                "give finite margins or remove these pairs"
            )
        self.pairs, self.batches = pairs, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[TokenPair]:
        return [self.pairs[pair] for pair in self.batches[index]]


class PairCollator:
    """Turns a micro-batch of pairs into tensors for `RewardModel.forward`.

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
        """With `trunk`, the batch has cached trunk states instead of token ids.

        With `share`, the batch has each shared token once (`rm.model.attention`). `distance`:
        computes a pair's distance from its tokens. `likelihood`: add the targets for the
        log-likelihood of the chosen responses; needs pairs with a `response_start` and no shared
        prefixes.
        """
        self.pad_id, self.trunk, self.side, self.share = pad_id, trunk, side, share
        self.distance, self.likelihood = distance, likelihood

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Any]:
        """Return a dict with these entries.

        attention_mask and input_ids or trunk_states: 2·pairs rows. With `share`, one entry `shared`
        (a SharedBatch) replaces them. targets: (2·pairs, length), only with `likelihood`.
        margin: (pairs,) float32, only if every pair has one. pair_id and category: one per pair, in
        order ("" for no category). distance: (pairs,) float32, only if the collator has a distance.
        """
        rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        batch = self._rows(rows) | {"pair_id": [pair.pair_id for pair in pairs]}
        batch["category"] = [pair.category or "" for pair in pairs]
        if self.likelihood:
            batch["targets"] = self._targets(pairs)
        if self.distance is not None:
            batch["distance"] = torch.tensor([self.distance(pair) for pair in pairs])
        if all(pair.margin is not None for pair in pairs):
            batch["margin"] = torch.tensor([pair.margin for pair in pairs], dtype=torch.float32)
        return batch

    def _targets(self, pairs: Sequence[TokenPair]) -> Tensor:
        """Next-token targets of the chosen responses; rejected rows have only IGNORED."""
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
    pairs: TokenPairs, batches: Sequence[Sequence[int]], share_prefix: bool
) -> dict[str, float]:
    """Count the tokens of a run's micro-batches.

    row_tokens: tokens of all rows. computed: computed positions, padding included; with
    `share_prefix` without padding and shared tokens once. largest: computed positions of the
    largest micro-batch. padding: fraction of computed positions that are padding.
    """
    own, computed = 0, []
    for batch in batches:
        own += int(pairs.row_tokens[list(batch)].sum())
        if share_prefix:
            computed.append(len(share(list(rows_of(pairs[index] for index in batch)))))
        else:
            computed.append(2 * len(batch) * int(pairs.longer[list(batch)].max()))
    total = sum(computed)
    return {
        "row_tokens": own,
        "computed": total,
        "largest": max(computed, default=0),
        "padding": 0.0 if share_prefix or not total else 1 - own / total,
    }


def rows_of(pairs: Iterable[TokenPair]) -> Iterator[Row]:
    """All token rows, pair by pair: chosen, then rejected."""
    for pair in pairs:
        yield pair.chosen
        yield pair.rejected


def model_inputs(batch: dict[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """The entries of a batch that `RewardModel.forward` takes, moved to `device` if given."""
    own = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
    return own if device is None else {name: value.to(device) for name, value in own.items()}
