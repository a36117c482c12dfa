"""What stands in columns: bytes, JSON text, system, history, and parts that no text holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm.data.columns import NOT_TEXT, ignored
from rm.data.preferences import PreferencePair, load_preferences, parse_row
from rm.data.schemas import read_prompt
from rm.data.sources import DropRow
from rm.errors import InputError
from tests.messages import assistant as bot
from tests.messages import user

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [SYSTEM, user("Hi"), bot("Hello"), user("2+2?")]
PAIR = PreferencePair("", tuple(TALK), "4", "5")
WHOLE = {"chosen": [*TALK, bot("4")], "rejected": [*TALK, bot("5")]}
PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}


# --- system and history --------------------------------------------------------------------------

BESIDE: dict[str, dict[str, Any]] = {
    "system and pairs": {**PLAIN, "system": "Be brief.", "history": [["Hi", "Hello"]]},
    "messages": {**PLAIN, "system": "Be brief.", "history": TALK[1:3]},
    "as JSON text": {**PLAIN, "system": "Be brief.", "history": '[["Hi", "Hello"]]'},
    "with the system message": {**PLAIN, "history": TALK[:3]},
    "repeated": {"prompt": TALK, "chosen": "4", "rejected": "5", "history": [["Hi", "Hello"]]},
    "same system": {**WHOLE, "system": " Be brief. "},
    "conversations": {
        "conversations": [
            {"from": "human", "value": "Hi"},
            {"from": "gpt", "value": "Hello"},
            {"from": "human", "value": "2+2?"},
        ],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
        "system": "Be brief.",
    },
    "empty ones": {**WHOLE, "system": " ", "history": [], "tools": "[]", "images": None},
}


@pytest.mark.parametrize("row", BESIDE.values(), ids=BESIDE)
def test_system_and_history_become_messages(row: dict[str, Any]) -> None:
    schema = "explicit_prompt" if "prompt" in row else "implicit_prompt"
    assert parse_row(row, schema) == PAIR


def test_prompts_of_several_responses_have_the_same_columns() -> None:
    row = {"prompt": "2+2?", "system": "Be brief.", "history": [["Hi", "Hello"]]}
    assert read_prompt(row) == PAIR.prompt
    with pytest.raises(DropRow, match=r"the row has images; data.ignore=\[images\]"):
        read_prompt({**row, "images": ["a.png"]})


# --- parts that no text holds --------------------------------------------------------------------

PICTURE, QUESTION = {"type": "image", "image": "a.png"}, {"type": "text", "text": "2+2?"}
PARTS: dict[str, list[dict[str, Any]]] = {
    "tools": [{**PLAIN, "tools": '[{"name": "f"}]'}, {**PLAIN, "tools": [{"name": "f"}]}],
    "images": [
        {**PLAIN, "images": [{"bytes": b"\xff\xd8", "path": None}]},
        {**PLAIN, "prompt": [{"role": "user", "content": [PICTURE, QUESTION]}]},
    ],
    "videos": [{**PLAIN, "video": "a.mp4"}],
    "audios": [{**PLAIN, "audios": ["a.wav"]}],
    "reasoning": [{**PLAIN, "chosen": [{**bot("4"), "thinking": "two and two"}]}],
}


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_other_parts_are_refused_unless_they_are_ignored(kind: str) -> None:
    for row in PARTS[kind]:
        with pytest.raises(DropRow, match=rf"data.ignore=\[{kind}\] or eval.ignore"):
            parse_row(row, "explicit_prompt", ignore=frozenset(NOT_TEXT) - {kind})
        got = parse_row(row, "explicit_prompt", ignore=frozenset([kind]))
        assert got == PreferencePair("", (user("2+2?"),), "4", "5")


def test_what_is_ignored_is_counted_nowhere_and_misspelt_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [PLAIN, {**PLAIN, "tools": ["f"]}])))
    assert load_preferences(path)[1].dropped == {
        "tools, images or other parts that are not read": 1
    }
    assert load_preferences(path, ignore=["tools"])[1].kept == 2
    with pytest.raises(InputError, match=r"ignore=\[tool\]: choose from tools, images, videos"):
        load_preferences(path, ignore=["tool"])
    assert ignored([]) == frozenset()


def test_parts_that_are_all_text_are_joined() -> None:
    parts = [{"type": "text", "text": "2+2"}, {"type": "text", "text": "?"}]
    got = parse_row({**PLAIN, "prompt": [{"role": "user", "content": parts}]}, "explicit_prompt")
    assert got.prompt == (user("2+2?"),)
    for odd in ([{"type": "strange"}], [4], [{"text": "a"}], []):
        with pytest.raises(DropRow, match="content is a list, not a text"):
            row = {**PLAIN, "prompt": [{"role": "user", "content": odd}]}
            parse_row(row, "explicit_prompt")


# --- JSON text and bytes -------------------------------------------------------------------------

STORED: dict[str, dict[str, Any]] = {
    "implicit": {key: json.dumps(value) for key, value in WHOLE.items()},
    "explicit": {
        "prompt": json.dumps(TALK),
        "chosen": json.dumps([bot("4")]),
        "rejected": json.dumps(bot("5")),
    },
    "prompt alone": {"prompt": json.dumps(TALK), "chosen": "4", "rejected": "5"},
    "items": {
        "prompt": [json.dumps(turn) for turn in TALK],
        "chosen": [json.dumps(bot("4"))],
        "rejected": "5",
    },
    "one side": {"prompt": TALK, "chosen": json.dumps([bot("4")]), "rejected": [bot("5")]},
    "bytes": {
        "prompt": json.dumps(TALK).encode(),
        "chosen": json.dumps([bot("4")]).encode(),
        "rejected": json.dumps([bot("5")]).encode(),
    },
    "bytes in messages": {
        "prompt": [{key: value.encode() for key, value in turn.items()} for turn in TALK],
        "chosen": b"4",
        "rejected": b"5",
    },
}


@pytest.mark.parametrize("row", STORED.values(), ids=STORED)
def test_stored_conversations_are_decoded(row: dict[str, Any]) -> None:
    schema = "explicit_prompt" if "prompt" in row else "implicit_prompt"
    assert parse_row(row, schema) == PAIR


@pytest.mark.parametrize(
    "text",
    ['{"name": "a"}', "[1, 2]", '[{"role": "admin", "content": "x"}]', "[not json", "{}", "[]"],
)
def test_a_response_that_is_json_stays_a_text(text: str) -> None:
    got = parse_row({**PLAIN, "chosen": text, "rejected": text + " "}, "explicit_prompt")
    assert (got.chosen, got.rejected) == (text, text + " ")
    talk = json.dumps([bot("4")])  # of one side alone: that response is JSON
    got = parse_row({**PLAIN, "chosen": talk}, "explicit_prompt")
    assert (got.chosen, got.rejected) == (talk, "5")


def test_bytes_that_are_not_utf_8_drop_their_row(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array([b"2+2?"] * 3, pa.binary()),
            "chosen": pa.array([b"4", b"caf\xe9", b"4"], pa.large_binary()),
            "rejected": pa.array(["5"] * 3),
            "pair_id": pa.array([b"a", b"b", b"c"], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pairs, report = load_preferences(tmp_path / "a.parquet")
    assert [pair.pair_id for pair in pairs] == ["a", "c"] and pairs[0].chosen == "4"
    assert report.first_problems == {"undecodable text": "row 2: chosen is not UTF-8 at byte 3"}
