"""Runs of the smoke profile for the tests of the entry points."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from generated.backbones import build_tiny
from pipeline.run.training import train
from pipeline.settings.configuration import compose_config
from rm.model.backbones import BackboneSettings, prepare_backbone

CONF = Path(__file__).resolve().parents[2] / "conf"
Train = Callable[..., Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of backbones and trunks for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def train_smoke(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Train:
    """Train the smoke profile with overrides into a new folder (or `run_dir`); return it."""

    def run(*overrides: str, run_dir: Path | None = None) -> Path:
        folder = run_dir or tmp_path_factory.mktemp("run")
        own = [f"run_dir='{folder}'", f"cache_dir='{cache}'"]
        train(compose_config("train", ["profile=smoke", *own, *overrides]))
        return folder

    return run


@pytest.fixture(scope="session")
def backbone_folders(cache: Path) -> dict[str, Path]:
    """Folder of each tiny backbone: "llama" and "gemma"."""
    found = {}
    for name in ("llama", "gemma"):
        content = yaml.safe_load((CONF / f"model/tiny-{name}.yaml").read_text())
        found[name] = prepare_backbone(BackboneSettings(**content), cache / "backbones", build_tiny)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call an entry point as its command line would; return the exit status."""

    def call(module: str, *words: str) -> int:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"scripts.{module}", *words])
        try:
            importlib.import_module(f"scripts.{module}").main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        return 0

    return call
