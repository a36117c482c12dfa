"""Show which stages of a pipeline are done, out of date, unfinished, missing or left out.

python -m scripts.status profile=cpu [matrix=main]

Output: one line per stage: its state, the seconds it took, its size on disk, and why it is out of
date. Nothing is computed or changed; make reproduce runs what is not done.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Print the table and a count of each state."""
    from pipeline.experiments.status import status

    table = status(cfg, configuration.words())
    print(table.to_string(index=False, na_rep="-"))
    print(", ".join(f"{count} {state}" for state, count in table["state"].value_counts().items()))


if __name__ == "__main__":
    main()
