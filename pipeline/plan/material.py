"""What a plan is made from: the runs, the model, how many pairs there are and how long they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from transformers import AutoTokenizer

from eval.benchmarks import BENCHMARKS
from pipeline.experiments.matrix import check_benchmark, run_configs
from pipeline.plan.architecture import Architecture, architecture_of, meta_model
from pipeline.run.training import batches_of
from pipeline.settings import configuration
from pipeline.settings.checks import check
from pipeline.settings.data import load_data, test_pairs
from rm.data.preferences import PreferencePair, load_preferences, validation_size
from rm.data.templates import ChatTemplate
from rm.data.token_table import TokenPairs, TokenReport, tokenize_pairs
from rm.errors import InputError
from rm.model.tree import share as share_tokens
from rm.model.untrusted import load
from rm.training.batches import rows_of, training_order
from rm.training.cost import Decoder, Load, decoder_of
from rm.training.settings import TrainingSettings

PLAN_KEYS = ("plan", "throughput", "output")
"""Keys that only conf/plan.yaml has: no run is composed with them."""


@dataclass(frozen=True)
class Pairs:
    """Numbers of a configuration's pairs and a random sample of those to train on.

    `origin` says what was read. If the data are not on this machine, `taken` is empty and the
    numbers are those that conf/plan.yaml states.
    """

    train: int
    validation: int
    taken: list[PreferencePair]
    origin: str


@dataclass(frozen=True)
class Lengths:
    """What one pair makes the model compute, on average; `prompt`: tokens of its prompt.

    training: a pair in its micro-batch. scoring: a pair in an evaluation. rows: tokens of its two
    rows, no padding, nothing shared. `origin` says whether this was counted or is an upper bound.
    """

    training: Load
    scoring: Load
    rows: float
    prompt: float
    origin: str
    counted: bool


def find_pairs(data: DictConfig, plan: DictConfig) -> Pairs:
    """Count a configuration's pairs and take a sample, from what is on this machine.

    Local files and folders are read whole (sources are sorted: their first rows are no sample).
    Raises InputError for data that cannot be used, or of an unknown number.
    """
    if data.kind == "generated":
        made = load_data(data)
        taken = random.Random(0).sample(made.train, min(plan.sample_pairs, len(made.train)))
        return Pairs(len(made.train), len(made.validation), taken, "generated pairs")
    source = data.train if data.kind == "files" else data.hub
    if not Path(source).expanduser().exists():
        return _by_name(data, plan)
    options = {} if data.kind == "files" else {"name": data.config, "split": data.train_split}
    taken, report = load_preferences(
        source,
        limit=plan.sample_pairs,
        seed=data.seed,
        ignore=data.get("ignore", ()),
        **options,
    )
    usable = report.kept + report.not_taken
    pairs = min(usable, data.limit or usable)
    split = data.get("validation") if data.kind == "files" else data.validation_split
    held_out = 0 if split else validation_size(pairs, data.validation_share)
    origin = f"{Path(source).name}: {report.rows:,} rows, {usable:,} usable"
    return Pairs(pairs - held_out, held_out or data.get("validation_limit") or 0, taken, origin)


def _by_name(data: DictConfig, plan: DictConfig) -> Pairs:
    if data.kind == "files":
        raise InputError(f"data.train={data.train}: no such file or folder; check the path")
    rows = plan.training_rows.get(data.name) or data.limit
    if rows is None:
        raise InputError(
            f"data={data.name} is not on this machine: give data.hub=FOLDER, or its number of rows "
            f"as +plan.training_rows.{data.name}=…"
        )
    rows = min(rows, data.limit or rows)
    held_out = 0 if data.validation_split else validation_size(rows, data.validation_share)
    validation = held_out or data.validation_limit or 0
    return Pairs(rows - held_out, validation, [], "conf/plan.yaml, an upper bound")


def tokenized(
    pairs: Sequence[PreferencePair], folder: Path, settings: TrainingSettings, *, drop: bool
) -> tuple[TokenPairs, TokenReport, ChatTemplate]:
    """Tokenise pairs with the tokenizer in `folder`. Raises InputError as `tokenize_pairs`."""
    tokenizer = load(AutoTokenizer, folder)
    template = ChatTemplate(tokenizer, parse_special_text=settings.parse_special_text)
    return (*tokenize_pairs(pairs, template, settings.max_length, drop=drop), template)


def find_lengths(
    pairs: Sequence[PreferencePair],
    folder: Path | None,
    settings: TrainingSettings,
    *,
    drop: bool = True,
) -> Lengths:
    """Count what pairs compute; assume training.max_length if sample or tokenizer is missing.

    folder: of the tokenizer; drop: as in `tokenize_pairs`. Micro-batches are made as in training; a
    pair is scored with the prefix that its two rows share computed once.
    """
    if not pairs or folder is None:
        missing = "pairs" if not pairs else "tokenizer"
        return upper_bound(settings.max_length, f"no {missing} on this machine")
    made, report, template = tokenized(pairs, folder, settings, drop=drop)
    batch = min(settings.global_batch, len(made))
    order = training_order(made, epochs=1, global_batch=batch, seed=0)
    batches = batches_of(replace(settings, global_batch=batch), made, order, devices=1)
    known = {pair.pair_id: pair for pair in pairs}
    prompts = [template.prompt_length(known[pair.pair_id].prompt) for pair in made]
    return Lengths(
        batch_load(made, batches, settings.share_prefix) * (1 / len(order)),
        batch_load(made, [[index] for index in order], share=True) * (1 / len(order)),
        report.tokens / report.pairs,
        sum(prompts) / len(prompts),
        f"counted on a sample of {len(made)} pairs",
        counted=True,
    )


def upper_bound(max_length: int, reason: str) -> Lengths:
    """Every row as long as the limit allows."""
    pair = Load(2 * max_length, 2 * max_length**2)
    origin = f"upper bound, every row of {max_length} tokens: {reason}"
    return Lengths(pair, pair, pair.tokens, max_length, origin, counted=False)


def batch_load(pairs: TokenPairs, batches: Sequence[Sequence[int]], share: bool) -> Load:
    """What micro-batches of pairs compute: padded, or with shared tokens once."""
    total = Load(0, 0)
    for batch in batches:
        rows = list(rows_of(pairs[index] for index in batch))
        longest = max(map(len, rows))
        if share:
            total += Load(len(share_tokens(rows)), sum(len(row) ** 2 for row in rows))
        else:
            total += Load(len(rows) * longest, len(rows) * longest**2)
    return total


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
        pairs = [made.pair for made in test_pairs(cfg.data)]
    elif cfg.benchmark_data is not None and Path(cfg.benchmark_data).exists():
        pairs = benchmark.load(str(cfg.benchmark_data), cfg.eval.ignore)
    else:
        rows = sum(benchmark.protocol(pd.DataFrame()).rows.values())
        return rows, upper_bound(settings.max_length, "no benchmark file on this machine")
    sample = pairs[:: max(1, len(pairs) // cfg.plan.sample_pairs)]
    return len(pairs), find_lengths(sample, folder, settings, drop=False)
