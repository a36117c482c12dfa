"""Errors that a user sees as one line, and escaping of untrusted text before printing.

Entry points print the message without a traceback.
"""

from __future__ import annotations

import math
import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    r"""Return `text` in one line, with characters that control a terminal escaped.

    Escaped are control characters (`\x1b`, and line breaks: `\n`), line and paragraph separators,
    lone surrogates, and characters that change the writing direction (`\u202e`).
    """
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    if character in _BIDI or unicodedata.category(character) in _UNSEEN:
        return ascii(character)[1:-1]
    return character


class InputError(Exception):
    """Wrong input or configuration: the message says in one line what is wrong and how to fix it.

    Messages quote untrusted names and texts, so they pass through `visible`. Entry points print
    only the message and exit with status 2 (`debug=true` shows the traceback).
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class InterruptedRunError(Exception):
    """A run that was stopped from outside, for example by a full disk or a killed rank.

    The message says in one line what happened and what to do. Entry points print only the message
    and exit with status 1. The same command resumes the run.
    """


def require_range(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise InputError unless `value`, called `name` in messages, is a number from low to high.

    Without `high`, any finite number from `low` on is accepted.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        asked = f"{low:g} or more, and finite" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name}={value}: must be a number {asked}")
