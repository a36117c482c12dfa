"""One FlexAttention kernel for a whole tree of rows (`rm.prefix`), instead of SDPA row by row.

A token sees another if that is no later and it lies before the place behind the other's last
descendant: in depth-first order a subtree is one run of places. Blocks of the sequence in which
no token sees any other are skipped. The kernel is compiled at the first call; torch trains with it
on CUDA alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward

if TYPE_CHECKING:
    from rm.prefix import AttentionPlan

FLEX = "flex_attention"
"""What the configuration calls it."""

LAST_LAYER = "reads_last_tokens_only"
"""Marks the attention module of the last layer."""


@dataclass
class FlexPlan:
    """Attention over a tree in one kernel.

    tree: what each of the tokens sees. ends: what the rows' last tokens see, in the tree's order.
    last: (rows,) int64, their places.
    """

    tree: BlockMask
    ends: BlockMask
    last: Tensor

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        """Attention (1, tokens, heads, size) as `rm.prefix.AttentionPlan.attend` gives it."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # the kernel takes one dtype
        if not getattr(module, LAST_LAYER, False):
            return flex_attention_forward(module, query, key, value, self.tree, **options)[0]
        own = query[:, :, self.last]
        output, _ = flex_attention_forward(module, own, key, value, self.ends, **options)
        places = (1, query.shape[2], *output.shape[2:])
        return output.new_zeros(places).index_copy(1, self.last, output)


def flex_plan(plan: AttentionPlan) -> FlexPlan:
    """Make the block masks of a plan, once for all layers of a forward pass."""
    last, behind = plan.last, plan.behind

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < behind[key])

    def end_sees(_batch: Tensor, _head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return (key <= last[row]) & (last[row] < behind[key])

    def blocks(mask: Any, queries: int) -> BlockMask:
        return create_block_mask(
            mask,
            B=None,
            H=None,
            Q_LEN=queries,
            KV_LEN=len(behind),
            device=behind.device,
            _compile=behind.is_cuda,  # else places × places of memory
        )

    return FlexPlan(blocks(sees, len(behind)), blocks(end_sees, len(last)), last)
