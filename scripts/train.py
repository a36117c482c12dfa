"""Train one reward model: python -m scripts.train loss=normbt model=… data=… seed=1 run_dir=DIR.

Writes DIR/checkpoint (a plain Hugging Face folder with a model card), metrics.jsonl, config.yaml,
split.json and, last of all, manifest.json. An interrupted run goes on from its last
checkpoint; a finished one is left as it is.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rm.backbones import SOURCE_FILE, BackboneSettings, prepare_backbone
from rm.batches import PairCollator, PairStream, batch_tokens, rows_of, training_order
from rm.capability import can_share
from rm.distances import PairDistance, Representation
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text
from rm.models import (
    DTYPES,
    RewardModel,
    new_reward_model,
    save_reward_model,
    set_head,
    train_part,
)
from rm.provenance import environment, fingerprint_of
from rm.tokens import ChatTemplate, TokenPair, tokenize_pairs
from rm.trainer import (
    MetricsFile,
    PairTrainer,
    TrainingSettings,
    accumulation_steps,
    last_checkpoint,
    load_mu,
    training_arguments,
)
from rm.trunk import open_cache
from scripts import config as configuration
from scripts import tracking
from scripts.card import write_card
from scripts.data import TrainingData, load_data, require_margins, source_fingerprint
from scripts.launch import start_ranks
from scripts.lock import only_one

# What does not change a run's result: left out where two configurations are compared.
NEUTRAL = ("run_dir", "cache_dir", "debug", "tracking", "profile", "experiment")
MODEL_FILE = "reward_model.json"
INPUTS_FILE = "inputs.json"
VERSION = 1
"""Raised when the same configuration and data would train another model: older runs go stale."""


@dataclass
class Prepared:
    """Everything that a run needs before its first step."""

    settings: TrainingSettings
    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    data: TrainingData
    pairs: list[TokenPair]
    collator: PairCollator
    facts: dict[str, Any]


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run one configuration to its end and return its manifest; a finished run is not repeated."""
    check(cfg)
    run_dir = Path(cfg.run_dir)
    with only_one(run_dir):
        finished = claim_run_dir(cfg, run_dir)
        if finished is not None:
            print(f"{run_dir}: already trained")
            return finished
        if cfg.devices > 1:
            prepare(cfg)  # downloads, data and trunk once, before the ranks start
            launch(run_dir, cfg.devices)
        else:
            fit(cfg)
    return json.loads((run_dir / "manifest.json").read_text())


