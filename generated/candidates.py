"""Many answers to one prompt, right or with one fault: a policy that needs no decoding.

Prompts are those of Reasoning, whose answers `verify` can check.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from generated.core import Draw, Split
from generated.pairs import MAKERS, SUBSETS
from generated.task import wrapping
from rm.errors import InputError

_PATIENCE = 5000
"""So many draws in a row without a new prompt mean that there are no more."""

Sides = tuple[str, str]
"""A right and a faulty answer."""


@dataclass(frozen=True)
class Asked:
    """A prompt with a way to draw its answers: a key gives a right and a faulty one."""

    subset: str
    prompt: str
    key: str
    answers: Callable[[str], Sides] = field(compare=False)


@dataclass(frozen=True)
class Candidate:
    """An answer and whether it is right."""

    text: str
    right: bool


def ask(split: Split, number: int, seed: int, subsets: Sequence[str] = ()) -> list[Asked]:
    """Make `number` different prompts of a split, as many of each subset as of any other.

    `subsets`: of Reasoning; empty: all of them. Raises InputError for another subset, and where
    fewer prompts exist than are asked for.
    """
    known = SUBSETS["Reasoning"]
    subsets = subsets or known
    unknown = sorted(set(subsets) - set(known))
    if unknown:
        raise InputError(
            f"no candidates can be drawn for {unknown[0]!r}: choose from {', '.join(known)}"
        )
    if number < 1:
        raise InputError(f"{number} prompts were asked for: ask for 1 or more")
    asked: dict[str, Asked] = {}
    for place in range(number):
        subset = subsets[place % len(subsets)]
        keys = (f"{seed}/{split}/{subset}/asked/{place}/{n}" for n in range(_PATIENCE))
        drawn = (_asked(subset, split, key) for key in keys)
        one = next((one for one in drawn if one.prompt not in asked), None)
        if one is None:
            raise InputError(f"only {place} different prompts exist, not {number}: ask for fewer")
        asked[one.prompt] = one
    return list(asked.values())


def candidates(
    asked: Asked, n: int, rng: random.Random, *, right: float, variants: int
) -> list[Candidate]:
    """Draw `n` independent answers to one prompt.

    Each takes one of the prompt's `variants` (a fault and a wording, drawn first) at random, and
    its right answer with probability `right`, else its faulty one.
    """
    sides = [asked.answers(f"{asked.key}/{rng.random()}") for _ in range(variants)]
    drawn = [(rng.choice(sides), rng.random() < right) for _ in range(n)]
    return [Candidate(good if is_right else bad, is_right) for (good, bad), is_right in drawn]


def _asked(subset: str, split: Split, key: str) -> Asked:
    """Draw a task to ask; all answers to a close one have the same wrapping."""
    kind, _, how = subset.removeprefix("gen2-").rpartition("-")
    draw = Draw(split, key)
    task, shared = MAKERS["Reasoning"][kind](draw), wrapping(draw)

    def answers(tail: str) -> Sides:
        draw = Draw(split, tail)
        right = task.right(draw)
        one, two = (shared, shared) if how == "close" else (wrapping(draw), wrapping(draw))
        return task.write(right, one), task.write(task.fault(draw, right).content, two)

    return Asked(subset, task.prompt, key, answers)
