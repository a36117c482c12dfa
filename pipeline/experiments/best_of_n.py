"""Best-of-N: a policy's candidates, a gold that scores them, proxies that pick the best of n.

With bon.policy.engine=synthetic the candidates come from the generator of the data and the trained
checkpoints of the matrix pick (`best_of_n_synthetic`). Otherwise a language model answers the
prompts and proxies are trained (`best_of_n_proxies`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from analysis import figure5, style
from eval.best_of_n import curves as curves_
from eval.best_of_n.settings import GOLDS, BonSettings
from eval.spreadsheet import csv_text
from pipeline.experiments import best_of_n_proxies, best_of_n_synthetic
from pipeline.experiments.best_of_n_scores import Judged
from pipeline.experiments.freeze import check_freeze
from pipeline.experiments.matrix import refuse_words_of_one_run
from pipeline.experiments.measure import Run
from pipeline.experiments.runs import log_file
from pipeline.launch.lock import only_one, only_one_draws
from pipeline.launch.terminal import screen
from pipeline.settings import configuration
from rm.data.sources import is_hub_name
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text
from rm.model.precision import DTYPES
from rm.provenance import environment

MOST_PROMPTS = 400
"""Prompts where bon.prompts.number is null and the data have enough test pairs."""


def run(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run the missing parts of the experiment and draw it; return the results folder."""
    bon = check_all(cfg)
    refuse_words_of_one_run(overrides)
    check_freeze(cfg)
    with screen(log_file(cfg)) as shown:
        shown.line(f"Best-of-N, {label(cfg, bon)}; log: {log_file(cfg)}")
        runs = best_of_n_synthetic.trained(cfg, overrides, shown) if bon.synthetic else []
        with shown.stage("make, check and score the candidates"):
            results = compute(cfg, overrides, runs)
        with shown.stage("draw"), only_one_draws(results):
            draw(results, label(cfg, bon))
    return results


def compute(cfg: DictConfig, overrides: Sequence[str], runs: Sequence[Run]) -> Path:
    """Run the missing parts of the experiment, draw nothing; return the results folder.

    runs: those of the matrix, which pick among a synthetic policy's candidates.
    """
    started, bon, folder = time.time(), check_all(cfg), Path(cfg.runs_dir) / "best_of_n"
    with only_one(folder):
        if bon.synthetic:
            judged, counts = best_of_n_synthetic.judge(cfg, bon, runs)
        else:
            own = OmegaConf.merge(cfg, {"runs_dir": str(folder)})
            assert isinstance(own, DictConfig)
            judged, counts = best_of_n_proxies.judge_all(own, bon, overrides)
        results = Path(cfg.results_dir)
        write_data(cfg, bon, results / "data", judged, counts, time.time() - started)
        return results


def check_all(cfg: DictConfig) -> BonSettings:
    """Return the typed settings; InputError for what cannot work, before anything is computed."""
    bon = settings_of(cfg)
    if cfg.data.kind == "generated":
        if bon.synthetic:
            best_of_n_synthetic.picking(bon, cfg.methods)
        return bon
    if bon.synthetic:
        raise InputError(
            f"bon.policy.engine=synthetic draws from the generator, not from data={cfg.data.name}: "
            "use data=generated_v2, or bon.policy.engine=auto with gold=reward_model"
        )
    if "verifier" in bon.golds:
        raise InputError(
            f"gold=verifier checks generated prompts, not data={cfg.data.name}: "
            "use data=generated_v2 or gold=reward_model"
        )
    gold = bon.gold.checkpoint
    if gold is not None and not (Path(gold).exists() or is_hub_name(gold)):
        raise InputError(f"bon.gold.checkpoint={gold}: neither a folder nor a Hub name OWNER/NAME")
    if gold is None:
        raise InputError(
            f"data={cfg.data.name} needs a gold reward model: give bon.gold.checkpoint=FOLDER|NAME"
        )
    return bon


def settings_of(cfg: DictConfig) -> BonSettings:
    """Return the typed bon section, with `gold` of the command line in it. Raises InputError."""
    section = cfg.bon.copy()
    if section.prompts.number is None:
        section.prompts.number = prompts_by_default(cfg)
    bon = configuration.typed(BonSettings, section)
    choices = {kind: [kind] for kind in GOLDS} | {"both": list(GOLDS)}
    if cfg.gold is not None:
        if cfg.gold not in choices:
            raise InputError(f"gold={cfg.gold}: choose {', '.join(choices)}")
        bon.golds = choices[cfg.gold]
    bon.check()
    if bon.policy.dtype not in DTYPES:
        raise InputError(f"bon.policy.dtype={bon.policy.dtype}: choose {', '.join(DTYPES)}")
    return bon


def prompts_by_default(cfg: DictConfig) -> int:
    """Return `MOST_PROMPTS`, or half as many as Reasoning has test pairs if that is fewer.

    So the small generated data ask for a small Best-of-N.
    """
    pairs = cfg.data.test_pairs["Reasoning"] if cfg.data.kind == "generated" else 2 * MOST_PROMPTS
    return int(min(MOST_PROMPTS, pairs // 2))


def write_data(
    cfg: DictConfig,
    bon: BonSettings,
    folder: Path,
    judged: Sequence[Judged],
    counts: dict[str, int],
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
            "samples": counts,
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
    if bon.synthetic:
        policy, data = "synthetic", "generated prompts"
    return f"policy {policy} · proxies {cfg.model.name} · {data} · bon {bon.name}"


def draw(results: Path, note: str) -> None:
    """Draw Figure 5 and write its tables from what is in results/data."""
    frame = figure5.collect(results / "data")
    style.write_figure(figure5.draw(frame, note=note), results / "figures" / "figure5")
    figure5.write(results / "data", results / "tables", note)
