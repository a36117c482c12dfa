"""The whole pipeline: a matrix of runs, measurements, figures, tables, Best-of-N, the report."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from analysis import report
from analysis.gallery import draw_all, redraw
from analysis.style import MODELS, plural
from analysis.table1 import BASELINES_FILE
from analysis.tables import TEXTS
from eval.baselines import baselines
from eval.benchmarks import BENCHMARKS
from eval.rows import sample_rows
from eval.spreadsheet import csv_text, write_parquet
from pipeline.experiments import best_of_n, best_of_n_synthetic, measure
from pipeline.experiments.best_of_n_material import find_prompts
from pipeline.experiments.freeze import check_freeze
from pipeline.experiments.matrix import (
    benchmark_data,
    check_call,
    choose_rates,
    command,
    evaluate_run,
    label,
    prompts_trained_on,
    run_configs,
    run_facts,
    scored_how,
    train_and_score,
    train_config,
)
from pipeline.experiments.measure import UNTRAINED, Run
from pipeline.experiments.runs import do_all, log_file, workers_of
from pipeline.launch.lock import only_one, only_one_draws
from pipeline.launch.side_by_side import Job
from pipeline.launch.terminal import Screen, in_words
from pipeline.launch.terminal import screen as open_screen
from pipeline.run.run_folder import MODEL_FILE, backbone_of
from pipeline.run.training import scoring_settings
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.checks import check
from pipeline.settings.data import labels_of, load_data, require_facts
from pipeline.settings.objective import objective_of
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text, read_json
from rm.model.checkpoints import keeps_head, new_reward_model, save_reward_model
from rm.model.precision import DTYPES
from rm.provenance import environment

COMMITTED = {"confirmatory": "cpu", "replication": "gemma", "rivals": "exploratory_rivals"}
"""Experiment → folder below results/."""
TIMED_BY = (
    *("model.name", "data.kind", "training.part", "training.top_layers", "training.epochs"),
    *("training.reuse_trunk", "training.share_prefix", "training.max_length"),
    "training.compute_dtype",
)
"""Settings that the training time per pair depends on most."""


def reproduce(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run the missing parts of the pipeline; return the results folder.

    The terminal shows stages and what matters; everything else goes to <runs_dir>/log.txt. Raises
    InputError for what cannot work, and if another process works in the runs' folder.
    """
    with (
        only_one(Path(cfg.runs_dir)),
        only_one_draws(Path(cfg.results_dir)),
        open_screen(log_file(cfg)) as screen,
    ):
        return _reproduce(cfg, overrides, screen)


def _reproduce(cfg: DictConfig, overrides: Sequence[str], screen: Screen) -> Path:
    started = time.time()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    check_call(cfg, overrides)
    for line in outline(cfg):
        screen.line(line)
    with screen.stage("check settings and data"):
        check_methods(cfg, overrides)
        freeze = None if cfg.until == "rates" else check_freeze(cfg)  # before hours of pilot runs
        left_out = best_of_n_left_out(cfg)
        if left_out is None:
            find_prompts(cfg, best_of_n.settings_of(cfg))  # too few: said before training
        runs_dir, results = Path(cfg.runs_dir), Path(cfg.results_dir)
        test = benchmark_data(cfg, runs_dir)
        seen = prompts_trained_on(cfg, test)
    if left_out is not None:
        screen.line(f"Best-of-N is left out: {left_out}")
    if seen:
        screen.line(f"{seen} test pairs share their prompt with a training pair")
    rates = choose_rates(cfg, overrides, screen)
    if cfg.until == "rates":
        return results
    with screen.stage("score the untrained backbone"):
        untrained = make_untrained(cfg, runs_dir)
        evaluate_run(cfg, untrained, test)  # no test pair is scored before rates are chosen
    configs = run_configs(cfg, overrides, rates)
    runs = [Run(c.loss.name, c.seed, Path(c.run_dir)) for c in configs]
    jobs = [
        Job(f"{run.method}, seed {run.seed}", train_and_score, (cfg, one, run, test))
        for one, run in zip(configs, runs, strict=True)
    ]
    do_all(cfg, screen, f"train and score {plural(len(runs), 'model')}", jobs, runs, configs)
    with screen.stage("measure gradients and distances"):
        measure_all(cfg, [untrained, *runs], test, results / "data")
    with screen.stage("fit baselines that read no prompt"):
        write_baselines(cfg, test, results / "data")
    collect(cfg, results / "data", [untrained, *runs])
    if left_out is None and (left_out := best_of_n_without_weights(cfg, runs)) is not None:
        screen.line(f"Best-of-N is left out: {left_out}")
    # Best-of-N may take hours and fail: everything else is written before it starts.
    state = "not finished" if left_out is None else f"left out: {left_out}"
    if left_out is not None and (results / "data" / "best_of_n.csv").is_file():
        state += "; what is shown is an earlier call's"
    facts = {"test_pairs_trained_on": seen, **({"freeze": freeze} if freeze else {})}
    write_manifest(cfg, overrides, results, runs, facts | {"best_of_n": state}, started)
    with screen.stage("draw figures and tables"):
        items = draw_all(results)
    if left_out is None:
        with screen.stage("Best-of-N"):
            best_of_n.compute(cfg, overrides, runs)
        items = redraw(results, ("best_of_n", "figure5"))
        write_manifest(cfg, overrides, results, runs, facts | {"best_of_n": cfg.bon.name}, started)
    if not cfg.keep_checkpoints:
        for run in runs:
            shutil.rmtree(run.checkpoint, ignore_errors=True)
    print("\n".join(item.line() for item in items))
    report.write(results)
    return results


