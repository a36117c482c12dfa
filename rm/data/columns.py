"""Convert the columns of a row to plain texts and messages, before a schema is applied.

Bytes become text, and conversations stored as JSON text become messages. Parts that are not text
(tools, images) drop the row, unless the caller ignores them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from rm.data.sources import DropRow, Reason, Row
from rm.errors import InputError

NOT_TEXT: dict[str, tuple[str, ...]] = {
    "tools": ("tools", "tool_calls"),
    "images": ("images", "image", "image_url"),
    "videos": ("videos", "video", "video_url"),
    "audios": ("audios", "audio", "input_audio"),
    "reasoning": ("reasoning_content", "thinking"),
}
"""Kinds of parts of a conversation that are not text -> their names.

A name may be a column, a key of a message, or the type of a message's part.
"""
_KINDS = {name: kind for kind, names in NOT_TEXT.items() for name in names}
_SPEAKERS = ("system", "developer", "user", "human", "assistant", "gpt")
_TOOLS = ("tool", "function", "function_call", "observation")
"""A JSON object with one of these roles is taken as a message. Some roles drop its row later."""
_NOTHING = ("", "[]", "{}", "null")
"""JSON texts of empty values."""


def ignored(kinds: Iterable[str]) -> frozenset[str]:
    """Return the kinds of parts to ignore as a set. Raises InputError for an unknown kind."""
    for kind in kinds:
        if kind not in NOT_TEXT:
            raise InputError(f"ignore=[{kind}]: choose from {', '.join(NOT_TEXT)}")
    return frozenset(kinds)


def plain_row(row: Row, columns: Sequence[str], ignore: frozenset[str] = frozenset()) -> Row:
    """Return the row with the conversations in `columns` as texts or lists of plain messages.

    The last two of `columns` are the pair's sides. They are parsed as JSON only if both contain
    messages, so a response that happens to be JSON stays text. Messages keep the keys role,
    content, from and value.

    Raises DropRow for bytes that are not UTF-8, and for a part that is neither text nor ignored.
    """
    _refuse(row, "the row", ignore)
    found = {key: decoded(row.get(key), key) for key in columns}
    stored = {key: _stored_messages(value) for key, value in found.items()}
    sides = columns[-2:]
    if any(isinstance(found[key], str) and stored[key] is None for key in sides):
        stored |= dict.fromkeys(sides)
    plain = {
        key: _plain_messages(stored[key] or value, key, ignore) for key, value in found.items()
    }
    return {**row, **plain}


def _refuse(item: Mapping[str, Any], where: str, ignore: frozenset[str]) -> None:
    """Raise DropRow for the first part that is neither text nor ignored."""
    for name, kind in _KINDS.items():
        value = item.get(name)
        says = value.strip() not in _NOTHING if isinstance(value, str) else bool(value)
        if says and kind not in ignore:
            detail = f"{where} has {name}; data.ignore=[{kind}] or eval.ignore skips only this part"
            raise DropRow(Reason.NOT_TEXT, detail)


def _stored_messages(value: object) -> list[Any] | None:
    """Return the messages of a JSON text, or None if the text is not JSON messages."""
    found = from_json(value)
    items = found if isinstance(found, list) else [found]
    return items if items and all(map(_is_message, items)) else None


def _is_message(item: object) -> bool:
    if not isinstance(item, Mapping):
        return False
    role = item.get("role") if "content" in item else item.get("from") if "value" in item else None
    return isinstance(role, str) and role in _SPEAKERS + _TOOLS


def from_json(value: object) -> Any:
    """Return the parsed JSON list or object, or None if the value is neither."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _plain_messages(value: object, where: str, ignore: frozenset[str]) -> object:
    """Return messages with text contents. A value without messages is returned unchanged."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return [_plain_message(item, where, ignore) for item in value]


def _plain_message(item: object, where: str, ignore: frozenset[str]) -> object:
    item = from_json(item) or item
    if not isinstance(item, Mapping):
        return item
    _refuse(item, f"a message of {where}", ignore)
    known = {key: decoded(item.get(key), where) for key in ("role", "content", "from", "value")}
    return {key: _text_of(value, where, ignore) for key, value in known.items()}


def _text_of(content: object, where: str, ignore: frozenset[str]) -> object:
    """Join the texts of a list of parts such as {"type": "text", "text": …}."""
    if not isinstance(content, list | tuple) or not content:
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
            continue
        if kind not in _KINDS:
            return content
        _refuse({kind: True}, f"a message of {where}", ignore)
    return "".join(texts)


# --- One value -----------------------------------------------------------------------------------


def decoded(value: object, where: str) -> Any:
    """Decode bytes as UTF-8; return other values unchanged. Raises DropRow for invalid UTF-8."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        detail = f"{where} is not UTF-8 at byte {error.start}"
        raise DropRow(Reason.UNDECODABLE, detail) from error


def required(row: Row, key: str) -> Any:
    """Return a column's value. Raises DropRow if it is missing or null."""
    value = decoded(row.get(key), key)
    if value is None:
        raise DropRow(Reason.MISSING, f"{key} is missing")
    return value


def plain_text(value: object, where: str) -> str:
    r"""Return the value as text. Raises DropRow for another type.

    Also raises DropRow for a lone surrogate (JSON's "\ud800"), which UTF-8 cannot encode.
    """
    value = decoded(value, where)
    if not isinstance(value, str):
        raise DropRow(Reason.WRONG_TYPE, f"{where} is a {type(value).__name__}, not a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        detail = f"{where} has invalid Unicode at character {error.start}"
        raise DropRow(Reason.UNDECODABLE, detail) from error
    return value


def optional_text(row: Row, key: str) -> str | None:
    """Return a column's text, or None if it is missing. Raises DropRow as `plain_text`."""
    value = row.get(key)
    return None if value is None else plain_text(value, key)


def identifier(row: Row) -> str:
    """Return pair_id, else id, as text; "" if the row has neither. Integers are accepted."""
    for key in ("pair_id", "id"):
        value = row.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
            return str(value)
        text = optional_text(row, key)
        if text:
            return text
    return ""


def number(row: Row, key: str) -> float | None:
    """Return a column's number, or None if it is missing.

    Raises DropRow for a bool, another type, or a number that is not finite.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DropRow(Reason.WRONG_TYPE, f"{key} is a {type(value).__name__}, not a number")
    try:
        return finite(float(value), key)
    except OverflowError as error:
        raise DropRow(Reason.BAD_MARGIN, f"the number in {key} is too large") from error


def finite(value: float, where: str) -> float:
    """Return the number. Raises DropRow unless it is finite."""
    if not math.isfinite(value):
        raise DropRow(Reason.BAD_MARGIN, f"{where} is {value}")
    return value
