"""What the figures need beside scores: gradients, their directions, distances by layer, texts.

Each measurement is a file named by the fingerprint of everything it depends on. If the file exists,
it is read and not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from analysis.texts import prompt_text, text_features
from eval.rows import EvaluationRow
from eval.spreadsheet import parquet_bytes
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.objective import objective_of
from rm.data.templates import ChatTemplate
from rm.data.tokens import TokenPair, encode_pair
from rm.errors import InputError
from rm.files import is_intact, write_checked
from rm.model.checkpoints import load_reward_model
from rm.model.parts import train_part
from rm.model.precision import DTYPES, best_device
from rm.model.reward_model import RewardModel
from rm.model.trunk import open_cache
from rm.provenance import fingerprint_of
from rm.training.batches import PairCollator, rows_of
from rm.training.gradients import Projection, cosines, pair_gradients
from rm.training.layers import layer_distances
from rm.training.settings import TrainingSettings

UNTRAINED = "untrained"
NORMBT = "normbt"
VERSION = 3
"""Increased when a measurement's meaning changes, so that older files are not read."""
PROJECTED = 2**18
"""Numbers that a gradient is projected onto for cosines: an error of at most 0.003 in each."""


@dataclass(frozen=True)
class Run:
    """One trained (or untrained) reward model of the matrix and where its files are."""

    method: str
    seed: int
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The plain Hugging Face folder."""
        return self.folder / "checkpoint"

    @property
    def scores(self) -> Path:
        """The evaluation's output folder."""
        return self.folder / "evaluation"


