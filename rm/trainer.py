"""The training loop: transformers.Trainer with the pair loss, the pair weight and their records.

What is ours is what the paper is about. Everything that happens once an optimiser step (μ, the
records) comes from the *global* batch: all ranks, all accumulation steps.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rm.batches import PairCollator, PairStream, model_inputs
from rm.distances import PairDistance, Representation
from rm.errors import InputError, require_range
from rm.files import atomic_write_json, atomic_write_text, damage, is_sealed, seal, writing
from rm.losses import PairLoss, Regularizer, TextGeneration
from rm.models import RewardModel, RewardOutput
from rm.preferences import section_key
from rm.weights import Deal, PairWeight, is_due, representation_distance

Item = TypeVar("Item")
TRAINABLE_FILE = "trainable.safetensors"
WEIGHT_STATE_FILE = "pair_weight.json"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SPIKE_FACTOR = 5.0
"""A step's loss is a spike if it is above this many times the running median."""
SPIKE_WINDOW = 100
"""Steps before it whose losses the running median is of."""
SPIKE_START = 20
"""Steps that must lie before it: the first ones have no median to speak of."""

CATEGORIES = 20
"""Pairs of more categories than this have no records by category: hundreds of lines help no one."""


@dataclass
class TrainingSettings:
    """One file of conf/training, typed. Units: pairs for batches, tokens for lengths."""

    part: str
    learning_rate: float
    epochs: float
    global_batch: int
    micro_batch: int
    micro_batch_tokens: int | None
    max_length: int
    parse_special_text: bool
    schedule: str
    warmup_ratio: float
    clip_norm: float
    optimizer: str
    weight_decay: float
    compute_dtype: str
    top_layers: int
    reuse_trunk: bool
    share_prefix: bool
    attention: str | None
    gradient_checkpointing: bool
    save_steps: int
    lora: dict[str, Any] = field(default_factory=dict)


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""Those of transformers that need nothing beside what `TrainingSettings` has."""
POLYNOMIAL_END = 1e-7
"""Where transformers' polynomial schedule ends: it must start above."""
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "adafactor", "adagrad", "rmsprop")
"""Those of transformers that need no package beside what is required."""
LORA = {"r", "alpha", "dropout", "target_modules"}


def check_settings(settings: TrainingSettings) -> None:
    """Raise InputError for a number out of range, an unknown name or an incomplete lora section."""
    positive = ("epochs", "learning_rate", "max_length", "global_batch", "micro_batch")
    for name in (*positive, "micro_batch_tokens"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"training.{name}={value}: must be above zero, and finite")
    for name in ("clip_norm", "weight_decay", "save_steps"):
        require_range(f"training.{name}", getattr(settings, name), 0)
    require_range("training.warmup_ratio", settings.warmup_ratio, 0, 1)  # a share of the steps
    for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
        if getattr(settings, name) not in known:
            raise InputError(
                f"training.{name}={getattr(settings, name)}: choose one of {', '.join(known)}"
            )
    if settings.schedule == "polynomial" and settings.learning_rate <= POLYNOMIAL_END:
        raise InputError(
            f"training.learning_rate={settings.learning_rate}: schedule=polynomial ends at "
            f"{POLYNOMIAL_END} and must start above"
        )
    if settings.part == "lora":
        check_lora(settings.lora)


