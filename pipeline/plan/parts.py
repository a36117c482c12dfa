"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from pipeline.plan.architecture import (
    Architecture,
)
from pipeline.plan.lengths import Lengths, Pairs
from rm.training.cost import (
    Decoder,
    States,
)
from rm.training.settings import TrainingSettings

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
class Speed:
    """TFLOP/s of a device in matrix products, their origin, and the part that work reaches."""

    tflops: float
    origin: str
    utilisation: dict[str, float]

    def hours(self, stage: Stage) -> float:
        """Device-hours of a stage."""
        return stage.flops / (self.tflops * TERA * self.utilisation[stage.work]) / 3600


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


@dataclass(frozen=True)
class Item:
    """Something that takes room; `bytes` is None where nobody here knows."""

    name: str
    bytes: float | None
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device under one file of conf/deepspeed, and what DeepSpeed itself estimates."""

    name: str
    chosen: bool
    states: States
    activations: int
    peak: int
    estimator: int | None
