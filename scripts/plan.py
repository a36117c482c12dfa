"""Print what a reproduction takes, before anything starts (make plan).

python -m scripts.plan profile=paper devices=8 [throughput=400] [output=plan.json]

Output: runs, tokens, operations, device-hours, memory by ZeRO stage, disk and downloads, printed
and, with output=FILE, written as JSON. Every number that is assumed rather than counted says so.
Nothing is trained.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration
from rm.files import atomic_write_json


@configuration.main("plan")
def main(cfg: DictConfig) -> None:
    """Print the plan."""
    from pipeline.plan.plan import as_json, make_plan, report
    from pipeline.plan.room import name_accelerator

    name_accelerator()
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(cfg, configuration.words(), Path(scratch))
    print(report(plan))
    if cfg.output is not None:
        atomic_write_json(Path(cfg.output), as_json(plan))


if __name__ == "__main__":
    main()
