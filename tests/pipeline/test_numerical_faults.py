"""Numbers that go wrong: a run stops and says where, or continues with finite numbers; spikes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rm.data.token_table import TokenPairs
from rm.data.tokens import TokenPair
from rm.errors import InputError
from rm.model.reward_model import RewardModel
from rm.objective import losses
from rm.training.batches import PairStream
from rm.training.records import SPIKE_START, running_median, spike_line, step_record
from rm.training.trainer import PairTrainer
from tests.marks import two_ranks

Train = Callable[..., Path]
Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def change_outputs(patch: pytest.MonkeyPatch, change: Change, calls: int = 0) -> None:
    """Let `change` alter (rewards, hidden) in training's `calls`-th call or in all calls (0).

    A model scores one conversation as soon as it is read; that call is not training's.
    """
    original, count = RewardModel.forward, [0]

    def forward(self: RewardModel, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        count[0] += not args  # the trainer gives a batch by its names
        if calls in (0, count[0]):
            output.rewards, output.hidden = change(output.rewards, output.hidden)
        return output

    patch.setattr(RewardModel, "forward", forward)


def spoil(values: torch.Tensor, by: float) -> torch.Tensor:
    factors = torch.ones_like(values)
    factors[1] = by
    return values * factors


@pytest.mark.parametrize(
    "change",
    [
        lambda rewards, hidden: (spoil(rewards, math.nan), hidden),
        lambda rewards, hidden: (spoil(rewards, math.inf), hidden),
        lambda rewards, hidden: (rewards, spoil(hidden, math.nan)),
        lambda rewards, hidden: (rewards, spoil(hidden, 1e30)),  # its square is infinite
    ],
    ids=["reward nan", "reward inf", "distance nan", "distance inf"],
)
def test_rewards_and_distances_that_are_not_finite_stop_the_run(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    change_outputs(monkeypatch, change, calls=4)
    message = r"step 4: .* of pairs gen2-\S+-train-\d+ is not finite.*trainer/checkpoint-3"
    with pytest.raises(FloatingPointError, match=message):
        train_smoke("data.train_pairs=64", "loss=bt", "training.save_steps=3")


def test_a_distance_of_the_first_batch_that_is_not_finite_names_its_pair_alone(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_outputs(monkeypatch, lambda rewards, hidden: (rewards, spoil(hidden, math.nan)), calls=1)
    with pytest.raises(FloatingPointError, match=r"a distance of pairs gen2-\S+-train-\d+ is not"):
        train_smoke("data.train_pairs=16", "loss=normbt")


def test_an_infinite_loss_stops_the_run(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rm.objective.losses.logsigmoid", lambda x: x - spoil(torch.ones_like(x), math.inf)
    )
    with pytest.raises(FloatingPointError, match=r"step 1: .* is not finite; no checkpoint yet"):
        train_smoke("data.train_pairs=16", "loss=bt")


@pytest.mark.parametrize("loss", ["normbt", "normbt_no_ema", "normbt_mean_one", "clip", "bt"])
def test_distance_zero_everywhere_gives_finite_numbers(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    change_outputs(monkeypatch, lambda rewards, hidden: (rewards, 0 * hidden))
    steps = steps_of(train_smoke("data.train_pairs=24", f"loss={loss}"))
    assert [step["distance_mean"] for step in steps] == [0, 0, 0]
    assert all(math.isfinite(value) for step in steps for value in step.values())


def test_huge_distances_give_finite_weights(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_outputs(monkeypatch, lambda rewards, hidden: (rewards, 1e15 * hidden))
    steps = steps_of(train_smoke("data.train_pairs=24", "loss=normbt"))
    assert all(step["distance_mean"] > 1e14 and 0.1 < step["weight_mean"] < 50 for step in steps)


@pytest.mark.parametrize("loss", ["bt", "normbt", "normbt_batch_mean", "bsr"])
def test_batches_of_one_pair(train_smoke: Train, loss: str) -> None:
    words = ("training.global_batch=1", "training.micro_batch=1", "data.train_pairs=8")
    steps = steps_of(train_smoke(*words, f"loss={loss}"))
    assert len(steps) == 8
    assert all(math.isfinite(value) for step in steps for value in step.values())


def test_batches_of_identical_pairs(train_smoke: Train, tmp_path: Path) -> None:
    row = {"prompt": "a question", "chosen": "one answer", "rejected": "another answer"}
    path = tmp_path / "pairs.jsonl"
    path.write_text((json.dumps(row) + "\n") * 16)
    words = ("data=files", f"data.train={path}", "data.validation_share=0.0", "loss=normbt")
    first, *_ = steps_of(train_smoke(*words))
    assert first["weight_mean"] == pytest.approx(1, rel=1e-5)
    assert first["weight_q10"] == pytest.approx(first["weight_q90"], rel=1e-5)


@pytest.mark.parametrize("margin", [math.inf, -math.inf, math.nan])
def test_margins_that_are_not_finite_are_refused_in_memory_too(margin: float) -> None:
    pairs = [TokenPair("a", (1,), (2,), 1.0), TokenPair("b", (1,), (2,), margin)]
    with pytest.raises(InputError, match="margins of 1 pairs are not finite, first b"):
        PairStream(TokenPairs.of(pairs), [[0, 1]])


def test_shares_of_weights_that_are_all_zero_are_zero() -> None:
    pairs = torch.ones(4, 4, dtype=torch.float64)
    pairs[:, 2] = 0
    record = step_record(pairs, mu=1.0)
    assert [record[f"weight_share_q{quarter}"] for quarter in (1, 2, 3, 4)] == [0, 0, 0, 0]


# --- Loss spikes ---------------------------------------------------------------------------------


def test_there_is_a_median_once_there_are_enough_steps() -> None:
    assert running_median([1.0] * (SPIKE_START - 1)) is None
    assert running_median([1.0, 3.0, 2.0] * SPIKE_START) == 2.0


def test_the_line_names_the_pairs_with_the_largest_share() -> None:
    line = spike_line(31, 6.0, 1.5, {"a": 1.0, "b": 20.0, "c": 0.5, "d": 3.0})
    assert line.startswith("step 31: loss spike: 6 is 4.0 times the median")
    assert line.endswith("b (20), d (3), a (1)")


def test_a_spike_is_recorded_and_named_and_changes_nothing(
    train_smoke: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, original = (f"data.train_pairs={8 * (SPIKE_START + 4)}", "loss=bt"), losses.logsigmoid

    def spiking() -> Callable[[torch.Tensor], torch.Tensor]:
        calls = [0]

        def logsigmoid(difference: torch.Tensor) -> torch.Tensor:
            if len(difference) < 8:  # the check of the loss before training, no step
                return original(difference)
            calls[0] += 1
            shift = torch.zeros_like(difference)
            shift[3] = 100.0 if calls[0] == SPIKE_START + 2 else 0.0
            return original(difference) - shift

        return logsigmoid

    monkeypatch.setattr("rm.objective.losses.logsigmoid", spiking())
    run = train_smoke(*words)
    spikes = [step["step"] for step in steps_of(run) if step["loss_spike"]]
    assert spikes == [SPIKE_START + 2]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "loss spike" in line]
    assert f"step {SPIKE_START + 2}: " in line and "-train-" in line and "(10" in line
    monkeypatch.setattr("rm.objective.losses.logsigmoid", spiking())
    monkeypatch.setattr(PairTrainer, "_is_spike", lambda *_: False)
    weights = "checkpoint/model.safetensors"
    assert (train_smoke(*words) / weights).read_bytes() == (run / weights).read_bytes()


@pytest.mark.slow
@two_ranks
def test_a_spike_on_two_ranks_names_a_pair_of_the_second(
    train_smoke: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = SPIKE_START + 4
    last = torch.randperm(8 * steps, generator=torch.Generator().manual_seed(0))[-8:].tolist()
    rows = [
        {"id": f"row{i:03}", "prompt": f"Number {i:03}?", "chosen": "Yes.", "rejected": "No."}
        | {"margin": 500.0 if i == max(last) else 0.01}
        for i in range(8 * steps)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data=files", f"data.train={path}", "data.validation_share=0.0", "loss=bt_margin")
    run = train_smoke(*words, "devices=2", "training.micro_batch=4")
    assert [step["step"] for step in steps_of(run) if step["loss_spike"]] == [steps]
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "loss spike" in line]
    assert f"step {steps}: " in line
    assert json.loads((run / "split.json").read_text())["train"][max(last)] in line
