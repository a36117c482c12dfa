"""Memory of one device, disk, and downloads that a reproduction takes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from eval.best_of_n.settings import BonSettings
from pipeline.experiments.best_of_n_proxies import policy_model
from pipeline.plan.architecture import (
    architecture_of,
    architecture_of_checkpoint,
    meta_model,
    scoring_model,
)
from pipeline.plan.material import Material
from pipeline.plan.stages import samples
from pipeline.settings import configuration
from pipeline.settings.checks import zero_stage
from rm.errors import InputError
from rm.model.precision import DTYPES
from rm.training.cost import Buckets, Decoder, States, decoder_of, model_states
from rm.training.footprint import step_bytes

GIGA = 1e9


@dataclass(frozen=True)
class Item:
    """Something that takes disk space; `bytes` is None if the size is unknown."""

    name: str
    bytes: float | None
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device under one file of conf/deepspeed."""

    name: str
    chosen: bool
    states: States
    activations: int
    peak: int


def shown(size: float | None) -> str:
    """A size in words, powers of ten."""
    if size is None:
        return "?"
    for unit, worth in (("TB", 1e12), ("GB", GIGA), ("MB", 1e6)):
        if size >= worth:
            return f"{size / worth:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def memory_of(material: Material) -> list[Memory]:
    """Memory of the largest micro-batch under every file of conf/deepspeed that fits the run."""
    largest = max(material.runs, key=lambda one: most_pairs(one.training))
    rows, activations = [], {}
    for path in sorted((configuration.CONF / "deepspeed").glob("*.yaml")):
        one = largest.copy()
        one.deepspeed = yaml.safe_load(path.read_text())
        if one.training.reuse_trunk and zero_stage(one) == 3:
            continue  # scripts.train refuses it
        model = meta_model(material.architecture, one)
        decoder = decoder_of(model)
        if decoder.stored not in activations:
            rows_at_once, length = 2 * most_pairs(one.training), one.training.max_length
            activations[decoder.stored] = step_bytes(model, rows_at_once, length)
        rows.append(memory_row(one, decoder, activations[decoder.stored], material.cfg))
    return rows


def most_pairs(training: DictConfig) -> int:
    """How many pairs of the full length one micro-batch may have."""
    fit = (training.micro_batch_tokens or math.inf) // (2 * training.max_length)
    return max(1, min(training.micro_batch, fit))


def memory_row(one: DictConfig, decoder: Decoder, activations: int, cfg: DictConfig) -> Memory:
    """Memory under one file of conf/deepspeed."""
    zero = (one.deepspeed.settings or {}).get("zero_optimization", {})
    stage, offload = zero_stage(one), "offload_optimizer" in zero
    buckets = _buckets(zero)
    states = model_states(decoder, stage, cfg.devices, offload=offload, buckets=buckets)
    name, chosen = one.deepspeed.name, one.deepspeed.name == cfg.deepspeed.name
    return Memory(name, chosen, states, activations, states.peak(activations))


def _buckets(zero: Any) -> Buckets:
    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # takes seconds
    except ImportError as error:
        raise InputError(f"DeepSpeed cannot be imported ({error}): `make setup`") from error
    made = DeepSpeedZeroConfig(**OmegaConf.to_container(OmegaConf.create(zero)))  # type: ignore[arg-type]
    return Buckets(made.reduce_bucket_size, made.max_live_parameters)


def device_bytes(cfg: DictConfig) -> float:
    """Memory of the smallest GPU here; without one, what conf/plan.yaml assumes, or this machine's.

    The last for profiles that run on CPUs; several ranks share it.
    """
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return float(min(torch.cuda.get_device_properties(n).total_memory for n in range(count)))
    if cfg.profile.name in cfg.plan.gpu_for:
        return cfg.plan.gpu_gb * GIGA
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / cfg.devices