def check_lora(lora: dict[str, Any]) -> None:
    """Raise InputError unless `lora` has the four settings of an adapter, each of its type."""
    if set(lora) != LORA:
        raise InputError(
            f"training.part=lora needs exactly {', '.join(sorted(LORA))} in training.lora, as "
            "training=grm_lora has them"
        )
    r, alpha, dropout, modules = (lora[k] for k in ("r", "alpha", "dropout", "target_modules"))
    named = isinstance(modules, list) and all(isinstance(name, str) for name in modules)
    for name, right, asked in (
        ("r", _is_number(r) and isinstance(r, int) and r >= 1, "a whole number, 1 or more"),
        ("alpha", _is_number(alpha) and alpha > 0, "a number above zero"),
        ("dropout", _is_number(dropout) and 0 <= dropout < 1, "a share, 0 or more and below 1"),
        ("target_modules", named and modules, "a list of module names, such as [q_proj,v_proj]"),
    ):
        if not right:
            raise InputError(f"training.lora.{name}={lora[name]}: must be {asked}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_batches(settings: TrainingSettings, devices: int) -> None:
    """Raise InputError unless all devices can take equally many micro-batches a step."""
    by_tokens = settings.micro_batch_tokens is not None
    share = devices if by_tokens else settings.micro_batch * devices
    if settings.global_batch % share or settings.global_batch < share:
        factors = f"devices = {devices}"
        if not by_tokens:
            factors = f"micro_batch × devices = {settings.micro_batch} × {devices}"
        raise InputError(
            f"training.global_batch={settings.global_batch} is not a multiple of {factors}: "
            "change one of them"
        )


def training_arguments(
    settings: TrainingSettings,
    *,
    run_dir: Path,
    accumulation: int,
    steps: int,
    seed: int,
    report_to: Sequence[str],
    run_name: str,
    deepspeed: dict[str, Any] | None,
) -> TrainingArguments:
    """Translate our settings into transformers' arguments.

    `accumulation`: micro-batches of a step on one device; what transformers calls a batch is one.
    `bf16` stays off there: `RewardModel` does its own autocast, so that the head and the master
    weights stay float32 under DeepSpeed too.
    """
    arguments = TrainingArguments(
        output_dir=str(run_dir / "trainer"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup_ratio * steps),
        max_grad_norm=settings.clip_norm,
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        seed=seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if settings.save_steps else "no",
        save_steps=settings.save_steps or 1,
        save_total_limit=2,
        report_to=list(report_to),
        run_name=run_name,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        deepspeed=deepspeed,
    )
    # One device a process: without ranks transformers would take every GPU it sees (DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def same_draws(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Put the random state back at the end: what follows draws (dropout) what was drawn inside."""
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
        pair_loss: PairLoss,
        pair_weight: PairWeight,
        pair_distance: PairDistance | None = None,
        regularizer: Regularizer | None = None,
        text: TextGeneration | None = None,
        deal: Deal | None = None,
        mu: float | None = None,
    ) -> None:
        """`mu`: the pair weight's state to start from (resuming), None for a fresh run.

        `pair_distance` is what the weight goes by, the paper's if None; the records hold
        ‖h_w − h_l‖ whatever it is. `deal` deals a batch's weights out again. `step_pairs` holds
        the last step's global batch as `step_record` takes it.
        """
        super().__init__(
            model=model, args=args, train_dataset=stream, data_collator=lambda one: collator(*one)
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the global batch itself
        self.reward_model = model
        self.pair_loss, self.pair_weight, self.mu = pair_loss, pair_weight, mu
        self.pair_distance, self.regularizer = pair_distance or Representation(), regularizer
        self.text, self.deal = text, deal
        model.keep_mean = self.pair_distance.by_mean
        first = stream.batches[: args.gradient_accumulation_steps * args.world_size]
        self.global_batch = sum(map(len, first))
        self._even = len(set(map(len, stream.batches))) == 1
        self.step_record: dict[str, float] = {}
        self.step_pairs: Tensor | None = None
        self._pieces: list[Tensor] = []
        self._pair_ids: list[str] = []
        keys = sorted({section_key(pair.category) for pair in stream.pairs if pair.category})
        self._categories = keys if len(keys) <= CATEGORIES else []
        self._shares: dict[str, float] = {}
        self.add_callback(FinishStep(self))
        self.remove_callback(ProgressCallback)
        self.add_callback(CompactProgress())

    def num_examples(self, dataloader: Any) -> int:
        """Number of pairs, which transformers' rate is of; the stream's items are micro-batches."""
        return sum(map(len, dataloader.dataset.batches))

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Fetch one step's micro-batches; before the first step, set μ_0 from all of them."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and is_due(self.pair_weight, self.mu):
            self.mu = self.pair_weight.start(self._distances(samples))
        return samples, None

    def _distances(self, samples: Sequence[dict[str, Tensor]]) -> Tensor:
        """Distances of a global batch, float64, as the pass that follows will see them.

        The random state is put back, so that dropout falls on the same places then. Raises
        FloatingPointError, naming the pairs, where one is not finite.
        """
        self.reward_model.train()
        distances: list[Tensor] = []
        ids: list[str] = []
        with torch.set_grad_enabled(self.pair_distance.by_gradient), same_draws(self.args.device):
            for sample in samples:
                inputs = self._prepare_inputs(sample)
                output = self.reward_model(**model_inputs(inputs))
                distances.append(self._distance(inputs, output).double())
                ids += inputs.get("pair_id", [])
        gathered = self._gather(torch.cat(distances))
        self._require_finite(gathered, ids, "a distance")
        return gathered

    def _gather(self, own: Tensor) -> Tensor:
        """Facts about the pairs of all ranks, (global batch, …), in order. All must ask."""
        if self.args.world_size == 1:
            return own
        if self._even:
            return self.accelerator.gather(own)
        # Micro-batches cut by tokens give ranks unlike numbers of pairs: all send the most.
        counts = self.accelerator.gather(torch.tensor([len(own)], device=own.device)).tolist()
        most = max(counts)
        sent = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
        parts = self.accelerator.gather(sent).split(most)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def _distance(self, inputs: dict[str, Any], output: RewardOutput) -> Tensor:
        """What the weight goes by, (pairs,)."""
        if "distance" in inputs:
            return inputs["distance"]
        chosen, rejected = output.rewards.chunk(2)
        trained = [value for value in self.reward_model.parameters() if value.requires_grad]
        return self.pair_distance.measure(output, chosen - rejected, trained)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of weight × pair loss (+ penalty) over the micro-batch, divided by the global batch.

        Multiplied by the number of ranks, because data parallelism averages gradients over them.
        """
        output = model(**model_inputs(inputs))
        chosen, rejected = output.rewards.chunk(2)
        difference = chosen - rejected
        sides = output.hidden.detach().chunk(2)
        distance = self._distance(inputs, output)
        weight = self.pair_weight.weigh(distance, self.mu, torch.sigmoid(-difference.detach()))
        if self.deal is not None:
            weight = self.deal(weight, inputs["category"])
        loss = self.pair_loss(difference, inputs.get("margin"))
        category = self._category_numbers(inputs.get("category", []), difference)
        facts = (difference, representation_distance(*sides), weight, loss, distance, category)
        self._pieces.append(torch.stack([fact.detach() for fact in facts]).T)
        self._pair_ids += inputs.get("pair_id", [])
        total = weight * loss
        if self.regularizer is not None:
            total = total + self.regularizer(chosen, rejected)
        if self.text is not None:
            total = self.text.combine(total, output.log_likelihood.chunk(2)[0])
        total = total.sum() / self.global_batch * self.args.world_size
        return (total, output) if return_outputs else total

    def finish_step(self) -> None:
        """Once an optimiser step: gather the global batch, record it, update μ."""
        pieces, ids = torch.cat(self._pieces), self._pair_ids
        self._pieces, self._pair_ids = [], []
        pairs = self._gather(pieces)
        self._require_finite(pairs, ids, "a reward, distance, weight or loss")
        *recorded, weighed, category = pairs.double().cpu().T
        self.step_pairs = torch.stack(recorded).T
        self.step_record = step_record(self.step_pairs, self.mu)
        self.step_record |= category_record(recorded[2], category, self._categories)
        # What each pair adds to the loss, to name the largest after a spike.
        self._shares = dict(zip(ids, (pieces[:, 2] * pieces[:, 3]).tolist(), strict=False))
        self.mu = self.pair_weight.update(self.mu, weighed.mean().item())

    def _category_numbers(self, categories: Sequence[str], like: Tensor) -> Tensor:
        """Each pair's place among the categories that are recorded, (pairs,); −1: in none."""
        places = {name: number for number, name in enumerate(self._categories)}
        numbers = [places.get(section_key(name), -1) for name in categories]
        return like.new_tensor(numbers) if numbers else like.new_full((len(like),), -1)

    def _require_finite(self, facts: Tensor, ids: list[str], what: str) -> None:
        """Raise FloatingPointError naming the pairs whose `facts` (global batch, …) are not finite.

        `ids` are this rank's own. All ranks must ask.
        """
        finite = torch.isfinite(facts).flatten(1).all(dim=1) if facts.ndim > 1 else facts.isfinite()
        if not finite.all():
            found = zip(self._all(ids), finite.tolist(), strict=False)
            wrong = [pair for pair, good in found if not good]
            raise self._not_finite(f"{what} of {_some(wrong)}")

    def _all(self, own: list[Item]) -> list[Item]:
        """What all ranks hold of their pairs, in the order of `_gather`. All must ask."""
        return gather_object(own) if self.args.world_size > 1 else own

    def _not_finite(self, what: str) -> FloatingPointError:
        """Say what went wrong, when, and from where the run can go on."""
        checkpoint = last_checkpoint(Path(self.args.output_dir or ".").parent)
        back = f"the last whole checkpoint is {checkpoint}" if checkpoint else "no checkpoint yet"
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

    def _is_spike(self, loss: float) -> bool:
        """Whether the step's loss is a spike; says so, and which pairs have the most of it."""
        # From the log, which is in the checkpoint: a resumed run finds the same spikes.
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
        """Write a checkpoint of all ranks; the seal comes last, so without one it is not whole.

        Raises InterruptedRunError if the disk is full; what was written is deleted then, and the
        checkpoint before it is still there: it is only dropped for a whole one.
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
        """Load the trained parameters; the frozen ones are the backbone's."""
        state = load_file(Path(resume_from_checkpoint) / TRAINABLE_FILE)
        missing = set(trained_names(self.reward_model)) - set(state)
        if missing:
            raise InputError(
                f"{resume_from_checkpoint} lacks trained weights {sorted(missing)[:3]}: "
                "it was written by another configuration"
            )
        self.reward_model.load_state_dict(state, strict=False)


def _some(ids: Sequence[str], shown: int = 5) -> str:
    """Name pairs: all of a few, the first of many."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return f"pairs {', '.join(ids[:shown])}{more}"


def running_median(losses: Sequence[float]) -> float | None:
    """Median of the losses of the last SPIKE_WINDOW steps; None if there are not SPIKE_START."""
    return statistics.median(losses) if len(losses) >= SPIKE_START else None


def spike_line(step: int, loss: float, median: float, shares: Mapping[str, float]) -> str:
    """One line about a loss spike. `shares`: pair id -> what it adds to the batch's loss."""
    largest = sorted(shares, key=lambda pair: shares[pair], reverse=True)[:3]
    named = ", ".join(f"{pair} ({shares[pair]:.3g})" for pair in largest)
    return (
        f"step {step}: loss spike: {loss:.3g} is {loss / median:.1f} times the median of the steps "
        f"before ({median:.3g}); the pairs with the largest weight × loss: {named}"
    )


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, value in model.named_parameters() if value.requires_grad]


