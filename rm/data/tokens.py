"""From a pair's texts to its tokens: truncation and padding. `rm.data.token_table` applies them.

Truncation keeps the end of the response. If prompt + response exceeds the limit, tokens are removed
in this order until both sides fit:

1. the oldest exchanges of the prompt, the same for both sides; then the system message;
2. the beginning of the last user text, on each side as much as its own length asks for;
3. the beginning of the response.

The chat template's own tokens (beginning of sequence, role headers) stay. Training drops a pair if
its last user turn alone fills the limit, or if its sides have identical tokens. Evaluation never
drops a row.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rm.data.schemas import Answer, Message, answer_turns
from rm.data.templates import ChatTemplate, common_prefix
from rm.errors import InputError

Row = tuple[int, ...]
"""One sequence as token ids, special tokens included, no padding."""


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
    """Index of the chosen response's first token; None unless it was requested."""


def shorter_prompts(prompt: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield `prompt`, then shorter ones: oldest exchanges removed first, system message last."""
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

    Returns the id lists, what was cut (None, "oldest turns" or "tokens"), and the prompt as used.
    Raises RefusedConversation if the chat template cannot render one of the conversations.
    """
    for used in shorter_prompts(prompt):
        encoded = [template.encode(used, answer) for answer in answers]
        if all(len(ids) <= max_length for ids in encoded):
            return encoded, None if len(used) == len(prompt) else "oldest turns", used
    return [cut_texts(template, used, ids, max_length)[0] for ids in encoded], "tokens", used


def cut_texts(
    template: ChatTemplate, prompt: Sequence[Message], ids: list[int], max_length: int
) -> tuple[list[int], int]:
    """Cut the tokens of a prompt with an answer to `max_length`.

    The beginning of the prompt's last text is cut first, then the beginning of the answer. Returns
    the ids, and how many tokens of the template stand before the answer. If these alone fill the
    limit, the ids are cut from the left, and the number is 0.
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
    """Index of the last response's first token in a conversation cut to `kept` tokens."""
    whole = template.encode(prompt, answer)
    asked = [*prompt, *answer_turns(answer)[:-1]]
    after = len(whole) - common_prefix(whole, template.render(asked, add_generation_prompt=True))
    return max(kept - after, cut_texts(template, prompt, whole, kept)[1])


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pad token sequences to equal length.

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

    `AutoModelForSequenceClassification` reads the reward at the last token that is not the pad
    token. If the pad token also ended a turn, the reward would move to an earlier token. `turn_end`
    are the ids at the end of a rendered conversation. Raises InputError if the vocabulary has no
    spare token.
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
            f"the tokenizer of {tokenizer.name_or_path} has no spare token for padding: add one"
        )
    tokenizer.pad_token = candidates[0]


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Exclude all current objects from garbage collection while the block runs.

    Otherwise the collector would scan a data set's many token rows again and again, and the time
    per token would grow with the number of rows (benchmarks/growth.py). Objects made in the block
    are collected as usual.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
