"""Score a checkpoint on a benchmark.

python -m scripts.evaluate checkpoint=DIR benchmark=rewardbench data=hub|PATH output=DIR

Output: <output>/scores.parquet (one row per pair, or per response), summary.json, table.md,
config.yaml, log.txt and, written last, manifest.json. devices=2 scores on two ranks.
Resume: a killed evaluation resumes after its last finished batch. The same command on the same
inputs skips a finished one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("evaluate")
def run(cfg: DictConfig) -> None:
    """Score one checkpoint and print its tables."""
    from pipeline.launch.terminal import one_run

    output = Path(cfg.output)
    with one_run(f"score {cfg.checkpoint} on {cfg.benchmark}", output / "log.txt"):
        with configuration.quick_imports():
            from eval.tables import for_terminal
            from pipeline.run.evaluation import evaluate, refuse_another_test
        refuse_another_test(cfg)
        evaluate(cfg)
    head, sections, *_ = (output / "table.md").read_text().split("\n\n")
    print(f"{head}\n\n{for_terminal(sections)}\n")
    print(f"subsets too: {output / 'table.md'}   scores: {output / 'scores.parquet'}")


def main() -> None:
    """Read the command line and score."""
    sys.argv[1:] = configuration.hydra_words(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
