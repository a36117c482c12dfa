"""Tiny random backbones of the two architectures, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from generated.backbones import build_tiny
from rm.model.backbones import BackboneSettings, prepare_backbone

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folder of each tiny backbone: "llama" (pad = eos, the trap) and "gemma" (no system role)."""
    folder = tmp_path_factory.mktemp("backbones")
    found = {}
    for name in ("llama", "gemma"):
        content = yaml.safe_load((CONF / f"model/tiny-{name}.yaml").read_text())
        found[name] = prepare_backbone(BackboneSettings(**content), folder, build_tiny)
    return found
