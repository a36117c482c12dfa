"""Baselines that read no prompt: planted shortcuts are found, and nothing else is."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from eval.baselines import BASELINES, baselines, differences
from eval.rewardbench import load
from eval.rows import EvaluationRow
from rm.data.preferences import PreferencePair, load_preferences, swapped
from rm.errors import InputError

WORDS = ("apple", "bread", "candle", "dune", "ember", "frost", "grain", "harbor", "island", "jewel")


def pairs(
    count: int, seed: int, *, cue: str = "", longer: str = "", category: str = "Chat"
) -> list[PreferencePair]:
    """Pairs of random words; `cue` is put into the chosen answer, `longer` behind it."""
    rng, made = random.Random(seed), []
    for i in range(count):
        one, two = (" ".join(rng.choices(WORDS, k=8)) for _ in range(2))
        one = f"{one} {cue}{longer}".strip()
        made.append(PreferencePair(f"{category}{i}", (), one, two, category=category))
    return made


def rows(made: list[PreferencePair], subset: str = "s") -> list[EvaluationRow]:
    return [
        EvaluationRow(
            p.pair_id, p.prompt, p.chosen, p.rejected, subset=subset, section=p.category or ""
        )
        for p in made
    ]


def accuracy(name: str, train: list, test: list) -> float:
    found = differences(BASELINES[name], train, test)
    return float(np.mean((found > 0) + 0.5 * (found == 0)))


def test_ngrams_find_a_word_and_length_finds_length() -> None:
    plain = pairs(200, 1), pairs(400, 2)
    assert 0.4 < accuracy("n-grams", *plain) < 0.6
    assert accuracy("n-grams", pairs(200, 1, cue="thus"), pairs(400, 2, cue="thus")) == 1.0
    long = " and more" * 6
    assert accuracy("length", pairs(200, 1, longer=long), pairs(400, 2, longer=long)) > 0.95
    # Trained where the longer answer is right, tested where the shorter one is.
    shorter = [swapped(pair) for pair in pairs(9, 2, longer=long)]
    assert accuracy("length", pairs(200, 1, longer=long), shorter) < 0.05


def test_swapping_all_sides_swaps_the_answer() -> None:
    train, test = pairs(100, 1, cue="thus"), pairs(50, 2)
    found = differences(BASELINES["n-grams"], train, test)
    other = differences(BASELINES["n-grams"], train, [swapped(pair) for pair in test])
    assert other == pytest.approx(-found)


def test_a_table_has_a_row_per_baseline_and_level() -> None:
    train = [*pairs(120, 1, cue="thus"), *pairs(60, 2, category="Safety")]
    test = rows(pairs(60, 3, cue="thus"), "a") + rows(pairs(40, 4, category="Safety"), "b")
    table = baselines(train, test, resamples=200)
    assert list(table) == [
        *("baseline", "level", "name", "accuracy", "low", "high", "pairs", "trained_on")
    ]
    assert list(table["baseline"].unique()) == ["n-grams", "length"]
    found = table[table["baseline"] == "n-grams"].set_index("name")
    assert list(found.index) == ["a", "b", "Chat", "Safety", "average"]
    assert found.loc["Chat", "accuracy"] == found.loc["a", "low"] == 100
    assert 20 < found.loc["Safety", "low"] < found.loc["Safety", "accuracy"] < 80
    assert found["trained_on"].tolist() == [120, 60, 120, 60, 180]
    assert found["pairs"].tolist() == [60, 40, 60, 40, 100]


def test_a_section_that_was_not_trained_on_gets_all_training_pairs() -> None:
    table = baselines(pairs(30, 1), rows(pairs(20, 2, category="Reasoning")), resamples=50)
    assert set(table["trained_on"]) == {30}


def test_equal_scores_count_half() -> None:
    same = [PreferencePair(str(i), (), "a b", "a b", category="Chat") for i in range(30)]
    table = baselines(pairs(30, 1), rows(same), resamples=50)
    assert set(table["accuracy"]) == {50.0}


def test_too_few_training_pairs_are_an_error() -> None:
    with pytest.raises(InputError, match="19 training pairs: a baseline needs 20 or more"):
        baselines(pairs(19, 1), rows(pairs(5, 2)))


def test_on_real_rows_the_longer_answer_wins_in_chat(shared_data: Path) -> None:
    """alpacaeval-length is made of longer answers that are better."""
    train, _ = load_preferences(shared_data / "unified_feedback_schema_train.jsonl.gz", limit=400)
    test = [r for r in load(str(shared_data / "rewardbench_mini.jsonl.gz")) if r.section == "Chat"]
    table = baselines(train, test[::4], resamples=200).set_index(["baseline", "name"])
    assert table.loc[("length", "Chat"), "accuracy"] > 60


def test_texts_that_share_no_ngram_are_refused() -> None:
    train = [PreferencePair(str(i), (), "", "", category="Chat") for i in range(40)]
    with pytest.raises(InputError, match="no n-gram occurs in two"):
        differences(BASELINES["n-grams"], train, train[:3])
