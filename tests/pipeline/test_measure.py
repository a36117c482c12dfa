"""Measurements are made once, from a sample that is the same for every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from eval.rows import EvaluationRow, sample_rows
from pipeline.experiments import measure
from pipeline.settings.configuration import compose_config
from rm.model.reward_model import RewardModel


def rows(counts: dict[str, int]) -> list[EvaluationRow]:
    return [
        EvaluationRow(
            f"{section}{i}",
            ({"role": "user", "content": "q"},),
            "a b",
            "a c",
            subset="s",
            section=section,
        )
        for section, count in counts.items()
        for i in range(count)
    ]


def test_the_sample_has_as_many_of_every_section_spread_evenly() -> None:
    chosen = sample_rows(rows({"Chat": 10, "Safety": 3}), 5)
    names = [row.pair_id for row in chosen]
    assert names == ["Chat0", "Chat2", "Chat4", "Chat6", "Chat8", "Safety0", "Safety1", "Safety2"]


def test_a_measurement_is_kept_until_what_it_depends_on_changes(tmp_path: Path) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"x": [len(made)]})

    assert [measure.kept(tmp_path / "f", "a", make)["x"][0] for _ in range(2)] == [1, 1]
    assert measure.kept(tmp_path / "f", "b", make)["x"][0] == 2
    assert len(list(tmp_path.glob("f-*.parquet"))) == 2


def test_texts_carry_their_features(tmp_path: Path) -> None:
    frame = measure.texts(tmp_path, rows({"Chat": 2}))
    assert frame["prompt"].tolist() == ["q", "q"] and frame["overlap"].tolist() == [0.5, 0.5]
    assert {"pair_id", "section", "subset", "cluster", "chosen", "rejected"} <= set(frame)


def test_the_weight_is_normbts_as_the_configuration_sets_it() -> None:
    distance = np.array([1.0, 3.0])

    def weights(*words: str) -> list[float]:
        return list(measure.normbt_weights(compose_config("reproduce", words), distance))

    assert weights() == list(2 / (distance + 1e-6))
    assert weights("loss.weight.epsilon=1", "loss.weight.cap=0.75") == [0.75, 0.5]
    assert weights("loss=bt") == weights("loss=normbt_shuffled") == weights()


def test_gradients_are_measured_in_float32_on_the_best_device(
    train_smoke: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The "meta" device stands for a GPU: there is none on every machine that runs the tests."""
    folder = train_smoke("training.compute_dtype=bfloat16")
    seen = []

    def stop(model: RewardModel, *_: object) -> None:
        seen.extend({(value.device.type, value.dtype) for value in model.parameters()})
        raise InterruptedError

    monkeypatch.setattr(measure, "best_device", lambda: "meta")
    monkeypatch.setattr(measure, "pair_gradients", stop)
    cfg = compose_config("reproduce", ["profile=smoke", "training.reuse_trunk=false"])
    with pytest.raises(InterruptedError):
        measure.measure_gradients(cfg, measure.Run("bt", 0, folder), rows({"Chat": 1}))
    assert seen == [("meta", torch.float32)]


def test_the_pipelines_files_hold_the_same_pairs(smoke_results: Path) -> None:
    data = smoke_results / "data"
    gradients = pd.read_csv(data / "gradients.csv")
    assert {"cluster", "weight", "head_gradient_norm"} <= set(gradients)
    assert gradients.groupby(["method", "section"]).size().eq(8).all()
    assert set(gradients["method"]) == {"untrained", "bt", "normbt"}  # what the figures show
    directions = pd.read_parquet(data / "directions.parquet")
    assert len(directions) == 3 * 32 * 31 / 2 and directions["error"].eq(0).all()
    layers = pd.read_parquet(data / "layers.parquet")
    pairs = pd.read_parquet(data / "pairs.parquet")
    assert set(layers["pair_id"]) == set(gradients["pair_id"]) <= set(pairs["pair_id"])
    scores = pd.read_parquet(data / "scores.parquet")
    assert set(pairs["pair_id"]) == set(scores["pair_id"])
    # two ways to the same number: float32 scores and the gradient's own forward pass
    last = layers[(layers["pooling"] == "last") & (layers["layer"] == layers["layer"].max())]
    both = last.merge(gradients[gradients["method"] == "untrained"], on="pair_id")
    assert abs(both["distance_x"] / both["distance_y"] - 1).max() < 1e-3
