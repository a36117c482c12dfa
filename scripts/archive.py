"""Pack finished runs, without their weights, into one small file, to resume on another machine.

python -m scripts.archive action=pack archive=mine.tar.xz runs_dir=runs/cpu
python -m scripts.archive action=unpack archive=results/cpu/runs.tar.xz runs_dir=runs/from_archive

Output: the archive holds each run's configuration, manifests, metrics, split, per-pair scores and
measured gradients. That is all that reproduce, sweep and status read of a run whose weights were
dropped. Unpacked runs are checked like any other: one with other settings, data or code is out of
date and is retrained.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("archive")
def main(cfg: DictConfig) -> None:
    """Pack or unpack."""
    from pipeline.experiments.archive import act

    print(act(cfg))


if __name__ == "__main__":
    main()
