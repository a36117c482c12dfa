"""wandb: offline here, the resolved configuration and every step in its files, always finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rm.trainer import PairTrainer


def test_offline_run_is_written_and_finished(
    train_smoke: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = train_smoke("data.train_pairs=16", "tracking=wandb", "loss=bt")
    (run,) = (folder / "wandb").glob("offline-run-*")
    (record,) = run.glob("*.wandb")
    content = record.read_bytes()
    assert wandb.run is None
    for word in (b"learning_rate", b"weight_share_q1", b"distance_mean", b"global_batch"):
        assert word in content


def test_a_failing_run_is_finished_too(
    train_smoke: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(PairTrainer, "finish_step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_smoke("data.train_pairs=16", "tracking=wandb", "loss=bt")
    assert wandb.run is None
