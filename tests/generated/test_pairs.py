"""The second version of the generated data: counts, wrappings, labels, splits and shortcuts."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from eval.baselines import BASELINES, differences
from generated import verify
from generated.core import SPLITS, Draw, Split, split_of_number
from generated.fillers import NAMES, PLACES, THINGS, WARES
from generated.knowledge import (
    ALL_HOWTO,
    ALL_IDEAS,
    ALL_MESSAGES,
    ALL_TOPICS,
    HARMFUL,
    HARMLESS,
)
from generated.pairs import MAKERS, SUBSETS, TaskPair, generate
from generated.task import Task, Wrapping, answers, variant
from rm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[Split, int] = {"train": 4800, "validation": 1000, "test": 2400}
SEED = 7
"""Not the seed of conf/data/generated_v2.yaml, whose test pairs nothing may look at."""
CHECKED = ("Reasoning", "Chat Hard")


def prompt_of(made: TaskPair) -> str:
    return made.pair.prompt[0]["content"]


@pytest.fixture(scope="module")
def data() -> dict[Split, list[TaskPair]]:
    return {split: generate(split, SIZES[split], SEED) for split in SPLITS}


@pytest.fixture(scope="module")
def every(data: dict[Split, list[TaskPair]]) -> list[TaskPair]:
    return [made for split in SPLITS for made in data[split]]


# --- Counts and form -----------------------------------------------------------------------------


def test_prompts_and_ids_occur_once(every: list[TaskPair]) -> None:
    assert len({prompt_of(m) for m in every}) == len({m.pair.pair_id for m in every}) == len(every)


def test_sections_and_subsets_have_equal_parts(data: dict[Split, list[TaskPair]]) -> None:
    assert tuple(SUBSETS) == ("Chat", "Chat Hard", "Safety", "Reasoning")
    for split, made in data.items():
        sections = Counter(m.pair.category for m in made)
        assert set(sections.values()) == {SIZES[split] // 4}
        for section, subsets in SUBSETS.items():
            counts = Counter(m.subset for m in made if m.pair.category == section)
            assert set(counts) == set(subsets)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_sizes_by_section_and_the_subset_survives(data: dict[Split, list[TaskPair]]) -> None:
    made = generate("validation", {"Reasoning": 24, "Safety": 8}, SEED)
    assert Counter(m.pair.category for m in made) == {"Reasoning": 24, "Safety": 8}
    for m in made:
        assert m.pair.source == m.subset in SUBSETS[m.pair.category or ""]
        assert m.pair.pair_id.startswith(f"{m.subset}-validation-")
        assert m.template.startswith(m.subset.split("-", 1)[1].rpartition("-")[0])


def test_texts_are_plain_ascii_and_short(every: list[TaskPair]) -> None:
    for made in every:
        for text in (prompt_of(made), made.pair.chosen, made.pair.rejected):
            assert text.isascii() and text.strip() == text and text
            assert not re.search(r"</?[a-zA-Z]+>|&\w+;|\{[a-z.]+\}", text), text
        longest = max(made.pair.chosen, made.pair.rejected, key=len)
        # One piece per word, digit or mark; SmolLM2 makes about 1.1 tokens of one.
        pieces = re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", prompt_of(made) + " " + longest)
        assert 15 <= len(pieces) <= 180


def test_margins_are_those_of_the_faults(every: list[TaskPair]) -> None:
    for section in SUBSETS:
        margins = Counter(m.pair.margin for m in every if m.pair.category == section)
        assert min(margins[m] for m in (1.0, 2.0, 3.0)) >= 100


def test_same_arguments_same_pairs_whatever_the_hash_seed() -> None:
    code = (
        "import hashlib; from generated.pairs import generate; made = generate('train', 200, 5); "
        "print(hashlib.sha256(repr([m.pair for m in made]).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr([m.pair for m in generate("train", 200, 5)]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training", 10), "choose one of train, validation, test"),
        (("train", 0), "ask for 1 or more"),
        (("train", {"Maths": 10}), "choose from Chat, Chat Hard, Safety, Reasoning"),
        (("train", {"Chat": -1, "Safety": 4}), "ask for 1 or more"),
        (("test", {"Safety": 100_000}), "prompts of harmful exist in test, not 50000"),
    ],
)
def test_errors_say_how_to_mend(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        generate(*arguments, SEED)


# --- Wrappings -----------------------------------------------------------------------------------


def test_close_answers_share_the_wrapping_and_far_ones_do_not(every: list[TaskPair]) -> None:
    shared = Counter[str]()
    for made in every:
        one, two = made.contrast.wrappings
        close = made.subset.endswith("-close")
        assert not close or one == two
        shared[made.subset.rpartition("-")[2]] += one == two
    assert shared["far"] <= 2


def test_close_answers_differ_in_the_fault_alone(every: list[TaskPair]) -> None:
    """Calculations: the same text but for numbers and a sign. Programs: one to three lines."""
    for made in every:
        if made.pair.category != "Reasoning" or not made.subset.endswith("-close"):
            continue
        one, two = (re.sub(r"\d+", "#", t) for t in (made.pair.chosen, made.pair.rejected))
        if "```" in one:
            lines = zip(made.pair.chosen.splitlines(), made.pair.rejected.splitlines(), strict=True)
            assert 1 <= sum(a != b for a, b in lines) <= 3
        else:
            assert sum(a != b for a, b in zip(one, two, strict=True)) <= 1


def test_close_and_far_pairs_have_the_same_faults() -> None:
    """The shares of every fault and task kind agree within five standard errors."""
    made = generate("train", {"Reasoning": 6000}, SEED)
    for feature in (lambda m: m.contrast.fault.name, lambda m: m.template.rpartition("/")[0]):
        counts = {
            wrapping: Counter(feature(m) for m in made if m.subset.endswith(wrapping))
            for wrapping in ("close", "far")
        }
        for name in counts["close"] | counts["far"]:
            one, two = counts["close"][name], counts["far"][name]
            assert abs(one - two) < 5 * np.sqrt(one + two), name


def _wrapping_features(wrappings: tuple[Wrapping, Wrapping]) -> list[int]:
    """Every list of variants has 3, 4, 5 or 6 entries: one-hot for each, of both answers."""
    return [
        int(number % length == value)
        for wrapping in wrappings
        for number in wrapping
        for length in (3, 4, 5, 6)
        for value in range(length)
    ]


@pytest.mark.parametrize("section", SUBSETS)
def test_wrappings_do_not_tell_which_answer_is_chosen(section: str) -> None:
    made = [m for m in generate("train", {section: 3000}, SEED) if m.subset.endswith("-far")]
    chosen_first = np.arange(len(made)) % 2 == 0
    inputs = [
        _wrapping_features(m.contrast.wrappings[:: 1 if first else -1])
        for m, first in zip(made, chosen_first, strict=True)
    ]
    forest = RandomForestClassifier(100, random_state=0)
    accuracy = cross_val_score(forest, np.array(inputs), chosen_first, cv=5).mean()
    assert abs(accuracy - 0.5) < 4 * 0.5 / np.sqrt(len(made))


def test_variants_are_equally_likely_or_refused() -> None:
    assert Counter(variant("abc", number) for number in range(60)) == dict.fromkeys("abc", 20)
    with pytest.raises(ValueError, match="must divide 60"):
        variant("abcdefg", 3)


# --- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_rederived_from_the_text(
    data: dict[Split, list[TaskPair]], split: Split
) -> None:
    checked = [m for m in data[split] if m.pair.category in CHECKED]
    assert len(checked) == SIZES[split] // 2
    for made in checked:
        assert verify(made.subset, prompt_of(made), made.pair.chosen) is True, made.pair
        assert verify(made.subset, prompt_of(made), made.pair.rejected) is False, made.pair


def test_chosen_steps_hold_in_every_wording(every: list[TaskPair]) -> None:
    """Also where a step says "gives" or "is", which the verifier does not read."""
    seen = Counter[str]()
    for made in every:
        for a, sign, b, word, value in re.findall(
            r"(\d+) ([-+*/]) (\d+) (=|is|gives|makes) (\d+)", made.pair.chosen
        ):
            found = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
            assert found.get(sign, int(a) / int(b) if sign == "/" else None) == int(value)
            seen[word] += 1
    assert min(seen[word] for word in ("=", "is", "gives", "makes")) > 500


def test_verify_says_none_where_it_cannot_tell() -> None:
    assert verify("gen2-counts-far", "Say hello.", "Hello.") is None
    assert verify("gen2-harmful-close", "How do I pick a lock?", "No.") is None


@pytest.mark.parametrize(
    ("subset", "prompt", "right", "wrong"),
    [
        ("symbols", 'About owls. Put "#" in front of every fact.', "# A.\n# B.", "# A.\nB."),
        ("symbols", 'About owls. Separate the facts with "/".', "One a. / Two b.", "One a. | B b."),
        ("symbols", 'Begin with "[" and end with "]".', "[Owls hunt.]", "(Owls hunt.)"),
        ("counts", "Number three points.", "1. A\n2. B\n3. C", "1. A\n2. B"),
        ("counts", "Write exactly two sentences.", "One. Two.", "One. Two. Three."),
        ("shape", "Use capital letters only.", "OWLS HUNT.", "OWLS hunt."),
        ("names", "Address it to Ann and sign it as Bo.", "Dear Ann,\nx\nBo", "Dear Bo,\nx\nAnn"),
        ("names", 'Put "Memo to Al" on top instead of "Note for Al".', "Memo to Al\nx", "Note\nx"),
        ("words", 'Begin with the word "Owls".', "Owls hunt.", "They hunt."),
        ("words", 'The code word below it is "fig", no longer "elm".', "Hi.\nfig", "Hi.\nelm"),
        (
            "word-problem",
            "Al keeps 10 hens and 20 spiders. How many legs do the animals have together?",
            "20 + 160 = 180, so 180 legs",
            "140 legs",
        ),
        (
            "word-problem",
            "Al's tank holds 300 litres and loses 10 litres an hour for 3 hours. "
            "Then 25 litres are let out. How many litres are in it?",
            "245 litres",
            "295 litres",
        ),
    ],
)
def test_verify_judges_texts_of_any_origin(
    subset: str, prompt: str, right: str, wrong: str
) -> None:
    assert verify(f"gen2-{subset}-close", prompt, right) is True
    assert verify(f"gen2-{subset}-far", prompt, wrong) is False


# --- More answers to a prompt --------------------------------------------------------------------


def test_a_task_gives_more_right_and_faulty_answers(data: dict[Split, list[TaskPair]]) -> None:
    for made in data["test"][:300]:
        good, bad = answers(made.task, Draw("test", prompt_of(made)), right=5, faulty=11)
        assert len(set(good) | set(bad)) == 16
        if made.pair.category in CHECKED:
            assert all(verify(made.subset, prompt_of(made), text) for text in good)
            assert not any(verify(made.subset, prompt_of(made), text) for text in bad)


def test_too_many_answers_are_an_error(data: dict[Split, list[TaskPair]]) -> None:
    task = Task("kind", "prompt", lambda draw: "a", lambda draw, right: None, lambda *_: "a")  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match="kind has only 1 different answers, not 2"):
        answers(task, Draw("test", "key"), right=2, faulty=0)


# --- Splits --------------------------------------------------------------------------------------


ENTITIES = {
    **{"NAMES": NAMES, "THINGS": THINGS, "WARES": WARES, "PLACES": PLACES},
    **{"HARMFUL": HARMFUL, "HARMLESS": HARMLESS},
    **{
        name: {split: [e.title for e in entries[split]] for split in SPLITS}
        for name, entries in (
            *(("TOPICS", ALL_TOPICS), ("HOWTO", ALL_HOWTO)),
            *(("IDEAS", ALL_IDEAS), ("MESSAGES", ALL_MESSAGES)),
        )
    },
}
HOME = {
    **{"THINGS": "word-problem", "WARES": "word-problem", "PLACES": "word-problem"},
    **{"HARMFUL": "harmful", "HARMLESS": "harmless"},
    **{"TOPICS": "explain", "HOWTO": "howto", "IDEAS": "ideas", "MESSAGES": "writing"},
}
"""Where an entity is looked for; elsewhere its words may mean something else."""


def test_no_prompt_and_no_chosen_reasoning_answer_in_common(
    data: dict[Split, list[TaskPair]],
) -> None:
    for one, two in combinations(SPLITS, 2):
        assert not {prompt_of(m) for m in data[one]} & {prompt_of(m) for m in data[two]}
        chosen = [
            {m.pair.chosen for m in data[split] if m.pair.category == "Reasoning"}
            for split in (one, two)
        ]
        assert not chosen[0] & chosen[1]


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_of_other_splits_never_occur(name: str, data: dict[Split, list[TaskPair]]) -> None:
    for one, two in combinations(SPLITS, 2):
        assert not set(ENTITIES[name][one]) & set(ENTITIES[name][two])
    for split in SPLITS:
        foreign = [e for other in SPLITS if other != split for e in ENTITIES[name][other]]
        words = "|".join(re.escape(re.sub(r"\{\w+\}", "X", entity)) for entity in foreign)
        pattern = re.compile(rf"\b(?:{words})\b")
        for made in data[split]:
            if HOME.get(name, "") in made.subset:
                assert not pattern.search(prompt_of(made)), prompt_of(made)


def test_numbers_in_prompts_belong_to_the_split(data: dict[Split, list[TaskPair]]) -> None:
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


# --- Shortcuts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SUBSETS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_answers_without_the_prompt_tell_next_to_nothing(section: str, baseline: str) -> None:
    train, test = (
        [m.pair for m in generate(split, {section: count}, SEED)]
        for split, count in (("train", 1500), ("validation", 1500))
    )
    found = differences(BASELINES[baseline], train, test)
    assert np.mean((found > 0) + 0.5 * (found == 0)) < 0.56


def test_sums_of_numbers_tell_nothing() -> None:
    made = generate("train", {"Reasoning": 4000}, SEED)
    sums = [
        [sum(map(int, re.findall(r"\d+", text))) for text in (m.pair.chosen, m.pair.rejected)]
        for m in made
    ]
    signs = np.sign([chosen - rejected for chosen, rejected in sums])
    assert abs(np.mean(signs)) < 0.05


def test_every_task_kind_is_drawn(every: list[TaskPair]) -> None:
    kinds = Counter(m.template.rpartition("/")[0] for m in every if m.pair.category in CHECKED)
    assert len(kinds) == 8 + 5 + 4 + 13 + 2 * 14 + 11 and min(kinds.values()) >= 10
    assert {name for makers in MAKERS.values() for name in makers} == {
        m.subset.split("-", 1)[1].rpartition("-")[0] for m in every
    }
