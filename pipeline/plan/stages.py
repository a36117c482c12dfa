"""The work of a reproduction, stage by stage: sequences, tokens, operations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from omegaconf import DictConfig

from eval.best_of_n.settings import BonSettings
from pipeline.experiments.best_of_n import outline, policy_model, proxy_words
from pipeline.experiments.matrix import kept_words
from pipeline.plan.architecture import (
    architecture_of,
    architecture_of_checkpoint,
    meta_model,
    scoring_model,
)
from pipeline.plan.material import Lengths, Material
from pipeline.run.scorers import DEFAULT_MAX_LENGTH
from pipeline.settings.checks import check
from rm.errors import InputError
from rm.model.precision import DTYPES
from rm.training.cost import Decoder, Load, decoder_of, forward_flops, training_flops
from rm.training.settings import TrainingSettings

TERA = 1e12


@dataclass(frozen=True)
class Stage:
    """One kind of work. tokens and flops: of all its runs; work: training, scoring or sampling."""

    name: str
    runs: int
    sequences: int
    tokens: float
    flops: float
    work: str
    devices: int


@dataclass(frozen=True)
class Speed:
    """TFLOP/s of a device in matrix products, their origin, and the part that work reaches."""

    tflops: float
    origin: str
    utilisation: dict[str, float]

    def hours(self, stage: Stage) -> float:
        """Device-hours of a stage."""
        return stage.flops / (self.tflops * TERA * self.utilisation[stage.work]) / 3600


def trained_pairs(settings: TrainingSettings, pairs: int) -> int:
    """Pairs of a run's steps, all epochs: whole global batches."""
    return int(settings.epochs * pairs) // settings.global_batch * settings.global_batch


def train_stage(
    name: str, runs: int, one: DictConfig, decoder: Decoder, pairs: int, lengths: Lengths
) -> Stage:
    """Training `runs` runs of one configuration on `pairs` pairs."""
    settings = check(one)
    seen = trained_pairs(settings, pairs)
    load = lengths.training * seen
    flops = training_flops(
        decoder,
        load,
        settings.part,
        top_layers=settings.top_layers,
        trunk=settings.reuse_trunk,
        checkpointing=settings.gradient_checkpointing,
    )
    devices = one.devices
    return Stage(name, runs, runs * 2 * seen, runs * load.tokens, runs * flops, "training", devices)


def score_stage(
    name: str, runs: int, decoder: Decoder, load: Load, sequences: int, layers: int | None = None
) -> Stage:
    """Scoring `sequences` rows with each of `runs` models, on one device."""
    flops = runs * forward_flops(decoder, load, layers)
    return Stage(name, runs, runs * sequences, runs * load.tokens, flops, "scoring", 1)


def layers_above_trunk(cfg: DictConfig, settings: TrainingSettings) -> int | None:
    """Layers that scoring runs through: those above a shared trunk, or None for all."""
    return settings.top_layers if settings.reuse_trunk and cfg.eval.reuse_trunk else None


def matrix_stages(material: Material) -> list[Stage]:
    """Trunk, learning rates, training and scoring of the matrix."""
    cfg, settings, decoder = material.cfg, material.settings, material.decoder
    above = layers_above_trunk(cfg, settings)
    runs, pairs, test = len(material.runs), material.pairs, material.test
    stages = []
    if settings.reuse_trunk:
        load = material.lengths.scoring * pairs.train + test.scoring * material.test_pairs
        rows = 2 * (pairs.train + material.test_pairs)
        below = decoder.layers - settings.top_layers
        stages.append(score_stage("frozen trunk", 1, decoder, load, rows, below))
    first, load = material.runs[0], test.scoring * material.test_pairs
    if cfg.grid:
        tried = len(cfg.methods) * len(cfg.grid)
        name = "learning rates: "
        stages.append(
            train_stage(f"{name}training", tried, first, decoder, pairs.train, material.lengths)
        )
        held_out = material.lengths.scoring * pairs.validation
        stages.append(
            score_stage(f"{name}scoring", tried, decoder, held_out, 2 * pairs.validation, above)
        )
    stages.append(train_stage("training", runs, first, decoder, pairs.train, material.lengths))
    stages.append(
        score_stage(
            "scoring, untrained too", runs + 1, decoder, load, 2 * material.test_pairs, above
        )
    )
    return stages


def bon_stages(material: Material, bon: BonSettings) -> list[Stage]:
    """Sampling, gold scores, relabelling, proxies and their scores."""
    stages = [sampling_stage(material, bon)]
    if "reward_model" in bon.golds:
        stages += gold_stages(material, bon)
    first = proxy_config(material, bon)
    settings, decoder = check(first), decoder_of(meta_model(material.architecture, first))
    runs = len(bon.golds) * len(bon.proxy.methods) * len(bon.proxy.seeds)
    relabelled = proxy_pairs(material, bon)
    stages.append(
        train_stage("Best-of-N: proxies", runs, first, decoder, relabelled, material.lengths)
    )
    above = layers_above_trunk(material.cfg, settings)
    load, rows = samples_load(material, bon, settings.max_length), samples(bon)
    stages.append(score_stage("Best-of-N: proxies score", runs, decoder, load, rows, above))
    return stages


