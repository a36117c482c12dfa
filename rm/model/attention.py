"""Prefix sharing: rows with a common prefix form one token tree, and each token is computed once.

The chosen and rejected rows of a pair share the prompt and often most of the response. N responses
share their prompt. All rows of a batch share the template's system turn.

A batch becomes one sequence without padding. Its first row is complete. Every further row adds only
the tokens after the longest prefix that it shares with an earlier row. Position ids continue from
the shared prefix. Matrix products process each token once. Attention runs row by row: the tokens
that a row adds attend to the whole row. So a row's last hidden state equals that of the row alone,
and a batch never costs more than its separate rows. A 4-D mask over the sequence gives the same
numbers, but also computes masked positions (benchmarks/prefix.py compares the two). On a GPU,
`FlexPlan` skips most masked positions in one kernel.

Only the last tokens of the last layer's output are read. So only these pass the attention and the
feed-forward part of that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rm.data.tokens import Row
from rm.errors import InputError
from rm.model.tree import TokenTree, share

KERNELS = {"sdpa": "sdpa_shared_prefix", "eager": "eager_shared_prefix"}
"""Attention kernel → name in transformers of its replacement for shared prefixes."""

FLEX = "flex_attention"
"""Value of `training.attention` and `eval.attention` that selects FlexAttention."""

BLOCK = 128
"""Queries per block of `causal_products`: the scores of a block stay in the processor's cache."""

LONGEST = 1024
"""Most keys of a row that trains by `causal_products`, which keeps all weights of the softmax."""

LAST_LAYER = "reads_last_tokens_only"
"""Marks the attention module of the last layer."""


@dataclass
class AttentionPlan:
    """How attention over a tree runs row by row, in the order of the tree's rows.

    queries: number of tokens that each row adds; these are its queries. pieces: lengths of the
    parts of the sequence, which is cut wherever a row begins or forks. keys: for each row, the
    indices of its pieces. masks: for each row, which keys its queries see, bool
    (1, 1, queries, keys); None for a row without a shared prefix, where causal attention is enough.
    last: (rows,) int64, index in the sequence of each row's last token. behind: (tokens,) int64,
    `TokenTree.behind`.
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
        """Attention (1, tokens, heads, size), row by row.

        In the last layer, only the last token of each row gets an output; the others get zeros.
        """
        dtype = value.dtype
        queries = query.split(self.queries, dim=2)
        keys, values = key.split(self.pieces, dim=2), value.split(self.pieces, dim=2)
        outputs = []
        for own, pieces, mask in zip(queries, self.keys, self.masks, strict=True):
            row_keys = torch.cat([keys[index] for index in pieces], dim=2)
            row_values = torch.cat([values[index] for index in pieces], dim=2)
            skipped = own.shape[2] - 1 if getattr(module, LAST_LAYER, False) else 0
            own, mask = (own[:, :, skipped:], None) if skipped else (own, mask)
            attend = row_attention(module, row_values, **options)
            output = attend(module, own, row_keys, row_values, mask, **options)
            outputs.append(nn.functional.pad(output, (0, 0, 0, 0, skipped, 0)))
        return torch.cat(outputs, dim=1).to(dtype)


@dataclass
class SharedBatch:
    """Rows as one sequence of tensors without padding; each shared token appears once.

    position_ids: (1, tokens) int64. last: (rows,) int64, index in the sequence of each row's last
    token, in the order of the given rows. input_ids: (1, tokens) int64, or trunk_states:
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
    """Collate token rows so that shared tokens appear once.

    rows: not empty, in the order of the rewards; for pairs, all chosen rows, then all rejected
    rows. states: returns the trunk states (length, hidden) of a row; if given, the batch holds them
    instead of token ids.

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


def attention_plan(tree: TokenTree) -> AttentionPlan:
    """Return the row-by-row plan of attention over a tree."""
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
    """Causal mask for a row's last `queries` tokens; `fork` tokens precede them."""
    if fork == 0:
        return None
    seen = torch.ones(queries, fork + queries, dtype=torch.bool).tril(diagonal=fork)
    return seen.view(1, 1, queries, fork + queries)


