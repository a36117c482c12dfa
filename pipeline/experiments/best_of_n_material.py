"""Prompts and pairs of a Best-of-N experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

from eval.best_of_n.prompts import (
    Prompt,
    choose,
    prompts_of_generated,
    prompts_of_pairs,
)
from eval.best_of_n.settings import BonSettings
from generated import SUBSETS, GeneratedPair, generate
from generated.candidates import Asked, ask
from generated.core import Split
from pipeline.settings.data import TrainingData, load_data
from rm.data.preferences import PreferencePair
from rm.errors import InputError


@dataclass(frozen=True)
class Material:
    """Held-out prompts and the pairs that the gold will relabel, with their generated subsets."""

    prompts: list[Prompt]
    pairs: list[PreferencePair]
    subsets: list[str]


# --- Prompts and pairs ---------------------------------------------------------------------------


def find_prompts(cfg: DictConfig, bon: BonSettings) -> list[Prompt]:
    """Return only the held-out prompts, which is much faster than `find_material`.

    Raises InputError if fewer prompts are held out than are asked for, or for an unknown subset.
    """
    if bon.synthetic:
        return [
            Prompt(one.key, ({"role": "user", "content": one.prompt},), one.subset)
            for one in asked_prompts(cfg, bon)
        ]
    if cfg.data.kind == "generated":
        return _generated_prompts(cfg, bon, subsets_of(bon))
    return _source_prompts(_source(cfg, bon), bon, cfg.data.seed)


def asked_prompts(cfg: DictConfig, bon: BonSettings) -> list[Asked]:
    """Return the test prompts that a synthetic policy answers. Raises InputError as `ask`."""
    return ask("test", bon.prompts.number, cfg.data.seed, bon.prompts.subsets)


def find_material(cfg: DictConfig, bon: BonSettings) -> Material:
    """Return prompts and pairs of the configured data: generated, or a source's own splits."""
    if cfg.data.kind == "generated":
        return _generated(cfg, bon)
    return _from_source(cfg, bon)


def _from_source(cfg: DictConfig, bon: BonSettings) -> Material:
    """Prompts of the validation split, and a seeded sample of training pairs with other prompts."""
    data = _source(cfg, bon)
    order = np.random.default_rng(cfg.data.seed).permutation(len(data.train))
    pairs = [data.train[place] for place in sorted(order[: bon.proxy.pairs])]
    return Material(_source_prompts(data, bon, cfg.data.seed), pairs, [""] * len(pairs))


def _source(cfg: DictConfig, bon: BonSettings) -> TrainingData:
    """Load a source; if its validation pairs are limited, take four for every wanted prompt.

    Four, because a prompt may have several pairs.
    """
    settings = cfg.data.copy()
    if settings.get("validation_limit") is not None:
        settings.validation_limit = max(settings.validation_limit, 4 * bon.prompts.number)
    return load_data(settings)


def _source_prompts(data: TrainingData, bon: BonSettings, seed: int) -> list[Prompt]:
    """A seeded sample of the validation prompts: a source may list them by origin."""
    prompts = prompts_of_pairs(data.validation)
    order = np.random.default_rng(seed).permutation(len(prompts))
    return choose([prompts[place] for place in order], bon.prompts.number)


def _generated(cfg: DictConfig, bon: BonSettings) -> Material:
    """Test prompts and training pairs of the chosen subsets.

    No pair is in the profile's own training data or in the gold's.
    """
    subsets = subsets_of(bon)
    prompts = _generated_prompts(cfg, bon, subsets)
    others = gold_pairs(cfg, bon)
    taken = {made.pair.prompt[-1]["content"] for made in others}
    most = max(Counter(made.subset for made in others)[subset] for subset in subsets)
    each = most + -(-bon.proxy.pairs // len(subsets))
    fresh = [
        made
        for made in of_subsets("train", each, cfg.data.seed, subsets)
        if made.pair.prompt[-1]["content"] not in taken
    ]
    made_by_id = {made.pair.pair_id: made for made in fresh}
    chosen = choose(prompts_of_generated(fresh), bon.proxy.pairs)
    made = [made_by_id[one.prompt_id] for one in chosen]
    return Material(prompts, [one.pair for one in made], [one.subset for one in made])


def _generated_prompts(cfg: DictConfig, bon: BonSettings, subsets: Sequence[str]) -> list[Prompt]:
    each = -(-bon.prompts.number // len(subsets))
    made = of_subsets("test", each, cfg.data.seed, subsets)
    return choose(prompts_of_generated(made), bon.prompts.number)


def subsets_of(bon: BonSettings) -> Sequence[str]:
    """The generated subsets that prompts are taken from: the named ones, or all."""
    return bon.prompts.subsets or [name for names in SUBSETS.values() for name in names]


def gold_pairs(cfg: DictConfig, bon: BonSettings) -> list[GeneratedPair]:
    """Pairs that no proxy sees: those of a gold that is trained here, and the profile's own pool.

    With one seed, a larger set contains every smaller one, so the larger number covers both.
    """
    return generate("train", max(bon.gold.pairs, cfg.data.pool_pairs), cfg.data.seed)


def of_subsets(split: Split, each: int, seed: int, subsets: Sequence[str]) -> list[GeneratedPair]:
    """Generate `each` pairs of every one of the subsets.

    Raises InputError for a subset that does not exist.
    """
    known = {name: section for section, names in SUBSETS.items() for name in names}
    unknown = sorted(set(subsets) - set(known))
    if unknown:
        raise InputError(
            f"bon.prompts.subsets: no subset {unknown[0]!r}: choose from {', '.join(known)}"
        )
    sections = [one for one in SUBSETS if one in {known[name] for name in subsets}]
    sizes = {section: each * len(SUBSETS[section]) for section in sections}
    return [one for one in generate(split, sizes, seed) if one.subset in set(subsets)]
