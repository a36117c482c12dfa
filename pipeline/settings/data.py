"""The training and validation pairs that a configuration names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import DictConfig

from generated import GeneratedPair, generate
from generated.core import Split
from pipeline.settings import configuration
from rm.data.preferences import (
    LoadReport,
    PreferencePair,
    fingerprint,
    load_preferences,
    split_pairs,
    swapped,
    unseen,
)
from rm.data.sources import folder_files, hub_files, local_path, splits_of
from rm.errors import InputError
from rm.objective.objective import Objective
from rm.provenance import file_fingerprint, fingerprint_of

CLOSE = "Reasoning"
"""The section whose pairs are closest (paper, figure 2)."""


@dataclass
class GeneratedData:
    """conf/data/generated_v2.yaml, typed.

    `train_pairs` of `pool_pairs` pairs are trained on, another sample for every `draw`;
    `test_pairs` is a number or one for each section.
    """

    name: str
    kind: str
    version: int
    license: str
    seed: int
    pool_pairs: int
    train_pairs: int
    draw: int
    validation_pairs: int
    test_pairs: Any
    label_noise: float


@dataclass
class FilesData:
    """conf/data/files.yaml, typed."""

    name: str
    kind: str
    license: str
    seed: int
    train: str
    validation: str | None
    validation_share: Any  # a share or a number of pairs: split_pairs says what it may be
    limit: int | None
    ignore: list[str] = field(default_factory=list)


@dataclass
class HubData:
    """A data set on the Hub in conf/data, typed."""

    name: str
    kind: str
    license: str
    seed: int
    hub: str
    config: str | None
    train_split: str
    validation_split: str | None
    validation_share: Any
    limit: int | None
    validation_limit: int | None
    ignore: list[str] = field(default_factory=list)


VERSION = 2
"""Of the generated data. A change of its pairs would need another one."""
KINDS = {"generated": GeneratedData, "files": FilesData, "hub": HubData}


@dataclass
class TrainingData:
    """Pairs to train on and to validate with, disjoint by prompt, and how they came about."""

    train: list[PreferencePair]
    validation: list[PreferencePair]
    report: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    """What became of every row of the source, for people."""
    pool: Sequence[PreferencePair] = ()
    """The pairs that `train` is drawn from, where other seeds draw others of them."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the training pairs, in order."""
        return fingerprint(self.train)


def load_data(data: DictConfig) -> TrainingData:
    """Load what conf/data names. Raises InputError for an unknown kind or unusable input."""
    settings = check_data(data)
    if isinstance(settings, GeneratedData):
        return _generated(settings)
    return _files(settings) if isinstance(settings, FilesData) else _hub(settings)


def check_data(data: DictConfig) -> GeneratedData | FilesData | HubData:
    """Return the typed data section.

    Raises InputError for a wrong kind, type or number, and for generated data of another version.
    """
    if data.kind not in KINDS:
        raise InputError(f"data.kind={data.kind}: choose {', '.join(KINDS)}")
    version = data.get("version", 1)  # the first version had no such key
    if data.kind == "generated" and version != VERSION:
        raise InputError(
            f"data.version={version}: the generated data have version {VERSION}; the first version "
            "was removed (commit 3a2f5f8 has it): give data=generated_v2"
        )
    settings: GeneratedData | FilesData | HubData = configuration.typed(KINDS[data.kind], data)
    return settings


def source_fingerprint(data: DictConfig) -> str:
    """Fingerprint of what a configuration's data are read from, before anything is dropped.

    Generated: the pairs. Files: their bytes. Hub: its name, configuration and training split (a
    data set that changes there without a new name is not noticed). The configuration says which of
    them are held out. Raises InputError as `load_data`.
    """
    settings = check_data(data)
    if isinstance(settings, GeneratedData):
        made = _generated(settings)
        return fingerprint_of([made.fingerprint, fingerprint(made.validation)])
    if isinstance(settings, FilesData):
        return fingerprint_of([bytes_of(settings.train), bytes_of(settings.validation)])
    return fingerprint_of([settings.hub, settings.config, settings.train_split])


