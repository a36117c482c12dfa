"""Marks that several test files share."""

import pytest
import torch

two_ranks = pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="two ranks need two GPUs, or none"
)
