"""What a result's manifest records: versions, code revision, machine, fingerprints of files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "peft",
    "deepspeed",
    "hydra-core",
    "wandb",
    "pandas",
    "matplotlib",
)


def usable_cores() -> int:
    """Number of cores that this process may use: a scheduler or container may give it fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fingerprint_of(content: Any) -> str:
    """SHA-256 (16 hex digits) of JSON-like content, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """SHA-256 (16 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def code_revision() -> dict[str, Any]:
    """Commit of this checkout and whether tracked files were changed; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True
            )
        except OSError:  # git is not installed
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":!/results")
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed": None if changes is None else changes != "",
    }


def environment() -> dict[str, Any]:
    """Package versions, Python, processor, threads; no user names, variables or paths."""
    import torch  # takes seconds, and fingerprints do not need it

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        # Such as "AVX512"; rounding depends on it.
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "code": code_revision(),
    }
