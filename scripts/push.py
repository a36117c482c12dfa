"""Share a trained checkpoint with its model card on the Hugging Face Hub.

python -m scripts.push run_dir=runs/mine repo=OWNER/NAME [dry_run=false]

Output: the card in the checkpoint's folder, and the list of files. With dry_run=true, the default,
nothing is uploaded.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.settings import configuration


@configuration.main("push")
def main(cfg: DictConfig) -> None:
    """Say what is, or would be, uploaded."""
    from pipeline.run.push import push

    files = push(cfg)
    for path in files:
        print(f"{path.stat().st_size / 1e6:9.2f} MB  {path.name}")
    print(f"{'would be uploaded' if cfg.dry_run else 'uploaded'} to {cfg.repo}: {len(files)} files")


if __name__ == "__main__":
    main()
