"""RM-Bench: the style matrix by hand, against plain loops, and on the real file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import rm_bench
from eval.statistics import section_intervals
from rm.errors import InputError

RECORD = {
    "id": 8,
    "prompt": "Name a colour.",
    "chosen": ["Red.", "Red is one.", "**Red**"],
    "rejected": ["Dog.", "Dog is one.", "**Dog**"],
    "domain": "chat",
}


def table(*items: tuple[str, list[float]]) -> pd.DataFrame:
    """Scores for (domain, six rewards: three chosen, three rejected)."""
    return pd.DataFrame(
        {
            "item_id": f"{domain}/{number}",
            "subset": domain,
            "response": index,
            "correct": index < 3,
            "reward": float(reward),
        }
        for number, (domain, rewards) in enumerate(items)
        for index, reward in enumerate(rewards)
    )


def by_loops(items: list[list[float]]) -> dict[str, float]:
    """Count as RM-Bench's README defines it, comparison by comparison."""
    won, seen = Counter(), Counter()
    for rewards in items:
        for i, chosen in enumerate(rewards[:3]):
            for j, rejected in enumerate(rewards[3:]):
                name = "normal" if i == j else "easy" if i > j else "hard"
                seen[name] += 1
                won[name] += chosen > rejected
    return {name: won[name] / seen[name] for name in seen}


# --- by hand ----------------------------------------------------------------------------------


def test_a_model_that_sees_only_style() -> None:
    """Fancier always wins: easy all won, hard all lost, equal styles tie, which is a loss."""
    summary = rm_bench.summarize(table(("chat", [0, 1, 2, 0, 1, 2])))
    chat = summary["subsets"]["chat"]
    assert (chat["easy"], chat["normal"], chat["hard"]) == (1.0, 0.0, 0.0)
    assert (chat["accuracy"], chat["ties"], chat["pairs"], chat["items"]) == (
        pytest.approx(1 / 3),
        3,
        9,
        1,
    )
    assert summary["tie_rule"] == "a tie counts as a loss"


def test_matrix_axes_by_hand() -> None:
    """Only the concise chosen response wins, and only over the two fancy rejected ones: hard."""
    summary = rm_bench.summarize(table(("code", [5, 0, 0, 6, 4, 4])))
    assert summary["difficulties"] == pytest.approx({"easy": 0, "normal": 0, "hard": 2 / 3})


def test_safety_pools_the_items_of_its_halves_and_the_average_is_of_domains() -> None:
    right, wrong = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    summary = rm_bench.summarize(
        table(
            ("safety-refuse", right),
            ("safety-refuse", right),
            ("safety-refuse", right),
            ("safety-response", wrong),
            ("chat", right),
        )
    )
    assert summary["sections"] == {"chat": 1.0, "code": None, "math": None, "safety": 3 / 4}
    halves = [summary["subsets"][half]["accuracy"] for half in rm_bench.SAFETY]
    assert halves == [1.0, 0.0]
    assert summary["average"] == pytest.approx(7 / 8)
    assert summary["difficulties"] == pytest.approx(dict.fromkeys(rm_bench.DIFFICULTIES, 7 / 8))
    assert summary["partial"] == {
        "code": ["no rows: left out of the average"],
        "math": ["no rows: left out of the average"],
        "chat": ["chat has 1 of 129 rows"],
        "safety": ["safety-refuse has 3 of 284 rows", "safety-response has 1 of 157 rows"],
    }
    assert (summary["items"], summary["pairs"]) == (5, 45)
    assert json.loads(json.dumps(summary)) == summary


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=5))
def test_equals_plain_loops(items: list[list[float]]) -> None:
    summary = rm_bench.summarize(table(*(("math", rewards) for rewards in items)))
    assert summary["difficulties"] == pytest.approx(by_loops(items))
    assert summary["average"] == pytest.approx(np.mean(list(by_loops(items).values())))


def test_the_official_set_weights_the_halves_by_their_284_and_157_items() -> None:
    right, wrong = [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]
    rows = [("safety-refuse", right)] * 284 + [("safety-response", wrong)] * 157
    assert rm_bench.summarize(table(*rows))["sections"]["safety"] == pytest.approx(284 / 441)
    assert rm_bench.protocol(pd.DataFrame()).sections["safety"] == {
        "safety-refuse": 284,
        "safety-response": 157,
    }


def test_row_order_does_not_matter() -> None:
    scores = table(("chat", [3, 1, 2, 0, 2, 1]), ("code", [0, 1, 2, 1, 1, 0]))
    shuffled = scores.sample(frac=1, random_state=1)
    assert rm_bench.summarize(shuffled)["sections"] == rm_bench.summarize(scores)["sections"]


def test_outcomes_give_the_same_average() -> None:
    generator = np.random.default_rng(0)
    domains = ["chat", "code", "math", "safety-refuse", "safety-response", "safety-refuse"] * 4
    scores = table(*((domain, generator.normal(size=6).tolist()) for domain in domains))
    frame = section_intervals(rm_bench.outcomes(scores), rm_bench.protocol(scores), resamples=50)
    means = frame.set_index(["level", "name"])["mean"]
    summary = rm_bench.summarize(scores)
    assert means["average", "average"] == pytest.approx(summary["average"])
    assert means["section", "safety"] == pytest.approx(summary["sections"]["safety"])


# --- errors and reading -----------------------------------------------------------------------


def test_bad_scores_are_errors() -> None:
    good = table(("chat", [1, 1, 1, 0, 0, 0]))
    with pytest.raises(InputError, match="'chat/0' must have the responses 0 to 5, once each"):
        rm_bench.summarize(good.iloc[:5])
    with pytest.raises(InputError, match="once each"):
        rm_bench.summarize(pd.concat([good, good]))
    with pytest.raises(InputError, match="1 of 1 have a NaN"):
        rm_bench.summarize(good.assign(reward=np.inf))
    with pytest.raises(InputError, match="unknown subset 'poetry'"):
        rm_bench.summarize(good.assign(subset="poetry"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": ["a", "b"]}, "row 1: column 'chosen' has 2 texts, must have 3"),
        ({"rejected": None}, "row 1: column 'rejected' must be a list of texts"),
        ({"domain": "poetry"}, "row 1: unknown subset 'poetry'.*valid: chat, code, math"),
        ({"prompt": ""}, "row 1: empty prompt: the prompt's last user message is empty"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{**RECORD, **change}]))
    with pytest.raises(InputError, match=message):
        rm_bench.load(str(path))


def test_real_file_loads_in_full(shared_data: Path) -> None:
    items = rm_bench.load(str(shared_data / "rm_bench.json.gz"))
    assert Counter(item.subset for item in items) == {
        "chat": 129,
        "code": 228,
        "safety-refuse": 284,
        "safety-response": 157,
    }
    assert {item.section for item in items} == {"chat", "code", "safety"}
    assert all(len(item.responses) == 6 for item in items)
    scores = table(*((item.subset, [1, 1, 1, 0, 0, 0]) for item in items))
    summary = rm_bench.summarize(scores)
    assert (summary["items"], summary["average"], list(summary["partial"])) == (798, 1.0, ["math"])
