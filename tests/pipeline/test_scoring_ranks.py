"""Scoring and sampling by several ranks: the same numbers as by one process."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from eval.best_of_n.prompts import Prompt
from eval.best_of_n.settings import PolicySettings
from eval.scoring import Scorer, grouped_rewards
from pipeline.experiments import sampling_ranks
from pipeline.experiments.sampling_ranks import (
    SamplingJob,
    alone,
    read_job,
    sample_prompts,
    write_job,
)
from pipeline.run import scoring_ranks
from pipeline.run.scoring_ranks import RankedScorer, devices_of_one_machine, scoring_devices
from pipeline.settings.configuration import compose_config

Train = Callable[..., Path]
POLICY = PolicySettings(samples=3, temperature=1.0, top_p=0.95, max_new_tokens=6, rows=6, seed=3)


def groups_of_rows() -> list[list[tuple[int, ...]]]:
    """Seven prompts with four responses each; one response is there twice."""
    draw, made = random.Random(0), []
    for _ in range(7):
        prompt = tuple(draw.randrange(5, 200) for _ in range(draw.randint(3, 30)))
        ends = [tuple(draw.randrange(5, 200) for _ in range(draw.randint(1, 9))) for _ in "abc"]
        made.append([prompt + end for end in (*ends, ends[0])])
    return made


@pytest.fixture(scope="module")
def checkpoint(train_smoke: Train) -> Path:
    return train_smoke("data.train_pairs=8", "loss=bt") / "checkpoint"


@pytest.fixture
def ranked(checkpoint: Path, cache: Path, tmp_path: Path) -> Callable[[int], RankedScorer]:
    """A scorer with so many ranks, whose batches are small."""
    words = [f"checkpoint='{checkpoint}'", f"cache_dir='{cache}'", f"output='{tmp_path}/out'"]
    cfg = compose_config("evaluate", [*words, "eval.batch_tokens=60", "threads=1"])

    def make(devices: int) -> RankedScorer:
        return RankedScorer(cfg, str(checkpoint), "gold", tmp_path / "scoring", devices)

    return make


def in_this_process(_: Any, module: str, folder: Path, devices: int) -> None:
    """What `start_ranks` does, rank by rank."""
    assert module == "pipeline.run.scoring_rank"
    for rank in range(devices):
        job, rows = scoring_ranks.read_job(folder)
        job.open(rank).fill(rows, hidden=False, rank=rank, ranks=devices)


def test_ranks_score_everything_and_their_rewards_are_those_of_one_process(
    ranked: Callable[[int], RankedScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, groups = ranked(1), groups_of_rows()
    expected = one.rewards(one.open(), groups)
    assert expected == grouped_rewards(replace(one.open(), partial=None), groups)
    monkeypatch.setattr(scoring_ranks, "start_ranks", in_this_process)
    two = ranked(3)
    gathering, scored = two.open(), list[int]()
    forward = Scorer._forward

    def counted(self: Scorer, *given: Any) -> Any:
        scored.append(id(self))
        return forward(self, *given)

    monkeypatch.setattr(Scorer, "_forward", counted)
    assert two.rewards(gathering, groups) == expected
    assert len(set(scored)) == 3 and id(gathering) not in scored
    assert not two.folder.exists()


def test_a_scoring_that_was_killed_goes_on(
    ranked: Callable[[int], RankedScorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, groups = ranked(1), groups_of_rows()
    expected = one.rewards(one.open(), groups)
    forward, calls = Scorer._forward, list[int]()

    def killed(self: Scorer, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, *given)

    monkeypatch.setattr(Scorer, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        one.rewards(one.open(), groups)
    assert one.rewards(one.open(), groups) == expected
    batches = len(one.open()._plan([row for group in groups for row in group]))
    assert len(calls) == 1 + batches > 3  # none but the one that was cut short twice


@pytest.mark.slow
def test_two_real_ranks_score_as_one(ranked: Callable[[int], RankedScorer]) -> None:
    one, two, groups = ranked(1), ranked(2), groups_of_rows()
    assert two.rewards(two.open(), groups) == one.rewards(one.open(), groups)


def job_of(folder: Path, path: Path) -> SamplingJob:
    prompts = [
        Prompt(f"p{n}", ({"role": "user", "content": f"Say {n} words."},), "gen2-counts-far")
        for n in range(5)
    ]
    return SamplingJob(prompts, POLICY, folder, "transformers", path)


@pytest.mark.slow
def test_two_real_ranks_sample_as_one(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = backbone_folders["llama"]
    one = sample_prompts(job_of(folder, tmp_path / "one.jsonl"), devices=1)
    two = sample_prompts(job_of(folder, tmp_path / "two.jsonl"), devices=2)
    assert one == two and len({text for found in one for text in found.texts}) > 10
    assert {path.name for path in tmp_path.iterdir()} == {"one.jsonl", "two.jsonl"}


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = job_of(tmp_path / "policy", tmp_path / "samples.jsonl")
    write_job(job, tmp_path)
    assert read_job(tmp_path) == job and job.at_once == 2


def test_vllm_sees_its_own_gpu_and_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_ranks, "visible_gpus", lambda: ["4", "6"])
    for name, value in (("RANK", "1"), ("MASTER_PORT", "29"), ("CUDA_VISIBLE_DEVICES", "4,6")):
        monkeypatch.setenv(name, value)
    with alone(1, "vllm"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
        assert not {"RANK", "MASTER_PORT"} & set(os.environ)
    assert os.environ["RANK"] == "1" and os.environ["CUDA_VISIBLE_DEVICES"] == "4,6"
    with alone(1, "transformers"):
        assert os.environ["MASTER_PORT"] == "29"


def test_of_several_machines_one_scores() -> None:
    words = ["profile=smoke", "launch=torchrun", "launch.nodes=2", "launch.node=0", "devices=16"]
    cfg = compose_config("train", [*words, "launch.master_address=localhost"])
    assert devices_of_one_machine(cfg) == 8


@pytest.mark.parametrize(
    ("launch", "gpus", "asked", "given"),
    [("local", 8, 8, 8), ("torchrun", 8, 16, 8), ("gpu_group", 8, 4, 1), ("local", 0, 2, 2)],
)
def test_as_many_devices_score_as_train_on_this_machine(
    launch: str, gpus: int, asked: int, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    cfg = OmegaConf.create({"launch": {"name": launch}, "devices": asked})
    assert isinstance(cfg, DictConfig) and scoring_devices(cfg) == given
