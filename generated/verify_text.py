"""Check the instruction that a prompt states against a response."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from generated.constraints import INSTRUCTIONS, Stated


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    compiled = []
    for name, phrasings in INSTRUCTIONS.items():
        for phrasing in phrasings:
            pattern = re.escape(phrasing)
            for slot in "ab":
                quoted, bare = re.escape('"{' + slot + '}"'), re.escape("{" + slot + "}")
                pattern = pattern.replace(quoted, '"([^"]+)"').replace(bare, "([A-Za-z ]+)")
            compiled.append((name, re.compile(pattern)))
    return tuple(compiled)


def words_of(text: str) -> list[str]:
    """Split into words: runs of letters (and apostrophes), so numbers and marks do not count."""
    return re.findall(r"[A-Za-z']+", text)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def stated_instruction(prompt: str) -> Stated | None:
    """Give the one instruction of `INSTRUCTIONS` that a prompt states, by name and slots."""
    for name, pattern in _patterns():
        if match := pattern.search(prompt):
            return name, match.groups()
    return None


def keeps_instruction(prompt: str, response: str) -> bool | None:
    """Say whether a response keeps the instruction of its prompt; None where there is none."""
    stated = stated_instruction(prompt)
    if stated is None:
        return None
    name, slots = stated
    text = response.strip()
    return bool(text) and _KEEPS[name](text, *slots)


_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
_POINTS = {"numbers": r"\d+\. .+", "letters": r"[a-z]\) .+", "dashes": r"- .+", "stars": r"\* .+"}


def _points(text: str, mark: str) -> int:
    """Count the lines if all of them are points of that kind; else give 0."""
    lines = _lines(text)
    return len(lines) if all(re.fullmatch(_POINTS[mark], line) for line in lines) else 0


_KEEPS: dict[str, Callable[..., bool]] = {
    "mark": lambda text, mark: all(line.startswith(f"{mark} ") for line in _lines(text)),
    "joint": lambda text, joint: all(
        re.fullmatch(r"[A-Z][\w' -]+\.", part) for part in text.split(f" {joint} ")
    ),
    "wrap": lambda text, left, right: text[0] == left and text[-1] == right,
    "case": lambda text, case: text == (text.upper() if "capital" in case else text.lower()),
    "layout": lambda text, mark: _points(text, mark) > 0,
    "points": lambda text, count: _points(text, "numbers") == _NUMBERS[count],
    "sentences": lambda text, count: len(re.findall(r"[.!?](?=\s|$)", text)) == _NUMBERS[count],
    "heading": lambda text, heading, other: _lines(text)[0] == heading,
    "names": lambda text, to, sender: (
        to in _lines(text)[0] and sender in _lines(text)[-1] and len(_lines(text)) > 1
    ),
    "code word": lambda text, word, other: _lines(text)[-1] == word,
    "first word": lambda text, word: words_of(text)[:1] == [word],
}
