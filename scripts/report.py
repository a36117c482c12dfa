"""Build the one-page report of a profile (make report).

python -m scripts.report profile=cpu

Output: results_dir/report.html, from what scripts.figures has drawn there.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Write the report and print where it is."""
    from analysis import report
    from pipeline.launch.lock import only_one_draws

    results = Path(cfg.results_dir)
    with only_one_draws(results):
        print(report.write(results))


if __name__ == "__main__":
    main()
