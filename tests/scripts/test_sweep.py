"""`scripts.sweep` on the smoke profile: every value trained, the table complete and mergeable."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from analysis import figure11
from scripts.config import CONF
from scripts.matrix import train_config
from scripts.sweep import sweep


def run(folder: Path, cache: Path, *own: str) -> Path:
    words = ["profile=smoke", f"cache_dir={cache}", f"runs_dir={folder}/runs", "seeds=[0]"]
    words += [f"results_dir={folder}/results", "data.train_pairs=16", *own]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("sweep", words)
    return sweep(cfg, words)


def test_sweeps_fill_one_table(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, cache, "sweep=cap", "sweep.values=[1,4]")
    path = run(tmp_path, cache, "sweep=label_noise", "sweep.values=[0.0,1.0]")
    table = pd.read_csv(path)
    assert len(table) == (2 + 2 * 2) * 5
    assert not table.duplicated(["method", "parameter", "value", "seed", "section"]).any()
    runs = [*(tmp_path / "runs/sweep").glob("*/*/manifest.json")]
    assert len(runs) == 6 and not [*(tmp_path / "runs/sweep").glob("*/*/checkpoint")]
    written = path.read_bytes()
    capsys.readouterr()
    run(tmp_path, cache, "sweep=cap", "sweep.values=[1,4]")
    assert capsys.readouterr().out.count("the checkpoint is gone") == 2
    assert path.read_bytes() == written
    frame = figure11.collect(path.parent)
    assert set(frame["parameter"]) == {"cap", "label_noise"}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_every_sweep_composes_for_every_method_and_value(name: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("sweep", [f"sweep={name}"])
    assert cfg.sweep.parameter == name
    for method in cfg.sweep.methods:
        for value in cfg.sweep["values"]:
            train_config(cfg, [f"{cfg.sweep.key}={value}"], method, 0, "sweep")
