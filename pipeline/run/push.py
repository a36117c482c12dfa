"""A trained checkpoint with its model card, uploaded to the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from omegaconf import DictConfig

from pipeline.run.card import write_card
from pipeline.run.run_folder import require_records
from rm.errors import InputError
from rm.files import read_json
from rm.model.untrusted import PICKLES

REPO = r"[\w.-]+/[\w.-]+"


def push(cfg: DictConfig) -> list[Path]:
    """Write the card and upload the checkpoint folder; return the files.

    Raises InputError for a run that is not finished or is damaged, a malformed name, weights as
    pickles, and where the Hub refuses or cannot be reached.
    """
    if not re.fullmatch(REPO, cfg.repo):
        raise InputError(f"repo={cfg.repo}: give OWNER/NAME")
    run_dir = Path(cfg.run_dir)
    folder = write_card(run_dir).parent
    require_records(run_dir, read_json(run_dir / "manifest.json"))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pickles = [path.name for path in files if path.suffix in PICKLES]
    if pickles:
        raise InputError(f"{folder} holds {', '.join(pickles)}: only safetensors are shared")
    if not cfg.dry_run:
        _upload(folder, cfg.repo, cfg.private)
    return files


def _upload(folder: Path, repo: str, private: bool) -> None:
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{repo}: {reason} (log in with `hf auth login`)") from error
