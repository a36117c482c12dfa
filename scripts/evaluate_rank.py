"""One rank of an evaluation on several devices: started by scripts.evaluate, not by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from eval.scoring import fill_rank
from scripts.evaluate import benchmark_of, describe_inputs, open_scorer, set_threads
from scripts.ranks import one_of
from scripts.train import read_config


def main(output: str) -> None:
    """Score this rank's share by the configuration that scripts.evaluate saved in `output`."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with one_of(Path(output), rank):
        cfg = read_config(Path(output) / "config.yaml")
        set_threads(cfg)
        rows = benchmark_of(cfg.benchmark).load(cfg.data)
        fill_rank(open_scorer(cfg, describe_inputs(cfg), rank=rank), rows, rank, ranks)


if __name__ == "__main__":
    main(sys.argv[1])