def claim_run_dir(cfg: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """Save the configuration in `run_dir`; return the manifest if the run is finished.

    Raises InputError, naming the difference, if the folder holds a run of another configuration,
    of other data, or of an earlier training code.
    """
    different = stale_because(cfg, run_dir)
    if different:
        raise InputError(
            f"{run_dir} holds a run with other settings ({'; '.join(different[:3])}): "
            "choose another run_dir or delete it"
        )
    saved, manifest = run_dir / "config.yaml", run_dir / "manifest.json"
    if saved.is_file() and manifest.is_file():
        return json.loads(manifest.read_text())
    atomic_write_json(run_dir / INPUTS_FILE, inputs_of(cfg))
    atomic_write_text(saved, OmegaConf.to_yaml(cfg, resolve=True))
    return None


def stale_because(cfg: DictConfig, run_dir: Path) -> list[str]:
    """In what the run in `run_dir`, begun or finished, differs from `cfg`; [] if in nothing."""
    saved, noted = run_dir / "config.yaml", run_dir / INPUTS_FILE
    if not saved.is_file():
        return []
    different = differences(comparable(cfg), comparable(configuration.load_saved(saved)))
    inputs = json.loads(noted.read_text()) if noted.is_file() else {}
    return different + differences(inputs_of(cfg), inputs)


def inputs_of(cfg: DictConfig) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    return {"training code": VERSION, "data fingerprint": source_fingerprint(cfg.data)}


def comparable(cfg: Any) -> dict[str, Any]:
    """Return the settings that change a run's result, flat: dotted key -> value."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return _flatten({k: v for k, v in content.items() if k not in NEUTRAL})


def _flatten(content: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the keys in which two flat configurations differ, with both values."""
    keys = sorted(set(one) | set(other))
    return [f"{k}: {one.get(k)} ≠ {other.get(k)}" for k in keys if one.get(k) != other.get(k)]


def check(cfg: DictConfig) -> TrainingSettings:
    """Raise InputError for settings that can't work together; return the typed training section."""
    settings = configuration.typed(TrainingSettings, cfg.training)
    accumulation_steps(settings.global_batch, settings.micro_batch, cfg.devices)
    if settings.compute_dtype not in DTYPES:
        raise InputError(f"training.compute_dtype: choose one of {', '.join(DTYPES)}")
    if settings.reuse_trunk and settings.part != "top_layers":
        raise InputError(
            f"training.reuse_trunk=true needs training.part=top_layers, not {settings.part}"
        )
    if settings.reuse_trunk and "zero3" in cfg.deepspeed.name:
        raise InputError("training.reuse_trunk=true does not go with ZeRO-3: set it to false")
    if distance_of(cfg.loss).by_mean and settings.share_prefix:
        raise InputError(f"loss={cfg.loss.name} needs every token: training.share_prefix=false")
    whole = settings.micro_batch == settings.global_batch and cfg.devices == 1
    if cfg.loss.get("whole_batch") and not whole:
        raise InputError(
            f"loss={cfg.loss.name} needs the global batch in one piece: "
            f"training.micro_batch={settings.global_batch} devices=1"
        )
    for name in ("epochs", "learning_rate", "max_length", "global_batch", "micro_batch"):
        if getattr(settings, name) <= 0:
            raise InputError(f"training.{name}={getattr(settings, name)}: must be above zero")
    return settings


def prepare(cfg: DictConfig) -> Prepared:
    """Fetch the backbone, load and tokenise the data, build the model, fill the trunk cache."""
    settings = check(cfg)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    cache = Path(cfg.cache_dir)
    backbone = prepare_backbone(
        configuration.typed(BackboneSettings, cfg.model), cache / "backbones"
    )
    data = load_data(cfg.data)
    require_margins(data.train, cfg.loss)
    dtype = DTYPES[settings.compute_dtype]
    model, tokenizer = new_reward_model(backbone, dtype, cfg.seed)
    set_head(model, cfg.loss.get("head", "linear"), cfg.seed)
    pairs, report = tokenize_pairs(
        data.train, ChatTemplate(tokenizer), settings.max_length, drop=True
    )
    train_part(
        model,
        settings.part,  # type: ignore[arg-type]
        top_layers=settings.top_layers,
        lora=settings.lora,
        frozen_dtype=dtype if cfg.deepspeed.settings is None else None,
    )
    if settings.gradient_checkpointing:
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.share_prefix:
        require_sharing(model, "training.share_prefix")
    trunk = None
    if settings.reuse_trunk:
        trunk = open_cache(
            model,
            settings.top_layers,
            rows_of(pairs),
            cache / "trunk",
            share=settings.share_prefix,
        )
    facts = {"backbone": _source(backbone), "tokens": report.as_dict(), "data": data.report}
    measure = distance_of(cfg.loss)
    collator = PairCollator(
        int(tokenizer.pad_token_id),
        trunk,
        share=settings.share_prefix,
        distance=measure.of_pair if measure.by_tokens else None,
    )
    return Prepared(settings, model, tokenizer, data, pairs, collator, facts)


def distance_of(loss: DictConfig) -> PairDistance:
    """What the loss's weight goes by: its `distance`, the paper's where it names none."""
    return instantiate(loss.get("distance")) or Representation()


def require_sharing(model: RewardModel, key: str) -> None:
    """Raise InputError, naming the configuration's `key`, if the backbone cannot share prefixes."""
    reason = can_share(model)
    if reason is not None:
        raise InputError(f"{key}=true: {reason}; or set it to false")


def _source(backbone: Path) -> str:
    noted = backbone / SOURCE_FILE
    return json.loads(noted.read_text())["source"] if noted.is_file() else backbone.name


def fit(cfg: DictConfig) -> None:
    """Train on this process (one rank of several, or the only one) and write the run's files."""
    run_dir, started = Path(cfg.run_dir), time.time()
    ready = prepare(cfg)
    order = training_order(
        ready.pairs,
        epochs=ready.settings.epochs,
        global_batch=ready.settings.global_batch,
        seed=cfg.seed,
    )
    steps = len(order) // ready.settings.global_batch
    with tracking.run(cfg, run_dir) as report_to:
        trainer = build_trainer(cfg, ready, order, steps, report_to)
        checkpoint = last_checkpoint(run_dir)
        if checkpoint is not None:
            trainer.mu = load_mu(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # Training is over: without this, ZeRO-3 would divide the model that is built to be saved.
    unset_hf_deepspeed_config()
    if trainer.is_world_process_zero():
        weight_state = {
            "mu": trainer.mu,
            "loss": cfg.loss.name,
            "top_layers": ready.settings.top_layers if ready.settings.reuse_trunk else 0,
            "max_length": ready.settings.max_length,
            "compute_dtype": ready.settings.compute_dtype,
            "share_prefix": ready.settings.share_prefix,
        }
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
            "steps": steps,
            "pairs_left_out": _left_out(ready, order),
            "batches": batch_tokens(
                ready.pairs, order, ready.settings.micro_batch, ready.settings.share_prefix
            ),
        }
        write_manifest(cfg, run_dir, ready.data, facts, time.time() - started)
        write_card(run_dir)
        shutil.rmtree(run_dir / "trainer", ignore_errors=True)  # only of use to resume


def build_trainer(
    cfg: DictConfig, ready: Prepared, order: list[int], steps: int, report_to: list[str]
) -> PairTrainer:
    """Assemble the trainer that a configuration names."""
    run_dir = Path(cfg.run_dir)
    deepspeed = OmegaConf.to_container(cfg.deepspeed.settings) if cfg.deepspeed.settings else None
    arguments = training_arguments(
        ready.settings,
        run_dir=run_dir,
        devices=cfg.devices,
        steps=steps,
        seed=cfg.seed,
        report_to=report_to,
        run_name=run_dir.name,
        deepspeed=deepspeed,  # type: ignore[arg-type]
    )
    trainer = PairTrainer(
        ready.model,
        arguments,
        stream=PairStream(ready.pairs, order),
        collator=ready.collator,
        pair_loss=instantiate(cfg.loss.pair_loss),
        pair_weight=instantiate(cfg.loss.weight),
        pair_distance=distance_of(cfg.loss),
        regularizer=instantiate(cfg.loss.get("regularizer")),
    )
    trainer.add_callback(MetricsFile(run_dir / "metrics.jsonl"))
    return trainer


def write_split(run_dir: Path, ready: Prepared) -> None:
    """Write split.json: ids of the pairs trained on and of those held out (pitfall 13)."""
    held_out = [pair.pair_id for pair in ready.data.validation]
    trained = [pair.pair_id for pair in ready.pairs]
    atomic_write_json(run_dir / "split.json", {"train": trained, "validation": held_out})


def _left_out(ready: Prepared, order: list[int]) -> int:
    """Pairs of the last, incomplete global batch."""
    return int(ready.settings.epochs * len(ready.pairs)) - len(order)


def write_manifest(
    cfg: DictConfig, run_dir: Path, data: TrainingData, facts: dict[str, Any], seconds: float
) -> None:
    """Write the run's manifest; it exists only if everything else of the run does."""
    atomic_write_json(
        run_dir / "manifest.json",
        {
            "config": OmegaConf.to_container(cfg, resolve=True),
            "config_fingerprint": fingerprint_of(comparable(cfg)),
            "data_fingerprint": data.fingerprint,
            "seed": cfg.seed,
            "seconds": round(seconds, 1),
            **facts,
            "environment": environment(),
        },
    )


def launch(run_dir: Path, devices: int) -> None:
    """Train on one rank a device, started by DeepSpeed's launcher. RuntimeError if a rank fails."""
    launcher = ["deepspeed.launcher.runner", "--num_gpus", str(devices), "--no_local_rank"]
    status = start_ranks([*launcher, "--module"], "scripts.rank", run_dir, devices)
    if status or not (run_dir / "manifest.json").is_file():
        raise RuntimeError(f"a rank of {run_dir} failed with status {status}: see above")


@configuration.main("train")
def main(cfg: DictConfig) -> None:
    """Train one run."""
    train(cfg)
    print(f"checkpoint: {Path(cfg.run_dir) / 'checkpoint'}")


if __name__ == "__main__":
    main()
