"""The schemas of preference data: from one row's columns to prompt, sides and margin.

Training and evaluation both read rows with `read_parts`, so they accept the same formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import NamedTuple

from rm.data.columns import (
    finite,
    from_json,
    number,
    optional_text,
    plain_row,
    plain_text,
    required,
)
from rm.data.sources import DropRow, Reason, Row
from rm.errors import InputError

Message = dict[str, str]
"""One turn of a conversation: ``{"role": "system" | "user" | "assistant", "content": text}``."""
Turns = tuple[Message, ...]
Answer = str | Turns
"""What follows a prompt: the text of a response, or several turns that end with the response."""

SCHEMAS: dict[str, tuple[str, ...]] = {
    "unified_feedback": ("conv_A", "conv_B", "conv_A_rating", "conv_B_rating"),
    "explicit_prompt": ("prompt", "chosen", "rejected"),
    "implicit_prompt": ("chosen", "rejected"),
}
"""Schema -> the columns it needs. The first schema whose columns are all present applies.

unified_feedback: llm-blender/Unified-Feedback. explicit_prompt: TRL's explicit format; each column
is a message list or a text. Chosen and rejected may also be whole conversations that start with the
prompt (UltraFeedback). implicit_prompt: TRL's implicit format (Skywork) and hh-rlhf's
Human/Assistant transcripts. In ShareGPT's format a column conversations may contain the prompt.
Every schema accepts the extra columns system and history.
"""
_CONVERSATIONS = {
    "unified_feedback": ("history", "conv_A", "conv_B"),
    "explicit_prompt": ("history", "prompt", "chosen", "rejected"),
    "implicit_prompt": ("history", "conversations", "chosen", "rejected"),
}
"""Schema -> the columns with conversations; the last two are the sides."""

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_TRANSCRIPT = "\n\nHuman:"
"""The start of an hh-rlhf transcript."""
_TRANSCRIPT_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def answer_turns(answer: Answer) -> Turns:
    """Return what follows a prompt as turns."""
    return ({"role": "assistant", "content": answer},) if isinstance(answer, str) else answer


class PairParts(NamedTuple):
    """The pair of a row, the same for every schema.

    `chosen` and `rejected` are the turns after the shared prompt and end with an assistant's
    response. They have several turns if the two conversations differ before the response.
    """

    prompt: Turns
    chosen: Turns
    rejected: Turns
    margin: float | None


def detect_schema(columns: Iterable[str]) -> str:
    """Return the name of the first schema of `SCHEMAS` whose columns are all present.

    Raises InputError, which lists the columns and the known schemas.
    """
    seen = set(columns)
    for schema, needed in SCHEMAS.items():
        if seen.issuperset(needed):
            return schema
    known = "; ".join(f"{schema}: {', '.join(needed)}" for schema, needed in SCHEMAS.items())
    found = ", ".join(sorted(str(name)[:40] for name in seen)[:20]) or "none"
    raise InputError(f"unknown schema with columns {found}; rename them to one of: {known}")


def read_parts(row: Row, schema: str, ignore: frozenset[str] = frozenset()) -> PairParts:
    """Return the prompt, sides and margin of a row, checked.

    The prompt is the shared start of both conversations, up to the last shared user turn. Texts are
    not changed. `ignore` names kinds of parts to leave out (`rm.data.columns.NOT_TEXT`). Of a
    message, only role and content are kept (from and value in ShareGPT's format).

    Raises DropRow with the reason if the row is unusable, and InputError for an unknown schema.
    """
    if schema not in _PARSERS:
        raise InputError(f"unknown schema {schema!r}; choose from {', '.join(SCHEMAS)}")
    row = plain_row(row, _CONVERSATIONS[schema], ignore)
    first, second, margin = _PARSERS[schema](row)
    pairs = zip(first[:-1], second[:-1], strict=False)
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    while shared and first[shared - 1]["role"] != "user":
        shared -= 1
    chosen, rejected = first[shared:], second[shared:]
    prompt = _whole_prompt(first[:shared], row)
    _check_side(chosen, "chosen")
    _check_side(rejected, "rejected")
    return PairParts(prompt, chosen, rejected, margin)


def read_prompt(row: Row, ignore: frozenset[str] = frozenset()) -> Turns:
    """Return the prompt of a row with several responses. Raises DropRow as `read_parts`."""
    row = plain_row(row, ("history", "prompt"), ignore)
    return _whole_prompt(_prompt(row), row)


def _whole_prompt(prompt: Turns, row: Row) -> Turns:
    """Put the columns system and history before the prompt, and check the result."""
    if not prompt:
        raise DropRow(Reason.MALFORMED, "the two sides share no prompt message")
    system, asked = _split_system(prompt)
    text, history = optional_text(row, "system"), _history(row)
    given: Turns = ({"role": "system", "content": text},) if text and text.strip() else ()
    if system and given and not _alike(system, given):
        raise DropRow(Reason.MALFORMED, "the column system contradicts the prompt's system message")
    if not _alike(asked[: len(history)], history):
        asked = history + asked
    whole = (system or given) + asked
    _check_prompt(whole)
    return whole


def _history(row: Row) -> Turns:
    """Return the column history as turns: it holds messages, or (user, assistant) text pairs."""
    value = from_json(row["history"]) or row["history"]
    if not value:
        return ()
    turns: list[object] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, list | tuple) and len(item) == 2:
            said, answered = item
            turns.append({"role": "user", "content": plain_text(said, "history")})
            turns.append({"role": "assistant", "content": plain_text(answered, "history")})
        else:
            turns.append(item)
    return _messages(turns, "history")


def _parse_unified(row: Row) -> tuple[Turns, Turns, float | None]:
    """The higher-rated conversation is chosen; margin = |rating difference|; equal ratings tie."""
    ratings = number(row, "conv_A_rating"), number(row, "conv_B_rating")
    if ratings[0] is None or ratings[1] is None:
        raise DropRow(Reason.MISSING, "conv_A_rating or conv_B_rating is missing")
    if ratings[0] == ratings[1]:
        raise DropRow(Reason.TIE, f"both conversations are rated {ratings[0]:g}")
    margin = finite(abs(ratings[0] - ratings[1]), "the rating difference")
    first, second = _conversation(row, "conv_A"), _conversation(row, "conv_B")
    return (first, second, margin) if ratings[0] > ratings[1] else (second, first, margin)


def _parse_explicit(row: Row) -> tuple[Turns, Turns, float | None]:
    """A row without a prompt is read if chosen and rejected are whole conversations."""
    if row["prompt"] is None and isinstance(row["chosen"], list):
        return _parse_implicit(row)
    prompt = _prompt(row)
    return _answered(row, "chosen", prompt), _answered(row, "rejected", prompt), _margin(row)


def _parse_implicit(row: Row) -> tuple[Turns, Turns, float | None]:
    chosen, rejected = _conversation(row, "chosen"), _conversation(row, "rejected")
    if row.get("conversations") is not None and chosen[0]["role"] == "assistant":
        return _parse_explicit({**row, "prompt": row["conversations"]})
    return chosen, rejected, _margin(row)


_PARSERS: dict[str, Callable[[Row], tuple[Turns, Turns, float | None]]] = {
    "unified_feedback": _parse_unified,
    "explicit_prompt": _parse_explicit,
    "implicit_prompt": _parse_implicit,
}
"""Schema -> a row's whole chosen conversation, whole rejected conversation, and margin."""


def _conversation(row: Row, key: str) -> Turns:
    """Return the turns of a column: a message list or a Human/Assistant transcript."""
    value = required(row, key)
    if not isinstance(value, str):
        return _messages(value, key)
    if not _TRANSCRIPT_TURN.match(value):
        detail = f"{key} is a text without a prompt: add a prompt column or Human:/Assistant: turns"
        raise DropRow(Reason.MALFORMED, detail)
    return _transcript(plain_text(value, key))


def _transcript(text: str) -> Turns:
    r"""Return the stripped turns of an hh-rlhf transcript "\n\nHuman: ...\n\nAssistant: ..."."""
    _, *parts = _TRANSCRIPT_TURN.split(text)
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple({"role": _ROLES[who.lower()], "content": said.strip()} for who, said in turns)


def _prompt(row: Row) -> Turns:
    r"""Return the column prompt as messages: a list, one user's text, or an hh-rlhf transcript.

    A transcript starts with "\n\nHuman:" and may end with an empty Assistant turn. Raises DropRow.
    """
    value = required(row, "prompt")
    if not isinstance(value, str):
        return _messages(value, "prompt")
    text = plain_text(value, "prompt")
    if not text.startswith(_TRANSCRIPT):
        return ({"role": "user", "content": text},)
    turns = _transcript(text)
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _answered(row: Row, key: str, prompt: Turns) -> Turns:
    """Return the prompt followed by a column's response; the column may repeat the prompt."""
    value = required(row, key)
    if not isinstance(value, str):
        turns = _messages(value, key)
    elif value.startswith(_TRANSCRIPT):
        turns = _transcript(plain_text(value, key))
    else:
        turns = answer_turns(plain_text(value, key))
    if turns[0]["role"] != "assistant":
        return _repeated(prompt, turns, key)
    if prompt[-1]["role"] != "user":
        raise DropRow(Reason.MALFORMED, f"the prompt ends with a {prompt[-1]['role']} message")
    return prompt + turns


def _repeated(prompt: Turns, turns: Turns, key: str) -> Turns:
    """Return a whole conversation that repeats the prompt, in the prompt's own wording.

    The two may differ in leading and trailing white space. Either may lack the system message.
    """
    system, asked = _split_system(prompt)
    own_system, said = _split_system(turns)
    opening, rest = said[: len(asked)], said[len(asked) :]
    if not _alike(asked, opening) or (system and own_system and not _alike(system, own_system)):
        detail = f"{key} is a conversation that does not start with the prompt"
        raise DropRow(Reason.MALFORMED, detail)
    if not rest:
        raise DropRow(Reason.MALFORMED, f"{key} repeats the prompt but has no response")
    return (system or own_system) + asked + rest


def _split_system(turns: Turns) -> tuple[Turns, Turns]:
    """Return the leading system message of a conversation (or nothing), and the rest."""
    size = int(turns[0]["role"] == "system")
    return turns[:size], turns[size:]


def _alike(first: Turns, second: Turns) -> bool:
    """Return whether two conversations are equal apart from leading and trailing white space."""
    return [(turn["role"], turn["content"].strip()) for turn in first] == [
        (turn["role"], turn["content"].strip()) for turn in second
    ]


def _check_prompt(prompt: Turns) -> None:
    """Raise DropRow if the last turn is not a user's text, or if a system message is not first."""
    if any(message["role"] == "system" for message in prompt[1:]):
        raise DropRow(Reason.MALFORMED, "a system message comes after the first message")
    if prompt[-1]["role"] != "user":
        raise DropRow(Reason.MALFORMED, f"the prompt ends with a {prompt[-1]['role']} message")
    if not prompt[-1]["content"].strip():
        raise DropRow(Reason.EMPTY_PROMPT, "the prompt's last user message is empty")


def _check_side(side: Turns, where: str) -> None:
    """Raise DropRow unless the side starts with an assistant turn and ends with a nonempty one."""
    for place, role in (("begins", side[0]["role"]), ("ends", side[-1]["role"])):
        if role != "assistant":
            detail = f"after the shared prompt {where} {place} with a {role} message"
            raise DropRow(Reason.MALFORMED, detail)
    if any(message["role"] == "system" for message in side):
        raise DropRow(Reason.MALFORMED, f"{where} has a system message after the prompt")
    if not side[-1]["content"].strip():
        raise DropRow(Reason.EMPTY_RESPONSE, f"the {where} response is empty")


def _messages(value: object, where: str) -> Turns:
    if not isinstance(value, list | tuple):
        detail = f"{where} is a {type(value).__name__}, not a text or a list of messages"
        raise DropRow(Reason.WRONG_TYPE, detail)
    if not value:
        raise DropRow(Reason.MALFORMED, f"{where} has no messages")
    return tuple(_message(item, where) for item in value)


def _message(item: object, where: str) -> Message:
    """Return role and content only; ShareGPT's roles (human, gpt) become user and assistant."""
    if not isinstance(item, Mapping):
        raise DropRow(Reason.MALFORMED, f"{where} holds a {type(item).__name__}, not a message")
    role = item.get("from") if item.get("role") is None else item["role"]
    content = item.get("value") if item.get("content") is None else item["content"]
    if not isinstance(role, str) or role not in _ROLES:
        shown = repr(role[:40]) if isinstance(role, str) else type(role).__name__
        raise DropRow(Reason.MALFORMED, f"{where} has a message with role {shown}")
    if not isinstance(content, str):
        detail = f"{where} has a message whose content is a {type(content).__name__}, not a text"
        raise DropRow(Reason.MALFORMED, detail)
    return {"role": _ROLES[role], "content": plain_text(content, where)}


def _margin(row: Row) -> float | None:
    """Return the margin column, else score_chosen - score_rejected, else None.

    Scores must agree with the labels even if the row has a margin. A margin of 0 is a tie.
    """
    margin = number(row, "margin")
    chosen, rejected = number(row, "score_chosen"), number(row, "score_rejected")
    difference = None
    if chosen is not None and rejected is not None:
        difference = finite(chosen - rejected, "score_chosen - score_rejected")
        if difference <= 0:
            detail = f"score_chosen {chosen:g} is not above score_rejected {rejected:g}"
            raise DropRow(Reason.CONTRADICTORY, detail)
    if margin is None:
        return difference
    if margin < 0:
        raise DropRow(Reason.BAD_MARGIN, f"margin is {margin:g}")
    if margin == 0:
        raise DropRow(Reason.TIE, "margin is 0")
    return margin
