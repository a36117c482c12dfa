"""The training loop: transformers.Trainer with the pair loss, the pair weight and their records.

μ and the records are computed once per optimiser step, from the *global* batch: all ranks, all
accumulation steps.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from rm.data.preferences import section_key
from rm.errors import InputError
from rm.files import atomic_write_json, seal, writing
from rm.model.reward_model import RewardModel, RewardOutput
from rm.objective.objective import Objective, PairValues
from rm.objective.weights import is_due, representation_distance
from rm.training.batches import PairCollator, PairStream, model_inputs
from rm.training.records import (
    SPIKE_FACTOR,
    SPIKE_WINDOW,
    CompactProgress,
    FinishStep,
    category_record,
    running_median,
    spike_line,
    step_record,
)
from rm.training.resume import TRAINABLE_FILE, WEIGHT_STATE_FILE, last_checkpoint, trained_names

Item = TypeVar("Item")

CATEGORIES = 20
"""With more categories than this, no metrics by category are recorded: there would be too many."""


def same_draws(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Restore the random state on exit, so the next forward pass draws the same dropout."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


class PairTrainer(Trainer):
    """Minimises the mean over pairs of weight × pair loss (paper, NormBT section)."""

    def __init__(
        self,
        model: RewardModel,
        args: TrainingArguments,
        *,
        stream: PairStream,
        collator: PairCollator,
        objective: Objective,
    ) -> None:
        """`mu` is the pair weight's state, None before the first step.

        `step_pairs` is the last step's global batch, the input of `step_record`. Its distance is
        always ‖h_w − h_l‖, whatever distance the weight uses.
        """
        super().__init__(
            model=model, args=args, train_dataset=stream, data_collator=lambda one: collator(*one)
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the global batch
        self.reward_model = model
        self.pair_objective = objective  # Trainer has its own `objective`
        self.mu: float | None = None
        model.keep_mean = objective.distance.by_mean
        first = stream.batches[: args.gradient_accumulation_steps * args.world_size]
        self.global_batch = sum(map(len, first))
        self._even = len(set(map(len, stream.batches))) == 1
        self.step_record: dict[str, float] = {}
        self.step_pairs: Tensor | None = None
        self._pieces: list[Tensor] = []
        self._pair_ids: list[str] = []
        keys = sorted(set(map(section_key, stream.pairs.categories)))
        self._categories = keys if len(keys) <= CATEGORIES else []
        self._shares: dict[str, float] = {}
        self.add_callback(FinishStep(self))
        self.remove_callback(ProgressCallback)
        self.add_callback(CompactProgress())

    def num_examples(self, dataloader: Any) -> int:
        """Number of pairs, for transformers' throughput: the stream's items are micro-batches."""
        return sum(map(len, dataloader.dataset.batches))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Fetch one step's micro-batches; if μ is due (`is_due`), set it from all of them."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and is_due(self.pair_objective.weight, self.mu):
            self.mu = self.pair_objective.weight.start(self._distances(samples))
        return samples, None

    def _distances(self, samples: Sequence[dict[str, Tensor]]) -> Tensor:
        """Distances of a global batch, float64, equal to those in the training pass that follows.

        The random state is restored, so the training pass draws the same dropout; only a resumed
        run's first step does not, as its random state is loaded after this. Raises
        FloatingPointError with the pair ids if a distance is not finite.
        """
        self.reward_model.train()
        distances: list[Tensor] = []
        ids: list[str] = []
        with (
            torch.set_grad_enabled(self.pair_objective.distance.by_gradient),
            same_draws(self.args.device),
        ):
            for sample in samples:
                inputs = self._prepare_inputs(sample)
                output = self.reward_model(**model_inputs(inputs))
                distances.append(self._distance(inputs, output).double())
                ids += inputs.get("pair_id", [])
        gathered = self._gather(torch.cat(distances))
        self._require_finite(gathered, ids, "a distance")
        return gathered

    def _gather(self, own: Tensor) -> Tensor:
        """Values of all ranks' pairs, (global batch, …), in order. All ranks must call it."""
        if self.args.world_size == 1:
            return own
        if self._even:
            return self.accelerator.gather(own)
        # Micro-batches cut by tokens give ranks different numbers of pairs: pad to the largest.
        counts = self.accelerator.gather(torch.tensor([len(own)], device=own.device)).tolist()
        most = max(counts)
        sent = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
        parts = self.accelerator.gather(sent).split(most)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def _distance(self, inputs: dict[str, Any], output: RewardOutput) -> Tensor:
        """The distances from which the weight is computed, (pairs,)."""
        if "distance" in inputs:
            return inputs["distance"]
        chosen, rejected = output.rewards.chunk(2)
        trained = [value for value in self.reward_model.parameters() if value.requires_grad]
        return self.pair_objective.distance.measure(output, chosen - rejected, trained)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of weight × pair loss (+ penalty) over the micro-batch / size of the global batch.

        Multiplied by the number of ranks, because data parallelism averages gradients over ranks.
        """
        output = model(**model_inputs(inputs))
        chosen, rejected = output.rewards.chunk(2)
        distance = self._distance(inputs, output)
        pairs = self.pair_objective.values(
            chosen,
            rejected,
            distance,
            self.mu,
            margin=inputs.get("margin"),
            categories=inputs.get("category", ()),
            log_likelihood=_chosen(output.log_likelihood),
        )
        self._keep(inputs, output, distance, pairs)
        loss = pairs.value.sum() / self.global_batch * self.args.world_size
        return (loss, output) if return_outputs else loss

    def _keep(
        self, inputs: dict[str, Any], output: RewardOutput, distance: Tensor, pairs: PairValues
    ) -> None:
        """Store the values of a micro-batch's pairs for the step's record."""
        representation = representation_distance(*output.hidden.detach().chunk(2))
        category = self._category_numbers(inputs.get("category", ()), pairs.difference)
        facts = (pairs.difference, representation, pairs.weight, pairs.loss, distance, category)
        self._pieces.append(torch.stack([fact.detach() for fact in facts]).T)
        self._pair_ids += inputs.get("pair_id", [])

    def finish_step(self) -> None:
        """Once per optimiser step: gather the global batch, record it, update μ."""
        pieces, ids = torch.cat(self._pieces), self._pair_ids
        self._pieces, self._pair_ids = [], []
        pairs = self._gather(pieces)
        self._require_finite(pairs, ids, "a reward, distance, weight or loss")
        *recorded, weighed, category = pairs.double().cpu().T
        self.step_pairs = torch.stack(recorded).T
        self.step_record = step_record(self.step_pairs, self.mu)
        self.step_record |= category_record(recorded[2], category, self._categories)
        # Each pair's weight × loss, to name the largest after a spike.
        self._shares = dict(zip(ids, (pieces[:, 2] * pieces[:, 3]).tolist(), strict=False))
        self.mu = self.pair_objective.weight.update(self.mu, weighed.mean().item())

    def _category_numbers(self, categories: Sequence[str], like: Tensor) -> Tensor:
        """Each pair's index into the recorded categories, (pairs,); −1 for no category."""
        places = {name: number for number, name in enumerate(self._categories)}
        numbers = [places.get(section_key(name), -1) for name in categories]
        return like.new_tensor(numbers) if numbers else like.new_full((len(like),), -1)

    def _require_finite(self, facts: Tensor, ids: list[str], what: str) -> None:
        """Raise FloatingPointError naming the pairs whose `facts` (global batch, …) are not finite.

        `ids`: pair ids of this rank. All ranks must call it.
        """
        finite = torch.isfinite(facts).flatten(1).all(dim=1) if facts.ndim > 1 else facts.isfinite()
        if not finite.all():
            found = zip(self._all(ids), finite.tolist(), strict=False)
            wrong = [pair for pair, good in found if not good]
            raise self._not_finite(f"{what} of {_some(wrong)}")

    def _all(self, own: list[Item]) -> list[Item]:
        """Items of all ranks' pairs, in the order of `_gather`. All ranks must call it."""
        return gather_object(own) if self.args.world_size > 1 else own

    def _not_finite(self, what: str) -> FloatingPointError:
        """The error: what is not finite, at which step, and the last checkpoint."""
        checkpoint = last_checkpoint(Path(self.args.output_dir or ".").parent)
        back = f"last complete checkpoint: {checkpoint}" if checkpoint else "no checkpoint yet"
        return FloatingPointError(
            f"step {self.state.global_step}: {what} is not finite; {back}. Look at these pairs, "
            "lower training.learning_rate, or compute in float32"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's record to what transformers logs."""
        if "learning_rate" in logs:
            gradient_norm = logs.pop("grad_norm", None)
            if gradient_norm is not None:
                logs["gradient_norm"] = float(gradient_norm)
                if not math.isfinite(logs["gradient_norm"]):
                    raise self._not_finite("the gradient")
            logs.update(self.step_record)
            logs["loss_spike"] = float(self._is_spike(logs["loss"]))
        super().log(logs, start_time)
        # metrics.jsonl has every step; without this, the log in checkpoints would keep growing.
        del self.state.log_history[:-SPIKE_WINDOW]

    def _is_spike(self, loss: float) -> bool:
        """Whether the step's loss is a spike; if so, prints the pairs with the largest shares."""
        # The log is saved in checkpoints, so a resumed run finds the same spikes.
        recent = self.state.log_history[-SPIKE_WINDOW:]
        before = [entry["loss"] for entry in recent if "learning_rate" in entry]
        median = running_median(before)
        if median is None or loss <= SPIKE_FACTOR * median:
            return False
        shares = self._all(list(self._shares.items()))
        if self.is_world_process_zero():
            tqdm.write(spike_line(self.state.global_step, loss, median, dict(shares)))
        return True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint of all ranks, then seal it: a checkpoint without a seal is incomplete.

        Raises InterruptedRunError if the disk is full. The incomplete checkpoint is then deleted,
        and the previous one remains: only a complete checkpoint replaces it.
        """
        folder = Path(self.args.output_dir or ".") / f"checkpoint-{self.state.global_step}"
        try:
            with writing(folder):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    seal(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write what resuming needs: the trained parameters in full precision, and μ."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        state = state_dict if state_dict else self.reward_model.state_dict()
        trained = {name: state[name] for name in trained_names(self.reward_model)}
        save_file(
            {name: value.contiguous().cpu() for name, value in trained.items()},
            folder / TRAINABLE_FILE,
        )
        atomic_write_json(folder / WEIGHT_STATE_FILE, {"mu": self.mu})

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Load the trained parameters; the frozen ones come from the backbone."""
        state = load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE)
        missing = set(trained_names(self.reward_model)) - set(state)
        if missing:
            raise InputError(
                f"{resume_from_checkpoint} lacks trained weights {sorted(missing)[:3]}: "
                "another configuration wrote it; delete the run's trainer folder"
            )
        self.reward_model.load_state_dict(state, strict=False)


def _chosen(of_rows: Tensor | None) -> Tensor | None:
    """The chosen half (pairs,) of `of_rows` (2·pairs,)."""
    return None if of_rows is None else of_rows.chunk(2)[0]


def _some(ids: Sequence[str], shown: int = 5) -> str:
    """Name the first `shown` pairs and count the rest."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"pairs {', '.join(ids[:shown])}{more}"
