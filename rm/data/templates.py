"""From a conversation to token ids, with the tokenizer's chat template.

The name of a special token in a text ("<|im_end|>") is tokenised as plain text, so a response
cannot end its own turn and start another. A template that prints today's date prints a fixed date.
The last response is tokenised as written, even if the template would change its reasoning
("<think>…</think>").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from rm.data.schemas import Answer, Message, answer_turns
from rm.errors import InputError

DATE = date(2024, 7, 26)
"""Replaces today's date in templates. It is the default date of Llama 3's template."""

_NOW = "strftime_now"
"""The function that templates call for today's date."""
_DIRECTIVE = re.compile(r"%-?[aAbBcdDeFGHIjmMpSTuUVwWxXyY]")
_REASONING = re.compile(r"[<\[]\|?/?\w*(?:think|reason)\w*\|?[>\]]", re.IGNORECASE)
_TAG = re.compile(r"\s*[<\[](\w+)[>\]]")
_PRIVATE = range(0xE000, 0xF900)
"""Unicode's private-use characters, from which marks are chosen."""
_FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""What a template may raise when it renders a conversation."""


class RefusedConversation(InputError):
    """A chat template cannot render a conversation; reports count refusals by `reason`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """A tokenizer's chat template, applied and tokenised in one pass (so one BOS, not two).

    `parse_special_text`: if True, the name of a special token in a message becomes that token, as
    in transformers. By default the name is tokenised as plain text.

    `date`: the fixed date ("2024-07-26") that replaces today's, or None if the template prints no
    date. The tokenizer's template is changed, so a saved model gives the same tokens on any day.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, parse_special_text: bool = False
    ) -> None:
        """Raise InputError if the tokenizer has no chat template."""
        self.tokenizer = tokenizer
        self.parse_special_text = parse_special_text
        self.date = fix_date(tokenizer)
        try:
            template = tokenizer.get_chat_template()
        except ValueError:
            template = ""
        if not template:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template: "
                "use an instruction-tuned backbone, or set `chat_template` in its tokenizer_config"
            )
        self.special = _special_names(tokenizer, template)
        self._added = set(tokenizer.added_tokens_decoder)
        self.takes_system = self._takes(_turn("system", "s"), _turn("user", "u"))

    @cached_property
    def takes_empty(self) -> bool:
        """Whether the template accepts an empty assistant message; some raise an error."""
        return self._takes(_turn("user", "u"), _turn("assistant", ""))

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Token ids before the text of a single user message, and after it up to the response."""
        one, other = (
            self.render([_turn("user", text)], add_generation_prompt=True) for text in ("a", "1")
        )
        before, after = common_prefix(one, other), common_prefix(one[::-1], other[::-1])
        return one[:before], one[len(one) - after :]

    def encode(self, prompt: Sequence[Message], answer: Answer) -> list[int]:
        """Token ids of the conversation `prompt` + `answer`, with the assistant's turn ended.

        If the template leaves the assistant's turn open, the end-of-sequence token is appended.

        Raises RefusedConversation if the template cannot render the conversation, and InputError if
        the turn stays open and the tokenizer has no end-of-sequence token.
        """
        turns, names = self._hide([*prompt, *answer_turns(answer)])
        ids = self._tokens(self._as_written(turns), names)
        if not self._ends_turn(ids):
            eos = self.tokenizer.eos_token_id
            if eos is None:
                raise InputError(
                    f"the chat template of {self.tokenizer.name_or_path} does not end the "
                    "assistant's turn: end it in the template, or give the tokenizer an eos token"
                )
            ids.append(eos)
        return ids

    def prompt_length(self, prompt: Sequence[Message]) -> int:
        """Return the number of tokens of the prompt with an empty response."""
        return len(self.encode(prompt, ""))

    def names_special(self, turns: Sequence[Message], answers: Sequence[Answer] = ()) -> bool:
        """Whether a text contains the name of a special token."""
        conversations = (turns, *map(answer_turns, answers))
        texts = (turn["content"] for conversation in conversations for turn in conversation)
        return any(map(self.special.search, texts))

    def render(self, turns: Sequence[Message], **options: Any) -> list[int]:
        """Token ids of the conversation exactly as the template renders it.

        `options` go to the template, such as add_generation_prompt=True. Raises
        RefusedConversation if the template cannot render the conversation.
        """
        hidden, names = self._hide(turns)
        return self._tokens(self._text(hidden, **options), names)

    # --- The conversation as text ----------------------------------------------------------------

    def _text(self, turns: Sequence[Message], **options: Any) -> str:
        turns = turns if self.takes_system else merge_system(turns)
        try:
            return str(self.tokenizer.apply_chat_template([*turns], tokenize=False, **options))
        except _FAILURES as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise RefusedConversation(
                "roles that the chat template refuses",
                f"the chat template refuses the roles {roles}: {error}",
            ) from error

    def _takes(self, *turns: Message) -> bool:
        try:
            self.tokenizer.apply_chat_template(list(turns), tokenize=False)
        except _FAILURES:
            return False
        return True

    def _as_written(self, turns: Sequence[Message]) -> str:
        """Return the rendered conversation with the last response as written.

        White space around the response may differ, because many templates strip it. If the template
        rewrites the response or refuses it because it is empty, the written response is inserted
        where the template puts any other response.
        """
        said = turns[-1]["content"]
        if said.strip() or self.takes_empty:
            text = self._text(turns)
            for kept in (said, said.lstrip(), said.rstrip(), said.strip()):
                before = text.removesuffix(kept + self._ending)
                if before != text or not kept + self._ending:
                    return _without_wrap(before, said) + text[len(before) :]
        before, after, trims = self._around([*turns])
        said = said.strip() if trims else said
        return _without_wrap(before, said) + said + after

    @cached_property
    def _ending(self) -> str:
        """The template's text after the last response."""
        return self._around([_turn("user", "a"), _turn("assistant", "b")])[1]

    def _around(self, turns: list[Message]) -> tuple[str, str, bool]:
        """Text before and after the last response, and whether the template strips white space.

        Raises RefusedConversation if the template leaves the response out.
        """
        mark = _unused_character(turn["content"] for turn in turns)
        text = self._text([*turns[:-1], _turn("assistant", f" {mark} ")])
        before, found, after = text.rpartition(mark)
        if not found:
            raise RefusedConversation(
                "response that the chat template leaves out",
                f"the chat template of {self.tokenizer.name_or_path} leaves the response out",
            )
        if before.endswith(" ") and after.startswith(" "):
            return before[:-1], after[1:], False
        return before, after, True

    # --- From text to tokens ---------------------------------------------------------------------

    def _hide(self, turns: Sequence[Message]) -> tuple[list[Message], _Hidden | None]:
        """Replace every special token's name in a text by a mark; None if no text has one."""
        if self.parse_special_text or not self.names_special(turns):
            return list(turns), None
        hidden = _Hidden(_unused_character(turn["content"] for turn in turns))
        marked = [
            {**turn, "content": self.special.sub(hidden.hide, turn["content"])} for turn in turns
        ]
        return marked, hidden

    def _tokens(self, text: str, hidden: _Hidden | None) -> list[int]:
        """Tokenise a rendered conversation, with its hidden names as plain text."""
        if hidden is None:
            return self._ids(text)
        first, *rest = re.split(f"{hidden.mark}([0-9]+){hidden.mark}", text)
        ids = self._ids(first)
        for index, piece in zip(rest[::2], rest[1::2], strict=True):
            ids += self._name_ids(hidden.names[int(index)]) + self._next_ids(piece)
        return ids

    def _name_ids(self, name: str) -> list[int]:
        """Tokenise a special token's name as plain text."""
        ids = self._next_ids(name, split_special_tokens=True)
        if self._added.isdisjoint(ids):
            return ids
        return self._next_ids(name[:1]) + self._next_ids(name[1:])  # added, but not special

    def _next_ids(self, piece: str, **options: Any) -> list[int]:
        """Tokenise text that follows other text, without the space that SentencePiece prepends."""
        opening, ids = self._ids("\n"), self._ids(f"\n{piece}", **options)
        prefixed = len(opening) > 1 and ids[: len(opening)] == opening
        return ids[len(opening) :] if prefixed else self._ids(piece, **options)

    def _ids(self, text: str, **options: Any) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"])

    def _ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether the last token that is not white space is a special token."""
        special = self.tokenizer.all_special_ids
        for token in reversed(ids):
            if token in self._added or token in special:
                return True
            if str(self.tokenizer.decode([token])).strip():
                return False
        return False


class _Hidden:
    """Hidden names of special tokens; the text has each name's number between two marks."""

    def __init__(self, mark: str) -> None:
        self.mark, self.names = mark, list[str]()

    def hide(self, found: re.Match[str]) -> str:
        self.names.append(found[0])
        return f"{self.mark}{len(self.names) - 1}{self.mark}"


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _special_names(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str]:
    """Match the names of special tokens and of added tokens that occur in the chat template.

    White space is never matched: Gemma adds tokens for line breaks. Reasoning tags are not matched
    either: a model writes them itself, and they do not end a turn.
    """
    names = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if (token.special or token.content in template)
        and token.content.strip()
        and not _REASONING.fullmatch(token.content)
    }
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _unused_character(texts: Iterable[str]) -> str:
    """A private-use character that occurs in no text."""
    used = set("".join(texts))
    return next(character for character in map(chr, _PRIVATE) if character not in used)


