"""Scores of the candidates of a Best-of-N experiment, kept once they are made."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from eval.best_of_n.gold import Candidates
from pipeline.run.scorers import scores_depend_on
from pipeline.run.scoring_ranks import RankedScorer, scoring_devices
from rm.files import is_intact, write_checked
from rm.provenance import fingerprint_of


@dataclass(frozen=True)
class Judged:
    """Scores (prompts, N) of one gold and of its proxies, and facts about both."""

    kind: str
    gold: np.ndarray
    proxies: dict[str, dict[int, np.ndarray]]
    facts: dict[str, Any]


def texts_fingerprint(texts: Sequence[Candidates]) -> str:
    """Fingerprint of prompts and candidates."""
    return fingerprint_of([[list(item.prompt), item.texts] for item in texts])


def scores_file(stem: Path, cfg: DictConfig, texts: Sequence[Candidates]) -> Path:
    """Where a reward model's scores of the candidates are kept: `stem`-<fingerprint>.npy."""
    key = fingerprint_of([texts_fingerprint(texts), scores_depend_on(cfg.eval)])
    return stem.with_name(f"{stem.name}-{key}.npy")


def score_all(cfg: DictConfig, checkpoint: Path, texts: Sequence[Candidates]) -> np.ndarray:
    """Score all candidates with a reward model, on all devices: (prompts, N)."""
    devices = scoring_devices(cfg)
    ranked = RankedScorer(cfg, str(checkpoint), "proxy", checkpoint.parent / "scoring", devices)
    scorer = ranked.open()
    encoded = [scorer.encode(item.prompt, item.texts)[0] for item in texts]
    return np.array(ranked.rewards(scorer, encoded))


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `path`; make and write it first if it is missing or damaged."""
    if not is_intact(path):
        buffer = io.BytesIO()
        np.save(buffer, make())
        write_checked(path, buffer.getvalue())
    return np.load(path)
