"""The table of token pairs: the same pairs from memory, a file, several processes and the cache."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from rm.data import token_table
from rm.data.preferences import PreferencePair
from rm.data.templates import ChatTemplate
from rm.data.token_table import (
    CHUNK,
    FACTS_FILE,
    PARALLEL,
    TABLE_FILE,
    TokenPairs,
    TokenReport,
    cached_pairs,
    processes_for,
    tokenize_pairs,
)
from rm.data.tokens import TokenPair
from rm.errors import InputError

PAIRS = [
    TokenPair("a", (1, 2, 3), (1, 2, 4, 5), margin=0.1, category="Chat", response_start=2),
    TokenPair("b", (7,), (8,), truncated=True),
    TokenPair("ü", (9, 9), (9,), margin=1e300, category="Safety"),
]
LIMIT = 40


def preferences(count: int) -> list[PreferencePair]:
    """Pairs of which some are dropped by LIMIT, for two reasons, and some truncated."""
    tail = "tail " * 60
    sides = ("yes {}", "{} " + tail, tail + "{}")
    return [
        PreferencePair(
            f"p{n}",
            ({"role": "user", "content": "word " * (1, 3, 80, 2, 30)[n % 5]},),
            sides[n % 3].format(n),
            sides[n % 3].format(n + 1),
            margin=n / 7 if n % 4 else None,
            category="Chat" if n % 2 else None,
        )
        for n in range(count)
    ]


def test_a_table_gives_the_pairs_that_it_was_made_of() -> None:
    table = TokenPairs.of(PAIRS)
    assert list(table) == PAIRS and table[-1] == PAIRS[2] and table[1:] == PAIRS[1:]
    assert all(type(token) is int for pair in table for token in pair.chosen + pair.rejected)
    with pytest.raises(IndexError):
        table[3]


def test_lengths_ids_and_categories_come_without_the_tokens() -> None:
    table = TokenPairs.of(PAIRS)
    assert table.longer.tolist() == [4, 1, 2]
    assert table.row_tokens.tolist() == [7, 2, 3]
    assert table.tree_tokens.tolist() == [5, 2, 2]
    assert (table.pair_ids, table.categories) == (["a", "b", "ü"], ["Chat", "Safety"])


def test_a_token_takes_four_bytes_and_a_little() -> None:
    draw = random.Random(0)
    made = [
        TokenPair(f"row-{n}", *(tuple(draw.randrange(9**6) for _ in range(150)) for _ in "ab"))
        for n in range(CHUNK)
    ]
    table = pa.Table.from_batches([token_table._record_batch(made)])
    assert table.nbytes / (300 * CHUNK) < 4.3


def test_a_file_and_several_processes_give_the_table_of_one(
    backbones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_table, "CHUNK", 4)
    template = ChatTemplate(AutoTokenizer.from_pretrained(backbones["llama"]))
    made, options = preferences(30), {"drop": True, "mark_response": True}
    one, report = tokenize_pairs(made, template, LIMIT, **options)
    path = tmp_path / TABLE_FILE
    two, other = tokenize_pairs(made, template, LIMIT, **options, processes=2, path=path)
    assert list(one) == list(two) and report == other
    assert list(report.dropped) == list(other.dropped)  # in the order of the pairs
    assert report.dropped and report.truncated and report.pairs == len(one) < 30
    assert report.pairs + report.dropped.total() == 30
    read = datasets.Dataset.from_file(str(path))
    assert [tuple(row) for row in read["chosen"]] == [pair.chosen for pair in one]


def test_processes_are_started_for_many_pairs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [processes_for(n * PARALLEL) for n in (0, 1, 5, 100)] == [1, 1, 5, 8]
    assert processes_for(100 * PARALLEL, 2) == 2


def test_counts_of_parts_add_up_to_those_of_all() -> None:
    whole = TokenReport()
    whole.add(TokenReport(2, 10, 1, dropped=token_table.Counter(late=1)))
    whole.add(TokenReport(3, 20, 0, token_table.Counter(tokens=2), token_table.Counter(late=1)))
    assert (whole.pairs, whole.tokens, whole.special_text) == (5, 30, 1)
    assert (whole.truncated, whole.dropped) == ({"tokens": 2}, {"late": 2})


def make(path: Path) -> dict[str, Any]:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, token_table.SCHEMA) as writer:
        writer.write_batch(token_table._record_batch(PAIRS))
    return {"lines": ["three pairs"]}


def never(path: Path) -> dict[str, Any]:
    raise AssertionError("made again")


def test_what_is_cached_is_read_and_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "tokens" / "key"
    for maker in (make, never):
        table, facts = cached_pairs(folder, maker)
        assert (list(table), facts) == (PAIRS, {"lines": ["three pairs"]})
    for name in (TABLE_FILE, FACTS_FILE):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-9] + bytes(9))
        with pytest.raises(AssertionError, match="made again"):
            cached_pairs(folder, never)
        assert list(cached_pairs(folder, make)[0]) == PAIRS
        assert (folder / name).read_bytes() == content


def test_a_table_that_could_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        cached_pairs(tmp_path / "key", never)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    path.write_text(json.dumps("no table"))
    with pytest.raises(InputError, match=f"{re.escape(str(path))} is not a token-pair table"):
        TokenPairs.open(path)
