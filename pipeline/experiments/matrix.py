"""The runs of a matrix of methods and seeds, and training and scoring one of them.

reproduce, sweep and status share this. Each run has a folder of its own; a finished run is skipped.
"""

from __future__ import annotations

import gc
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from eval.benchmarks import BENCHMARKS, benchmark_of
from eval.spreadsheet import csv_text, read_csv
from pipeline.experiments.measure import Run
from pipeline.experiments.runs import do_all
from pipeline.launch.side_by_side import Job
from pipeline.launch.terminal import Screen
from pipeline.run.evaluation import damaged_outputs, describe_test, evaluate
from pipeline.run.run_folder import stale_because
from pipeline.run.scoring_ranks import scoring_devices
from pipeline.run.training import train
from pipeline.settings import configuration
from pipeline.settings.data import load_data, test_pairs
from pipeline.settings.objective import objective_of
from pipeline.settings.words import quoted
from rm.data.preferences import PreferencePair, section_key, unseen
from rm.errors import InputError
from rm.files import atomic_write_text, read_json
from rm.provenance import file_fingerprint

OWN_KEYS = (
    "matrix",
    "sweep",
    "methods",
    "seeds",
    "grid",
    "until",
    "keep_checkpoints",
    "benchmark",
    "benchmark_data",
    "best_of_n",
    "bon",
    "gold",
    "gradient_pairs",
    "texts",
    "workers",
    "eval",
    "scored",
    "runs_dir",
    "results_dir",
)

Rates = dict[str, list[str]]
"""Method → the override with its learning rate."""

GRID_SEEDS = (1000, 1001)
"""Seeds of the runs that choose learning rates; no table shows them."""


PER_RUN = {"loss": "methods=[…]", "seed": "seeds=[…]", "run_dir": "runs_dir=FOLDER"}
"""Settings that differ from run to run → the word that sets them for all runs."""
LISTED: dict[str, tuple[Any, str]] = {
    "methods": (str, "bt,normbt"),
    "seeds": (int, "0,1,2"),
    "grid": (int | float, "1e-4,3e-4"),
    "sweep.methods": (str, "bt,normbt"),
    "sweep.values": (int | float, "1,2,4"),
}
"""Keys whose values are lists → type of their items, and an example."""
OWN_FOLDERS = {"runs_dir": "runs", "results_dir": "results"}
"""Keys of the folders that a call writes → where in the repository their defaults lie."""


def kept_words(overrides: Sequence[str]) -> list[str]:
    """The command line's words that also belong to a single training run."""
    return configuration.without_keys(overrides, OWN_KEYS, exact=tuple(PER_RUN))


