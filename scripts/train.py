"""Train one reward model.

python -m scripts.train loss=normbt model=… data=… seed=1 run_dir=DIR

Output: DIR/checkpoint (a plain Hugging Face folder with a model card), metrics.jsonl, config.yaml,
split.json, log.txt and, written last, manifest.json.
Resume: an interrupted run resumes from its last checkpoint (training.save_steps). A finished run is
left as it is.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("train")
def main(cfg: DictConfig) -> None:
    """Train one run."""
    from pipeline.launch.terminal import one_run

    run_dir = Path(cfg.run_dir)
    what = f"train {cfg.loss.name}, seed {cfg.seed}: {cfg.model.name} on {cfg.data.name}"
    with one_run(what, run_dir / "log.txt"):
        with configuration.quick_imports():
            from pipeline.run.jobs import recorded
            from pipeline.run.training import result_lines, train
        with recorded("scripts.train", run_dir.parent, cfg.run_dir):
            made = train(cfg)
    for line in result_lines(run_dir) if made else ():
        print(line)


if __name__ == "__main__":
    main()
