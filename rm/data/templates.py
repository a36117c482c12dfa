"""From a conversation to token ids, by the tokenizer's own chat template.

A special token's name that somebody typed in a text ("<|im_end|>") is that text, not the token: a
response can't end its own turn and open another. A template that prints the date prints a fixed
one. The last response stands in the tokens as it was written, whatever its template does with
reasoning ("<think>…</think>").
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
"""The date in templates that print today's: the one that Llama 3's own template falls back to."""

_NOW = "strftime_now"
"""The function that templates print today's date with."""
_DIRECTIVE = re.compile(r"%-?[aAbBcdDeFGHIjmMpSTuUVwWxXyY]")
_REASONING = re.compile(r"[<\[]\|?/?\w*(?:think|reason)\w*\|?[>\]]", re.IGNORECASE)
_TAG = re.compile(r"\s*[<\[](\w+)[>\]]")
_PRIVATE = range(0xE000, 0xF900)
"""Unicode's private-use characters: marks that no text holds."""
_FAILURES = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
"""What a template raises, by itself or by what it does with a conversation."""


class RefusedConversation(InputError):
    """A chat template cannot render a conversation; `reason` is the kind that is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """A tokenizer's chat template, applied and tokenised in one pass (so one BOS, not two).

    `parse_special_text`: whether a special token's name in a message becomes that token, as
    transformers would have it. Without it (the default) the name is tokenised as the text it is.

    `date`: what stands in place of today's date, as "2024-07-26", or None in a template without a
    date. It is fixed in the tokenizer's own template, so that a model that is saved with it gives
    everybody the same tokens on any day.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, parse_special_text: bool = False
    ) -> None:
        """Raise InputError if the tokenizer has no chat template, or one that does not work."""
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
        """Whether the template renders an assistant's message without text; some refuse it."""
        return self._takes(_turn("user", "u"), _turn("assistant", ""))

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Token ids before the text of a user's only message, and from there to the response."""
        one, other = (
            self.render([_turn("user", text)], add_generation_prompt=True) for text in ("a", "1")
        )
        before, after = common_prefix(one, other), common_prefix(one[::-1], other[::-1])
        return one[:before], one[len(one) - after :]

    def encode(self, prompt: Sequence[Message], answer: Answer) -> list[int]:
        """Token ids of the conversation `prompt` + `answer`, ending the assistant's turn.

        The ids end as the template ends them; if the template leaves the assistant's turn open,
        the end-of-sequence token is appended. Raises RefusedConversation.
        """
        turns, names = self._hide([*prompt, *answer_turns(answer)])
        ids = self._tokens(self._as_written(turns), names)
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
        conversations = (turns, *map(answer_turns, answers))
        texts = (turn["content"] for conversation in conversations for turn in conversation)
        return any(map(self.special.search, texts))

    def render(self, turns: Sequence[Message], **options: Any) -> list[int]:
        """Token ids of the conversation as the template leaves it.

        `options` are the template's own, such as add_generation_prompt=True. Raises
        RefusedConversation if the template refuses the roles.
        """
        hidden, names = self._hide(turns)
        return self._tokens(self._text(hidden, **options), names)

    # --- The conversation as text ----------------------------------------------------------------

    def _text(self, turns: Sequence[Message], **options: Any) -> str:
        turns = turns if self.takes_system else merge_system(turns)
        try:
            return str(self.tokenizer.apply_chat_template([*turns], tokenize=False, **options))
        except _FAILURES as error:
            roles = [turn["role"] for turn in turns]
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
        """Return the text of a conversation whose last response stands in it as it was written.

        White space around the response may differ, because many templates strip it. A response that
        the template rewrites, or refuses because it is empty, is put where any other would stand.
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
        """What the template writes after the last response."""
        return self._around([_turn("user", "a"), _turn("assistant", "b")])[1]

    def _around(self, turns: list[Message]) -> tuple[str, str, bool]:
        """Text before and after any last response, and whether white space around it is stripped.

        Raises RefusedConversation where the template leaves the response out.
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
        """Put a mark in place of every typed name of a special token; None where there is none."""
        if self.parse_special_text or not self.names_special(turns):
            return list(turns), None
        hidden = _Hidden(_unused_character(turn["content"] for turn in turns))
        marked = [
            {**turn, "content": self.special.sub(hidden.hide, turn["content"])} for turn in turns
        ]
        return marked, hidden

    def _tokens(self, text: str, hidden: _Hidden | None) -> list[int]:
        """Tokenise a rendered conversation, and the names that were hidden in it as text."""
        if hidden is None:
            return self._ids(text)
        first, *rest = re.split(f"{hidden.mark}([0-9]+){hidden.mark}", text)
        ids = self._ids(first)
        for index, piece in zip(rest[::2], rest[1::2], strict=True):
            ids += self._name_ids(hidden.names[int(index)]) + self._next_ids(piece)
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

    def _ends_turn(self, ids: Sequence[int]) -> bool:
        """Whether the last token that is not white space is a special token."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in reversed(ids):
            if token in special:
                return True
            if str(self.tokenizer.decode([token])).strip():
                return False
        return False


class _Hidden:
    """Names that are hidden in a text, each as its number between two marks."""

    def __init__(self, mark: str) -> None:
        self.mark, self.names = mark, list[str]()

    def hide(self, found: re.Match[str]) -> str:
        self.names.append(found[0])
        return f"{self.mark}{len(self.names) - 1}{self.mark}"


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _special_names(tokenizer: PreTrainedTokenizerBase, template: str) -> re.Pattern[str]:
    """Match the names of special tokens, and of added ones that the chat template writes.

    White space alone (Gemma adds tokens for line breaks) is text wherever it stands, and the tags
    around reasoning are tokens wherever they stand: a model writes them, and they end no turn.
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
    """A private-use character that no text holds."""
    used = set("".join(texts))
    return next(character for character in map(chr, _PRIVATE) if character not in used)


def _without_wrap(before: str, said: str) -> str:
    """Return the text before a response without the reasoning that a template opens or adds there.

    Only where the response opens with a tag of the same name: it brings its own reasoning.
    """
    tag = _TAG.match(said)
    if tag is None:
        return before
    wrap = rf"[<\[]{tag[1]}[>\]]\s*(?:[<\[]/{tag[1]}[>\]]\s*)?\Z"
    return re.sub(wrap, "", before, flags=re.IGNORECASE)


def fix_date(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Have the tokenizer's chat template print `DATE` where it would print today's date.

    Return the date as "2024-07-26", None where the template prints none.
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
    """Return the template with a function of its own in place of the one that knows today."""
    macro = f"{{% macro {_NOW}(format) %}}"
    if _NOW not in template or macro in template:
        return template
    dates = {found: DATE.strftime(found) for found in sorted(set(_DIRECTIVE.findall(template)))}
    replaced = "".join(f" | replace({one!r}, {text!r})" for one, text in dates.items())
    return f"{macro}{{{{ format{replaced} }}}}{{% endmacro %}}\n{template}"


def merge_system(turns: Sequence[Message]) -> list[Message]:
    """Put a leading system message in front of the first user turn (Gemma has no system role)."""
    if not turns or turns[0]["role"] != "system":
        return list(turns)
    system, first, *rest = turns
    if first["role"] != "user":
        raise InputError("a system message must be followed by a user turn")
    if not system["content"].strip():
        return [first, *rest]
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that two rows share."""
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))
