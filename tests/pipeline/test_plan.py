"""The plan's numbers against the pipeline's own composition, runs and files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from omegaconf import DictConfig

from pipeline.experiments.matrix import kept_words, run_configs
from pipeline.plan import architecture
from pipeline.plan.plan import Plan, as_json, duration, make_plan, report
from pipeline.plan.stages import Speed, Stage, speed_of
from pipeline.settings.configuration import compose_config
from rm.errors import InputError
from tests.pipeline.hub_layout import skywork, unified_feedback

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("[gl]*.yaml"))
GIVEN = "throughput=100"
Train = Callable[..., Path]


def planned(tmp_path: Path, *words: str) -> tuple[Plan, DictConfig]:
    own = [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results", *words]
    cfg = compose_config("plan", own)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return make_plan(cfg, own, scratch), cfg


def paper(experiment: str) -> list[str]:
    return ["profile=paper", "devices=8", f"experiment={experiment}"]


def stages(plan: Plan) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan.stages}


def test_there_are_the_four_cells_of_the_papers_table() -> None:
    assert len(EXPERIMENTS) == 4


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_paper_experiment_is_planned_without_its_files(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.plan.architecture._snapshot", lambda hub: None)
    plan, cfg = planned(tmp_path, *paper(experiment), "cache_dir=nowhere")
    found, text = stages(plan), report(plan)
    assert found["training"].runs == len(run_configs(cfg, kept_words(paper(experiment)), {})) == 6
    assert found["scoring, untrained too"].sequences == 7 * 2 * 2985
    assert found["Best-of-N: sampling"].sequences == 405_000
    assert found["Best-of-N: proxies"].runs == 24
    assert {stage.devices for stage in plan.stages} == {8}
    assert "public configuration" in plan.facts["Model"]
    assert "upper bound" in plan.facts["Tokens"]
    assert "conf/plan.yaml" in plan.speed.origin
    assert [one.name for one in plan.memory if one.chosen] == ["zero2"]
    assert {one.name for one in plan.memory} == {"off", "zero1", "zero2", "zero3", "zero3_offload"}
    sizes = {item.name: item.bytes for item in plan.downloads}
    backbone = 5.01e9 if "gemma" in experiment else 6.43e9
    assert sizes[f"model {cfg.model.hub}"] == pytest.approx(backbone, rel=0.01)
    said_of_gradients = "measured in float32 on one device, a GPU where there is one"
    for said in (
        "device-time",
        "PFLOP",
        "Tokens are upper bounds",
        cfg.data.hub,
        said_of_gradients,
    ):
        assert said in text


def test_steps_and_tokens_of_a_paper_run_by_hand(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, *paper("gemma_unified_feedback"), "best_of_n=false", "seeds=[0]")
    training = stages(plan)["training"]
    assert "6,666 steps each of 24 pairs" in plan.facts["Runs"]  # 80,000 pairs, 2 epochs
    assert training.sequences == 2 * 2 * 6_666 * 24
    assert training.tokens == 2 * 6_666 * 24 * 2 * 1024
    assert list(stages(plan)) == ["training", "scoring, untrained too"]


def test_proxies_read_a_prompt_once_for_all_its_samples(tmp_path: Path) -> None:
    """Rows of 1,024 + 1,024 tokens fit the proxies' 3,000, so none is cut and all share."""
    words = paper("gemma_unified_feedback")
    scored = stages(planned(tmp_path, *words)[0])["Best-of-N: proxies score"]
    assert scored.tokens == 24 * (1_000 * 1_024 + 405_000 * 1_024)


def test_counts_follow_matrix_and_grid(tmp_path: Path) -> None:
    words = ["profile=smoke", "matrix=main", "grid=[1e-3,1e-2]", "seeds=[0,1]", GIVEN]
    plan, cfg = planned(tmp_path, *words)
    found = stages(plan)
    assert found["training"].runs == len(run_configs(cfg, kept_words(words[:-1]), {})) == 16
    assert found["learning rates: training"].runs == 8 * 2 * 2
    assert found["learning rates: scoring"].sequences == 2 * 16 * 2 * 16
    assert found["Best-of-N: runs score"].runs == 2 * 2  # bt and normbt, two seeds
    words += ["bon.policy.engine=auto", "gold=both"]
    found = stages(planned(tmp_path, *words)[0])
    assert found["Best-of-N: proxies"].runs == 2 * 2 * 2  # golds, methods, seeds


def test_tokens_and_sizes_of_the_smoke_profile_are_those_of_a_run(
    tmp_path: Path, train_smoke: Train
) -> None:
    plan, _ = planned(tmp_path, "profile=smoke", GIVEN, "best_of_n=false")
    run = train_smoke("loss=bt")
    made = json.loads((run / "manifest.json").read_text())
    training = stages(plan)["training"]
    assert training.tokens / training.runs == pytest.approx(made["batches"]["computed"], rel=0.1)
    assert training.sequences / training.runs == 2 * 8 * made["steps"]
    weights = (run / "checkpoint/model.safetensors").stat().st_size
    assert plan.disk[0].bytes == pytest.approx(7 * weights, rel=0.05)


def test_the_trunk_takes_the_room_of_its_file(tmp_path: Path, train_smoke: Train) -> None:
    own = ["training.part=top_layers", "training.top_layers=1", "training.reuse_trunk=true"]
    own += ["training.share_prefix=true"]
    words = ["profile=smoke", GIVEN, *own, "best_of_n=false", "data.test_pairs=4"]
    plan, _ = planned(tmp_path, *words)
    train_smoke(*own, f"cache_dir='{tmp_path}/cache'")
    kept = sum(path.stat().st_size for path in (tmp_path / "cache/trunk").rglob("*"))
    (trunk,) = [item.bytes for item in plan.disk if item.name == "frozen trunk"]
    assert trunk == pytest.approx(kept, rel=0.1)
    assert stages(plan)["frozen trunk"].runs == 1
    assert {one.name for one in plan.memory} == {"off", "zero1", "zero2"}


