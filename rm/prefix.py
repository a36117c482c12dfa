"""Prefix sharing: rows that begin alike become one tree of tokens, and each token is computed once.

The two sides of a pair share their prompt and often most of the response, N responses share their
prompt, and all rows of a batch share the template's system turn. The rows of a batch are written as
a single sequence without padding: the first row whole, then of every further row only what follows
the longest prefix that it shares with a row before. Position ids go on from the prefix in every
branch. Matrix products see each token once, and the attention kernel goes row by row, each row's
own tokens looking at the whole row. So the hidden state at a row's last token is the one that the
row has on its own, and no batch costs more than its rows would apart. (A 4-D mask over the sequence
gives the same numbers, but attends to masked places too: benchmarks/prefix.py compares them. On a
GPU, `rm.flex` has one kernel that skips most of them.)

Nobody reads the last layer's output anywhere else, so there only the last tokens attend and pass
the feed-forward part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rm.errors import InputError
from rm.flex import FlexPlan, flex_plan
from rm.tokens import Row

if TYPE_CHECKING:
    from rm.models import RewardModel, RewardOutput

KERNEL = "sdpa_shared_prefix"
"""The name under which transformers knows the attention of this module."""

LAST_LAYER = "reads_last_tokens_only"
"""Marks the attention module of the last layer."""

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


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that two rows share."""
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))


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


@dataclass
class AttentionPlan:
    """How the attention of a tree goes row by row, in the order of the tree's rows.

    queries: number of tokens that each row adds, which are its queries. pieces: lengths of the
    parts of the sequence, cut wherever a row begins or forks. keys: of each row, the pieces that it
    consists of. masks: of each row, which keys its queries see, bool (1, 1, queries, keys); None
    where the row is whole and plain causal attention does. last: (rows,) int64, the place of each
    row's last token. behind: (tokens,) int64, `TokenTree.behind`.
    """

    queries: list[int]
    pieces: list[int]
    keys: list[list[int]]
    masks: list[Tensor | None]
    last: Tensor
    behind: Tensor

    def to(self, device: torch.device | str) -> AttentionPlan:
        """The same plan with its tensors on another device."""
        masks = [None if mask is None else mask.to(device) for mask in self.masks]
        last, behind = self.last.to(device), self.behind.to(device)
        return AttentionPlan(self.queries, self.pieces, self.keys, masks, last, behind)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        """Attention (1, tokens, heads, size) by SDPA, row by row.

        In the last layer only the last token of each row gets an output, the others zeros.
        """
        dtype = value.dtype
        cpu = query.device.type == "cpu" and dtype == torch.bfloat16
        if cpu:  # the kernel's backward pass is up to twice as fast in float32
            query, key, value = query.float(), key.float(), value.float()
        queries = query.split(self.queries, dim=2)
        keys, values = key.split(self.pieces, dim=2), value.split(self.pieces, dim=2)
        outputs = []
        with torch.autocast("cpu", enabled=False) if cpu else contextlib.nullcontext():
            for own, pieces, mask in zip(queries, self.keys, self.masks, strict=True):
                row_keys = torch.cat([keys[index] for index in pieces], dim=2)
                row_values = torch.cat([values[index] for index in pieces], dim=2)
                skipped = own.shape[2] - 1 if getattr(module, LAST_LAYER, False) else 0
                own, mask = (own[:, :, skipped:], None) if skipped else (own, mask)
                output, _ = sdpa_attention_forward(
                    module, own, row_keys, row_values, mask, **options
                )
                outputs.append(nn.functional.pad(output, (0, 0, 0, 0, skipped, 0)))
        return torch.cat(outputs, dim=1).to(dtype)


@dataclass
class SharedBatch:
    """Rows as tensors, each shared token once, without padding.

    position_ids: (1, tokens) int64. last: (rows,) int64, the place of each row's last token, rows
    in the order in which they were given. input_ids: (1, tokens) int64, or trunk_states:
    (1, tokens, hidden).
    """

    position_ids: Tensor
    last: Tensor
    plan: AttentionPlan
    input_ids: Tensor | None = None
    trunk_states: Tensor | None = None

    def to(self, device: torch.device | str) -> SharedBatch:
        """The same batch on another device."""
        moved = {k: None if v is None else v.to(device) for k, v in vars(self).items()}
        return SharedBatch(**moved)  # type: ignore[arg-type]


def shared_batch(rows: Sequence[Row], states: Callable[[Row], Tensor] | None = None) -> SharedBatch:
    """Collate token rows so that tokens which they share appear once.

    rows: not empty, in the order in which the rewards are wanted; for pairs all chosen sides, then
    all rejected ones. states: gives the trunk states (length, hidden) of a row; the batch then
    holds them instead of token ids.

    >>> batch = shared_batch([(5, 6, 7), (5, 8)])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist(), batch.last.tolist()
    ([[5, 6, 7, 8]], [[0, 1, 2, 1]], [2, 3])
    """
    tree = share(rows)
    ends = {row: runs[-1][1] - 1 for row, runs in zip(tree.rows, tree.runs, strict=True)}
    last = torch.tensor([ends[row] for row in rows])
    batch = SharedBatch(torch.tensor([tree.positions]), last, attention_plan(tree))
    if states is None:
        batch.input_ids = torch.tensor([tree.tokens])
    else:
        fresh = [states(row)[fork:] for row, fork in zip(tree.rows, tree.forks, strict=True)]
        batch.trunk_states = torch.cat(fresh).unsqueeze(0)
    return batch


