"""Runs out of date, unfinished or locked: named, retrained exactly where needed, never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from omegaconf import DictConfig

from pipeline.experiments.matrix import benchmark_data, run_configs, train_and_score
from pipeline.experiments.measure import Run
from pipeline.experiments.status import status
from pipeline.launch.lock import LOCK_FILE, only_one
from pipeline.run.run_folder import INPUTS_FILE
from pipeline.run.training import train
from pipeline.settings.configuration import compose_config
from rm.errors import InputError

pytestmark = pytest.mark.slow

Words = list[str]


def composed(folder: Path, cache: Path, *own: str) -> tuple[DictConfig, Words]:
    words = ["profile=smoke", f"cache_dir={cache}", f"runs_dir={folder}/runs", "seeds=[0]"]
    words += [f"results_dir={folder}/results", *(own or ("data.train_pairs=16",))]
    return compose_config("reproduce", words), words


def do(cfg: DictConfig, words: Words, count: int) -> list[Run]:
    """Train and score the first `count` runs."""
    test = benchmark_data(cfg, Path(cfg.runs_dir))
    runs = []
    for one in run_configs(cfg, words, {})[:count]:
        runs.append(Run(one.loss.name, one.seed, Path(one.run_dir)))
        train_and_score(cfg, one, runs[-1], test)
    return runs


def states(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["stage"], table["state"], strict=True))


def test_states_follow_what_is_on_disk(tmp_path: Path, cache: Path) -> None:
    cfg, words = composed(tmp_path, cache)
    assert set(states(status(cfg, words)).values()) == {"missing"}
    (run,) = do(cfg, words, 1)
    found = states(status(cfg, words))
    assert found["train/bt-seed0"] == found["train/bt-seed0, scores"] == "done"
    assert found["train/normbt-seed0"] == found["results"] == "missing"
    manifest = tmp_path / "results/manifest.json"
    manifest.parent.mkdir()
    manifest.write_text("{}")
    table = status(cfg, words).set_index("stage")
    assert tuple(table.loc["results", ["state", "why"]]) == (
        "out of date",
        "not all of its runs are done",
    )
    (run.folder / "manifest.json").unlink()
    assert states(status(cfg, words))["train/bt-seed0"] == "unfinished"
    other = tmp_path / "runs/train/normbt-seed0"  # a start that failed left its configuration
    other.mkdir(parents=True)
    (other / "config.yaml").write_text((run.folder / "config.yaml").read_text())
    assert states(status(cfg, words))["train/normbt-seed0"] == "missing"


def test_best_of_n_of_other_settings_is_out_of_date_and_may_be_left_out(
    tmp_path: Path, cache: Path
) -> None:
    cfg, words = composed(tmp_path, cache)
    made = tmp_path / "results/data/best_of_n.json"
    made.parent.mkdir(parents=True)
    for name, engine, state, why in (
        ("smoke", "synthetic", "done", ""),
        ("cpu", "auto", "out of date", "bon: smoke ≠ cpu"),
        ("smoke", "auto", "out of date", "engine: synthetic ≠ auto"),
    ):
        bon = {"name": name, "policy": {"engine": engine}}
        made.write_text(json.dumps({"bon": bon, "seconds_of_this_call": 2.5}))
        line = status(cfg, words).set_index("stage").loc["Best-of-N"]
        assert (line["state"], line["why"], line["seconds"]) == (state, why, 2.5)
    cfg, words = composed(tmp_path, cache, "best_of_n=false")
    assert states(status(cfg, words))["Best-of-N"] == "left out"
    made.write_text("{")
    with pytest.raises(InputError, match=r"best_of_n\.json is damaged"):
        status(cfg, words)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("training.learning_rate=0.01", "training.learning_rate: 0.01 ≠ 0.001"),
        ("data.label_noise=0.5", "data.label_noise"),
        ("code", "training code"),
        ("data", "data fingerprint"),
    ],
)
def test_a_change_retrains_what_depends_on_it(
    tmp_path: Path, cache: Path, change: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, words = composed(tmp_path, cache)
    (run,) = do(cfg, words, 1)
    if change in ("code", "data"):  # as an earlier version of the code or of the data left it
        noted = run.folder / INPUTS_FILE
        key = "training code" if change == "code" else "data fingerprint"
        noted.write_text(json.dumps({**json.loads(noted.read_text()), key: "other"}))
    else:
        cfg, words = composed(tmp_path, cache, "data.train_pairs=16", change)
    table = status(cfg, words).set_index("stage")
    assert table.loc["train/bt-seed0", "state"] == "out of date"
    assert why in str(table.loc["train/bt-seed0", "why"])
    assert table.loc["train/bt-seed0, scores", "state"] == "out of date"
    with pytest.raises(InputError, match="holds a run with other settings"):
        train(run_configs(cfg, words, {})[0])
    before = (run.folder / "manifest.json").stat().st_mtime_ns
    capsys.readouterr()
    do(cfg, words, 1)
    assert "out of date, retrained" in capsys.readouterr().out
    assert (run.folder / "manifest.json").stat().st_mtime_ns != before
    assert states(status(cfg, words))["train/bt-seed0"] == "done"


def test_what_changes_no_model_retrains_none(tmp_path: Path, cache: Path) -> None:
    cfg, words = composed(tmp_path, cache)
    do(cfg, words, 1)
    own = ["data.train_pairs=16", "data.test_pairs.Chat=24", "data.license=CC0"]
    cfg, words = composed(tmp_path, cache, *own, "training.save_steps=7")
    assert states(status(cfg, words))["train/bt-seed0"] == "done"


def test_a_changed_file_is_other_data(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Q{n}?", "chosen": "Yes, so.", "rejected": "No."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data=files", f"data.train={path}", f"benchmark_data={path}", "benchmark=pairs")
    cfg, all_words = composed(tmp_path, cache, *words)
    one = run_configs(cfg, all_words, {})[0]
    train(one)
    assert train(one)["seed"] == 0
    path.write_text(path.read_text().replace("Q39", "Q93"))
    with pytest.raises(InputError, match="data fingerprint"):
        train(one)


def test_a_second_process_is_told(tmp_path: Path) -> None:
    with only_one(tmp_path):
        pass
    other = FileLock(tmp_path / LOCK_FILE)
    with other, pytest.raises(InputError, match="another process works in"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass
