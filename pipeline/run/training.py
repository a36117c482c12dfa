"""One training run: prepared, trained on its ranks, and written with its manifest last."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from pipeline.launch.launchers import Launcher, start_ranks
from pipeline.launch.lock import only_one
from pipeline.launch.terminal import say, stage, where_output_is
from pipeline.run import tracking
from pipeline.run.run_folder import (
    MODEL_FILE,
    RECORDS,
    claim_run_dir,
    comparable,
    complete,
    finished_manifest,
    steps_done,
)
from pipeline.run.token_cache import TokenCache, TrainingTokens
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.checks import (
    check,
    check_length,
    choose_attention,
    require_sharing,
    zero_stage,
)
from pipeline.settings.objective import objective_of
from rm.data.templates import ChatTemplate
from rm.data.token_table import TokenPairs
from rm.data.tokens import settled
from rm.errors import InterruptedRunError
from rm.files import atomic_write_json, read_json
from rm.model.backbones import SOURCE_FILE
from rm.model.checkpoints import keeps_head, new_reward_model, save_reward_model
from rm.model.likelihood import head_of
from rm.model.parts import train_part
from rm.model.precision import DTYPES, emulation
from rm.model.reward_model import RewardModel, set_head
from rm.model.trunk import open_cache
from rm.objective.objective import Objective
from rm.provenance import environment, file_fingerprint, fingerprint_of
from rm.training.batches import (
    PairCollator,
    PairStream,
    batch_tokens,
    micro_batches,
    training_order,
)
from rm.training.records import MetricsFile
from rm.training.resume import drop_damaged_checkpoints, last_checkpoint, load_mu
from rm.training.settings import TrainingSettings, step_count, training_arguments
from rm.training.trainer import PairTrainer


@dataclass
class Prepared:
    """Everything that a run needs before its first step."""

    settings: TrainingSettings
    objective: Objective
    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    tokens: TrainingTokens
    collator: PairCollator
    facts: dict[str, Any]

    @property
    def pairs(self) -> TokenPairs:
        """The pairs to train on."""
        return self.tokens.pairs


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run one configuration to its end and return its manifest; skips a finished run.

    With launch=torchrun, all machines except the first only lend their devices.
    """
    check(cfg)
    tracking.check(cfg)
    launcher, run_dir = launch_of(cfg), Path(cfg.run_dir)
    if not launcher.is_first():
        return help_along(cfg, launcher)
    with only_one(run_dir):
        finished = claim_run_dir(cfg, run_dir)
        if finished is not None:
            say(f"{run_dir}: already trained")
            complete(run_dir)
            return finished
        for line in drop_damaged_checkpoints(run_dir):
            say(line)
        # DeepSpeed reads its ranks from a launcher's environment, even where there is only one.
        if launcher.in_process(cfg.devices) and cfg.deepspeed.settings is None:
            fit(cfg)
        else:
            launch(cfg, launcher, prepare_ranks(cfg))
    return read_json(run_dir / "manifest.json")


def launch_of(cfg: DictConfig) -> Launcher:
    """Return how the ranks are started. Raises InputError if `cfg.devices` of them cannot be."""
    launcher: Launcher = instantiate(cfg.launch)
    launcher.check(cfg.devices)
    return launcher


def help_along(cfg: DictConfig, launcher: Launcher) -> dict[str, Any]:
    """Lend this machine's devices to the run that machine 0 writes; {} unless it is finished."""
    run_dir = Path(cfg.run_dir)
    finished = finished_manifest(cfg, run_dir)
    if finished is None:
        launch(cfg, launcher)
        return {}
    say(f"{run_dir}: already trained")
    return finished


def prepare_ranks(cfg: DictConfig) -> int:
    """Do once, before the ranks start: downloads, data, trunk. Return the number of steps."""
    with stage("prepare"):
        ready = prepare(cfg)
    return step_count(ready.settings.epochs, len(ready.pairs), ready.settings.global_batch)


