"""Try everything that can go wrong in a reproduction before it starts (make reproduce DRY_RUN=1).

python -m scripts.dry_run profile=paper

Composes every run, builds every model without its weights, tokenises a sample of the data, and
checks folders, disk, devices, DeepSpeed and access to the Hub.

Output: one line per check: ok, failed with its remedy, or not checked. Exit status 2 if one failed.
Nothing is trained or written.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration
from rm.errors import InputError


@configuration.main("plan")
def main(cfg: DictConfig) -> None:
    """Print every check; exit with 2 if one failed."""
    from pipeline.plan.dry_run import FAILED, checks
    from pipeline.plan.room import name_accelerator

    failed = 0
    name_accelerator()
    with tempfile.TemporaryDirectory() as scratch:
        for one in checks(cfg, configuration.words(), Path(scratch)):
            print(one.line(), flush=True)
            failed += one.state == FAILED
    if failed:
        raise InputError(f"{failed} check{'s' if failed > 1 else ''} failed: see above")


if __name__ == "__main__":
    main()
