"""Vary one parameter at a time (Figure 11, Table 5).

python -m scripts.sweep profile=cpu sweep=beta
python -m scripts.sweep -m profile=cpu 'sweep=glob(*)'    # all of them

Trains and scores every value × method × seed of conf/sweep/<name>.yaml, as scripts.reproduce does.

Output, in results_dir/data: sweep.csv (method, parameter, value, seed, section, accuracy as a
fraction), sweep_scores.parquet (one row per run and pair) and sweep.json (the runs of each
parameter; settings and environment of the newest call). Rows of other runs stay, so a sweep can be
done value by value and seed by seed.
Resume: finished runs are skipped. For the value that the configuration has anyway, the run is
that of scripts.reproduce; only it keeps its weights, because scripts.reproduce measures them.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("sweep")
def main(cfg: DictConfig) -> None:
    """Run one sweep and say where its table is."""
    with configuration.quick_imports():
        from pipeline.experiments.sweep import result, sweep

    table = sweep(cfg, configuration.words())
    print(f"average accuracy, percent, mean over seeds\n{result(table, cfg.sweep.parameter)}")
    print(f"table: {table}")


if __name__ == "__main__":
    main()