def outline(cfg: DictConfig) -> list[str]:
    """What a call will run, roughly how long it takes, and where the log is."""
    number, seeds = len(cfg.methods) * len(cfg.seeds), plural(len(cfg.seeds), "seed")
    grid = f", learning rates from {len(cfg.grid)} for each" if cfg.grid else ""
    first = (
        f"{cfg.profile.name}: {plural(number, 'model')} ({plural(len(cfg.methods), 'method')} × "
        f"{seeds}{grid}), {workers_of(cfg)} side by side; results go to {cfg.results_dir}"
    )
    time_taken = None if cfg.grid else expected_time(cfg, number)
    return [first, *([time_taken] if time_taken else []), f"log: {log_file(cfg)}"]


def committed_folder(cfg: DictConfig) -> Path:
    """The committed results to compare with: of the same experiment, or of `make reproduce`."""
    experiment = cfg.get("experiment")
    return Path("results") / COMMITTED.get(experiment.name if experiment else "", "default")


def expected_time(cfg: DictConfig, number: int) -> str | None:
    """How long a call of `number` runs takes at the speed of the committed runs, as a line.

    All stages, where the committed call made as many runs on as many pairs from nothing; else
    training alone. None unless model, trained part and epochs are theirs (`TIMED_BY`), and the
    number of pairs is configured.
    """
    path = committed_folder(cfg) / "manifest.json"
    if not path.is_file() or "train_pairs" not in cfg.data:
        return None
    manifest = read_json(path)
    runs, whole = manifest["runs"], manifest["seconds_of_this_call"]
    made = OmegaConf.create(runs[0]["config"])  # the others have the same model and data
    if any(OmegaConf.select(made, key) != OmegaConf.select(cfg, key) for key in TIMED_BY):
        return None
    workers, pairs = min(workers_of(cfg), number), made.data.train_pairs
    speed = f"at the speed of {committed_folder(cfg)}"
    trained = sum(run["seconds"] for run in runs) / workers  # a call that resumed took less
    if (len(runs), pairs) == (number, cfg.data.train_pairs) and trained < whole:
        return f"about {in_words(whole)} from nothing {speed}"
    seconds = statistics.median(run["seconds"] for run in runs) * cfg.data.train_pairs / pairs
    return f"about {in_words(seconds * number / workers)} of training {speed}"


