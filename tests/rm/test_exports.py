"""What `import rm` offers to a training loop of one's own, as README shows it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid

import rm

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LOOP = next(iter(re.findall(r"```python\n(from rm import .*?)```", README, re.DOTALL)))


def test_readmes_loop_is_normbt() -> None:
    """Two steps of known distances: 3 and 1, then 2 and 2; μ starts at their mean."""
    difference = torch.tensor([0.5, -0.5], requires_grad=True)
    zero = torch.zeros(2)
    made: dict[str, torch.Tensor] = {}

    def model(apart: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return difference, torch.stack([apart, zero], 1), zero, torch.zeros(2, 2)

    batches = [torch.tensor([3.0, 1.0]), torch.tensor([4.0, 2.0])]
    optimizer = SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    exec(LOOP, {"model": model, "batches": batches, "optimizer": optimizer}, made)  # type: ignore[arg-type]
    assert made["mu"] == pytest.approx(0.9 * 2 + 0.1 * 3)  # after the second step: 0.9 μ + 0.1 mean
    losses = -logsigmoid(difference.detach())
    # μ is 2 in both steps: its start is the first batch's mean, and so is its first update.
    assert made["loss"].item() == pytest.approx(
        (2 / 4 * losses[0].item() + 2 / 2 * losses[1].item()) / 2, rel=1e-5
    )
    slope = -torch.sigmoid(-difference.detach())
    weights = torch.tensor([2 / 3 + 2 / 4, 2 / 1 + 2 / 2])
    assert difference.grad is not None
    assert torch.allclose(difference.grad, slope * weights / 2, rtol=1e-5)


def test_every_export_is_the_name_of_its_module() -> None:
    for name, module in rm._MODULES.items():
        assert getattr(rm, name) is getattr(importlib.import_module(module), name)
        assert name in dir(rm)
    with pytest.raises(AttributeError, match="no attribute 'normbt'"):
        rm.normbt  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    words = "import sys, rm, rm.errors, rm.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT).returncode == 0
