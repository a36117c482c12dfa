"""Check the constraints that a prompt states against a response."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from generated.constraints import CONSTRAINTS, INSTRUCTIONS, SEPARATORS, WRAPS, Stated

Check = Callable[..., bool]
"""Takes the prompt, the response and the constraint's slots."""


@cache
def _patterns(of_instructions: bool = False) -> tuple[tuple[str, re.Pattern[str]], ...]:
    compiled = []
    for name, phrasings in (INSTRUCTIONS if of_instructions else CONSTRAINTS).items():
        for phrasing in phrasings:
            pattern = re.escape(phrasing)
            for slot in "ab":
                quoted, bare = re.escape('"{' + slot + '}"'), re.escape("{" + slot + "}")
                words = r"([A-Za-z ]+)" if of_instructions else r"(\d+|[a-z ]+)"
                pattern = pattern.replace(quoted, '"([^"]+)"').replace(bare, words)
            compiled.append((name, re.compile(pattern)))
    return tuple(compiled)


def stated_constraints(prompt: str) -> list[Stated]:
    """List the constraints that a prompt states, by name and slots."""
    return [
        (name, match.groups())
        for name, pattern in _patterns()
        for match in pattern.finditer(prompt)
    ]


def broken_constraints(prompt: str, response: str) -> list[str]:
    """Name the constraints of the prompt that the response breaks."""
    text = response.strip()
    return [
        name
        for name, slots in stated_constraints(prompt)
        if not _CHECKS[name](prompt, text, *slots)
    ]


def words_of(text: str) -> list[str]:
    """Split into words: runs of letters (and apostrophes), so numbers and marks do not count."""
    return re.findall(r"[A-Za-z']+", text)


def _has(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _items(text: str) -> list[str]:
    """Split a list answer at lines or commas; bullets, numbers and full stops fall away."""
    parts = re.split(r"[\n,]", text)
    return [p for part in parts if (p := re.sub(r"^(?:[-*]|\d+[.)])\s*|\.$", "", part.strip()))]


def _given(prompt: str) -> list[str]:
    """Read the words that the prompt lists."""
    found = re.search(r"words: ([a-z, ]+)\.", prompt)
    return re.findall(r"[a-z]+", found[1]) if found else []


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _bullets(prompt: str, text: str, count: str) -> bool:
    lines = _lines(text)
    return len(lines) == int(count) and all(line.startswith("- ") for line in lines)


def _before(prompt: str, text: str, first: str, second: str) -> bool:
    places = [re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in (first, second)]
    return all(places) and places[0].start() < places[1].start()  # type: ignore[union-attr]


def _json_keys(prompt: str, text: str, first: str, second: str) -> bool:
    value = _json(text)
    return isinstance(value, dict) and set(value) == {first, second}


def _json_count(prompt: str, text: str, count: str) -> bool:
    value = _json(text)
    return (
        isinstance(value, list)
        and len(value) == int(count)
        and all(isinstance(item, str) for item in value)
    )


def _wrap(prompt: str, text: str, kind: str) -> bool:
    return len(text) > 2 and text[0] == WRAPS[kind][0] and text[-1] == WRAPS[kind][1]


def _numbering(prompt: str, text: str, first: str, second: str) -> bool:
    lines = _lines(text)
    return len(lines) > 1 and all(
        line.startswith(f"{i}{first[1:]} ") for i, line in enumerate(lines, 1)
    )


def _separator(prompt: str, text: str, kind: str) -> bool:
    parts = text.split(SEPARATORS[kind])
    return len(parts) > 1 and all(re.fullmatch(r"[A-Za-z]+", part.strip(" .")) for part in parts)


def _unit(prompt: str, text: str, unit: str) -> bool:
    return re.search(rf"\d {unit}\b", text) is not None


def _sorted(key: Callable[[str], Any] | None, reverse: bool) -> Check:
    return lambda prompt, text: _items(text) == sorted(_given(prompt), key=key, reverse=reverse)


def _priced(reverse: bool) -> Check:
    def check(prompt: str, text: str) -> bool:
        prices = {ware: int(price) for ware, price in re.findall(r"(\w+) (\d+)", prompt)}
        return _items(text) == sorted(prices, key=lambda w: prices[w], reverse=reverse)

    return check


def _selects(test: Callable[[str, str], bool]) -> Check:
    def check(prompt: str, text: str, slot: str) -> bool:
        return sorted(_items(text)) == sorted(w for w in _given(prompt) if test(w, slot))

    return check


def _spell(prompt: str, text: str, target: str) -> bool:
    return "".join(line[0] for line in _lines(text)).upper() == target


def _edge(place: int) -> Check:
    def check(prompt: str, text: str, word: str) -> bool:
        words = words_of(text)
        return bool(words) and words[place].lower() == word.lower()

    return check


def _layout(separator: str, forbidden: str) -> Check:
    def check(prompt: str, text: str) -> bool:
        parts = [part.split() for part in text.split(separator) if part.strip()]
        return forbidden not in text and all(len(words_of(" ".join(p))) == 1 for p in parts)

    return check


_CHECKS: dict[str, Check] = {
    "max_words": lambda prompt, text, a: len(words_of(text)) <= int(a),
    "min_words": lambda prompt, text, a: len(words_of(text)) >= int(a),
    "sentences": lambda prompt, text, a: len(re.findall(r"[.!?](?=\s|$)", text)) == int(a),
    "bullets": _bullets,
    "include": lambda prompt, text, a: _has(text, a),
    "avoid": lambda prompt, text, a: not _has(text, a),
    "include_both": lambda prompt, text, a, b: _has(text, a) and _has(text, b),
    "avoid_both": lambda prompt, text, a, b: not _has(text, a) and not _has(text, b),
    "first_word": _edge(0),
    "last_word": _edge(-1),
    "before": _before,
    "json_keys": _json_keys,
    "json_count": _json_count,
    "upper": lambda prompt, text: text == text.upper() != text.lower(),
    "lower": lambda prompt, text: text == text.lower() != text.upper(),
    "wrap": _wrap,
    "numbering": _numbering,
    "separator": _separator,
    "top_line": lambda prompt, text, a: _lines(text)[0] == a,
    "bottom_line": lambda prompt, text, a: _lines(text)[-1] == a,
    "question": lambda prompt, text: text.endswith("?"),
    "no_question": lambda prompt, text: "?" not in text,
    "unit": _unit,
    "a_to_z": _sorted(None, False),
    "z_to_a": _sorted(None, True),
    "short_to_long": _sorted(len, False),
    "long_to_short": _sorted(len, True),
    "cheap_to_dear": _priced(False),
    "dear_to_cheap": _priced(True),
    "backwards": lambda prompt, text: _items(text) == _given(prompt)[::-1],
    "contains": _selects(lambda word, letter: letter in word),
    "lacks": _selects(lambda word, letter: letter not in word),
    "later": _selects(lambda word, pivot: word > pivot),
    "earlier": _selects(lambda word, pivot: word < pivot),
    "longer": _selects(lambda word, count: len(word) > int(count)),
    "shorter": _selects(lambda word, count: len(word) < int(count)),
    "spell": _spell,
    "one_a_line": _layout("\n", ","),
    "with_commas": _layout(",", "\n"),
}


def stated_instruction(prompt: str) -> Stated | None:
    """Give the one instruction of `INSTRUCTIONS` that a prompt states, by name and slots."""
    for name, pattern in _patterns(of_instructions=True):
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