def content_fingerprint(data: DictConfig) -> str:
    """`source_fingerprint`, and the content of a data set on the Hub or of its folder here.

    Raises InputError as `load_data`.
    """
    settings = check_data(data)
    content: list[str] = []
    if isinstance(settings, FilesData):
        for source in filter(None, (settings.train, settings.validation)):
            if local_path(source) is None:
                content += hub_files(source, "train", None)
    if isinstance(settings, HubData):
        own = local_path(settings.hub) is None
        asked = (settings.hub, settings.train_split, settings.config)
        content = hub_files(*asked) if own else bytes_of(settings.hub)
    return fingerprint_of([source_fingerprint(data), content])


def bytes_of(source: str | None) -> list[str]:
    """Fingerprints of a file, or of all files of a folder; [] where there is neither."""
    path = None if source is None else local_path(source)
    if path is None:
        return []
    return [file_fingerprint(file) for file in (folder_files(path) if path.is_dir() else [path])]


def test_pairs(data: DictConfig) -> list[GeneratedPair]:
    """Make the test split of generated data. Raises InputError for impossible settings."""
    settings = check_data(data)
    assert isinstance(settings, GeneratedData)
    return generate("test", settings.test_pairs, settings.seed)


def _generated(data: GeneratedData) -> TrainingData:
    """Draw a seeded sample of the training pool, the same for all methods of a seed."""
    pool = _pairs("train", data.pool_pairs, data.seed)
    drawn = draw_pairs(pool, data.train_pairs, data.draw)
    train, noisy = swap_labels(drawn, CLOSE, data.label_noise, data.seed)
    validation = list(_pairs("validation", data.validation_pairs, data.seed))
    report = {"source": "generated", "kept": len(train), "swapped": noisy, "pool": len(pool)}
    return TrainingData(train, validation, report, pool=pool)


@cache
def _pairs(split: Split, pairs: int, seed: int) -> tuple[PreferencePair, ...]:
    return tuple(made.pair for made in generate(split, pairs, seed))


