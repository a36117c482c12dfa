"""Score a checkpoint on a benchmark.

python -m scripts.evaluate checkpoint=DIR benchmark=rewardbench data=PATH output=DIR

Writes DIR/scores.parquet (a row a pair, or a row a response), summary.json, table.md, config.yaml
and, last, manifest.json. A killed run goes on from its last finished batch; the same command on the
same inputs does nothing again. `devices=2` starts two ranks.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from transformers.utils import cached_file

from eval import judgebench, pairs, rewardbench, rewardbench2, rm_bench
from eval.protocol import Protocol, outcomes
from eval.resume import PartialScores
from eval.scoring import Scorer, prepare_ranks, score_items, score_pairs
from eval.statistics import section_intervals
from eval.tables import evaluation_tables
from rm.capability import can_share
from rm.errors import InputError
from rm.files import atomic_write_bytes, atomic_write_json, atomic_write_text, changed, read_json
from rm.models import DTYPES, RewardModel, emulation, load_reward_model
from rm.provenance import environment, file_fingerprint, fingerprint_of
from rm.sources import local_path
from scripts import config as configuration
from scripts import tracking
from scripts.data import bytes_of
from scripts.launch import Local, start_ranks
from scripts.lock import only_one
from scripts.train import (
    MODEL_FILE,
    check_attention,
    check_length,
    choose_attention,
    require_sharing,
)

DEFAULT_MAX_LENGTH = 2048
OUTPUTS = ("scores.parquet", "summary.json", "table.md")
# Settings that change rewards by floating point at most, so that scores need no second run.
NEUTRAL_SETTINGS = ("padding_side", "attention")
# What of a checkpoint folder the scores depend on besides the weights.
TEXT_FILES = (".json", ".jinja", ".model", ".txt")
WEIGHT_FILES = (".safetensors", ".bin")


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, scored, summarised and given intervals."""

    load: Callable[[str], list[Any]]
    summarize: Callable[[pd.DataFrame], dict[str, Any]]
    protocol: Callable[[pd.DataFrame], Protocol]
    score: Callable[[Scorer, Any], pd.DataFrame] = score_pairs
    outcomes: Callable[[pd.DataFrame], pd.DataFrame] = outcomes

    @property
    def in_pairs(self) -> bool:
        """Whether a row of the scores is a pair (scripts.compare needs that)."""
        return self.score is score_pairs


BENCHMARKS = {
    "rewardbench": Benchmark(
        rewardbench.load, rewardbench.summarize, lambda _: rewardbench.PROTOCOL
    ),
    "rewardbench2": Benchmark(
        rewardbench2.load,
        rewardbench2.summarize,
        lambda _: rewardbench2.PROTOCOL,
        score_items,
        rewardbench2.outcomes,
    ),
    "rm_bench": Benchmark(
        rm_bench.load,
        rm_bench.summarize,
        lambda _: rm_bench.PROTOCOL,
        score_items,
        rm_bench.outcomes,
    ),
    "judgebench": Benchmark(judgebench.load, judgebench.summarize, lambda _: judgebench.PROTOCOL),
    "pairs": Benchmark(pairs.load, pairs.summarize, pairs.protocol),
    "generated": Benchmark(
        lambda source: pairs.load(source, "generated"),
        lambda scores: pairs.summarize(scores, "generated"),
        lambda scores: pairs.protocol(scores, "generated"),
    ),
}


