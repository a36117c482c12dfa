"""NormBT in TRL: RewardTrainer with one more argument, `pair_weight`.

    from rm.integrations.trl import WeightedRewardTrainer
    from rm.objective.weights import NormBT

    trainer = WeightedRewardTrainer(..., pair_weight=NormBT(beta=0.9, epsilon=1e-6))

Everything else (data, arguments, PEFT, DeepSpeed, logging) is TRL's. Needs trl 1.16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from trl import RewardConfig, RewardTrainer

from rm.errors import InputError
from rm.model.reward_model import last_real_token
from rm.objective.losses import bt, bt_margin, centring
from rm.objective.weights import PairWeight, is_due, representation_distance
from rm.training.records import FinishStep
from rm.training.trainer import same_draws


class WeightedRewardTrainer(RewardTrainer):
    """TRL's RewardTrainer whose pair losses are multiplied by a pair weight (paper, NormBT).

    The weight's μ is the global batch's: all ranks, all accumulation steps, updated once an
    optimiser step. It is not in TRL's checkpoints: a resumed run starts it anew.
    """

    def __init__(self, *args: Any, pair_weight: PairWeight, **options: Any) -> None:
        """`pair_weight`: from `rm.objective.weights`; the other arguments are RewardTrainer's.

        Raises InputError for a weight over the whole batch where a step has several pieces.
        """
        super().__init__(*args, **options)
        pieces = self.args.gradient_accumulation_steps * self.args.world_size
        if pair_weight.whole_batch and pieces > 1:
            raise InputError(
                f"{type(pair_weight).__name__} needs the global batch in one piece, not {pieces}: "
                "gradient_accumulation_steps=1, one device"
            )
        self.pair_weight = pair_weight
        self.mu: float | None = None
        self._distance_pieces: list[Tensor] = []
        self._weight_pieces: list[Tensor] = []
        self.add_callback(FinishStep(self))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch one step's micro-batches; where the weight needs it, set μ from all of them."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and is_due(self.pair_weight, self.mu):
            self.mu = self.pair_weight.start(self._distances(samples))
        return samples, items

    @torch.no_grad()
    def _distances(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """Distances of a global batch as the pass that follows will see them, dropout included."""
        model = cast(nn.Module, self.model).train()
        found = []
        with same_draws(self.args.device):
            for sample in samples:
                inputs: Any = self._prepare_inputs(dict(sample))
                with _last_hidden(model, inputs["attention_mask"]) as hidden:
                    model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                found.append(representation_distance(*hidden[0].chunk(2)).double())
        return self.accelerator.gather(torch.cat(found))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's loss in evaluation; in training the mean of weight × pair loss (+ centring)."""
        with _last_hidden(model, inputs["attention_mask"]) as hidden:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if cast(nn.Module, self.model).training:
            rewards = outputs.logits.squeeze(-1)
            self._check_pooling(model, rewards, hidden[0])
            loss = self._weighted(rewards, hidden[0], inputs.get("margin"))
        return (loss, outputs) if return_outputs else loss

    def _check_pooling(self, model: nn.Module, rewards: Tensor, hidden: Tensor) -> None:
        """Once: the reward must come from the same token as the distance."""
        if self.state.global_step == 0 and not self._distance_pieces:
            with torch.no_grad():
                expected = _head(model)(hidden.to(_head(model).weight.dtype)).squeeze(-1)
            if not torch.allclose(rewards.float(), expected.float(), rtol=0.05, atol=0.05):
                raise InputError(
                    "the reward is read at another token than each row's last one: the pad token "
                    "ends conversations; choose one that does not "
                    "(rm.model.checkpoints.set_pad_token)"
                )

    def _weighted(self, rewards: Tensor, hidden: Tensor, margin: Tensor | None) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        difference = chosen - rejected
        distance = representation_distance(*hidden.detach().chunk(2))
        weight = self.pair_weight.weigh(distance, self.mu, torch.sigmoid(-difference.detach()))
        self._distance_pieces.append(distance)
        self._weight_pieces.append(weight)
        loss = bt(difference) if margin is None else bt_margin(difference, margin)
        total = (weight * loss).mean()
        coefficient = cast(RewardConfig, self.args).center_rewards_coefficient
        if coefficient is not None:
            total = total + centring(chosen, rejected, coefficient=coefficient).mean()
        return total

    def finish_step(self) -> None:
        """Once an optimiser step: log mean distance, mean weight and μ, then update μ."""
        pieces = (torch.cat(self._distance_pieces), torch.cat(self._weight_pieces))
        self._distance_pieces, self._weight_pieces = [], []
        distance, weight = (self.accelerator.gather(piece).double() for piece in pieces)
        facts = {"distance_mean": distance.mean().item(), "weight_mean": weight.mean().item()}
        for name, value in {**facts, "mu": self.mu}.items():
            if value is not None:
                self._metrics["train"][name].append(value)
        self.mu = self.pair_weight.update(self.mu, facts["distance_mean"])


@contextlib.contextmanager
def _last_hidden(model: nn.Module, attention_mask: Tensor) -> Iterator[list[Tensor]]:
    """Yield a list that holds h (rows, hidden), the score head's input at each row's last token."""
    found: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(last_real_token(inputs[0], attention_mask))

    handle = _head(model).register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def _head(model: nn.Module) -> nn.Linear:
    """The score head, whatever wraps the model (DDP, PEFT)."""
    heads = [m for n, m in model.named_modules() if "score" in n and isinstance(m, nn.Linear)]
    return heads[-1]
