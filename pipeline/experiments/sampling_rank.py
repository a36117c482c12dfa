"""One rank that samples a policy for Best-of-N: started by `sampling_ranks`, not by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from eval.best_of_n.sampling import sample_share
from pipeline.experiments.sampling_ranks import alone, open_sampler, read_job
from pipeline.launch import ranks


def main(folder: str) -> None:
    """Sample this rank's share of the prompts in `folder`."""
    with ranks.noted(Path(folder)):
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        job = read_job(Path(folder))
        with alone(rank, job.engine):
            if torch.cuda.is_available() and job.engine != "vllm":
                torch.cuda.set_device(rank)
            sample_share(job.prompts, lambda: open_sampler(job), job.path, job.at_once, rank, size)


if __name__ == "__main__":
    main(sys.argv[1])
    ranks.leave()
