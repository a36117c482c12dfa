"""Sweeps by validation: every job recorded, failed ones listed and run again alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock

from pipeline.run import jobs
from pipeline.settings import data
from rm.errors import InputError

pytestmark = pytest.mark.slow

Main = Callable[..., int]


@pytest.fixture
def tune(run: Main, tmp_path: Path, cache: Path) -> Main:
    """A sweep of scripts.tune on the smoke profile, its jobs below tmp_path."""
    return lambda *words: run(
        "tune", "-m", "profile=smoke", f"cache_dir='{cache}'", f"runs_dir='{tmp_path}'", *words
    )


def write_pairs(path: Path) -> None:
    rows = [{"prompt": f"Q{n}?", "chosen": f"Yes, {n}.", "rejected": "No."} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_grid_is_chosen_from_on_held_out_pairs_alone(
    run: Main,
    tune: Main,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    splits, generate = set(), data.generate

    def spy(split: Any, *args: Any) -> Any:
        splits.add(split)
        return generate(split, *args)

    monkeypatch.setattr(data, "generate", spy)
    data._pairs.cache_clear()
    rates = "training.learning_rate=1e-4,1e-2"
    assert tune("loss=bt,normbt", rates, "data.train_pairs=16") == 0
    assert splits == {"train", "validation"}
    assert run("jobs", f"folder='{tmp_path}'") == 0
    assert "4 done" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "jobs.csv")
    assert [*table.columns[:3]] == ["loss", "training.learning_rate", "status"]
    assert table["accuracy"].is_monotonic_decreasing and (table["pairs"] == 16).all()
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/evaluation/summary.json")]
    assert sorted(one["average"] for one in found) == pytest.approx(sorted(table["accuracy"]))
    for section in ("Safety", "Reasoning"):
        ours = sorted(one["sections"][section] for one in found)
        assert ours == pytest.approx(sorted(table[section]))
    assert not [*tmp_path.glob("*/checkpoint")]
    assert (tmp_path / "jobs.png").is_file() and (tmp_path / "jobs.svg").is_file()
    page = (tmp_path / "jobs.md").read_text()
    assert len([line for line in page.splitlines() if line.startswith("|")]) == 2 + 4
    assert "](jobs.png)" in page and "4 jobs, a line" in page


def test_failed_jobs_are_listed_and_run_again_alone(
    run: Main, tune: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write_pairs(one)
    assert tune("data=files", f"data.train={other},{one}") == 2
    assert run("jobs", f"folder='{tmp_path}'") == 0
    assert "1 done, 1 failed" in capsys.readouterr().out
    assert not (tmp_path / "jobs.png").exists()
    table = pd.read_csv(tmp_path / "jobs.csv").set_index("status")
    assert "other.jsonl" in table.loc["failed", "error"] and pd.isna(table.loc["done", "error"])
    done = {job["status"]: job["path"] for job in jobs.read_jobs(tmp_path)}["done"]
    before = done.stat().st_mtime_ns
    assert run("jobs", f"folder='{tmp_path}'", "rerun=true") == 1
    write_pairs(other)
    assert run("jobs", f"folder='{tmp_path}'", "rerun=true") == 0
    assert "\n2 done\n" in capsys.readouterr().out
    assert done.stat().st_mtime_ns == before


def test_jobs_that_hold_other_pairs_out_have_files_of_their_own(tune: Main, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl")
    words = (
        f"data.train={tmp_path}/pairs.jsonl",
        "data.seed=0,1",
        "training.learning_rate=1e-3,1e-4",
    )
    assert tune("data=files", "data.validation_share=0.4", *words) == 0
    files = [*(tmp_path / "data").glob("validation-*.jsonl")]
    assert len(files) == 2 and files[0].read_text() != files[1].read_text()


def test_optuna_maximises_validation_accuracy(tune: Main, tmp_path: Path) -> None:
    words = ("hydra/sweeper=search", "hydra.sweeper.n_trials=3", "data.train_pairs=16")
    assert tune(*words, "training.learning_rate=tag(log,interval(1e-4,1e-1))") == 0
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    table = jobs.table(jobs.read_jobs(tmp_path))
    assert len(table) == 3 and table["training.learning_rate"].nunique() == 3
    assert best["best_value"] == table["accuracy"].max() > 0
    rate = best["best_params"]["training.learning_rate"]
    tried = table["training.learning_rate"].astype(float)
    assert table["accuracy"][(tried - rate).abs().idxmin()] == best["best_value"]


def test_a_sweep_of_scripts_train_is_recorded_too(run: Main, tmp_path: Path, cache: Path) -> None:
    folder = "'" + str(tmp_path) + "/${loss.name}'"
    words = ("profile=smoke", f"cache_dir='{cache}'", f"run_dir={folder}", "data.train_pairs=16")
    assert run("train", *words) == 0
    assert not (tmp_path / jobs.JOBS).exists()
    assert run("train", "-m", *words, "loss=bt,normbt_random") == 0
    table = jobs.table(jobs.read_jobs(tmp_path))
    assert table["loss"].tolist() == ["bt", "normbt_random"]
    assert table["status"].tolist() == ["done", "done"] and table["accuracy"].isna().all()


def test_jobs_without_a_run_dir_are_named_by_what_is_swept(
    run: Main, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("profile=smoke", f"cache_dir='{cache}'", "data.train_pairs=16", "training.epochs=2")
    assert run("train", "-m", *words, "loss=bt", "training.learning_rate=1e-3,1e-4") == 0
    base = "tiny-llama-generated_v2_tiny-bt-seed0"
    folder = tmp_path / "runs/smoke/train"
    found = {path.name for path in folder.iterdir()} - {jobs.JOBS}
    assert found == {f"{base}-training.learning_rate={rate}" for rate in ("0.001", "0.0001")}
    for path in (folder / name for name in found):
        rate = yaml.safe_load((path / "config.yaml").read_text())["training"]["learning_rate"]
        assert path.name.endswith(f"={rate}") and (path / "manifest.json").is_file()
    assert run("train", "-m", *words, "loss=bt", "seed=0,1") == 0  # the name has both
    assert {f"{base}", "tiny-llama-generated_v2_tiny-bt-seed1"} <= {
        p.name for p in folder.iterdir()
    }
    record = next(one for one in jobs.read_jobs(folder) if "0.0001" in str(one["overrides"]))
    asked: list[list[str]] = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(jobs.subprocess, "run", lambda c, **_: asked.append(c) or done)
    assert jobs.rerun([{**record, "status": jobs.FAILED}]) == 0
    assert asked[0][-1] == f"run_dir='runs/smoke/train/{base}-training.learning_rate=0.0001'"


def record(folder: Path, name: str, **facts: Any) -> Path:
    path = folder / jobs.JOBS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    job = {"module": "scripts.tune", "overrides": [f"seed={name}"], "status": jobs.RUNNING}
    path.write_text(json.dumps({**job, "seconds": 0.0, "error": "", "results": {}, **facts}))
    return path


def test_a_killed_job_is_known_by_its_lock(tmp_path: Path) -> None:
    record(tmp_path, "0")
    with FileLock(record(tmp_path, "1").with_suffix(".lock")):
        found = jobs.table(jobs.read_jobs(tmp_path))
    assert dict(zip(found["seed"], found["status"], strict=True)) == {
        "0": "interrupted",
        "1": "running",
    }


def test_a_folder_without_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no jobs: run a sweep first"):
        jobs.read_jobs(tmp_path)


def test_a_search_is_refused_where_it_has_nothing_to_maximise(
    run: Main, tune: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "a search maximises what scripts.tune returns"
    assert run("train", "-m", "hydra/sweeper=search", "seed=0,1") == 2
    assert refusal in capsys.readouterr().err
    assert tune("hydra/sweeper=optuna", "seed=0,1") == 2  # the plugin's own: it minimises
    assert refusal in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tune("hydra/sweeper=search", "seed=0,1") == 2
    assert "pip install -r requirements-extras.txt" in capsys.readouterr().err


def test_data_without_held_out_pairs_are_refused(tune: Main, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path)
    assert tune("data=files", f"data.train={path}", "data.validation_share=0") == 2
    (job,) = jobs.read_jobs(tmp_path)
    assert job["status"] == "failed" and "no pairs to choose learning rates on" in job["error"]
