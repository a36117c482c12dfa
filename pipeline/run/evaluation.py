"""One evaluation: a checkpoint is scored on a benchmark, and its manifest is written last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from transformers.utils import cached_file

from eval.benchmarks import Benchmark, benchmark_of, summarize
from eval.resume import PartialScores
from eval.scoring import Scorer, prepare_ranks, refused_empty
from eval.spreadsheet import write_parquet
from eval.tables import evaluation_tables
from pipeline.launch.launchers import Local, start_ranks
from pipeline.launch.lock import only_one
from pipeline.launch.terminal import say, stage
from pipeline.run import tracking
from pipeline.run.scorers import load_scorer, scoring_facts
from pipeline.settings.data import bytes_of
from rm.data.sources import local_path
from rm.errors import InputError
from rm.files import atomic_write_json, atomic_write_text, changed, read_json
from rm.provenance import environment, file_fingerprint, fingerprint_of

OUTPUTS = ("scores.parquet", "summary.json", "table.md")
# Settings that change rewards by rounding only, so that finished scores stay valid.
NEUTRAL_SETTINGS = ("padding_side", "attention")
# Files of a checkpoint that the scores depend on, besides the weights.
TEXT_FILES = (".json", ".jinja", ".model", ".txt")
WEIGHT_FILES = (".safetensors", ".bin")


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score one checkpoint and return its summary; skips finished work.

    Raises InputError for what cannot work, and where another process scores into the same folder.
    """
    benchmark, output = benchmark_of(cfg.benchmark), Path(cfg.output)
    check_devices(cfg.get("devices", 1))
    set_threads(cfg)
    inputs, manifest = describe_inputs(cfg), output / "manifest.json"
    if is_finished(manifest, inputs):
        damaged = damaged_outputs(output)
        if not damaged:
            say(f"{output}: already scored")
            PartialScores(output, "").remove()  # left by a kill at the very end
            return read_json(output / "summary.json")
        say(f"{output}: {', '.join(damaged)} is damaged or missing, scored again")
    with stage("load data and checkpoint"):
        rows = benchmark.load(cfg.data, cfg.eval.ignore)
        scorer = open_scorer(cfg, inputs)
    with only_one(output), stage(f"score {len(rows)} rows of {cfg.benchmark}"):
        return _score(cfg, benchmark, rows, scorer, inputs)


