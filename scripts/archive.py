"""Finished runs without their weights in one small file, to go on from on another machine.

python -m scripts.archive profile=cpu action=pack      # runs/cpu → results/cpu/runs.tar.xz
python -m scripts.archive profile=cpu action=unpack    # and back; then make reproduce… goes on

A run's configuration, manifests, metrics, split, per-pair scores and measured gradients are kept.
That is all that reproduce, sweep and status read of a run whose weights were dropped, and they
check it as they do their own: a run of other settings, data or code is stale and made anew.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.experiments.archive import act
from pipeline.settings import configuration


@configuration.main("archive")
def main(cfg: DictConfig) -> None:
    """Pack or unpack."""
    print(act(cfg))


if __name__ == "__main__":
    main()