def model_bytes(decoder: Decoder, dtype: str) -> int:
    """A saved model: everything in the compute dtype, adapters merged."""
    return (decoder.parameters - decoder.layers * decoder.adapters) * DTYPES[dtype].itemsize


def resume_bytes(one: DictConfig, decoder: Decoder) -> int:
    """Checkpoints to resume from, while a run trains: two are kept while a third is written.

    Each: trained parameters and their two moments in float32; under DeepSpeed all parameters and
    the moments' parameter copy besides.
    """
    if not one.training.save_steps:
        return 0
    trained = 4 * decoder.trained
    return 3 * (3 * trained + (decoder.stored + trained if one.deepspeed.settings else 0))


def disk_of(material: Material, bon: BonSettings | None) -> list[Item]:
    """What a reproduction writes, by kind."""
    cfg, settings, decoder = material.cfg, material.settings, material.decoder
    one, runs = model_bytes(decoder, settings.compute_dtype), len(material.runs)
    kept = runs + 1
    note = (
        "kept; keep_checkpoints=false drops them at the end"
        if cfg.keep_checkpoints
        else "until measured"
    )
    items = [
        Item(f"{kept} checkpoints of {shown(one)}", kept * one, note),
        Item("to resume from", resume_bytes(material.runs[0], decoder), "while a run trains"),
    ]
    tokens = 4 * material.lengths.rows * material.pairs.train
    items.append(Item("token tables", tokens, "in cache_dir, one for each data set"))
    if settings.reuse_trunk:
        tokens = material.lengths.rows * material.pairs.train
        tokens += material.test.rows * material.test_pairs
        width = decoder.hidden * DTYPES[settings.compute_dtype].itemsize
        items.append(Item("frozen trunk", tokens * width, "in cache_dir"))
        if bon is not None and bon.synthetic:
            pairs = bon.prompts.number * bon.policy.variants
            states = material.test.rows * pairs * width
            items.append(Item("Best-of-N: frozen trunk", states, "in cache_dir, upper bound"))
    if bon is not None and not bon.synthetic:
        text = samples(bon) * bon.policy.max_new_tokens * cfg.plan.bytes_per_token
        items.append(Item(f"Best-of-N: {samples(bon):,} samples", text, "upper bound"))
        proxies = len(bon.golds) * len(bon.proxy.methods) * len(bon.proxy.seeds)
        held = proxies if bon.proxy.keep else 1
        items.append(Item(f"Best-of-N: {held} of {proxies} proxies' checkpoints", held * one, ""))
    return items


def downloads_of(material: Material, bon: BonSettings | None) -> list[Item]:
    """What has to be fetched because it is not on this machine."""
    cfg, items = material.cfg, []
    found = [(material.architecture, cfg.model.hub)]
    if bon is not None and not bon.synthetic:
        model = policy_model(cfg, bon)
        policy = architecture_of(model, Path(cfg.cache_dir), material.scratch)
        found.append((policy, model.hub))
        if bon.gold.checkpoint is not None:
            gold = architecture_of_checkpoint(bon.gold.checkpoint)
            found.append((gold, bon.gold.checkpoint))
    missing = {hub: architecture for architecture, hub in found if architecture.folder is None}
    for hub, architecture in missing.items():
        size = model_bytes(decoder_of(scoring_model(architecture, "bfloat16")), "bfloat16")
        items.append(Item(f"model {hub}", size, "its parameters in bfloat16"))
    if cfg.data.kind == "hub" and not Path(cfg.data.hub).exists():
        size = cfg.plan.data_bytes.get(cfg.data.hub)
        note = "its card" if size else "size not known here: see its page on the Hub"
        items.append(Item(f"data {cfg.data.hub}", size, note))
    if cfg.benchmark != "generated" and cfg.benchmark_data is None:
        items.append(Item(f"benchmark {cfg.benchmark}", None, "size not known here; small"))
    return items


def name_accelerator() -> None:
    """Tell DeepSpeed that there is no GPU where there is none, or it warns that it looked."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