def benchmark_of(name: str) -> Benchmark:
    """Return the benchmark called `name`; InputError names the known ones."""
    if name not in BENCHMARKS:
        raise InputError(f"benchmark={name}: choose {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score one checkpoint and return its summary; finished work is not repeated.

    Raises InputError for what cannot work, and where another process scores into the same folder.
    """
    benchmark, output = benchmark_of(cfg.benchmark), Path(cfg.output)
    check_devices(cfg.get("devices", 1))
    set_threads(cfg)
    inputs, manifest = describe_inputs(cfg), output / "manifest.json"
    if is_finished(manifest, inputs):
        damaged = damaged_outputs(output)
        if not damaged:
            print(f"{output}: already scored")
            PartialScores(output, "").remove()  # left there by a kill in the last moment
            return read_json(output / "summary.json")
        print(f"{output}: {', '.join(damaged)} is damaged or missing, scored again", flush=True)
    rows = benchmark.load(cfg.data)
    scorer = open_scorer(cfg, inputs)
    with only_one(output):
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
        launch(output, devices)
    scores = benchmark.score(scorer, rows)
    summary = summarize(benchmark, scores, cfg.eval.resamples)
    write_outputs(benchmark, output, scores, summary)
    facts = {
        "scoring": scoring_facts(scorer, cfg.eval.attention, devices),
        "environment": environment(),
    }
    written = {name: file_fingerprint(output / name) for name in OUTPUTS}
    atomic_write_json(manifest, {**inputs, "outputs": written, **facts})
    if scorer.partial is not None:
        scorer.partial.remove()
    tracking.log_evaluation(cfg, rows if benchmark.in_pairs else [], scores, summary)
    return summary


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
    """Whether `manifest` is that of a finished run on these inputs; a damaged one is not."""
    try:
        written = json.loads(manifest.read_bytes())
        return all(written.get(key, value) == value for key, value in inputs.items())
    except (FileNotFoundError, ValueError, AttributeError):
        return False


def damaged_outputs(output: Path) -> list[str]:
    """Names of a finished evaluation's files that are not there or not as they were written."""
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
            {k: v for k, v in settings.items() if k not in NEUTRAL_SETTINGS}
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


@dataclass
class EvalSettings:
    """conf/eval, typed. null: as the checkpoint was trained, or as the backbone can."""

    batch_tokens: int
    max_length: int | None
    parse_special_text: bool | None
    compute_dtype: str | None
    padding_side: str
    reuse_trunk: bool
    share_prefix: bool | None
    attention: str | None
    resamples: int


def check_settings(section: DictConfig) -> EvalSettings:
    """Return the typed eval section. Raises InputError for a wrong type or an impossible number."""
    settings = configuration.typed(EvalSettings, section)
    for name in ("batch_tokens", "resamples", "max_length"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"eval.{name}={value}: must be 1 or more")
    return settings


def load_scorer(
    checkpoint: str,
    settings: DictConfig,
    cache_dir: Path,
    *,
    label: str,
    device: str,
    partial: PartialScores | None = None,
) -> Scorer:
    """Load a checkpoint with the settings it was trained with, where `settings` are null.

    settings: conf/eval. Raises InputError for one that is not possible.
    """
    own, chosen = own_settings(Path(checkpoint)), check_settings(settings)
    dtype = chosen.compute_dtype or own.get("compute_dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(f"eval.compute_dtype={dtype}: choose {', '.join(DTYPES)}")
    slow = emulation(DTYPES[dtype], "eval.compute_dtype")
    if slow:
        print(slow, flush=True)
    model, tokenizer = load_reward_model(checkpoint, DTYPES[dtype])
    if chosen.max_length is not None:
        check_length(model, chosen.max_length, "eval.max_length")
    model.to(device)
    share_prefix = decide_sharing(model, chosen)
    check_attention(chosen.attention, share_prefix, "eval")
    choose_attention(model, chosen.attention, "eval")
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    return Scorer(
        model,
        tokenizer,
        max_length=chosen.max_length or own.get("max_length", min(DEFAULT_MAX_LENGTH, positions)),
        parse_special_text=own.get("parse_special_text", False)
        if chosen.parse_special_text is None
        else chosen.parse_special_text,
        batch_tokens=chosen.batch_tokens,
        trunk_layers=own.get("top_layers", 0) if chosen.reuse_trunk else 0,
        cache_dir=cache_dir / "trunk",
        label=label,
        padding_side=chosen.padding_side,
        share_prefix=share_prefix,
        partial=partial,
    )


def own_settings(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of its own training (reward_model.json); {} if nothing.

    The checkpoint may be anybody's. Raises InputError if a setting that scoring reads is of
    another type than ours.
    """
    path = folder / MODEL_FILE
    kinds = {"compute_dtype": str, "max_length": int, "top_layers": int, "parse_special_text": bool}
    if not path.is_file():
        return {}
    try:
        own = json.loads(path.read_text())
        unlike = [key for key, kind in kinds.items() if not isinstance(own.get(key, kind()), kind)]
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON object: delete it, or fetch the model again"
        ) from error
    if unlike:
        raise InputError(f"{path}: {unlike[0]} is of the wrong type: delete the file")
    return own


def decide_sharing(model: RewardModel, settings: EvalSettings) -> bool:
    """Whether rows share their prefixes: as asked, and if not asked, where the backbone can.

    Raises InputError where it is asked for and not possible.
    """
    if settings.share_prefix:
        require_sharing(model, "eval.share_prefix")
    if settings.share_prefix is not None or settings.padding_side == "left":
        return bool(settings.share_prefix)
    reason = can_share(model)
    if reason is not None:
        print(f"prefixes are not shared: {reason}", flush=True)
    return reason is None


def scoring_facts(scorer: Scorer, attention: str | None, devices: int) -> dict[str, Any]:
    """What may move scores by floating point: precision, attention kernel, padding, ranks."""
    config = scorer.model.config
    return {
        "compute_dtype": str(scorer.model.compute_dtype).removeprefix("torch."),
        "attention": attention or config._attn_implementation,
        "padding_side": scorer.padding_side,
        "max_length": scorer.max_length,
        "parse_special_text": scorer.parse_special_text,
        "batch_tokens": scorer.batch_tokens,
        "trunk_layers": scorer.trunk_layers,
        "share_prefix": scorer.share_prefix,
        "ranks": devices,
    }


def leave_the_gpu(scorer: Scorer) -> None:
    """Give the first GPU's memory to the rank that scores there; this process only gathers."""
    scorer.model.to("cpu")
    scorer.model.flex_attention = False
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def launch(output: Path, devices: int) -> None:
    """Score on one rank a device, each its share into its own partial file.

    Raises what `start_ranks` does if a rank fails; what the ranks had finished is kept.
    """
    start_ranks(Local(), "scripts.evaluate_rank", output, devices)


def summarize(benchmark: Benchmark, scores: pd.DataFrame, resamples: int) -> dict[str, Any]:
    """Summarise scores, and add counts of rows and the intervals (fractions), ready for JSON.

    Raises InputError for NaN or infinite rewards.
    """
    summary = benchmark.summarize(scores)
    row = scores.drop_duplicates("pair_id" if benchmark.in_pairs else "item_id")
    summary["rows"] = len(row)
    for fact in ("truncated", "special_text"):
        summary[fact] = int(row[fact].sum())
    summary["resamples"] = resamples
    found = intervals(benchmark, scores, summary, resamples)
    summary["intervals"] = found.to_dict("records")
    return summary


def intervals(
    benchmark: Benchmark, scores: pd.DataFrame, summary: dict[str, Any], resamples: int
) -> pd.DataFrame:
    """Bootstrap intervals of every score that is a mean over rows: level, name, mean, low, high, n.

    Levels: subset, section, average; RM-Bench's "difficulty", JudgeBench's "overall". RewardBench
    2's Ties has none, and no average that rests on it has.
    """
    found, protocol = benchmark.outcomes(scores), benchmark.protocol(scores)
    if found.empty:
        return pd.DataFrame(columns=["level", "name", "mean", "low", "high", "pairs", "seeds"])
    parts = [section_intervals(found, protocol, resamples=resamples)]
    covered = set(parts[0].loc[parts[0]["level"] == "section", "name"])
    if covered != {name for name, value in summary["sections"].items() if value is not None}:
        parts[0] = parts[0][parts[0]["level"] != "average"]
    if "difficulties" in summary:
        parts.append(_difficulty_intervals(scores, found, protocol, resamples))
    if "overall" in summary:
        counts = {str(name): float(n) for name, n in found["subset"].value_counts().items()}
        whole = Protocol("overall", {"overall": counts})
        parts.append(_average_of(found, whole, resamples, "overall", "overall"))
    return pd.concat(parts, ignore_index=True)


def _difficulty_intervals(
    scores: pd.DataFrame, found: pd.DataFrame, protocol: Protocol, resamples: int
) -> pd.DataFrame:
    _, wins, _ = rm_bench.win_matrices(scores)
    shares = rm_bench.difficulties(wins)
    return pd.concat(
        _average_of(found.assign(correct=column), protocol, resamples, "difficulty", name)
        for name, column in zip(rm_bench.DIFFICULTIES, shares.T, strict=True)
    )


def _average_of(
    found: pd.DataFrame, protocol: Protocol, resamples: int, level: str, name: str
) -> pd.DataFrame:
    frame = section_intervals(found, protocol, resamples=resamples)
    return frame[frame["level"] == "average"].assign(level=level, name=name)


def write_outputs(
    benchmark: Benchmark, output: Path, scores: pd.DataFrame, summary: dict[str, Any]
) -> None:
    """Write scores.parquet, summary.json and table.md."""
    buffer = io.BytesIO()
    scores.to_parquet(buffer, index=False)
    atomic_write_bytes(output / "scores.parquet", buffer.getvalue())
    atomic_write_json(output / "summary.json", summary)
    table = evaluation_tables(
        summary,
        pd.DataFrame(summary["intervals"], columns=["level", "name", "mean", "low", "high"]),
        benchmark.protocol(scores),
        resamples=summary["resamples"],
    )
    atomic_write_text(output / "table.md", table)


def hydra_words(words: Sequence[str]) -> list[str]:
    """Rename data=… to benchmark_data=… on a command line.

    conf/data is a group (of scripts.train), so Hydra would take data=PATH for a choice in it.
    """
    return [re.sub(r"^data=", "benchmark_data=", word) for word in words]


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


@configuration.main("evaluate")
def run(cfg: DictConfig) -> None:
    """Score one checkpoint and print its tables."""
    refuse_another_test(cfg)
    evaluate(cfg)
    print((Path(cfg.output) / "table.md").read_text())
    print(f"written: {cfg.output}")


def main() -> None:
    """Read the command line and score."""
    sys.argv[1:] = hydra_words(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