def prepare(cfg: DictConfig) -> Prepared:
    """Fetch the backbone, load and tokenise the data, build the model, fill the trunk cache."""
    settings, objective = check(cfg), objective_of(cfg.loss)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    cache = Path(cfg.cache_dir)
    backbone = backbone_folder(cfg.model, cfg.cache_dir)
    token_cache = TokenCache(cfg, backbone, settings, objective)
    dtype = DTYPES[settings.compute_dtype]
    slow = emulation(dtype, "training.compute_dtype")
    if slow:
        say(slow)
    kept = keeps_head(backbone, cfg.model.head, objective.head)
    divided = divide_model(cfg)  # kept while the model is made
    model, tokenizer = new_reward_model(backbone, dtype, cfg.seed, keep_head=kept)
    check_length(model, settings.max_length, "training.max_length")  # before pairs are tokenised
    if not kept:
        set_head(model, objective.head, cfg.seed)
    del divided
    template = ChatTemplate(tokenizer, parse_special_text=settings.parse_special_text)
    if objective.text is not None:
        head_of(model.classifier)  # refuses a backbone that has none
    tokens = token_cache.open(template)
    if "RANK" not in os.environ:  # a rank would repeat what the run's process said
        head = f"kept from {backbone}" if kept else f"new, drawn by seed {cfg.seed}"
        for line in (*tokens.lines, f"score head: {head}"):
            say(line)
    choose_part(model, cfg, settings)
    if settings.share_prefix:
        require_sharing(model, settings.max_length, "training.share_prefix")
    trunk = None
    if settings.reuse_trunk:
        rows = token_cache.trunk_rows(tokens.pairs, template)
        trunk = open_cache(
            model, settings.top_layers, rows, cache / "trunk", share=settings.share_prefix
        )
    # After the trunk, which is computed where the model is now: on the CPU.
    choose_attention(model, settings.attention, "training")
    facts = {
        "backbone": _source(backbone),
        "head": "kept" if kept else "new",
        "tokens": tokens.report,
        "data": tokens.data,
    }
    if template.date:
        facts["template_date"] = template.date
    collator = PairCollator(
        int(tokenizer.pad_token_id),
        trunk,
        share=settings.share_prefix,
        distance=objective.distance.of_pair if objective.distance.by_tokens else None,
        likelihood=objective.text is not None,
    )
    return Prepared(settings, objective, model, tokenizer, tokens, collator, facts)


def divide_model(cfg: DictConfig) -> HfDeepSpeedConfig | None:
    """In a rank of ZeRO-3: while the result lives, transformers divides each model it builds.

    So no rank holds the whole model. The process that starts the ranks has tried the whole one.
    """
    if "RANK" not in os.environ or zero_stage(cfg) != 3:
        return None
    zero = OmegaConf.to_container(cfg.deepspeed.settings.zero_optimization)
    return HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero})


def choose_part(model: RewardModel, cfg: DictConfig, settings: TrainingSettings) -> None:
    """Apply the configuration's trained part and gradient checkpointing."""
    frozen_dtype = DTYPES[settings.compute_dtype] if cfg.deepspeed.settings is None else None
    train_part(
        model,
        settings.part,  # type: ignore[arg-type]
        top_layers=settings.top_layers,
        lora=settings.lora,
        frozen_dtype=frozen_dtype,
        seed=cfg.seed,
    )
    if settings.gradient_checkpointing:
        model.classifier.activation_checkpointing_enable({"use_reentrant": False})


def _source(backbone: Path) -> str:
    noted = backbone / SOURCE_FILE
    return json.loads(noted.read_text())["source"] if noted.is_file() else backbone.name


def fit(cfg: DictConfig) -> None:
    """Train on this process (one rank of several, or the only one) and write the run's files."""
    run_dir, started = Path(cfg.run_dir), time.time()
    with stage("prepare"):
        ready = prepare(cfg)
    order = training_order(
        ready.pairs,
        epochs=ready.settings.epochs,
        global_batch=ready.settings.global_batch,
        seed=cfg.seed,
    )
    steps = len(order) // ready.settings.global_batch
    batches = batches_of(ready.settings, ready.pairs, order, cfg.devices)
    with tracking.run(cfg, run_dir) as report_to:
        trainer = build_trainer(cfg, ready, batches, steps, report_to)
        checkpoint = last_checkpoint(run_dir)
        if checkpoint is not None:
            trainer.mu = load_mu(checkpoint)
        name = f"train, {steps} steps of {ready.settings.global_batch} pairs"
        with stage(name), settled():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # Training is over: without this, ZeRO-3 would divide the model that is built to be saved.
        unset_hf_deepspeed_config()
        if trainer.is_world_process_zero():
            write_run(cfg, ready, trainer, state, batches, started)
            tracking.log_artifacts(cfg, run_dir)


def batches_of(
    settings: TrainingSettings, pairs: TokenPairs, order: Sequence[int], devices: int
) -> list[list[int]]:
    """Cut the order of the pairs into the micro-batches that the settings ask for."""
    return micro_batches(
        pairs,
        order,
        global_batch=settings.global_batch,
        micro_batch=settings.micro_batch,
        tokens=settings.micro_batch_tokens,
        devices=devices,
        share_prefix=settings.share_prefix,
    )


def write_run(
    cfg: DictConfig,
    ready: Prepared,
    trainer: PairTrainer,
    state: dict[str, torch.Tensor],
    batches: list[list[int]],
    started: float,
) -> None:
    """Write a trained run's checkpoint, its split, its manifest and its model card.

    state: the model's parameters. batches: the pairs trained on. started: when the run began,
    seconds.
    """
    run_dir, settings = Path(cfg.run_dir), ready.settings
    weight_state = {"mu": trainer.mu, "loss": ready.objective.name, **scoring_settings(settings)}
    save_reward_model(
        ready.model,
        ready.tokenizer,
        run_dir / "checkpoint",
        state=state,
        extra={MODEL_FILE: json.dumps(weight_state, indent=2) + "\n"},
    )
    write_split(run_dir, ready)
    facts = {
        **ready.facts,
        "steps": sum(map(len, batches)) // settings.global_batch,
        "pairs_left_out": _left_out(ready, batches),
        "batches": batch_tokens(ready.pairs, batches, settings.share_prefix),
    }
    write_manifest(cfg, run_dir, ready.tokens.fingerprint, facts, time.time() - started)
    complete(run_dir)


