"""The whole pipeline: python -m scripts.reproduce profile=cpu (what `make reproduce` calls).

Trains every method with every seed, scores each, measures exact gradients, and writes tables,
figures and their data under results/<profile>; then Best-of-N with its own, and the report. Every
stage leaves a manifest; a stage whose manifest matches its inputs is not repeated.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.experiments.reproduce import reproduce
from pipeline.launch.lock import LOCK_FILE
from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Run the pipeline and print Table 1 and where everything is."""
    results = reproduce(cfg, HydraConfig.get().overrides.task)
    print((results / "tables" / "table1.md").read_text())
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.name != LOCK_FILE:
            print(path)


if __name__ == "__main__":
    main()
