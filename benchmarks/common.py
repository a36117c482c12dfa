"""What all benchmarks share: interleaved timing, the machine's own matrix-product rate, the table.

Every round runs every way once, in turn, so that a busy machine slows all ways equally. Ratios are
taken from medians of one run. CPU time is given beside wall time: other jobs disturb it less.
"""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from pipeline.settings.backbone import backbone_folder
from pipeline.settings.configuration import compose_config
from rm.files import atomic_write_text
from rm.model.precision import DTYPES, fast_dtype

RESULTS = Path("results/benchmarks")
DTYPE = DTYPES[fast_dtype()]
"""The dtype for real models: bfloat16, or float32 if this machine emulates bfloat16."""
Way = Callable[[], object]


@functools.cache
def backbone() -> Path:
    """The folder of SmolLM2-135M-Instruct, made if it does not exist yet."""
    config = compose_config("train", ["model=smollm2-135m-instruct"])
    return backbone_folder(config.model, config.cache_dir)


def interleave(ways: Mapping[str, Way], rounds: int, label: str, warm_up: int = 1) -> pd.DataFrame:
    """Call every way once per round; one row per way with medians, extremes and rounds.

    Columns: way, wall_s, wall_low, wall_high, cpu_s, rounds. `warm_up` untimed rounds come first.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in tqdm(range(rounds + warm_up), desc=label, leave=False):
        for name, work in ways.items():
            seconds = timed(work)
            if number >= warm_up:
                times[name].append(seconds)
    return pd.DataFrame([{"way": name, **summary(values)} for name, values in times.items()])


def timed(work: Way) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def summary(values: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Medians and the lowest and highest wall time."""
    frame = pd.DataFrame(values, columns=["wall", "cpu"])
    return {
        "wall_s": frame.wall.median(),
        "wall_low": frame.wall.min(),
        "wall_high": frame.wall.max(),
        "cpu_s": frame.cpu.median(),
        "rounds": len(frame),
    }


def with_ratios(frame: pd.DataFrame, reference: str, by: str = "way") -> pd.DataFrame:
    """Add `ratio_wall` and `ratio_cpu`: the reference's time divided by each row's."""
    base = frame[frame[by] == reference].iloc[0]
    for kind in ("wall", "cpu"):
        frame[f"ratio_{kind}"] = base[f"{kind}_s"] / frame[f"{kind}_s"]
    return frame


def product_rate(tokens: int = 2048, seconds: float = 2.0) -> float:
    """Median FLOP/s of this machine's matrix products in `DTYPE`, in SmolLM2's layer shapes.

    (tokens, 576) @ (576, 1536) and back, as in the feed-forward layers.
    """
    up = torch.randn(576, 1536, dtype=DTYPE)
    states, down = torch.randn(tokens, 576, dtype=DTYPE), up.T.contiguous()
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(10):
            (states @ up) @ down
        rates.append(10 * 4 * tokens * 576 * 1536 / (time.perf_counter() - start))
    return float(pd.Series(rates).median())


def profiled(work: Way) -> pd.DataFrame:
    """Return the 15 operations of a call that take the most CPU time of their own.

    Columns: operation, self_s, calls, share. The first call is not measured.
    """
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        work()
    rows = [
        {"operation": event.key, "self_s": event.self_cpu_time_total / 1e6, "calls": event.count}
        for event in found.key_averages()
    ]
    table = pd.DataFrame(rows).sort_values("self_s", ascending=False)
    table["share"] = table.self_s / table.self_s.sum()
    return table.head(15)


def matrix_numbers(modules: Sequence[nn.Module]) -> int:
    """Number of weights in the modules' matrix products (without embeddings and norms)."""
    return sum(
        linear.weight.numel()
        for module in modules
        for linear in module.modules()
        if isinstance(linear, nn.Linear)
    )


def machine() -> dict[str, Any]:
    """The machine's description and the date, for every row of a table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(DTYPE).removeprefix("torch."),
        "date": time.strftime("%Y-%m-%d"),
    }


def write(found: pd.DataFrame, path: Path, key: Sequence[str]) -> None:
    """Print and write a table; keep an earlier run's rows whose `key` was not measured again."""
    print(found.round(4).to_string(index=False), flush=True)
    names = list(key)
    if path.is_file():
        earlier = pd.read_csv(path)
        measured = earlier.set_index(names).index.isin(found.set_index(names).index)
        found = pd.concat([earlier[~measured], found])
    ordered = [*names, *(name for name in found.columns if name not in names)]
    atomic_write_text(path, found[ordered].round(4).to_csv(index=False))
