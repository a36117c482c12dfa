"""The fuzz over model folders in its short form, and that it notices what it is for."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rm.model import untrusted
from tests.faults import fuzz, model_folders


def test_a_few_damaged_model_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "BATCH", 20)
    kept = tmp_path / "kept"
    found = model_folders.main(["--tries", "20", "--seed", "3", "--keep", str(kept)])
    assert found.tried == found.runs == found.survived == 20 and found.seed == 3
    printed = capsys.readouterr().out
    assert "refused, 0 failed" in printed and "0 kept, 0 dropped" not in printed
    assert not kept.exists()


def test_an_error_that_is_not_explained_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the loaders were before: what transformers raises went through."""
    monkeypatch.setattr(fuzz, "BATCH", 20)
    monkeypatch.setattr(untrusted, "_explanation", lambda *_: 1 / 0)
    ends, failures = model_folders.fuzzed(20, 3, tmp_path / "kept")
    assert ends["failed"] == len(failures) > 0
    assert any("ZeroDivisionError" in trace for _, trace in failures)
    assert model_folders.row(ends, 3).survived < 20


def test_the_same_seed_gives_the_same_folder_and_every_kind_of_damage_occurs(
    tmp_path: Path,
) -> None:
    whole = {
        name: {
            (source / name).read_bytes()
            for source in model_folders.sources(tmp_path / "whole")
            if (source / name).is_file()
        }
        for name in model_folders.FILES
    }
    hit = set()
    for number in range(40):
        path = model_folders.write(tmp_path, f"0/{number}")
        first = {file.name: file.read_bytes() for file in path.iterdir()}
        again = model_folders.write(tmp_path, f"0/{number}")
        assert {file.name: file.read_bytes() for file in again.iterdir()} == first
        hit |= {name for name, known in whole.items() if first.get(name, b"") not in {b"", *known}}
    assert hit == set(model_folders.FILES)


def test_a_field_is_dropped_doubled_or_of_another_type() -> None:
    content = {"a": 3, "b": {"c": "text"}}
    texts = [
        model_folders.changed(json.loads(json.dumps(content)), random.Random(seed))
        for seed in range(200)
    ]
    values = [json.loads(text) for text in texts]
    assert {"b": {"c": "text"}} in values  # dropped
    assert {**content, "a": 6} in values and {**content, "b": {"c": "texttext"}} in values
    assert any(text.count('"a"') == 2 for text in texts)  # the name twice
    assert {**content, "a": None} in values
