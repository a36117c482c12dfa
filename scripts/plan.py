"""What a reproduction takes, before anything is started: python -m scripts.plan profile=paper.

Runs, tokens, operations, device-hours, memory by ZeRO stage, disk and downloads. Nothing is trained
or written (but output=FILE.json); whatever is not counted but assumed says so.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis.style import MODELS
from eval.best_of_n.settings import BonSettings
from rm.cost import (
    Buckets,
    Decoder,
    Load,
    States,
    decoder_of,
    forward_flops,
    model_states,
    training_flops,
)
from rm.errors import InputError
from rm.files import atomic_write_json
from rm.footprint import step_bytes
from rm.generated import generate
from rm.models import DTYPES
from rm.preferences import PreferencePair
from rm.trainer import TrainingSettings
from scripts import config as configuration
from scripts.architecture import (
    Architecture,
    architecture_of,
    architecture_of_checkpoint,
    meta_model,
    scoring_model,
)
from scripts.best_of_n import outline, policy_model, proxy_words, settings_of
from scripts.evaluate import BENCHMARKS, DEFAULT_MAX_LENGTH
from scripts.matrix import check_benchmark, kept_words, run_configs
from scripts.reproduce import best_of_n_left_out
from scripts.sample import Lengths, Pairs, find_lengths, find_pairs, upper_bound
from scripts.train import check, distance_of, zero_stage

PLAN_KEYS = ("plan", "throughput", "output")
GIGA, TERA = 1e9, 1e12


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
class Item:
    """Something that takes room; `bytes` is None where nobody here knows."""

    name: str
    bytes: float | None
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """TFLOP/s of a device in matrix products, their origin, and the part that work reaches."""

    tflops: float
    origin: str
    utilisation: dict[str, float]

    def hours(self, stage: Stage) -> float:
        """Device-hours of a stage."""
        return stage.flops / (self.tflops * TERA * self.utilisation[stage.work]) / 3600


@dataclass(frozen=True)
class Memory:
    """Bytes on one device under one file of conf/deepspeed, and what DeepSpeed itself estimates."""

    name: str
    chosen: bool
    states: States
    activations: int
    peak: int
    estimator: int | None


@dataclass(frozen=True)
class Material:
    """What all parts of a plan are made from."""

    cfg: DictConfig
    words: list[str]
    runs: list[DictConfig]
    settings: TrainingSettings
    architecture: Architecture
    decoder: Decoder
    pairs: Pairs
    lengths: Lengths
    test_pairs: int
    test: Lengths
    scratch: Path


@dataclass(frozen=True)
class Plan:
    """Everything that is printed."""

    title: str
    facts: dict[str, str]
    speed: Speed
    stages: list[Stage]
    memory: list[Memory]
    device_bytes: float
    reserve: float
    disk: list[Item]
    downloads: list[Item]
    notes: list[str]

    @property
    def disk_bytes(self) -> float:
        """Largest room on disk that is known of, downloads included."""
        return sum(item.bytes or 0 for item in [*self.disk, *self.downloads])


def make_plan(cfg: DictConfig, overrides: Sequence[str], scratch: Path) -> Plan:
    """Plan what scripts.reproduce would do with this configuration.

    scratch: an empty folder for a tiny model. Raises InputError for what cannot work.
    """
    material = gather(cfg, overrides, scratch)
    left_out = best_of_n_left_out(cfg)
    bon = settings_of(cfg) if left_out is None else None
    stages = matrix_stages(material) + (bon_stages(material, bon) if bon else [])
    return Plan(
        title=title(cfg),
        facts=facts_of(material, bon),
        speed=speed_of(cfg),
        stages=stages,
        memory=memory_of(material),
        device_bytes=device_bytes(cfg),
        reserve=cfg.plan.reserve_gb * GIGA,
        disk=disk_of(material, bon),
        downloads=downloads_of(material, bon),
        notes=notes_of(material, bon, left_out),
    )


def gather(cfg: DictConfig, overrides: Sequence[str], scratch: Path) -> Material:
    """Compose the runs, find the model, the data and their lengths."""
    check_benchmark(cfg)
    words = configuration.without_keys(overrides, PLAN_KEYS)
    runs = run_configs(cfg, words, {})
    settings = next(iter([check(one) for one in runs]))
    architecture = architecture_of(cfg.model, Path(cfg.cache_dir), scratch)
    pairs = find_pairs(cfg.data, cfg.plan)
    test_pairs, test = find_benchmark(cfg, architecture.folder, settings)
    return Material(
        cfg,
        words,
        runs,
        settings,
        architecture,
        decoder_of(meta_model(architecture, runs[0])),
        pairs,
        find_lengths(pairs.taken, architecture.folder, settings),
        test_pairs,
        test,
        scratch,
    )


def find_benchmark(
    cfg: DictConfig, folder: Path | None, settings: TrainingSettings
) -> tuple[int, Lengths]:
    """Number of the benchmark's pairs and their lengths, from a local file or by its protocol."""
    benchmark = BENCHMARKS[cfg.benchmark]
    if cfg.benchmark == "generated" and cfg.benchmark_data is None:
        pairs = [made.pair for made in generate("test", cfg.data.test_pairs, cfg.data.seed)]
    elif cfg.benchmark_data is not None and Path(cfg.benchmark_data).exists():
        pairs = [
            PreferencePair(row.pair_id, row.prompt, row.chosen, row.rejected)
            for row in benchmark.load(str(cfg.benchmark_data))
        ]
    else:
        rows = sum(benchmark.protocol(pd.DataFrame()).rows.values())
        return rows, upper_bound(settings.max_length, "no benchmark file on this machine")
    sample = pairs[:: max(1, len(pairs) // cfg.plan.sample_pairs)]
    return len(pairs), find_lengths(sample, folder, settings, drop=False)


# --- Work ----------------------------------------------------------------------------------------


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


# --- Speed and memory ----------------------------------------------------------------------------


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
    return float(pd.Series(rates[1:]).median())


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
    estimator = None
    if stage >= 2 and one.training.part == "full":
        estimator = deepspeed_estimate(decoder, stage, cfg.devices, offload)
    name, chosen = one.deepspeed.name, one.deepspeed.name == cfg.deepspeed.name
    return Memory(name, chosen, states, activations, states.peak(activations), estimator)


def _buckets(zero: Any) -> Buckets:
    try:
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # takes seconds
    except ImportError as error:
        raise InputError(f"DeepSpeed cannot be imported ({error}): `make setup`") from error
    made = DeepSpeedZeroConfig(**OmegaConf.to_container(OmegaConf.create(zero)))  # type: ignore[arg-type]
    return Buckets(made.reduce_bucket_size, made.max_live_parameters)


def deepspeed_estimate(decoder: Decoder, stage: int, devices: int, offload: bool) -> int:
    """DeepSpeed's own estimate of a device's model states, bytes: two-byte parameters."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as zero3
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as zero2

    if stage == 2:
        return zero2(decoder.parameters, devices, cpu_offload=offload)[1]
    return zero3(
        decoder.parameters,
        decoder.largest,
        devices,
        1,
        cpu_offload=offload,
        cpu_offload_params=offload,
    )[1]


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


# --- Room ----------------------------------------------------------------------------------------


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
    if settings.reuse_trunk:
        tokens = material.lengths.rows * material.pairs.train
        tokens += material.test.rows * material.test_pairs
        width = decoder.hidden * DTYPES[settings.compute_dtype].itemsize
        items.append(Item("frozen trunk", tokens * width, "in cache_dir"))
    if bon is not None:
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
    if bon is not None:
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


# --- Saying it -----------------------------------------------------------------------------------


def title(cfg: DictConfig) -> str:
    """One line: profile, backbone, data, part, ZeRO stage, devices."""
    devices = f"{cfg.devices} device" + ("s" if cfg.devices > 1 else "")
    part = f"{cfg.training.part}, deepspeed={cfg.deepspeed.name}, {devices}"
    return f"profile {cfg.profile.name} · {cfg.model.name} · {cfg.data.name} · {part}"


def facts_of(material: Material, bon: BonSettings | None) -> dict[str, str]:
    """What the numbers rest on, a line each."""
    cfg, decoder, runs = material.cfg, material.decoder, material.runs
    steps = trained_pairs(material.settings, material.pairs.train) // material.settings.global_batch
    matrix = f"{len(cfg.methods)} methods × {len(cfg.seeds)} seeds = {len(runs)} runs"
    if cfg.grid:
        matrix += f", after {len(cfg.methods)} × {len(cfg.grid)} learning rates"
    facts = {
        "Runs": f"{matrix}; {steps:,} steps each of {material.settings.global_batch} pairs",
        "Model": f"{decoder.parameters:,} parameters, {decoder.trained:,} of them trained; "
        f"{material.architecture.origin}",
        "Pairs": f"{material.pairs.train:,} to train on ({material.pairs.origin}); "
        f"{material.test_pairs:,} of benchmark={cfg.benchmark}",
        "Tokens": f"training: {material.lengths.origin}",
        "": f"benchmark: {material.test.origin}",
    }
    if bon is not None:
        proxies = f"{len(bon.proxy.methods)} methods × {len(bon.proxy.seeds)} seeds"
        pairs = f"{proxy_pairs(material, bon):,} pairs each"
        facts["Best-of-N"] = (
            f"{bon.prompts.number:,} prompts × N = {bon.policy.samples}; golds: "
            f"{', '.join(bon.golds)}; {proxies} as proxies on {pairs}"
        )
    return facts


def notes_of(material: Material, bon: BonSettings | None, left_out: str | None) -> list[str]:
    """What the table does not hold."""
    cfg = material.cfg
    measured = 1 + len({method for method in cfg.methods if method in MODELS})
    notes = [
        "Operations count matrix products and attention; loading, saving, start-up and figures are "
        "not in the hours.",
        "Scoring and sampling use one device, as scripts.reproduce does them.",
        f"Exact gradients of {cfg.gradient_pairs} pairs a section under {measured} models are "
        "measured on the CPU in float32: not in the hours.",
    ]
    if not (material.lengths.counted and material.test.counted):
        notes.append(
            "Tokens are upper bounds. To have them counted: "
            "model.path=FOLDER data.hub=FOLDER benchmark_data=FILE (local copies)."
        )
    if left_out is not None:
        notes.append(f"Best-of-N is left out: {left_out}.")
    if bon is not None and bon.gold.checkpoint and cfg.eval.compute_dtype is None:
        notes.append(
            f"{bon.gold.checkpoint} does not say how it was trained, so it scores in float32: its "
            "time holds for eval.compute_dtype=bfloat16."
        )
    dear = [one.loss.name for one in material.runs if distance_of(one.loss).by_gradient]
    if dear:
        notes.append(f"{dear[0]} takes a backward pass a pair besides: not in the hours.")
    return notes


def shown(size: float | None) -> str:
    """A size in words, powers of ten."""
    if size is None:
        return "?"
    for unit, worth in (("TB", 1e12), ("GB", GIGA), ("MB", 1e6)):
        if size >= worth:
            return f"{size / worth:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def stage_table(plan: Plan) -> pd.DataFrame:
    """The stages as they are printed, with their sum."""
    rows = [
        {
            "stage": stage.name,
            "runs": str(stage.runs),
            "sequences": f"{stage.sequences:,}",
            "tokens": f"{stage.tokens:.3g}",
            "PFLOP": f"{stage.flops / 1e15:,.3g}",
            "device-time": duration(plan.speed.hours(stage)),
            "devices": str(stage.devices),
            "time": duration(plan.speed.hours(stage) / stage.devices),
        }
        for stage in plan.stages
    ]
    hours = [plan.speed.hours(stage) for stage in plan.stages]
    wall = sum(own / stage.devices for own, stage in zip(hours, plan.stages, strict=True))
    total = {
        "stage": "all",
        "PFLOP": f"{sum(stage.flops for stage in plan.stages) / 1e15:,.3g}",
        "device-time": duration(sum(hours)),
        "time": duration(wall),
    }
    return pd.DataFrame([*rows, total]).fillna("")


def duration(hours: float) -> str:
    """A time in words: seconds below a minute, minutes below two hours."""
    if hours * 3600 < 60:
        return f"{hours * 3600:.2g} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def memory_table(plan: Plan) -> pd.DataFrame:
    """Memory of one device in GB, as it is printed."""
    limit = plan.device_bytes - plan.reserve
    return pd.DataFrame(
        [
            {
                "": "→" if one.chosen else "",
                "deepspeed": one.name,
                "states": f"{one.states.kept / GIGA:.1f}",
                "buffers": f"{one.states.backward / GIGA:.1f}",
                "activations": f"{one.activations / GIGA:.1f}",
                "peak": f"{one.peak / GIGA:.1f}",
                f"in {limit / GIGA:.0f} GB": "fits" if one.peak <= limit else "too large",
                "host": f"{one.states.host / GIGA:.0f}" if one.states.host else "-",
                "DeepSpeed's estimate": f"{one.estimator / GIGA:.1f}" if one.estimator else "-",
            }
            for one in plan.memory
        ]
    )


def report(plan: Plan) -> str:
    """The whole plan as text."""
    speed, work = plan.speed, plan.speed.utilisation
    reached = ", ".join(f"{name} {part:g}" for name, part in work.items())
    facts = {
        **plan.facts,
        "Speed": f"{speed.tflops:.4g} TFLOP/s a device ({speed.origin}) × {reached}",
    }
    lines = [f"Plan: {plan.title} (nothing is started)", ""]
    lines += [f"{name:10} {text}" for name, text in facts.items()]
    lines += ["", stage_table(plan).to_string(index=False), ""]
    lines.append(
        "Memory of one device while training, GB; activations are those of one micro-batch of the "
        "longest rows"
    )
    lines += [memory_table(plan).to_string(index=False), ""]
    lines += _items("Disk", plan.disk) + _items("Downloads", plan.downloads)
    lines += [f"Room in all: {shown(plan.disk_bytes)}, as far as sizes are known", ""]
    return "\n".join([*lines, *(f"- {note}" for note in plan.notes)])


def _items(name: str, items: Sequence[Item]) -> list[str]:
    rows = [
        f"  {shown(item.bytes):>10}  {item.name}{f' ({item.note})' if item.note else ''}"
        for item in items
    ]
    return [name, *(rows or ["  nothing"])]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan's numbers: flops, hours, bytes."""
    made = asdict(plan)
    for stage, row in zip(plan.stages, made["stages"], strict=True):
        row["device_hours"] = plan.speed.hours(stage)
    return {**made, "disk_bytes": plan.disk_bytes}


def name_accelerator() -> None:
    """Tell DeepSpeed that there is no GPU where there is none, or it warns that it looked."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


@configuration.main("plan")
def main(cfg: DictConfig) -> None:
    """Print the plan."""
    name_accelerator()
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(cfg, HydraConfig.get().overrides.task, Path(scratch))
    print(report(plan))
    if cfg.output is not None:
        atomic_write_json(Path(cfg.output), as_json(plan))


if __name__ == "__main__":
    main()