def step_record(pairs: Tensor, mu: float | None) -> dict[str, float]:
    """Facts of one step from (global batch, 4) float64: difference, distance, weight, loss.

    `pair_loss` is the unweighted mean; `weight_share_q1` … `q4` the share of the total weight that
    the pairs of each distance quartile hold (q1 the closest quarter), 0 where all weights are.
    """
    difference, distance, weight, loss = pairs.T
    levels = torch.tensor(QUANTILES, dtype=pairs.dtype)
    record = {
        "accuracy": (difference > 0).double().mean().item(),
        "ties": (difference == 0).double().mean().item(),
        "pair_loss": loss.mean().item(),
        "reward_margin": difference.mean().item(),
        "distance_mean": distance.mean().item(),
        "weight_mean": weight.mean().item(),
    }
    if mu is not None:
        record["mu"] = mu
    for name, values in (("distance", distance), ("weight", weight)):
        for level, value in zip(QUANTILES, values.quantile(levels).tolist(), strict=True):
            record[f"{name}_q{round(100 * level)}"] = value
    quarters, total = weight[distance.argsort()].tensor_split(4), weight.sum().item()
    for number, quarter in enumerate(quarters, start=1):
        record[f"weight_share_q{number}"] = quarter.sum().item() / total if total else 0.0
    return record