@pytest.mark.parametrize("experiment", ["gemma_unified_feedback", "llama_skywork_80k"])
def test_local_copies_are_counted(
    experiment: str,
    tmp_path: Path,
    backbone_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.plan.architecture._snapshot", lambda hub: None)
    make = unified_feedback if "unified" in experiment else skywork
    source, kind = make(tmp_path / "copy", 400), experiment.split("_")[0]
    own = [f"data.hub={source}", "model=local", f"model.path={backbone_folders[kind]}"]
    plan, _ = planned(tmp_path, *paper(experiment), *own)
    usable = 360 if "unified" in experiment else 400
    assert f"400 rows, {usable} usable" in plan.facts["Pairs"]
    assert "counted on a sample" in plan.facts["Tokens"]
    held_out = 0 if "unified" in experiment else 8
    assert f"{usable - held_out} to train on" in plan.facts["Pairs"]
    training = stages(plan)["training"]
    assert training.tokens / training.sequences < 100  # far below max_length
    kept = (usable - held_out) // 256 * 256  # the proxies' batches, in one epoch
    assert stages(plan)["Best-of-N: proxies"].sequences == 24 * 2 * kept
    fetched = {item.name.split("/")[0] for item in plan.downloads}
    assert fetched == {"model google", "model Ray2333", "benchmark rewardbench"}


def test_hours_are_flops_by_throughput_and_devices() -> None:
    speed = Speed(100.0, "given", {"training": 0.5})
    stage = Stage("one", 1, 2, 3.0, 3600 * 50e12 * 8, "training", 4)
    assert speed.hours(stage) == pytest.approx(8)
    assert [duration(h) for h in (0.001, 0.5, 3, 1200)] == ["3.6 s", "30 min", "3.0 h", "1,200.0 h"]


def test_throughput_given_measured_or_wrong() -> None:
    given = speed_of(compose_config("plan", ["profile=smoke", "throughput=312"]))
    assert (given.tflops, given.origin) == (312, "given")
    measured = speed_of(compose_config("plan", ["profile=smoke"]))
    assert measured.tflops > 0 and "measured here" in measured.origin
    for wrong in ("fast", "-1", "0"):
        with pytest.raises(InputError, match=f"throughput={wrong}"):
            speed_of(compose_config("plan", ["profile=smoke", f"throughput={wrong}"]))


def test_data_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    words = [*paper("gemma_skywork_80k"), "data.name=other", "data.hub=owner/other"]
    with pytest.raises(InputError, match=r"is not on this machine: give data\.hub=FOLDER"):
        planned(tmp_path, *words)


def test_an_unreachable_hub_is_asked_once_and_without_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download's retries take minutes; here nothing listens, and no download may be tried."""
    asked = []

    def refused(url: str, timeout: float) -> None:
        asked.append(url)
        raise ConnectionRefusedError

    monkeypatch.setattr(architecture, "get_session", lambda: SimpleNamespace(head=refused))
    monkeypatch.setattr(architecture, "_snapshot", lambda hub: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    architecture.hub_answers.cache_clear()
    try:
        for name in ("gemma-2b-it", "llama-3.2-3b-instruct"):
            model = compose_config("train", [f"model={name}"]).model
            found = architecture.architecture_of(model, tmp_path, tmp_path)
            assert found.origin == f"public configuration, conf/architecture/{name}.yaml"
    finally:
        architecture.hub_answers.cache_clear()
    assert asked == [constants.ENDPOINT]


def test_an_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    words = [*paper("gemma_skywork_80k"), "model.name=other", "model.hub=owner/other"]
    with pytest.raises(InputError, match=r"no conf/architecture/other\.yaml; give model\.path"):
        planned(tmp_path, *words)


def test_as_json_holds_hours(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, "profile=smoke", GIVEN)
    made = json.loads(json.dumps(as_json(plan), allow_nan=False))
    assert made["stages"][0]["device_hours"] == plan.speed.hours(plan.stages[0])
    assert made["disk_bytes"] == plan.disk_bytes > 0


def test_the_entry_point_prints_and_writes_only_what_is_asked(tmp_path: Path) -> None:
    words = ["profile=smoke", f"output={tmp_path}/plan.json", f"runs_dir={tmp_path}/runs", GIVEN]
    command = [sys.executable, "-m", "scripts.plan", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Plan: profile smoke" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_synthetic_policy_costs_scores_of_the_matrix_alone(tmp_path: Path) -> None:
    own = ["training.part=top_layers", "training.top_layers=1", "training.reuse_trunk=true"]
    words = ["profile=smoke", GIVEN, *own, "methods=[bt,normbt,hinge]", "seeds=[0,1]"]
    plan, _ = planned(tmp_path, *words)
    planned_bon = {name: one for name, one in stages(plan).items() if "Best-of-N" in name}
    assert list(planned_bon) == ["Best-of-N: frozen trunk", "Best-of-N: runs score"]
    scored = planned_bon["Best-of-N: runs score"]
    assert (scored.runs, scored.sequences) == (4, 4 * 6 * 2 * 3)  # 6 prompts, 3 variants of 2 sides
    assert "4 of the runs pick, verified by code" in plan.facts["Best-of-N"]
    (trunk,) = [item.bytes for item in plan.disk if item.name == "Best-of-N: frozen trunk"]
    (test,) = [item.bytes for item in plan.disk if item.name == "frozen trunk"]
    assert 0 < trunk < test
    assert not [item for item in plan.disk if "samples" in item.name]
