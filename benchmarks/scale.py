"""Training on many pairs: tokenisation, time to the first step, memory, and resuming a run.

    python -m benchmarks.scale [--pairs 50000] [--tokens 300] [--processes 2] [--tokenised 50000]

Writes pairs of random words to a file and makes three measurements, each in its own processes. If
--tokenised is below --pairs, the token table is repeated up to --pairs.

tokenise  reading, checking and tokenising the file into the cache, with --processes processes
start     `scripts.train` with two ranks and a tiny model, from the command to the first step;
          `peak_mb` is the memory of the larger rank, `own_mb` its memory that no file backs
resume    a data loader that starts nine tenths into the run; `reads` counts micro-batches read

Writes results/benchmarks/scale.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
from accelerate import skip_first_batches
from omegaconf import DictConfig
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer

from benchmarks.common import RESULTS, machine, write
from generated import generate
from pipeline.run.token_cache import TokenCache, TrainingTokens
from pipeline.run.training import batches_of
from pipeline.settings.backbone import backbone_folder
from pipeline.settings.checks import check
from pipeline.settings.configuration import compose_config
from pipeline.settings.objective import objective_of
from rm.data.templates import ChatTemplate
from rm.data.token_table import SCHEMA, TABLE_FILE
from rm.data.tokens import TokenPair
from rm.files import seal
from rm.training.batches import PairStream, training_order

DEVICES, STEPS = 2, 8


def words_of(folder: Path, pairs: int) -> list[str]:
    """Settings of a run of a few steps on the pairs in `folder`."""
    return [
        *("profile=smoke", "data=files", f"data.train={folder}/pairs.jsonl"),
        *("data.validation_share=0.0", f"cache_dir={folder}/cache", f"devices={DEVICES}"),
        *(f"run_dir={folder}/run", "training.micro_batch=4", "training.save_steps=0"),
        f"training.epochs={8 * (STEPS + 0.5) / pairs}",
    ]


def write_pairs(path: Path, pairs: int, tokens: int, tokenizer: Any) -> None:
    """Write pairs whose two rows have about `tokens` tokens together."""
    made = [one.pair for one in generate("train", 100, 0)]
    vocabulary = " ".join(f"{pair.prompt[-1]['content']} {pair.chosen}" for pair in made).split()
    each = len(tokenizer(" ".join(vocabulary))["input_ids"]) / len(vocabulary)
    draw, third = random.Random(0), tokens / each / 4  # prompts are in both rows

    def text() -> str:
        return " ".join(draw.choices(vocabulary, k=round(third * draw.uniform(0.5, 1.4))))

    with path.open("w") as file:
        for _ in tqdm(range(pairs), desc="writing", mininterval=5):
            row = {"prompt": text(), "chosen": text(), "rejected": text(), "margin": draw.random()}
            file.write(json.dumps(row) + "\n")


def tokens_of(cfg: DictConfig) -> TrainingTokens:
    """The run's tokens, made if they are not in the cache."""
    folder = backbone_folder(cfg.model, cfg.cache_dir)
    cache = TokenCache(cfg, folder, check(cfg), objective_of(cfg.loss))
    return cache.open(ChatTemplate(AutoTokenizer.from_pretrained(folder)))


# --- The three measurements ----------------------------------------------------------------------


