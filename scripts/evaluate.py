"""Score a checkpoint on a benchmark.

python -m scripts.evaluate checkpoint=DIR benchmark=rewardbench data=PATH output=DIR

Writes DIR/scores.parquet (a row a pair, or a row a response), summary.json, table.md and, last,
manifest.json; the same command on the same inputs does nothing again.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from eval import judgebench, pairs, rewardbench, rewardbench2, rm_bench
from eval.protocol import Protocol, outcomes
from eval.scoring import Scorer, score_items, score_pairs
from eval.statistics import section_intervals
from rm.errors import InputError
from rm.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from rm.models import DTYPES, load_reward_model
from rm.provenance import environment, file_fingerprint, fingerprint_of
from scripts import config as configuration
from scripts.train import MODEL_FILE


@dataclass(frozen=True)
class Benchmark:
    """How one benchmark is read, scored and summarised."""

    load: Callable[[str], list[Any]]
    summarize: Callable[[pd.DataFrame], dict[str, Any]]
    protocol: Callable[[pd.DataFrame], Protocol] | None
    score: Callable[[Scorer, Any], pd.DataFrame] = score_pairs


BENCHMARKS = {
    "rewardbench": Benchmark(
        rewardbench.load, rewardbench.summarize, lambda _: rewardbench.PROTOCOL
    ),
    "rewardbench2": Benchmark(rewardbench2.load, rewardbench2.summarize, None, score_items),
    "rm_bench": Benchmark(rm_bench.load, rm_bench.summarize, None, score_items),
    "judgebench": Benchmark(judgebench.load, judgebench.summarize, lambda _: judgebench.PROTOCOL),
    "pairs": Benchmark(pairs.load, pairs.summarize, pairs.protocol),
    "generated": Benchmark(
        lambda source: pairs.load(source, "generated"),
        lambda scores: pairs.summarize(scores, "generated"),
        lambda scores: pairs.protocol(scores, "generated"),
    ),
}


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score one checkpoint and return its summary; finished work is not repeated."""
    if cfg.benchmark not in BENCHMARKS:
        raise InputError(f"benchmark={cfg.benchmark}: choose {', '.join(BENCHMARKS)}")
    benchmark, output = BENCHMARKS[cfg.benchmark], Path(cfg.output)
    inputs = describe_inputs(cfg)
    manifest = output / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["inputs"] == inputs:
        print(f"{output}: already scored")
        return json.loads((output / "summary.json").read_text())
    manifest.unlink(missing_ok=True)
    rows = benchmark.load(cfg.data)
    scorer = open_scorer(cfg)
    scores = benchmark.score(scorer, rows)
    summary = benchmark.summarize(scores)
    summary["truncated"] = int(scores["truncated"].sum())
    write_outputs(cfg, output, scores, summary)
    atomic_write_json(manifest, {"inputs": inputs, "environment": environment()})
    return summary


def describe_inputs(cfg: DictConfig) -> dict[str, Any]:
    """Everything the scores depend on: weights, data and settings, as fingerprints."""
    folder, data = Path(cfg.checkpoint), Path(cfg.data)
    weights = sorted(folder.glob("*.safetensors"))
    return {
        "checkpoint": [file_fingerprint(path) for path in weights] or str(cfg.checkpoint),
        "data": file_fingerprint(data) if data.is_file() else cfg.data,
        "benchmark": cfg.benchmark,
        "settings": fingerprint_of(OmegaConf.to_container(cfg.eval, resolve=True)),
    }


def open_scorer(cfg: DictConfig) -> Scorer:
    """Load the checkpoint with the settings it was trained with, where `eval` does not override."""
    noted = Path(cfg.checkpoint) / MODEL_FILE
    own = json.loads(noted.read_text()) if noted.is_file() else {}
    dtype = cfg.eval.compute_dtype or own.get("compute_dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(f"eval.compute_dtype={dtype}: choose {', '.join(DTYPES)}")
    model, tokenizer = load_reward_model(cfg.checkpoint, DTYPES[dtype])
    return Scorer(
        model,
        tokenizer,
        max_length=cfg.eval.max_length or own.get("max_length", 2048),
        batch_tokens=cfg.eval.batch_tokens,
        trunk_layers=own.get("top_layers", 0) if cfg.eval.reuse_trunk else 0,
        cache_dir=Path(cfg.cache_dir) / "trunk",
        label=f"score {cfg.benchmark}",
    )


def write_outputs(
    cfg: DictConfig, output: Path, scores: pd.DataFrame, summary: dict[str, Any]
) -> None:
    """Write scores.parquet, summary.json and, for pair benchmarks, table.md with intervals."""
    buffer = io.BytesIO()
    scores.to_parquet(buffer, index=False)
    atomic_write_bytes(output / "scores.parquet", buffer.getvalue())
    atomic_write_json(output / "summary.json", summary)
    protocol = BENCHMARKS[cfg.benchmark].protocol
    if protocol is not None:
        intervals = section_intervals(
            outcomes(scores), protocol(scores), resamples=cfg.eval.resamples
        )
        atomic_write_text(output / "table.md", table(intervals, summary))


def table(intervals: pd.DataFrame, summary: dict[str, Any]) -> str:
    """Markdown table of sections and average: accuracy in percent, 95 % interval, pairs."""
    lines = [
        f"{summary['benchmark']}: {summary['pairs']} pairs, {summary['ties']} ties "
        f"({summary['tie_rule']}), {summary['truncated']} truncated",
        "",
        "| section | accuracy % | 95 % interval (bootstrap over pairs) | pairs | note |",
        "|---|---|---|---|---|",
    ]
    for row in intervals[intervals["level"] != "subset"].itertuples():
        note = (
            "partial: " + "; ".join(summary["partial"][row.name])
            if (row.name in summary["partial"])
            else ""
        )
        if row.level == "average" and summary["partial"]:
            note = f"from {len(summary['partial'])} partial sections"
        lines.append(
            f"| {row.name} | {100 * row.mean:.1f} | [{100 * row.low:.1f}, {100 * row.high:.1f}] "
            f"| {row.pairs} | {note} |"
        )
    return "\n".join(lines) + "\n"


@configuration.main("evaluate")
def main(cfg: DictConfig) -> None:
    """Score one checkpoint and print its table."""
    summary = evaluate(cfg)
    written = Path(cfg.output) / "table.md"
    print(written.read_text() if written.is_file() else json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
