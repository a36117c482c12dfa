"""Experiment trackers around a run: started before it, always finished after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


@contextlib.contextmanager
def run(cfg: DictConfig, run_dir: Path) -> Iterator[list[str]]:
    """Open the tracker that conf/tracking names; yield what transformers should report to.

    wandb goes online where the user is logged in and offline otherwise (WANDB_MODE overrides);
    only rank 0 opens it. metrics.jsonl does not depend on any of this.
    """
    names = list(cfg.tracking.report_to)
    if "wandb" not in names or os.environ.get("RANK", "0") != "0":
        yield [name for name in names if name != "wandb"]
        return
    import wandb

    logged_in = wandb.api.api_key is not None
    mode: Any = os.environ.get("WANDB_MODE", "online" if logged_in else "offline")
    wandb.init(
        project=cfg.tracking.project,
        name=run_dir.name,
        group=cfg.loss.name,
        dir=str(run_dir),
        mode=mode,
        config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
    )
    try:
        yield names
    finally:
        wandb.finish()
