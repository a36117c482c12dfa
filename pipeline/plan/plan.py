"""What a reproduction takes: runs, tokens, operations, memory, disk and downloads.

Whatever is assumed and not counted says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig

from eval.benchmarks import BENCHMARKS
from generated import generate
from pipeline.experiments.best_of_n import settings_of
from pipeline.experiments.matrix import check_benchmark, run_configs
from pipeline.experiments.reproduce import best_of_n_left_out
from pipeline.plan.architecture import (
    architecture_of,
    meta_model,
)
from pipeline.plan.lengths import Lengths, find_lengths, find_pairs, upper_bound
from pipeline.plan.parts import GIGA, TERA, Material, Plan, Speed
from pipeline.plan.room import device_bytes, disk_of, downloads_of, memory_of
from pipeline.plan.stages import bon_stages, matrix_stages
from pipeline.plan.text import facts_of, notes_of, title
from pipeline.settings import configuration
from pipeline.settings.checks import check
from rm.errors import InputError
from rm.model.precision import DTYPES
from rm.training.cost import (
    decoder_of,
)
from rm.training.settings import TrainingSettings

PLAN_KEYS = ("plan", "throughput", "output")


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
        pairs = benchmark.load(str(cfg.benchmark_data))
    else:
        rows = sum(benchmark.protocol(pd.DataFrame()).rows.values())
        return rows, upper_bound(settings.max_length, "no benchmark file on this machine")
    sample = pairs[:: max(1, len(pairs) // cfg.plan.sample_pairs)]
    return len(pairs), find_lengths(sample, folder, settings, drop=False)


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
