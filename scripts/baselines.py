"""Score baselines that read no prompt: n-grams of the answers, and their length.

python -m scripts.baselines data=generated_v2
python -m scripts.baselines data=files data.train=PATH benchmark=rewardbench benchmark_data=PATH

Fits both to the training pairs, section by section, and scores them on the data's validation pairs
or on a benchmark.
Output: one CSV with a row per baseline and subset, section and average, with 95% intervals.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("baselines")
def main(cfg: DictConfig) -> None:
    """Print the rows of sections and say where the table is."""
    with configuration.quick_imports():
        from pipeline.experiments.baselines import run

    table = run(cfg)
    print(table[table["level"] != "subset"].to_string(index=False))
    print(f"written: {cfg.output}")


if __name__ == "__main__":
    main()
