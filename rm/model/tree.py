"""Prefix sharing: rows that begin alike become one tree of tokens."""

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
"""First place and the place behind the last one."""


@dataclass(frozen=True)
class TokenTree:
    """Token rows as one sequence, depth first, every shared prefix once.

    rows: distinct, in lexicographic order. forks: for each row, how many leading tokens it takes
    over from the row before it (0 for the first).

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
        """Token ids in the order in which they are computed."""
        fresh = (row[fork:] for row, fork in zip(self.rows, self.forks, strict=True))
        return list(chain.from_iterable(fresh))

    @property
    def positions(self) -> list[int]:
        """Position ids: a token's number of ancestors."""
        ranges = (range(f, len(row)) for row, f in zip(self.rows, self.forks, strict=True))
        return list(chain.from_iterable(ranges))

    @property
    def behind(self) -> list[int]:
        """For each token the place behind its last descendant: all from it up to there see it.

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
        """Of each row, where its tokens lie in the sequence.

        >>> TokenTree(((1, 2, 3), (1, 2, 4, 5)), (0, 2)).runs
        [[(0, 3)], [(0, 2), (3, 5)]]
        """
        runs: list[list[Run]] = [[]]
        for fork, own in zip(self.forks, pairwise(accumulate(self.fresh, initial=0)), strict=True):
            runs.append([*_first(runs[-1], fork), own])
        return runs[1:]


def _first(runs: Sequence[Run], length: int) -> list[Run]:
    """The first `length` places of `runs`."""
    taken = []
    for start, stop in runs:
        if length > 0:
            taken.append((start, min(stop, start + length)))
        length -= stop - start
    return taken


def share(rows: Sequence[Row]) -> TokenTree:
    """Write rows as one tree; their order does not matter, equal ones are kept once.

    >>> share([(1, 2, 4, 5), (1, 2, 3), (1, 2, 3)])
    TokenTree(rows=((1, 2, 3), (1, 2, 4, 5)), forks=(0, 2))
    """
    distinct = sorted(set(rows))
    forks = [common_prefix(one, other) for one, other in pairwise(distinct)]
    return TokenTree(tuple(distinct), (0, *forks))


def batches_by_shared_tokens(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Cut distinct rows into batches whose trees have at most `tokens` tokens.

    Rows that begin alike come together; a longer row is a batch of its own.
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
    """Give every distinct row its own (length, hidden) from a tree's states (1, tokens, hidden)."""
    tree = share(rows)
    for row, runs in zip(tree.rows, tree.runs, strict=True):
        yield row, torch.cat([states[0, start:stop] for start, stop in runs])