def draw_pairs(pool: Sequence[PreferencePair], count: int, draw: int) -> list[PreferencePair]:
    """Draw `count` pairs of a pool without replacement, in the pool's order, by the seed `draw`.

    Every category keeps its share. Raises InputError where the pool has fewer pairs.
    """
    if not 0 < count <= len(pool):
        raise InputError(f"data.train_pairs={count}: the pool has {len(pool)} (data.pool_pairs)")
    rng = random.Random(f"{draw}/training draw")
    order = rng.sample(range(len(pool)), len(pool))
    order.sort(key=lambda place: pool[place].category or "")  # stable: random within a category
    # Every (len / count)th of the sorted list: shares that differ by less than one pair.
    taken = sorted(order[i * len(pool) // count] for i in range(count))
    return [pool[place] for place in taken]


def swap_labels(
    pairs: list[PreferencePair], category: str, share: float, seed: int
) -> tuple[list[PreferencePair], int]:
    """Swap chosen and rejected in a seeded `share` of a category's pairs; also say in how many.

    Raises InputError for a share outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise InputError(f"data.label_noise={share}: must be from 0 to 1")
    places = [place for place, pair in enumerate(pairs) if pair.category == category]
    wrong = random.Random(f"{seed}/label noise").sample(places, round(share * len(places)))
    made = list(pairs)
    for place in wrong:
        made[place] = swapped(pairs[place])
    return made, len(wrong)


def _files(data: FilesData) -> TrainingData:
    """A folder's split train or, for data.validation, its split validation if it has one."""
    train, report = load_preferences(
        data.train, limit=data.limit, seed=data.seed, ignore=data.ignore
    )
    if data.validation is None:
        made = _held_out(train, report, data)
        rest = [split for split in splits_of(data.train) if split != "train"]
        if rest:
            made.lines.append(
                f"  not read: split {', '.join(rest)} of the folder "
                "(data.validation=FOLDER takes a split validation)"
            )
        return made
    own = "validation" if "validation" in splits_of(data.validation) else "train"
    validation, second = load_preferences(data.validation, split=own, ignore=data.ignore)
    return _apart(train, report, validation, second)


def _hub(data: HubData) -> TrainingData:
    train, report = load_preferences(
        data.hub,
        name=data.config,
        split=data.train_split,
        limit=data.limit,
        seed=data.seed,
        ignore=data.ignore,
    )
    if data.validation_split is None:
        return _held_out(train, report, data)
    validation, second = load_preferences(
        data.hub,
        name=data.config,
        split=data.validation_split,
        limit=data.validation_limit,
        seed=data.seed,
        ignore=data.ignore,
    )
    return _apart(train, report, validation, second)


def _apart(
    train: list[PreferencePair],
    report: LoadReport,
    validation: list[PreferencePair],
    second: LoadReport,
) -> TrainingData:
    """Leave out, and count, validation pairs whose prompt is trained on.

    Raises InputError if none is left.
    """
    kept = unseen(validation, train)
    dropped = len(validation) - len(kept)
    if validation and not kept:
        raise InputError(
            "every prompt of the validation data is in the training data: give other pairs"
        )
    lines = [*report.lines(), *second.lines()]
    if dropped:
        lines.append(f"  {dropped} of {len(validation)} left out: their prompt is trained on")
    facts = {"train": report.as_dict(), "validation": second.as_dict()}
    return TrainingData(train, kept, {**facts, "validation_prompts_trained": dropped}, lines)


def _held_out(
    pairs: list[PreferencePair], report: LoadReport, data: FilesData | HubData
) -> TrainingData:
    train, validation = split_pairs(pairs, data.validation_share, data.seed)
    facts = {"train": report.as_dict(), "held_out": len(validation)}
    lines = [*report.lines(), f"  {len(validation):,} of them held out for validation"]
    return TrainingData(train, validation, facts, lines)


@dataclass(frozen=True)
class Labels:
    """What a loss may need of pairs beside their texts: how many lack it, and the first of them."""

    pairs: int
    without_margin: int
    first_without_margin: str | None
    without_category: int
    first_without_category: str | None
    categories: list[str]
    """Sorted; "" where a pair has none."""


def labels_of(pairs: Sequence[PreferencePair]) -> Labels:
    """Count what pairs have of what a loss may need."""
    unrated = [pair.pair_id for pair in pairs if pair.margin is None]
    unsorted = [pair.pair_id for pair in pairs if not pair.category]
    return Labels(
        len(pairs),
        len(unrated),
        next(iter(unrated), None),
        len(unsorted),
        next(iter(unsorted), None),
        sorted({pair.category or "" for pair in pairs}),
    )


def require_facts(labels: Labels, objective: Objective) -> None:
    """Raise InputError if the loss needs margins or categories and a pair has none.

    Also where the loss has fixed category weights and none for a pair's category.
    """
    margins = (labels.without_margin, labels.first_without_margin)
    categories = (labels.without_category, labels.first_without_category)
    for needed, fact, (without, first), instead in (
        (objective.needs_margin, "margin", margins, "data with ratings or a loss without margin"),
        (objective.needs_category, "category", categories, "data=generated_v2 or another loss"),
    ):
        if needed and without:
            raise InputError(
                f"loss={objective.name} needs a {fact} for every pair: {without} of "
                f"{labels.pairs} have none, first {first}; use {instead}"
            )
    weights = objective.category_weights
    unweighted = sorted(set(labels.categories) - set(weights or {}))
    if weights is not None and unweighted:
        raise InputError(
            f"loss={objective.name} has no weight for the category {unweighted[0]!r} (it has for "
            f"{', '.join(map(str, weights))}): leave it out of methods=[…], or give scripts.train "
            f"one for every category, '++loss.deal.weights={{{unweighted[0]}: 1.0}}'"
        )
