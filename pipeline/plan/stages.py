"""The work of a reproduction, stage by stage: sequences, tokens, operations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from omegaconf import DictConfig

from eval.best_of_n.settings import BonSettings
from pipeline.experiments.best_of_n_proxies import outline, policy_model, proxy_words
from pipeline.experiments.matrix import GRID_SEEDS
from pipeline.plan.architecture import (
    architecture_of,
    architecture_of_checkpoint,
    meta_model,
    scoring_model,
)
from pipeline.plan.material import Lengths, Material
from pipeline.run.scorers import DEFAULT_MAX_LENGTH
from pipeline.run.scoring_ranks import devices_of_one_machine
from pipeline.settings.checks import check
from rm.errors import InputError
from rm.model.precision import DTYPES
from rm.training.cost import Decoder, Load, decoder_of, forward_flops, training_flops
from rm.training.settings import TrainingSettings, step_count

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
    """TFLOP/s of a device in matrix products, its origin, and the share that each work reaches."""

    tflops: float
    origin: str
    utilisation: dict[str, float]

    def hours(self, stage: Stage) -> float:
        """Device-hours of a stage."""
        return stage.flops / (self.tflops * TERA * self.utilisation[stage.work]) / 3600


def trained_pairs(settings: TrainingSettings, pairs: int) -> int:
    """Pairs of a run's steps, all epochs: whole global batches."""
    return step_count(settings.epochs, pairs, settings.global_batch) * settings.global_batch


def train_stage(
    one: DictConfig, decoder: Decoder, lengths: Lengths, name: str, runs: int, pairs: int
) -> Stage:
    """Training `runs` runs of the configuration `one` on `pairs` pairs."""
    settings = check(one)
    seen = trained_pairs(settings, pairs)
    load = lengths.training * seen
    flops = runs * training_flops(
        decoder,
        load,
        settings.part,
        top_layers=settings.top_layers,
        trunk=settings.reuse_trunk,
        checkpointing=settings.gradient_checkpointing,
    )
    return Stage(name, runs, runs * 2 * seen, runs * load.tokens, flops, "training", one.devices)


def score_stage(
    decoder: Decoder,
    name: str,
    runs: int,
    load: Load,
    sequences: int,
    layers: int | None = None,
    *,
    devices: int,
) -> Stage:
    """Scoring `sequences` rows with each of `runs` models."""
    flops = runs * forward_flops(decoder, load, layers)
    return Stage(name, runs, runs * sequences, runs * load.tokens, flops, "scoring", devices)


def layers_above_trunk(cfg: DictConfig, settings: TrainingSettings) -> int | None:
    """Layers that scoring runs through: those above a shared trunk, or None for all."""
    return settings.top_layers if settings.reuse_trunk and cfg.eval.reuse_trunk else None


def matrix_stages(material: Material) -> list[Stage]:
    """Trunk, learning rates, training and scoring of the matrix."""
    cfg, settings, decoder = material.cfg, material.settings, material.decoder
    train = partial(train_stage, material.runs[0], decoder, material.lengths)
    score = partial(score_stage, decoder, devices=devices_of_one_machine(cfg))
    above, pairs, runs = layers_above_trunk(cfg, settings), material.pairs, len(material.runs)
    load, rows = material.test.scoring * material.test_pairs, 2 * material.test_pairs
    stages = []
    if settings.reuse_trunk:
        both = material.lengths.scoring * pairs.train + load
        below = decoder.layers - settings.top_layers
        every = 2 * pairs.train + rows
        stages.append(score("frozen trunk", 1, both, every, below, devices=1))
    if cfg.grid:
        tried = len(cfg.methods) * len(cfg.grid) * len(GRID_SEEDS)
        held_out = material.lengths.scoring * pairs.validation
        stages.append(train("learning rates: training", tried, pairs.train))
        stages.append(
            score("learning rates: scoring", tried, held_out, 2 * pairs.validation, above)
        )
    stages.append(train("training", runs, pairs.train))
    stages.append(score("scoring, untrained too", runs + 1, load, rows, above))
    return stages


