"""Fixtures shared by all tests: no network, one thread, and the real data where it is present."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny models: one thread is faster than two, and many times so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# What a user has fetched from the Hub must not answer a test; workers inherit the first's folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    HUB = tempfile.TemporaryDirectory(prefix="normbt-hub-")
    os.environ["HF_HOME"] = HUB.name
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        os.environ.pop(name, None)

import pytest
from filelock import FileLock
from hypothesis import settings

# The same examples every time, on a slow machine too: a failure is of the code, not of the day.
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real public data; not part of the repository."""
    folder = Path(os.environ.get("NORMBT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set NORMBT_SHARED_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Results of one run of the whole pipeline, smoke profile, one seed; do not change them.

    All workers of the test session share one run: the first to come makes it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "smoke"
    words = ["profile=smoke", "seeds=[0]", "methods=[bt,normbt,normbt_no_ema]", "threads=1"]
    words += ["gradient_pairs=8", f"runs_dir={folder}/runs", f"results_dir={folder}/results"]
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            done = subprocess.run(
                [sys.executable, "-m", "scripts.reproduce", *words, f"cache_dir={folder}/cache"],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            (folder / "done").touch()
    return folder / "results"


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let FlexAttention run on the CPU as plain tensor operations, backward pass too.

    torch refuses that pass where there is no kernel for it; the mathematics is the same.
    """
    import torch
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    with torch.compiler.set_stance("force_eager"):
        yield
