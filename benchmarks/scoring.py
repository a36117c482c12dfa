"""Scoring pairs: ours against the official rewardbench pipeline and a plain transformers loop.

    python -m benchmarks.scoring [--data rewardbench generated_v2] [--pairs 48] [--rounds 3]

All ways score the same rows with the same checkpoint in `common.DTYPE`. The two peers take 8 pairs
per batch (the official default), in the order of the file. Our scorer makes its own batches,
without and with prefix sharing. The rewards of all ways are compared. Writes
results/benchmarks/scoring.csv, and scoring_profile.csv: our shared scoring by operation
(torch.profiler).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BatchEncoding, PreTrainedTokenizerBase

from benchmarks.common import (
    DTYPE,
    RESULTS,
    backbone,
    interleave,
    machine,
    matrix_numbers,
    product_rate,
    profiled,
    with_ratios,
    write,
)
from eval import rewardbench
from eval.rows import EvaluationRow
from eval.scoring import Scorer
from generated import generate
from rm.data.tokens import pad
from rm.model.checkpoints import new_reward_model, save_reward_model
from rm.model.parts import lower_precision
from rm.model.tree import batches_by_shared_tokens, share

PEER_BATCH, MAX_LENGTH, BATCH_TOKENS = 8, 384, 4096


@dataclass
class Job:
    """Rows to score and the rewards that each way found."""

    scorer: Scorer
    checkpoint: Path
    rows: Sequence[EvaluationRow]
    rewards: dict[str, Tensor] = field(default_factory=dict)

    def sides(self) -> tuple[list[EvaluationRow], list[str], list[str]]:
        """The rows, and the rendered text of both sides of each."""
        tokenizer = self.scorer.tokenizer

        def text(row: EvaluationRow, response: str) -> str:
            turns = [*map(dict, row.prompt), {"role": "assistant", "content": response}]
            return str(tokenizer.apply_chat_template(turns, tokenize=False))

        chosen = [text(row, row.chosen) for row in self.rows]
        return list(self.rows), chosen, [text(row, row.rejected) for row in self.rows]


def official(job: Job) -> Callable[[], None]:
    """`rewardbench.models.pipeline.RewardBenchPipeline` on rendered texts, batches of pairs."""
    pipeline = _pipeline_class()(
        "text-classification", _plain_model(job.checkpoint), _tokenizer(job.scorer.tokenizer)
    )
    _, chosen, rejected = job.sides()

    def run() -> None:
        found = []
        for start in range(0, len(chosen), PEER_BATCH):
            scores = [
                pipeline(side[start : start + PEER_BATCH], truncation=True, max_length=MAX_LENGTH)
                for side in (chosen, rejected)
            ]
            found.append(torch.cat(scores, dim=1).float())
        job.rewards["rewardbench"] = torch.cat(found)

    return run


def _pipeline_class() -> Any:
    found = importlib.util.find_spec("rewardbench")
    if found is None or found.origin is None:
        raise SystemExit("rewardbench is not installed: make test installs it")
    path = Path(found.origin).parent / "models/pipeline.py"
    spec = importlib.util.spec_from_file_location("official_pipeline", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not torch.cuda.is_available():  # it moves its inputs to "cuda" on any machine
        BatchEncoding.to = lambda self, *_, **__: self  # type: ignore[method-assign]
    return module.RewardBenchPipeline


def _plain_model(checkpoint: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=DTYPE).eval()


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.padding_side = "left"  # the official command's setting
    tokenizer.truncation_side = "left"
    return tokenizer


def plain(job: Job) -> Callable[[], None]:
    """A plain loop: batches of rows in order, padded, one forward pass each."""
    model = _plain_model(job.checkpoint)
    encoded = [job.scorer.encode(row.prompt, (row.chosen, row.rejected))[0] for row in job.rows]

    @torch.inference_mode()
    def run() -> None:
        found = []
        for start in range(0, len(encoded), PEER_BATCH):
            batch = [row for sides in encoded[start : start + PEER_BATCH] for row in sides]
            ids, mask = pad(batch, int(job.scorer.tokenizer.pad_token_id or 0))
            logits = model(input_ids=ids, attention_mask=mask).logits
            found.append(logits.float().view(-1, 2))
        job.rewards["plain loop"] = torch.cat(found)

    return run


def ours(job: Job, *, share_prefix: bool) -> Callable[[], None]:
    """Our scorer, tokenisation included."""
    name = "ours, shared" if share_prefix else "ours, two-row"

    def run() -> None:
        job.scorer.share_prefix = share_prefix
        rows = [
            side
            for row in job.rows
            for side in job.scorer.encode(row.prompt, (row.chosen, row.rejected))[0]
        ]
        job.rewards[name] = job.scorer.rewards(rows).view(-1, 2)

    return run


def measure(job: Job, data: str, rounds: int) -> pd.DataFrame:
    """Time all ways on the same rows."""
    ways = {
        "rewardbench": official(job),
        "plain loop": plain(job),
        "ours, two-row": ours(job, share_prefix=False),
        "ours, shared": ours(job, share_prefix=True),
    }
    found = with_ratios(interleave(ways, rounds, data), "rewardbench")
    encoded = [job.scorer.encode(row.prompt, (row.chosen, row.rejected))[0] for row in job.rows]
    rows = [row for sides in encoded for row in sides]
    total = sum(map(len, rows))
    shared = sum(len(share(batch)) for batch in batches_by_shared_tokens(rows, BATCH_TOKENS))
    found["tokens"] = [shared if way == "ours, shared" else total for way in found.way]
    found["saved"] = 1 - found.tokens / total
    found["pairs_per_s"] = len(job.rows) / found.wall_s
    rate = product_rate()
    work = 2 * matrix_numbers([job.scorer.model.backbone]) * found.tokens
    found["product_gflops"] = rate / 1e9
    found["of_product_rate"] = work / found.wall_s / rate
    reference = job.rewards["ours, two-row"]
    found["mean_difference"] = [
        (job.rewards[way] - reference).abs().mean().item() for way in found.way
    ]
    return found.assign(
        data=data, pairs=len(job.rows), row_tokens=total, spread=reference.std().item()
    )


def rows_of(data: str, pairs: int, shared: Path) -> list[EvaluationRow]:
    """Evenly spaced rows in RewardBench's format, or generated test pairs."""
    if data == "rewardbench":
        every = rewardbench.load(str(shared / "rewardbench_mini.jsonl.gz"))
        return list(every[:: max(1, len(every) // pairs)])[:pairs]
    return [
        EvaluationRow(p.pair_id, p.prompt, p.chosen, p.rejected, subset="all", section="all")
        for p in (made.pair for made in generate("test", pairs, 0))
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=["rewardbench", "generated_v2"])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = new_reward_model(backbone(), DTYPE, seed=0)
    checkpoint = backbone().parent / "benchmark-checkpoint"
    save_reward_model(model, tokenizer, checkpoint)
    lower_precision(model.backbone, DTYPE)
    scorer = Scorer(model, tokenizer, max_length=MAX_LENGTH, batch_tokens=BATCH_TOKENS)
    for data in given.data:
        if data == "rewardbench" and not given.shared.is_dir():
            print(f"rewardbench is left out: there is no folder {given.shared}")
            continue
        job = Job(scorer, checkpoint, rows_of(data, given.pairs, given.shared))
        found = measure(job, data, given.rounds)
        write(found.assign(**machine()), given.output / "scoring.csv", ["data"])
        by_operation = profiled(ours(job, share_prefix=True)).assign(data=data, **machine())
        write(by_operation, given.output / "scoring_profile.csv", ["data"])


if __name__ == "__main__":
    main()
