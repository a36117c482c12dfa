"""The generated pairs as a data set: counts, determinism, form and errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from generated import _MAKERS, CAPACITY, SUBSETS, GeneratedPair, _distinct, generate
from generated.core import SPLITS, Draft, Draw, partition, split_of_number
from rm.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"train": 4500, "validation": 500, "test": 1000}


def prompt_of(made: GeneratedPair) -> str:
    return made.pair.prompt[0]["content"]


@pytest.fixture(scope="module")
def data() -> dict[str, list[GeneratedPair]]:
    return {split: generate(split, SIZES[split], seed=0) for split in SPLITS}


def test_six_thousand_distinct_pairs(data: dict[str, list[GeneratedPair]]) -> None:
    every = [made for split in SPLITS for made in data[split]]
    texts = {(prompt_of(m), m.pair.chosen, m.pair.rejected) for m in every}
    assert len(texts) == len({prompt_of(m) for m in every}) == len(every) == 6000
    assert len({m.pair.pair_id for m in every}) == 6000


def test_sections_and_subsets_have_equal_parts(data: dict[str, list[GeneratedPair]]) -> None:
    assert tuple(SUBSETS) == ("Chat", "Chat Hard", "Safety", "Reasoning")
    for split, size in SIZES.items():
        sections = Counter(m.pair.category for m in data[split])
        assert set(sections.values()) == {size // 4}
        for section, subsets in SUBSETS.items():
            counts = Counter(m.subset for m in data[split] if m.pair.category == section)
            assert set(counts) == set(subsets)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_fields_and_ids(data: dict[str, list[GeneratedPair]]) -> None:
    assert [m.pair.pair_id for m in data["train"][:2]] == [
        "generated-train-000000",
        "generated-train-000001",
    ]
    for made in data["test"]:
        assert made.pair.source == "generated"
        assert made.pair.margin in (1.0, 2.0, 3.0)
        assert [m["role"] for m in made.pair.prompt] == ["user"]
        assert made.subset in SUBSETS[made.pair.category or ""]
        assert made.template.startswith(f"{made.subset}/")
        assert made.pair.chosen != made.pair.rejected


def test_order_is_mixed(data: dict[str, list[GeneratedPair]]) -> None:
    first = Counter(m.pair.category for m in data["train"][:200])
    assert all(25 <= first[section] <= 75 for section in SUBSETS)


def test_texts_are_plain_ascii_and_short(data: dict[str, list[GeneratedPair]]) -> None:
    for made in data["train"] + data["test"]:
        for text in (prompt_of(made), made.pair.chosen, made.pair.rejected):
            assert text.isascii() and text.strip() == text and text
            assert not re.search(r"</?[a-zA-Z]+>|&\w+;|\{name\}|\{[a-z]+\}", text), text
        longest = max(made.pair.chosen, made.pair.rejected, key=len)
        # One piece a word, digit or mark; SmolLM2 makes about 1.1 tokens of one (118 at most).
        pieces = re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", prompt_of(made) + " " + longest)
        assert 15 <= len(pieces) <= 150


TEMPLATES = {"Chat": 40, "Chat Hard": 68, "Safety": 48, "Reasoning": 313}
"""Task kinds x prompt phrasings, by hand: 10 x 4; one a wording of a constraint; 12 x 4;
10 x 6 + (6 x 5 + 3) + 6 x 6 + 16 x 4 + 2 x (15 x 4)."""


@pytest.mark.parametrize("section", TEMPLATES)
def test_every_template_is_used(section: str) -> None:
    made = generate("train", 4000, seed=1, shares={section: 1.0})
    assert len({m.template for m in made}) == TEMPLATES[section] >= 36


def test_every_margin_occurs_in_every_section(data: dict[str, list[GeneratedPair]]) -> None:
    for section in SUBSETS:
        counts = Counter(m.pair.margin for m in data["train"] if m.pair.category == section)
        assert min(counts[m] for m in (1.0, 2.0, 3.0)) >= 90


@pytest.mark.parametrize("split", SPLITS)
def test_capacity_exists(split: str) -> None:
    for subsets in _MAKERS.values():
        for subset, maker in subsets.items():
            drafts = _distinct(maker, split, CAPACITY[split], f"capacity/{split}/{subset}")  # type: ignore[arg-type]
            assert len({d.prompt for d in drafts}) == CAPACITY[split]


def test_same_arguments_same_pairs() -> None:
    assert generate("test", 60, seed=3) == generate("test", 60, seed=3)
    assert generate("test", 60, seed=3) != generate("test", 60, seed=4)


def test_hash_seed_does_not_matter() -> None:
    code = (
        "import hashlib; from generated import generate; "
        "print(hashlib.sha256(repr(generate('train', 300, 5)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_shares() -> None:
    made = generate("train", 100, 0, {"Reasoning": 0.55, "Safety": 0.45})
    assert Counter(m.pair.category for m in made) == {"Reasoning": 55, "Safety": 45}
    assert len(generate("test", 7, 0)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training", 10, 0), "choose one of train, validation, test"),
        (("train", 0, 0), "ask for 1 or more"),
        (("train", 10, 0, {"Maths": 1.0}), "choose from Chat, Chat Hard, Safety, Reasoning"),
        (("train", 10, 0, {"Chat": 0.6}), "sum to 1, not 0.6"),
        (("train", 10, 0, {"Chat": 1.5, "Safety": -0.5}), "0 or more"),
        (("test", 100_000, 0), "25000 pairs of Chat were asked of split test, but 2000 exist"),
    ],
)
def test_errors_say_how_to_mend(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        generate(*arguments)


def test_a_maker_that_runs_dry_is_an_error() -> None:
    def maker(draw: Draw) -> Draft:
        return Draft("t", str(draw.digit(1, 3)), "a", "b", 1.0)

    assert len(_distinct(maker, "train", 3, "key")) == 3
    with pytest.raises(InputError, match="only 3 distinct"):
        _distinct(maker, "train", 4, "key")


def test_all_of_a_split_can_be_asked() -> None:
    made = generate("validation", CAPACITY["validation"] * 4, 0, {"Safety": 1.0})
    assert Counter(m.subset for m in made) == dict.fromkeys(SUBSETS["Safety"], 400)


def test_partition_is_disjoint_and_refuses_doubles() -> None:
    parts = partition(list("abcdefghij"))
    assert sorted("".join("".join(part) for part in parts.values())) == list("abcdefghij")
    assert [len(parts[split]) for split in SPLITS] == [6, 2, 2]
    with pytest.raises(ValueError, match="twice"):
        partition(["a", "b", "a"])


def test_numbers_are_spread_over_splits_whatever_their_last_digit() -> None:
    assert split_of_number(9) is None
    for digit in range(10):
        counts = Counter(split_of_number(n) for n in range(10 + digit, 3000, 10))
        assert 0.45 < counts["train"] / sum(counts.values()) < 0.75
        assert min(counts["validation"], counts["test"]) > 25
