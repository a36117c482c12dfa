"""Rows and files that somebody made to break a reader: kept exactly, counted, or refused."""

from __future__ import annotations

import gzip
import json
import os
import socket
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rm.data import sources
from rm.data.preferences import LoadReport, PreferencePair, load_preferences
from rm.data.sources import Reason, folder_files, is_hub_name, local_path, read_rows
from rm.errors import InputError

PLAIN = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
LINE = json.dumps(PLAIN).encode() + b"\n"


def load(path: Path, content: bytes) -> tuple[list[PreferencePair], LoadReport]:
    path.write_bytes(content)
    return load_preferences(path)


# --- Size ----------------------------------------------------------------------------------------


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of more than 1,000 bytes are too long, and pieces are short too."""
    monkeypatch.setattr(sources, "LONGEST_ROW", 1000)
    monkeypatch.setattr(sources, "PIECE", 64)


def test_a_line_of_100_mb_is_dropped_within_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(LINE + b'{"prompt": "')
        for _ in range(100):
            file.write(b"x" * 10**6)
        file.write(b'", "chosen": "4", "rejected": "5"}\n' + LINE)
    tracemalloc.start()
    try:
        pairs, report = load_preferences(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pairs) == 2 and report.dropped == {"row too long": 1}
    assert report.first_problems["row too long"] == "row 2: more than 33,554,432 bytes"
    assert peak < 3 * sources.LONGEST_ROW


def wide(length: int) -> dict[str, str]:
    return {**PLAIN, "chosen": "x" * length}


def as_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_rows_above_the_limit_are_dropped_in_every_form(name: str, tmp_path: Path) -> None:
    rows, path = [PLAIN, wide(5000), PLAIN, wide(2000), wide(900)], tmp_path / name
    if name == "a.parquet":
        as_parquet(path, rows)
    else:
        lines = "\n".join(map(json.dumps, rows))
        data = (lines if "jsonl" in name else json.dumps(rows)).encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    pairs, report = load_preferences(path)
    assert report.dropped == {Reason.TOO_LONG.value: 2} and report.rows == 5
    assert [len(pair.chosen) for pair in pairs] == [1, 1, 900]


@pytest.mark.usefixtures("short_rows")
def test_a_last_line_without_an_end_and_one_of_exactly_the_limit(tmp_path: Path) -> None:
    line = json.dumps(wide(1000 - len(json.dumps(wide(0))))).encode()
    assert len(line) == 1000
    for end in (b"", b"\n", b"\n" + LINE):
        pairs, report = load(tmp_path / "a.jsonl", line + end)
        assert len(pairs) == report.rows == 1 + end.count(b"{")
    _, report = load(tmp_path / "a.jsonl", LINE + b"y" * 3000)
    assert report.dropped == {"row too long": 1}


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz"])
@pytest.mark.parametrize("filling", [b"\n", b" ", b"[", LINE])
def test_a_gzip_bomb_is_refused(
    name: str, filling: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "UNPACKED_BYTES", 10**5)
    monkeypatch.setattr(sources, "LONGEST_ROW", 10**4)
    monkeypatch.setattr(sources, "PIECE", 1000)
    content = b"[" * name.endswith(".json.gz") + filling * (3 * 10**6 // len(filling))
    path = tmp_path / name
    path.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=r"unpacks to more than [\d,]+ bytes; unpack it yourself"):
        load_preferences(path)


def test_ordinary_gzip_files_are_no_bombs(tmp_path: Path) -> None:
    pairs, _ = load(tmp_path / "a.jsonl.gz", gzip.compress(LINE * 20_000))
    assert len(pairs) == 20_000


def test_a_list_above_its_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST_LIST", 100)
    with pytest.raises(InputError, match="the JSON list has over 100 bytes; use JSON lines"):
        load(tmp_path / "a.json", json.dumps([PLAIN] * 10).encode())


def test_parquet_rows_are_decoded_few_at_a_time_where_they_may_be_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = pq.ParquetFile.iter_batches

    def spy(self: Any, size: int) -> Iterator[Any]:
        asked.append(size)
        return real(self, size)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    monkeypatch.setattr(sources, "BATCH_BYTES", 3 * 10**4)
    for length in (10, 2000, 10**5):
        as_parquet(tmp_path / "a.parquet", [wide(length)] * 300)  # a dictionary: one text, 300 rows
        assert load_preferences(tmp_path / "a.parquet")[1].kept == 300
    assert asked[0] == sources.BATCH_ROWS and 1 < asked[1] < 20 and asked[2] == 1


# --- Content -------------------------------------------------------------------------------------

ODD_TEXTS = {
    "null": "a\x00b",
    "controls": "\x01\x07\x1b[31m\x7f\x85",
    "line separators": "a\u2028b\u2029c\x0bd\x0ce",
    "carriage returns": "\r\na\r\n",
    "bidi": "\u202eabc\u202c \u2066x\u2069",
    "bom inside": "\ufeffx\ufeff",
    "not characters": "\ufffe\uffff\U0010ffff",
    "combining": "e" + "\u0301" * 500,
    "one long word": "x" * 10**6,
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS)
@pytest.mark.parametrize("escaped", [True, False])
def test_odd_texts_are_kept_to_the_character(text: str, escaped: bool, tmp_path: Path) -> None:
    row = {"prompt": text + "?", "chosen": text + "!", "rejected": "no"}
    line = json.dumps(row, ensure_ascii=escaped).encode()
    for name, content in (("a.jsonl", line + b"\r\n"), ("a.json", b"[" + line + b"]")):
        (pair,), report = load(tmp_path / name, content)
        assert (pair.prompt[0]["content"], pair.chosen) == (row["prompt"], row["chosen"])
        assert report.dropped == {}


ODD_LINES = {
    "raw control character": (b'{"prompt": "a\x01", "chosen": "b", "rejected": "c"}', "invalid"),
    "UTF-16": (json.dumps(PLAIN).encode("utf-16"), "undecodable text"),
    "second BOM": (b"\xef\xbb\xbf" + LINE, "invalid JSON"),
    "overlong UTF-8": (b'{"prompt": "\xc0\xaf", "chosen": "b", "rejected": "c"}', "undecodable"),
    "surrogate in UTF-8": (b'{"prompt": "\xed\xa0\x80", "chosen": "b", "rejected": "c"}', "undec"),
    "two values": (LINE.strip() + LINE, "invalid JSON"),
    "deep extra column": (b'{"x": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, "invalid JSON"),
    "empty key twice": (b'{"": 1, "": 2, "prompt": "a", "chosen": "b", "rejected": "c"}', "repea"),
    "non-breaking space": (b"\xc2\xa0" + LINE, "invalid JSON"),
}


@pytest.mark.parametrize(("line", "reason"), ODD_LINES.values(), ids=ODD_LINES)
def test_odd_lines_are_counted_alone(line: bytes, reason: str, tmp_path: Path) -> None:
    _, report = load(tmp_path / "a.jsonl", LINE + line.strip(b"\n") + b"\n" + LINE)
    assert report.kept == 2 and sum(report.dropped.values()) == report.rows - 2 >= 1
    assert next(iter(report.dropped)).startswith(reason)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_numbers_of_any_length_are_read(name: str, tmp_path: Path) -> None:
    row = json.dumps(PLAIN)[:-1].encode()
    rows = [
        row + b', "extra": ' + b"9" * 10_000 + b"}",
        row + b', "extra": 1e99999}',
        row + b', "margin": -' + b"9" * 10_000 + b"}",
        row + b', "margin": ' + b"9" * 4299 + b"}",
        row + b', "margin": NaN}',
        row + b', "margin": Infinity}',
        row + b', "extra": -Infinity}',
    ]
    joined = b"\n".join(rows) if name == "a.jsonl" else b"[" + b",".join(rows) + b"]"
    _, report = load(tmp_path / name, joined)
    assert (report.kept, report.dropped) == (3, {"non-finite or negative margin": 4})


@pytest.mark.parametrize(
    "content",
    [b"[1,]", b"[,1]", b"[1 2]", b"[1] 2", b"[1,", b"[", b"[" + b'{"a":' * 9999, b"[1]]", b"[;"],
)
def test_text_that_is_no_json_list(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a JSON list"):
        load(tmp_path / "a.json", content)


def test_a_repeated_key_in_a_list_costs_its_row_alone(tmp_path: Path) -> None:
    twice = b'{"prompt": "p", "chosen": "x", "chosen": "y", "rejected": "z"}'
    content = b" [ " + LINE + b"," + twice + b" ,\n" + LINE + b" ] \n"
    _, report = load(tmp_path / "a.json", content)
    assert (report.kept, report.dropped) == (2, {"repeated key": 1})
    assert report.first_problems["repeated key"] == "row 2: duplicate key 'chosen'"


def test_parquet_values_that_python_has_no_type_for_drop_their_row(tmp_path: Path) -> None:
    times = pa.array([0, 2**60], pa.timestamp("us"))  # the second is in the year 38505
    table = pa.table({**{key: [f"{key}1", f"{key}2"] for key in PLAIN}, "time": times})
    pq.write_table(table, tmp_path / "a.parquet")
    _, report = load_preferences(tmp_path / "a.parquet")
    assert (report.kept, report.dropped) == (1, {"wrong type": 1})


def test_names_of_columns_do_not_flood_the_message(tmp_path: Path) -> None:
    row = {"\x1b[2J" + "k" * 10**5 + str(i): 1 for i in range(50)}
    with pytest.raises(InputError, match="unknown schema") as caught:
        load(tmp_path / "a.jsonl", json.dumps(row).encode())
    assert len(str(caught.value)) < 3000 and "\x1b" not in str(caught.value)


# --- Paths ---------------------------------------------------------------------------------------


def test_what_is_no_file_is_named_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jsonl"))
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    odd = ["pipe.jsonl", "s.jsonl"]
    for source in [*(tmp_path / name for name in odd), Path("/dev/zero"), Path("/dev/null")]:
        with pytest.raises(InputError, match="is a pipe, socket or device; write its content"):
            load_preferences(source)
    for source in (str(tmp_path / "loop.jsonl"), "x" * 5000, "~nobody-of-that-name/x.jsonl"):
        with pytest.raises(InputError, match="cannot be opened"):
            load_preferences(source)
    for source in ("a\x00b.jsonl", "../../x", "/a/../b", "a/../b"):
        with pytest.raises(InputError, match=r"no such file|cannot be opened"):
            load_preferences(source)


def test_hub_names_are_no_paths() -> None:
    assert all(map(is_hub_name, ("squad", "owner/name", "owner/n.a-m_e1")))
    bad = [
        "../x",
        "../../x",
        "/x",
        "a/b/c",
        "a/../b",
        "a/",
        "/",
        "",
        ".x",
        "a/.b",
        "a b",
        "a\n",
        "~x",
    ]
    assert not any(map(is_hub_name, bad))


def test_a_folder_with_the_name_of_a_file_is_read_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot load split 'train'"):
        load_preferences(tmp_path / "data.jsonl")
    (tmp_path / "data.jsonl" / "train.jsonl").write_bytes(LINE)
    assert load_preferences(tmp_path / "data.jsonl")[1].kept == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.jsonl").write_bytes(LINE)
    made = tmp_path / "set"
    (made / "data").mkdir(parents=True)
    (made / "data" / "train-0.jsonl").write_bytes(LINE)
    return made


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "link out": (link("data/train-1.jsonl", "../../secret.jsonl"), "outside the folder"),
    "absolute link": (link("data/train-1.jsonl", "/etc/hostname"), "outside the folder"),
    "broken link": (link("data/train-1.jsonl", "nothing"), "is a broken link"),
    "link to itself": (link("data/train-1.jsonl", "train-1.jsonl"), "is a broken link"),
    "circle of folders": (link("data/again", "."), "is a link to a folder"),
    "folder outside": (link("more", "/etc"), "is a link to a folder"),
    "pipe": (lambda f: os.mkfifo(f / "data/train-1.jsonl"), "is a pipe, socket or device"),
    "script": (lambda f: (f / "set.py").write_text("raise SystemExit(3)"), "scripts of data sets"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)
def test_a_folder_that_leads_outside_is_refused(
    spoil: Callable[[Path], object], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load_preferences(folder)


@pytest.mark.parametrize(
    "target", ["../secret.jsonl", "{outside}", "https://example.org/a.jsonl", "zip://a::b.zip"]
)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_card_that_names_data_outside_is_refused(name: str, target: str, folder: Path) -> None:
    target = target.format(outside=folder.parent / "secret.jsonl")
    files = f"- split: train\n    path: ['{target}']"
    card = f"configs:\n- config_name: default\n  data_files:\n  {files}\n"
    (folder / name).write_text(f"---\n{card}---\n" if name == "README.md" else card)
    with pytest.raises(InputError, match=r"names data outside the folder"):
        load_preferences(folder)


def test_a_card_of_aliases_or_of_nonsense_ends_at_once(folder: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    laughs = "\n".join(["a0: &a0 [x]", *levels, "configs: *a39"])
    for text in (laughs, "configs: [", "a: !!python/object/apply:os.system ['false']"):
        (folder / "README.md").write_text(f"---\n{text}\n---\n")
        with pytest.raises(InputError):
            load_preferences(folder)


def test_links_within_a_folder_and_the_hubs_cache_are_read(folder: Path, tmp_path: Path) -> None:
    (folder / "data/train-1.jsonl").symlink_to("train-0.jsonl")
    assert load_preferences(folder)[1].kept == 2
    (tmp_path / "chosen").symlink_to(folder)  # what the user names may be a link itself
    assert load_preferences(tmp_path / "chosen")[1].kept == 2
    snapshot = tmp_path / "datasets--x/snapshots/abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--x/blobs").mkdir()
    (tmp_path / "datasets--x/blobs/12ab").write_bytes(LINE)
    (snapshot / "train.jsonl").symlink_to("../../blobs/12ab")
    assert load_preferences(snapshot)[1].kept == 1
    (snapshot / "test.jsonl").symlink_to("../../../secret.jsonl")
    with pytest.raises(InputError, match=r"is a link to .*, outside the folder"):
        folder_files(snapshot)


def test_rows_of_a_folder_are_numbered_through_and_a_bad_one_costs_itself(folder: Path) -> None:
    (folder / "data/train-1.jsonl").write_bytes(b"nonsense\n" + LINE)
    pairs, report = load_preferences(folder)
    assert [pair.pair_id for pair in pairs] == ["row-1", "row-3"]
    assert report.dropped == {"invalid JSON": 1} and report.duplicate_ids == 0


def test_local_paths(tmp_path: Path) -> None:
    assert local_path(tmp_path) == tmp_path
    assert local_path(tmp_path / "nothing") is None
    assert local_path(str(tmp_path / "nothing" / "x")) is None


# --- Properties ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates, null bytes and the rest
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}),
    max_size=4,
)
JSON_ABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROW = st.one_of(
    st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}),
    st.fixed_dictionaries({"chosen": MESSAGES, "rejected": MESSAGES}),
    st.fixed_dictionaries(
        {
            **{"prompt": TEXT | MESSAGES, "chosen": TEXT | MESSAGES, "rejected": TEXT | MESSAGES},
            **{"margin": st.floats() | JSON_ABLE, "pair_id": TEXT | st.integers()},
        }
    ),
    st.fixed_dictionaries(
        {
            **{"conv_A": MESSAGES, "conv_B": MESSAGES},
            **{
                "conv_A_rating": st.floats() | st.integers(0, 2),
                "conv_B_rating": st.integers(0, 2),
            },
        }
    ),
    JSON_ABLE,
)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from texts_of(item)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(ROW, min_size=1, max_size=8),
    name=st.sampled_from(["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"]),
    ascii_only=st.booleans(),
    limit=st.none() | st.integers(1, 4),
)
def test_any_rows_are_counted_and_kept_texts_are_theirs(
    rows: list[Any],
    name: str,
    ascii_only: bool,
    limit: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dumped = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    text = "\n".join(dumped) if "jsonl" in name else f"[{', '.join(dumped)}]"
    data = text.encode("utf-8", errors="surrogatepass")
    path = tmp_path_factory.mktemp("rows") / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    try:
        pairs, report = load_preferences(path, limit=limit)
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith(str(path))
        return
    assert report.rows == len(rows)
    assert report.rows == report.kept + sum(report.dropped.values()) + report.not_taken
    assert report.kept == len(pairs) <= (limit or report.rows)
    assert set(report.dropped) == set(report.first_problems)
    written = set(texts_of(rows))
    for pair in pairs:
        assert {pair.chosen, pair.rejected} <= written
        assert {message["content"] for message in pair.prompt} <= written


def test_the_readers_do_not_touch_the_recursion_limit(tmp_path: Path) -> None:
    before = sys.getrecursionlimit()
    (tmp_path / "a.jsonl").write_bytes(b"[" * 10**6 + b"\n" + LINE)
    rows = list(read_rows(tmp_path / "a.jsonl"))
    assert len(rows) == 2 and sys.getrecursionlimit() == before


def test_a_parquet_file_with_a_damaged_column_name_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    as_parquet(path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    content = path.read_bytes()
    assert content.count(b"rejected") > 1
    path.write_bytes(content.replace(b"rejected", b"\xeeejected"))
    with pytest.raises(InputError, match=r"a\.parquet: not a readable parquet file"):
        load_preferences(path)
