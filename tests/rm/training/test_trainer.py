"""Parts of the trainer alone: gathering from ranks, the end of a step, loss spikes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rm.model.reward_model import RewardOutput
from rm.objective.objective import PairValues
from rm.objective.weights import NormBT
from rm.training.records import SPIKE_WINDOW
from rm.training.trainer import PairTrainer


class Meeting:
    """accelerate's `gather` among threads: all give tensors of one shape and get them all."""

    def __init__(self, ranks: int) -> None:
        self.given: list[Tensor] = [torch.empty(0)] * ranks
        self.barrier = threading.Barrier(ranks, timeout=30)

    def gather(self, rank: int) -> Callable[[Tensor], Tensor]:
        def meet(own: Tensor) -> Tensor:
            self.given[rank] = own
            self.barrier.wait()
            assert len({given.shape for given in self.given}) == 1  # else the ranks would hang
            found = torch.cat(self.given)
            self.barrier.wait()
            return found

        return meet


@pytest.mark.parametrize("numbers", [(5, 3), (3, 5), (4, 4), (1, 7, 2)])
@pytest.mark.parametrize("width", [None, 3])
def test_every_pair_of_every_rank_is_gathered_once_and_in_order(
    numbers: tuple[int, ...], width: int | None
) -> None:
    facts = torch.arange(1.0, 1 + sum(numbers))  # no 0, which padding is
    facts = facts if width is None else facts[:, None] * torch.tensor([1.0, 10.0, 100.0])
    meeting = Meeting(len(numbers))

    def rank(number: int) -> Tensor:
        trainer = SimpleNamespace(
            args=SimpleNamespace(world_size=len(numbers)),
            accelerator=SimpleNamespace(gather=meeting.gather(number)),
            _even=False,
        )
        return PairTrainer._gather(trainer, facts.split(numbers)[number])  # type: ignore[arg-type]

    with ThreadPoolExecutor(len(numbers)) as pool:
        for found in pool.map(rank, range(len(numbers))):
            assert torch.equal(found, facts)


def test_the_end_of_a_step_updates_mu_and_notes_what_each_pair_added() -> None:
    # difference, distance, weight, loss, what the weight goes by, category
    pieces = [
        torch.tensor([[1.0, 2.0, 0.5, 4.0, 6.0, 0.0], [2.0, 1.0, 3.0, 0.1, 2.0, -1.0]]),
        torch.tensor([[-1.0, 4.0, 2.0, 1.5, 1.0, 0.0]]),
    ]
    trainer = SimpleNamespace(
        _pieces=pieces,
        _pair_ids=["a", "b", "c"],
        _categories=["chat"],
        _gather=lambda own: own,
        _require_finite=lambda *_: None,
        pair_objective=SimpleNamespace(weight=NormBT(beta=0.75, epsilon=0.0)),
        mu=7.0,
    )
    PairTrainer.finish_step(trainer)  # type: ignore[arg-type]
    assert trainer.mu == pytest.approx(0.75 * 7 + 0.25 * 3)
    assert trainer.step_record["distance_mean"] == pytest.approx(7 / 3)
    assert trainer.step_record["mu"] == 7.0  # the μ that the step was taken with
    assert trainer.step_record["weight_mean_chat"] == 1.25
    assert trainer._shares == pytest.approx({"a": 2.0, "b": 0.3, "c": 3.0})
    assert trainer._pieces == [] and trainer._pair_ids == []


def test_the_record_holds_the_representation_distance_whatever_the_weight_goes_by() -> None:
    hidden = torch.tensor([[3.0, 0.0], [1.0, 1.0], [0.0, 4.0], [1.0, 3.0]])  # chosen, then rejected
    values = [torch.tensor(pair) for pair in ([1.0, -1.0], [0.5, 2.0], [0.3, 1.3], [0.15, 2.6])]
    trainer = SimpleNamespace(
        _pieces=[], _pair_ids=[], _category_numbers=lambda names, like: like.new_tensor([0.0, -1.0])
    )
    inputs = {"pair_id": ["a", "b"], "category": ["chat", ""]}
    output, edits = RewardOutput(torch.zeros(4), hidden), torch.tensor([7.0, 9.0])
    PairTrainer._keep(trainer, inputs, output, edits, PairValues(*values))  # type: ignore[arg-type]
    (piece,) = trainer._pieces
    difference, distance, weight, loss, weighed, category = piece.T.tolist()
    assert (distance, weighed) == ([5.0, 2.0], [7.0, 9.0])
    assert [difference, weight, loss] == [value.tolist() for value in values[:3]]
    assert category == [0.0, -1.0] and trainer._pair_ids == ["a", "b"]


@pytest.mark.parametrize(
    ("before", "loss", "spike"),
    [
        ([2.0] * 20, 10.0, False),
        ([2.0] * 20, 10.1, True),
        ([2.0] * 19, 100.0, False),
        ([0.1] * 20, 0.6, True),
        ([0.1] * 50 + [9.0] * SPIKE_WINDOW, 10.0, False),  # only the last losses count
    ],
)
def test_a_spike_is_above_five_times_the_median_of_the_steps_before(
    before: list[float], loss: float, spike: bool
) -> None:
    history = [{"loss": value, "learning_rate": 1e-3} for value in before]
    trainer = SimpleNamespace(
        state=SimpleNamespace(log_history=history, global_step=len(before) + 1),
        is_world_process_zero=lambda: False,
        _shares={},
        _all=lambda own: own,
    )
    assert PairTrainer._is_spike(trainer, loss) == spike  # type: ignore[arg-type]