def scoring_settings(settings: TrainingSettings) -> dict[str, Any]:
    """What a checkpoint records about its training, for scoring with it."""
    return {
        "top_layers": settings.top_layers if settings.reuse_trunk else 0,
        "max_length": settings.max_length,
        "parse_special_text": settings.parse_special_text,
        "compute_dtype": settings.compute_dtype,
        "share_prefix": settings.share_prefix,
    }


def build_trainer(
    cfg: DictConfig, ready: Prepared, batches: list[list[int]], steps: int, report_to: list[str]
) -> PairTrainer:
    """Assemble the trainer that a configuration names."""
    run_dir = Path(cfg.run_dir)
    deepspeed = OmegaConf.to_container(cfg.deepspeed.settings) if cfg.deepspeed.settings else None
    arguments = training_arguments(
        ready.settings,
        run_dir=run_dir,
        accumulation=len(batches) // (steps * cfg.devices),
        steps=steps,
        seed=cfg.seed,
        report_to=report_to,
        run_name=run_dir.name,
        deepspeed=deepspeed,  # type: ignore[arg-type]
    )
    trainer = PairTrainer(
        ready.model,
        arguments,
        stream=PairStream(ready.pairs, batches),
        collator=ready.collator,
        objective=ready.objective,
    )
    trainer.add_callback(MetricsFile(run_dir / "metrics.jsonl"))
    for callback in tracking.callbacks(cfg, trainer):
        trainer.add_callback(callback)
    return trainer


def write_split(run_dir: Path, ready: Prepared) -> None:
    """Write split.json: ids of the pairs trained on and of those held out."""
    split = {"train": ready.pairs.pair_ids, "validation": ready.tokens.held_out}
    atomic_write_json(run_dir / "split.json", split)


def _left_out(ready: Prepared, batches: list[list[int]]) -> int:
    """Pairs of the last, incomplete global batch."""
    return int(ready.settings.epochs * len(ready.pairs)) - sum(map(len, batches))


def write_manifest(
    cfg: DictConfig, run_dir: Path, data: str, facts: dict[str, Any], seconds: float
) -> None:
    """Write the run's manifest; it exists only if everything else of the run does.

    `data`: the training pairs' fingerprint.
    """
    atomic_write_json(
        run_dir / "manifest.json",
        {
            "config": OmegaConf.to_container(cfg, resolve=True),
            "config_fingerprint": fingerprint_of(comparable(cfg)),
            "data_fingerprint": data,
            "seed": cfg.seed,
            "seconds": round(seconds, 1),
            "records": {name: file_fingerprint(run_dir / name) for name in RECORDS},
            **facts,
            "environment": environment(),
        },
    )


def launch(cfg: DictConfig, launcher: Launcher, steps: int | None = None) -> None:
    """Train on the ranks that `launcher` starts; `steps`: how many steps, if that is known.

    If a rank fails, raises what `start_ranks` does.
    """
    run_dir, settings = Path(cfg.run_dir), fingerprint_of(comparable(cfg))

    def progress() -> tuple[float, str]:
        assert steps
        done = steps_done(run_dir)
        return done / steps, f"step {done} of {steps}"

    with stage(f"train on {cfg.devices} ranks", progress if steps else None):
        start_ranks(launcher, "pipeline.run.training_rank", run_dir, cfg.devices, settings)
    if launcher.is_first() and not (run_dir / "manifest.json").is_file():
        raise InterruptedRunError(
            f"the ranks of {run_dir} ended without a manifest: see {where_output_is()}"
        )


def result_lines(run_dir: Path) -> list[str]:
    """Summary of a finished run, for the person who started it.

    Loss and accuracy are means over the last tenth of the steps' training pairs.
    """
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = steps[-max(1, len(steps) // 10) :]
    loss, accuracy = (fmean(step[name] for step in last) for name in ("loss", "accuracy"))
    lines = [
        f"last {len(last)} of {len(steps)} steps: loss {loss:.3f}, "
        f"{100 * accuracy:.1f}% of the training pairs ranked correctly"
    ]
    spikes = [step["step"] for step in steps if step.get("loss_spike")]
    if spikes:
        lines.append(f"loss spikes: {len(spikes)}, first at step {spikes[0]} (see metrics.jsonl)")
    return [*lines, f"checkpoint: {run_dir / 'checkpoint'}"]
