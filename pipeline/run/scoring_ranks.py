"""Rewards of any rows, on all devices: every rank scores its share of the batches."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from eval.resume import PartialScores
from eval.scoring import Scorer, grouped_rewards
from pipeline.launch.launchers import Local, start_ranks
from pipeline.run.evaluation import leave_the_gpu
from pipeline.run.scorers import load_scorer, scores_depend_on
from rm.data.tokens import Row
from rm.files import atomic_write_json, read_json, writing
from rm.model.backbones import folder_fingerprint
from rm.provenance import fingerprint_of, usable_cores

JOB_FILE, ROWS_FILE = "job.json", "rows.npz"


def scoring_devices(cfg: DictConfig) -> int:
    """How many ranks score on this machine: `devices_of_one_machine`, if it has that many."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else usable_cores()
    return max(1, min(devices_of_one_machine(cfg), here))


def devices_of_one_machine(cfg: DictConfig) -> int:
    """How many of the run's devices one machine has.

    1 with launch=gpu_group, which holds GPUs for training only.
    """
    if cfg.launch.name == "gpu_group":
        return 1
    return cfg.devices // (cfg.launch.get("nodes") or 1)


@dataclass(frozen=True)
class RankedScorer:
    """A reward model that scores groups of rows with `devices` ranks.

    `checkpoint`: a folder or a name on the Hub. `folder`: where finished batches are kept until all
    are scored; a killed call resumes from them.
    """

    cfg: DictConfig
    checkpoint: str
    name: str
    folder: Path
    devices: int
    known_as: str | None = None
    """Identifies the model: finished batches of another are not used. None: it is made here."""

    @cached_property
    def _identity(self) -> str:
        local = (Path(self.checkpoint) / "config.json").is_file()
        return self.known_as or (folder_fingerprint(self.checkpoint) if local else self.checkpoint)

    def open(self, rank: int = 0) -> Scorer:
        """Load the model with its own settings where `eval` does not override them."""
        key = fingerprint_of([self._identity, scores_depend_on(self.cfg.eval)])
        return load_scorer(
            self.checkpoint,
            self.cfg.eval,
            Path(self.cfg.cache_dir),
            label=f"score ({self.name})" + (f", rank {rank}" if rank else ""),
            device=_device(rank),
            partial=PartialScores(self.folder, key, rank),
        )

    def rewards(self, scorer: Scorer, groups: Sequence[Sequence[Row]]) -> list[list[float]]:
        """Rewards of every group's rows by `scorer`, which `open` returned, and by its ranks."""
        if self.devices > 1:
            rows = [row for group in groups for row in group]
            scorer.model.to(_device(0))  # which an earlier call has left
            scorer.prepare_trunk(rows)
            leave_the_gpu(scorer)
            self._write_job(rows)
            start_ranks(Local(), "pipeline.run.scoring_rank", self.folder, self.devices)
        found = grouped_rewards(scorer, groups)
        shutil.rmtree(self.folder, ignore_errors=True)
        return found

    def _write_job(self, rows: Sequence[Row]) -> None:
        """Write what the ranks need: the settings and the rows' tokens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cfg = OmegaConf.to_container(
            OmegaConf.masked_copy(self.cfg, ["eval", "cache_dir", "threads"]), resolve=True
        )
        own = {"checkpoint": self.checkpoint, "name": self.name, "known_as": self._identity}
        job = {"cfg": cfg, **own}
        atomic_write_json(self.folder / JOB_FILE, job)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        tokens = np.fromiter((token for row in rows for token in row), dtype=np.int32)
        with writing(self.folder):
            np.savez(self.folder / ROWS_FILE, tokens=tokens, lengths=lengths)


def read_job(folder: Path) -> tuple[RankedScorer, list[Row]]:
    """Read in a rank what the process that started it wrote."""
    job: dict[str, Any] = read_json(folder / JOB_FILE)
    cfg = OmegaConf.create(job["cfg"])
    with np.load(folder / ROWS_FILE) as stored:
        ends = stored["lengths"].cumsum()[:-1]
        rows = [tuple(part.tolist()) for part in np.split(stored["tokens"], ends)]
    own = {"folder": folder, "devices": 1, "known_as": job["known_as"]}
    return RankedScorer(cfg, job["checkpoint"], job["name"], **own), rows


def _device(rank: int) -> str:
    return f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
