"""Many answers to one prompt, right or with one fault: a policy that needs no decoding.

Prompts are those of Reasoning, whose answers `verify` can check. The second version of the data
keeps a task apart from its answers. A maker of the first version fixes what is asked before it
draws the fault and the wording, so its draft is made again with the later choices drawn anew.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from generated import _MAKERS, SUBSETS, pairs
from generated.core import Draft, Draw, Maker, Split
from generated.task import wrapping
from rm.errors import InputError

KINDS: dict[int, tuple[str, ...]] = {1: SUBSETS["Reasoning"], 2: pairs.SUBSETS["Reasoning"]}
"""Subsets of each version of the data whose prompts can be asked."""
_PATIENCE = 5000
"""So many draws in a row without a new prompt mean that there are no more."""
_TRIES = 8
"""So many drafts must keep a prompt before it counts as fixed."""

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


def ask(
    split: Split, number: int, seed: int, subsets: Sequence[str] = (), version: int = 1
) -> list[Asked]:
    """Make `number` different prompts of a split, as many of each subset as of any other.

    `subsets`: of `KINDS[version]`; empty: all of them. Raises InputError for another subset, and
    where fewer prompts exist than are asked for.
    """
    subsets = subsets or KINDS[version]
    unknown = sorted(set(subsets) - set(KINDS[version]))
    if unknown:
        known = ", ".join(KINDS[version])
        raise InputError(f"no candidates can be drawn for {unknown[0]!r}: choose from {known}")
    if number < 1:
        raise InputError(f"{number} prompts were asked for: ask for 1 or more")
    asked: dict[str, Asked] = {}
    for place in range(number):
        subset = subsets[place % len(subsets)]
        keys = (f"{seed}/{split}/{subset}/asked/{place}/{n}" for n in range(_PATIENCE))
        drawn = (_MAKE[version](subset, split, key) for key in keys)
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


def _asked_task(subset: str, split: Split, key: str) -> Asked:
    """Ask a task of the second version; all answers to a close one have the same wrapping."""
    kind, _, how = subset.removeprefix("gen2-").rpartition("-")
    draw = Draw(split, key)
    task, shared = pairs.MAKERS["Reasoning"][kind](draw), wrapping(draw)

    def answers(tail: str) -> Sides:
        draw = Draw(split, tail)
        right = task.right(draw)
        one, two = (shared, shared) if how == "close" else (wrapping(draw), wrapping(draw))
        return task.write(right, one), task.write(task.fault(draw, right).content, two)

    return Asked(subset, task.prompt, key, answers)


def _asked_draft(subset: str, split: Split, key: str) -> Asked:
    """Ask what a maker of the first version asks."""
    again = _Again(_MAKERS["Reasoning"][subset], split, key)
    return Asked(subset, again.prompt, key, again.answers)


_MAKE: dict[int, Callable[[str, Split, str], Asked]] = {1: _asked_draft, 2: _asked_task}


class _Forked(random.Random):
    """Draws as ``Random(key)`` does; from call number `fork` on, as ``Random(tail)`` does."""

    def __init__(self, key: str, fork: int | None, tail: str) -> None:
        self.calls, self.fork, self.tail = 0, fork, tail
        super().__init__(key)

    def _count(self) -> None:
        if self.calls == self.fork:
            self.seed(self.tail)
        self.calls += 1

    def random(self) -> float:
        self._count()
        return super().random()

    def getrandbits(self, k: int) -> int:
        self._count()
        return super().getrandbits(k)


class _Again:
    """Makes a maker's draft again, with the same prompt and other answers."""

    def __init__(self, maker: Maker, split: Split, key: str) -> None:
        self.maker, self.split, self.key = maker, split, key
        self.prompt = self._draft(None, "").prompt

    def answers(self, tail: str) -> Sides:
        """Draw a right and a faulty answer in one wording."""
        drafts = (self._draft(self._fork, f"{tail}/{number}") for number in itertools.count())
        same = next(draft for draft in drafts if draft.prompt == self.prompt)
        return same.chosen, same.rejected

    @cached_property
    def _fork(self) -> int:
        """The first random choice that no longer changes the prompt."""
        tails = [f"{self.key}/{number}" for number in range(_TRIES)]
        return next(
            fork
            for fork in itertools.count()
            if all(self._draft(fork, tail).prompt == self.prompt for tail in tails)
        )

    def _draft(self, fork: int | None, tail: str) -> Draft:
        draw = Draw(self.split, self.key)
        draw.rng = _Forked(self.key, fork, tail)
        return self.maker(draw)
