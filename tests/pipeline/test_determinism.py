"""What a seed promises: the same bytes in every process; close numbers with other threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.settings.configuration import CONF

pytestmark = pytest.mark.slow
# Wide enough that torch divides matrix products among threads.
WORDS = ("profile=smoke", "loss=normbt", "data.train_pairs=80", "model.tiny.hidden=256")


@pytest.fixture(scope="module")
def wide_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own: the backbone is not the smoke profile's."""
    return tmp_path_factory.mktemp("wide")


def trained(folder: Path, cache: Path, *words: str, **variables: str) -> Path:
    """Train in a new process; return the checkpoint."""
    own = (f"run_dir={folder}", f"cache_dir={cache}")
    subprocess.run(
        [sys.executable, "-m", "scripts.train", *WORDS, *own, *words],
        cwd=CONF.parent,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
    )
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, wide_cache: Path) -> Path:
    """A run with one thread."""
    return trained(tmp_path_factory.mktemp("one") / "run", wide_cache, PYTHONHASHSEED="1")


def test_another_process_gives_the_same_bytes(one: Path, wide_cache: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "run", wide_cache, PYTHONHASHSEED="2", OMP_NUM_THREADS="2")
    for name in ("model.safetensors", "reward_model.json", "../metrics.jsonl", "../split.json"):
        assert (other / name).read_bytes() == (one / name).read_bytes(), name


def test_two_threads_give_close_numbers(one: Path, wide_cache: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "run", wide_cache, "threads=2", OMP_NUM_THREADS="2")
    noted = [json.loads((run.parent / "manifest.json").read_text()) for run in (one, other)]
    assert [manifest["environment"]["threads"] for manifest in noted] == [1, 2]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=1e-3, atol=1e-3), name
