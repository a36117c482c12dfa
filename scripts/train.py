"""Train one reward model.

python -m scripts.train loss=normbt model=… data=… seed=1 run_dir=DIR

Output: DIR/checkpoint (a plain Hugging Face folder with a model card), metrics.jsonl, config.yaml,
split.json and, written last, manifest.json.
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
    from pipeline.run.jobs import recorded
    from pipeline.run.training import train

    with recorded("scripts.train", Path(cfg.run_dir).parent, cfg.run_dir):
        made = train(cfg)
    if made:
        print(f"checkpoint: {Path(cfg.run_dir) / 'checkpoint'}")


if __name__ == "__main__":
    main()
