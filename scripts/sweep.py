"""One parameter varied at a time: python -m scripts.sweep profile=cpu sweep=beta  (Figure 11).

Trains and scores every value × method × seed of conf/sweep/<name>.yaml as scripts.reproduce would,
and writes into results/<profile>/data: sweep.csv (method, parameter, value, seed, section,
accuracy as a fraction), sweep_scores.parquet (a row a run and pair) and sweep.json (of each
parameter: its runs; settings and environment of the newest call). What they hold of other runs
stays, so that a sweep may be worked off value by value and seed by seed. A finished run is not
repeated, and the value that the configuration has anyway is the run that scripts.reproduce makes
with the same settings; only that one keeps its weights, which scripts.reproduce measures.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.experiments.sweep import sweep
from pipeline.settings import configuration


@configuration.main("sweep")
def main(cfg: DictConfig) -> None:
    """Run one sweep and say where its table is."""
    print(sweep(cfg, HydraConfig.get().overrides.task))


if __name__ == "__main__":
    main()
