"""What the trainer gathers of ranks that hold unlike numbers of pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

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
