"""Train one configuration and return its accuracy on the held-out pairs: a job of a sweep.

python -m scripts.tune -m loss=bt,normbt seed=0,1 training.learning_rate=1e-4,3e-4
python -m scripts.tune -m hydra/sweeper=search 'training.learning_rate=tag(log,interval(1e-5,1e-3))'

Output: the validation accuracy, which a sweeper maximises; test pairs are never read. The run's
weights are dropped once it is scored. python -m scripts.jobs lists the sweep's jobs.
Resume: as scripts.train; a scored run is skipped.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("tune")
def main(cfg: DictConfig) -> float:
    """Run the job, say how it did, and return what a sweeper maximises."""
    from pipeline.launch.terminal import one_run

    folder = Path(cfg.runs_dir)
    what = f"train {cfg.loss.name}, seed {cfg.seed}, and score it on validation pairs"
    with one_run(what, folder / "log.txt"):
        with configuration.quick_imports():
            from pipeline.experiments.tune import tune
            from pipeline.run.jobs import recorded
        with recorded("scripts.tune", folder) as results:
            results |= tune(cfg, configuration.words())
    accuracy = float(results["accuracy"])
    print(f"validation accuracy: {100 * accuracy:.1f}% of {results['pairs']} pairs", flush=True)
    return accuracy


if __name__ == "__main__":
    main()