def _without_wrap(before: str, said: str) -> str:
    """Remove the reasoning tags that a template adds before a response.

    They are removed only if the response starts with the same tag, so brings its own reasoning.
    """
    tag = _TAG.match(said)
    if tag is None:
        return before
    wrap = rf"[<\[]{tag[1]}[>\]]\s*(?:[<\[]/{tag[1]}[>\]]\s*)?\Z"
    return re.sub(wrap, "", before, flags=re.IGNORECASE)


def fix_date(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Change the tokenizer's chat template so that it prints `DATE` instead of today's date.

    Return the date ("2024-07-26"), or None if the template prints no date.
    """
    own: Any = tokenizer.chat_template
    if _NOW not in str(own):
        return None
    if isinstance(own, dict):
        tokenizer.chat_template = {name: _dated(text) for name, text in own.items()}
    else:
        tokenizer.chat_template = _dated(own)
    return DATE.isoformat()


def _dated(template: str) -> str:
    """Return the template with its own `strftime_now` macro, which prints `DATE`."""
    macro = f"{{% macro {_NOW}(format) %}}"
    if _NOW not in template or macro in template:
        return template
    dates = {found: DATE.strftime(found) for found in sorted(set(_DIRECTIVE.findall(template)))}
    replaced = "".join(f" | replace({one!r}, {text!r})" for one, text in dates.items())
    return f"{macro}{{{{ format{replaced} }}}}{{% endmacro %}}\n{template}"


def merge_system(turns: Sequence[Message]) -> list[Message]:
    """Prepend a leading system message to the first user turn (Gemma has no system role)."""
    if not turns or turns[0]["role"] != "system":
        return list(turns)
    system, first, *rest = turns
    if first["role"] != "user":
        raise InputError("a system message must be followed by a user turn")
    if not system["content"].strip():
        return [first, *rest]
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))
