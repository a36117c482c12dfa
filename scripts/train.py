"""Train one reward model: python -m scripts.train loss=normbt model=… data=… seed=1 run_dir=DIR.

Writes DIR/checkpoint (a plain Hugging Face folder with a model card), metrics.jsonl, config.yaml,
split.json and, last of all, manifest.json. An interrupted run goes on from its last
checkpoint; a finished one is left as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rm.backbones import (
    SOURCE_FILE,
    BackboneSettings,
    folder_fingerprint,
    model_folder,
    prepare_backbone,
)
from rm.batches import (
    PairCollator,
    PairStream,
    batch_tokens,
    micro_batches,
    rows_of,
    training_order,
)
from rm.capability import can_flex, can_share
from rm.collector import settled
from rm.distances import PairDistance, Representation
from rm.errors import InputError, InterruptedRunError
from rm.files import (
    atomic_write_json,
    atomic_write_text,
    changed,
    damage,
    is_sealed,
    read_json,
    remove_unfinished,
)
from rm.flex import FLEX
from rm.likelihood import head_of
from rm.models import (
    DTYPES,
    RewardModel,
    emulation,
    new_reward_model,
    save_reward_model,
    set_head,
    train_part,
)
from rm.provenance import environment, file_fingerprint, fingerprint_of
from rm.tokens import ChatTemplate, TokenPair, tokenize_pairs
from rm.trainer import (
    MetricsFile,
    PairTrainer,
    TrainingSettings,
    check_batches,
    check_settings,
    drop_damaged_checkpoints,
    last_checkpoint,
    load_mu,
    training_arguments,
)
from rm.trunk import open_cache
from scripts import config as configuration
from scripts import tracking
from scripts.card import write_card
from scripts.data import (
    TrainingData,
    check_data,
    load_data,
    require_facts,
    source_fingerprint,
)
from scripts.jobs import recorded
from scripts.launch import Launch, start_ranks
from scripts.lock import only_one

# What does not change a run's result: left out where two configurations are compared.
NEUTRAL = (
    *("run_dir", "cache_dir", "debug", "tracking", "profile", "experiment", "launch"),
    "training.attention",
)
LOSS_PARTS = ("pair_loss", "weight", "distance", "regularizer", "text", "deal")
MODEL_FILE = "reward_model.json"
INPUTS_FILE = "inputs.json"
RECORDS = ("metrics.jsonl", "split.json")
"""Files of a run that its manifest holds the checksums of."""
BEGUN = ("metrics.jsonl", "trainer", "checkpoint", "manifest.json")
"""Files and folders of which one is there from a run's first step on."""
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
    """Run one configuration to its end and return its manifest; a finished run is not repeated.

    With launch=torchrun the machines but the first only lend their devices.
    """
    check(cfg)
    tracking.check(cfg)
    launcher, run_dir = launch_of(cfg), Path(cfg.run_dir)
    if launcher.node != 0:
        return help_along(cfg, launcher)
    with only_one(run_dir):
        finished = claim_run_dir(cfg, run_dir)
        if finished is not None:
            print(f"{run_dir}: already trained")
            complete(run_dir)
            return finished
        for line in drop_damaged_checkpoints(run_dir):
            print(line, flush=True)
        # DeepSpeed asks a launcher's environment for its ranks, even where there is one.
        if launcher.in_process(cfg.devices) and cfg.deepspeed.settings is None:
            fit(cfg)
        else:
            prepare(cfg)  # downloads, data and trunk once, before the ranks start
            launch(cfg, launcher)
    return read_json(run_dir / "manifest.json")


def launch_of(cfg: DictConfig) -> Launch:
    """Return how the ranks are started. Raises InputError if `cfg.devices` of them cannot be."""
    launcher: Launch = instantiate(cfg.launch)
    launcher.check(cfg.devices)
    return launcher