def tokenise(cfg: DictConfig) -> dict[str, float]:
    """Make the tokens in this process and its workers; `peak_mb` is of this process."""
    started = time.perf_counter()
    made = tokens_of(cfg)
    seconds, tokens = time.perf_counter() - started, int(made.report["tokens"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"seconds": seconds, "pairs": len(made.pairs), "tokens": tokens, "peak_mb": peak}
    return found | {"pairs_per_s": len(made.pairs) / seconds, "tokens_per_s": tokens / seconds}


def resume(cfg: DictConfig) -> dict[str, float]:
    """Resume a run over all pairs at nine tenths and read its first micro-batch."""
    settings, pairs = check(cfg), tokens_of(cfg).pairs
    batch, reads = settings.global_batch, list[int]()

    class Noted(PairStream):
        def __getitem__(self, index: int) -> list[TokenPair]:
            reads.append(index)
            return super().__getitem__(index)

    order = training_order(pairs, epochs=1, global_batch=batch, seed=0)
    stream = Noted(pairs, batches_of(settings, pairs, order, DEVICES))
    started, skipped = time.perf_counter(), 9 * len(stream) // 10
    loader = skip_first_batches(DataLoader(stream, collate_fn=lambda one: one[0]), skipped)
    next(iter(loader))
    assert reads[0] == skipped
    return {"seconds": time.perf_counter() - started, "reads": len(reads), "skipped": skipped}


def repeat_table(folder: Path, times: int) -> None:
    """Repeat the rows of a token table in its file, and seal its folder again."""
    path, new = folder / TABLE_FILE, folder / "repeated.arrow"
    batches = pa.ipc.open_stream(pa.memory_map(str(path))).read_all().to_batches()
    with pa.OSFile(str(new), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for _ in range(times):
            for batch in batches:
                writer.write_batch(batch)
    new.replace(path)
    seal(folder)


def start(words: list[str], folder: Path) -> dict[str, float]:
    """Train by the command line and sample the memory of its ranks until it ends."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    started, metrics, found = time.perf_counter(), folder / "run" / "metrics.jsonl", {}
    command = subprocess.Popen([sys.executable, "-m", "scripts.train", *words])
    peaks: dict[str, tuple[float, float]] = {}
    while command.poll() is None:
        if "seconds" not in found and metrics.is_file() and metrics.stat().st_size:
            found["seconds"] = time.perf_counter() - started
        for rank, seen in memory_of_ranks(command.pid):
            peaks[rank] = max(peaks.get(rank, (0.0, 0.0)), seen)
        time.sleep(0.05)
    if command.returncode:
        sys.exit("the run failed: see above")
    peak, own = max(peaks.values())
    return found | {"peak_mb": peak, "own_mb": own, "ranks": len(peaks)}


def memory_of_ranks(command: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Ranks of a command, each with its peak resident and current anonymous memory in MB."""
    try:
        for process in psutil.Process(command).children(recursive=True):
            rank = process.environ().get("RANK")
            if rank is not None:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                sizes = {line.split(":")[0]: line.split()[1] for line in lines if " kB" in line}
                yield rank, (int(sizes["VmHWM"]) / 1024, int(sizes["RssAnon"]) / 1024)
    except (psutil.Error, OSError, KeyError):
        return  # the process has just ended


def in_a_process(stage: str, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run one measurement in its own process."""
    options = ["--pairs", str(given.pairs), "--processes", str(given.processes)]
    command = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--folder", str(folder)]
    done = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--tokens", type=int, default=300, help="per pair, both rows together")
    parser.add_argument("--tokenised", type=int, help="pairs tokenised, then repeated to --pairs")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.csv")
    given = parser.parse_args()
    if given.stage:
        words = [*words_of(given.folder, given.pairs), f"threads={given.processes}"]
        stage = {"tokenise": tokenise, "resume": resume}[given.stage]
        print(json.dumps(stage(compose_config("train", words))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words, tokenised = words_of(folder, given.pairs), given.tokenised or given.pairs
        cfg = compose_config("train", words)
        tokenizer = AutoTokenizer.from_pretrained(backbone_folder(cfg.model, cfg.cache_dir))
        write_pairs(folder / "pairs.jsonl", tokenised, given.tokens, tokenizer)
        rows: list[dict[str, Any]] = []
        rows.append({"stage": "tokenise", **in_a_process("tokenise", given, folder)})
        for table in (folder / "cache/tokens").glob(f"*/{TABLE_FILE}"):
            rows[0]["bytes_per_token"] = table.stat().st_size / rows[0]["tokens"]
            repeat_table(table.parent, given.pairs // tokenised)
        rows.append({"stage": "start", **start(words, folder)})
        rows.append({"stage": "resume", **in_a_process("resume", given, folder)})
    found = pd.DataFrame(rows).assign(size=given.pairs, processes=given.processes, **machine())
    write(found, given.output, ["stage", "size"])


if __name__ == "__main__":
    main()
