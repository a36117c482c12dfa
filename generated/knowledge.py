"""Hand-written everyday advice, ideas, messages and requests, cut into disjoint parts by split.

The texts stand in `texts/`, one entry per line with " | " between a title and what answers it (the
topics as blocks). Every part of every entry is ASCII.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from generated.core import partition

_TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Entry:
    """Something a person may ask about, and sentences or items that answer it."""

    title: str
    lines: tuple[str, ...]


def _read(name: str) -> list[str]:
    return (_TEXTS / f"{name}.txt").read_text(encoding="ascii").strip().splitlines()


def _entries(name: str) -> list[Entry]:
    rows = (line.split(" | ") for line in _read(name))
    return [Entry(title, tuple(lines)) for title, *lines in rows]


def _topics(name: str) -> list[Entry]:
    blocks = "\n".join(_read(name)).split("\n\n")
    return [Entry(title, tuple(facts)) for title, *facts in map(str.splitlines, blocks)]


TOPICS = partition(_topics("topics"))
"""Topics as noun phrases, each with six true sentences without commas, digits or quotes."""

HOWTO = partition(_entries("howto"))
"""Everyday tasks ("boil an egg") with the steps that do them."""

IDEAS = partition(_entries("ideas"))
"""What a person may want suggestions for, with items."""

MESSAGES = partition(_entries("messages"))
"""Purposes of a message with its lines; {name} and {day} are slots."""

HARMFUL = partition(_read("harmful"))
"""What a harmful request asks for."""

HARMLESS = partition(_read("harmless"))
"""Harmless tasks in words that sound harmful."""
