"""The whole pipeline: python -m scripts.reproduce profile=cpu (what `make reproduce` calls).

Trains every method with every seed, scores each, measures exact gradients, and writes tables,
figures and their data under results/<profile>. Every stage leaves a manifest; a stage whose
manifest matches its inputs is not repeated.
"""

from __future__ import annotations

import gc
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis import figure2, figure4, style, table1
from rm.backbones import BackboneSettings, prepare_backbone
from rm.batches import PairCollator, rows_of
from rm.errors import InputError
from rm.files import atomic_write_bytes, atomic_write_json, atomic_write_text
from rm.generated import GeneratedPair, generate
from rm.gradients import pair_gradients
from rm.models import DTYPES, load_reward_model, new_reward_model, save_reward_model, train_part
from rm.provenance import environment, fingerprint_of
from rm.tokens import ChatTemplate, TokenPair, encode_pair
from rm.trunk import open_cache
from rm.weights import NormBT
from scripts import config as configuration
from scripts.evaluate import BENCHMARKS, evaluate
from scripts.train import MODEL_FILE, check, train

UNTRAINED = "untrained"
OWN_KEYS = (
    "methods",
    "seeds",
    "benchmark",
    "benchmark_data",
    "gradient_pairs",
    "eval",
    "runs_dir",
    "results_dir",
)
FIGURES = {"figure2": figure2, "figure4": figure4}


@dataclass(frozen=True)
class Run:
    """One trained (or untrained) reward model of the matrix and where its files are."""

    method: str
    seed: int
    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The plain Hugging Face folder."""
        return self.folder / "checkpoint"

    @property
    def scores(self) -> Path:
        """The evaluation's output folder."""
        return self.folder / "evaluation"


def reproduce(cfg: DictConfig, overrides: Sequence[str]) -> Path:
    """Run what is missing of the pipeline; return the results folder."""
    started = time.time()
    configs = [train_config(cfg, overrides, m, s) for m in cfg.methods for s in cfg.seeds]
    for one in configs:
        check(one)
    runs_dir, results = Path(cfg.runs_dir), Path(cfg.results_dir)
    test = benchmark_data(cfg, runs_dir)
    untrained = make_untrained(cfg, runs_dir)
    runs = [Run(c.loss.name, c.seed, Path(c.run_dir)) for c in configs]
    evaluate_run(cfg, untrained, test)
    for number, (one, run) in enumerate(zip(configs, runs, strict=True), start=1):
        print(f"[{number}/{len(runs)}] {run.method}, seed {run.seed}", flush=True)
        train(one)
        gc.collect()
        evaluate_run(cfg, run, test)
    measured = [untrained, *(run for run in runs if run.seed == cfg.seeds[0])]
    gradients = pd.concat([gradients_of(cfg, run, test) for run in measured])
    collect(cfg, results / "data", [untrained, *runs], gradients)
    draw(cfg, results)
    write_manifest(cfg, results, runs, time.time() - started)
    return results


def train_config(cfg: DictConfig, overrides: Sequence[str], method: str, seed: int) -> DictConfig:
    """Compose the configuration of one training run as scripts.train would, from this one's."""
    kept = [
        word
        for word in overrides
        if word.lstrip("+~").split("=")[0].split(".")[0]
        not in (*OWN_KEYS, "loss", "seed", "run_dir")
    ]
    folder = Path(cfg.runs_dir) / "train" / f"{method}-seed{seed}"
    return configuration.compose_config(
        "train", [*kept, f"loss={method}", f"seed={seed}", f"run_dir='{folder}'"]
    )


def benchmark_data(cfg: DictConfig, runs_dir: Path) -> str:
    """Return the evaluation data: what the user gave, or the generated test split as a file."""
    if cfg.benchmark not in BENCHMARKS:
        raise InputError(f"benchmark={cfg.benchmark}: choose {', '.join(BENCHMARKS)}")
    if cfg.benchmark_data is not None:
        return str(cfg.benchmark_data)
    if cfg.benchmark != "generated":
        return "hub"
    if cfg.data.kind != "generated":
        raise InputError(
            "benchmark=generated needs data=generated: give benchmark=… and benchmark_data=PATH"
        )
    path = runs_dir / "data" / "test.jsonl"
    made = generate("test", cfg.data.test_pairs, cfg.data.seed)
    atomic_write_text(path, "".join(_as_row(pair) + "\n" for pair in made))
    return str(path)


def _as_row(made: GeneratedPair) -> str:
    pair = made.pair
    return json.dumps(
        {
            "pair_id": pair.pair_id,
            "prompt": list(pair.prompt),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "section": pair.category,
            "subset": made.subset,
        }
    )


def make_untrained(cfg: DictConfig, runs_dir: Path) -> Run:
    """Save the backbone with an untrained head, to score as any other checkpoint."""
    run = Run(UNTRAINED, 0, runs_dir / UNTRAINED)
    settings = check(cfg)
    noted = {
        "loss": UNTRAINED,
        "backbone": cfg.model.name,
        "top_layers": settings.top_layers if settings.reuse_trunk else 0,
        "max_length": settings.max_length,
        "compute_dtype": settings.compute_dtype,
    }
    file = run.checkpoint / MODEL_FILE
    if file.is_file() and json.loads(file.read_text()) == noted:
        return run
    backbone = prepare_backbone(
        configuration.typed(BackboneSettings, cfg.model), Path(cfg.cache_dir) / "backbones"
    )
    model, tokenizer = new_reward_model(backbone, DTYPES[settings.compute_dtype], seed=0)
    extra = {MODEL_FILE: json.dumps(noted, indent=2) + "\n"}
    save_reward_model(model, tokenizer, run.checkpoint, extra=extra)
    return run


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
            "cache_dir": cfg.cache_dir,
            "eval": cfg.eval,
        }
    )