def row_states(rows: Sequence[Row], states: Tensor) -> Iterator[tuple[Row, Tensor]]:
    """Give every distinct row its own (length, hidden) from a tree's states (1, tokens, hidden)."""
    tree = share(rows)
    for row, runs in zip(tree.rows, tree.runs, strict=True):
        yield row, torch.cat([states[0, start:stop] for start, stop in runs])


def attention_plan(tree: TokenTree) -> AttentionPlan:
    """Lay out the attention of a tree."""
    cuts = sorted({place for runs in tree.runs for run in runs for place in run})
    number = {place: index for index, place in enumerate(cuts)}
    return AttentionPlan(
        tree.fresh,
        [stop - start for start, stop in pairwise(cuts)],
        [[i for a, b in runs for i in range(number[a], number[b])] for runs in tree.runs],
        [_mask(size, fork) for size, fork in zip(tree.fresh, tree.forks, strict=True)],
        torch.tensor(tree.fresh).cumsum(0) - 1,
        torch.tensor(tree.behind),
    )


def _mask(queries: int, fork: int) -> Tensor | None:
    """What the last `queries` tokens of a row see of the row, `fork` tokens before them."""
    if fork == 0:
        return None
    seen = torch.ones(queries, fork + queries, dtype=torch.bool).tril(diagonal=fork)
    return seen.view(1, 1, queries, fork + queries)


def _shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    attention_plan: AttentionPlan | FlexPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers: after a plan, and plain SDPA without one.

    query (1, heads, tokens, size), key and value likewise -> (1, tokens, heads, size).
    """
    if attention_plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attention_plan.attend(module, query, key, value, **options), None


AttentionInterface.register(KERNEL, _shared_attention)
AttentionMaskInterface.register(KERNEL, sdpa_mask)


def forward_shared(model: RewardModel, batch: SharedBatch) -> RewardOutput:
    """Rewards (rows,) and last-token hidden states (rows, hidden) of a shared batch.

    Equal to `model` on the rows one by one up to floating-point summation, gradients included
    (with dropout the rows share their prefix's draw). The first call makes SDPA by plan
    the model's attention, which is plain SDPA for everything else. Raises InputError if the model
    does not use SDPA; whether the backbone can share at all,
    `rm.capability` says.
    """
    return model(shared=batch)


def shared_hidden(model: RewardModel, batch: SharedBatch) -> Tensor:
    """Hidden states (rows, hidden) of the rows' last tokens, in the backbone's dtype."""
    stack = model.backbone if batch.trunk_states is None else model.upper_stack
    return shared_states(model, stack, batch)[0, batch.last]


def shared_states(model: RewardModel, stack: Any, batch: SharedBatch) -> Tensor:
    """Output (1, tokens, hidden) of `stack`, the backbone or a part of it, on a shared batch."""
    _use_kernel(model)
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    if batch.trunk_states is not None:
        inputs = {"inputs_embeds": batch.trunk_states.to(model.state_dtype)}
    device = batch.position_ids.device
    with model._autocast(device.type):
        return stack(
            **inputs,
            # A 4-D mask is passed on as it is: it keeps transformers from making one of its own.
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            position_ids=batch.position_ids,
            use_cache=False,
            attention_plan=flex_plan(batch.plan) if model.flex_attention else batch.plan,
        ).last_hidden_state


def _use_kernel(model: RewardModel) -> None:
    kernel = model.config._attn_implementation
    if kernel == KERNEL:
        return
    if kernel != "sdpa":
        raise InputError(f"{no_kernel(kernel)}, or set training.share_prefix=false")
    model.classifier.set_attn_implementation(KERNEL)
    _prune_last_layer(model.backbone.layers[-1])


def _prune_last_layer(layer: Any) -> None:
    """Let only last tokens through the layer's attention and feed-forward part, given a plan.

    By hooks, so that it is the same under gradient checkpointing; without a plan they do nothing.
    """
    if not hasattr(layer, "self_attn") or getattr(layer.self_attn, LAST_LAYER, False):
        return
    setattr(layer.self_attn, LAST_LAYER, True)
    if type(getattr(layer, "mlp", None)).__name__.endswith("MLP"):
        layer.register_forward_pre_hook(_note_last, with_kwargs=True)
        layer.mlp.register_forward_pre_hook(_gather_last)
        layer.mlp.register_forward_hook(_scatter_last)


def _note_last(layer: Any, _: Any, options: dict[str, Any]) -> None:
    plan = options.get("attention_plan")
    layer.mlp.last_places = None if plan is None else plan.last
    layer.mlp.all_places = None


def _gather_last(mlp: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if mlp.last_places is None:
        return inputs
    mlp.all_places = inputs[0].shape
    return (inputs[0][:, mlp.last_places],)


def _scatter_last(mlp: Any, _: Any, output: Tensor) -> Tensor:
    if mlp.last_places is None:
        return output
    return output.new_zeros(mlp.all_places).index_copy(1, mlp.last_places, output)


def no_kernel(kernel: str) -> str:
    """What is said of an attention kernel that `SharedBatch` cannot go through."""
    return f"the attention kernel {kernel} cannot share prefixes: use sdpa"
