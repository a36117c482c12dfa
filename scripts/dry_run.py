"""Everything that can go wrong in a reproduction, tried before it starts: make reproduce DRY_RUN=1.

Composes every run, builds every model on the meta device, tokenises a sample of the data, and looks
at folders, disk, devices, DeepSpeed and the Hub. One line a check: ok, failed with its remedy, or
not checked. Exit status 2 if one failed. Nothing is trained and nothing is written.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.plan.dry_run import FAILED, checks
from pipeline.plan.room import name_accelerator
from pipeline.settings import configuration
from rm.errors import InputError


@configuration.main("plan")
def main(cfg: DictConfig) -> None:
    """Print every check; exit with 2 if one failed."""
    failed = 0
    name_accelerator()
    with tempfile.TemporaryDirectory() as scratch:
        for one in checks(cfg, HydraConfig.get().overrides.task, Path(scratch)):
            print(one.line(), flush=True)
            failed += one.state == FAILED
    if failed:
        raise InputError(f"{failed} check{'s' if failed > 1 else ''} failed: see above")


if __name__ == "__main__":
    main()
