"""One rank of a run on several devices: started by scripts.train, not by hand."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts.train import fit


def main(run_dir: str) -> None:
    """Train on this rank by the configuration that scripts.train saved in `run_dir`."""
    cfg = OmegaConf.load(Path(run_dir) / "config.yaml")
    assert isinstance(cfg, DictConfig)
    fit(cfg)


if __name__ == "__main__":
    main(sys.argv[1])
