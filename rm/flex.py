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


@dataclass
class FlexPlan:
    """Attention over a tree in one kernel.

    mask: which blocks of places see which. last: (rows,) int64, places of the rows' last tokens.
    """

    mask: BlockMask
    last: Tensor

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> Tensor:
        """Attention (1, tokens, heads, size), also in the last layer for all tokens."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # the kernel takes one dtype
        return flex_attention_forward(module, query, key, value, self.mask, **options)[0]


def flex_plan(plan: AttentionPlan) -> FlexPlan:
    """Make the block mask of a plan, once for all layers of a forward pass."""
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
        _compile=behind.is_cuda,  # else places × places of memory
    )
    return FlexPlan(mask, plan.last)
