"""One rank of a run on several devices: started by scripts.train, not by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from scripts.config import load_saved
from scripts.train import fit


def main(run_dir: str) -> None:
    """Train on this rank by the configuration that scripts.train saved in `run_dir`."""
    fit(load_saved(Path(run_dir) / "config.yaml"))


if __name__ == "__main__":
    main(sys.argv[1])
