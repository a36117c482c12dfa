"""Trackers: what an offline wandb run and TensorBoard hold is read back from their own files."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from wandb.proto import wandb_internal_pb2

from pipeline.run import tracking
from pipeline.run.evaluation import evaluate
from pipeline.settings.configuration import CONF, compose_config
from rm.data.preferences import section_key
from rm.errors import InputError
from rm.provenance import code_revision
from rm.training.trainer import PairTrainer

SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning")
PAGE = (CONF.parent / "docs/tracking.md").read_text()
MARK = "a-secret-of-the-environment"
NAMES = ["smoke", "tiny-llama", "generated_v2_tiny", "normbt"]


@dataclass
class Logged:
    """What one .wandb file holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    """Type → files."""
    kinds: set[str] = field(default_factory=set)
    exit_code: int | None = None

    def add(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        self.kinds.add(kind)
        if kind == "run":
            self.run = record.run
            self.config |= values(record.run.config.update)
        elif kind == "config":
            self.config |= values(record.config.update)
        elif kind == "summary":
            self.summary |= values(record.summary.update)
        elif kind == "history":
            self.history.append(values(record.history.item))
        elif kind == "artifact":
            files = [entry.path for entry in record.artifact.manifest.contents]
            self.artifacts[record.artifact.type] = files
        elif kind == "exit":
            self.exit_code = record.exit.exit_code


def values(items: Any) -> dict[str, Any]:
    """Key → value; a nested key a/b is one key of a dictionary under a."""
    found: dict[str, Any] = {}
    for item in items:
        *parents, last = list(item.nested_key) or [item.key]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(item.value_json)
    return found


def read(folder: Path) -> Logged:
    """Read the one offline run below `folder`/wandb, once its last record is written.

    wandb's service may write on for a moment after `finish` has returned.
    """
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    until = time.monotonic() + 60
    while (logged := parse(path.read_bytes())).exit_code is None and time.monotonic() < until:
        time.sleep(0.1)
    return logged


def parse(data: bytes) -> Logged:
    """Read protobuf records in LevelDB's log format."""
    at, piece, logged = 7, b"", Logged()  # 7 bytes: wandb's own header
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:  # a block ends in padding
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):  # not yet written
            break
        piece += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(piece)
            logged.add(record)
            piece = b""
    return logged


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def trained(train_smoke: Callable[..., Path]) -> Path:
    """Twelve steps with wandb, histograms every five."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("SOME_TOKEN", MARK)
        return train_smoke(
            "tracking=wandb", "tracking.histogram_steps=5", "tracking.tags=[mine]", "loss=normbt"
        )


@pytest.fixture
def evaluated(trained: Path, tmp_path: Path, cache: Path) -> tuple[Logged, dict[str, Any], Path]:
    """The checkpoint scored on eight pairs of four sections; what was logged, summary, folder."""
    data, output = tmp_path / "pairs.jsonl", tmp_path / "scores"
    rows = [
        {
            **{"prompt": f"Q{n}?", "chosen": f"Yes, {'so ' * n}.", "rejected": "No."},
            **{"pair_id": f"p{n}", "category": SECTIONS[n % 4]},
        }
        for n in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"checkpoint='{trained}/checkpoint'", "benchmark=pairs", f"benchmark_data='{data}'"]
    words += [f"output='{output}'", f"cache_dir='{cache}'", "tracking=wandb"]
    summary = evaluate(compose_config("evaluate", [*words, "tracking.sample_pairs=6"]))
    return read(output), summary, output


def test_a_run_has_its_config_group_tags_and_revision(trained: Path) -> None:
    logged = read(trained)
    assert logged.run.run_group == "-".join(NAMES) and logged.run.job_type == "training"
    commit = code_revision()["commit"]
    assert set(logged.run.tags) == {*NAMES, "mine", *([commit] if commit else [])}
    assert logged.run.run_id == (trained / tracking.ID_FILE).read_text()
    saved = OmegaConf.to_container(OmegaConf.load(trained / "config.yaml"))
    assert isinstance(saved, dict)
    assert {key: logged.config[key] for key in saved} == saved
    assert logged.config["environment"]["code"] == code_revision()
    assert {"stats", "environment"} <= logged.kinds and logged.exit_code == 0


def test_every_step_of_the_metrics_file_is_logged(trained: Path) -> None:
    logged = read(trained)
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in logged.history if "train/loss" in row]
    assert len(rows) == len(steps) == 12
    for step, row in zip(steps, rows, strict=True):
        assert row["train/global_step"] == step.pop("step")
        assert {key: six_digits(row[f"train/{key}"]) for key in step} == step
    assert six_digits(logged.summary["train/mu"]) == steps[-1]["mu"]


def six_digits(value: float) -> float:
    """As metrics.jsonl keeps it."""
    return float(f"{value:.6g}")


def test_histograms_hold_the_global_batch(trained: Path) -> None:
    rows = [row for row in read(trained).history if "train/weights" in row]
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["train/global_step"] for row in rows] == [5, 10, 12]
    for row in rows:
        step = steps[row["train/global_step"] - 1]
        for name, quantile in (("weights", "weight"), ("distances", "distance")):
            histogram = row[f"train/{name}"]
            assert histogram["_type"] == "histogram" and sum(histogram["values"]) == 8
            assert histogram["bins"][0] <= step[f"{quantile}_q10"]
            assert histogram["bins"][-1] >= step[f"{quantile}_q90"]


def test_artifacts_are_the_results_and_the_checkpoint_only_if_asked_for(
    trained: Path, train_smoke: Callable[..., Path]
) -> None:
    assert read(trained).artifacts == {"run": sorted(tracking.RUN_FILES)}
    words = ("data.train_pairs=16", "tracking=wandb", "tracking.checkpoint_artifact=true")
    folder = train_smoke(*words, "tracking.histogram_steps=0")
    logged = read(folder)
    assert {"model.safetensors", "config.json"} <= set(logged.artifacts["checkpoint"])
    assert not [row for row in logged.history if "train/weights" in row]


def test_an_evaluation_is_a_run_of_the_same_group(
    trained: Path, evaluated: tuple[Logged, dict[str, Any], Path]
) -> None:
    logged, summary, _ = evaluated
    assert logged.run.run_group == read(trained).run.run_group
    assert logged.run.job_type == "evaluation"
    assert logged.run.display_name == f"{trained.name}-pairs"
    assert logged.config["loss"]["name"] == "normbt" and logged.config["benchmark"] == "pairs"
    (row,) = logged.history
    expected = {"average": summary["average"], "ties": summary["ties"], "pairs": 8}
    expected |= {section_key(name): value for name, value in summary["sections"].items()}
    assert len(expected) == 7
    for name, value in expected.items():
        assert row[f"eval/{name}"] == logged.summary[f"eval/{name}"] == pytest.approx(value)


def test_an_evaluation_has_histograms_pairs_and_its_files(
    evaluated: tuple[Logged, dict[str, Any], Path],
) -> None:
    logged, _, output = evaluated
    (row,) = logged.history
    for name, count in {"all": 8, "chat": 2, "chat_hard": 2, "safety": 2, "reasoning": 2}.items():
        for kind in ("distances", "margins"):
            assert sum(row[f"eval/{kind}/{name}"]["values"]) == count
    (path,) = output.glob("wandb/offline-run-*/files/media/table/eval/*.json")
    table = json.loads(path.read_text())
    pairs = [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
    assert [pair["section"] for pair in pairs] == [*SECTIONS]
    assert pairs[2]["chosen"] == "Yes, so so ." and "Q2?" in pairs[2]["prompt"]
    for pair in pairs:
        assert pair["correct"] == (pair["reward_chosen"] > pair["reward_rejected"])
    assert logged.artifacts["results"] == sorted(tracking.RESULT_FILES)


def test_benchmarks_without_pairs_have_numbers_alone() -> None:
    assert tracking.evaluation_media(4, [], None) == {}  # type: ignore[arg-type]
    summary = {"average": None, "ties": 0, "pairs": 3, "sections": {"Safety": None}, "subsets": {}}
    assert tracking.evaluation_metrics(summary) == {"eval/ties": 0, "eval/pairs": 3}


def test_a_failing_run_is_finished_and_marked(
    train_smoke: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    monkeypatch.setattr(PairTrainer, "finish_step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_smoke("data.train_pairs=16", "tracking=wandb", "loss=bt", run_dir=tmp_path / "run")
    assert wandb.run is None
    assert read(tmp_path / "run").exit_code == 1


def test_an_interrupted_run_goes_on_under_its_id(tmp_path: Path) -> None:
    words = ["profile=smoke", "tracking=wandb", f"run_dir='{tmp_path}'"]
    cfg = compose_config("train", words)
    for _ in range(2):
        with tracking.run(cfg, tmp_path):
            pass
    ids = {path.stem for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")}
    assert ids == {f"run-{(tmp_path / tracking.ID_FILE).read_text()}"}


PARALLEL = """
import sys
import time
from pathlib import Path
import wandb
from pipeline.run import tracking
from pipeline.settings.configuration import compose_config
folder = Path(sys.argv[1])
cfg = compose_config("train", ["profile=smoke", "tracking=wandb", sys.argv[2]])
with tracking.run(cfg, folder):
    for step in range(50):
        wandb.log({"step": step})