@dataclass
class FlexPlan:
    """Attention over a tree in one FlexAttention kernel, instead of SDPA row by row.

    A token sees itself and its ancestors. In depth-first order a token's descendants follow it
    without a gap and end before index `behind` (`TokenTree.behind`). Blocks of the sequence in
    which no token sees another are skipped. The kernel is compiled at the first call. torch trains
    with it only on CUDA.

    mask: which blocks of the sequence see which. last: (rows,) int64, index in the sequence of each
    row's last token.
    """

    mask: BlockMask
    last: Tensor

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        """Attention (1, tokens, heads, size) for all tokens, in the last layer too."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # the kernel takes one dtype
        return flex_attention_forward(module, query, key, value, self.mask, **options)[0]


def flex_plan(plan: AttentionPlan) -> FlexPlan:
    """Make the block mask of a plan. All layers of a forward pass share it."""
    behind = plan.behind

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < behind[key])

    mask = create_block_mask(
        sees,
        B=None,
        H=None,
        Q_LEN=len(behind),
        KV_LEN=len(behind),
        device=behind.device,
        _compile=behind.is_cuda,  # else memory grows as tokens²
    )
    return FlexPlan(mask, plan.last)


def _shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    attention_plan: AttentionPlan | FlexPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: it follows the plan, if there is one.

    query (rows, heads, tokens, size), key and value likewise -> (rows, tokens, heads, size).
    """
    if attention_plan is None:
        return plain_attention(module, query, key, value, attention_mask, **options), None
    return attention_plan.attend(module, query, key, value, **options), None


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float | None = None,
    **options: Any,
) -> Tensor:
    """Attention by SDPA, or by explicit products where the scores are capped (Gemma 2).

    query (rows, heads, queries, size), key and value (rows, groups, keys, size), mask
    (rows or 1, 1, queries, keys), bool or additive, or None for causal attention
    -> (rows, queries, heads, size).
    """
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
    scores = softcap * torch.tanh(query @ key.mT * options["scaling"] / softcap)
    if mask is None:
        shape, before = scores.shape[-2:], scores.shape[-1] - scores.shape[-2]
        mask = torch.ones(shape, dtype=torch.bool, device=scores.device).tril(diagonal=before)
    if mask.dtype == torch.bool:
        # Not -inf: a row of padding sees no key, and its softmax must not become NaN.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    dropped = nn.functional.dropout(
        weights.to(query.dtype), options.get("dropout", 0.0), module.training
    )
    return (dropped @ value).transpose(1, 2).contiguous()


def row_attention(module: nn.Module, value: Tensor, **options: Any) -> Callable[..., Tensor]:
    """The function that computes a row's attention: `causal_products` where that is faster.

    value: (1, groups, keys, size), the row's values.
    """
    dropout = module.training and options.get("dropout", 0.0)
    special = dropout or options.get("softcap") is not None
    long = torch.is_grad_enabled() and value.shape[2] > LONGEST
    if value.device.type == "cpu" and value.dtype == torch.bfloat16 and not special and not long:
        return causal_products
    return plain_attention


def causal_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> Tensor:
    """Causal attention of a row's last queries by matrix products, in blocks of queries.

    With bfloat16 in hardware it takes a third to a half of the time of torch's CPU kernel, which
    computes in float32. Scores are rounded to bfloat16 before the softmax, as in transformers'
    eager attention. query (1, heads, queries, size), key and value (1, groups, keys, size), where
    the queries belong to the last keys -> (1, queries, heads, size). The mask is not read.
    """
    query, key, value = query[0].to(value.dtype), key[0].to(value.dtype), value[0]
    heads, queries, size = query.shape
    groups, before = len(key), key.shape[1] - queries
    outputs = []
    for start in range(0, queries, BLOCK):
        own = query[:, start : start + BLOCK]
        count = own.shape[1]
        seen = before + start + count
        later = torch.full((count, seen), -torch.inf, dtype=value.dtype).triu(seen - count + 1)
        later = later.expand(groups, heads // groups, -1, -1).reshape(groups, -1, seen)
        own = own.reshape(groups, -1, size)
        scores = torch.baddbmm(later, own, key[:, :seen].mT, alpha=scaling)
        outputs.append((scores.softmax(-1) @ value[:, :seen]).view(heads, count, size))
    return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0)


for _name in KERNELS.values():
    AttentionInterface.register(_name, _shared_attention)
    AttentionMaskInterface.register(_name, sdpa_mask)


def use_kernel(classifier: Any) -> None:
    """Let a sequence classifier's attention follow a plan; without a plan it is unchanged.

    Raises InputError for the reasons that `no_kernel` gives.
    """
    kernel = classifier.config._attn_implementation
    if kernel in KERNELS.values():
        return
    reason = no_kernel(classifier)
    if reason is not None:
        raise InputError(f"{reason}, or set training.share_prefix=false")
    classifier.set_attn_implementation(KERNELS[kernel])
    _prune_last_layer(classifier.base_model.layers[-1])


def _prune_last_layer(layer: Any) -> None:
    """With a plan, let only last tokens pass the layer's attention and feed-forward part.

    Hooks do this, so that it also works under gradient checkpointing.
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


def no_kernel(classifier: Any) -> str | None:
    """Why the attention kernel of a sequence classifier cannot follow a plan; None if it can.

    SDPA can, and so can eager attention where transformers has no SDPA for the architecture.
    """
    kernel = classifier.config._attn_implementation
    forced = kernel == "eager" and not classifier._supports_sdpa
    if forced or kernel in ("sdpa", *KERNELS.values()):
        return None
    return f"the attention kernel {kernel} cannot share prefixes: use sdpa"
