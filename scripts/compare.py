"""Compare two checkpoints, or two methods over several seeds, on the same evaluated pairs.

python -m scripts.compare a=DIR b=DIR
python -m scripts.compare 'a=[DIR,DIR,DIR]' 'b=[DIR,DIR,DIR]'    # paired in this order

Output: the table of differences b − a, in <output>/comparison.md and comparison.csv; its main
columns are printed. Reads output folders of scripts.evaluate; computes again on every call.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("compare")
def main(cfg: DictConfig) -> None:
    """Compare and print the table."""
    with configuration.quick_imports():
        from eval.tables import for_terminal
        from pipeline.run.comparison import compare

    head, _, table = compare(cfg).split("\n\n")
    print(f"{head}\n\n{for_terminal(table, ('a : b', 'p McNemar', 'effect', 'seeds'))}\n")
    print(f"all columns, and how they are computed: {Path(cfg.output) / 'comparison.md'}, .csv")


if __name__ == "__main__":
    main()
