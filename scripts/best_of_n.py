"""Best-of-N against a gold score: python -m scripts.best_of_n profile=cpu [bon=cpu_full] [gold=…].

A policy answers held-out prompts N times; a gold relabels training pairs; proxies (methods × seeds)
are trained on those and pick the best of n; the gold score of what they pick is set against KL.

Writes results/<profile>/data/best_of_n.csv, Figure 5 and three tables. Every stage keeps its output
in runs/<profile>/best_of_n under a name made of all that it depends on, so what is there is not
computed again; sampling goes on after the last prompt that was written, training after its last
checkpoint.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.experiments.best_of_n import run
from pipeline.settings import configuration


@configuration.main("best_of_n")
def main(cfg: DictConfig) -> None:
    """Run the experiment and print its table."""
    results = run(cfg, HydraConfig.get().overrides.task)
    print((results / "tables" / "best_of_n.md").read_text())
    print(f"written: {results}/data/best_of_n.csv, figures/figure5, tables/best_of_n*")


if __name__ == "__main__":
    main()
