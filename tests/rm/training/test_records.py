"""A step's record from its pairs, by hand."""

from __future__ import annotations

import pytest
import torch

from rm.training.records import category_record, step_record

# difference, distance, weight, loss: two pairs won, one tied, one lost
PAIRS = torch.tensor(
    [[2.0, 4.0, 0.5, 0.1], [0.0, 1.0, 2.0, 0.7], [-1.0, 2.0, 1.0, 1.3], [3.0, 3.0, 0.5, 0.3]],
    dtype=torch.float64,
)


def test_a_step_by_hand() -> None:
    record = step_record(PAIRS, mu=2.25)
    expected = {"accuracy": 0.5, "ties": 0.25, "pair_loss": 0.6, "reward_margin": 1.0}
    expected |= {"distance_mean": 2.5, "weight_mean": 1.0, "mu": 2.25}
    expected |= {"distance_q10": 1.3, "distance_q25": 1.75, "distance_q50": 2.5}
    expected |= {"distance_q75": 3.25, "distance_q90": 3.7}
    expected |= {"weight_q10": 0.5, "weight_q25": 0.5, "weight_q50": 0.75}
    expected |= {"weight_q75": 1.25, "weight_q90": 1.7}
    # The closest pair has half of the total weight of 4, the farthest an eighth.
    expected |= {
        f"weight_share_q{n}": s for n, s in ((1, 1 / 2), (2, 1 / 4), (3, 1 / 8), (4, 1 / 8))
    }
    assert record == pytest.approx(expected)
    assert "mu" not in step_record(PAIRS, mu=None)


def test_a_categorys_mean_weight_is_that_of_its_own_pairs() -> None:
    category = torch.tensor([1, 1, -1, 0])
    found = category_record(PAIRS[:, 2], category, ["chat", "code", "math"])
    assert found == {"weight_mean_chat": 0.5, "weight_mean_code": 1.25}
