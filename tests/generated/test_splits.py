"""Train, validation and test share no prompt, no named entity and no number from ten on."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from generated import fillers, generate, knowledge
from generated.chat import CONTEXTS
from generated.core import SPLITS, split_of_number

SIZES = {"train": 6000, "validation": 1500, "test": 1500}
ENTITIES = {
    name: getattr(fillers, name)
    for name in ("NAMES", "THINGS", "WARES", "PLACES", "LIST_WORDS", "ACROSTICS", "NOUNS_FOR_CODE")
}
TITLED = {
    name: {split: [e.title for e in entries] for split, entries in getattr(knowledge, name).items()}
    for name in ("TOPICS", "HOWTO", "IDEAS", "HARMLESS_TECH", "HARMLESS_LIFE")
}
ACTS = {"ACTS_OF_HARM": knowledge.ACTS_OF_HARM, "ACTS_OF_CRIME": knowledge.ACTS_OF_CRIME}


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[tuple[str, str]]]:
    return {
        split: [(m.subset, m.pair.prompt[0]["content"]) for m in generate(split, SIZES[split], 1)]
        for split in SPLITS
    }


def test_no_prompt_in_common(prompts: dict[str, list[tuple[str, str]]]) -> None:
    for one, two in combinations(SPLITS, 2):
        assert not {p for _, p in prompts[one]} & {p for _, p in prompts[two]}


def test_no_chosen_reasoning_text_in_common() -> None:
    texts = [
        {m.pair.chosen for m in generate(split, 1000, 2, {"Reasoning": 1.0})} for split in SPLITS
    ]
    assert not texts[0] & texts[2] and not texts[0] & texts[1]


@pytest.mark.parametrize("name", [*ENTITIES, *TITLED, *ACTS, "CONTEXTS"])
def test_lists_are_cut_into_disjoint_parts(name: str) -> None:
    parts = {**ENTITIES, **TITLED, **ACTS, "CONTEXTS": CONTEXTS}[name]
    for one, two in combinations(SPLITS, 2):
        assert parts[one] and parts[two]
        assert not set(parts[one]) & set(parts[two])


def test_no_word_is_an_entity_of_two_splits() -> None:
    home: dict[str, str] = {}
    for parts in ENTITIES.values():
        for split, items in parts.items():
            for item in items:
                word = item.lower().removesuffix("s")
                assert home.setdefault(word, split) == split, item


@pytest.mark.parametrize("name", ["NAMES", *TITLED, *ACTS])
def test_entities_of_other_splits_never_occur(
    name: str, prompts: dict[str, list[tuple[str, str]]]
) -> None:
    parts = {**ENTITIES, **TITLED, **ACTS}[name]
    for split in SPLITS:
        foreign = [e for other in SPLITS if other != split for e in parts[other]]
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, foreign))})\b")
        subsets = {"TOPICS": ("gen-explain", "gen-length", "gen-keywords", "gen-format")}
        for subset, prompt in prompts[split]:
            if subset in subsets.get(name, (subset,)):
                assert not pattern.search(prompt), prompt


@pytest.mark.parametrize("name", ["THINGS", "WARES", "PLACES"])
def test_things_of_other_splits_never_occur_in_reasoning(
    name: str, prompts: dict[str, list[tuple[str, str]]]
) -> None:
    for split in SPLITS:
        foreign = [e for other in SPLITS if other != split for e in ENTITIES[name][other]]
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, foreign))})\b")
        for subset, prompt in prompts[split]:
            if subset in ("gen-word-problem", "gen-units"):
                assert not pattern.search(prompt), prompt


def _given_numbers(subset: str, prompt: str) -> list[int]:
    """Read the numbers that a maker drew (of a sequence, the first term and the asked place)."""
    if subset == "gen-sequence":
        place = re.search(r"term number (\d+)", prompt)
        terms = re.search(r"\d+(?=(?:, \d+){3})", prompt)
        assert terms
        first = int(terms[0])
        drawn = [first] + ([int(place[1])] if place else [])
        return [drawn[-1]] if place else drawn
    return [int(n) for n in re.findall(r"\d+", prompt)]


def test_numbers_belong_to_the_split(prompts: dict[str, list[tuple[str, str]]]) -> None:
    seen = 0
    for split in SPLITS:
        for subset, prompt in prompts[split]:
            for number in _given_numbers(subset, prompt):
                assert split_of_number(number) in (None, split), (subset, prompt, number)
                seen += number >= 10
    assert seen > 4000
