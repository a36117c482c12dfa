"""The benchmarks run and their tables are what they say: on tiny models, no time is asserted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from benchmarks import common, gpu, growth, training
from generated.backbones import build_tiny
from pipeline.settings.configuration import CONF
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.objective.weights import NormBT


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = yaml.safe_load((CONF / "model/tiny-llama.yaml").read_text())
    return prepare_backbone(
        BackboneSettings(**content), tmp_path_factory.mktemp("backbone"), build_tiny
    )


def test_rounds_are_interleaved_and_the_first_is_left_out() -> None:
    calls: list[str] = []
    found = common.interleave(
        {name: lambda name=name: calls.append(name) for name in "ab"},  # type: ignore[misc]
        3,
        "test",
    )
    assert calls == list("abababab") and found.way.tolist() == ["a", "b"]
    assert (found.rounds == 3).all()
    times = pd.DataFrame({"way": ["slow", "fast"], "wall_s": [4.0, 1.0], "cpu_s": [2.0, 1.0]})
    ratios = common.with_ratios(times, "slow")
    assert ratios.ratio_wall.tolist() == [1, 4] and ratios.ratio_cpu.tolist() == [1, 2]


def test_written_lines_replace_those_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    common.write(pd.DataFrame({"data": ["a", "b"], "value": [1.0, 2.0]}), path, ["data"])
    common.write(pd.DataFrame({"data": ["b"], "value": [3.0]}), path, ["data"])
    assert pd.read_csv(path).values.tolist() == [["a", 1.0], ["b", 3.0]]


def test_matrix_numbers_count_linear_weights_alone() -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Embedding(7, 3), torch.nn.Linear(4, 1)
    )
    assert common.matrix_numbers([model]) == 3 * 4 + 4


def test_a_profile_names_the_largest_operations_first() -> None:
    left, right = torch.randn(2, 300, 300)
    found = common.profiled(lambda: left @ right)
    assert found.operation.iloc[0] == "aten::mm" and found.calls.iloc[0] == 1
    assert 0.5 < found.share.iloc[0] <= found.share.sum() <= 1 + 1e-12  # a sum of floats


def test_the_gpu_script_goes_through_all_its_ways(tiny: Path) -> None:
    found = gpu.measure(tiny, 16, "cpu", rounds=1, ways=gpu.ways_on(tiny, "cpu"))
    assert len(found) == 2 * 2
    assert (found.difference < 1e-4).all() and (found.wall_s > 0).all()


def test_our_steps_run_two_row_and_shared(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "backbone", lambda: tiny)
    monkeypatch.setattr(training, "synthetic", partial(training.synthetic, vocabulary=200))
    task = training.task_of("synthetic 50 %", 4, Path(), tmp_path)
    assert task.row_tokens == 4 * 2 * 256 and task.tree_tokens(4) == 4 * 384
    for share in (False, True):
        training.our_step(task, share_prefix=share, weight=NormBT(0.9, 1e-6), micro_batch=2)()


def test_growth_with_length_names_the_share_of_attention(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (growth, training):
        monkeypatch.setattr(module, "backbone", lambda: tiny)
    monkeypatch.setattr(growth, "synthetic", partial(training.synthetic, vocabulary=200))
    found = growth.by_length([16, 32], rounds=1)
    assert found["size"].tolist() == [16, 32] and found.tokens.tolist() == [128, 256]
    assert found.time_a_token.iloc[0] == 1 and found.attention_share.between(0, 1).all()
    assert (found.attention_share > 0).all() and (found.kernel_s > 0).all()
