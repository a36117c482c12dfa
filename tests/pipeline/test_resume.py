"""Going on after an interruption: from whole checkpoints alone, and only with the same inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.training import train
from pipeline.settings.configuration import compose_config
from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.training.batches import PairStream
from rm.training.resume import drop_damaged_checkpoints, last_checkpoint
from rm.training.trainer import PairTrainer

pytestmark = pytest.mark.slow

Train = Callable[..., Path]
WORDS = ("data.train_pairs=80", "loss=normbt", "training.save_steps=3")
FILES = (
    "checksums.json",
    "optimizer.pt",
    "pair_weight.json",
    "rng_state.pth",
    "scheduler.pt",
    "trainable.safetensors",
    "trainer_state.json",
)


def outcome(run_dir: Path) -> list[bytes]:
    names = ("checkpoint/model.safetensors", "checkpoint/reward_model.json", "metrics.jsonl")
    return [(run_dir / name).read_bytes() for name in names]


@pytest.fixture(scope="module")
def undisturbed(train_smoke: Train) -> list[bytes]:
    """What the run leaves if nothing happens."""
    return outcome(train_smoke(*WORDS))


@pytest.fixture(scope="module")
def interrupted(train_smoke: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, stopped in step 8: with checkpoints 3 and 6."""
    folder, original = tmp_path_factory.mktemp("interrupted"), PairTrainer.finish_step

    def stop_at_eight(self: PairTrainer) -> None:
        original(self)
        if self.state.global_step == 8:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairTrainer, "finish_step", stop_at_eight)
        with pytest.raises(KeyboardInterrupt):
            train_smoke(*WORDS, run_dir=folder)
    return folder


@pytest.fixture
def run_dir(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    shutil.copytree(interrupted, tmp_path / "run")
    return tmp_path / "run"


def test_checkpoints_are_sealed_with_all_their_files(interrupted: Path) -> None:
    for step in (3, 6):
        folder = interrupted / f"trainer/checkpoint-{step}"
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        sealed = json.loads((folder / "checksums.json").read_text())
        assert {*sealed, "checksums.json"} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_with_a_damaged_file_gives_way_to_the_one_before(
    run_dir: Path, name: str
) -> None:
    path = run_dir / "trainer/checkpoint-6" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (line,) = drop_damaged_checkpoints(run_dir)
    assert name in line and line.endswith("is damaged or missing; deleted")
    assert last_checkpoint(run_dir) == run_dir / "trainer/checkpoint-3"


def test_a_checkpoint_that_a_kill_left_half_written_does_not_count(run_dir: Path) -> None:
    folder = run_dir / "trainer/checkpoint-9"
    shutil.copytree(run_dir / "trainer/checkpoint-6", folder)
    (folder / "checksums.json").unlink()
    assert last_checkpoint(run_dir) == run_dir / "trainer/checkpoint-6"
    (line,) = drop_damaged_checkpoints(run_dir)
    assert line == f"{folder}: it is not finished; deleted" and not folder.exists()


def test_the_run_goes_on_from_the_checkpoint_before_to_the_same_bytes(
    run_dir: Path,
    undisturbed: list[bytes],
    train_smoke: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = run_dir / "trainer/checkpoint-6/optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step"')  # a kill in step 9
    train_smoke(*WORDS, run_dir=run_dir)
    assert "checkpoint-6: optimizer.pt is damaged" in capsys.readouterr().out
    assert outcome(run_dir) == undisturbed


@pytest.mark.parametrize("kept", [0, 4])
def test_a_checkpoint_whose_steps_are_not_recorded_does_not_count(
    run_dir: Path,
    undisturbed: list[bytes],
    train_smoke: Train,
    capsys: pytest.CaptureFixture[str],
    kept: int,
) -> None:
    metrics = run_dir / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:kept], *lines[kept + 1 :]]))
    train_smoke(*WORDS, run_dir=run_dir)
    said = capsys.readouterr().out
    assert f"checkpoint-6: {metrics} lacks an earlier step; deleted" in said
    assert (f"checkpoint-3: {metrics} lacks" in said) == (kept < 3)
    assert outcome(run_dir) == undisturbed


