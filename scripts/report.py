"""Build the one-page report of a profile: python -m scripts.report profile=cpu.

What `make report` calls. Reads results/<profile> (scripts.figures must have drawn it) and writes
results/<profile>/report.html.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from analysis import report
from pipeline.launch.lock import only_one_draws
from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Write the report and print where it is."""
    results = Path(cfg.results_dir)
    with only_one_draws(results):
        print(report.write(results))


if __name__ == "__main__":
    main()
