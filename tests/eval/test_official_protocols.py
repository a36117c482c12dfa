"""Protocols against official code and official rules, 200 random score assignments each."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from eval import judgebench, rewardbench, rewardbench2, rm_bench
from tests.eval.test_rewardbench2 import random_ties
from tests.eval.test_rewardbench2 import table as ties_table
from tests.eval.test_rm_bench import table as styles_table

ASSIGNMENTS = range(200)


def rewards_of(generator: np.random.Generator, size: int, trial: int) -> np.ndarray:
    """Random rewards; in every second trial whole numbers, which often tie."""
    found = generator.normal(size=size) + generator.normal()
    return np.round(found) if trial % 2 else found


def test_rewardbench_equals_the_official_sections(official: SimpleNamespace) -> None:
    """Every fourth trial lacks subsets; a section that is wholly missing is 0 there, None here."""
    constants = official.constants
    for trial in ASSIGNMENTS:
        generator = np.random.default_rng(trial)
        names = [n for n in rewardbench.ROWS if trial % 4 or generator.random() < 0.5]
        subsets = np.repeat(names, generator.integers(1, 12, len(names)))
        scores = pd.DataFrame({"pair_id": map(str, range(len(subsets))), "subset": subsets})
        scores["reward_chosen"] = rewards_of(generator, len(subsets), trial)
        scores["reward_rejected"] = rewards_of(generator, len(subsets), trial)
        correct = scores["reward_chosen"] > scores["reward_rejected"]
        theirs = official.utils.calculate_scores_per_section(
            constants.EXAMPLE_COUNTS, constants.SUBSET_MAPPING, correct.groupby(subsets).mean()
        )
        summary = rewardbench.summarize(scores)
        missing = {name for name, notes in summary["partial"].items() if "no rows" in notes[0]}
        assert {name for name, value in summary["sections"].items() if value is None} == missing
        assert {n: v or 0 for n, v in summary["sections"].items()} == pytest.approx(theirs)
        present = [value for name, value in theirs.items() if name not in missing]
        assert summary["average"] == pytest.approx(np.mean(present))


def test_rewardbench2_equals_the_released_package(official: SimpleNamespace) -> None:
    """Best of four, and Ties; where all correct answers score equally, the newest code differs."""
    count = 8 * len(ASSIGNMENTS)
    drawn = [rewards_of(np.random.default_rng(n), 4 * 8, n) for n in ASSIGNMENTS]
    rows = {"scores": np.concatenate(drawn), "id": np.repeat(np.arange(count), 4)}
    rows["text"] = ["x"] * len(rows["id"])
    scored = official.utils.reroll_and_score_dataset(Dataset.from_dict(rows), [4] * count)
    credit = np.reshape(scored["results"], (-1, 8)).mean(axis=1)
    for trial, rewards in zip(ASSIGNMENTS, drawn, strict=True):
        generator = np.random.default_rng(trial)
        ties = random_ties(generator, coarse=bool(trial % 2))
        marked = [{"id": i, "scores": given, "num_correct": k} for _, i, given, k in ties]
        _, expected = official.utils.process_single_model(marked)
        focus = [("Focus", str(n), [*own], 1) for n, own in enumerate(rewards.reshape(8, 4))]
        summary = rewardbench2.summarize(ties_table(*focus, *ties))
        assert summary["sections"]["Focus"] == pytest.approx(credit[trial])
        assert summary["sections"]["Ties"] == pytest.approx(expected)
        assert "rewardbench 0.1.4" in summary["tie_rule"]


def rm_bench_by_prefix(items: list[tuple[str, np.ndarray]]) -> dict[str, float]:
    """RM-Bench's official helper in words: pool all items whose domain starts with the section's.

    A comparison is hard where the rejected response has the fancier style. The score of a section
    is the mean of its three difficulties.
    """
    found: dict[str, list[float]] = {"easy": [], "normal": [], "hard": []}
    scores = {}
    for section in ("chat", "code", "math", "safety"):
        own = [rewards for domain, rewards in items if domain.startswith(section)]
        for name, places in (
            ("easy", [(1, 0), (2, 0), (2, 1)]),
            ("normal", [(0, 0), (1, 1), (2, 2)]),
            ("hard", [(0, 1), (0, 2), (1, 2)]),
        ):
            found[name].append(np.mean([r[i] > r[3 + j] for r in own for i, j in places]))
        scores[section] = float(np.mean([found[name][-1] for name in found]))
    return scores | {name: float(np.mean(values)) for name, values in found.items()}


def test_rm_bench_equals_the_official_rule() -> None:
    """That of scripts/utils.py, revision 73c52d7, which cannot be installed."""
    domains = ("chat", "code", "math", *rm_bench.SAFETY)
    for trial in ASSIGNMENTS:
        generator = np.random.default_rng(trial)
        sizes = generator.integers(1, 9, len(domains))
        items = [(domain, rewards_of(generator, 6, trial)) for domain in np.repeat(domains, sizes)]
        summary = rm_bench.summarize(styles_table(*((d, [*r]) for d, r in items)))
        expected = rm_bench_by_prefix(items)
        found = summary["sections"] | summary["difficulties"]
        assert found == pytest.approx(expected)
        assert summary["average"] == pytest.approx(
            np.mean([expected[name] for name in summary["sections"]])
        )


def test_judgebench_equals_the_game_in_both_orders() -> None:
    """Its official score: a judge sees A, B, then B, A; right if it is right more often than wrong.

    A reward model gives the same answer in both orders, and none where the rewards tie.
    """
    for trial in ASSIGNMENTS:
        generator = np.random.default_rng(trial)
        subsets = np.repeat([*judgebench.ROWS], generator.integers(1, 12, 4))
        scores = pd.DataFrame({"pair_id": map(str, range(len(subsets))), "subset": subsets})
        scores["reward_chosen"] = rewards_of(generator, len(subsets), trial)
        scores["reward_rejected"] = rewards_of(generator, len(subsets), trial)
        order = np.sign(scores["reward_chosen"] - scores["reward_rejected"])
        won = (order + order > 0).to_numpy()
        summary = judgebench.summarize(scores)
        assert summary["overall"] == pytest.approx(won.mean())
        for name, value in summary["sections"].items():
            assert value == pytest.approx(won[subsets == name].mean())
