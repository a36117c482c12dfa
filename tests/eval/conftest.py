"""The official rewardbench package, imported without fastchat and without its model zoo."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

from generated.backbones import build_tiny
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import new_reward_model, save_reward_model

CONF = Path(__file__).resolve().parents[2] / "conf"


def _module(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def official() -> Iterator[SimpleNamespace]:
    """The package's constants and its aggregation code (utils), version 0.1.4."""
    spec = importlib.util.find_spec("rewardbench")
    if spec is None or spec.origin is None:
        pytest.skip("rewardbench is not installed: pip install --no-deps rewardbench==0.1.4")
    folder = Path(spec.origin).parent
    stubs = {
        "fastchat": _module("fastchat"),
        "fastchat.conversation": _module("fastchat.conversation", Conversation=object),
        "rewardbench": _module("rewardbench", __path__=[str(folder)]),
        "rewardbench.models": _module("rewardbench.models", REWARD_MODEL_CONFIG={}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        yield SimpleNamespace(
            constants=_load("official_constants", folder / "constants.py"),
            utils=_load("official_utils", folder / "utils.py"),
        )


@pytest.fixture(scope="module", params=["llama", "gemma"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random reward model of each architecture."""
    folder = tmp_path_factory.mktemp(request.param)
    content = yaml.safe_load((CONF / f"model/tiny-{request.param}.yaml").read_text())
    backbone = prepare_backbone(BackboneSettings(**content), folder, build_tiny)
    save_reward_model(*new_reward_model(backbone, torch.float32, seed=0), folder / "checkpoint")
    return folder / "checkpoint"
