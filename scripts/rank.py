"""One rank of a run on several devices: started by scripts.train, not by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.ranks import one_of
from scripts.train import fit, read_config


def main(run_dir: str) -> None:
    """Train on this rank by the configuration that scripts.train saved in `run_dir`."""
    with one_of(Path(run_dir), int(os.environ["RANK"])):
        fit(read_config(Path(run_dir) / "config.yaml"))


if __name__ == "__main__":
    main(sys.argv[1])
