"""Accuracy of two scorers that never read the prompt: n-grams of the answers, and their length.

Both are logistic regressions on the difference of the two answers' features (a Bradley-Terry model
that is linear in them), fitted to the reward models' training pairs. A reward model that does not
beat these scorers has learned a shortcut at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags_array, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from eval.protocol import Protocol
from eval.rows import EvaluationRow
from eval.statistics import section_intervals
from rm.data.preferences import PreferencePair
from rm.errors import InputError

Pairs = Sequence[PreferencePair]
Features = Callable[[Pairs, Pairs], tuple[csr_matrix, csr_matrix]]
"""From training and test pairs to chosen − rejected features, one row per pair."""

FOLDS = 5
ALL = ""
"""Stands for all training pairs: used for a section that has no training pairs of its own."""
WORD = r"[A-Za-z']+|\d+|[^\w\s]|\n"
"""A token of the word n-grams: a word, a number, a punctuation mark or a line break."""


def ngrams(train: Pairs, test: Pairs) -> tuple[csr_matrix, csr_matrix]:
    """Count words and pairs of adjacent words, and runs of two to four characters."""
    parts = []
    for options in (
        {"token_pattern": WORD, "ngram_range": (1, 2)},
        {"analyzer": "char", "ngram_range": (2, 4)},
    ):
        counter = CountVectorizer(lowercase=False, min_df=2, **options)
        try:
            counter.fit(text for pair in train for text in (pair.chosen, pair.rejected))
        except ValueError as error:  # scikit-learn: no text has a word, or no word occurs twice
            raise InputError("no n-gram occurs in two of the training texts") from error
        parts.append([_difference(counter, pairs) for pairs in (train, test)])
    first, second = (hstack(columns).tocsr() for columns in zip(*parts, strict=True))
    return first, second


def _difference(counter: CountVectorizer, pairs: Pairs) -> csr_matrix:
    chosen = counter.transform(pair.chosen for pair in pairs)
    return chosen - counter.transform(pair.rejected for pair in pairs)


def lengths(train: Pairs, test: Pairs) -> tuple[csr_matrix, csr_matrix]:
    """Count characters."""
    first, second = (
        csr_matrix([[float(len(pair.chosen) - len(pair.rejected))] for pair in pairs])
        for pairs in (train, test)
    )
    return first, second


BASELINES: dict[str, Features] = {"n-grams": ngrams, "length": lengths}


def differences(features: Features, train: Pairs, test: Pairs) -> np.ndarray:
    """Fit a linear scorer to training pairs; return the test pairs' score differences, (pairs,).

    Cross-validation on the training pairs chooses the strength of the ridge penalty. Raises
    InputError for too few training pairs.
    """
    if len(train) < 4 * FOLDS:
        raise InputError(f"{len(train)} training pairs: a baseline needs {4 * FOLDS} or more")
    inputs, tested = features(train, test)
    sides = np.where(np.arange(len(train)) % 2, -1.0, 1.0)  # every other pair with sides swapped
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 5),
        l1_ratios=(0,),
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=0),
        scoring="neg_log_loss",
        fit_intercept=False,
        solver="liblinear",
        use_legacy_attributes=False,
    )
    model.fit(diags_array(sides).tocsr() @ inputs, sides)
    return tested @ model.coef_[0]


def baselines(train: Pairs, rows: Sequence[EvaluationRow], resamples: int = 2000) -> pd.DataFrame:
    """Score every baseline: one row per baseline and subset, section and average.

    A section's scorer is fitted to the training pairs of that category, or to all training pairs if
    the category has none. Columns: baseline, level, name, accuracy, low, high (percent; 95%
    bootstrap over pairs or clusters; equal scores count half), pairs, trained_on (number of
    training pairs used). Raises InputError as `differences`.
    """
    frame = pd.DataFrame(
        {
            "seed": 0,
            "pair_id": [row.pair_id for row in rows],
            "subset": [row.subset for row in rows],
            "section": [row.section for row in rows],
            "cluster": [row.cluster for row in rows],
        }
    )
    known = {pair.category for pair in train}
    source = frame["section"].where(frame["section"].isin(known), ALL)
    fitted = {s: [pair for pair in train if s in (ALL, pair.category)] for s in source.unique()}
    protocol, parts = Protocol.from_counts("baselines", frame), []
    for name, features in BASELINES.items():
        correct = pd.Series(0.0, index=frame.index)
        for section, places in source.groupby(source).groups.items():
            found = differences(features, fitted[section], [rows[place] for place in places])
            correct[places] = (found > 0) + 0.5 * (found == 0)
        table = section_intervals(frame.assign(correct=correct), protocol, resamples=resamples)
        parts.append(table.assign(baseline=name))
    counts = {section: len(fitted[s]) for section, s in zip(frame["section"], source, strict=True)}
    return _tidy(pd.concat(parts, ignore_index=True), protocol, counts, len(train))


def _tidy(
    table: pd.DataFrame, protocol: Protocol, counts: dict[str, int], every: int
) -> pd.DataFrame:
    """Give the table its columns, in percent; `counts` are the sections' training pairs."""

    def trained_on(level: str, name: str) -> int:
        if level == "average":
            return every
        return counts[name if level == "section" else protocol.section_of(name)]

    table[["accuracy", "low", "high"]] = table[["mean", "low", "high"]].mul(100).round(1).to_numpy()
    places = zip(table["level"], table["name"], strict=True)
    table["trained_on"] = [trained_on(*place) for place in places]
    return table[["baseline", "level", "name", "accuracy", "low", "high", "pairs", "trained_on"]]
