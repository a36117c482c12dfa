"""Run the whole pipeline (make reproduce).

python -m scripts.reproduce profile=cpu [matrix=full] [methods=[bt,normbt]] [seeds=[0,1]]

Trains every method with every seed, scores each run, measures exact gradients, draws tables and
figures, then runs Best-of-N and builds the report.

Output: results/<profile>, with the data behind every table and figure, and a manifest.
Resume: each stage leaves a manifest. A finished stage is skipped; one whose settings, data or code
have changed is out of date and is run again. An interrupted run resumes from its last checkpoint.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Run the pipeline and print Table 1 and where everything is."""
    from pipeline.experiments.reproduce import reproduce
    from pipeline.launch.lock import LOCK_FILE

    results = reproduce(cfg, HydraConfig.get().overrides.task)
    print((results / "tables" / "table1.md").read_text())
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.name != LOCK_FILE:
            print(path)


if __name__ == "__main__":
    main()
