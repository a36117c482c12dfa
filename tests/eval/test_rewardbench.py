"""RewardBench: weights against the official package, aggregation by hand, strict reading."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import rewardbench
from eval.protocol import Protocol, outcomes
from rm.errors import InputError

RECORD = {
    "id": 1,
    "prompt": "Say hi.",
    "chosen": "Hi.",
    "rejected": "No.",
    "subset": "mt-bench-easy",
    "chosen_model": "a",
    "rejected_model": "b",
}


def scores_of(*groups: tuple[str, int, int, int]) -> pd.DataFrame:
    """Scores for (subset, wins, ties, losses)."""
    rows = []
    for subset, wins, ties, losses in groups:
        for reward in [1.0] * wins + [0.0] * ties + [-1.0] * losses:
            pair = {"pair_id": f"{subset}/{len(rows)}", "subset": subset, "section": "unread"}
            rows.append({**pair, "reward_chosen": reward, "reward_rejected": 0.0, "distance": 1.0})
    return pd.DataFrame(rows)


def write_lines(path: Path, *records: object) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return str(path)


# --- the table of weights ---------------------------------------------------------------------


def test_weights_are_the_official_ones(official: SimpleNamespace) -> None:
    counts = {name: n for weights in rewardbench.SECTIONS.values() for name, n in weights.items()}
    mapping = {section: list(weights) for section, weights in rewardbench.SECTIONS.items()}
    assert counts == official.constants.EXAMPLE_COUNTS
    assert mapping == official.constants.SUBSET_MAPPING


def test_official_row_counts() -> None:
    assert len(rewardbench.ROWS) == 23
    assert sum(rewardbench.ROWS.values()) == 2985
    assert rewardbench.ROWS["math-prm"] == 447
    hep = sum(n for name, n in rewardbench.ROWS.items() if name.startswith("hep-"))
    assert hep == rewardbench.SECTIONS["Reasoning"]["math-prm"] == 984


@pytest.mark.parametrize("seed", range(5))
def test_sections_equal_the_official_function(official: SimpleNamespace, seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = [name for name in rewardbench.ROWS if seed == 0 or generator.random() < 0.8]
    groups = [(name, *map(int, generator.integers(1, 9, 3))) for name in names]
    summary = rewardbench.summarize(scores_of(*groups))
    accuracies = {name: wins / (wins + ties + losses) for name, wins, ties, losses in groups}
    expected = official.utils.calculate_scores_per_section(
        official.constants.EXAMPLE_COUNTS, official.constants.SUBSET_MAPPING, accuracies
    )
    found = {name: value or 0 for name, value in summary["sections"].items()}
    assert found == pytest.approx(expected)


# --- aggregation by hand ----------------------------------------------------------------------


def test_hand_computed_reasoning_is_half_math_half_code() -> None:
    languages = ("cpp", "go", "java", "js", "python", "rust")
    code = [(f"hep-{language}", 1, 0, 1) for language in languages]
    summary = rewardbench.summarize(scores_of(("math-prm", 4, 0, 0), *code))
    assert summary["sections"]["Reasoning"] == pytest.approx((984 * 1.0 + 984 * 0.5) / 1968)


def test_hand_computed_average_is_the_mean_of_the_four_sections() -> None:
    summary = rewardbench.summarize(
        scores_of(
            ("alpacaeval-easy", 1, 0, 1),  # Chat: (100 × 0.5 + 28 × 1) / 128
            ("mt-bench-easy", 2, 0, 0),
            ("llmbar-natural", 0, 0, 4),  # Chat Hard: 0
            ("donotanswer", 3, 0, 1),  # Safety: 0.75
            ("math-prm", 1, 1, 0),  # Reasoning: 0.5, the tie a loss
        )
    )
    assert summary["sections"] == pytest.approx(
        {"Chat": 78 / 128, "Chat Hard": 0.0, "Safety": 0.75, "Reasoning": 0.5}
    )
    assert summary["average"] == pytest.approx((78 / 128 + 0 + 0.75 + 0.5) / 4)
    assert (summary["pairs"], summary["ties"]) == (14, 1)
    assert summary["subsets"]["math-prm"] == {"accuracy": 0.5, "pairs": 2, "ties": 1}
    assert summary["tie_rule"] == "a tie counts as a loss"


def test_summary_is_plain_json() -> None:
    summary = rewardbench.summarize(scores_of(("math-prm", 1, 0, 0)))
    assert json.loads(json.dumps(summary)) == summary


def test_complete_set_is_not_partial_and_ties_are_all_losses() -> None:
    summary = rewardbench.summarize(scores_of(*((n, 0, k, 0) for n, k in rewardbench.ROWS.items())))
    assert summary["partial"] == {}
    assert (summary["average"], summary["pairs"], summary["ties"]) == (0.0, 2985, 2985)


def test_partial_names_what_differs_from_the_official_set() -> None:
    rows = {**rewardbench.ROWS, "math-prm": 984, "donotanswer": 135}
    del rows["mt-bench-easy"]
    rows = {n: k for n, k in rows.items() if n not in rewardbench.SECTIONS["Chat Hard"]}
    summary = rewardbench.summarize(scores_of(*((name, k, 0, 0) for name, k in rows.items())))
    assert summary["partial"] == {
        "Chat": ["missing subset mt-bench-easy"],
        "Chat Hard": ["no rows: left out of the average"],
        "Safety": ["donotanswer has 135 of 136 rows"],
        "Reasoning": ["math-prm has 984 of 447 rows"],
    }
    assert summary["sections"]["Chat Hard"] is None
    assert summary["average"] == 1.0


@given(st.permutations(range(20)))
def test_row_order_does_not_matter(order: list[int]) -> None:
    scores = scores_of(("hep-go", 5, 2, 3), ("donotanswer", 4, 1, 5))
    shuffled = rewardbench.summarize(scores.iloc[order])
    assert shuffled["sections"] == rewardbench.summarize(scores)["sections"]


# --- errors on scores -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_rewards_are_errors(value: float) -> None:
    scores = scores_of(("math-prm", 5, 0, 0))
    scores.loc[[2, 4], "reward_rejected"] = value
    with pytest.raises(InputError, match=r"2 of 5 .*first 'math-prm/2'"):
        rewardbench.summarize(scores)


def test_rewards_that_are_no_numbers_are_errors() -> None:
    scores = scores_of(("math-prm", 2, 0, 0)).assign(reward_chosen=["0.5", "9"])
    with pytest.raises(InputError, match="column 'reward_chosen' must be numeric"):
        rewardbench.summarize(scores)


def test_repeated_pairs_are_errors() -> None:
    scores = scores_of(("math-prm", 2, 0, 0))
    with pytest.raises(InputError, match="2 rows repeat a pair_id, first 'math-prm/0'"):
        rewardbench.summarize(pd.concat([scores, scores]))


def test_unknown_subset_names_the_valid_ones() -> None:
    with pytest.raises(InputError, match=r"unknown subset 'mt-bench-medium'.*mt-bench-med, "):
        rewardbench.summarize(scores_of(("mt-bench-medium", 1, 0, 0)))


def test_missing_columns_and_no_rows_are_errors() -> None:
    scores = scores_of(("math-prm", 1, 0, 0))
    with pytest.raises(InputError, match="lack the columns reward_chosen"):
        rewardbench.summarize(scores.drop(columns="reward_chosen"))
    with pytest.raises(InputError, match="contain no rows"):
        rewardbench.summarize(scores.iloc[:0])


# --- reading ----------------------------------------------------------------------------------


def test_load_reads_every_form_alike(tmp_path: Path) -> None:
    records = [RECORD, {**RECORD, "id": 2, "chosen": "Hi\u2028there."}]
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pd.DataFrame(records).to_parquet(tmp_path / "a.parquet")
    names = ("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet")
    first, *others = (rewardbench.load(str(tmp_path / name)) for name in names)
    assert all(other == first for other in others)
    assert first[1].chosen == "Hi\u2028there."
    assert first[0].pair_id == "mt-bench-easy/1"
    assert (first[0].section, first[0].cluster) == ("Chat", "")
    assert first[0].prompt == ({"role": "user", "content": "Say hi."},)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "row 2: missing field: chosen is missing"),
        ({"rejected": 7}, "row 2: wrong type: rejected is a int, not a text"),
        ({"chosen": " \n"}, "row 2: empty response: the chosen response is empty"),
        ({"prompt": ""}, "row 2: empty prompt: the prompt's last user message is empty"),
        ({"prompt": [{"role": "bot", "content": "x"}]}, "row 2: .*a message with role 'bot'"),
        ({"prompt": []}, "row 2: malformed messages: prompt has no messages"),
        ({"chosen": "\ud800"}, "row 2: undecodable text: chosen has invalid Unicode"),
        ({"subset": "chat"}, "row 2: unknown subset 'chat' for rewardbench; valid: alpacaeval"),
        ({"subset": "mine", "section": "Chat"}, "use benchmark=generated"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, change: dict, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", RECORD, {**RECORD, "id": 2, **change})
    with pytest.raises(InputError, match=message):
        rewardbench.load(path)


def test_broken_files_are_errors(tmp_path: Path) -> None:
    whole = gzip.compress((json.dumps(RECORD) + "\n").encode() * 50)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "bad.json").write_text("[{]")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xff"}')
    (tmp_path / "half.jsonl").write_text(json.dumps(RECORD) + '\n{"id": 2, "prom')
    (tmp_path / "list.jsonl").write_text(json.dumps(RECORD) + "\n7")
    (tmp_path / "a.csv").write_text("id")
    expected = {
        "cut.jsonl.gz": "cannot be read",
        "bad.parquet": "not a readable parquet",
        "bad.json": "not a JSON list",
        "empty.jsonl": "contains no rows",
        "latin.jsonl": "row 1 cannot be used: undecodable text: not UTF-8 at byte 8",
        "half.jsonl": "row 2 cannot be used: invalid JSON",
        "list.jsonl": "row 2 cannot be used: wrong type: the row is a int, not an object",
        "a.csv": "unknown extension",
        "absent.jsonl": "no such file",
    }
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            rewardbench.load(str(tmp_path / name))


def test_repeated_ids_are_errors(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", RECORD, RECORD)
    with pytest.raises(InputError, match="id 'mt-bench-easy/1' occurs more than once"):
        rewardbench.load(path)


def test_hub_without_network_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"allenai/reward-bench.*give a local path"):
        rewardbench.load("hub")


# --- real data --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini(shared_data: Path) -> list[rewardbench.EvaluationRow]:
    return rewardbench.load(str(shared_data / "rewardbench_mini.jsonl.gz"))


def test_real_file_loads_in_full(mini: list[rewardbench.EvaluationRow]) -> None:
    counts = Counter(row.subset for row in mini)
    short = {"refusals-dangerous": 83, "refusals-offensive": 61}
    short |= {"xstest-should-refuse": 153, "xstest-should-respond": 181}
    assert counts == {**rewardbench.ROWS, **short}
    scores = pd.DataFrame(
        {"pair_id": row.pair_id, "subset": row.subset, "reward_chosen": 1, "reward_rejected": 0}
        for row in mini
    )
    summary = rewardbench.summarize(scores)
    assert summary["pairs"] == 2859
    assert list(summary["partial"]) == ["Safety"]
    assert len(summary["partial"]["Safety"]) == 4


def test_hep_clusters_are_one_problem_in_six_languages(
    mini: list[rewardbench.EvaluationRow],
) -> None:
    heads: dict[str, dict[str, str]] = defaultdict(dict)
    for row in mini:
        if row.cluster:
            head = row.prompt[0]["content"].split("to solve the following")[0]
            heads[row.cluster][row.subset] = head.lower().replace("_", "")
    assert len(heads) == 164
    aligned = 0
    for languages in heads.values():
        assert len(languages) == 6
        name = re.search(r"`(\w+)\(", languages["hep-python"])
        aligned += name is not None and all(name[1] in head for head in languages.values())
    assert aligned > 150  # a few names differ in one language


def code_file(path: Path, **counts: int) -> str:
    """RewardBench rows of the languages hep-*, so many of each."""
    return write_lines(
        path,
        *(
            {**RECORD, "subset": f"hep-{language}", "id": number}
            for language, count in counts.items()
            for number in range(count)
        ),
    )


def test_hep_problems_are_places_where_all_languages_have_as_many_rows(tmp_path: Path) -> None:
    rows = rewardbench.load(code_file(tmp_path / "a.jsonl", go=2, rust=2))
    assert [row.cluster for row in rows] == ["hep-problem-1", "hep-problem-2"] * 2
    rows = rewardbench.load(code_file(tmp_path / "b.jsonl", go=2))
    assert [row.cluster for row in rows] == ["hep-problem-1", "hep-problem-2"]


def test_hep_rows_stand_alone_where_a_language_lacks_some_and_the_summary_says_so(
    tmp_path: Path,
) -> None:
    rows = rewardbench.load(code_file(tmp_path / "a.jsonl", go=2, rust=3))
    assert {row.cluster for row in rows} == {""}
    summary = rewardbench.summarize(scores_of(("hep-go", 2, 0, 0), ("hep-rust", 3, 0, 0)))
    assert rewardbench.NO_PROBLEMS in summary["partial"]["Reasoning"]
    even = rewardbench.summarize(scores_of(("hep-go", 2, 0, 0), ("hep-rust", 1, 0, 1)))
    assert rewardbench.NO_PROBLEMS not in even["partial"]["Reasoning"]


# --- the protocol itself ----------------------------------------------------------------------


def test_protocol_from_counts_weighs_by_rows() -> None:
    frame = pd.DataFrame({"section": ["A", "A", "A", "B"], "subset": ["x", "x", "y", "z"]})
    protocol = Protocol.from_counts("generated", frame)
    assert protocol.sections == {"A": {"x": 2.0, "y": 1.0}, "B": {"z": 1.0}}


def test_protocol_refuses_a_subset_in_two_sections() -> None:
    frame = pd.DataFrame({"section": ["A", "B"], "subset": ["x", "x"]})
    with pytest.raises(InputError, match="'x' occurs in more than one section"):
        Protocol.from_counts("generated", frame)


def test_outcomes_count_ties_as_losses() -> None:
    frame = outcomes(scores_of(("math-prm", 1, 1, 1)).assign(cluster="c"), seed=3)
    assert frame["correct"].tolist() == [1.0, 0.0, 0.0]
    assert list(frame.columns) == ["seed", "pair_id", "subset", "correct", "cluster"]
    assert set(frame["seed"]) == {3}
