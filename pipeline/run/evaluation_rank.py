"""One rank of an evaluation on several devices: started by scripts.evaluate, not by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from eval.benchmarks import benchmark_of
from eval.scoring import fill_rank
from pipeline.launch import ranks
from pipeline.run.evaluation import describe_inputs, open_scorer, set_threads
from pipeline.settings.configuration import load_saved


def main(output: str) -> None:
    """Score this rank's share by the configuration that scripts.evaluate saved in `output`."""
    with ranks.noted(Path(output)):
        cfg = load_saved(Path(output) / "config.yaml")
        set_threads(cfg)
        rank, size = ranks.place()
        rows = benchmark_of(cfg.benchmark).load(cfg.data, cfg.eval.ignore)
        fill_rank(open_scorer(cfg, describe_inputs(cfg), rank=rank), rows, rank, size)


if __name__ == "__main__":
    main(sys.argv[1])
    ranks.leave()
