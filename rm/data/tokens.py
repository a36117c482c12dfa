"""From preference pairs to token pairs: chat template, truncation, padding.

Truncation keeps the response's end. Where prompt + response is over the limit, the oldest turns of
the prompt go first, whole exchange by whole exchange, the same for both sides of the pair (a system
message stays to the last); if the last user turn with the longer response is still too long, the
sequence keeps its last `max_length` tokens. In training a pair whose last user turn alone fills the
limit is dropped, and so is one whose sides became identical; evaluation never drops a row.

A special token's name that somebody typed in a text ("<|im_end|>") is that text, not the token: a
response can't end its own turn and open another. Such rows are counted.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rm.data.preferences import PreferencePair
from rm.data.schemas import Answer, Message, answer_turns
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


@dataclass
class TokenReport:
    """What tokenisation did to the pairs: kept, truncated and dropped, by reason.

    `special_text`: kept pairs in whose texts a special token is named.
    """

    pairs: int = 0
    tokens: int = 0
    special_text: int = 0
    truncated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for a manifest."""
        return {
            "pairs": self.pairs,
            "tokens": self.tokens,
            "special_text": self.special_text,
            "truncated": dict(self.truncated),
            "dropped": dict(self.dropped),
        }

    def lines(self) -> list[str]:
        """Return one line per count, for people."""
        facts = [f"{self.pairs} pairs, {self.tokens} tokens"]
        if self.special_text:
            facts.append(f"{self.special_text} name a special token in their text")
        facts += [f"truncated, {reason}: {count}" for reason, count in self.truncated.items()]
        facts += [f"dropped, {reason}: {count}" for reason, count in self.dropped.items()]
        return facts


