"""What of a pipeline is done, stale, unfinished, missing or left out: python -m scripts.status.

One line a stage: state, seconds that it took, size on disk, and why it is stale. Nothing is
computed or changed. `make reproduce` does what is not done.
"""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.experiments.status import status
from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Print the table and a count of each state."""
    table = status(cfg, HydraConfig.get().overrides.task)
    print(table.to_string(index=False, na_rep="-"))
    print(", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))


if __name__ == "__main__":
    main()