def category_record(weight: Tensor, category: Tensor, names: Sequence[str]) -> dict[str, float]:
    """weight_mean_<category> of one step: the mean weight of each category's pairs in the batch.

    `weight` (global batch,); `category` (global batch,): places in `names`, −1 for none. A category
    without a pair in the batch has no key.
    """
    return {
        f"weight_mean_{name}": weight[category == number].mean().item()
        for number, name in enumerate(names)
        if (category == number).any()
    }


class FinishStep(TrainerCallback):
    """Calls the trainer's `finish_step` after every optimiser step, before it is logged."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Finish the step."""
        self.trainer.finish_step()


class CompactProgress(ProgressCallback):
    """The progress bar with loss and accuracy beside it, instead of a printed dict a step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the step's loss and accuracy."""
        if state.is_world_process_zero and self.training_bar and logs and "accuracy" in logs:
            self.training_bar.set_postfix(
                loss=f"{logs['loss']:.3f}", accuracy=f"{logs['accuracy']:.2f}", refresh=False
            )


class MetricsFile(TrainerCallback):
    """Writes metrics.jsonl: one JSON object a step. The source of truth for every figure."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the steps of the checkpoint that the run starts from: no gap, none twice."""
        if state.is_world_process_zero:
            steps = [entry for entry in state.log_history if "learning_rate" in entry]
            atomic_write_text(self.path, "".join(map(_metrics_line, steps)))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Append one step."""
        if state.is_world_process_zero and logs and "learning_rate" in logs:
            with writing(self.path), self.path.open("a") as file:
                file.write(_metrics_line({**logs, "step": state.global_step}))


def _metrics_line(entry: Mapping[str, float]) -> str:
    # In order, as in a checkpoint's log: a line is the same whichever of the two it comes from.
    return (
        json.dumps({"step": entry["step"], **dict(sorted(entry.items()))}, allow_nan=False) + "\n"
    )


def last_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of the run from which training can go on, or None."""
    folders = (run_dir / "trainer").glob("checkpoint-*")
    return max(filter(is_sealed, folders), key=_step_of, default=None)


def drop_damaged_checkpoints(run_dir: Path) -> list[str]:
    """Delete a run's checkpoints that are not whole; return a line about each.

    Training then goes on from the last good one, or from the start.
    """
    lines = []
    for folder in sorted((run_dir / "trainer").glob("checkpoint-*"), key=_step_of):
        found = damage(folder)
        if found is not None:
            shutil.rmtree(folder)
            lines.append(f"{folder}: {found}; deleted")
    return lines


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def load_mu(checkpoint: Path) -> float | None:
    """Return the pair weight's state that was saved with a checkpoint."""
    return json.loads((checkpoint / WEIGHT_STATE_FILE).read_text())["mu"]
