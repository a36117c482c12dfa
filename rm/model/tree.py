"""Prefix sharing: rows with a common prefix form one token tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from rm.data.templates import common_prefix
from rm.data.tokens import Row

Run = tuple[int, int]
"""Index of the first token in the sequence, and the index after the last."""


@dataclass(frozen=True)
class TokenTree:
    """Token rows as one sequence in depth-first order; each shared prefix appears once.

    rows: distinct, in lexicographic order. forks: for each row, the number of leading tokens that
    it shares with the previous row (0 for the first).

    >>> TokenTree(((1, 2, 3), (1, 2, 4, 5)), (0, 2)).tokens
    [1, 2, 3, 4, 5]
    """

    rows: tuple[Row, ...]
    forks: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.fresh)

    @property
    def fresh(self) -> list[int]:
        """Number of tokens that each row adds."""
        return [len(row) - fork for row, fork in zip(self.rows, self.forks, strict=True)]

    @property
    def tokens(self) -> list[int]:
        """Token ids in the order of the sequence."""
        fresh = (row[fork:] for row, fork in zip(self.rows, self.forks, strict=True))
        return list(chain.from_iterable(fresh))

    @property
    def positions(self) -> list[int]:
        """Position ids: a token's number of ancestors."""
        ranges = (range(f, len(row)) for row, f in zip(self.rows, self.forks, strict=True))
        return list(chain.from_iterable(ranges))

    @property
    def behind(self) -> list[int]:
        """For each token, the index after its last descendant.

        Only the token itself and its descendants, which end before that index, see it.

        >>> TokenTree(((1, 2, 3), (1, 2, 4, 5)), (0, 2)).behind
        [5, 5, 3, 5, 5]
        """
        behind = [len(self)] * len(self)
        path: list[int] = []
        starts = accumulate(self.fresh, initial=0)
        for start, fresh, fork in zip(starts, self.fresh, self.forks, strict=False):
            for place in path[fork:]:
                behind[place] = start
            path[fork:] = range(start, start + fresh)
        return behind

    @cached_property
    def runs(self) -> list[list[Run]]:
        """For each row, the runs of the sequence that hold its tokens.

        >>> TokenTree(((1, 2, 3), (1, 2, 4, 5)), (0, 2)).runs
        [[(0, 3)], [(0, 2), (3, 5)]]
        """
        runs: list[list[Run]] = [[]]
        for fork, own in zip(self.forks, pairwise(accumulate(self.fresh, initial=0)), strict=True):
            runs.append([*_first(runs[-1], fork), own])
        return runs[1:]


def _first(runs: Sequence[Run], length: int) -> list[Run]:
    """The part of `runs` that holds the first `length` tokens."""
    taken = []
    for start, stop in runs:
        if length > 0:
            taken.append((start, min(stop, start + length)))
        length -= stop - start
    return taken


def share(rows: Sequence[Row]) -> TokenTree:
    """Write rows as one tree. Their order does not matter; duplicates are kept once.

    >>> share([(1, 2, 4, 5), (1, 2, 3), (1, 2, 3)])
    TokenTree(rows=((1, 2, 3), (1, 2, 4, 5)), forks=(0, 2))
    """
    distinct = sorted(set(rows))
    forks = [common_prefix(one, other) for one, other in pairwise(distinct)]
    return TokenTree(tuple(distinct), (0, *forks))


def batches_by_shared_tokens(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Cut distinct rows into batches whose trees have at most `tokens` tokens.

    Rows with a common prefix come together. A row longer than `tokens` is a batch of its own.
    """
    batch: list[Row] = []
    size = 0
    for row in sorted(set(rows)):
        fresh = len(row) - (common_prefix(batch[-1], row) if batch else 0)
        if batch and size + fresh > tokens:
            yield batch
            batch, size, fresh = [], 0, len(row)
        batch.append(row)
        size += fresh
    if batch:
        yield batch


def row_states(rows: Sequence[Row], states: Tensor) -> Iterator[tuple[Row, Tensor]]:
    """Yield each distinct row and its (length, hidden) of a tree's states (1, tokens, hidden)."""
    tree = share(rows)
    for row, runs in zip(tree.rows, tree.runs, strict=True):
        yield row, torch.cat([states[0, start:stop] for start, stop in runs])