def check_call(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Raise InputError for what cannot work, before anything is computed.

    That is: a value of the wrong type, a word that only a single run takes, or methods, seeds,
    learning rates or swept values that are no list, are empty or contain duplicates.
    """
    configuration.check_types(cfg)
    refuse_words_of_one_run(overrides)
    if cfg.get("until") is not None and (cfg.until != "rates" or not cfg.grid):
        raise InputError(f"until={cfg.until}: give null, or rates together with a grid")
    for name, (kind, example) in LISTED.items():
        *group, key = name.split(".")
        part = cfg if not group else cfg.get(group[0], {})
        if key not in part:
            continue
        values = part[key]
        if not isinstance(values, ListConfig | list) or (not values and name != "grid"):
            raise InputError(f"{name}={values}: give a list, such as {name}=[{example}]")
        if len(set(values)) < len(values):
            raise InputError(f"{name}={values}: contains duplicates")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, kind):
                raise InputError(
                    f"{name}={values}: {value} has the wrong type: give a list such as [{example}]"
                )


def refuse_words_of_one_run(overrides: Sequence[str]) -> None:
    """Raise InputError for a word that only a single run takes, such as seed=1."""
    for word in overrides:
        instead = PER_RUN.get(configuration.key_of(word))
        if instead:
            raise InputError(f"{word}: this command makes several runs: give {instead}")


def run_configs(
    cfg: DictConfig, overrides: Sequence[str], rates: Mapping[str, Sequence[str]]
) -> list[DictConfig]:
    """Configurations of all methods × seeds, with the learning rate that was chosen for each.

    Seed by seed: a call that is cut off leaves all methods with the same seeds.

    Raises InputError for a word that only a single run takes.
    """
    check_call(cfg, overrides)
    return [
        train_config(cfg, [*overrides, *words], method, seed, "-".join(["train", *words]))
        for seed in cfg.seeds
        for method in cfg.methods
        for words in [rates.get(method, [])]
    ]


def train_config(
    cfg: DictConfig, overrides: Sequence[str], method: str, seed: int, part: str
) -> DictConfig:
    """Compose the configuration of one training run as scripts.train would, from this one's.

    The run's folder is <runs_dir>/<part>/<method>-seed<seed>. A loss over whole batches gets its
    global batch in one piece. A loss that reads every token gets no shared prefixes.
    """
    folder = Path(cfg.runs_dir) / part / f"{method}-seed{seed}"
    words = [
        *kept_words(overrides),
        f"loss={method}",
        f"seed={seed}",
        f"run_dir={quoted(str(folder))}",
    ]
    if cfg.data.get("pool_pairs") and cfg.training.reuse_trunk:
        words.append("training.trunk_pool=true")  # several seeds draw from it
    made = configuration.compose_config("train", words)
    if made.launch.name == "torchrun":
        raise InputError(
            "launch=torchrun is for scripts.train alone: launch=hostfile starts the other machines "
            "for every run of this command"
        )
    objective, own = objective_of(made.loss), []
    if objective.whole_batch:
        own.append(f"training.micro_batch={made.training.global_batch}")
        own.append("training.micro_batch_tokens=null")
    if objective.every_token:
        own += ["training.share_prefix=false", "training.attention=null"]
    return configuration.compose_config("train", [*words, *own]) if own else made


def train_and_score(cfg: DictConfig, one: DictConfig, run: Run, test: str) -> None:
    """Train a run and score it; if its checkpoint was dropped after scoring, do neither.

    A run of other settings, data or code in the same folder is out of date and is retrained.
    """
    stale = stale_because(one, run.folder)
    if stale:
        print(f"{run.folder}: out of date, retrained ({'; '.join(stale[:3])})", flush=True)
        shutil.rmtree(run.folder)
    dropped = not run.checkpoint.is_dir() and (run.scores / "manifest.json").is_file()
    train(one)
    gc.collect()
    if dropped:
        damaged = damaged_outputs(run.scores)
        if damaged:
            raise InputError(
                f"{run.scores}: {damaged[0]} is damaged or missing and the checkpoint is gone: "
                f"delete {run.folder}, and the same command retrains it"
            )
        _require_same_test(cfg, run, test)
        print(f"{run.scores}: already scored, the checkpoint is gone")
    else:
        evaluate_run(cfg, run, test)


def _require_same_test(cfg: DictConfig, run: Run, test: str) -> None:
    """Raise InputError if the weights are gone and the scores are those of another test."""
    scored = read_json(run.scores / "manifest.json")["inputs"]
    for key, asked in describe_test(_evaluation_config(cfg, run, test)).items():
        if scored[key] != asked:
            raise InputError(
                f"{run.scores}: scored with other {key} ({scored[key]}, now {asked}), and the "
                f"checkpoint is gone: give another runs_dir, or delete {run.folder}"
            )


def evaluate_run(cfg: DictConfig, run: Run, test: str) -> None:
    """Score a run's checkpoint on the benchmark."""
    evaluate(_evaluation_config(cfg, run, test))
    gc.collect()


def _evaluation_config(cfg: DictConfig, run: Run, test: str) -> DictConfig:
    return OmegaConf.create(
        {
            "checkpoint": str(run.checkpoint),
            "benchmark": cfg.benchmark,
            "data": test,
            "output": str(run.scores),
            "devices": scoring_devices(cfg),
            "cache_dir": cfg.cache_dir,
            "eval": cfg.eval,
            "tracking": cfg.tracking,
        }
    )


def choose_rates(
    cfg: DictConfig, overrides: Sequence[str], screen: Screen, *, keep_others: bool = False
) -> Rates:
    """Choose each method's learning rate from `grid` on validation pairs; return it as an override.

    Every method and rate is run with two seeds that no table uses. The test pairs are never read
    here. Writes data/grid.csv: method, learning_rate, seed, accuracy (fraction, mean of the
    sections), pairs, one column per section, chosen. An empty grid keeps training.learning_rate and
    removes the file. `keep_others` keeps the file, and its rows of other methods.
    """
    if not cfg.grid:
        if not keep_others:
            grid_file(cfg).unlink(missing_ok=True)
        return {}
    held_out = validation_data(cfg, "validation.jsonl")
    tried = [
        (rate, train_config(cfg, [*overrides, f"training.learning_rate={rate}"], *name, place))
        for method in cfg.methods
        for rate in sorted(cfg.grid)
        for name in ((method, seed) for seed in GRID_SEEDS)
        for place in (f"grid/{rate:g}",)
    ]
    configs = [one for _, one in tried]
    runs = [Run(one.loss.name, one.seed, Path(one.run_dir)) for one in configs]
    jobs = [
        Job(
            f"{run.method}, learning rate {rate:g}, seed {run.seed}",
            train_and_validate,
            (cfg, one, run, held_out),
        )
        for run, (rate, one) in zip(runs, tried, strict=True)
    ]
    name = f"choose learning rates on validation pairs, {len(runs)} runs"
    do_all(cfg, screen, name, jobs, runs, configs)
    frame = with_choice(
        pd.DataFrame([_validated(run, rate) for run, (rate, _) in zip(runs, tried, strict=True)])
    )
    for line in at_the_edge(frame):
        screen.line(line)
    if keep_others and grid_file(cfg).is_file():
        earlier = read_csv(grid_file(cfg))
        frame = pd.concat([earlier[~earlier["method"].isin(frame["method"])], frame])
    atomic_write_text(grid_file(cfg), csv_text(frame))
    return known_rates(cfg)


def _validated(run: Run, rate: float) -> dict[str, Any]:
    """A row of data/grid.csv."""
    summary = read_json(run.scores / "summary.json")
    facts = {"accuracy": summary["average"], "pairs": summary["pairs"]}
    sections = {section_key(name): value for name, value in summary["sections"].items()}
    return {"method": run.method, "learning_rate": rate, "seed": run.seed, **facts, **sections}


def with_choice(grid: pd.DataFrame) -> pd.DataFrame:
    """Mark the rows of each method's best learning rate, on average over its seeds.

    Of equally good rates, the smallest is chosen.
    """
    means = grid.groupby(["method", "learning_rate"], as_index=False)["accuracy"].mean()
    best = means.loc[means.groupby("method")["accuracy"].idxmax()]
    of_method = best.set_index("method")["learning_rate"]
    return grid.assign(chosen=grid["learning_rate"] == grid["method"].map(of_method))


def at_the_edge(grid: pd.DataFrame) -> list[str]:
    """A line for every method whose chosen rate is the smallest or the largest that was tried."""
    ends = {grid["learning_rate"].min(): "smallest", grid["learning_rate"].max(): "largest"}
    return [
        f"grid: {row['method']} did best at its {ends[row['learning_rate']]} learning rate, "
        f"{row['learning_rate']:g}: better ones may lie beyond: widen grid=[…]"
        for _, row in grid[grid["chosen"]].drop_duplicates("method").iterrows()
        if len(ends) > 1 and row["learning_rate"] in ends
    ]


def validation_data(cfg: DictConfig, name: str) -> str:
    """Write the training data's held-out pairs to <runs_dir>/data/`name`; return the path.

    Raises InputError if none are held out.
    """
    path = Path(cfg.runs_dir) / "data" / name
    pairs = load_data(cfg.data).validation
    if not pairs:
        raise InputError(
            f"data={cfg.data.name} holds out no pairs to choose learning rates on: give "
            "data.validation=PATH or raise data.validation_share"
        )
    atomic_write_text(path, "".join(_as_row(pair, pair.category or "all") + "\n" for pair in pairs))
    return str(path)


def train_and_validate(cfg: DictConfig, one: DictConfig, run: Run, held_out: str) -> dict[str, Any]:
    """Train a run, score it on the held-out pairs, drop its weights; return the summary."""
    tracking = {**cfg.tracking, "job_type": "validation"}
    validation = OmegaConf.create({**cfg, "benchmark": "pairs", "tracking": tracking})
    train_and_score(validation, one, run, held_out)
    shutil.rmtree(run.checkpoint, ignore_errors=True)
    return json.loads((run.scores / "summary.json").read_text())


def known_rates(cfg: DictConfig) -> dict[str, list[str]]:
    """The learning rates that were chosen, method → override; {} without a grid or its table."""
    if not cfg.grid or not grid_file(cfg).is_file():
        return {}
    frame = read_csv(grid_file(cfg))
    chosen = frame[frame["chosen"]].drop_duplicates("method").set_index("method")["learning_rate"]
    return {str(method): [f"training.learning_rate={rate}"] for method, rate in chosen.items()}


def grid_file(cfg: DictConfig) -> Path:
    """Where the choice of learning rates is written."""
    return Path(cfg.results_dir) / "data" / "grid.csv"


def check_benchmark(cfg: DictConfig) -> None:
    """Raise InputError for an unknown benchmark, or one that does not fit figures or data."""
    if not benchmark_of(cfg.benchmark).in_pairs:
        raise InputError(
            f"benchmark={cfg.benchmark} has several responses per prompt, and the figures are "
            "about pairs: choose rewardbench, judgebench, pairs or generated"
        )
    if cfg.benchmark == "generated" and cfg.benchmark_data is None and cfg.data.kind != "generated":
        raise InputError(
            "benchmark=generated needs data=generated_v2: give benchmark=… and benchmark_data=PATH"
        )


def benchmark_data(cfg: DictConfig, runs_dir: Path) -> str:
    """Return the evaluation data: what the user gave, or the generated test split as a file."""
    check_benchmark(cfg)
    if cfg.benchmark_data is not None:
        source = str(cfg.benchmark_data)
        if source != "hub" and not Path(source).exists():
            raise InputError(f"benchmark_data={source}: no such file; check the path, or give hub")
        return source
    if cfg.benchmark != "generated":
        return "hub"
    path = runs_dir / "data" / "test.jsonl"
    made = test_pairs(cfg.data)
    rows = (_as_row(one.pair, one.subset, one.cluster) for one in made)
    atomic_write_text(path, "".join(row + "\n" for row in rows))
    return str(path)


def prompts_trained_on(cfg: DictConfig, test: str) -> int:
    """Return how many pairs of the benchmark share their prompt with a training pair of any seed.

    Raises InputError if learning rates would be chosen on prompts of the benchmark.
    """
    data, rows = load_data(cfg.data), BENCHMARKS[cfg.benchmark].load(test, cfg.eval.ignore)
    seen = len(data.validation) - len(unseen(data.validation, rows))
    if cfg.grid and seen:
        raise InputError(
            f"{seen} of {len(data.validation)} validation pairs have a prompt of the benchmark "
            f"({cfg.benchmark}): learning rates would be chosen on test pairs; give other "
            "validation data, or grid=[]"
        )
    return len(rows) - len(unseen(rows, data.pool or data.train))


def benchmark_name(cfg: DictConfig) -> str:
    """What was scored: generated, hub, or a file's name and fingerprint."""
    if cfg.benchmark_data is None:
        return "generated test pairs" if cfg.benchmark == "generated" else "hub"
    path = Path(cfg.benchmark_data)
    return f"{path.name} ({file_fingerprint(path)})" if path.is_file() else path.name


def scored_how(cfg: DictConfig) -> dict[str, Any]:
    """The benchmark and the settings of scoring, as manifests and sweep.json record them."""
    return {
        "evaluation": OmegaConf.to_container(cfg.eval, resolve=True),
        "benchmark": cfg.benchmark,
        "benchmark_data": benchmark_name(cfg),
    }


def _as_row(pair: PreferencePair, subset: str, cluster: str = "") -> str:
    chosen, rejected = pair.sides  # a single turn stays a text: scored test files keep their bytes
    row = {
        "pair_id": pair.pair_id,
        "prompt": list(pair.prompt),
        "chosen": list(chosen) if pair.chosen_history else pair.chosen,
        "rejected": list(rejected) if pair.rejected_history else pair.rejected,
        "category": pair.category or "all",
        "section": pair.category or "all",
        "subset": subset,
    }
    return json.dumps(row | ({"cluster": cluster} if cluster else {}))


def label(cfg: DictConfig) -> str:
    """One line for every table and figure: backbone, data, benchmark, profile, experiment.

    A sweep is no part of an experiment; it may take an experiment's settings.
    """
    kinds = {"generated": "generated preference pairs"}
    data = kinds.get(cfg.data.kind, f"training pairs: {cfg.data.name}")
    facts = [cfg.model.name, data, f"benchmark: {cfg.benchmark}", f"profile {cfg.profile.name}"]
    if cfg.get("experiment"):
        kind = "sweep with the settings of" if "sweep" in cfg else "experiment"
        facts.append(f"{kind} {cfg.experiment.name}")
    return " · ".join(facts)


def command(module: str, overrides: Sequence[str]) -> str:
    """The command of this call, for other people to repeat: files by name, default folders."""
    words = configuration.without_keys(overrides, ("cache_dir",))
    return f"python -m {module} {shlex.join(map(_shown, words))}".rstrip()


def _shown(word: str) -> str:
    """A word with paths of other people's machines cut to what lies below their last folder."""
    key, _, value = word.partition("=")
    if key in OWN_FOLDERS:  # not the default: a repeated call must not write there
        path = PurePosixPath(value.strip("'\""))
        return f"{key}={OWN_FOLDERS[key]}/{path.name}" if path.is_absolute() else word
    return re.sub(r"(?<=[=\['\",])/(?:[^/,'\"\]]+/)*", "", word)


def run_facts(run: Run) -> dict[str, Any]:
    """What a finished run's manifest says, without folders of this machine."""
    made = json.loads((run.folder / "manifest.json").read_text())
    return {"method": run.method, **made, **{k: for_others(made[k]) for k in ("config", "data")}}


def for_others(facts: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration or report with files by name and no folders."""
    return {
        key: for_others(value)
        if isinstance(value, dict)
        else Path(value).name
        if key in ("train", "validation", "source", "path") and isinstance(value, str)
        else value
        for key, value in facts.items()
        if key not in ("run_dir", "cache_dir")
    }
