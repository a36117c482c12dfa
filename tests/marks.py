"""Marks that several test files share."""

import subprocess
from pathlib import Path

import pytest
import torch

two_ranks = pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="two ranks need two GPUs, or none"
)
CHANGED = ["git", "diff", "--quiet", "HEAD", "--", "results/cpu"]
"""Exit status 1: `make reproduce` has written over what is committed."""
needs_committed_results = pytest.mark.skipif(
    subprocess.run(CHANGED, cwd=Path(__file__).parents[1], capture_output=True).returncode == 1,
    reason="results/cpu holds other results than the committed ones: git checkout results/cpu",
)