def help_along(cfg: DictConfig, launcher: Launch) -> dict[str, Any]:
    """Lend this machine's devices to the run that machine 0 writes; {} unless it is finished."""
    run_dir = Path(cfg.run_dir)
    finished = finished_manifest(cfg, run_dir)
    if finished is None:
        launch(cfg, launcher)
        return {}
    print(f"{run_dir}: already trained")
    return finished


def claim_run_dir(cfg: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """Save the configuration in `run_dir`; return the manifest if the run is finished.

    Raises InputError as `finished_manifest` does, and where others' files have a run's names.
    """
    others = [name for name in BEGUN if (run_dir / name).exists()]
    if others and not (run_dir / "config.yaml").is_file():
        raise InputError(f"{run_dir} holds {others[0]} of no run: give another run_dir")
    finished = finished_manifest(cfg, run_dir)
    if finished is None:
        atomic_write_json(run_dir / INPUTS_FILE, inputs_of(cfg))
        atomic_write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    return finished


def finished_manifest(cfg: DictConfig, run_dir: Path) -> dict[str, Any] | None:
    """Return the manifest of the run in `run_dir`, None if it is not finished.

    Raises InputError, naming the difference, if the folder holds a run of another configuration
    (number of ranks included), of other data, or of an earlier training code; and if what a
    finished run wrote is damaged.
    """
    different = stale_because(cfg, run_dir)
    if different:
        raise InputError(
            f"{run_dir} holds a run with other settings ({'; '.join(different[:3])}): "
            f"choose another run_dir or delete {run_dir}"
        )
    saved, manifest = run_dir / "config.yaml", run_dir / "manifest.json"
    if saved.is_file() and manifest.is_file():
        finished = read_json(manifest)
        require_records(run_dir, finished)
        return finished
    return None


def require_records(run_dir: Path, manifest: dict[str, Any]) -> None:
    """Raise InputError if a finished run's metrics, split or checkpoint are not as it wrote them.

    A checkpoint that was dropped to save room is no damage.
    """
    noted, checkpoint = manifest.get("records", {}), run_dir / "checkpoint"
    wrong = [f"{name} is damaged or missing" for name in changed(run_dir, noted)]
    found = damage(checkpoint) if is_sealed(checkpoint) else None
    wrong += [f"checkpoint: {found}"] if found else []
    if wrong:
        raise InputError(
            f"{run_dir}: {wrong[0]}: delete {run_dir}, and the same command makes it anew"
        )


def stale_because(cfg: DictConfig, run_dir: Path) -> list[str]:
    """In what the run in `run_dir`, begun or finished, differs from `cfg`; [] if in nothing.

    A run that ended before its first step (a misspelt file) has not begun.
    """
    saved, noted = run_dir / "config.yaml", run_dir / INPUTS_FILE
    begun = any((run_dir / name).exists() for name in BEGUN)
    if not saved.is_file() or not begun:
        return []
    different = differences(comparable(cfg), comparable(configuration.load_saved(saved)))
    inputs = read_json(noted) if noted.is_file() else {}
    return different + differences(inputs_of(cfg), inputs)


def inputs_of(cfg: DictConfig) -> dict[str, Any]:
    """What a run depends on beside its configuration."""
    inputs = {"training code": VERSION, "data fingerprint": source_fingerprint(cfg.data)}
    return inputs | backbone_of(cfg.model)


def backbone_of(model: DictConfig) -> dict[str, str]:
    """The fingerprint of a folder of the user's own, which may change under its name; else {}."""
    return {"backbone fingerprint": folder_fingerprint(model.path)} if model.path else {}


def comparable(cfg: Any) -> dict[str, Any]:
    """Return the settings that change a run's result, flat: dotted key -> value."""
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    flat = _flatten({k: v for k, v in content.items() if k not in NEUTRAL})
    return {k: v for k, v in flat.items() if k not in NEUTRAL}


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
    check_run(cfg)
    check_data(cfg.data)
    check_copy(cfg.model)
    settings = configuration.typed(TrainingSettings, cfg.training)
    check_settings(settings)
    check_batches(settings, cfg.devices)
    if settings.compute_dtype not in DTYPES:
        raise InputError(f"training.compute_dtype: choose one of {', '.join(DTYPES)}")
    if settings.reuse_trunk and settings.part != "top_layers":
        raise InputError(
            f"training.reuse_trunk=true needs training.part=top_layers, not {settings.part}"
        )
    if settings.reuse_trunk and zero_stage(cfg) == 3:
        raise InputError("training.reuse_trunk=true does not go with ZeRO-3: set it to false")
    check_attention(settings.attention, settings.share_prefix, "training")
    check_loss(cfg, settings)
    return settings


def check_run(cfg: DictConfig) -> None:
    """Raise InputError for a run's own settings that no run can have."""
    configuration.check_types(cfg)
    settings = cfg.deepspeed.settings
    if settings is not None and not isinstance(settings, DictConfig):
        raise InputError(f"deepspeed.settings={settings}: give DeepSpeed's settings, or null")
    zero_stage(cfg)
    if not isinstance(cfg.loss.name, str):
        raise InputError(f"loss.name={cfg.loss.name}: give a text")


def check_copy(model: DictConfig) -> None:
    """Raise InputError where model.path is not a copy of the model that has the file in conf/model.

    Cards and tables would call it by the wrong name, and share it under another's licence. What is
    compared is its public configuration, where there is one in conf/architecture.
    """
    noted = configuration.CONF / "architecture" / f"{model.name}.yaml"
    if not model.path or not noted.is_file():
        return
    path = model_folder(model.path) / "config.json"
    try:
        content = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:  # JSON, UTF-8, or another kind of value
        raise InputError(f"{path} is no model's configuration: fetch the model again") from error
    unlike = [
        f"{key} {content.get(key)}, not {value}"
        for key, value in yaml.safe_load(noted.read_text()).items()
        if key in content and content[key] != value
    ]
    if unlike:
        raise InputError(
            f"model.path={model.path} is no copy of {model.name} ({unlike[0]}): give model=local"
        )


def zero_stage(cfg: DictConfig) -> int:
    """The ZeRO stage of a configuration; 0 without DeepSpeed. Raises InputError for none."""
    section = (cfg.deepspeed.settings or {}).get("zero_optimization", {})
    stage = section.get("stage", 0) if isinstance(section, dict | DictConfig) else section
    if stage not in (0, 1, 2, 3):
        raise InputError(f"deepspeed.settings.zero_optimization: stage {stage}: choose 0, 1, 2, 3")
    return int(stage)


def check_loss(cfg: DictConfig, settings: TrainingSettings) -> None:
    """Raise InputError for a loss with impossible numbers, or that the settings don't serve."""
    try:
        made = {part: instantiate(cfg.loss.get(part)) for part in LOSS_PARTS}
        tries = torch.tensor([0.5, -0.5])
        made["pair_loss"](tries, tries)
        if made["regularizer"] is not None:
            made["regularizer"](tries, tries)
        if made["deal"] is not None:
            made["deal"](tries[:0], [])
    except HydraException as error:
        raise InputError(configuration.explain(error, "train")) from error
    except TypeError as error:  # an argument that a function does not have
        raise InputError(f"loss={cfg.loss.name}: {error}") from error
    if needs_every_token(cfg.loss) and settings.share_prefix:
        raise InputError(f"loss={cfg.loss.name} needs every token: training.share_prefix=false")
    if cfg.loss.get("text") and zero_stage(cfg) == 3:
        raise InputError(f"loss={cfg.loss.name} needs the whole embedding: deepspeed=zero2 or less")
    whole = settings.micro_batch == settings.global_batch and settings.micro_batch_tokens is None
    if cfg.loss.get("whole_batch") and not (whole and cfg.devices == 1):
        raise InputError(
            f"loss={cfg.loss.name} needs the global batch in one piece: training.micro_batch="
            f"{settings.global_batch} training.micro_batch_tokens=null devices=1"
        )


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
    require_facts(data.train, cfg.loss)
    dtype = DTYPES[settings.compute_dtype]
    slow = emulation(dtype, "training.compute_dtype")
    if slow:
        print(slow, flush=True)
    model, tokenizer = new_reward_model(backbone, dtype, cfg.seed)
    check_length(model, settings.max_length, "training.max_length")  # before pairs are tokenised
    set_head(model, cfg.loss.get("head", "linear"), cfg.seed)
    template = ChatTemplate(tokenizer, parse_special_text=settings.parse_special_text)
    if cfg.loss.get("text"):
        head_of(model.classifier)  # refuses a backbone that has none
    pairs, report = tokenize_pairs(
        data.train,
        template,
        settings.max_length,
        drop=True,
        mark_response=bool(cfg.loss.get("text")),
    )
    if "RANK" not in os.environ:  # a rank's output would repeat what the run's process said
        for line in (*data.lines, *report.lines()):
            print(line, flush=True)
    choose_part(model, cfg, settings)
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
    # After the trunk, which is computed where the model is now: on the CPU.
    choose_attention(model, settings.attention, "training")
    facts = {"backbone": _source(backbone), "tokens": report.as_dict(), "data": data.report}
    measure = distance_of(cfg.loss)
    collator = PairCollator(
        int(tokenizer.pad_token_id),
        trunk,
        share=settings.share_prefix,
        distance=measure.of_pair if measure.by_tokens else None,
        likelihood=bool(cfg.loss.get("text")),
    )
    return Prepared(settings, model, tokenizer, data, pairs, collator, facts)


def choose_part(model: RewardModel, cfg: DictConfig, settings: TrainingSettings) -> None:
    """Apply what the configuration says of the trained part and of gradient checkpointing."""
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
        model.classifier.gradient_checkpointing_enable({"use_reentrant": False})


def distance_of(loss: DictConfig) -> PairDistance:
    """What the loss's weight goes by: its `distance`, the paper's where it names none."""
    return instantiate(loss.get("distance")) or Representation()


def check_length(model: RewardModel, max_length: int, key: str) -> None:
    """Raise InputError, naming the configuration's `key`, if the backbone has fewer positions."""
    positions = getattr(model.classifier.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise InputError(f"{key}={max_length}: the backbone has {positions} positions: give fewer")


def needs_every_token(loss: DictConfig) -> bool:
    """Whether the loss reads more than last tokens, so that no prefix may be computed once."""
    return distance_of(loss).by_mean or bool(loss.get("text"))


def require_sharing(model: RewardModel, key: str) -> None:
    """Raise InputError, naming the configuration's `key`, if the backbone cannot share prefixes."""
    reason = can_share(model)
    if reason is not None:
        raise InputError(f"{key}=true: {reason}; or set it to false")


def check_attention(kernel: str | None, share_prefix: bool | None, part: str) -> None:
    """Raise InputError for an attention kernel that is none, or without rows that share."""
    if kernel not in (None, FLEX):
        raise InputError(f"{part}.attention={kernel}: leave it null, or choose {FLEX}")
    if kernel == FLEX and share_prefix is False:
        raise InputError(f"{part}.attention={FLEX} needs {part}.share_prefix=true")


def choose_attention(model: RewardModel, kernel: str | None, part: str) -> None:
    """Let shared rows attend by `kernel`. Raises InputError where that is not possible."""
    reason = can_flex(model) if kernel == FLEX else None
    if reason is not None:
        raise InputError(f"{part}.attention={FLEX}: {reason}; or leave it null")
    model.flex_attention = kernel == FLEX


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
    batches = batches_of(ready.settings, ready.pairs, order, cfg.devices)
    with tracking.run(cfg, run_dir) as report_to:
        trainer = build_trainer(cfg, ready, batches, steps, report_to)
        checkpoint = last_checkpoint(run_dir)
        if checkpoint is not None:
            trainer.mu = load_mu(checkpoint)
        with settled():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        # Training is over: without this, ZeRO-3 would divide the model that is built to be saved.
        unset_hf_deepspeed_config()
        if trainer.is_world_process_zero():
            write_run(cfg, ready, trainer, state, batches, started)
            tracking.log_artifacts(cfg, run_dir)


def batches_of(
    settings: TrainingSettings, pairs: Sequence[TokenPair], order: Sequence[int], devices: int
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

    `state` holds the model's parameters, `batches` the pairs trained on, `started` the time of
    the run's beginning in seconds.
    """
    run_dir, settings = Path(cfg.run_dir), ready.settings
    weight_state = {"mu": trainer.mu, "loss": cfg.loss.name, **scoring_settings(settings)}
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
    write_manifest(cfg, run_dir, ready.data, facts, time.time() - started)
    complete(run_dir)


def scoring_settings(settings: TrainingSettings) -> dict[str, Any]:
    """What a checkpoint notes of its training for those who score with it."""
    return {
        "top_layers": settings.top_layers if settings.reuse_trunk else 0,
        "max_length": settings.max_length,
        "parse_special_text": settings.parse_special_text,
        "compute_dtype": settings.compute_dtype,
        "share_prefix": settings.share_prefix,
    }


def complete(run_dir: Path) -> None:
    """Give a run's checkpoint its card, and delete what is only of use to resume.

    Comes after the manifest, so a kill can come between: a finished run is completed again.
    """
    checkpoint = run_dir / "checkpoint"
    remove_unfinished(checkpoint)  # half a card
    if checkpoint.is_dir() and not (checkpoint / "README.md").is_file():
        write_card(run_dir)
    shutil.rmtree(run_dir / "trainer", ignore_errors=True)


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
        pair_loss=instantiate(cfg.loss.pair_loss),
        pair_weight=instantiate(cfg.loss.weight),
        pair_distance=distance_of(cfg.loss),
        regularizer=instantiate(cfg.loss.get("regularizer")),
        text=instantiate(cfg.loss.get("text")),
        deal=instantiate(cfg.loss.get("deal")),
    )
    trainer.add_callback(MetricsFile(run_dir / "metrics.jsonl"))
    for callback in tracking.callbacks(cfg, trainer):
        trainer.add_callback(callback)
    return trainer


def write_split(run_dir: Path, ready: Prepared) -> None:
    """Write split.json: ids of the pairs trained on and of those held out (pitfall 13)."""
    held_out = [pair.pair_id for pair in ready.data.validation]
    trained = [pair.pair_id for pair in ready.pairs]
    atomic_write_json(run_dir / "split.json", {"train": trained, "validation": held_out})


def _left_out(ready: Prepared, batches: list[list[int]]) -> int:
    """Pairs of the last, incomplete global batch."""
    return int(ready.settings.epochs * len(ready.pairs)) - sum(map(len, batches))


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
            "records": {name: file_fingerprint(run_dir / name) for name in RECORDS},
            **facts,
            "environment": environment(),
        },
    )


def launch(cfg: DictConfig, launcher: Launch) -> None:
    """Train on the ranks that `launcher` starts. Raises what `start_ranks` does if one fails."""
    run_dir, settings = Path(cfg.run_dir), fingerprint_of(comparable(cfg))
    start_ranks(launcher, "scripts.rank", run_dir, cfg.devices, settings)
    if launcher.node == 0 and not (run_dir / "manifest.json").is_file():
        raise InterruptedRunError(f"the ranks of {run_dir} ended without a manifest: see above")


@configuration.main("train")
def main(cfg: DictConfig) -> None:
    """Train one run."""
    with recorded("scripts.train", Path(cfg.run_dir).parent):
        made = train(cfg)
    if made:
        print(f"checkpoint: {Path(cfg.run_dir) / 'checkpoint'}")


if __name__ == "__main__":
    main()
