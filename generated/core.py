"""What the makers of generated pairs share: splits and seeded draws."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, TypeVar

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SMALLEST_SPLIT_NUMBER = 10
"""Integers from here on belong to one split each; smaller ones are shared by all splits."""

_CYCLE: tuple[Split, ...] = ("train", "validation", "train", "test", "train")
T = TypeVar("T")


def listed(text: str, separator: str | None = None) -> list[str]:
    """Cut a text into items at white space, or at the separator."""
    return text.split(separator)


def partition(items: Sequence[T]) -> dict[Split, tuple[T, ...]]:
    """Cut a list into disjoint parts: of every five items, three train, one validation, one test.

    Raises ValueError when an item occurs twice, which would put it in two splits.
    """
    if len({repr(item) for item in items}) != len(items):
        raise ValueError("a filler list holds an item twice")
    return {
        split: tuple(item for i, item in enumerate(items) if _CYCLE[i % 5] == split)
        for split in SPLITS
    }


def split_of_number(number: int) -> Split | None:
    """Give the one split whose prompts may hold this integer, or None where all may (below ten).

    A checksum of the decimal digits decides, so that last digits and sizes are spread evenly.
    """
    if abs(number) < SMALLEST_SPLIT_NUMBER:
        return None
    return _CYCLE[zlib.crc32(str(abs(number)).encode()) % 5]


@cache
def numbers(split: Split, low: int, high: int, step: int = 1) -> tuple[int, ...]:
    """List the multiples of `step` in [low, high] that a prompt of the split may hold."""
    return tuple(
        n for n in range(low, high + 1) if n % step == 0 and split_of_number(n) in (split, None)
    )


class Draw:
    """A seeded source of choices for one split; the same key gives the same choices anywhere."""

    def __init__(self, split: Split, key: str) -> None:
        self.split: Split = split
        self.rng = random.Random(key)

    def choose(self, items: Sequence[T]) -> T:
        """Choose one of the items, which all splits share."""
        return items[self.rng.randrange(len(items))]

    def pick(self, parts: Mapping[Split, Sequence[T]]) -> T:
        """Choose one item of this split's part of a partitioned list."""
        return self.choose(parts[self.split])

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Choose `count` different items, in random order."""
        return self.rng.sample(list(items), count)

    def pick_some(self, parts: Mapping[Split, Sequence[T]], count: int) -> list[T]:
        """Choose `count` different items of this split's part of a partitioned list."""
        return self.some(parts[self.split], count)

    def phrase(self, phrasings: Sequence[str]) -> tuple[int, str]:
        """Choose a phrasing; give its index too, for the template's name."""
        index = self.rng.randrange(len(phrasings))
        return index, phrasings[index]
