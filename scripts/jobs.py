"""List the jobs of a sweep: which are done, which failed and why; rerun the failed ones.

python -m scripts.jobs folder=runs/cpu/tune               # the jobs of scripts.tune -m
python -m scripts.jobs folder=runs/cpu/train rerun=true   # those of scripts.train -m

Output: the table, printed and written to <folder>/jobs.csv and jobs.md, and a figure. Every job
leaves its record in <folder>/jobs. Exit status 1 if a rerun job fails again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("jobs")
def main(cfg: DictConfig) -> None:
    """Rerun what failed if asked to; print the table, a count of each status, and the files.

    Exit status 1 if a job failed again.
    """
    from pipeline.run.jobs import read_jobs, rerun, table, write

    folder = Path(cfg.folder)
    failures = rerun(read_jobs(folder)) if cfg.rerun else 0
    frame = table(read_jobs(folder))
    print(frame.to_string(index=False, na_rep="-"))
    print(
        ", ".join(f"{count} {status}" for status, count in frame["status"].value_counts().items())
    )
    print("\n".join(str(path) for path in write(frame, folder)))
    if failures:
        sys.exit(f"{failures} failed again")


if __name__ == "__main__":
    main()
