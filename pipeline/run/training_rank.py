"""One rank of a run on several devices: started by scripts.train, not by hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from pipeline.launch import ranks
from pipeline.run.training import fit
from pipeline.settings.configuration import load_saved
from rm.errors import InputError


def main(run_dir: str, settings: str) -> None:
    """Train on this rank by the configuration that scripts.train saved in `run_dir`.

    `settings`: fingerprint of the configuration on the machine that started this rank.
    """
    folder = Path(run_dir)
    with ranks.noted(folder):
        store = ranks.meet(folder, settings)
        cfg = load_saved(folder / "config.yaml")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # before anything runs on one
        size = int(os.environ["WORLD_SIZE"])
        if size != cfg.devices:
            raise InputError(f"devices={cfg.devices}, but {size} ranks were started")
        fit(cfg)
        del store  # kept until here: the ranks meet in it


if __name__ == "__main__":
    main(*sys.argv[1:])
    ranks.leave()
