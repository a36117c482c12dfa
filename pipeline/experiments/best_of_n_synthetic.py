"""Best-of-N with a synthetic policy: the data's generator gives candidates, the matrix picks.

Nothing is decoded or relabelled, and only the matrix is trained. A prompt's candidates are
independent draws from one distribution, so the best of n has the usual KL of ln n − (n − 1)/n from
it (an upper bound where candidates repeat, as for any policy that may say the same twice).
"""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from analysis.style import plural
from eval.best_of_n.gold import Candidates, Verifier, require_all
from eval.best_of_n.settings import BonSettings
from generated.candidates import candidates
from pipeline.experiments.best_of_n_material import asked_prompts
from pipeline.experiments.best_of_n_scores import Judged, kept_array, score_all, scores_file
from pipeline.experiments.matrix import choose_rates, run_configs
from pipeline.experiments.measure import Run
from pipeline.experiments.runs import do_all
from pipeline.launch.lock import only_one
from pipeline.launch.side_by_side import Job
from pipeline.launch.terminal import Screen
from pipeline.run.training import train
from rm.errors import InputError
from rm.files import is_intact

STEM = "best_of_n"
"""Prefix of the files with a run's scores of the candidates."""


def trained(cfg: DictConfig, overrides: Sequence[str], shown: Screen) -> list[Run]:
    """Train the missing runs of the matrix, as scripts.reproduce does; return all its runs."""
    with only_one(Path(cfg.runs_dir)):
        rates = choose_rates(cfg, overrides, shown, keep_others=True)
        configs = run_configs(cfg, overrides, rates)
        runs = [Run(one.loss.name, one.seed, Path(one.run_dir)) for one in configs]
        jobs = [
            Job(f"{run.method}, seed {run.seed}", train, (one,))
            for run, one in zip(runs, configs, strict=True)
        ]
        do_all(cfg, shown, f"train {plural(len(runs), 'model')}", jobs, runs, configs)
    return runs


def draw(cfg: DictConfig, bon: BonSettings) -> list[Candidates]:
    """Draw the candidates of every prompt; they depend only on the prompt and on bon.policy."""
    policy = bon.policy
    drawn = []
    for asked in asked_prompts(cfg, bon):
        rng = random.Random(f"{policy.seed}/{asked.key}")
        made = candidates(asked, policy.samples, rng, right=policy.right, variants=policy.variants)
        turns = ({"role": "user", "content": asked.prompt},)
        drawn.append(Candidates(turns, asked.subset, tuple(one.text for one in made)))
    return drawn


def judge(
    cfg: DictConfig, bon: BonSettings, runs: Sequence[Run]
) -> tuple[list[Judged], dict[str, int]]:
    """Verify all candidates, score them with every run that picks; also return their counts.

    Raises InputError if no run picks, or if one that does has neither its scores nor its weights.
    """
    methods = picking(bon, [run.method for run in runs])
    texts = draw(cfg, bon)
    gold = np.array(require_all(Verifier().score(texts), texts))
    counts = {
        "prompts": len(texts),
        "responses": gold.size,
        "distinct": sum(len(set(item.texts)) for item in texts),
        "right": int(gold.sum()),
    }
    print(
        f"{counts['responses']:,} candidates of {counts['prompts']:,} prompts, "
        f"{counts['distinct']:,} distinct, {counts['right']:,} right",
        flush=True,
    )
    proxies: dict[str, dict[int, np.ndarray]] = {}
    for run in (run for run in runs if run.method in methods):
        proxies.setdefault(run.method, {})[run.seed] = run_scores(cfg, run, texts)
        gc.collect()
    return [Judged("verifier", gold, proxies, {"gold": "generated.verify"})], counts


def picking(bon: BonSettings, methods: Sequence[str]) -> list[str]:
    """Return the methods of the matrix that pick. Raises InputError if none does."""
    chosen = [method for method in dict.fromkeys(methods) if method in bon.proxy.methods]
    if not chosen:
        raise InputError(
            f"bon.proxy.methods={bon.proxy.methods}: none is in the matrix: name some of "
            f"{', '.join(methods)}"
        )
    return chosen


def run_scores(cfg: DictConfig, run: Run, texts: Sequence[Candidates]) -> np.ndarray:
    """Scores (prompts, N) of all candidates by a run's checkpoint, kept in the run's folder."""

    def make() -> np.ndarray:
        if not run.checkpoint.is_dir():
            raise InputError(weights_gone(run))
        return score_all(cfg, run.checkpoint, texts)

    return kept_array(scores_file(run.folder / STEM, cfg, texts), make)


def unscorable(cfg: DictConfig, bon: BonSettings, runs: Sequence[Run]) -> str | None:
    """Name a run that can't pick, having neither its scores nor its weights; None if all can."""
    methods = picking(bon, [run.method for run in runs])
    lacking = [run for run in runs if run.method in methods and not run.checkpoint.is_dir()]
    texts = draw(cfg, bon) if lacking else []
    files = [scores_file(run.folder / STEM, cfg, texts) for run in lacking]
    lost = [run for run, file in zip(lacking, files, strict=True) if not is_intact(file)]
    return weights_gone(lost[0]) if lost else None


def weights_gone(run: Run) -> str:
    """Say what to do about a run that cannot score the candidates any more."""
    return (
        f"{run.folder} has not scored these candidates and its weights are gone: delete that "
        "folder, and the same command retrains it"
    )
