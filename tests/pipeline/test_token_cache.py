"""The cache of training tokens: read by other runs, made again where what it depends on changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run import token_cache
from pipeline.run.token_cache import TokenCache
from pipeline.settings.checks import check
from pipeline.settings.configuration import compose_config
from pipeline.settings.objective import objective_of
from rm.errors import InputError

Train = Callable[..., Path]


def write(path: Path, rows: int, **columns: Any) -> None:
    lines = [
        json.dumps({"prompt": f"question {n}", "chosen": "one", "rejected": "other", **columns})
        for n in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Eight pairs in a file."""
    write(tmp_path / "pairs.jsonl", 8)
    return ("data=files", f"data.train={tmp_path}/pairs.jsonl", "data.validation_share=0.0")


def no_loading(*_: Any) -> None:
    raise AssertionError("the pairs were loaded again")


def test_other_seeds_and_losses_read_the_tokens_that_the_first_run_made(
    words: tuple[str, ...], train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_smoke(*words, "loss=bt")
    monkeypatch.setattr(token_cache, "load_data", no_loading)
    second = train_smoke(*words, "loss=normbt", "seed=1")
    one, other = (json.loads((run / "manifest.json").read_text()) for run in (first, second))
    for key in ("tokens", "data", "data_fingerprint"):
        assert one[key] == other[key]
    assert (first / "split.json").read_bytes() == (second / "split.json").read_bytes()
    with pytest.raises(AssertionError, match="loaded again"):
        train_smoke(*words, "loss=bt", "training.max_length=64")


def test_a_loss_that_needs_margins_is_told_so_by_cached_pairs_too(
    words: tuple[str, ...], train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"needs a margin for every pair: 8 of 8 have none, first row-1"
    with pytest.raises(InputError, match=message):
        train_smoke(*words, "loss=bt_margin")
    train_smoke(*words, "loss=bt")
    monkeypatch.setattr(token_cache, "load_data", no_loading)
    with pytest.raises(InputError, match=message):
        train_smoke(*words, "loss=bt_margin")


def folder_of(backbone: Path, *words: str) -> Path:
    cfg = compose_config("train", ["profile=smoke", "cache_dir=cache", *words])
    return TokenCache(cfg, backbone, check(cfg), objective_of(cfg.loss)).folder


def test_the_folder_changes_with_all_that_the_tokens_depend_on(
    words: tuple[str, ...],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = backbone_folders["llama"]
    first = folder_of(backbone, *words)
    for same in ("seed=3", "loss=normbt", "training.learning_rate=1", "devices=2"):
        own = ("training.micro_batch=4",) if same == "devices=2" else ()
        assert folder_of(backbone, *words, same, *own) == first
    others = [
        folder_of(backbone, *words, "training.max_length=64"),
        folder_of(backbone, *words, "training.parse_special_text=true"),
        folder_of(backbone, *words, "data.validation_share=0.5"),
        folder_of(backbone, *words, "loss=grm"),
        folder_of(backbone_folders["gemma"], *words),
    ]
    write(tmp_path / "pairs.jsonl", 9)
    others.append(folder_of(backbone, *words))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0")
    others.append(folder_of(backbone, *words))
    assert len({first, *others}) == 8