class ChatTemplate:
    """A tokenizer's chat template, applied and tokenised in one pass (so one BOS, not two).

    `parse_special_text`: whether a special token's name in a message becomes that token, as
    transformers would have it. Without it (the default) the name is tokenised as the text it is.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, parse_special_text: bool = False
    ) -> None:
        """Raise InputError if the tokenizer has no chat template."""
        if tokenizer.chat_template is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template: "
                "use an instruction-tuned backbone, or set `chat_template` in its tokenizer_config"
            )
        self.tokenizer = tokenizer
        self.parse_special_text = parse_special_text
        self.special = _special_names(tokenizer)
        self._added = set(tokenizer.added_tokens_decoder)
        self.takes_system = self._takes_system()

    def encode(self, prompt: Sequence[Message], answer: Answer) -> list[int]:
        """Token ids of the conversation `prompt` + `answer`, ending the assistant's turn.

        The ids end as the template ends them; if the template leaves the assistant's turn open,
        the end-of-sequence token is appended. Raises InputError if the template refuses the roles.
        """
        ids = self.render([*prompt, *answer_turns(answer)])
        if not self._ends_turn(ids):
            eos = self.tokenizer.eos_token_id
            if eos is None:
                raise InputError(
                    f"the chat template of {self.tokenizer.name_or_path} does not end a turn and "
                    "the tokenizer has no eos token: set one of them"
                )
            ids.append(eos)
        return ids

    def prompt_length(self, prompt: Sequence[Message]) -> int:
        """Return the number of tokens of the prompt with an empty response."""
        return len(self.encode(prompt, ""))

    def names_special(self, turns: Sequence[Message], answers: Sequence[Answer] = ()) -> bool:
        """Whether a turn's text holds the name of a special token."""
        every = chain(turns, *map(answer_turns, answers))
        return any(self.special.search(turn["content"]) for turn in every)

    def render(self, turns: Sequence[Message], **options: Any) -> list[int]:
        """Token ids of the conversation as the template leaves it.

        `options` are the template's own, such as add_generation_prompt=True. Raises InputError if
        the template refuses the roles.
        """
        turns = turns if self.takes_system else merge_system(turns)
        try:
            if not self.parse_special_text and self.names_special(turns):
                return self._render_as_text(turns, options)
            encoded: Any = self._apply(turns, tokenize=True, return_dict=True, **options)
        except TemplateError as error:
            roles = [turn["role"] for turn in turns]
            raise InputError(f"the chat template refuses the roles {roles}: {error}") from error
        return list(encoded["input_ids"])

    def _render_as_text(self, turns: Sequence[Message], options: dict[str, Any]) -> list[int]:
        """Render with a mark in place of every typed name, and tokenise those names as text."""
        mark = _unused_character(turn["content"] for turn in turns)
        names: list[str] = []

        def hide(found: re.Match[str]) -> str:
            names.append(found[0])
            return f"{mark}{len(names) - 1}{mark}"

        marked = [{**turn, "content": self.special.sub(hide, turn["content"])} for turn in turns]
        rendered = self._apply(marked, tokenize=False, **options)
        first, *rest = re.split(f"{mark}([0-9]+){mark}", rendered)
        ids = self._ids(first)
        for index, piece in zip(rest[::2], rest[1::2], strict=True):
            ids += self._name_ids(names[int(index)]) + self._next_ids(piece)
        return ids

    def _name_ids(self, name: str) -> list[int]:
        """Tokenise a token's name as the text it is."""
        ids = self._next_ids(name, split_special_tokens=True)
        if self._added.isdisjoint(ids):
            return ids
        return self._next_ids(name[:1]) + self._next_ids(name[1:])  # added, but not as special

    def _next_ids(self, piece: str, **options: Any) -> list[int]:
        """Tokenise what follows other text: without the space that SentencePiece puts in front."""
        opening, ids = self._ids("\n"), self._ids(f"\n{piece}", **options)
        prefixed = len(opening) > 1 and ids[: len(opening)] == opening
        return ids[len(opening) :] if prefixed else self._ids(piece, **options)

    def _ids(self, text: str, **options: Any) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

    def _apply(self, turns: Sequence[Message], **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(list(turns), **TEMPLATE_VARIABLES, **options)

    def _takes_system(self) -> bool:
        try:
            probe = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
            self._apply(probe, tokenize=False)
        except TemplateError:
            return False
        return True

    def _ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether the last token that is not white space is a special token."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in reversed(ids):
            if token in special:
                return True
            if str(self.tokenizer.decode([token])).strip():
                return False
        return False


def _special_names(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Match the names of special tokens, and of added ones that the chat template writes.

    White space alone (Gemma adds tokens for line breaks) is text wherever it stands.
    """
    template = str(tokenizer.chat_template)
    names = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if (token.special or token.content in template) and token.content.strip()
    }
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _unused_character(texts: Iterable[str]) -> str:
    """A private-use character that no text holds."""
    used = set("".join(texts))
    return next(character for character in map(chr, range(0xE000, 0xF900)) if character not in used)


def merge_system(turns: Sequence[Message]) -> list[Message]:
    """Put a leading system message in front of the first user turn (Gemma has no system role)."""
    if not turns or turns[0]["role"] != "system":
        return list(turns)
    system, first, *rest = turns
    if first["role"] != "user":
        raise InputError("a system message must be followed by a user turn")
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


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
    """
    for used in shorter_prompts(prompt):
        encoded = [template.encode(used, answer) for answer in answers]
        if all(len(ids) <= max_length for ids in encoded):
            return encoded, None if len(used) == len(prompt) else "oldest turns", used
    return [ids[-max_length:] for ids in encoded], "tokens", used


def response_start(
    template: ChatTemplate, prompt: Sequence[Message], answer: Answer, kept: int
) -> int:
    """Place of the last response's first token among the last `kept` tokens of the conversation."""
    whole = template.encode(prompt, answer)
    asked = [*prompt, *answer_turns(answer)[:-1]]
    opening = template.render(asked, add_generation_prompt=True)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(opening, whole, strict=False))
    return max(sum(1 for _ in same) - (len(whole) - kept), 0)


def tokenize_pairs(
    pairs: Iterable[PreferencePair],
    template: ChatTemplate,
    max_length: int,
    *,
    drop: bool,
    mark_response: bool = False,
) -> tuple[list[TokenPair], TokenReport]:
    """Tokenise pairs by the truncation policy of this module.

    `drop=True` (training) drops pairs that truncation made useless and counts them; `drop=False`
    (evaluation) keeps every row. `mark_response` notes where each chosen response starts. Raises
    InputError if nothing is left.
    """
    report, kept = TokenReport(), []
    for pair in pairs:
        sides = pair.sides
        try:
            (chosen, rejected), cut, used = encode_pair(template, pair.prompt, sides, max_length)
        except InputError:
            if not drop:
                raise
            report.dropped["roles that the chat template refuses"] += 1
            continue
        if drop and cut == "tokens" and template.prompt_length(used) >= max_length:
            report.dropped["prompt longer than the limit"] += 1
            continue
        if drop and chosen == rejected:
            reason = "by truncation" if cut else "once tokenised"
            report.dropped[f"identical pair {reason}"] += 1
            continue
        if cut:
            report.truncated[cut] += 1
        report.special_text += template.names_special(pair.prompt, sides)
        report.pairs += 1
        report.tokens += len(chosen) + len(rejected)
        marked = response_start(template, used, sides[0], len(chosen)) if mark_response else None
        kept.append(
            TokenPair(
                pair.pair_id,
                tuple(chosen),
                tuple(rejected),
                pair.margin,
                pair.category,
                truncated=cut is not None,
                response_start=marked,
            )
        )
    if not kept:
        raise InputError(f"no pair is left after tokenisation: {'; '.join(report.lines())}")
    return kept, report


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

    The token rows of a data set are many, and it would walk them again and again: time a token
    would grow with the number of rows (benchmarks/growth.py). Objects that are made in the block
    are collected as ever.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
