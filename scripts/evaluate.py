"""Score a checkpoint on a benchmark.

python -m scripts.evaluate checkpoint=DIR benchmark=rewardbench data=PATH output=DIR

Writes DIR/scores.parquet (a row a pair, or a row a response), summary.json, table.md, config.yaml
and, last, manifest.json. A killed run goes on from its last finished batch; the same command on the
same inputs does nothing again. `devices=2` starts two ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pipeline.run.evaluation import evaluate, hydra_words, refuse_another_test
from pipeline.settings import configuration


@configuration.main("evaluate")
def run(cfg: DictConfig) -> None:
    """Score one checkpoint and print its tables."""
    refuse_another_test(cfg)
    evaluate(cfg)
    print((Path(cfg.output) / "table.md").read_text())
    print(f"written: {cfg.output}")


def main() -> None:
    """Read the command line and score."""
    sys.argv[1:] = hydra_words(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
