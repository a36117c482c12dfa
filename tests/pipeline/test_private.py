"""Secrets never land in a file, and untrusted files read nothing of our environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.run.evaluation import evaluate
from pipeline.run.training import train
from pipeline.settings import private
from pipeline.settings.configuration import compose_config, load_saved
from rm.errors import InputError
from rm.files import CHECKSUMS_FILE

ROOT = Path(__file__).resolve().parents[2]
MARKER = "hunter2hunter2hunter2hunter2hunter2hunter2"
SECRETS = (
    *(
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "MY_PASSWORD",
    ),
    *("OPENAI_API_KEY", "github_token", "NORMBT_CREDENTIALS"),
)
Train = Callable[..., Path]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, MARKER)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PLAIN_SETTING", "3")


def holding_marker(folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    words = (MARKER.encode(), MARKER[:16].encode())
    return [path for path in files if any(word in path.read_bytes() for word in words)]


def call(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"scripts.{module}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


@pytest.mark.usefixtures("secrets")
def test_a_run_writes_no_secret_anywhere(tmp_path: Path, cache: Path) -> None:
    own = [f"run_dir={tmp_path}/run", f"cache_dir={cache}", "tracking=wandb", "data.train_pairs=16"]
    done = call("train", "profile=smoke", *own, "tracking.project=p${oc.env:PLAIN_SETTING}")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert MARKER not in done.stdout + done.stderr
    assert holding_marker(tmp_path) == []
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["tracking"]["project"] == "p3"


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize("name", SECRETS)
def test_a_configuration_cannot_name_a_secret(name: str, tmp_path: Path) -> None:
    words = ["profile=smoke", f"run_dir={tmp_path}/run", f"tracking.project=${{oc.env:{name}}}"]
    with pytest.raises(OmegaConfBaseException) as caught:
        train(compose_config("train", words))
    assert "is a secret by its name" in str(caught.value) and MARKER not in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and MARKER in p.read_text()]


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    "word", ["tracking.project=${oc.env:HF_TOKEN,none}", f"tracking.project=x{MARKER}"]
)
def test_the_command_says_so_in_one_line(word: str, tmp_path: Path) -> None:
    done = call("train", "profile=smoke", f"run_dir={tmp_path}/run", "data.train_pairs=16", word)
    assert done.returncode == 2 and MARKER not in done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert (
        line.startswith(("error: $", "error: the c"))
        and "configurations are written to files" in line
    )
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and MARKER in p.read_text()]


def test_which_names_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(private.is_secret, SECRETS))
    assert not any(map(private.is_secret, ("HOME", "WANDB_MODE", "OMP_NUM_THREADS", "PATH")))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    private.check_words(["debug=false"])  # a short value is an ordinary word
    monkeypatch.setenv("PLAIN_SETTING", "x")
    values = OmegaConf.create({"a": "${oc.env:PLAIN_SETTING}", "b": "${oc.env:NOT_SET,y}"})
    assert OmegaConf.to_container(values, resolve=True) == {"a": "x", "b": "y"}


# --- Files that came with a checkpoint -----------------------------------------------------------


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    "text",
    [
        "seed: ${oc.env:PLAIN_SETTING}",
        "a: ['x ${seed}']",
        "[1, 2]",
        "a: !!python/object/apply:os.system ['false']",
        "a: [",
    ],
)
def test_a_saved_configuration_is_data_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml is (not|damaged).*: delete "):
        load_saved(path)
    (tmp_path / "metrics.jsonl").touch()  # a run that has begun
    with pytest.raises(InputError, match="run the same command again"):
        train(compose_config("train", ["profile=smoke", f"run_dir={tmp_path}"]))


def test_nothing_that_came_with_a_checkpoint_is_instantiated(
    train_smoke: Train, cache: Path, tmp_path: Path
) -> None:
    run = train_smoke("data.train_pairs=16")
    target = {"_target_": "os.mkdir", "path": str(tmp_path / "ran")}
    hostile = {"loss": {"pair_loss": target, "weight": target, "distance": target}, **target}
    for path in (run / "config.yaml", run / "checkpoint/config.yaml"):
        path.write_text(yaml.safe_dump(hostile))
    (run / "checkpoint" / CHECKSUMS_FILE).unlink()
    noted = run / "checkpoint/reward_model.json"
    noted.write_text(json.dumps({**json.loads(noted.read_text()), **hostile}))
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "category": "x"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row))
    words = [f"checkpoint={run}/checkpoint", "benchmark=pairs", f"output={tmp_path}/out"]
    words += [f"benchmark_data={tmp_path}/pairs.jsonl", f"cache_dir={cache}", "eval.resamples=10"]
    assert evaluate(compose_config("evaluate", words))["pairs"] == 1
    assert not (tmp_path / "ran").exists()
    wrong = ('{"max_length": "9"}', '{"compute_dtype": ["a"]}', '{"parse_special_text": "false"}')
    for content in (*wrong, "[1]", "[" * 10**5, "no"):
        noted.write_text(content)
        with pytest.raises(InputError, match=r"reward_model\.json"):
            evaluate(compose_config("evaluate", [*words, f"output={tmp_path}/other"]))