def check_methods(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise InputError, before hours of training, for a method that cannot work on these data."""
    labels = labels_of(load_data(cfg.data).train)
    for method in cfg.methods:
        one = train_config(cfg, overrides, method, cfg.seeds[0], "train")
        check(one)
        require_facts(labels, objective_of(one.loss))


def best_of_n_left_out(cfg: DictConfig) -> str | None:
    """Why this call leaves Best-of-N out; None if it does not. Raises InputError if it cannot work.

    Only the configuration is read: `find_prompts` checks whether enough prompts are held out.
    """
    if cfg.best_of_n is False:
        return "best_of_n=false"
    try:
        best_of_n.check_all(cfg)
    except InputError as error:
        if cfg.best_of_n is None:
            return str(error)
        raise
    return None


def best_of_n_without_weights(cfg: DictConfig, runs: Sequence[Run]) -> str | None:
    """Why the matrix can't pick in Best-of-N (an earlier call dropped weights); None if it can.

    Raises InputError instead if best_of_n=true.
    """
    bon = best_of_n.settings_of(cfg)
    reason = best_of_n_synthetic.unscorable(cfg, bon, runs) if bon.synthetic else None
    if reason is not None and cfg.best_of_n:
        raise InputError(reason)
    return reason


def make_untrained(cfg: DictConfig, runs_dir: Path) -> Run:
    """Save what training starts from, to score as any other checkpoint."""
    run = Run(UNTRAINED, 0, runs_dir / UNTRAINED)
    settings = check(cfg)
    own = {"loss": UNTRAINED, "backbone": cfg.model.name, **backbone_of(cfg.model)}
    noted = {**own, **scoring_settings(settings)}
    file = run.checkpoint / MODEL_FILE
    if file.is_file() and json.loads(file.read_text()) == noted:
        return run
    backbone = backbone_folder(cfg.model, cfg.cache_dir)
    dtype, kept = DTYPES[settings.compute_dtype], keeps_head(backbone, cfg.model.head, "linear")
    model, tokenizer = new_reward_model(backbone, dtype, seed=0, keep_head=kept)
    extra = {MODEL_FILE: json.dumps(noted, indent=2) + "\n"}
    save_reward_model(model, tokenizer, run.checkpoint, extra=extra)
    return run


def measure_all(cfg: DictConfig, runs: Sequence[Run], test: str, folder: Path) -> None:
    """Measure what the figures need beside scores, and write it to the results' data `folder`.

    Gradients: the untrained backbone, and BT and NormBT of the first seed, on a sample of pairs.
    Distances by layer: the untrained backbone. Pairs: texts (unless `texts` is false) and their
    similarity, for all pairs of the benchmark.
    """
    rows = BENCHMARKS[cfg.benchmark].load(test, cfg.eval.ignore)
    sample = sample_rows(rows, cfg.gradient_pairs)
    shown = [
        run
        for run in runs
        if run.method == UNTRAINED or (run.method in MODELS and run.seed == cfg.seeds[0])
    ]
    found = [measure.gradients(cfg, run, sample) for run in shown]
    gradients, directions = (pd.concat(frames) for frames in zip(*found, strict=True))
    atomic_write_text(folder / "gradients.csv", csv_text(gradients))
    write_parquet(directions, folder / "directions.parquet")
    write_parquet(measure.layers(cfg, runs[0], sample), folder / "layers.parquet")
    pairs = measure.texts(Path(cfg.runs_dir) / "data", rows)
    write_parquet(pairs if cfg.texts else pairs.drop(columns=TEXTS), folder / "pairs.parquet")


def write_baselines(cfg: DictConfig, test: str, folder: Path) -> None:
    """Write data/baselines.csv: n-grams and length, fitted to the first seed's training pairs.

    With too few pairs for a fit no file is written, and the table has no such rows.
    """
    path, rows = folder / BASELINES_FILE, BENCHMARKS[cfg.benchmark].load(test, cfg.eval.ignore)
    first = OmegaConf.merge(cfg, {"seed": cfg.seeds[0]})
    assert isinstance(first, DictConfig)
    try:
        table = baselines(load_data(first.data).train, rows, cfg.eval.resamples)
    except InputError as error:
        path.unlink(missing_ok=True)
        print(f"baselines are left out: {error}", flush=True)
    else:
        atomic_write_text(path, csv_text(table))


def collect(cfg: DictConfig, folder: Path, runs: Sequence[Run]) -> None:
    """Write scores and metrics of all runs as the tidy files that tables and figures come from."""
    scores, metrics = [], []
    for run in runs:
        frame = pd.read_parquet(run.scores / "scores.parquet")
        frame = frame.assign(method=run.method, seed=run.seed, backbone=cfg.model.name)
        scores.append(frame.assign(data=cfg.data.name, benchmark=cfg.benchmark))
        if run.method != UNTRAINED:
            lines = (run.folder / "metrics.jsonl").read_text().splitlines()
            steps = pd.DataFrame(map(json.loads, lines))
            floats = steps.select_dtypes("float").columns
            steps = steps.astype(dict.fromkeys(floats, "float32"))  # the lines have six digits
            metrics.append(steps.assign(method=run.method, seed=run.seed))
    write_parquet(pd.concat(scores), folder / "scores.parquet")
    write_parquet(pd.concat(metrics), folder / "metrics.parquet")


def write_manifest(
    cfg: DictConfig,
    overrides: Sequence[str],
    results: Path,
    runs: Sequence[Run],
    facts: dict[str, Any],
    started: float,
) -> None:
    """Write which command, runs, settings, data and code made the results.

    facts: test_pairs_trained_on (those that share their prompt with a training pair), best_of_n
    (its size once it is done, or why it is not), freeze (`check_freeze`). started: when the call
    began, seconds.
    """
    atomic_write_json(
        results / "manifest.json",
        {
            "profile": cfg.profile.name,
            "label": label(cfg),
            "command": command("scripts.reproduce", overrides),
            "runs": [run_facts(run) for run in runs],
            **scored_how(cfg),
            **facts,
            **({"intervals": "crossed"} if len(cfg.seeds) > 1 else {}),
            "seconds_of_this_call": round(time.time() - started, 1),
            "environment": environment(),
        },
    )
