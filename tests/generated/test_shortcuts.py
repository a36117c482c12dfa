"""No scorer that ignores the prompt does well: not by length, by words or by sums of numbers."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from eval.baselines import BASELINES, differences
from generated import SUBSETS, generate

SEED = 7
"""Not the seed of conf/data/generated_v2.yaml, whose test pairs nothing may look at."""


def _counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", text))


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


@pytest.mark.parametrize("section", SUBSETS)
def test_common_words_stand_on_both_sides(section: str) -> None:
    made = generate("train", {section: 3000}, SEED)
    better, worse = Counter[str](), Counter[str]()
    for m in made:
        better.update(set(_counts(m.pair.chosen)))
        worse.update(set(_counts(m.pair.rejected)))
    for word in better | worse:
        if better[word] + worse[word] >= 60:
            share = better[word] / (better[word] + worse[word])
            assert 0.3 < share < 0.7, (word, better[word], worse[word])


@pytest.mark.parametrize("section", ["Reasoning", "Chat Hard"])
def test_close_answers_share_most_words(section: str) -> None:
    """Most words of a close response stand in the other one too; far ones share fewer."""
    shared: dict[str, list[float]] = {"close": [], "far": []}
    for m in generate("test", {section: 600}, SEED):
        one, two = _counts(m.pair.chosen), _counts(m.pair.rejected)
        part = (one & two).total() / max(one.total(), two.total())
        shared[m.subset.rpartition("-")[2]].append(part)
    assert np.median(shared["close"]) > 0.8 > np.median(shared["far"])
