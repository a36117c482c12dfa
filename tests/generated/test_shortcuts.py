"""No scorer that looks at lengths or at single words alone does well in Reasoning or Chat Hard."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize

from generated import GeneratedPair, generate

SECTIONS = ("Reasoning", "Chat Hard")
LIMITS = {"Reasoning": 0.65, "Chat Hard": 0.70}


def _counts(text: str) -> Counter[str]:
    return Counter(re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", text))


def _differences(made: list[GeneratedPair]) -> list[Counter[str]]:
    rows = []
    for m in made:
        row = _counts(m.pair.chosen)
        row.subtract(_counts(m.pair.rejected))
        rows.append(row)
    return rows


def _matrix(rows: list[Counter[str]], words: dict[str, int]) -> np.ndarray:
    out = np.zeros((len(rows), len(words)))
    for i, row in enumerate(rows):
        for word, count in row.items():
            if word in words:
                out[i, words[word]] = count
    return out


def _fit(x: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Fit a Bradley-Terry scorer that is linear in the word counts."""

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        d = x @ w
        value = np.logaddexp(0, -d).sum() + penalty * (w @ w) / 2
        return value, penalty * w - x.T @ (1 / (1 + np.exp(d)))

    start = np.zeros(x.shape[1])
    return minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x


def _accuracy(d: np.ndarray) -> float:
    return float(np.mean((d > 0) + 0.5 * (d == 0)))


@pytest.mark.parametrize("section", SECTIONS)
def test_length_tells_nothing(section: str) -> None:
    made = generate("test", 1500, 0, {section: 1.0})
    d = np.array([len(m.pair.chosen) - len(m.pair.rejected) for m in made])
    assert 0.40 <= _accuracy(d) <= 0.60
    words = np.array([len(m.pair.chosen.split()) - len(m.pair.rejected.split()) for m in made])
    assert 0.40 <= _accuracy(words) <= 0.60


@pytest.mark.parametrize("section", SECTIONS)
def test_single_words_tell_little(section: str) -> None:
    train, test = (generate(split, 1200, 0, {section: 1.0}) for split in ("train", "test"))  # type: ignore[arg-type]
    rows = _differences(train)
    words = {word: i for i, word in enumerate(sorted(set().union(*rows)))}
    weights = _fit(_matrix(rows, words))
    assert _accuracy(_matrix(_differences(test), words) @ weights) < LIMITS[section]


@pytest.mark.parametrize("section", SECTIONS)
def test_common_words_stand_on_both_sides(section: str) -> None:
    made = generate("train", 3000, 0, {section: 1.0})
    better, worse = Counter[str](), Counter[str]()
    for m in made:
        better.update(set(_counts(m.pair.chosen)))
        worse.update(set(_counts(m.pair.rejected)))
    for word in better | worse:
        if better[word] + worse[word] >= 60:
            share = better[word] / (better[word] + worse[word])
            assert 0.3 < share < 0.7, (word, better[word], worse[word])


@pytest.mark.parametrize("section", SECTIONS)
def test_answers_of_a_section_are_close(section: str) -> None:
    """Most words of a response stand in the other one too."""
    made = generate("test", 600, 0, {section: 1.0})
    shared = []
    for m in made:
        one, two = _counts(m.pair.chosen), _counts(m.pair.rejected)
        shared.append((one & two).total() / max(one.total(), two.total()))
    assert np.median(shared) > 0.8
