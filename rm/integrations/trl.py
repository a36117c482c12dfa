"""NormBT in TRL: RewardTrainer with one additional argument, `pair_weight`.

    from rm.integrations.trl import WeightedRewardTrainer
    from rm.objective.weights import NormBT

    trainer = WeightedRewardTrainer(..., pair_weight=NormBT(beta=0.9, epsilon=1e-6))

Everything else (data, arguments, PEFT, DeepSpeed, logging) is TRL's. Needs trl 1.16.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState
from trl import RewardConfig, RewardTrainer

from rm.errors import InputError
from rm.objective.losses import bt, bt_margin, centring
from rm.objective.weights import PairWeight, is_due, representation_distance
from rm.training.records import FinishStep
from rm.training.trainer import same_draws


class WeightState(TrainerCallback, ExportableState):
    """Saves μ in checkpoints (trainer_state.json) and restores it on resume."""

    def __init__(self, mu: float | None = None) -> None:
        self.mu = mu

    def state(self) -> dict[str, Any]:
        """Return the state that transformers saves for this callback."""
        return {"args": {"mu": self.mu}, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Restore μ from the checkpoint, if it has one.

        transformers does so itself only with restore_callback_states_from_checkpoint.
        """
        kept = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        if kept is not None:
            self.mu = kept["args"]["mu"]


class WeightedRewardTrainer(RewardTrainer):
    """TRL's RewardTrainer that multiplies pair losses by a pair weight (paper, NormBT section).

    μ comes from the global batch (all ranks, all accumulation steps). It is updated once per
    optimiser step and saved in every checkpoint. The distance is measured at the token from which
    the model reads its reward. The trainer warns once if that is not the last token of a row. This
    happens with TRL's default pad token for Llama: it ends conversations, so a row's last token
    counts as padding.
    """

    def __init__(self, *args: Any, pair_weight: PairWeight, **options: Any) -> None:
        """`pair_weight`: from `rm.objective.weights`. Other arguments: RewardTrainer's.

        Raises InputError for a `whole_batch` weight with several micro-batches per step, and for a
        model without a head named `score`.
        """
        super().__init__(*args, **options)
        pieces = self.args.gradient_accumulation_steps * self.args.world_size
        if pair_weight.whole_batch and pieces > 1:
            raise InputError(
                f"{type(pair_weight).__name__} needs the global batch in one piece, not {pieces}: "
                "set gradient_accumulation_steps=1 and use one device"
            )
        _head(cast(nn.Module, self.model))
        self.pair_weight = pair_weight
        self._pieces: list[Tensor] = []
        self._warned = False
        self.add_callback(FinishStep(self))
        self.add_callback(WeightState())

    @property
    def mu(self) -> float | None:
        """The pair weight's μ; None before the first batch and for weights without μ."""
        return self._weight_state.mu

    @mu.setter
    def mu(self, value: float | None) -> None:
        self._weight_state.mu = value

    @property
    def _weight_state(self) -> WeightState:
        # Searched every time: transformers replaces it when it restores callbacks.
        found = (one for one in self.callback_handler.callbacks if isinstance(one, WeightState))
        return next(found)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch one step's micro-batches; if μ is due (`is_due`), set it from all of them."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._pieces = []
        if samples and is_due(self.pair_weight, self.mu):
            self._warn_of_a_lost_mu()
            self.mu = self.pair_weight.start(self._distances(samples))
        return samples, items

    def _warn_of_a_lost_mu(self) -> None:
        """Warn if a resumed run finds no μ in its checkpoint."""
        step, lost = self.state.global_step, self.mu is None and not self.pair_weight.every_step
        if step and lost and self.is_world_process_zero():
            warnings.warn(
                f"the checkpoint of step {step} has no μ (another trainer wrote it): μ starts "
                "again from the next batch",
                stacklevel=2,
            )

    @torch.no_grad()
    def _distances(self, samples: Sequence[dict[str, Any]]) -> Tensor:
        """Distances of a global batch, equal to those in the training pass, with its dropout."""
        model = _Reader(cast(nn.Module, self.model).train())
        found = []
        with same_draws(self.args.device), warnings.catch_warnings():
            # Reentrant gradient checkpointing warns, but this pass needs no gradient.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
            for sample in samples:
                inputs: Any = self._prepare_inputs(dict(sample))
                rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
                model(**rows, use_cache=False)
                found.append(representation_distance(*model.hidden.chunk(2)).double())
        return self.accelerator.gather(torch.cat(found))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """In training the mean of weight × pair loss (+ centring), in evaluation TRL's loss."""
        if not cast(nn.Module, self.model).training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        reader = _Reader(model)
        _, outputs = super().compute_loss(reader, inputs, return_outputs=True)
        self._warn_once(reader.at_end)
        loss = self._weighted(outputs.logits.squeeze(-1), reader.hidden, inputs.get("margin"))
        return (loss, outputs) if return_outputs else loss

    def _warn_once(self, at_end: Tensor) -> None:
        """Warn once per run if a reward is not read from its row's last token."""
        if not self._warned and self.is_world_process_zero() and not at_end.all():
            self._warned = True
            pad = cast(PreTrainedTokenizerBase, self.processing_class).pad_token
            warnings.warn(
                f"in {int((~at_end).sum())} of {len(at_end)} rows the model reads the reward from "
                "a token that is not the last (and the distance too), because it skips its pad "
                f"token {pad!r} at the end of a row: choose a pad token that ends no row "
                "(rm.model.checkpoints.set_pad_token)",
                stacklevel=2,
            )

    def _weighted(self, rewards: Tensor, hidden: Tensor, margin: Tensor | None) -> Tensor:
        """Mean of weight × pair loss (+ centring) from `rewards` (rows,), `hidden` (rows, hidden).

        Rows are the chosen sides, then the rejected ones.
        """
        chosen, rejected = rewards.chunk(2)
        difference = chosen - rejected
        distance = representation_distance(*hidden.chunk(2))
        weight = self.pair_weight.weigh(distance, self.mu, torch.sigmoid(-difference.detach()))
        self._pieces.append(torch.stack([distance, weight], dim=1))
        loss = bt(difference) if margin is None else bt_margin(difference, margin)
        total = (weight * loss).mean()
        coefficient = cast(RewardConfig, self.args).center_rewards_coefficient
        if coefficient is not None:
            total = total + centring(chosen, rejected, coefficient=coefficient).mean()
        return total

    def finish_step(self) -> None:
        """Once per optimiser step: log mean distance, mean weight and μ, then update μ."""
        pairs = self.accelerator.gather(torch.cat(self._pieces)).double()
        distance, weight = pairs.mean(dim=0).tolist()
        for name, value in {
            "distance_mean": distance,
            "weight_mean": weight,
            "mu": self.mu,
        }.items():
            if value is not None:
                self._metrics["train"][name].append(value)
        self.mu = self.pair_weight.update(self.mu, distance)


