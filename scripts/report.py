"""Build the one-page report of a profile: python -m scripts.report profile=cpu.

What `make report` calls. Reads results/<profile> (scripts.figures must have drawn it) and writes
results/<profile>/report.html.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from analysis import report
from scripts import config as configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Write the report and print where it is."""
    print(report.write(Path(cfg.results_dir)))


if __name__ == "__main__":
    main()