def gradients_of(cfg: DictConfig, run: Run, test: str) -> pd.DataFrame:
    """Exact per-pair gradients of a fixed sample of the benchmark's pairs, kept in a file.

    θ is what the run trains; the layers above the trunk are computed in float32.
    """
    rows = sample_rows(BENCHMARKS[cfg.benchmark].load(test), cfg.gradient_pairs)
    stage = fingerprint_of(
        [
            json.loads((run.scores / "manifest.json").read_text())["inputs"],
            [row.pair_id for row in rows],
            OmegaConf.to_container(cfg.training, resolve=True),
        ]
    )
    path = run.folder / f"gradients-{stage}.csv"
    if not path.is_file():
        atomic_write_text(path, measure_gradients(cfg, run, rows).to_csv(index=False))
    frame = pd.read_csv(path)
    names = pd.DataFrame(
        {
            "pair_id": [row.pair_id for row in rows],
            "subset": [row.subset for row in rows],
            "section": [row.section for row in rows],
        }
    )
    return names.merge(frame, on="pair_id").assign(method=run.method, seed=run.seed)


def sample_rows(rows: Sequence[Any], pairs_a_section: int) -> list[Any]:
    """Take the same number of rows of every section, spread evenly over its rows."""
    chosen = []
    for section in dict.fromkeys(row.section for row in rows):
        members = [row for row in rows if row.section == section]
        count = min(pairs_a_section, len(members))
        chosen += [members[index * len(members) // count] for index in range(count)]
    return chosen


def measure_gradients(cfg: DictConfig, run: Run, rows: Sequence[Any]) -> pd.DataFrame:
    """Measure gradients of `rows` under a checkpoint, and the NormBT weight each would get.

    The weight is μ / (‖h_w − h_l‖ + ε) with μ the sample's mean distance.
    """
    settings = check(cfg)
    model, tokenizer = load_reward_model(run.checkpoint, DTYPES[settings.compute_dtype])
    part = "full" if settings.part == "lora" else settings.part
    train_part(model, part, top_layers=settings.top_layers)  # type: ignore[arg-type]
    template = ChatTemplate(tokenizer)
    pairs = []
    for row in rows:
        sides = (row.chosen, row.rejected)
        (one, other), _, _ = encode_pair(template, row.prompt, sides, settings.max_length)
        pairs.append(TokenPair(row.pair_id, tuple(one), tuple(other)))
    trunk = None
    if settings.reuse_trunk:
        folder = Path(cfg.cache_dir) / "trunk"
        trunk = open_cache(model, settings.top_layers, rows_of(pairs), folder)
    model.float()
    model.compute_dtype = torch.float32
    frame = pair_gradients(model, pairs, PairCollator(int(tokenizer.pad_token_id), trunk))
    distance = torch.tensor(frame["distance"].to_numpy())
    weight = NormBT(beta=0.9, epsilon=1e-6).weigh(distance, distance.mean().item())
    return frame.assign(weight=weight.numpy())


def collect(cfg: DictConfig, folder: Path, runs: Sequence[Run], gradients: pd.DataFrame) -> None:
    """Write the tidy files that every table and figure is drawn from."""
    scores, metrics = [], []
    for run in runs:
        named = {"method": run.method, "seed": run.seed}
        frame = pd.read_parquet(run.scores / "scores.parquet")
        scores.append(
            frame.assign(
                **named, backbone=cfg.model.name, data=cfg.data.name, benchmark=cfg.benchmark
            )
        )
        if run.method != UNTRAINED:
            lines = (run.folder / "metrics.jsonl").read_text().splitlines()
            metrics.append(pd.DataFrame(map(json.loads, lines)).assign(**named))
    _write_parquet(pd.concat(scores), folder / "scores.parquet")
    _write_parquet(pd.concat(metrics), folder / "metrics.parquet")
    atomic_write_text(folder / "gradients.csv", gradients.to_csv(index=False))


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd")
    atomic_write_bytes(path, buffer.getvalue())


def label(cfg: DictConfig) -> str:
    """One line for every table and figure: backbone, data, scale."""
    kinds = {"generated": "generated preference pairs"}
    data = kinds.get(cfg.data.kind, f"training pairs: {cfg.data.name}")
    return f"{cfg.model.name} · {data} · benchmark: {cfg.benchmark} · profile {cfg.profile.name}"


def draw(cfg: DictConfig, results: Path) -> None:
    """Draw every table and figure from the files in results/data."""
    note = label(cfg)
    table1.write(results / "data", results / "tables", note)
    for name, module in FIGURES.items():
        figure = module.draw(module.collect(results / "data"), note=note)
        style.write_figure(figure, results / "figures" / name)


def write_manifest(cfg: DictConfig, results: Path, runs: Sequence[Run], seconds: float) -> None:
    """Write which runs, settings, data and code made the results."""
    records = []
    for run in runs:
        made = json.loads((run.folder / "manifest.json").read_text())
        records.append({"method": run.method, **made})
    atomic_write_json(
        results / "manifest.json",
        {
            "profile": cfg.profile.name,
            "label": label(cfg),
            "runs": records,
            "evaluation": OmegaConf.to_container(cfg.eval, resolve=True),
            "benchmark": cfg.benchmark,
            "seconds_of_this_call": round(seconds, 1),
            "environment": environment(),
        },
    )


@configuration.main("reproduce")
def main(cfg: DictConfig) -> None:
    """Run the pipeline and print Table 1 and where everything is."""
    results = reproduce(cfg, HydraConfig.get().overrides.task)
    print((results / "tables" / "table1.md").read_text())
    for path in sorted(results.rglob("*")):
        if path.is_file():
            print(path)


if __name__ == "__main__":
    main()
