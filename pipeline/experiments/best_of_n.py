"""Best-of-N against a gold score: python -m scripts.best_of_n profile=cpu [bon=cpu_full] [gold=…].

A policy answers held-out prompts N times; a gold relabels training pairs; proxies (methods × seeds)
are trained on those and pick the best of n; the gold score of what they pick is set against KL.

Writes results/<profile>/data/best_of_n.csv, Figure 5 and three tables. Every stage keeps its output
in runs/<profile>/best_of_n under a name made of all that it depends on, so what is there is not
computed again; sampling goes on after the last prompt that was written, training after its last
checkpoint.
"""

from __future__ import annotations

import gc
import io
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM

from analysis import figure5, style
from eval.best_of_n import curves as curves_
from eval.best_of_n.decoding import PolicyText
from eval.best_of_n.gold import Candidates, Gold, RewardGold, Verifier, require_all
from eval.best_of_n.prompts import Prompt
from eval.best_of_n.relabel import relabel
from eval.best_of_n.sampling import (
    Sampled,
    Sampler,
    marks,
    marks_line,
    sample_all,
    transformers_sampler,
)
from eval.best_of_n.settings import GOLDS, BonSettings
from eval.best_of_n.vllm_engine import is_installed, vllm_sampler
from eval.scoring import Scorer, grouped_rewards
from eval.spreadsheet import csv_text
from generated import generate
from pipeline.experiments.best_of_n_material import Material, find_material
from pipeline.experiments.matrix import PER_RUN, refuse_words_of_one_run
from pipeline.launch.lock import only_one, only_one_draws
from pipeline.run.run_folder import comparable, inputs_of
from pipeline.run.scorers import load_scorer, scores_depend_on
from pipeline.run.training import train
from pipeline.settings import configuration
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.checks import check
from pipeline.settings.words import quoted
from rm.data.preferences import fingerprint, write_pairs
from rm.data.sources import is_hub_name
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text, is_intact, write_checked
from rm.model.backbones import folder_fingerprint
from rm.model.precision import DTYPES, best_device
from rm.model.untrusted import load_weights
from rm.provenance import environment, fingerprint_of

OWN_KEYS = ("bon", "gold", "eval", "runs_dir", "results_dir")
DECODER = "generate"
"""What draws the samples; samples of another decoder are drawn again."""


@dataclass(frozen=True)
class Judged:
    """What one gold gives: scores (prompts, N), those of the proxies, and facts about both."""

    kind: str
    gold: np.ndarray
    proxies: dict[str, dict[int, np.ndarray]]
    facts: dict[str, Any]