def _score(
    cfg: DictConfig, benchmark: Benchmark, rows: list[Any], scorer: Scorer, inputs: dict[str, Any]
) -> dict[str, Any]:
    """Score `rows` and write all of the output folder, its manifest last."""
    output, devices = Path(cfg.output), cfg.get("devices", 1)
    manifest = output / "manifest.json"
    manifest.unlink(missing_ok=True)
    atomic_write_text(output / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    if devices > 1:
        prepare_ranks(scorer, rows)
        leave_the_gpu(scorer)
        # Every rank writes a partial file of its own, so that a failed one costs its share alone.
        start_ranks(Local(), "pipeline.run.evaluation_rank", output, devices)
    scores = benchmark.score(scorer, rows)
    summary = summarize(benchmark, scores, cfg.eval.resamples)
    write_outputs(benchmark, output, scores, summary)
    facts = {
        "scoring": {
            **scoring_facts(scorer, cfg.eval.attention, devices),
            **text_facts(scorer, rows),
        },
        "environment": environment(),
    }
    written = {name: file_fingerprint(output / name) for name in OUTPUTS}
    atomic_write_json(manifest, {**inputs, "outputs": written, **facts})
    if scorer.partial is not None:
        scorer.partial.remove()
    tracking.log_evaluation(cfg, rows if benchmark.in_pairs else [], scores, summary)
    return summary


def text_facts(scorer: Scorer, rows: list[Any]) -> dict[str, Any]:
    """Return what a reader of the scores should know of the chat template; {} if nothing.

    template_date: the date that it prints. refused_empty: the number of rows with an empty response
    that it refuses to render (`eval.scoring.refused_empty`); a line names the first.
    """
    facts: dict[str, Any] = {}
    if scorer.template.date:
        facts["template_date"] = scorer.template.date
    empty = refused_empty(scorer, rows)
    if empty:
        facts["refused_empty"] = len(empty)
        say(
            f"{len(empty)} rows have an empty response, which the chat template refuses (first "
            f"{empty[0]}): scored with nothing in its place"
        )
    return facts


def check_devices(devices: int) -> None:
    """Raise InputError if there cannot be so many ranks."""
    if not isinstance(devices, int) or devices < 1:
        raise InputError(f"devices={devices}: must be 1 or more")
    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise InputError(f"devices={devices}: this machine has {torch.cuda.device_count()} GPUs")


def set_threads(cfg: DictConfig) -> None:
    """Give this process `threads` CPU threads, where the configuration says how many."""
    if cfg.get("threads") is not None:
        torch.set_num_threads(cfg.threads)


def is_finished(manifest: Path, inputs: dict[str, Any]) -> bool:
    """Whether `manifest` belongs to a finished run on these inputs; False if it is damaged."""
    try:
        written = json.loads(manifest.read_bytes())
        return all(written.get(key, value) == value for key, value in inputs.items())
    except (FileNotFoundError, ValueError, AttributeError):
        return False


def damaged_outputs(output: Path) -> list[str]:
    """Names of a finished evaluation's files that are missing or have changed."""
    noted = read_json(output / "manifest.json").get("outputs", {})
    missing = [name for name in OUTPUTS if name not in noted and not (output / name).is_file()]
    return [*missing, *changed(output, noted)]


def describe_inputs(cfg: DictConfig) -> dict[str, Any]:
    """Everything the scores depend on, as fingerprints.

    inputs: weights (a Hub model's commit), data, benchmark, settings. files: the checkpoint's
    configuration, tokenizer and chat template, name → fingerprint.
    """
    folder = Path(cfg.checkpoint)
    return {
        "inputs": {
            "checkpoint": [file_fingerprint(path) for path in _files(folder, WEIGHT_FILES)]
            or _hub_revision(str(cfg.checkpoint)),
            **describe_test(cfg),
        },
        "files": {path.name: file_fingerprint(path) for path in _files(folder, TEXT_FILES)},
    }


def describe_test(cfg: DictConfig) -> dict[str, Any]:
    """What a checkpoint is scored on and how: data and settings as fingerprints, benchmark."""
    data, settings = local_path(str(cfg.data)), OmegaConf.to_container(cfg.eval, resolve=True)
    assert isinstance(settings, dict)
    found: Any = cfg.data if data is None else bytes_of(cfg.data)
    return {
        "data": found[0] if data is not None and data.is_file() else found,
        "benchmark": cfg.benchmark,
        "settings": fingerprint_of(
            {k: v for k, v in settings.items() if k not in NEUTRAL_SETTINGS and v != []}
        ),
    }


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in suffixes)


def _hub_revision(name: str) -> str:
    """Return "name@commit" of a Hub model, or the name where the commit cannot be had."""
    try:
        found = cached_file(name, "config.json")
    except (OSError, ValueError):
        return name  # load_reward_model says what is wrong with it
    return f"{name}@{Path(found).parent.name}" if found else name


def open_scorer(cfg: DictConfig, inputs: dict[str, Any], *, rank: int = 0) -> Scorer:
    """Load the checkpoint that a configuration names, ready to score its benchmark.

    `rank` chooses the GPU and the partial file.
    """
    return load_scorer(
        cfg.checkpoint,
        cfg.eval,
        Path(cfg.cache_dir),
        label=f"score {cfg.benchmark}" + (f", rank {rank}" if rank else ""),
        device=f"cuda:{rank}" if torch.cuda.is_available() else "cpu",
        partial=PartialScores(Path(cfg.output), fingerprint_of(inputs), rank),
    )


def leave_the_gpu(scorer: Scorer) -> None:
    """Give the first GPU's memory to the rank that scores there; this process only gathers."""
    scorer.model.to("cpu")
    scorer.model.flex_attention = False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def write_outputs(
    benchmark: Benchmark, output: Path, scores: pd.DataFrame, summary: dict[str, Any]
) -> None:
    """Write scores.parquet, summary.json and table.md."""
    write_parquet(scores, output / "scores.parquet", compression="snappy")
    atomic_write_json(output / "summary.json", summary)
    table = evaluation_tables(
        summary,
        pd.DataFrame(summary["intervals"], columns=["level", "name", "mean", "low", "high"]),
        benchmark.protocol(scores),
        resamples=summary["resamples"],
    )
    atomic_write_text(output / "table.md", table)


def refuse_another_test(cfg: DictConfig) -> None:
    """Raise InputError if `cfg.output` holds scores of another test, which these would replace."""
    manifest = Path(cfg.output) / "manifest.json"
    if manifest.is_file():
        noted = read_json(manifest).get("inputs", {})
        unlike = [k for k, v in describe_test(cfg).items() if noted.get(k, v) != v]
        if unlike:
            raise InputError(
                f"{cfg.output} holds an evaluation of other {', '.join(unlike)}: give another "
                "output, or delete it"
            )
