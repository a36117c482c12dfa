"""JudgeBench, pairs of one's own, and the generated test set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import judgebench, pairs
from eval.rows import EvaluationRow
from rm.data.preferences import load_preferences
from rm.errors import InputError
from tests.messages import assistant as said

JUDGED = {
    "pair_id": "a",
    "source": "mmlu-pro-law",
    "question": "Why?",
    "response_A": "first",
    "response_B": "second",
    "label": "B>A",
}
PAIR = {"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No.", "category": "greeting"}


def write_lines(path: Path, *records: object) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def score(rows: list[EvaluationRow], rewards: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pair_id": row.pair_id,
            "subset": row.subset,
            "section": row.section,
            "reward_chosen": reward,
            "reward_rejected": 0.0,
            "distance": 1.0,
        }
        for row, reward in zip(rows, rewards, strict=True)
    )


# --- The same forms as in training -------------------------------------------------------------

TALK = [
    {"role": "system", "content": ""},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "2+2?"},
]


def sharegpt(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


START = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant:"
FORMS = {
    "texts": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "messages": {"prompt": TALK, "chosen": [said("4")], "rejected": [said("5")]},
    "whole": {"chosen": [*TALK, said("4")], "rejected": [*TALK, said("5")]},
    "sharegpt": {"chosen": sharegpt([*TALK, said("4")]), "rejected": sharegpt([*TALK, said("5")])},
    "transcripts": {"chosen": START + " 4", "rejected": START + " 5"},
    "first turn": {
        "prompt": "Hi ",
        "chosen": [*TALK[1:], said("4")],
        "rejected": [*TALK[1:], said("5")],
    },
    "parted": {"prompt": "Hi", "chosen": [*TALK[1:], said("4")], "rejected": [said("5")]},
    "rated": {
        "conv_A": [*TALK, said("5")],
        "conv_B": [*TALK, said("4")],
        "conv_A_rating": 1,
        "conv_B_rating": 2,
    },
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_every_form_is_read_as_in_training(row: dict, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", row | {"category": "Chat", "id": 7})
    (trained,), _ = load_preferences(path, seed=0)
    (made,) = pairs.load(path)
    assert (made.pair_id, made.category) == (trained.pair_id, trained.category) == ("7", "Chat")
    assert (made.prompt, made.sides) == (trained.prompt, trained.sides)
    assert (made.chosen, made.rejected) == ("4", "5")
    expected = {"texts": TALK[3:], "transcripts": TALK[1:], "first turn": TALK[1:]}
    name = next(name for name, form in FORMS.items() if form is row)
    if name == "parted":
        assert made.prompt == (TALK[1],) and made.sides == ((*TALK[2:], said("4")), (said("5"),))
    else:
        asked = [turn | {"content": turn["content"].strip()} for turn in made.prompt]
        assert asked == expected.get(name, TALK)


ODD = st.none() | st.integers(-2, 2) | st.text(max_size=3) | st.lists(st.text(max_size=2))
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": st.just("a") | ODD}
)
COLUMN = ODD | st.lists(TURN, max_size=3)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from(list(FORMS.values())),
    changes=st.dictionaries(
        st.sampled_from(["prompt", "chosen", "rejected", "conv_A", "margin", "id", "source"]),
        COLUMN,
        max_size=2,
    ),
)
def test_evaluation_refuses_what_training_drops_and_nothing_else(
    base: dict, changes: dict, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """But for pairs of identical texts, which an evaluation scores as the tie that they are."""
    row = {**base, **changes, "category": "Chat"}
    path = write_lines(tmp_path_factory.mktemp("rows") / "rows.jsonl", row)
    try:
        kept, problem = load_preferences(path)[0], ""
    except InputError as error:
        kept, problem = [], str(error)
    if problem and "identical pair" not in problem:
        with pytest.raises(InputError, match=r"rows\.jsonl: "):
            pairs.load(path)
        return
    (made,) = pairs.load(path)
    for pair in kept:
        assert (made.prompt, made.sides) == (pair.prompt, pair.sides)
    assert bool(kept) == (made.chosen.strip() != made.rejected.strip())


def test_a_transcript_is_read_as_in_training(tmp_path: Path) -> None:
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    row = {"prompt": start, "chosen": "yes", "rejected": start + " no", "category": "x"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (made,) = pairs.load(str(tmp_path / "rows.jsonl"))
    (trained,), _ = load_preferences(tmp_path / "rows.jsonl")
    assert made.prompt == trained.prompt and len(made.prompt) == 3
    assert (made.chosen, made.rejected) == (trained.chosen, trained.rejected) == ("yes", "no")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | {"prompt": "else"}) + "\n")
    with pytest.raises(InputError, match="rejected is a conversation that does not start with"):
        pairs.load(str(tmp_path / "rows.jsonl"))


# --- JudgeBench -------------------------------------------------------------------------------


def test_the_label_decides_which_response_is_chosen(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", JUDGED, {**JUDGED, "pair_id": "b", "label": "A>B"})
    first, second = judgebench.load(path)
    assert (first.chosen, first.rejected) == ("second", "first")
    assert (second.chosen, second.rejected) == ("first", "second")
    assert (first.section, first.pair_id) == ("knowledge", "a")


@pytest.mark.parametrize(
    ("source", "category"),
    [
        ("mmlu-pro-math", "knowledge"),
        ("livebench-reasoning", "reasoning"),
        ("livebench-math", "math"),
        ("livecodebench", "coding"),
    ],
)
def test_categories(source: str, category: str) -> None:
    assert judgebench.category_of(source) == category


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "A=B"}, "row 1: column 'label' must be 'A>B' or 'B>A', not 'A=B'"),
        ({"source": "gsm8k"}, "row 1: unknown source 'gsm8k'; known: mmlu-pro"),
        ({"response_A": None}, "row 1: column 'response_A' is missing or null"),
    ],
)
def test_malformed_judgebench_row_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        judgebench.load(write_lines(tmp_path / "a.jsonl", {**JUDGED, **change}))


def test_judgebench_on_the_real_file(shared_data: Path) -> None:
    rows = judgebench.load(str(shared_data / "judgebench.jsonl.gz"))
    assert Counter(row.subset for row in rows) == judgebench.ROWS
    won = {"knowledge": 1.0, "reasoning": 1.0, "math": -1.0, "coding": 0.0}
    summary = judgebench.summarize(score(rows, [won[row.subset] for row in rows]))
    assert summary["partial"] == {}
    assert summary["sections"] == {"knowledge": 1, "reasoning": 1, "math": 0, "coding": 0}
    assert summary["average"] == 0.5
    assert summary["overall"] == pytest.approx((154 + 98) / 350)
    assert (summary["pairs"], summary["ties"]) == (350, 42)


# --- pairs of one's own -----------------------------------------------------------------------


def test_three_forms_of_the_same_pair(tmp_path: Path) -> None:
    user = {"role": "user", "content": "Say hi."}
    answers = [{"role": "assistant", "content": text} for text in ("Hi.", "No.")]
    messages = {**PAIR, "prompt": [user]}
    whole = {"category": "greeting", "chosen": [user, answers[0]], "rejected": [user, answers[1]]}
    last = {**PAIR, "chosen": [answers[0]], "rejected": [answers[1]]}
    rows = pairs.load(write_lines(tmp_path / "a.jsonl", PAIR, messages, whole, last))
    assert [row.pair_id for row in rows] == ["1", "2", "3", "4"]
    assert len({(row.prompt, row.chosen, row.rejected)[1:] for row in rows}) == 1
    assert all(row.prompt == (user,) for row in rows)


def test_weights_are_the_row_counts(tmp_path: Path) -> None:
    other = {**PAIR, "category": "sums"}
    rows = pairs.load(write_lines(tmp_path / "a.jsonl", PAIR, PAIR, PAIR, other))
    summary = pairs.summarize(score(rows, [1, 1, -1, 0]))
    assert summary["sections"] == pytest.approx({"greeting": 2 / 3, "sums": 0.0})
    assert summary["average"] == pytest.approx(1 / 3)
    assert (summary["benchmark"], summary["partial"], summary["ties"]) == ("pairs", {}, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": None}, "row 1: column 'category' is missing"),
        ({"chosen": None}, "row 1: missing field: chosen is missing"),
        ({"chosen": " "}, "row 1: empty response: the chosen response is empty"),
        ({"margin": 0}, "row 1: tie: margin is 0"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "the prompt ends with a assistant"),
        ({"chosen": [{"role": "user", "content": "x"}]}, "chosen is a conversation that does not"),
        ({"rejected": [{"role": "user"}]}, "rejected has a message whose content is a NoneType"),
        ({"rejected": ["No."]}, "malformed messages: rejected holds a str, not a message"),
    ],
)
def test_malformed_pair_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pairs.load(write_lines(tmp_path / "a.jsonl", {**PAIR, **change}))


def test_conversations_must_share_their_prompt(tmp_path: Path) -> None:
    def talk(prompt: str, role: str = "assistant") -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": role, "content": "x"}]

    for change, message in (
        ({"chosen": talk("a"), "rejected": talk("b")}, "the two sides share no prompt message"),
        (
            {"chosen": talk("a", "user"), "rejected": talk("a", "user")},
            "begins with a user message",
        ),
    ):
        with pytest.raises(InputError, match=message):
            pairs.load(write_lines(tmp_path / "a.jsonl", {"category": "greeting", **change}))


def test_repeated_ids_are_errors(tmp_path: Path) -> None:
    row = {**PAIR, "id": 4}
    with pytest.raises(InputError, match="id '4' occurs more than once"):
        pairs.load(write_lines(tmp_path / "a.jsonl", row, row))


def test_hub_has_no_such_set() -> None:
    with pytest.raises(InputError, match="give data=PATH"):
        pairs.load("hub")


# --- generated --------------------------------------------------------------------------------


def test_generated_set_goes_through_the_same_aggregation(tmp_path: Path) -> None:
    rows = [
        {**PAIR, "subset": "sums-easy", "section": "Reasoning", "cluster": 3},
        {**PAIR, "subset": "sums-hard", "section": "Reasoning", "cluster": 3},
        {**PAIR, "subset": "sums-hard", "section": "Reasoning"},
        {**PAIR, "subset": "greet", "section": "Chat"},
    ]
    loaded = pairs.load(write_lines(tmp_path / "a.jsonl", *rows), benchmark="generated")
    assert [row.cluster for row in loaded] == ["3", "3", "", ""]
    scores = score(loaded, [1, 1, -1, 1])
    summary = pairs.summarize(scores, "generated")
    assert summary["benchmark"] == "generated"
    assert summary["sections"] == pytest.approx({"Reasoning": 2 / 3, "Chat": 1.0})
    assert summary["subsets"]["sums-hard"] == {"accuracy": 0.5, "pairs": 2, "ties": 0}
    protocol = pairs.protocol(scores, "generated")
    assert protocol.sections["Reasoning"] == {"sums-easy": 1.0, "sums-hard": 2.0}


def test_generated_rows_need_a_section(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 1: column 'section' is missing"):
        pairs.load(
            write_lines(tmp_path / "a.jsonl", {**PAIR, "subset": "sums"}), benchmark="generated"
        )
