"""Preference data: every schema, every reason to drop a row, every error, and the real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rm.data.preferences import (
    PreferencePair,
    fingerprint,
    load_preferences,
    parse_row,
    split_pairs,
    swapped,
    write_pairs,
)
from rm.data.schemas import SCHEMAS, detect_schema
from rm.data.sources import DropRow, Reason, splits_of
from rm.errors import InputError
from tests.messages import assistant as bot
from tests.messages import user

SYSTEM = {"role": "system", "content": "Be brief."}
PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
TALK = [SYSTEM, user("Hi"), bot("Hello"), user("2+2?")]
UNIFIED: dict[str, Any] = {
    "id": "u-1",
    "conv_A": [user("2+2?"), bot("5")],
    "conv_B": [user("2+2?"), bot("4")],
    "conv_A_rating": 0.25,
    "conv_B_rating": 1.0,
    "source": "sums",
}


def pair(number: int, prompt: str = "", **changes: Any) -> PreferencePair:
    messages = (user(prompt or f"question {number}"),)
    return replace(PreferencePair(f"p{number}", messages, "good", "bad"), **changes)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (objects, or raw lines as bytes) as JSON lines."""

    def write_lines(rows: Iterable[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
        path.write_bytes(b"\n".join(lines))
        return path

    return write_lines


# --- Schemas -------------------------------------------------------------------------------------


def test_unified_feedback_chooses_the_higher_rating() -> None:
    got = parse_row(UNIFIED, "unified_feedback")
    assert got == PreferencePair("u-1", (user("2+2?"),), "4", "5", margin=0.75, source="sums")
    swapped = UNIFIED | {"conv_A_rating": 1.0, "conv_B_rating": 0.25}
    assert (parse_row(swapped, "unified_feedback").chosen) == "5"


def sharegpt(messages: list[dict[str, str]]) -> list[dict[str, str | None]]:
    """ShareGPT's keys beside empty ones of the usual form, as parquet merges them."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [
        {"from": names[m["role"]], "value": m["content"], "role": None, "content": None}
        for m in messages
    ]


SAME_PAIR = [
    ("explicit_prompt", {"prompt": TALK, "chosen": [bot("4")], "rejected": [bot("5")]}),
    ("explicit_prompt", {"prompt": TALK, "chosen": "4", "rejected": "5"}),
    ("explicit_prompt", {"prompt": TALK, "chosen": [*TALK, bot("4")], "rejected": [bot("5")]}),
    ("implicit_prompt", {"chosen": [*TALK, bot("4")], "rejected": [*TALK, bot("5")]}),
    (
        "implicit_prompt",
        {"chosen": sharegpt([*TALK, bot("4")]), "rejected": sharegpt([*TALK, bot("5")])},
    ),
]


@pytest.mark.parametrize(("schema", "row"), SAME_PAIR)
def test_the_forms_of_one_multi_turn_pair_agree(schema: str, row: dict[str, Any]) -> None:
    assert detect_schema(row) == schema
    got = parse_row(row, schema, default_id="row-1", default_source="mine")
    assert got == PreferencePair("row-1", tuple(TALK), "4", "5", source="mine")


def test_plain_strings_and_optional_columns() -> None:
    extra = {"id": 7, "margin": 2, "category": "Chat", "source": "mine", "score_chosen": None}
    got = parse_row(PLAIN | extra, "explicit_prompt", default_source="other")
    assert got == PreferencePair("7", (user("2+2?"),), "4", "5", 2.0, "Chat", "mine")
    assert parse_row(PLAIN | {"id": 7, "pair_id": "x"}, "explicit_prompt").pair_id == "x"


def test_ultrafeedback_binarized_rows_keep_one_prompt_and_the_score_difference() -> None:
    row = {
        "prompt": "2+2?",
        "chosen": [user("2+2?"), bot("4")],
        "rejected": [user("2+2?"), bot("5")],
        "score_chosen": 8.5,
        "score_rejected": 6.0,
    }
    got = parse_row(row, "explicit_prompt")
    assert (got.prompt, got.chosen, got.margin) == ((user("2+2?"),), "4", 2.5)
    assert parse_row(row | {"margin": 1.0}, "explicit_prompt").margin == 1.0


def test_hh_rlhf_transcripts_become_messages() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello\nthere\n\nHuman: 2+2?\n\nAssistant:"
    implicit = parse_row({"chosen": start + " 4", "rejected": start + " 5"}, "implicit_prompt")
    assert implicit.prompt == (user("Hi"), bot("Hello\nthere"), user("2+2?"))
    assert (implicit.chosen, implicit.rejected) == ("4", "5")
    row = {"prompt": start, "chosen": "4", "rejected": "5"}
    assert parse_row(row, "explicit_prompt") == implicit
    repeated = {"prompt": start, "chosen": start + " 4", "rejected": start + " 5"}
    assert parse_row(repeated, "explicit_prompt") == implicit
    other = repeated | {"chosen": "\n\nHuman: Bye\n\nAssistant: 4"}
    with pytest.raises(DropRow, match="chosen is a conversation that does not start with"):
        parse_row(other, "explicit_prompt")


FIRST, SECOND = [user("Hi"), bot("Hello")], [user("2+2?")]


@pytest.mark.parametrize("opening", ["Hi", " Hi \n", [user("Hi ")], [SYSTEM, user("Hi")]])
@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_the_prompt_is_the_first_turn_of_whole_conversations(
    opening: Any, system: list[dict[str, str]]
) -> None:
    """The shared turns are the prompt; outer white space of the prompt column is no difference."""
    talk = [*system, *FIRST, *SECOND]
    row = {"prompt": opening, "chosen": [*talk, bot("4")], "rejected": [*talk, bot("5")]}
    got = parse_row(row, "explicit_prompt")
    asked = opening[-1]["content"] if isinstance(opening, list) else opening
    lead = [SYSTEM] if system or opening == [SYSTEM, user("Hi")] else []
    assert got.prompt == (*lead, user(asked), bot("Hello"), *SECOND)
    assert (got.chosen, got.rejected, got.chosen_history) == ("4", "5", ())


def test_conversations_that_part_earlier_are_both_kept_to_their_end() -> None:
    other = [user("Hi"), bot("What?"), user("I said hi"), bot("Oh"), user("Bye"), bot("Bye.")]
    whole = {"chosen": [*FIRST, *SECOND, bot("4")], "rejected": other}
    got = parse_row(whole, "implicit_prompt")
    assert got.prompt == (user("Hi"),) and (got.chosen, got.rejected) == ("4", "Bye.")
    assert got.sides == (tuple(whole["chosen"][1:]), tuple(other[1:]))
    after = {"prompt": "Hi", "chosen": whole["chosen"][1:], "rejected": other[1:]}
    assert parse_row(after, "explicit_prompt") == got
    assert swapped(swapped(got)) == got and swapped(got).sides == got.sides[::-1]


def test_sides_that_part_at_a_users_turn_have_the_last_common_question_as_prompt() -> None:
    row = {
        "chosen": [*FIRST, user("2+2?"), bot("4")],
        "rejected": [*FIRST, user("3+3?"), bot("5")],
    }
    got = parse_row(row, "implicit_prompt")
    assert got.prompt == (user("Hi"),)
    assert got.chosen_history == (bot("Hello"), user("2+2?"))
    assert got.rejected_history == (bot("Hello"), user("3+3?"))


def test_equal_responses_after_other_turns_are_no_identical_pair(
    write: Callable[..., Path],
) -> None:
    row = {"chosen": [*FIRST, *SECOND, bot("4")], "rejected": [user("Hi"), bot("?"), *SECOND]}
    row["rejected"].append(bot("4"))
    same = {"chosen": row["chosen"], "rejected": [*FIRST, *SECOND, bot("4 ")]}
    _, report = load_preferences(write([row, same]))
    assert (report.kept, report.dropped) == (1, {"identical pair": 1})


def test_texts_are_kept_to_the_character() -> None:
    row = {"prompt": " a\u2028\r\n", "chosen": " x \n", "rejected": "\ty\x00"}
    got = parse_row(row, "explicit_prompt")
    assert (got.prompt[0]["content"], got.chosen, got.rejected) == tuple(row.values())


# --- Reasons -------------------------------------------------------------------------------------

LONE_SURROGATE = b'{"prompt": "p", "chosen": "\\ud800", "rejected": "x"}'
EXPLICIT_DROPS: list[tuple[Reason, Any]] = [
    (Reason.TIE, PLAIN | {"margin": 0}),
    (Reason.CONTRADICTORY, PLAIN | {"score_chosen": 1, "score_rejected": 2}),
    (Reason.CONTRADICTORY, PLAIN | {"score_chosen": 2, "score_rejected": 2}),
    (Reason.CONTRADICTORY, PLAIN | {"margin": 1.0, "score_chosen": 1, "score_rejected": 2}),
    (Reason.BAD_MARGIN, PLAIN | {"margin": -0.5}),
    (Reason.BAD_MARGIN, PLAIN | {"margin": float("nan")}),
    (Reason.BAD_MARGIN, PLAIN | {"margin": float("inf")}),
    (Reason.BAD_MARGIN, PLAIN | {"margin": 10**400}),
    (Reason.BAD_MARGIN, PLAIN | {"score_chosen": 1e308, "score_rejected": -1e308}),
    (Reason.EMPTY_PROMPT, PLAIN | {"prompt": " \n"}),
    (Reason.EMPTY_RESPONSE, PLAIN | {"chosen": ""}),
    (Reason.EMPTY_RESPONSE, PLAIN | {"rejected": [bot(" \n\t")]}),
    (Reason.IDENTICAL, PLAIN | {"rejected": "4"}),
    (Reason.IDENTICAL, PLAIN | {"rejected": "4\n"}),
    (Reason.MISSING, {"prompt": "p", "chosen": "x"}),
    (Reason.MISSING, PLAIN | {"prompt": None}),
    (Reason.WRONG_TYPE, PLAIN | {"prompt": 3}),
    (Reason.WRONG_TYPE, PLAIN | {"chosen": 4}),
    (Reason.WRONG_TYPE, PLAIN | {"margin": "1.0"}),
    (Reason.WRONG_TYPE, PLAIN | {"margin": True}),
    (Reason.WRONG_TYPE, PLAIN | {"category": 3}),
    (Reason.WRONG_TYPE, PLAIN | {"source": ["a"]}),
    (Reason.WRONG_TYPE, PLAIN | {"id": 1.5}),
    (Reason.WRONG_TYPE, [1, 2]),
    (Reason.MALFORMED, PLAIN | {"prompt": []}),
    (Reason.MALFORMED, PLAIN | {"prompt": ["2+2?"]}),
    (Reason.MALFORMED, PLAIN | {"prompt": [user("a"), bot("b")]}),
    (Reason.MALFORMED, PLAIN | {"prompt": [user("a"), SYSTEM, user("b")]}),
    (Reason.MALFORMED, PLAIN | {"prompt": [{"role": "tool", "content": "a"}]}),
    (Reason.MALFORMED, PLAIN | {"prompt": [{"role": 1, "content": "a"}]}),
    (Reason.MALFORMED, PLAIN | {"prompt": [{"role": "user", "content": [{"text": "a"}]}]}),
    (Reason.MALFORMED, PLAIN | {"chosen": [user("4")]}),
    (Reason.MALFORMED, PLAIN | {"chosen": [bot("4"), user("ok")]}),
    (Reason.MALFORMED, PLAIN | {"chosen": [bot("4"), SYSTEM, user("ok"), bot("5")]}),
    (Reason.MALFORMED, PLAIN | {"chosen": [user("2+2?")]}),
    (Reason.MALFORMED, PLAIN | {"chosen": [user("other"), bot("4")]}),
    (Reason.MALFORMED, PLAIN | {"system": "a", "prompt": [SYSTEM, user("b")]}),
    (Reason.MALFORMED, PLAIN | {"history": "earlier talk"}),
    (Reason.WRONG_TYPE, PLAIN | {"history": [["a", 4]]}),
    (Reason.WRONG_TYPE, PLAIN | {"system": 4}),
    (Reason.NOT_TEXT, PLAIN | {"tools": [{"name": "f"}]}),
    (Reason.NOT_TEXT, PLAIN | {"tools": '[{"name": "f"}]'}),
    (Reason.NOT_TEXT, PLAIN | {"image": "a.png"}),
    (Reason.NOT_TEXT, PLAIN | {"chosen": [bot("4") | {"tool_calls": [{"id": 1}]}]}),
    (Reason.NOT_TEXT, PLAIN | {"chosen": [bot("4") | {"reasoning_content": "2 and 2"}]}),
    (
        Reason.NOT_TEXT,
        PLAIN | {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": 1}]}]},
    ),
    (Reason.UNDECODABLE, LONE_SURROGATE),
    (Reason.UNDECODABLE, b'{"prompt": "caf\xe9", "chosen": "4", "rejected": "5"}'),
    (Reason.INVALID_JSON, b'{"prompt": "cut of'),
    (Reason.INVALID_JSON, b"[" * 100_000),
    (Reason.REPEATED_KEY, b'{"prompt": "p", "chosen": "x", "chosen": "y", "rejected": "z"}'),
    (
        Reason.REPEATED_KEY,
        b'{"prompt": [{"role": "user", "content": "a", "content": "b"}], "chosen": "x", '
        b'"rejected": "y"}',
    ),
]
IMPLICIT_DROPS: list[tuple[Reason, Any]] = [
    (Reason.MALFORMED, {"chosen": "4", "rejected": "5"}),
    (Reason.MALFORMED, {"chosen": [bot("4")], "rejected": [bot("5")]}),
    (Reason.MALFORMED, {"chosen": [user("a"), bot("4")], "rejected": [user("b"), bot("5")]}),
    (Reason.MALFORMED, {"chosen": [user("a")], "rejected": [user("b")]}),
    (Reason.MALFORMED, {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}),
    (
        Reason.MALFORMED,
        {"chosen": [user("a"), user("b"), bot("d")], "rejected": [user("a"), user("c"), bot("d")]},
    ),
    (
        Reason.EMPTY_RESPONSE,
        {"chosen": [user("a"), bot("b"), user("c"), bot(" ")], "rejected": [user("a"), bot("e")]},
    ),
    (Reason.IDENTICAL, {"chosen": [user("a"), bot("4")], "rejected": [user("a"), bot("4")]}),
]
UNIFIED_DROPS: list[tuple[Reason, Any]] = [
    (Reason.TIE, UNIFIED | {"conv_A_rating": 1}),
    (Reason.MISSING, UNIFIED | {"conv_A_rating": None}),
    (Reason.WRONG_TYPE, UNIFIED | {"conv_A_rating": "high"}),
    (Reason.BAD_MARGIN, UNIFIED | {"conv_A_rating": float("nan")}),
    (Reason.BAD_MARGIN, UNIFIED | {"conv_A_rating": 1e308, "conv_B_rating": -1e308}),
    (Reason.WRONG_TYPE, UNIFIED | {"conv_A": 4}),
]
GOOD: dict[str, dict[str, Any]] = {
    "explicit_prompt": PLAIN,
    "implicit_prompt": {"chosen": [user("a"), bot("4")], "rejected": [user("a"), bot("5")]},
    "unified_feedback": UNIFIED,
}
ALL_DROPS = [
    (schema, reason, row)
    for schema, drops in zip(
        ("explicit_prompt", "implicit_prompt", "unified_feedback"),
        (EXPLICIT_DROPS, IMPLICIT_DROPS, UNIFIED_DROPS),
        strict=True,
    )
    for reason, row in drops
]


@pytest.mark.parametrize(("schema", "reason", "row"), ALL_DROPS)
def test_each_unusable_row_is_counted_under_its_reason(
    schema: str, reason: Reason, row: Any, write: Callable[..., Path]
) -> None:
    pairs, report = load_preferences(write([GOOD[schema], row, GOOD[schema] | {"id": "last"}]))
    assert report.schema == schema
    assert report.dropped == {reason.value: 1}
    assert report.first_problems[reason.value].startswith("row 2: ")
    assert "\n" not in report.first_problems[reason.value]
    assert (report.rows, report.kept, len(pairs)) == (3, 2, 2)


def test_every_reason_has_a_test() -> None:
    elsewhere = {Reason.TOO_LONG}  # test_hostile_rows.py
    assert {reason for _, reason, _ in ALL_DROPS} | elsewhere == set(Reason)


def test_report_reads_well_and_adds_up(write: Callable[..., Path]) -> None:
    rows = [PLAIN | {"margin": 1.0}, PLAIN, PLAIN | {"margin": 0}, PLAIN | {"chosen": ""}]
    path = write([*rows, PLAIN | {"rejected": ""}])
    _, report = load_preferences(path)
    assert report.lines() == [
        f"{path}: 5 rows (explicit_prompt), 2 pairs kept",
        "  1 dropped: tie (first: row 3: margin is 0)",
        "  2 dropped: empty response (first: row 4: the chosen response is empty)",
        "  1 kept without a margin",
    ]
    found = json.loads(json.dumps(report.as_dict()))
    assert found["rows"] == found["kept"] + sum(found["dropped"].values()) + found["not_taken"]
    assert found["dropped"] == {"tie": 1, "empty response": 2}


def test_some_rows_with_a_margin_and_some_without(write: Callable[..., Path]) -> None:
    pairs, report = load_preferences(write([PLAIN | {"margin": 0.5}, PLAIN | {"margin": None}]))
    assert [p.margin for p in pairs] == [0.5, None]
    assert report.without_margin == 1


def test_ids_that_occur_again_become_unique(write: Callable[..., Path]) -> None:
    ids = ["a", "a", "a#2", "a", "b", None]
    pairs, report = load_preferences(write(PLAIN | {"id": i} for i in ids))
    assert [p.pair_id for p in pairs] == ["a", "a#2", "a#2#2", "a#3", "b", "row-6"]
    assert report.duplicate_ids == 3


def test_many_equal_ids_take_linear_time(write: Callable[..., Path]) -> None:
    pairs, _ = load_preferences(write([PLAIN | {"id": "same"}] * 30_000))
    assert len({p.pair_id for p in pairs}) == 30_000


def test_limit_takes_a_seeded_sample_in_order(write: Callable[..., Path]) -> None:
    path = write([PLAIN | {"id": i} for i in range(200)] + [PLAIN | {"margin": 0}])
    pairs, report = load_preferences(path, limit=50, seed=1)
    ids = [int(p.pair_id) for p in pairs]
    assert ids == sorted(set(ids)) and len(ids) == 50 and ids[-1] > 100
    assert (report.kept, report.not_taken, report.rows) == (50, 150, 201)
    assert "  150 left out by the limit, which takes a seeded random sample" in report.lines()
    assert load_preferences(path, limit=50, seed=1)[0] == pairs
    assert load_preferences(path, limit=50, seed=2)[0] != pairs
    assert load_preferences(path, limit=500)[1].not_taken == 0


def test_limit_samples_uniformly(write: Callable[..., Path]) -> None:
    path = write(PLAIN | {"id": i} for i in range(10))
    taken = [int(p.pair_id) for s in range(400) for p in load_preferences(path, limit=3, seed=s)[0]]
    assert all(80 < taken.count(i) < 160 for i in range(10))  # 120 expected, deviation 9


def test_limit_must_be_positive(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="limit is 0"):
        load_preferences(write([PLAIN]), limit=0)


# --- Files, folders, the Hub ---------------------------------------------------------------------


def _as_bytes(form: str, rows: list[dict[str, Any]]) -> bytes:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = json.dumps(rows, indent=1) if form.startswith(".json-list") else lines
    content = text.encode("utf-8-sig" if form.endswith("bom") else "utf-8")
    return gzip.compress(content) if ".gz" in form else content


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        (".jsonl", ".jsonl"),
        (".jsonl bom", ".jsonl"),
        (".jsonl.gz", ".jsonl.gz"),
        (".json-list", ".json"),
        (".json-list bom", ".JSON"),
        (".json-list.gz", ".json.gz"),
        (".json lines", ".json"),
        (".json lines.gz bom", ".json.gz"),
    ],
)
def test_json_files_in_every_form(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"my.pairs{suffix}"
    path.write_bytes(_as_bytes(form, [PLAIN, PLAIN | {"prompt": "naïve?\u2028"}]))
    pairs, report = load_preferences(str(path))
    assert [p.prompt[0]["content"] for p in pairs] == ["2+2?", "naïve?\u2028"]
    assert (pairs[0].source, report.kept) == ("my.pairs", 2)


def test_bad_bytes_in_a_json_list_drop_their_row_only(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(
        json.dumps([PLAIN, PLAIN | {"chosen": "caf@"}, 3]).encode().replace(b"@", b"\xe9")
    )
    _, report = load_preferences(path)
    assert report.dropped == {"undecodable text": 1, "wrong type": 1}


def test_lines_are_numbered_as_an_editor_does(write: Callable[..., Path]) -> None:
    _, report = load_preferences(write([b"", PLAIN, b"  \r", b"not json"]))
    assert (report.rows, report.kept) == (2, 1)
    assert report.first_problems["invalid JSON"].startswith("row 4: ")


def test_parquet_by_pandas(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    rows = [GOOD["implicit_prompt"] | {"margin": 0.5}, GOOD["implicit_prompt"] | {"margin": None}]
    pd.DataFrame(rows).to_parquet(path)
    pairs, report = load_preferences(path)
    assert (report.schema, [p.margin for p in pairs]) == ("implicit_prompt", [0.5, None])


def test_parquet_text_that_is_not_utf8_drops_its_row_only(tmp_path: Path) -> None:
    chosen = pa.array([b"4", b"caf\xe9", b"4"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.table({"prompt": ["p"] * 3, "chosen": chosen, "rejected": ["x"] * 3})
    pq.write_table(table, tmp_path / "data.parquet")
    _, report = load_preferences(tmp_path / "data.parquet")
    assert (report.kept, report.dropped) == (2, {"undecodable text": 1})
    assert report.first_problems["undecodable text"].startswith("row 2: ")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.mark.usefixtures("own_cache")
def test_a_folder_in_the_hubs_layout(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for split, answer in (("train", "4"), ("validation", "four")):
        write_pairs([pair(1, chosen=answer)], folder / "data" / f"{split}-00000-of-00001.jsonl")
    for split, answer in (("train", "4"), ("validation", "four")):
        pairs, report = load_preferences(folder, split=split)
        assert pairs == [pair(1, chosen=answer)]
        assert report.source == f"{folder} ({split})"
    with pytest.raises(InputError, match=r"cannot load split 'test'.*check folder and split"):
        load_preferences(folder, split="test")
    assert splits_of(folder) == ["train", "validation"]
    assert splits_of(folder / "data" / "train-00000-of-00001.jsonl") == []


@pytest.mark.usefixtures("own_cache")
def test_a_card_may_choose_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name, answer in (("ours", "4"), ("theirs", "four")):
        write_pairs([pair(1, chosen=answer)], folder / f"{name}.jsonl")
    configs = "configs: [{config_name: default, data_files: ours.jsonl}]"
    (folder / "README.md").write_text(f"---\n{configs}\n---\n")
    assert load_preferences(folder)[0] == [pair(1, chosen="4")]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["a.jsonl", "c.jsonl", "b.parquet"], "b.parquet"),
        (["train.jsonl", "extra.jsonl", "more.jsonl"], "extra.jsonl and 1 more"),
        (["train/x.jsonl", "b/y.jsonl"], "y.jsonl"),
    ],
)
def test_files_of_a_folder_that_would_not_be_read_are_an_error(
    tmp_path: Path, names: list[str], left: str
) -> None:
    for number, name in enumerate(names):
        made = [pair(number)]
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pd.DataFrame([{"prompt": "p", "chosen": "a", "rejected": "b"}]).to_parquet(path)
        else:
            write_pairs(made, path)
    (tmp_path / "set" / "dataset_infos.json").write_text("{}")
    with pytest.raises(InputError, match=f"{re.escape(left)} would not be read"):
        load_preferences(tmp_path / "set")


@pytest.mark.usefixtures("own_cache")
def test_a_folder_with_a_broken_file_says_which(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("not json")
    with pytest.raises(InputError, match=r"(?i)json") as caught:
        load_preferences(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_name_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(source: str, name: str | None, *, split: str) -> datasets.Dataset:
        asked.append((source, name, split))
        return datasets.Dataset.from_list([UNIFIED, UNIFIED | {"id": None, "source": None}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pairs, report = load_preferences("llm-blender/Unified-Feedback", name="all", split="val")
    assert asked == [("llm-blender/Unified-Feedback", "all", "val")]
    assert report.source == "llm-blender/Unified-Feedback (all, val)"
    assert pairs[0] == parse_row(UNIFIED, "unified_feedback")
    assert (pairs[1].pair_id, pairs[1].source) == ("row-2", "llm-blender/Unified-Feedback")


@pytest.mark.usefixtures("own_cache")
def test_an_unreachable_hub_name_says_how_to_mend_it() -> None:
    with pytest.raises(
        InputError, match=r"give a local path, or check name.* connection"
    ) as caught:
        load_preferences("nobody/nothing-of-the-kind")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", b"prompt,chosen", r"unknown extension; use one of .json, .jsonl"),
        ("data.jsonl", b"", "contains no rows"),
        ("data.json", b"[]", "contains no rows"),
        ("data.json", b"[1,", "not a JSON list"),
        ("data.json", b"[" * 100_000, "not a JSON list"),
        ("data.jsonl.gz", b"no gzip", "cannot be read"),
        ("data.json.gz", b"no gzip", "cannot be read"),
        ("data.jsonl.gz", gzip.compress(random.Random(0).randbytes(500))[:-20], "cannot be read"),
        ("data.parquet", b"no parquet", "not a readable parquet file"),
        ("data.jsonl", b'{"question": 1, "answer": 2}', "columns answer, question; .*unified_feed"),
        (
            "data.jsonl",
            b'x\n{"prompt": "p", "chosen": "", "rejected": "r"}\n{"prompt": "p"}\nx',
            r"none of 4 rows is usable \(2 invalid JSON, 1 empty response, 1 missing field\);"
            " first row 1: ",
        ),
        ("data.jsonl", b"\xff\xfe{\x00}\x00", "none of 1 rows is usable .1 undecodable text"),
    ],
)
def test_unusable_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_preferences(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("source", [Path("nothing"), "nothing.jsonl", "./nothing", "a/b/c", "/a/b"])
def test_a_missing_file(source: str | Path) -> None:
    with pytest.raises(InputError, match="no such file or folder; check the path"):
        load_preferences(source)


def test_an_empty_source() -> None:
    with pytest.raises(InputError, match="the source is empty"):
        load_preferences(" ")


def test_unknown_schemas() -> None:
    with pytest.raises(InputError, match="columns a, b; rename them to one of: unified_feedback: "):
        detect_schema(["b", "a"])
    with pytest.raises(InputError, match="choose from unified_feedback, explicit_prompt, implicit"):
        parse_row(PLAIN, "plain")


def test_the_schema_is_seen_past_faulty_first_rows(write: Callable[..., Path]) -> None:
    rows = [b"x", {}, {"chosen": "4", "rejected": "5"}, PLAIN]
    _, report = load_preferences(write(rows))
    assert (report.schema, report.kept) == ("explicit_prompt", 1)
    assert report.dropped == {"invalid JSON": 1, "missing field": 2}


# --- Properties ----------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(), max_size=5)  # lone surrogates too
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
WORDS = TEXT.filter(lambda text: bool(text.strip()))
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "gpt", "x"]), "content": ANY_TEXT}
)
VALUE = JSON_LIKE | st.lists(MESSAGE | JSON_LIKE, max_size=4)
COLUMNS = sorted({column for columns in SCHEMAS.values() for column in columns})
OPTIONAL = ["margin", "score_chosen", "score_rejected", "category", "id", "pair_id", "source"]


CHANGES = st.dictionaries(st.sampled_from(COLUMNS + OPTIONAL), VALUE, max_size=3)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    base=st.sampled_from([{}, *GOOD.values()]),
    changes=CHANGES | st.dictionaries(ANY_TEXT, VALUE, max_size=3),
    schema=st.sampled_from(sorted(SCHEMAS)),
)
def test_a_row_is_a_valid_pair_or_dropped(
    base: dict[str, Any], changes: dict[str, Any], schema: str
) -> None:
    row = base | changes
    try:
        got = parse_row(row, schema)
    except DropRow as problem:
        assert problem.reason in Reason and problem.detail
        return
    assert got.prompt[-1]["role"] == "user" and got.prompt[-1]["content"].strip()
    assert got.chosen.strip() and got.rejected.strip()
    assert all(side[0]["role"] == side[-1]["role"] == "assistant" for side in got.sides)
    assert got.margin is None or 0 < got.margin < float("inf")


HISTORIES = st.sampled_from(
    [
        ((), ()),
        ((), (bot("one"), user("more"))),
        ((bot("one"), user("more")), (bot("two"), bot(""), user("more"))),
    ]
)


@st.composite
def any_pair(draw: st.DrawFn) -> PreferencePair:
    history = draw(st.lists(st.builds(user, TEXT) | st.builds(bot, TEXT), max_size=3))
    first = draw(st.sampled_from([[], [SYSTEM]]))
    chosen = draw(WORDS)
    histories = draw(HISTORIES)
    return PreferencePair(
        pair_id=draw(TEXT.filter(bool)),
        prompt=(*first, *history, user(draw(WORDS))),
        chosen=chosen,
        rejected=draw(WORDS.filter(lambda text: text.strip() != chosen.strip())),
        margin=draw(st.none() | st.floats(0, exclude_min=True, allow_infinity=False)),
        category=draw(st.none() | TEXT),
        source=draw(TEXT),
        chosen_history=histories[0],
        rejected_history=histories[1],
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    pairs=st.lists(any_pair(), min_size=1, max_size=4, unique_by=lambda p: p.pair_id),
    suffix=st.sampled_from([".jsonl", ".jsonl.gz"]),
)
def test_written_pairs_are_read_back(
    pairs: list[PreferencePair], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pairs") / f"pairs{suffix}"
    write_pairs(pairs, path)
    again, report = load_preferences(path)
    assert again == pairs
    assert fingerprint(again) == fingerprint(pairs)
    assert (report.schema, report.duplicate_ids) == ("explicit_prompt", 0)


# --- Splitting and writing -----------------------------------------------------------------------


def test_split_is_disjoint_by_prompt_and_independent_of_order() -> None:
    pairs = [pair(i, f"Prompt {i // 3}") for i in range(300)]
    train, validation = split_pairs(pairs, 30, seed=0)
    assert (len(train), len(validation)) == (270, 30)
    prompts = [{str(p.prompt) for p in side} for side in (train, validation)]
    assert not prompts[0] & prompts[1]
    assert sorted(train + validation, key=pairs.index) == pairs
    assert validation == [p for p in pairs if p in validation]
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert {p.pair_id for p in split_pairs(shuffled, 30, 0)[1]} == {p.pair_id for p in validation}
    assert split_pairs(pairs, 30, seed=1)[1] != validation


def test_prompts_that_differ_in_case_and_space_stay_together() -> None:
    pairs = [pair(i, text) for i, text in enumerate(["Hi  there", "hi there\n", "x", "y"])]
    for seed in range(20):
        for side in split_pairs(pairs, 2, seed):
            assert sum(p.pair_id in ("p0", "p1") for p in side) in (0, 2)


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (0.0, 0), (7, 7), (0.25, 25), (0.001, 1)])
def test_split_sizes(size: int | float, expected: int) -> None:
    train, validation = split_pairs([pair(i) for i in range(100)], size, seed=0)
    assert (len(train), len(validation)) == (100 - expected, expected)


@pytest.mark.parametrize("size", [-1, 100, 1.0, -0.1, float("nan"), True])
def test_split_sizes_that_leave_a_side_empty(size: int | float) -> None:
    with pytest.raises(InputError, match="give a number of pairs below 100, or a share"):
        split_pairs([pair(i) for i in range(100)], size, seed=0)


def test_split_of_one_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="every prompt has more than 2 pairs"):
        split_pairs([pair(i, "same") for i in range(10)], 2, seed=0)


def test_fingerprint_sees_every_field_and_the_order() -> None:
    base = pair(1)
    changed = [
        replace(base, pair_id="q"),
        replace(base, prompt=(SYSTEM, *base.prompt)),
        replace(base, chosen="x"),
        replace(base, rejected="x"),
        replace(base, margin=1.0),
        replace(base, category="Chat"),
        replace(base, source="s"),
        replace(base, chosen_history=(bot("x"), user("y"))),
        replace(base, rejected_history=(bot("x"), user("y"))),
    ]
    assert len({fingerprint([p]) for p in [base, *changed]}) == 10
    assert fingerprint([base, pair(2)]) != fingerprint([pair(2), base])
    line = (
        b'{"category":null,"chosen":"good","margin":null,"pair_id":"p1",'
        b'"prompt":[{"content":"question 1","role":"user"}],"rejected":"bad","source":""}\n'
    )
    assert fingerprint([base]) == hashlib.sha256(line).hexdigest()


def test_written_rows_are_trls_conversational_form(tmp_path: Path) -> None:
    write_pairs([pair(1)], tmp_path / "new" / "pairs.jsonl")
    row = json.loads((tmp_path / "new" / "pairs.jsonl").read_text())
    assert row["prompt"] == [user("question 1")]
    assert (row["chosen"], row["rejected"]) == ([bot("good")], [bot("bad")])


def test_writing_is_repeatable_and_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    write_pairs([pair(1)], path)
    first = path.read_bytes()
    write_pairs([pair(1)], path)
    assert path.read_bytes() == first

    def breaking() -> Iterable[PreferencePair]:
        yield pair(2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_pairs(breaking(), path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_writing_needs_a_json_lines_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use .jsonl or .jsonl.gz"):
        write_pairs([pair(1)], tmp_path / "pairs.parquet")


# --- Real data -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "schema", "rows", "ties"),
    [
        ("unified_feedback_schema_train", "unified_feedback", 6374, 209),
        ("unified_feedback_schema_val", "unified_feedback", 391, 15),
        ("skywork_schema_train", "implicit_prompt", 6133, 0),
    ],
)
def test_real_files_lose_their_ties_and_nothing_else(
    file: str, schema: str, rows: int, ties: int, shared_data: Path
) -> None:
    pairs, report = load_preferences(shared_data / f"{file}.jsonl.gz")
    assert (report.schema, report.rows, report.kept) == (schema, rows, rows - ties)
    assert report.dropped == ({"tie": ties} if ties else {})
    assert len({p.pair_id for p in pairs}) == len(pairs)
    margins = [p.margin for p in pairs]
    if schema == "unified_feedback":
        assert all(margin is not None and 0 < margin <= 1 for margin in margins)
    else:
        assert report.without_margin == rows


def test_real_files_of_the_two_schemas_agree(shared_data: Path) -> None:
    unified, _ = load_preferences(shared_data / "unified_feedback_schema_train.jsonl.gz")
    skywork, _ = load_preferences(shared_data / "skywork_schema_train.jsonl.gz")
    far = {(str(p.prompt), p.chosen, p.rejected) for p in unified if (p.margin or 0) >= 0.3}
    assert {(str(p.prompt), p.chosen, p.rejected) for p in skywork} == far


def test_real_train_and_validation_share_no_prompt(shared_data: Path) -> None:
    train, _ = load_preferences(shared_data / "unified_feedback_schema_train.jsonl.gz")
    validation, _ = load_preferences(shared_data / "unified_feedback_schema_val.jsonl.gz")
    assert not {str(p.prompt) for p in train} & {str(p.prompt) for p in validation}
    kept, held_out = split_pairs(train, 300, seed=0)
    assert (len(held_out), len(kept)) == (300, len(train) - 300)
    assert not {str(p.prompt) for p in kept} & {str(p.prompt) for p in held_out}
