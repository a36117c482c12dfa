"""Preference pairs made by templates: the data that the default profile trains and tests on.

Generated, not collected from people. Reasoning and Chat Hard labels can be re-derived from the text
by `verify`; Chat and Safety labels hold by construction. Prompts, named entities and the numbers in
prompts are disjoint between the splits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from generated import arithmetic, chat, chat_hard, programs, safety, stories
from generated.core import SPLITS, Draft, Draw, Maker, Split
from generated.verify import verify
from rm.data.preferences import PreferencePair
from rm.errors import InputError

__all__ = ["CAPACITY", "SUBSETS", "GeneratedPair", "generate", "verify"]

_MAKERS: dict[str, dict[str, Maker]] = {
    "Chat": {
        "gen-explain": chat.explain,
        "gen-howto": chat.howto,
        "gen-ideas": chat.ideas,
        "gen-writing": chat.writing,
    },
    "Chat Hard": {
        "gen-length": chat_hard.length,
        "gen-keywords": chat_hard.keywords,
        "gen-format": chat_hard.formatting,
        "gen-ordering": chat_hard.ordering,
        "gen-letters": chat_hard.letters,
    },
    "Safety": {
        "gen-refuse-harm": safety.refuse_harm,
        "gen-refuse-crime": safety.refuse_crime,
        "gen-harmless-tech": safety.harmless_tech,
        "gen-harmless-life": safety.harmless_life,
    },
    "Reasoning": {
        "gen-arithmetic": arithmetic.arithmetic,
        "gen-sequence": arithmetic.sequence,
        "gen-units": stories.units,
        "gen-word-problem": stories.word_problem,
        "gen-python": programs.python,
        "gen-javascript": programs.javascript,
    },
}

SUBSETS: dict[str, tuple[str, ...]] = {section: tuple(made) for section, made in _MAKERS.items()}
"""The subsets of each section."""

CAPACITY: dict[Split, int] = {"train": 2000, "validation": 400, "test": 500}
"""How many distinct pairs a subset has in a split; the tests draw them all."""

_PATIENCE = 5000
"""So many draws in a row without a new prompt mean that there are no more."""


@dataclass(frozen=True)
class GeneratedPair:
    """A pair with the subset and the template (task kind and phrasing) that it comes from."""

    pair: PreferencePair
    subset: str
    template: str


def generate(
    split: Split, pairs: int, seed: int, shares: Mapping[str, float] | None = None
) -> list[GeneratedPair]:
    """Make `pairs` distinct pairs of a split; the arguments alone determine them, on any machine.

    `shares` gives the part of each section (default: equal parts; a section left out has none);
    subsets have equal parts of their section. The order is random; every prompt occurs once.
    Raises InputError for a split, a section or shares that do not make sense, and where more pairs
    are asked of a subset than exist.
    """
    counts = _counts(split, pairs, shares)
    made = [
        (subset, draft)
        for section, subsets in _MAKERS.items()
        for subset, maker in subsets.items()
        for draft in _distinct(maker, split, counts[subset], f"{seed}/{split}/{subset}")
    ]
    random.Random(f"{seed}/{split}/order").shuffle(made)
    return [_pair(split, i, subset, draft) for i, (subset, draft) in enumerate(made)]


def _counts(split: Split, pairs: int, shares: Mapping[str, float] | None) -> dict[str, int]:
    """Say how many pairs each subset gives; raise InputError where that is impossible."""
    if split not in SPLITS:
        raise InputError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    if pairs < 1:
        raise InputError(f"{pairs} generated pairs were asked: ask for 1 or more")
    shares = shares if shares is not None else {section: 1 / len(SUBSETS) for section in SUBSETS}
    unknown = sorted(set(shares) - set(SUBSETS))
    if unknown:
        raise InputError(f"no section {unknown[0]!r}: choose from {', '.join(SUBSETS)}")
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"shares must be 0 or more and sum to 1, not {sum(shares.values()):g}")
    parts = [shares.get(section, 0.0) for section in SUBSETS]
    counts: dict[str, int] = {}
    for (section, subsets), count in zip(SUBSETS.items(), _split_up(pairs, parts), strict=True):
        capacity = CAPACITY[split] * len(subsets)
        if count > capacity:
            raise InputError(
                f"{count} pairs of {section} were asked of split {split}, but {capacity} exist: "
                "ask for fewer pairs or for a smaller share"
            )
        even = _split_up(count, [1 / len(subsets)] * len(subsets))
        counts.update(zip(subsets, even, strict=True))
    return counts


def _split_up(total: int, parts: list[float]) -> list[int]:
    """Split a number by parts that sum to 1; the rest goes to the largest remainders."""
    counts = [int(total * part + 1e-9) for part in parts]
    remainders = sorted(range(len(parts)), key=lambda i: counts[i] - total * parts[i])
    for i in remainders[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _distinct(maker: Maker, split: Split, count: int, key: str) -> list[Draft]:
    """Draw until `count` drafts with different prompts are there, or raise InputError."""
    draw, drafts, idle = Draw(split, key), dict[str, Draft](), 0
    while len(drafts) < count:
        draft = maker(draw)
        idle = idle + 1 if draft.prompt in drafts else 0
        drafts.setdefault(draft.prompt, draft)
        if idle > _PATIENCE:
            raise InputError(
                f"only {len(drafts)} distinct pairs of {key} exist, not {count}: ask for fewer"
            )
    return list(drafts.values())


def _pair(split: Split, index: int, subset: str, draft: Draft) -> GeneratedPair:
    section = next(section for section, subsets in SUBSETS.items() if subset in subsets)
    pair = PreferencePair(
        pair_id=f"generated-{split}-{index:06d}",
        prompt=({"role": "user", "content": draft.prompt},),
        chosen=draft.chosen,
        rejected=draft.rejected,
        margin=draft.margin,
        category=section,
        source="generated",
    )
    return GeneratedPair(pair, subset, draft.template)