def run(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run what is missing of the experiment and draw it; return the results folder."""
    results = compute(cfg, overrides)
    with only_one_draws(results):
        draw(results, label(cfg, settings_of(cfg)))
    return results


def compute(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run what is missing of the experiment, draw nothing; return the results folder."""
    with only_one(Path(cfg.runs_dir)):
        started, bon = time.time(), check_all(cfg)
        refuse_words_of_one_run(overrides)
        kept = proxy_words(overrides)
        for method in bon.proxy.methods:
            check(outline(kept, [*bon.proxy.overrides, f"loss={method}"]))
        material = find_material(cfg, bon)
        sampled = sample(cfg, bon, material.prompts)
        print(marks_line(marks(sampled)), flush=True)
        answered = [one for one in sampled if not one.skipped]
        judged = [judge(cfg, bon, kept, kind, material, answered) for kind in bon.golds]
        results = Path(cfg.results_dir)
        write_data(cfg, bon, results / "data", judged, sampled, time.time() - started)
        return results


def proxy_words(overrides: Sequence[str]) -> list[str]:
    """The command line's words that also belong to a proxy's training, whose data are its own."""
    return configuration.without_keys(overrides, (*OWN_KEYS, "data"), exact=tuple(PER_RUN))


def check_all(cfg: DictConfig) -> BonSettings:
    """Return the typed settings; InputError for what cannot work, before anything is computed."""
    bon = settings_of(cfg)
    if cfg.data.kind == "generated":
        if cfg.data.get("version") == 2:
            raise InputError(f"Best-of-N does not take data={cfg.data.name}: give data=generated")
        return bon
    if "verifier" in bon.golds:
        raise InputError(
            f"gold=verifier checks generated prompts, not data={cfg.data.name}: "
            "use data=generated or gold=reward_model"
        )
    gold = bon.gold.checkpoint
    if gold is not None and not (Path(gold).exists() or is_hub_name(gold)):
        raise InputError(f"bon.gold.checkpoint={gold}: neither a folder nor a name OWNER/NAME")
    if gold is None:
        raise InputError(
            f"data={cfg.data.name} needs a gold reward model: give bon.gold.checkpoint=FOLDER|NAME"
        )
    return bon


def settings_of(cfg: DictConfig) -> BonSettings:
    """Return the typed bon section, with `gold` of the command line in it. Raises InputError."""
    bon = configuration.typed(BonSettings, cfg.bon)
    choices = {kind: [kind] for kind in GOLDS} | {"both": list(GOLDS)}
    if cfg.gold is not None:
        if cfg.gold not in choices:
            raise InputError(f"gold={cfg.gold}: choose {', '.join(choices)}")
        bon.golds = choices[cfg.gold]
    bon.check()
    if bon.policy.dtype not in DTYPES:
        raise InputError(f"bon.policy.dtype={bon.policy.dtype}: choose {', '.join(DTYPES)}")
    return bon


def compose_run(kept: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose the configuration of one training run: the command line's words, then its own."""
    return configuration.compose_config("train", [*kept, *own])


def outline(kept: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose a training run whose pairs are not made yet, to be checked or planned."""
    return compose_run(kept, [*own, "run_dir=.", "data=files", "data.train=."])


def policy_model(cfg: DictConfig, bon: BonSettings) -> DictConfig:
    """The model section of what answers the prompts: bon.policy.path, .model, or the profile's."""
    model = cfg.model
    if bon.policy.model is not None:
        model = configuration.compose_config("train", [f"model={bon.policy.model}"]).model
    if bon.policy.path is not None:
        model = model.copy()
        model.name, model.path = "policy", bon.policy.path
    return model


# --- Sampling ------------------------------------------------------------------------------------


def sample(cfg: DictConfig, bon: BonSettings, prompts: Sequence[Prompt]) -> list[Sampled]:
    """Answer every prompt N times, or read the answers that are there."""
    folder = policy_folder(cfg, bon)
    engine = bon.policy.engine
    if engine == "auto":
        engine = "vllm" if is_installed() else "transformers"
    path = Path(cfg.runs_dir) / f"samples-{samples_fingerprint(bon, folder, engine)}.jsonl"
    at_once = max(1, bon.policy.rows // bon.policy.samples)
    sampled = sample_all(prompts, lambda: open_sampler(bon, folder, engine), path, at_once)
    gc.collect()
    return sampled


def open_sampler(bon: BonSettings, folder: Path, engine: str) -> Sampler:
    """Load the policy into the engine that samples from it."""
    policy = PolicyText.of_folder(folder)
    if engine == "vllm":
        return vllm_sampler(folder, policy, bon.policy.decoding, bon.policy.dtype)
    model = load_weights(AutoModelForCausalLM, folder, dtype=DTYPES[bon.policy.dtype]).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    return transformers_sampler(model, policy, bon.policy.decoding)


def policy_folder(cfg: DictConfig, bon: BonSettings) -> Path:
    """Return the local folder of the policy, fetched or built first where it is not there."""
    return backbone_folder(policy_model(cfg, bon), cfg.cache_dir)


def samples_fingerprint(bon: BonSettings, folder: Path, engine: str) -> str:
    """Fingerprint of all that a prompt's samples depend on, beside the prompt.

    That is the policy's weights, tokenizer and chat template, how it is sampled, and our decoder.
    """
    own = {**asdict(bon.policy), "engine": engine, "model": None, "path": None}
    return fingerprint_of([DECODER, folder_fingerprint(folder), own])


# --- Gold and proxies ----------------------------------------------------------------------------


def judge(
    cfg: DictConfig,
    bon: BonSettings,
    kept: Sequence[str],
    kind: str,
    material: Material,
    answered: Sequence[Sampled],
) -> Judged:
    """Score the samples by one gold, relabel the pairs, train the proxies and let them score."""
    folder = Path(cfg.runs_dir)
    gold, name = open_gold(cfg, bon, kept, kind)
    texts = [Candidates(one.prompt.turns, one.prompt.subset, tuple(one.texts)) for one in answered]
    samples = fingerprint_of([[list(t.prompt), t.texts] for t in texts])
    path = folder / f"gold-{kind}-{fingerprint_of([name, samples])}.npy"
    truth = kept_array(path, lambda: np.array(require_all(gold().score(texts), texts)))
    train_file, report = relabelled(folder, kind, name, gold, material)
    proxies: dict[str, dict[int, np.ndarray]] = {}
    runs = [(method, seed) for method in bon.proxy.methods for seed in bon.proxy.seeds]
    for number, (method, seed) in enumerate(runs, start=1):
        print(f"[{kind} {number}/{len(runs)}] {method}, seed {seed}", flush=True)
        own = [*bon.proxy.overrides, "data=files", f"data.train={quoted(str(train_file))}"]
        own += ["data.validation_share=0.0", f"loss={method}", f"seed={seed}"]
        proxies.setdefault(method, {})[seed] = proxy_scores(cfg, bon, kept, own, texts, samples)
    return Judged(kind, truth, proxies, {"gold": name, "relabelled": report})


def open_gold(
    cfg: DictConfig, bon: BonSettings, kept: Sequence[str], kind: str
) -> tuple[Callable[[], Gold], Any]:
    """Return what makes the gold (only where it is needed) and what identifies it."""
    if kind == "verifier":
        return Verifier, "generated.verify"
    checkpoint, name = bon.gold.checkpoint, bon.gold.checkpoint
    if checkpoint is None:
        run = train_gold(cfg, bon, kept)
        checkpoint, name = str(run / "checkpoint"), run.name
    elif (Path(checkpoint) / "config.json").is_file():  # else load_scorer says what is wrong
        name = folder_fingerprint(checkpoint)
    opened: list[Gold] = []

    def once() -> Gold:
        if not opened:
            opened.append(RewardGold(open_scorer(cfg, str(checkpoint), "gold")))
        return opened[0]

    return once, {"reward model": name, "eval": scores_depend_on(cfg.eval)}


def train_gold(cfg: DictConfig, bon: BonSettings, kept: Sequence[str]) -> Path:
    """Train the gold reward model on all generated pairs but the proxies'; return its run folder.

    Raises InputError where the data are not generated or no pairs are set.
    """
    if cfg.data.kind != "generated" or bon.gold.pairs < 1:
        raise InputError(
            "gold=reward_model needs bon.gold.checkpoint=FOLDER|NAME, or bon.gold.pairs"
        )
    pairs = [made.pair for made in generate("train", bon.gold.pairs, cfg.data.seed)]
    path = Path(cfg.runs_dir) / "data" / f"gold-{fingerprint(pairs)[:16]}.jsonl"
    write_pairs(pairs, path)
    own = [
        *bon.gold.overrides,
        "data=files",
        f"data.train={quoted(str(path))}",
        "data.validation_share=0.0",
    ]
    run = run_folder(cfg, kept, own, "gold")
    train(compose_run(kept, [*own, f"run_dir={quoted(str(run))}"]))
    gc.collect()
    return run


def run_folder(cfg: DictConfig, kept: Sequence[str], own: Sequence[str], prefix: str) -> Path:
    """Return a run's folder, named by everything that its result depends on."""
    one = compose_run(kept, [*own, "run_dir=."])
    return Path(cfg.runs_dir) / f"{prefix}-{fingerprint_of([comparable(one), inputs_of(one)])}"


def relabelled(
    folder: Path, kind: str, name: Any, gold: Callable[[], Gold], material: Material
) -> tuple[Path, dict[str, Any]]:
    """Write the pairs under the gold's preference, once; return the file and the report."""
    stage = fingerprint_of([kind, name, fingerprint(material.pairs)])
    path, noted = (folder / "data" / f"relabelled-{stage}{end}" for end in (".jsonl", ".json"))
    if not noted.is_file():
        items = [
            Candidates(pair.prompt, subset, pair.sides)
            for pair, subset in zip(material.pairs, material.subsets, strict=True)
        ]
        pairs, report = relabel(material.pairs, gold().score(items))
        write_pairs(pairs, path)
        print(f"{kind}: {report.line()}", flush=True)
        atomic_write_json(noted, report.as_dict())
    return path, json.loads(noted.read_text())


def proxy_scores(
    cfg: DictConfig,
    bon: BonSettings,
    kept: Sequence[str],
    own: Sequence[str],
    texts: Sequence[Candidates],
    samples: str,
) -> np.ndarray:
    """Train one proxy and score all samples with it, (prompts, N); kept in its run folder."""
    run = run_folder(cfg, kept, own, "proxy")
    path = run / f"scores-{fingerprint_of([samples, scores_depend_on(cfg.eval)])}.npy"

    def make() -> np.ndarray:
        if not (run / "checkpoint").is_dir():
            (run / "manifest.json").unlink(missing_ok=True)
        train(compose_run(kept, [*own, f"run_dir={quoted(str(run))}"]))
        gc.collect()
        scorer = open_scorer(cfg, str(run / "checkpoint"), "proxy")
        encoded = [scorer.encode(item.prompt, item.texts)[0] for item in texts]
        return np.array(grouped_rewards(scorer, encoded))

    scores = kept_array(path, make)
    if not bon.proxy.keep:
        for name in ("checkpoint", "trainer"):
            shutil.rmtree(run / name, ignore_errors=True)
    return scores


def open_scorer(cfg: DictConfig, checkpoint: str, name: str) -> Scorer:
    """Load a reward model with the settings it was trained with, where `eval` does not override."""
    return load_scorer(
        checkpoint, cfg.eval, Path(cfg.cache_dir), label=f"score ({name})", device=best_device()
    )


def kept_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `path`, made and written first where it is not there or damaged."""
    if not is_intact(path):
        buffer = io.BytesIO()
        np.save(buffer, make())
        write_checked(path, buffer.getvalue())
    return np.load(path)


# --- Results -------------------------------------------------------------------------------------


def write_data(
    cfg: DictConfig,
    bon: BonSettings,
    folder: Path,
    judged: Sequence[Judged],
    sampled: Sequence[Sampled],
    seconds: float,
) -> None:
    """Write best_of_n.csv, best_of_n_overoptimisation.csv and best_of_n.json."""
    tables, falls, facts = [], [], {}
    for one in judged:
        curves = curves_.curves_of(one.gold, one.proxies)
        tables.append(curves_.table(curves, one.gold, bon.resamples).assign(gold_kind=one.kind))
        falls.append(curves_.overoptimisation(curves, bon.resamples).assign(gold_kind=one.kind))
        facts[one.kind] = {**one.facts, "policy_gold": policy_gold(one.gold)}
    for name, frames in (("best_of_n", tables), ("best_of_n_overoptimisation", falls)):
        text = csv_text(pd.concat(frames), float_format="%.6g")
        atomic_write_text(folder / f"{name}.csv", text)
    atomic_write_json(
        folder / "best_of_n.json",
        {
            "label": label(cfg, bon),
            "bon": asdict(bon),
            "samples": marks(sampled),
            "golds": facts,
            "seconds_of_this_call": round(seconds, 1),
            "environment": environment(),
        },
    )


def policy_gold(gold: np.ndarray) -> dict[str, Any]:
    """Say how the policy itself scores, in the gold's units, and how much there is to select."""
    constant = (gold.max(axis=1) == gold.min(axis=1)).mean()
    return {
        "mean": float(gold.mean()),
        "standard_deviation": float(gold.std()),
        "prompts_with_one_score": float(constant),
    }


def label(cfg: DictConfig, bon: BonSettings) -> str:
    """One line for every table and figure: policy, data, gold, scale."""
    policy = bon.policy.path or bon.policy.model or cfg.model.name
    data = "generated prompts and pairs" if cfg.data.kind == "generated" else cfg.data.name
    return f"policy {policy} · proxies {cfg.model.name} · {data} · bon {bon.name}"


def draw(results: Path, note: str) -> None:
    """Draw Figure 5 and write its tables from what is in results/data."""
    frame = figure5.collect(results / "data")
    style.write_figure(figure5.draw(frame, note=note), results / "figures" / "figure5")
    figure5.write(results / "data", results / "tables", note)
