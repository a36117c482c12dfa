"""Best-of-N with a real policy: sample it, relabel pairs with a gold, train proxies on them.

Every stage keeps its output in runs/<profile>/best_of_n under a name made of all that it depends
on. Sampling resumes after the last prompt that was written, training from its last checkpoint.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from eval.best_of_n.gold import Candidates, Gold, RewardGold, Verifier, require_all
from eval.best_of_n.prompts import Prompt
from eval.best_of_n.relabel import relabel
from eval.best_of_n.sampling import Sampled, marks, marks_line
from eval.best_of_n.settings import BonSettings
from eval.best_of_n.vllm_engine import is_installed
from generated import generate
from pipeline.experiments.best_of_n_material import Material, find_material
from pipeline.experiments.best_of_n_scores import (
    Judged,
    kept_array,
    score_all,
    scores_file,
    texts_fingerprint,
)
from pipeline.experiments.matrix import kept_words
from pipeline.experiments.sampling_ranks import SamplingJob, sample_prompts
from pipeline.run.run_folder import comparable, inputs_of
from pipeline.run.scorers import scores_depend_on
from pipeline.run.scoring_ranks import RankedScorer, scoring_devices
from pipeline.run.training import train
from pipeline.settings import configuration
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.checks import check
from pipeline.settings.words import quoted
from rm.data.preferences import fingerprint, write_pairs
from rm.errors import InputError
from rm.files import atomic_write_json
from rm.model.backbones import folder_fingerprint
from rm.provenance import fingerprint_of

DECODER = "generate"
"""Name of the decoder that draws the samples; those of another decoder are drawn again."""
SYNTHETIC = ("right", "variants")
"""Settings of a synthetic policy only: samples of a real policy do not depend on them."""


def judge_all(
    cfg: DictConfig, bon: BonSettings, overrides: Sequence[str]
) -> tuple[list[Judged], dict[str, int]]:
    """Sample the policy, score with every gold and its proxies; also return counts of samples."""
    kept = proxy_words(overrides)
    for method in bon.proxy.methods:
        check(outline(kept, [*bon.proxy.overrides, f"loss={method}"]))
    material = find_material(cfg, bon)
    sampled = sample(cfg, bon, material.prompts)
    print(marks_line(marks(sampled)), flush=True)
    answered = [one for one in sampled if not one.skipped]
    judged = [judge(cfg, bon, kept, kind, material, answered) for kind in bon.golds]
    return judged, marks(sampled)


def proxy_words(overrides: Sequence[str]) -> list[str]:
    """The command line's words that also apply to training a proxy, which has data of its own."""
    return configuration.without_keys(kept_words(overrides), ("data",))


