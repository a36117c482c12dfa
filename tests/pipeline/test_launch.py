"""Several machines, Slurm's way of stopping a job, groups of GPUs: on one machine, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from torch.distributed import HashStore
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.experiments.matrix import train_config
from pipeline.launch import launchers as launch
from pipeline.launch import ranks
from pipeline.launch.launchers import GpuGroup, Hostfile, Local, Torchrun, start_ranks
from pipeline.run.run_folder import stale_because
from pipeline.run.training import launch_of, train
from pipeline.settings.configuration import CONF, compose_config
from rm.errors import InputError, InterruptedRunError
from rm.model.checkpoints import load_reward_model
from tests.marks import two_ranks

pytestmark = pytest.mark.slow

Train = Callable[..., Path]
ROOT = CONF.parent
FIVE = ("data.train_pairs=40", "loss=normbt", "training.micro_batch=2")


@pytest.fixture(autouse=True)
def outside_slurm_with_small_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    for name in ("JOB_ID", "JOB_NUM_NODES", "NODEID", "LAUNCH_NODE_IPADDR"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path, steps: int, rtol: float) -> None:
    ours, theirs = steps_of(one), steps_of(other)
    assert len(ours) == len(theirs) == steps
    for a, b in zip(ours, theirs, strict=True):
        for key in ("loss", "mu", "distance_mean", "reward_margin"):
            assert a[key] == pytest.approx(b[key], rel=rtol, abs=rtol), (a["step"], key)
    weights = load_file(other / "checkpoint" / "model.safetensors")
    for name, value in load_file(one / "checkpoint" / "model.safetensors").items():
        assert torch.allclose(value, weights[name], rtol=rtol, atol=rtol), name


# --- what a configuration says -------------------------------------------------------------------


def test_every_launch_composes_and_the_default_is_this_machine() -> None:
    names = {path.stem for path in (CONF / "launch").glob("*.yaml")}
    assert names == {"local", "gpu_group", "hostfile", "torchrun"}
    assert all(compose_config("train", [f"launch={name}"]).launch.name == name for name in names)
    assert launch_of(compose_config("train")) == Local("local")


def test_the_launcher_makes_no_finished_run_stale(
    train_smoke: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_smoke("data.train_pairs=16")
    before = (folder / "manifest.json").read_bytes()
    torchrun = ["launch=torchrun", "launch.nodes=1", "launch.node=0", "launch.master_address=x"]
    own = ["profile=smoke", "data.train_pairs=16", f"run_dir='{folder}'"]
    assert stale_because(compose_config("train", [*own, *torchrun]), folder) == []
    # A run that was made before there was a choice of launchers:
    saved = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(saved.replace("launch:\n", "elsewhere:\n"))
    assert "elsewhere" in stale_because(compose_config("train", own), folder)[0]
    lines = [*_without_launch(saved)]
    (folder / "config.yaml").write_text("\n".join(lines))
    capsys.readouterr()
    train_smoke("data.train_pairs=16", *torchrun, run_dir=folder)
    assert "already trained" in capsys.readouterr().out
    assert (folder / "manifest.json").read_bytes() == before


def _without_launch(text: str) -> Iterator[str]:
    inside = False
    for line in text.splitlines():
        inside = line == "launch:" or (inside and line.startswith(" "))
        if not inside:
            yield line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch=hostfile"], "launch.hostfile"),
        (["launch=hostfile", "launch.hostfile=/nowhere"], "/nowhere: no such file"),
        (["launch=torchrun"], "needs launch.nodes=…"),
        (["launch=torchrun", "launch.nodes=2"], "needs launch.node=…"),
        (["launch=torchrun", "launch.nodes=2", "launch.node=0"], "needs launch.master_address=…"),
        (["launch=gpu_group"], r"this process sees 0 GPUs .*gpus_per_node"),
        (["devices=0"], "devices=0: must be a whole number, 1 or more"),
        (["training.micro_batch=0"], r"training\.micro_batch=0: must be above zero"),
    ],
)
def test_what_cannot_be_started_is_refused(
    words: list[str], message: str, train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Exception, match=message) as caught:
        train_smoke(*words)
    assert type(caught.value).__name__ in ("InputError", "MissingMandatoryValue")


def test_ranks_over_all_machines_must_divide_the_global_batch(train_smoke: Train) -> None:
    words = ("launch=torchrun", "launch.nodes=3", "launch.node=0", "launch.master_address=x")
    with pytest.raises(InputError, match=r"global_batch=8 is not .* micro_batch × devices = 2 × 3"):
        train_smoke(*words, "devices=3", "training.micro_batch=2")
    with pytest.raises(InputError, match=r"devices=4 is not a multiple of launch\.nodes=3"):
        train_smoke(*words, "devices=4", "training.micro_batch=2")
    with pytest.raises(InputError, match=r"launch\.node=5: 3 machines are numbered 0 to 2"):
        Torchrun("torchrun", 3, 5, "x", 29500, 1).check(3)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Local().check(2)
    Torchrun("torchrun", 2, 0, "x", 29500, 1).check(4)
    with pytest.raises(InputError, match="3 ranks on this machine, which has 2 GPUs"):
        Local().check(3)


def test_a_hostfiles_slots_are_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hostfile"
    hosts = Hostfile("hostfile", str(path), None, 29500)
    path.write_text("# two machines\none slots=8\ntwo slots=4\n")
    assert hosts.slots() == {"one": 8, "two": 4}
    with pytest.raises(InputError, match="has 12 slots on 2 hosts and devices=16"):
        hosts.check(16)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs pdsh"):
        hosts.check(12)
    path.write_text("one slots=8\none slots=8\n")
    with pytest.raises(InputError, match="multiple entries for one"):
        hosts.check(16)


def test_slurms_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_NODEID", "1")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.7")
    found = launch_of(compose_config("train", ["launch=torchrun", "devices=2"]))
    assert isinstance(found, Torchrun)
    assert (found.nodes, found.node, found.master_address) == (2, 1, "10.0.0.7")


def test_commands_of_many_runs_refuse_torchrun() -> None:
    cfg = compose_config("reproduce", ["profile=smoke"])
    with pytest.raises(InputError, match=r"launch=torchrun is for scripts\.train alone"):
        train_config(cfg, ["profile=smoke", "launch=torchrun"], "bt", 0, "train")


@pytest.mark.parametrize("name", ["slurm", "machine"])
def test_set_ups_for_sweeps_name_only_what_the_plugin_knows(name: str) -> None:
    plugin = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    kinds = {"slurm": plugin.SlurmQueueConf, "machine": plugin.LocalQueueConf}
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"hydra/launcher={name}", "devices=4"]
        cfg = compose("train", words, return_hydra_config=True)
    found = cfg.hydra.launcher
    assert set(found) == set(kinds[name].__dataclass_fields__)
    if name == "slurm":
        assert found.gpus_per_node == 4 and found.max_num_timeout > 0


# --- ranks ---------------------------------------------------------------------------------------


def test_a_rank_that_sees_another_folder_or_has_other_settings_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SEE_SECONDS", 0)
    board = HashStore()
    board.set("token", "abc")
    board.set("settings", "those")
    assert "give a run_dir on a file system" in ranks._problem(tmp_path, board, "those")
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks/.abc").touch()
    assert "has other settings" in ranks._problem(tmp_path, board, "others")
    assert ranks._problem(tmp_path, board, "those") == ""


def record(folder: Path, rank: int, state: str, error: str = "", node: int = 0) -> None:
    (folder / "ranks").mkdir(exist_ok=True)
    facts = {"rank": rank, "node": node, "host": f"host{node}", "state": state, "error": error}
    (folder / f"ranks/rank{rank}.json").write_text(json.dumps(facts))
    time.sleep(0.01)  # the order of the files' times is the order of the ends


def test_the_rank_that_failed_first_is_named(tmp_path: Path) -> None:
    record(tmp_path, 0, "stopped")
    record(tmp_path, 3, "failed", "FloatingPointError: step 7: a reward is not finite")
    record(tmp_path, 1, "failed", "RuntimeError: connection closed by peer")
    (tmp_path / "ranks/rank3.log").touch()
    found = ranks.failure(tmp_path, 1)
    assert isinstance(found, InterruptedRunError)
    assert "rank 3 on host0: FloatingPointError: step 7" in str(found)
    assert str(found).endswith("rank3.log")


def test_a_killed_rank_is_named_before_those_that_missed_it(tmp_path: Path) -> None:
    record(tmp_path, 0, "failed", "RuntimeError: connection closed by peer")
    record(tmp_path, 1, "running")
    record(tmp_path, 2, "running", node=1)  # on a machine that may still be at work
    ranks.note_killed(tmp_path, lambda node: node == 0)
    assert {r["rank"]: r["state"] for r in ranks.records(tmp_path)}[2] == "running"
    assert "rank 1 on host0: was killed" in str(ranks.failure(tmp_path, 1))


def test_a_users_error_on_a_rank_stays_one(tmp_path: Path) -> None:
    record(tmp_path, 1, "failed", "InputError: give another run_dir")
    found = ranks.failure(tmp_path, 1)
    assert isinstance(found, InputError) and str(found) == "give another run_dir"


def test_ranks_that_never_started_leave_it_to_the_launchers_words(tmp_path: Path) -> None:
    assert "ended with status 3: see above" in str(ranks.failure(tmp_path, 3))


def test_a_job_whose_ranks_were_stopped_waits_for_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoLauncher(Local):
        def command(self, devices: int) -> list[str]:
            return ["there_is_no_such_module"]

    monkeypatch.setattr(launch, "CLUSTER_SECONDS", 7.5)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for variables in ({}, {"SLURM_JOB_ID": "7"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InterruptedRunError, match="ended with status 1"):
            start_ranks(NoLauncher(), "small_rank", tmp_path, 2, "end")
        assert (7.5 in slept) == ("SLURM_JOB_ID" in variables)


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks on the first two of three GPUs by name; rank 1 is killed, rank 0 would wait."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    group = GpuGroup("gpu_group", str(tmp_path / "locks"))
    began = time.monotonic()
    with pytest.raises(InterruptedRunError, match=r"rank 1 on \S+: was killed .*rank1\.log"):
        start_ranks(group, "small_rank", tmp_path, 2, "die")
    assert time.monotonic() - began < 250
    seen = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["4,5", "4,5"]
    states = {one["rank"]: one["state"] for one in ranks.records(tmp_path)}
    assert states == {0: "stopped", 1: "killed"}


PDSH = """#!{python}
# Stands for pdsh: runs the command for each host here, %n its number, at the same time.
import subprocess, sys
words = sys.argv[1:]
hosts = words[words.index("-w") + 1].split(",")
command = " ".join(words[words.index("-w") + 2:])
assert "launcher.launch" in command and "pkill" not in command
each = [command.replace("%n", str(number)) for number in range(len(hosts))]
sys.exit(max(one.wait() for one in [subprocess.Popen(["bash", "-c", text]) for text in each]))
"""


@pytest.mark.slow
def test_a_hostfile_starts_ranks_on_each_of_its_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's launcher, one rank on each of two loopback addresses in place of machines."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (
        ("pdsh", PDSH.format(python=sys.executable)),
        ("ssh", "#!/bin/sh\nexit 0\n"),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    hosts = tmp_path / "hostfile"
    hosts.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    started = Hostfile("hostfile", str(hosts), "127.0.0.1", free_port())
    started.check(2)
    start_ranks(started, "small_rank", tmp_path, 2, "end")
    seen = [json.loads((tmp_path / f"seen{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["RANK"] for one in seen] == ["0", "1"]
    assert {one["WORLD_SIZE"] for one in seen} == {"2"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="both would train on the first GPU")
def test_two_machines_are_the_same_run_as_one(
    train_smoke: Train, tmp_path: Path, cache: Path
) -> None:
    """Two torchruns, one rank each, that meet on loopback; each is started by its own command."""
    one = train_smoke(*FIVE)
    folder = tmp_path / "run"
    words = [*FIVE, "devices=2", "launch=torchrun", "launch.nodes=2", "launch.wait_minutes=5"]
    words += ["launch.master_address=127.0.0.1", f"launch.master_port={free_port()}"]
    own = ["profile=smoke", f"run_dir='{folder}'", f"cache_dir='{cache}'"]
    second = subprocess.Popen(
        [sys.executable, "-m", "scripts.train", *own, *words, "launch.node=1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    train_smoke(*words, "launch.node=0", run_dir=folder)
    printed = second.communicate(timeout=120)[0].decode()
    assert second.returncode == 0, printed
    assert_same_run(one, folder, steps=5, rtol=2e-4)
    assert not (folder / "ranks").exists()
    again = train(compose_config("train", [*own, *words, "launch.node=1"]))  # does not wait
    assert again["steps"] == 5


LORA = ("training.part=lora", "+training.lora.r=4", "+training.lora.alpha=8")
TARGETS = ("+training.lora.dropout=0.0", "+training.lora.target_modules=[q_proj,v_proj]")


@pytest.mark.slow
@two_ranks
@pytest.mark.parametrize("model", ["tiny-gemma", "tiny-llama"])
def test_zero3_with_offload_merges_and_plain_transformers_scores_equally(
    train_smoke: Train, model: str
) -> None:
    """LoRA on two ranks, parameters and optimiser in CPU memory, against one process without."""
    words = ("data.train_pairs=24", "loss=normbt", "training.micro_batch=4", f"model={model}")
    words += (*LORA, *TARGETS)
    plain = train_smoke(*words)
    parted = train_smoke(*words, "devices=2", "deepspeed=zero3_offload")
    assert_same_run(plain, parted, steps=3, rtol=5e-4)
    folder = parted / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(["One plus one is two.", "No."], return_tensors="pt", padding=True)
    reward_model, _ = load_reward_model(folder, torch.float32)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not any("lora" in name for name in theirs.state_dict())
    with torch.no_grad():
        expected = reward_model(rows["attention_mask"], input_ids=rows["input_ids"]).rewards
        assert torch.allclose(theirs(**rows).logits[:, 0].float(), expected, atol=1e-5)


# --- sweeps --------------------------------------------------------------------------------------


def test_runs_take_free_gpus_in_order_and_the_next_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-2,3")
    group = GpuGroup("gpu_group", str(tmp_path))
    later: list[str] = []

    def third() -> None:
        with group.hold(2) as own:
            later.append(own["CUDA_VISIBLE_DEVICES"])

    with group.hold(2) as first:
        with group.hold(2) as second:
            assert first == {"CUDA_VISIBLE_DEVICES": "0,1"}
            assert second == {"CUDA_VISIBLE_DEVICES": "GPU-2,3"}
            waiting = threading.Thread(target=third)
            waiting.start()
            waiting.join(1.2)
            assert waiting.is_alive() and not later
        waiting.join(10)
        assert later == ["GPU-2,3"]
    with pytest.raises(InputError, match="this process sees 4 GPUs"):
        group.check(5)


def task_of(run_dir: Path, job_folder: Path) -> psutil.Process:
    """The process that holds the run's lock, among the tasks of submitit's jobs."""
    for job in job_folder.glob("[0-9]*"):
        with contextlib.suppress(psutil.Error):  # another run's job may have ended
            for task in psutil.Process(int(job.name)).children():
                if str(run_dir / ".lock") in {file.path for file in task.open_files()}:
                    return task
    raise AssertionError(f"no task trains {run_dir}")


def wait_until(true: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_submitit_runs_a_sweep_and_a_preempted_job_goes_on(
    train_smoke: Train, tmp_path: Path, cache: Path
) -> None:
    """The signal of a cluster that wants its machine back, in the middle of one of two runs."""
    pytest.importorskip("submitit")
    words = ["profile=smoke", "data.train_pairs=320", f"cache_dir='{cache}'"]
    whole = train_smoke("data.train_pairs=320", "loss=normbt")
    words += [
        "hydra.launcher.gpus_per_node=0",
        f"hydra.sweep.dir='{tmp_path}/sweep'",
        f"run_dir='{tmp_path}/${{loss.name}}'",
    ]
    command = [sys.executable, "-m", "scripts.train", "-m", "hydra/launcher=machine", *words]
    run, jobs = tmp_path / "normbt", tmp_path / "sweep/machine"
    with subprocess.Popen([*command, "loss=bt,normbt"], cwd=ROOT) as sweep:
        wait_until(lambda: any(run.glob("trainer/checkpoint-*/trainer_state.json")), 300)
        task_of(run, jobs).send_signal(signal.SIGUSR2)
        assert not (run / "manifest.json").exists()
        assert sweep.wait(240) == 0
    starts = [path.read_text().count("Starting with") for path in jobs.rglob("*_log.out")]
    assert sorted(starts) == [1, 2]
    assert (tmp_path / "bt/manifest.json").is_file()
    assert_same_run(whole, run, steps=40, rtol=0)
