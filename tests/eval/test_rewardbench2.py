"""RewardBench 2: best of four and the Ties score, by hand and against the official package."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from eval import rewardbench2
from eval.statistics import section_intervals
from rm.errors import InputError

RECORD = {
    "id": "7",
    "prompt": "Say hi.",
    "chosen": ["Hi."],
    "rejected": ["No.", "", "What?"],
    "num_correct": 1,
    "subset": "Precise IF",
}


def table(*items: tuple[str, str, list[float], int]) -> pd.DataFrame:
    """Scores for (subset, id, rewards, number of correct ones, which come first)."""
    rows = [
        {
            "item_id": f"{subset}/{identifier}",
            "subset": subset,
            "section": subset,
            "response": index,
            "correct": index < correct,
            "reward": reward,
        }
        for subset, identifier, rewards, correct in items
        for index, reward in enumerate(rewards)
    ]
    return pd.DataFrame(rows)


def random_ties(generator: np.random.Generator, *, coarse: bool) -> list[tuple]:
    """Ties items with an incomplete match of ref and tied; coarse rewards collide often."""
    items = []
    for prompt in range(12):
        for kind, correct in (("ref", 1), ("tied", int(generator.integers(2, 6)))):
            if generator.random() < 0.85 or prompt == 0:
                rewards = generator.normal(size=correct + int(generator.integers(1, 5)))
                rewards[:correct] += generator.choice([0.0, 1.0, 4.0])
                rewards = np.round(rewards) if coarse else rewards
                items.append(("Ties", f"{kind}:{prompt}", rewards.tolist(), correct))
    return items


# --- best of four -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "credit"),
    [
        ([2, 1, 0, 1], 1.0),
        ([1, 2, 0, 0], 0.0),
        ([2, 2, 0, 0], 1 / 2),
        ([2, 2, 2, 0], 1 / 3),
        ([0, 0, 0, 0], 1 / 4),
        ([0, 1, 1, 1], 0.0),
    ],
)
def test_credit_by_hand(rewards: list[float], credit: float) -> None:
    correct = np.array([True, False, False, False])
    assert rewardbench2.best_of(np.array(rewards), correct) == pytest.approx(credit)


def test_several_correct_responses_share_the_credit() -> None:
    correct = np.array([True, True, False])
    assert rewardbench2.best_of(np.array([0.0, 1.0, 0.0]), correct) == 1.0
    assert rewardbench2.best_of(np.array([1.0, 1.0, 1.0]), correct) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_credit_equals_the_official_function(official: SimpleNamespace, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rewards = generator.integers(0, 4, (40, 4)).astype(float)
    flat = {"text": ["x"] * 160, "scores": rewards.ravel(), "id": np.repeat(np.arange(40), 4)}
    scored = official.utils.reroll_and_score_dataset(
        official.utils.Dataset.from_dict(flat), [4] * 40
    )
    correct = np.array([True, False, False, False])
    found = [rewardbench2.best_of(row, correct) for row in rewards]
    assert found == pytest.approx(list(scored["results"]))


# --- ties -------------------------------------------------------------------------------------


def test_ties_score_by_hand() -> None:
    summary = rewardbench2.summarize(
        table(
            ("Ties", "ref:0", [5.0, 1.0], 1),  # margin 4
            ("Ties", "tied:0", [6.0, 5.0, 2.0], 2),  # margin 3, spread 1: preferred, also hard
            ("Ties", "ref:1", [1.0, 2.0], 1),  # margin −1: wrong
            ("Ties", "tied:1", [4.0, 3.0, 1.0], 2),  # margin 2, spread 1: preferred, not hard
        )
    )
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 1 + 0.2 * 0.5
    expected += 0.01 * (np.tanh(3 / 1 - 1) + np.tanh(-1 / 1 - 1)) / 2
    assert summary["subsets"]["Ties"]["accuracy"] == pytest.approx(expected)
    assert summary["sections"]["Ties"] == pytest.approx(expected)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_ties_score_equals_the_official_function(
    official: SimpleNamespace, seed: int, coarse: bool
) -> None:
    items = random_ties(np.random.default_rng(seed), coarse=coarse)
    dataset = [{"id": i, "scores": rewards, "num_correct": k} for _, i, rewards, k in items]
    _, expected = official.utils.process_single_model(dataset)
    summary = rewardbench2.summarize(table(*items))
    assert summary["subsets"]["Ties"]["accuracy"] == pytest.approx(expected)


def test_ties_without_a_reference_score_what_they_can() -> None:
    summary = rewardbench2.summarize(table(("Ties", "tied:0", [6.0, 5.0, 2.0], 2)))
    assert summary["average"] == pytest.approx(0.3)


# --- the summary ------------------------------------------------------------------------------


def test_average_is_the_plain_mean_of_the_subsets() -> None:
    summary = rewardbench2.summarize(
        table(
            ("Math", "1", [1, 0, 0, 0], 1),
            ("Math", "2", [0, 0, 0, 0], 1),
            ("Math", "3", [0, 1, 0, 0], 1),
            ("Focus", "1", [1, 0, 0, 0], 1),
        )
    )
    assert summary["subsets"]["Math"] == pytest.approx(
        {"accuracy": 1.25 / 3, "pairs": 3, "ties": 1}
    )
    assert summary["average"] == pytest.approx((1.25 / 3 + 1) / 2)
    assert (summary["pairs"], summary["ties"]) == (4, 1)
    assert summary["sections"]["Safety"] is None
    assert summary["partial"]["Math"] == ["Math has 3 of 183 rows"]
    assert "1/k" in summary["tie_rule"]
    assert json.loads(json.dumps(summary)) == summary


def test_official_sizes() -> None:
    assert sum(rewardbench2.ROWS.values()) == 1865


def test_intervals_of_best_of_four() -> None:
    items = [("Math", str(i), [1, 0, 0, int(i < 10)], 1) for i in range(20)]
    frame = rewardbench2.outcomes(table(*items, ("Ties", "ref:0", [1.0, 0.0], 1)))
    assert set(frame["subset"]) == {"Math"}
    intervals = section_intervals(frame, rewardbench2.PROTOCOL, resamples=200)
    row = intervals.set_index("level").loc["average"]
    assert row["mean"] == pytest.approx(0.75)
    assert row["low"] < 0.75 < row["high"]


# --- errors -----------------------------------------------------------------------------------


def test_bad_scores_are_errors() -> None:
    good = table(("Math", "1", [1, 0, 0, 0], 1), ("Math", "2", [1, 0, 0, 0], 1))
    with pytest.raises(InputError, match="4 responses occur twice, first in item 'Math/1'"):
        rewardbench2.summarize(pd.concat([good, good.iloc[:4]]))
    with pytest.raises(InputError, match=r"1 of 2 have a NaN .*first 'Math/2'"):
        rewardbench2.summarize(good.assign(reward=[1, 0, 0, 0, 1, np.nan, 0, 0]))
    with pytest.raises(InputError, match="'Math/1' must have correct and incorrect"):
        rewardbench2.summarize(good.assign(correct=False))
    with pytest.raises(InputError, match="unknown subset 'Chat' for rewardbench2; valid: Fact"):
        rewardbench2.summarize(good.assign(subset="Chat"))
    with pytest.raises(InputError, match="lack the columns correct"):
        rewardbench2.summarize(good.drop(columns="correct"))


def test_load_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    ties = {**RECORD, "id": "tied:3", "subset": "ties", "chosen": ["a", "b"], "num_correct": 2}
    path.write_text(json.dumps([RECORD, ties]))
    first, second = rewardbench2.load(str(path))
    assert (first.item_id, first.subset, first.section) == ("Precise IF/7",) + ("Precise IF",) * 2
    assert first.responses == ("Hi.", "No.", "", "What?")
    assert first.correct == (True, False, False, False)
    assert (second.item_id, second.subset) == ("Ties/tied:3", "Ties")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "Hi."}, "row 1: column 'chosen' must be a list of texts"),
        ({"rejected": []}, "row 1: column 'rejected' must be a list of texts"),
        ({"rejected": ["a", None]}, r"row 1: wrong type: rejected\[1\] is a NoneType, not a text"),
        ({"num_correct": 2}, "row 1: num_correct is 2, chosen has 1 texts"),
        ({"subset": "Chat"}, "row 1: unknown subset 'Chat'"),
        ({"subset": "Ties"}, "row 1: an id of Ties must be 'ref:N' or 'tied:N'"),
        ({"prompt": None}, "row 1: missing field: prompt is missing"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**RECORD, **change}))
    with pytest.raises(InputError, match=message):
        rewardbench2.load(str(path))
