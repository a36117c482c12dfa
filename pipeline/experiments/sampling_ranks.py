"""A policy's samples for Best-of-N, by one process or by several ranks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from eval.best_of_n.decoding import PolicyText
from eval.best_of_n.prompts import Prompt, as_json
from eval.best_of_n.sampling import Sampled, Sampler, sample_all, transformers_sampler
from eval.best_of_n.settings import PolicySettings
from eval.best_of_n.vllm_engine import vllm_sampler
from pipeline.launch.launchers import Local, start_ranks, visible_gpus
from pipeline.settings import configuration
from rm.files import atomic_write_json
from rm.model.precision import DTYPES
from rm.model.untrusted import load_weights

JOB_FILE = "sampling.json"
OF_TORCHRUN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
"""Prefixes of the environment variables that tell a process that it is one of several ranks."""


@dataclass(frozen=True)
class SamplingJob:
    """What is sampled: `prompts` by the policy in `folder`, into the file `path`."""

    prompts: Sequence[Prompt]
    policy: PolicySettings
    folder: Path
    engine: str
    path: Path

    @property
    def at_once(self) -> int:
        """Prompts that go to the policy together."""
        return max(1, self.policy.rows // self.policy.samples)


def sample_prompts(job: SamplingJob, devices: int) -> list[Sampled]:
    """Answer every prompt N times, or read the answers if they exist.

    With several `devices` each samples its share; the answers do not depend on their number. If a
    rank fails, raises what `start_ranks` does; finished samples are kept.
    """
    place = job.path.with_suffix(".ranks")

    def by_ranks() -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_job(job, place)
        start_ranks(Local(), "pipeline.experiments.sampling_rank", place, devices)
        shutil.rmtree(place)

    several = by_ranks if devices > 1 else None
    return sample_all(job.prompts, lambda: open_sampler(job), job.path, job.at_once, several)


def open_sampler(job: SamplingJob) -> Sampler:
    """Load the policy into the engine that samples from it."""
    policy = PolicyText.of_folder(job.folder)
    dtype = job.policy.dtype
    if job.engine == "vllm":
        return vllm_sampler(job.folder, policy, job.policy.decoding, dtype)
    model = load_weights(AutoModelForCausalLM, job.folder, dtype=DTYPES[dtype]).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    return transformers_sampler(model, policy, job.policy.decoding)


def write_job(job: SamplingJob, place: Path) -> None:
    """Write what the ranks need."""
    content = {
        "prompts": list(map(as_json, job.prompts)),
        "policy": asdict(job.policy),
        "folder": str(job.folder),
        "engine": job.engine,
        "path": str(job.path.resolve()),
    }
    atomic_write_json(place / JOB_FILE, content)


def read_job(place: Path) -> SamplingJob:
    """Read in a rank what `write_job` wrote."""
    content = json.loads((place / JOB_FILE).read_text())
    prompts = [
        Prompt(one["prompt_id"], tuple(one["turns"]), one["subset"]) for one in content["prompts"]
    ]
    policy: PolicySettings = configuration.typed(
        PolicySettings, OmegaConf.create(content["policy"])
    )
    names = (Path(content["folder"]), content["engine"], Path(content["path"]))
    return SamplingJob(prompts, policy, *names)


@contextlib.contextmanager
def alone(rank: int, engine: str) -> Iterator[None]:
    """In a rank, let vLLM see only this rank's GPU, and none of the other ranks.

    Otherwise vLLM takes the first GPU and joins the ranks as parts of one model.
    """
    if engine != "vllm":
        yield
        return
    before, gpus = dict(os.environ), visible_gpus()
    for name in before:
        if name.startswith(OF_TORCHRUN):
            del os.environ[name]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank]
    try:
        yield
    finally:
        os.environ.update(before)