def bon_stages(material: Material, bon: BonSettings) -> list[Stage]:
    """Sampling, gold scores, relabelling, proxies and their scores; or the matrix's scores."""
    if bon.synthetic:
        return synthetic_stages(material, bon)
    first = bon_config(material.words, [*bon.proxy.overrides, f"loss={bon.proxy.methods[0]}"])
    settings, decoder = check(first), decoder_of(meta_model(material.architecture, first))
    runs = len(bon.golds) * len(bon.proxy.methods) * len(bon.proxy.seeds)
    train = partial(train_stage, first, decoder, material.lengths)
    above = layers_above_trunk(material.cfg, settings)
    load = samples_load(material, bon, settings.max_length)
    return [
        sampling_stage(material, bon),
        *(gold_stages(material, bon) if "reward_model" in bon.golds else []),
        train("Best-of-N: proxies", runs, proxy_pairs(material, bon)),
        score_stage(
            decoder,
            "Best-of-N: proxies score",
            runs,
            load,
            samples(bon),
            above,
            devices=devices_of_one_machine(material.cfg),
        ),
    ]


def synthetic_stages(material: Material, bon: BonSettings) -> list[Stage]:
    """The matrix's scores of a synthetic policy's candidates, over the frozen trunk.

    A prompt's variants are a right and a faulty answer each, about as long as a test pair: an upper
    bound, since few candidates are all of them and variants share their prompt.
    """
    settings, pairs = material.settings, bon.prompts.number * bon.policy.variants
    devices = devices_of_one_machine(material.cfg)
    score = partial(score_stage, material.decoder, devices=devices)
    runs, load, rows = picking_runs(material, bon), material.test.scoring * pairs, 2 * pairs
    above = layers_above_trunk(material.cfg, settings)
    stages = [score("Best-of-N: runs score", runs, load, rows, above)]
    if above is None:
        return stages
    below = material.decoder.layers - settings.top_layers
    return [score("Best-of-N: frozen trunk", 1, load, rows, below, devices=1), *stages]


def picking_runs(material: Material, bon: BonSettings) -> int:
    """Number of the matrix's runs that pick a synthetic policy's candidates."""
    return sum(one.loss.name in bon.proxy.methods for one in material.runs)


def proxy_pairs(material: Material, bon: BonSettings) -> int:
    """Pairs that the proxies train on: as many as are asked for, or as a source has."""
    if material.cfg.data.kind == "generated":
        return bon.proxy.pairs
    return min(bon.proxy.pairs, material.pairs.train)


def samples(bon: BonSettings) -> int:
    """Number of sampled responses."""
    return bon.prompts.number * bon.policy.samples


def bon_config(words: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose one training run of Best-of-N: the command line's words, then its own."""
    return outline(proxy_words(words), own)


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
    devices = devices_of_one_machine(material.cfg)
    return Stage("Best-of-N: sampling", 1, number, load.tokens, flops, "sampling", devices)


def samples_load(material: Material, bon: BonSettings, max_length: int) -> Load:
    """Scoring all samples once, prompts once each; rows that are cut may not share theirs."""
    prompt, number = material.lengths.prompt, bon.prompts.number
    whole = prompt + bon.policy.max_new_tokens
    row = min(whole, max_length)
    shares = material.lengths.counted or whole <= max_length
    fresh, shared = (row - prompt, prompt) if shares else (row, 0)
    every = Load(max(fresh, 0), row**2) * samples(bon)
    return every + Load(shared, 0) * number


def gold_stages(material: Material, bon: BonSettings) -> list[Stage]:
    """Training a gold where none is given; its scores of the samples and of the proxies' pairs."""
    stages: list[Stage] = []
    if bon.gold.checkpoint is None:
        one = bon_config(material.words, bon.gold.overrides)
        decoder = decoder_of(meta_model(material.architecture, one))
        length = check(one).max_length
        train = partial(train_stage, one, decoder, material.lengths)
        stages.append(train("Best-of-N: gold", 1, bon.gold.pairs))
    else:
        found = architecture_of_checkpoint(bon.gold.checkpoint)
        decoder = decoder_of(scoring_model(found, "bfloat16"))
        positions = getattr(found.config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
        length = material.cfg.eval.max_length or min(DEFAULT_MAX_LENGTH, positions)
    relabelled = proxy_pairs(material, bon)
    load = samples_load(material, bon, length) + material.lengths.scoring * relabelled
    rows = samples(bon) + 2 * relabelled
    devices = devices_of_one_machine(material.cfg)
    return [*stages, score_stage(decoder, "Best-of-N: gold scores", 1, load, rows, devices=devices)]


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
            f"throughput={given}: give a number of TFLOP/s per device, or measured"
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
