"""What a reproduction takes: runs, tokens, operations, memory, disk and downloads, and the text.

Every number that is assumed rather than counted says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from analysis.style import MODELS
from eval.best_of_n.settings import BonSettings
from pipeline.experiments.best_of_n import settings_of
from pipeline.experiments.matrix import GRID_SEEDS
from pipeline.experiments.reproduce import best_of_n_left_out
from pipeline.plan.material import Material, gather
from pipeline.plan.room import (
    GIGA,
    Item,
    Memory,
    device_bytes,
    disk_of,
    downloads_of,
    memory_of,
    shown,
)
from pipeline.plan.stages import (
    Speed,
    Stage,
    bon_stages,
    matrix_stages,
    picking_runs,
    proxy_pairs,
    speed_of,
    trained_pairs,
)
from pipeline.settings.objective import objective_of


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


def title(cfg: DictConfig) -> str:
    """One line: profile, backbone, data, part, ZeRO stage, devices."""
    devices = f"{cfg.devices} device" + ("s" if cfg.devices > 1 else "")
    part = f"{cfg.training.part}, deepspeed={cfg.deepspeed.name}, {devices}"
    return f"profile {cfg.profile.name} · {cfg.model.name} · {cfg.data.name} · {part}"


def facts_of(material: Material, bon: BonSettings | None) -> dict[str, str]:
    """What the numbers rest on, one line per fact."""
    cfg, decoder, runs = material.cfg, material.decoder, material.runs
    steps = trained_pairs(material.settings, material.pairs.train) // material.settings.global_batch
    matrix = f"{len(cfg.methods)} methods × {len(cfg.seeds)} seeds = {len(runs)} runs"
    if cfg.grid:
        tried = f"{len(cfg.grid)} learning rates × {len(GRID_SEEDS)} seeds"
        matrix += f", after {len(cfg.methods)} × {tried}"
    facts = {
        "Runs": f"{matrix}; {steps:,} steps each of {material.settings.global_batch} pairs",
        "Model": f"{decoder.parameters:,} parameters, {decoder.trained:,} of them trained; "
        f"{material.architecture.origin}",
        "Pairs": f"{material.pairs.train:,} to train on ({material.pairs.origin}); "
        f"{material.test_pairs:,} of benchmark={cfg.benchmark}",
        "Tokens": f"training: {material.lengths.origin}",
        "": f"benchmark: {material.test.origin}",
    }
    if bon is not None and bon.synthetic:
        facts["Best-of-N"] = (
            f"{bon.prompts.number:,} prompts × N = {bon.policy.samples} of a synthetic policy; "
            f"{picking_runs(material, bon)} of the runs pick, verified by code"
        )
    elif bon is not None:
        proxies = f"{len(bon.proxy.methods)} methods × {len(bon.proxy.seeds)} seeds"
        pairs = f"{proxy_pairs(material, bon):,} pairs each"
        facts["Best-of-N"] = (
            f"{bon.prompts.number:,} prompts × N = {bon.policy.samples}; golds: "
            f"{', '.join(bon.golds)}; {proxies} as proxies on {pairs}"
        )
    return facts


def notes_of(material: Material, bon: BonSettings | None, left_out: str | None) -> list[str]:
    """What the table leaves out."""
    cfg = material.cfg
    measured = 1 + len({method for method in cfg.methods if method in MODELS})
    notes = [
        "Operations count matrix products and attention; loading, saving, start-up and figures are "
        "not in the hours.",
        "Scoring and sampling use all devices of one machine, as scripts.reproduce does them.",
        f"Exact gradients of {cfg.gradient_pairs} pairs per section under {measured} models are "
        "measured in float32 on one device, a GPU where there is one: not in the hours.",
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
    objectives = [objective_of(one.loss) for one in material.runs]
    dear = [objective.name for objective in objectives if objective.distance.by_gradient]
    if dear:
        notes.append(f"{dear[0]} also takes one backward pass per pair: not in the hours.")
    return notes


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
        "Speed": f"{speed.tflops:.4g} TFLOP/s per device ({speed.origin}) × {reached}",
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