def kept(stem: Path, depends_on: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return the table at `stem`-<fingerprint of `depends_on`>.parquet.

    It is made first if it is missing or damaged.
    """
    path = stem.with_name(f"{stem.name}-{fingerprint_of([VERSION, depends_on])}.parquet")
    if not is_intact(path):
        write_checked(path, parquet_bytes(make()))
    return pd.read_parquet(path)


def texts(folder: Path, rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """Return the texts of the benchmark's pairs and their similarity, one row per pair.

    Columns: pair_id, section, subset, cluster, prompt, chosen, rejected, then those of
    `analysis.texts.text_features`.
    """
    records = [
        {
            **names_of(row),
            "prompt": prompt_text(row.prompt),
            "chosen": prompt_text(row.sides[0]),
            "rejected": prompt_text(row.sides[1]),
        }
        for row in rows
    ]
    return kept(
        folder / "pairs",
        records,
        lambda: pd.DataFrame(
            [record | text_features(record["chosen"], record["rejected"]) for record in records]
        ),
    )


def names_of(row: EvaluationRow) -> dict[str, str]:
    """Return a row's pair_id, section, subset and cluster."""
    return {
        "pair_id": row.pair_id,
        "section": row.section,
        "subset": row.subset,
        "cluster": row.cluster,
    }


def inputs_of(cfg: DictConfig, run: Run, rows: Sequence[EvaluationRow]) -> list[Any]:
    """Everything that a run's measurements depend on: weights, pairs, training settings."""
    training = OmegaConf.to_container(cfg.training, resolve=True)
    assert isinstance(training, dict)
    return [
        json.loads((run.scores / "manifest.json").read_text())["inputs"],
        [row.pair_id for row in rows],
        {str(k): v for k, v in training.items() if k != "attention"},  # a kernel: same result
    ]


def gradients(
    cfg: DictConfig, run: Run, rows: Sequence[EvaluationRow]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Exact per-pair gradients of `rows` under a run's checkpoint, and the cosines between them.

    Columns of the first: those of `names_of` and of `pair_gradients`, weight, method, seed; of the
    second: pair_a, pair_b, cosine, error (the projection's), method, seed.
    """
    depends_on = inputs_of(cfg, run, rows)
    made: list[pd.DataFrame] = []

    def both(index: int) -> pd.DataFrame:
        if not made:
            made.extend(measure_gradients(cfg, run, rows))
        return made[index]

    frame = kept(run.folder / "gradients", depends_on, lambda: both(0))
    # Not part of what is kept: another ε or cap needs no new gradients.
    frame = frame.assign(weight=normbt_weights(cfg, frame["distance"].to_numpy()))
    angles = kept(run.folder / "directions", depends_on, lambda: both(1))
    names = pd.DataFrame(map(names_of, rows))
    frame = names.merge(frame, on="pair_id").assign(method=run.method, seed=run.seed)
    return frame, angles.assign(method=run.method, seed=run.seed)


def measure_gradients(
    cfg: DictConfig, run: Run, rows: Sequence[EvaluationRow]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure gradients of `rows`, and the cosines between them.

    θ: the parameters that the run trains. For a LoRA run all parameters, since its checkpoint holds
    merged adapters. The layers above the trunk are computed in float32.
    """
    settings = check(cfg)
    model, tokenizer = _reward_model(run, settings)
    part = "full" if settings.part == "lora" else settings.part
    train_part(model, part, top_layers=settings.top_layers)  # type: ignore[arg-type]
    pairs = token_pairs(tokenizer, rows, settings)
    trunk = None
    if settings.reuse_trunk:
        folder = Path(cfg.cache_dir) / "trunk"
        trunk = open_cache(
            model, settings.top_layers, rows_of(pairs), folder, share=settings.share_prefix
        )
    model.float().to(best_device())
    model.compute_dtype = torch.float32
    projection = Projection(PROJECTED)
    collator = PairCollator(int(tokenizer.pad_token_id), trunk, share=settings.share_prefix)
    frame, sketches = pair_gradients(model, pairs, collator, projection)
    angles = cosines(frame["pair_id"].tolist(), sketches, frame["gradient_distance"].tolist())
    return frame, angles.assign(error=projection.error(trained_numbers(model)))


def normbt_weights(cfg: DictConfig, distance: np.ndarray) -> np.ndarray:
    """Return the weights (pairs,) that NormBT would give pairs at `distance` (pairs,).

    μ / (‖h_w − h_l‖ + ε), capped, with μ the sample's mean distance, under whatever checkpoint. ε
    and cap are those of `cfg`, from which every run is composed, or of conf/loss/normbt.yaml where
    `cfg` names another loss.
    """
    if cfg.loss.name != NORMBT:
        cfg = configuration.compose_config("train", [f"loss={NORMBT}"])
    known = torch.tensor(distance)
    weights = objective_of(cfg.loss).weight.weigh(known, known.mean().item())
    return weights.numpy()


def trained_numbers(model: RewardModel) -> int:
    """Return how many numbers θ has."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def layers(cfg: DictConfig, run: Run, rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """Distances of `rows` by layer and pooling under a run's checkpoint.

    Columns: those of `names_of`, of `rm.training.layers.layer_distances`, then method and seed.
    """
    frame = kept(
        run.folder / "layers", inputs_of(cfg, run, rows), lambda: measure_layers(cfg, run, rows)
    )
    names = pd.DataFrame(map(names_of, rows))
    return names.merge(frame, on="pair_id").assign(method=run.method, seed=run.seed)


def measure_layers(cfg: DictConfig, run: Run, rows: Sequence[EvaluationRow]) -> pd.DataFrame:
    """Measure the distances of `rows` at every layer, in the run's compute dtype."""
    settings = check(cfg)
    model, tokenizer = _reward_model(run, settings)
    pairs = token_pairs(tokenizer, rows, settings)
    model.to(best_device())
    return layer_distances(model, pairs, int(tokenizer.pad_token_id))


def _reward_model(
    run: Run, settings: TrainingSettings
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """Load a run's checkpoint. Raises InputError where its weights were dropped."""
    if not run.checkpoint.is_dir():
        raise InputError(
            f"{run.folder} lacks a measurement, and its weights are gone: delete that "
            "folder, and the same command retrains it"
        )
    return load_reward_model(run.checkpoint, DTYPES[settings.compute_dtype])


def token_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[EvaluationRow], settings: TrainingSettings
) -> list[TokenPair]:
    """Tokenise rows as training does; no row is dropped."""
    template = ChatTemplate(tokenizer, parse_special_text=settings.parse_special_text)
    pairs = []
    for row in rows:
        (one, other), _, _ = encode_pair(template, row.prompt, row.sides, settings.max_length)
        pairs.append(TokenPair(row.pair_id, tuple(one), tuple(other)))
    return pairs
