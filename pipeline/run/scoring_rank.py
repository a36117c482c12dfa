"""One rank that scores rows: started by `pipeline.run.scoring_ranks`, not by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.launch import ranks
from pipeline.run.evaluation import set_threads
from pipeline.run.scoring_ranks import read_job


def main(folder: str) -> None:
    """Score this rank's share of the rows in `folder`."""
    with ranks.noted(Path(folder)):
        rank, size = ranks.place()
        job, rows = read_job(Path(folder))
        set_threads(job.cfg)
        job.open(rank).fill(rows, hidden=False, rank=rank, ranks=size)


if __name__ == "__main__":
    main(sys.argv[1])
    ranks.leave()