def proxy_pairs(material: Material, bon: BonSettings) -> int:
    """Pairs that the proxies train on: as many as are asked for, or as a source has."""
    if material.cfg.data.kind == "generated":
        return bon.proxy.pairs
    return min(bon.proxy.pairs, material.pairs.train)


def samples(bon: BonSettings) -> int:
    """Number of sampled responses."""
    return bon.prompts.number * bon.policy.samples


def proxy_config(material: Material, bon: BonSettings) -> DictConfig:
    """The configuration of a proxy, as scripts.best_of_n composes it, without its file of pairs."""
    return bon_config(material.words, [*bon.proxy.overrides, f"loss={bon.proxy.methods[0]}"])


def bon_config(words: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose one training run of Best-of-N: the command line's words, then its own."""
    return outline(proxy_words(kept_words(words)), own)


def sampling_stage(material: Material, bon: BonSettings) -> Stage:
    """Every prompt read once, then N responses of the full length (an upper bound)."""
    model = policy_model(material.cfg, bon)
    architecture = architecture_of(model, Path(material.cfg.cache_dir), material.scratch)
    decoder = decoder_of(scoring_model(architecture, bon.policy.dtype))
    prompt, new, number = material.lengths.prompt, bon.policy.max_new_tokens, samples(bon)
    load = Load(prompt, prompt**2) * bon.prompts.number
    load += Load(new, prompt * new + new**2 / 2) * number
    logits = 2 * decoder.hidden * architecture.config.vocab_size * new * number
    flops = forward_flops(decoder, load) + logits
    return Stage("Best-of-N: sampling", 1, number, load.tokens, flops, "sampling", 1)


def samples_load(material: Material, bon: BonSettings, max_length: int) -> Load:
    """Scoring all samples once: prompts once each where their length was counted."""
    prompt, number = material.lengths.prompt, bon.prompts.number
    row = min(prompt + bon.policy.max_new_tokens, max_length)
    fresh = row - prompt if material.lengths.counted else row
    shared = prompt if material.lengths.counted else 0
    every = Load(max(fresh, 0), row**2) * samples(bon)
    return every + Load(shared, 0) * number


def gold_stages(material: Material, bon: BonSettings) -> list[Stage]:
    """Training a gold where none is given; its scores of the samples and of the proxies' pairs."""
    stages: list[Stage] = []
    if bon.gold.checkpoint is None:
        one = bon_config(material.words, bon.gold.overrides)
        decoder = decoder_of(meta_model(material.architecture, one))
        length = check(one).max_length
        stages.append(
            train_stage("Best-of-N: gold", 1, one, decoder, bon.gold.pairs, material.lengths)
        )
    else:
        found = architecture_of_checkpoint(bon.gold.checkpoint)
        decoder = decoder_of(scoring_model(found, "bfloat16"))
        positions = getattr(found.config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
        length = material.cfg.eval.max_length or min(DEFAULT_MAX_LENGTH, positions)
    relabelled = proxy_pairs(material, bon)
    load = samples_load(material, bon, length) + material.lengths.scoring * relabelled
    rows = samples(bon) + 2 * relabelled
    return [*stages, score_stage("Best-of-N: gold scores", 1, decoder, load, rows)]


def speed_of(cfg: DictConfig) -> Speed:
    """The throughput that is given, or measured here. Raises InputError for anything else."""
    given = cfg.throughput
    origin = "given"
    if given is None:
        given = cfg.plan.throughput.get(cfg.profile.name, "measured")
        origin = f"assumed for profile {cfg.profile.name} in conf/plan.yaml: give throughput=…"
    utilisation = {str(name): float(part) for name, part in cfg.plan.utilisation.items()}
    if given == "measured":
        dtype = DTYPES[check(cfg).compute_dtype]
        return Speed(measured_tflops(dtype), f"measured here, {dtype} products", utilisation)
    try:
        tflops = float(given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"throughput={given}: give a number of TFLOP/s a device, or measured"
        ) from error
    if not tflops > 0:
        raise InputError(f"throughput={given}: must be above zero")
    return Speed(tflops, origin, utilisation)


def measured_tflops(dtype: torch.dtype, seconds: float = 1.0) -> float:
    """TFLOP/s of square matrix products on this machine's GPU, or its CPU: a second's median."""
    gpu = torch.cuda.is_available()
    size = 8192 if gpu else 1024
    one = torch.randn(size, size, dtype=dtype, device="cuda" if gpu else "cpu")
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        one @ one
        if gpu:
            torch.cuda.synchronize()
        rates.append(2 * size**3 / (time.perf_counter() - start) / TERA)
    return median(rates[1:])
