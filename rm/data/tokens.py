"""From a pair's texts to its tokens: truncation, padding. `rm.data.token_table` applies it to all.

Truncation keeps the response's end. Where prompt + response is over the limit, the oldest turns of
the prompt go first, whole exchange by whole exchange, the same for both sides of the pair (a system
message stays to the last). If the last user turn with the longer response is still too long, the
user's text loses its beginning, then the response its own; what the chat template writes around
them (the beginning-of-sequence token, role headers) stays. In training a pair whose last user turn
alone fills the limit is dropped, and so is one whose sides became identical; evaluation never drops
a row. Rows that name a special token in a text are counted (`rm.data.templates`).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rm.data.schemas import Answer, Message, answer_turns
from rm.data.templates import ChatTemplate, common_prefix
from rm.errors import InputError

Row = tuple[int, ...]
"""One sequence as token ids, special tokens included, no padding."""

# Llama 3's template prints today's date unless it is given one: without this, tokens (and scores)
# would change from one day to the next. The value is the template's own default.
TEMPLATE_VARIABLES: dict[str, Any] = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True)
class TokenPair:
    """One pair as token ids, special tokens included, no padding."""

    pair_id: str
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float | None = None
    category: str | None = None
    truncated: bool = False
    response_start: int | None = None
    """Place of the chosen response's first token, where somebody asked for it."""


def shorter_prompts(prompt: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield `prompt`, then ever shorter ones: oldest exchanges first, then the system message."""
    system = [turn for turn in prompt[:1] if turn["role"] == "system"]
    turns = list(prompt[len(system) :])
    starts = [index for index, turn in enumerate(turns) if turn["role"] == "user"] or [0]
    for start in starts if starts[0] == 0 else [0, *starts]:
        yield [*system, *turns[start:]]
    if system:
        yield turns[starts[-1] :]


def encode_pair(
    template: ChatTemplate, prompt: Sequence[Message], answers: Sequence[Answer], max_length: int
) -> tuple[list[list[int]], str | None, list[Message]]:
    """Encode one prompt with each answer within `max_length` tokens.

    Returns the id lists, what was cut (None, "oldest turns" or "tokens") and the prompt as used.
    Raises RefusedConversation where the chat template cannot render one of them.
    """
    for used in shorter_prompts(prompt):
        encoded = [template.encode(used, answer) for answer in answers]
        if all(len(ids) <= max_length for ids in encoded):
            return encoded, None if len(used) == len(prompt) else "oldest turns", used
    return [cut_texts(template, used, ids, max_length)[0] for ids in encoded], "tokens", used


def cut_texts(
    template: ChatTemplate, prompt: Sequence[Message], ids: list[int], max_length: int
) -> tuple[list[int], int]:
    """Cut the tokens of a prompt with an answer to `max_length`; say how many before them stay.

    The prompt's last text loses its beginning; once nothing is left of it, the answer does. Returns
    the ids and the number of those that the template wrote before the answer; where these alone
    fill the limit, all ids lose their beginning, and the number is 0.
    """
    opening, closing = template.frame
    start = common_prefix(ids, opening)
    answer = common_prefix(ids, template.render(prompt, add_generation_prompt=True))
    end = answer - common_prefix(ids[:answer][::-1], closing[::-1])
    kept = start + answer - end
    surplus = len(ids) - max_length
    if surplus <= 0:
        return ids, kept
    if kept >= max_length or end < start:
        return ids[-max_length:], 0
    asked = min(surplus, end - start)
    return ids[:start] + ids[start + asked : answer] + ids[answer + surplus - asked :], kept


def response_start(
    template: ChatTemplate, prompt: Sequence[Message], answer: Answer, kept: int
) -> int:
    """Place of the last response's first token in a conversation cut to `kept` tokens."""
    whole = template.encode(prompt, answer)
    asked = [*prompt, *answer_turns(answer)[:-1]]
    after = len(whole) - common_prefix(whole, template.render(asked, add_generation_prompt=True))
    return max(kept - after, cut_texts(template, prompt, whole, kept)[1])


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pad token rows to one length.

    Returns input_ids and attention_mask, both int64 (rows, longest). `side`: "left" or "right".

    >>> ids, mask = pad([[5, 6, 7], [8]], pad_id=0)
    >>> ids.tolist(), mask.tolist()
    ([[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    """
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return ids, mask


def choose_pad_token(tokenizer: PreTrainedTokenizerBase, turn_end: Sequence[int]) -> None:
    """Give the tokenizer a pad token that never ends a sequence.

    Stock `AutoModelForSequenceClassification` pools at the last token that differs from the pad
    token, so a pad token equal to the end of a turn would move the reward to an earlier token.
    `turn_end` are the ids that the template ends a conversation with. Raises InputError if the
    vocabulary has no spare token.
    """
    names = (tokenizer.pad_token, "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")
    vocabulary = tokenizer.get_vocab()
    spare = [name for name in names if name in vocabulary and vocabulary[name] not in turn_end]
    unused = [
        token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if index not in turn_end and index not in (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ]
    candidates = [*spare, *unused]
    if not candidates:
        raise InputError(
            f"{tokenizer.name_or_path} has no token that could serve as padding: add one"
        )
    tokenizer.pad_token = candidates[0]


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Let the collector pass over all objects that live now while the block runs.

    The token rows of a data set are many, and it would walk them again and again: time per token
    would grow with the number of rows (benchmarks/growth.py). Objects that are made in the block
    are collected as ever.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