def compose_run(kept: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose the configuration of one training run: the command line's words, then its own."""
    return configuration.compose_config("train", [*kept, *own])


def outline(kept: Sequence[str], own: Sequence[str]) -> DictConfig:
    """Compose a training run whose pairs are not made yet, to be checked or planned."""
    return compose_run(kept, [*own, "run_dir=.", "data=files", "data.train=."])


def policy_model(cfg: DictConfig, bon: BonSettings) -> DictConfig:
    """The policy's model section: from bon.policy.path, bon.policy.model, or the profile."""
    model = cfg.model
    if bon.policy.model is not None:
        model = configuration.compose_config("train", [f"model={bon.policy.model}"]).model
    if bon.policy.path is not None:
        model = model.copy()
        model.name, model.path = "policy", bon.policy.path
    return model


# --- Sampling ------------------------------------------------------------------------------------


def sample(cfg: DictConfig, bon: BonSettings, prompts: Sequence[Prompt]) -> list[Sampled]:
    """Answer every prompt N times, or read the answers if they exist."""
    folder = policy_folder(cfg, bon)
    engine = bon.policy.engine
    if engine == "auto":
        engine = "vllm" if is_installed() else "transformers"
    path = Path(cfg.runs_dir) / f"samples-{samples_fingerprint(bon, folder, engine)}.jsonl"
    job = SamplingJob(prompts, bon.policy, folder, engine, path)
    sampled = sample_prompts(job, scoring_devices(cfg))
    gc.collect()
    return sampled


def policy_folder(cfg: DictConfig, bon: BonSettings) -> Path:
    """Return the local folder of the policy; fetch or build it first if it is missing."""
    return backbone_folder(policy_model(cfg, bon), cfg.cache_dir)


def samples_fingerprint(bon: BonSettings, folder: Path, engine: str) -> str:
    """Fingerprint of all that a prompt's samples depend on, except the prompt.

    That is: the policy's weights, tokenizer and chat template, sampling settings, and our decoder.
    """
    own = {**asdict(bon.policy), "engine": engine, "model": None, "path": None}
    how = {key: value for key, value in own.items() if key not in SYNTHETIC}
    return fingerprint_of([DECODER, folder_fingerprint(folder), how])


# --- Gold and proxies ----------------------------------------------------------------------------


def judge(
    cfg: DictConfig,
    bon: BonSettings,
    kept: Sequence[str],
    kind: str,
    material: Material,
    answered: Sequence[Sampled],
) -> Judged:
    """Score the samples with one gold, relabel the pairs, train the proxies, score with them."""
    folder = Path(cfg.runs_dir)
    gold, name = open_gold(cfg, bon, kept, kind)
    texts = [Candidates(one.prompt.turns, one.prompt.subset, tuple(one.texts)) for one in answered]
    samples = texts_fingerprint(texts)
    path = folder / f"gold-{kind}-{fingerprint_of([name, samples])}.npy"
    truth = kept_array(path, lambda: np.array(require_all(gold_scores(gold(), texts), texts)))
    train_file, report = relabelled(folder, kind, name, gold, material)
    proxies: dict[str, dict[int, np.ndarray]] = {}
    runs = [(method, seed) for method in bon.proxy.methods for seed in bon.proxy.seeds]
    for number, (method, seed) in enumerate(runs, start=1):
        print(f"[{kind} {number}/{len(runs)}] {method}, seed {seed}", flush=True)
        own = [*bon.proxy.overrides, "data=files", f"data.train={quoted(str(train_file))}"]
        own += ["data.validation_share=0.0", f"loss={method}", f"seed={seed}"]
        proxies.setdefault(method, {})[seed] = proxy_scores(cfg, bon, kept, own, texts)
    return Judged(kind, truth, proxies, {"gold": name, "relabelled": report})


def open_gold(
    cfg: DictConfig, bon: BonSettings, kept: Sequence[str], kind: str
) -> tuple[Callable[[], Gold], Any]:
    """Return a function that makes the gold when it is needed, and what identifies the gold."""
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
            folder, devices = Path(cfg.runs_dir) / "scoring", scoring_devices(cfg)
            ranked = RankedScorer(cfg, str(checkpoint), "gold", folder, devices)
            opened.append(RewardGold(ranked.open(), ranked.rewards))
        return opened[0]

    return once, {"reward model": name, "eval": scores_depend_on(cfg.eval)}


def gold_scores(gold: Gold, items: Sequence[Candidates]) -> list[list[float | None]]:
    """Score with the gold, and say how many prompts its length cut."""
    scores = gold.score(items)
    if isinstance(gold, RewardGold) and gold.truncated:
        most = f"{gold.scorer.max_length:,} tokens"
        print(f"gold: {gold.truncated:,} of {len(items):,} prompts cut to {most}", flush=True)
    return scores


def train_gold(cfg: DictConfig, bon: BonSettings, kept: Sequence[str]) -> Path:
    """Train the gold on generated pairs that no proxy sees; return its run folder.

    Raises InputError if the data are not generated or bon.gold.pairs is not set.
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
    """Write the pairs as the gold labels them, once; return the file and the report."""
    stage = fingerprint_of([kind, name, fingerprint(material.pairs)])
    path, noted = (folder / "data" / f"relabelled-{stage}{end}" for end in (".jsonl", ".json"))
    if not noted.is_file():
        items = [
            Candidates(pair.prompt, subset, pair.sides)
            for pair, subset in zip(material.pairs, material.subsets, strict=True)
        ]
        pairs, report = relabel(material.pairs, gold_scores(gold(), items))
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
) -> np.ndarray:
    """Train one proxy and score all samples with it, (prompts, N); kept in its run folder."""
    run = run_folder(cfg, kept, own, "proxy")

    def make() -> np.ndarray:
        if not (run / "checkpoint").is_dir():
            (run / "manifest.json").unlink(missing_ok=True)
        train(compose_run(kept, [*own, f"run_dir={quoted(str(run))}"]))
        gc.collect()
        return score_all(cfg, run / "checkpoint", texts)

    scores = kept_array(scores_file(run / "scores", cfg, texts), make)
    if not bon.proxy.keep:
        for name in ("checkpoint", "trainer"):
            shutil.rmtree(run / name, ignore_errors=True)
    return scores
