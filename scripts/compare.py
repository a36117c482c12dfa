"""Compare two checkpoints, or two methods over several seeds, on the same evaluated pairs.

python -m scripts.compare a=DIR b=DIR
python -m scripts.compare 'a=[DIR,DIR,DIR]' 'b=[DIR,DIR,DIR]'    # paired in this order

Output: the table of differences b − a, printed and written to <output>/comparison.md and
comparison.csv. Reads output folders of scripts.evaluate; computes again on every call.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("compare")
def main(cfg: DictConfig) -> None:
    """Compare and print the table."""
    from pipeline.run.comparison import compare

    print(compare(cfg))
    print(f"written: {cfg.output}/comparison.md, comparison.csv")


if __name__ == "__main__":
    main()
