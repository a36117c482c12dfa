"""The log likelihood of a response under the backbone's language model head.

Only GRM's text-generation regularisation (`TextGeneration`) uses it. The head must be tied to the
token embedding, as in the paper's backbones and SmolLM2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rm.errors import InputError

IGNORED = -100
"""Target of a position whose next token is not predicted (transformers' convention)."""


def head_of(model: PreTrainedModel) -> Tensor:
    """Weight (vocabulary, hidden) of the language model head, which is the token embedding.

    Raises InputError if the backbone has a separate head or caps its logits.
    """
    if not model.config.tie_word_embeddings:
        raise InputError(
            "loss.text needs a backbone whose language model head is its token embedding "
            f"(tie_word_embeddings), and {type(model).__name__} has a separate head: choose "
            "another backbone"
        )
    if getattr(model.config, "final_logit_softcapping", None):
        raise InputError(
            "loss.text does not support final_logit_softcapping: choose another backbone"
        )
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def next_tokens(row: Sequence[int], start: int) -> list[int]:
    """For each position of `row` the next token, or IGNORED if that token is before `start`.

    >>> next_tokens([7, 8, 9], start=1)
    [8, 9, -100]
    """
    return [*(row[i] if i >= start else IGNORED for i in range(1, len(row))), IGNORED]


def log_likelihood(states: Tensor, targets: Tensor, head: Tensor) -> Tensor:
    """Sum of log π(token) over each row's targets, (rows,) float32 (float64 for float64 states).

    states (rows, length, hidden) after the final norm; targets (rows, length) int64, IGNORED where
    nothing is predicted; head (vocabulary, hidden). Logits are computed only at the targets.
    """
    rows, places = (targets != IGNORED).nonzero(as_tuple=True)
    logits = nn.functional.linear(states[rows, places], head.to(states.dtype))
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = -nn.functional.cross_entropy(wide, targets[rows, places], reduction="none")
    return each.new_zeros(len(targets)).index_add(0, rows, each)
