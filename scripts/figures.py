"""Redraw every figure and table from saved data (make figures).

python -m scripts.figures profile=cpu

Output: results_dir/figures and tables, and one line per figure or table: drawn, or why not.
Nothing is trained or measured.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Draw, and print one line per figure or table."""
    from analysis.gallery import draw_all
    from pipeline.launch.lock import only_one_draws

    results = Path(cfg.results_dir)
    with only_one_draws(results):
        for item in draw_all(results):
            print(item.line())


if __name__ == "__main__":
    main()