"""


def test_parallel_jobs_keep_config_and_summary(tmp_path: Path) -> None:
    jobs = {
        seed: subprocess.Popen(
            [sys.executable, "-c", PARALLEL, str(tmp_path / str(seed)), f"seed={seed}"],
            cwd=CONF.parent,
        )
        for seed in range(2)
    }
    for seed, job in jobs.items():
        assert job.wait(timeout=120) == 0
        logged = read(tmp_path / str(seed))
        assert logged.config["seed"] == seed and logged.summary["step"] == 49
        assert len(logged.history) == 50 and logged.exit_code == 0


def test_the_documented_command_finds_every_offline_run(trained: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"^\.venv/bin/wandb (sync .*)$", PAGE, re.MULTILINE)
    for seed in range(2):
        shutil.copytree(trained / "wandb", tmp_path / f"runs/cpu/seed{seed}/wandb")
    done = subprocess.run(
        f"{sys.executable} -m wandb {command} --dry-run",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Would sync 2 run(s)" in done.stderr + done.stdout


def test_ranks_other_than_the_first_open_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    cfg = compose_config("train", ["profile=smoke", "tracking=wandb"])
    with tracking.run(cfg, tmp_path) as report_to:
        assert report_to == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tracking.project=key-0123456789abcdef", r"holds the value of \$SOME_API_KEY"),
        ("+model.api_key=abc", "holds a secret under api_key"),
        ("+profile.hub_token=abc", "holds a secret under hub_token"),
    ],
)
def test_secrets_are_refused_before_anything_is_written(
    word: str, message: str, monkeypatch: pytest.MonkeyPatch, train_smoke: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "key-0123456789abcdef")
    with pytest.raises(InputError, match=message) as caught:
        train_smoke(word, run_dir=tmp_path / "run")
    assert "0123456789" not in str(caught.value) and not (tmp_path / "run").exists()


def test_variables_are_in_no_file_of_the_run(trained: Path) -> None:
    files = [path for path in trained.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if MARK.encode() in path.read_bytes()]


def test_tensorboard_has_every_step(train_smoke: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train_smoke("data.train_pairs=16", "tracking=tensorboard", "loss=normbt")
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [six_digits(event.value) for event in events.Scalars("train/mu")]
    assert logged == pytest.approx([step["mu"] for step in steps])
    assert not (folder / "wandb").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, train_smoke: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package tensorboard.*requirements-extras"):
        train_smoke("tracking=tensorboard")


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_in_group_and_tags(path: Path) -> None:
    cfg = compose_config("train", ["profile=paper", f"experiment={path.stem}"])
    group, tags = tracking.labels(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    assert group and group.startswith(f"{path.stem}-paper-") and path.stem in tags
    assert len(group) <= 128 and max(map(len, tags)) <= 64  # wandb's limits
