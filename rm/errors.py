"""Exceptions whose message is all that a user needs, and untrusted texts made safe to print.

Entry points print the message without a traceback.
"""

from __future__ import annotations

import math
import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset(("Cc", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    r"""Return one line in which no character acts on a terminal: `\x1b`, `\n`, `\u202e` are spelt.

    Spelt are control characters (so also line breaks and escape sequences), line and paragraph
    separators, lone surrogates and those that turn the direction of writing.
    """
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    if character in _BIDI or unicodedata.category(character) in _UNSEEN:
        return ascii(character)[1:-1]
    return character


class InputError(Exception):
    """Wrong input or configuration: the message says in one line what is wrong and how to mend it.

    Names and texts of files stand in messages, so a message is made `visible`. Entry points print
    it alone and exit with status 2 (`debug=true` shows the traceback).
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class InterruptedRunError(Exception):
    """A run that something outside stopped: a full disk, a killed rank.

    The message says in one line what it was and what to do; entry points print it alone and exit
    with status 1. The same command resumes afterwards.
    """


def require_range(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Raise InputError unless `value`, called `name` in messages, is a number from low to high.

    Without `high` any finite number above is right.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        asked = f"{low:g} or more, and finite" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name}={value}: must be a number {asked}")
