"""Build a wandb workspace and a report from conf/dashboard.yaml (make dashboard).

python -m scripts.dashboard project=OWNER/NAME [dry_run=false]

Output: panels grouped by method, with the mean over seeds and their range. With dry_run=true, the
default, the specification is written to `output` as JSON, which needs no account.
"""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration
from rm.files import atomic_write_text


@configuration.main("dashboard")
def main(cfg: DictConfig) -> None:
    """Send the dashboard, or write what would be sent, and say where it is."""
    from pipeline.run.dashboard import KINDS, build, send, specification

    if not cfg.dry_run:
        print("\n".join(send(cfg)))
        return
    text = json.dumps(specification(build(cfg)), indent=2, ensure_ascii=False)
    atomic_write_text(Path(cfg.output), text + "\n")
    count = sum(len(cfg[kind]) for kind in KINDS)
    print(f"{cfg.output}: a workspace and a report for {cfg.project}, {count} panels each")
    print("dry_run=false creates them there")


if __name__ == "__main__":
    main()
