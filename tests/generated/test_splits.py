"""Train, validation and test share no prompt, no named entity and no number from ten on."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from generated import GeneratedPair, fillers, generate, knowledge
from generated.conversations import PEOPLE
from generated.core import SPLITS, Split, split_of_number

SEED = 7
"""Not the seed of conf/data/generated_v2.yaml, whose test pairs nothing may look at."""
SIZES: dict[Split, int] = {"train": 6000, "validation": 1600, "test": 2400}
WORDS = {
    name: getattr(fillers, name)
    for name in ("NAMES", "THINGS", "WARES", "PLACES", "LIST_WORDS", "NOUNS_FOR_CODE")
}
TITLED = {
    name: {split: [e.title for e in entries] for split, entries in getattr(knowledge, name).items()}
    for name in ("TOPICS", "HOWTO", "IDEAS", "MESSAGES")
}
ACTS = {"HARMFUL": knowledge.HARMFUL, "HARMLESS": knowledge.HARMLESS}
ENTITIES = {**WORDS, **TITLED, **ACTS, "PEOPLE": PEOPLE}
HOME = {
    **{"THINGS": "word-problem", "WARES": "word-problem", "PLACES": "word-problem"},
    **{"LIST_WORDS": "gen2-words", "NOUNS_FOR_CODE": "python"},
    **{"HARMFUL": "harmful", "HARMLESS": "harmless"},
    **{"TOPICS": "explain", "HOWTO": "howto", "IDEAS": "ideas", "MESSAGES": "writing"},
    **{"PEOPLE": "explain"},
}
"""Where an entity is looked for; elsewhere its words may mean something else."""
FORM = {"LIST_WORDS": '"(?:{})"', "NOUNS_FOR_CODE": r"_(?:{})\("}
"""In which form, where it is not the bare word: a code word in quotes, the name of a function."""


def prompt_of(made: GeneratedPair) -> str:
    return made.pair.prompt[0]["content"]


@pytest.fixture(scope="module")
def data() -> dict[Split, list[GeneratedPair]]:
    return {split: generate(split, SIZES[split], SEED) for split in SPLITS}


@pytest.mark.parametrize("name", ENTITIES)
def test_lists_are_cut_into_disjoint_parts(name: str) -> None:
    for one, two in combinations(SPLITS, 2):
        assert ENTITIES[name][one] and ENTITIES[name][two]
        assert not set(ENTITIES[name][one]) & set(ENTITIES[name][two])


def test_no_word_is_an_entity_of_two_splits() -> None:
    home: dict[str, str] = {}
    for parts in WORDS.values():
        for split, items in parts.items():
            for item in items:
                word = item.lower().removesuffix("s")
                assert home.setdefault(word, split) == split, item


def test_no_prompt_and_no_chosen_reasoning_answer_in_common(
    data: dict[Split, list[GeneratedPair]],
) -> None:
    for one, two in combinations(SPLITS, 2):
        assert not {prompt_of(m) for m in data[one]} & {prompt_of(m) for m in data[two]}
        chosen = [
            {m.pair.chosen for m in data[split] if m.pair.category == "Reasoning"}
            for split in (one, two)
        ]
        assert not chosen[0] & chosen[1]


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_of_other_splits_never_occur(
    name: str, data: dict[Split, list[GeneratedPair]]
) -> None:
    for split in SPLITS:
        foreign = [e for other in SPLITS if other != split for e in ENTITIES[name][other]]
        words = "|".join(re.escape(re.sub(r"\{\w+\}", "X", entity)) for entity in foreign)
        pattern = re.compile(FORM.get(name, r"\b(?:{})\b").format(words))
        for made in data[split]:
            if HOME.get(name, "") in made.subset:
                assert not pattern.search(prompt_of(made)), prompt_of(made)


def test_numbers_in_prompts_belong_to_the_split(data: dict[Split, list[GeneratedPair]]) -> None:
    seen = 0
    for split in SPLITS:
        for made in data[split]:
            numbers = [int(n) for n in re.findall(r"\d+", prompt_of(made))]
            if "sequence" in made.subset:  # the first term is drawn, the others follow from it
                numbers = numbers[:1]
            for number in numbers:
                assert split_of_number(number) in (None, split), prompt_of(made)
                seen += number >= 10
    assert seen > 2000
