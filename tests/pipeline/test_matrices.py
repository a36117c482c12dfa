"""Which matrices there are, and the two that `make reproduce-full` runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.experiments import reproduce as pipeline
from pipeline.settings.configuration import CONF, compose_config

ROOT = CONF.parent


def test_three_matrices_run_every_loss_and_forms_has_the_grid_of_the_confirmatory_one() -> None:
    made = {
        path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "matrix").glob("*.yaml")
    }
    losses = {path.stem for path in (CONF / "loss").glob("[!_]*.yaml")}
    assert {one for name in ("main", "rivals", "forms") for one in made[name]["methods"]} == losses
    assert made["forms"]["grid"] == made["confirmatory"]["grid"]
    assert {"bt", "normbt"} < set(made["forms"]["methods"]) and len(made["forms"]["seeds"]) == 5


def make_full(*words: str) -> list[list[str]]:
    """Return the words of every command of the pipeline that `make reproduce-full` would run."""
    handed_down = ("MAKEFLAGS", "MFLAGS", "PROFILE", "ARGS", "DRY_RUN")
    outside = {key: value for key, value in os.environ.items() if key not in handed_down}
    command = ["make", "-n", "reproduce-full", *words]
    done = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    lines = [line for line in done.stdout.splitlines() if "-m scripts." in line]
    return [shlex.split(line)[2:] for line in lines]


@pytest.mark.parametrize("profile", ["cpu", "smoke"])
def test_everything_in_one_go_is_the_confirmatory_experiment_and_its_replication(
    profile: str,
) -> None:
    commands = make_full(f"PROFILE={profile}", "ARGS=seeds=[0] workers=1")
    assert [command[0] for command in commands] == ["scripts.reproduce"] * 2
    made = [compose_config("reproduce", command[1:]) for command in commands]
    assert [one.experiment.name for one in made] == ["confirmatory", "replication"]
    assert all((list(one.seeds), one.workers) == ([0], 1) for one in made)
    assert [list(one.methods) for one in made] == [
        ["bt", "normbt", "category_weights", "normbt_cap"],
        ["bt", "normbt"],
    ]
    plain = compose_config("reproduce", [f"profile={profile}"])
    assert len({one.runs_dir for one in (*made, plain)}) == 3
    assert len({one.results_dir for one in (*made, plain)}) == 3
    assert all(one.results_dir.startswith("results/local/") for one in made)
    names = [(one.model.name, one.data.name) for one in made]
    assert (
        names
        == {
            "cpu": [("smollm2-135m-instruct", "generated_v2"), ("gemma-3-270m", "generated_v2")],
            "smoke": [("tiny-llama", "generated_v2_tiny"), ("tiny-gemma", "generated_v2_tiny")],
        }[profile]
    )
    assert [one[0] for one in make_full("DRY_RUN=1")] == ["scripts.dry_run"] * 2


def test_the_papers_cells_are_not_run_in_one_go() -> None:
    with pytest.raises(RuntimeError, match="use make reproduce PROFILE=paper ARGS=experiment="):
        make_full("PROFILE=paper")


@pytest.mark.slow
def test_everything_in_one_go_on_tiny_data(tmp_path: Path, cache: Path) -> None:
    small = "ARGS=seeds=[0,1] methods=[bt,normbt] grid=[1e-3,2e-3] gradient_pairs=2"
    for command in make_full("PROFILE=smoke", small):
        experiment = next(word for word in command if word.startswith("experiment="))
        own = [f"cache_dir={cache}", f"runs_dir={tmp_path}/{experiment}/runs"]
        words = [*command[1:], *own, f"results_dir={tmp_path}/{experiment}/results"]
        pipeline.reproduce(compose_config("reproduce", words), words)
        results = tmp_path / experiment / "results"
        assert json.loads((results / "manifest.json").read_text())["freeze"]["commit"]
        assert (results / "tables/table1.csv").is_file() and (results / "report.html").is_file()


def test_the_time_is_said_where_committed_runs_trained_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = compose_config("train", ["profile=cpu", "data.train_pairs=3600"])
    config: Any = OmegaConf.to_container(made, resolve=True)
    Path("results/default").mkdir(parents=True)
    run = {"seconds": 360.0, "config": config}
    path = Path("results/default/manifest.json")
    path.write_text(json.dumps({"runs": [run], "seconds_of_this_call": 400.0}))
    words = ["profile=cpu", "workers=2"]  # 440 pairs, two methods, three seeds
    lines = pipeline.outline(compose_config("reproduce", words))
    assert lines[1] == "about 2 min 12 s of training at the speed of results/default"
    path.write_text(json.dumps({"runs": 6 * [run], "seconds_of_this_call": 1200.0}))
    same = compose_config("reproduce", [*words, "data.train_pairs=3600"])
    said = "about 20 min 0 s from nothing at the speed of results/default"
    assert pipeline.outline(same)[1] == said
    path.write_text(json.dumps({"runs": 6 * [run], "seconds_of_this_call": 90.0}))  # it resumed
    assert pipeline.outline(same)[1].startswith("about 18 min 0 s of training")
    files = ["data=files", "data.train=x.jsonl"]
    others = (["model=gemma-3-270m"], files, ["grid=[1e-3]"], ["training.epochs=3"])
    for other in (*others, ["training.compute_dtype=float16"]):
        lines = pipeline.outline(compose_config("reproduce", [*words, *other]))
        assert not [line for line in lines if line.startswith("about")]
