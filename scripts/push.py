"""Share a trained checkpoint with its model card: python -m scripts.push run_dir=… repo=OWNER/NAME.

`dry_run=true` (the default) writes the card and lists what would be uploaded.
"""

from __future__ import annotations

from omegaconf import DictConfig

from pipeline.run.push import push
from pipeline.settings import configuration


@configuration.main("push")
def main(cfg: DictConfig) -> None:
    """Say what is, or would be, uploaded."""
    files = push(cfg)
    for path in files:
        print(f"{path.stat().st_size / 1e6:9.2f} MB  {path.name}")
    print(f"{'would be uploaded' if cfg.dry_run else 'uploaded'} to {cfg.repo}: {len(files)} files")


if __name__ == "__main__":
    main()