class _Reader:
    """Calls a model and keeps the hidden state from which each reward is read.

    The score head returns its input together with its output. So the state and the reward come from
    the same token, whichever token the model selects.
    """

    hidden: Tensor
    """(rows, hidden), without a gradient: the score head's input at the reward's token."""
    at_end: Tensor
    """(rows,) bool: whether that token is the row's last one in the attention mask."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, **inputs: Any) -> Any:
        """Return the same output as the model alone."""
        with _states_beside_rewards(self._model, inputs["attention_mask"]):
            output = self._model(**inputs)
        found = output.logits
        output.logits = found[:, :1]
        self.hidden, self.at_end = found[:, 1:-1].detach(), found[:, -1].detach() > 0
        return output


@contextlib.contextmanager
def _states_beside_rewards(model: nn.Module, attention_mask: Tensor) -> Iterator[None]:
    """Make the score head return (…, 1 + hidden + 1): reward, its input, 1 at a row's last token.

    `attention_mask` (rows, length): 1 at real tokens. The states may be longer than `length`,
    because virtual tokens (prompt tuning) may precede the real ones.
    """
    length = attention_mask.shape[1]
    places = torch.arange(length, device=attention_mask.device)
    from_end = length - 1 - (attention_mask * places).argmax(dim=-1)

    def widen(_: nn.Module, inputs: tuple[Tensor, ...], rewards: Tensor) -> Tensor:
        states = inputs[0].detach()
        last = states.new_zeros(*states.shape[:2], 1)
        rows = torch.arange(len(states), device=states.device)
        last[rows, states.shape[1] - 1 - from_end] = 1
        return torch.cat([rewards, states, last], dim=-1)

    handle = _head(model).register_forward_hook(widen)
    try:
        yield
    finally:
        handle.remove()


def _head(model: nn.Module) -> nn.Module:
    """The score head, also inside wrappers (DDP, PEFT). Raises InputError if there is none."""
    found = [one for name, one in model.named_modules() if name.split(".")[-1] == "score"]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no head named `score`: load a decoder (such as Llama, "
            "Qwen or Gemma) with AutoModelForSequenceClassification"
        )
    return found[-1]