def test_nothing_before_the_checkpoint_is_read_again(
    run_dir: Path, undisturbed: list[bytes], train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, original = [], PairStream.__getitem__

    def note(self: PairStream, index: int) -> list[TokenPair]:
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(PairStream, "__getitem__", note)
    train_smoke(*WORDS, run_dir=run_dir)
    assert read == [6, 7, 8, 9] and outcome(run_dir) == undisturbed


def test_checkpoints_do_not_grow_with_the_steps(
    undisturbed: list[bytes],
    train_smoke: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    sizes, original = {}, PairTrainer._save_checkpoint

    def measure(self: PairTrainer, *given: Any) -> None:
        original(self, *given)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        state = json.loads((folder / "trainer_state.json").read_text())
        sizes[self.state.global_step] = len(state["log_history"])

    monkeypatch.setattr(PairTrainer, "_save_checkpoint", measure)
    monkeypatch.setattr("rm.training.trainer.SPIKE_WINDOW", 2)
    train_smoke(*WORDS, run_dir=tmp_path / "run")
    assert sizes[3] == sizes[6] == sizes[9] == 2
    assert outcome(tmp_path / "run") == undisturbed


def test_without_a_good_checkpoint_the_run_starts_again(
    run_dir: Path, undisturbed: list[bytes], train_smoke: Train
) -> None:
    for step in (3, 6):
        (run_dir / f"trainer/checkpoint-{step}/trainer_state.json").unlink()
    train_smoke(*WORDS, run_dir=run_dir)
    assert outcome(run_dir) == undisturbed


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (("training.learning_rate=0.5",), r"training\.learning_rate: 0\.5 ≠ 0\.001"),
        (("devices=2", "training.micro_batch=4"), r"devices: 2 ≠ 1"),
        (("seed=1",), r"seed: 1 ≠ 0"),
        (("threads=2",), r"threads: 2 ≠ 1"),
    ],
)
def test_another_configuration_does_not_go_on(
    run_dir: Path, train_smoke: Train, words: tuple[str, ...], difference: str
) -> None:
    with pytest.raises(InputError, match=difference):
        train_smoke(*WORDS, *words, run_dir=run_dir)


def test_changed_data_do_not_go_on(tmp_path: Path, cache: Path) -> None:
    path, folder = tmp_path / "pairs.jsonl", tmp_path / "run"
    row = {"prompt": "a question", "chosen": "one answer", "rejected": "another"}

    def start(rows: int, *words: str) -> None:
        lines = [json.dumps({**row, "prompt": f"question {i}"}) + "\n" for i in range(rows)]
        path.write_text("".join(lines))
        own = ["profile=smoke", "data=files", f"data.train={path}", "data.validation_share=0.0"]
        train(compose_config("train", [*own, f"run_dir={folder}", f"cache_dir={cache}", *words]))

    start(16)
    with pytest.raises(InputError, match=r"data fingerprint: \w+ ≠ \w+"):
        start(17)


@pytest.mark.parametrize("name", ["config.yaml", "inputs.json"])
def test_damaged_notes_of_a_run_say_what_to_delete(
    run_dir: Path, train_smoke: Train, name: str
) -> None:
    path = run_dir / name
    path.write_bytes(b"\xff" + path.read_bytes())
    with pytest.raises(InputError, match=f"{name} is damaged: delete {run_dir}, "):
        train_smoke(*WORDS, run_dir=run_dir)


@pytest.mark.parametrize("name", ["metrics.jsonl", "split.json", "checkpoint/model.safetensors"])
def test_damage_to_a_finished_run_is_seen(train_smoke: Train, name: str) -> None:
    folder = train_smoke("data.train_pairs=8")
    content: Any = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{Path(name).name} is damaged.*: delete {folder}, "):
        train_smoke("data.train_pairs=8", run_dir=folder)
