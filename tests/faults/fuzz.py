"""Feed the loaders damaged files for some minutes: every one is read, counted or refused.

    python -m tests.faults.fuzz --minutes 5 [--seed 0]

Valid files in every form (json, jsonl, gz, parquet, folders) and schema are damaged at random:
bytes flipped, cut, doubled, spliced, hostile tokens put in, gzip kept whole around damaged text.
Each is loaded as training pairs and as an evaluation's pairs, in a process of its own with little
memory, and must end as `kept` (all rows), `dropped` (some or all rows counted under a reason) or
`refused` (InputError); pairs that were kept must be writable and read back. Anything else, a crash
and a hang too, is a failure whose file is kept. Prints a row of results/benchmarks/faults.csv.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets  # before processes are started: it takes a second
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.utils import logging as hub_logging

from eval import pairs as evaluation_pairs
from rm.data.preferences import load_preferences, write_pairs
from rm.data.sources import Reason
from rm.errors import InputError
from tests.messages import assistant as bot
from tests.messages import user

MEMORY = 6 * 2**30
SECONDS = 60
"""What one file may take."""
BATCH = 200
"""Files that one process loads."""
FORMS = {"jsonl": 6, "json": 6, "jsonl.gz": 6, "json.gz": 6, "parquet": 6, "folder": 1}
"""Forms of a source, and how often each is drawn (a folder takes long to open)."""
ENDS = ("kept", "dropped", "refused")
TRACES = 40
"""Failures whose traces are printed."""
Inputs = tuple[Callable[[Path, str], Path], Callable[[Path], str]]
"""Writes the input that a seed stands for into a folder; reads it and says how it ended."""
TOKENS = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"\r", b"\n", b"\r\n"),
    *(b"\\ud800", b"\\u0000", b"\xe2\x80\xa8", b"NaN", b"-Infinity", b"1e999", b"9" * 5000),
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"true",
        b"[" * 2000,
        b'{"a":' * 2000,
    ),
    *(
        b'"prompt": "x",',
        b'"chosen": 1,',
        b'"margin": -1,',
        b'"role": "tool",',
        b"PAR1",
        b"\x1f\x8b",
    ),
)


def texts(draw: random.Random) -> str:
    """A text of a few characters, some of them odd; sometimes a long one."""
    odd = 'aé漢\u2028\u202e\x00\x1b\n\t"\\/<>$🙂 '
    length = draw.choice([0, 1, 3, 10, 10, 10, 5000])
    return draw.choice(["", "a ", "b ", "c "]) + "".join(draw.choices(odd, k=length))


def rows(draw: random.Random) -> list[dict[str, Any]]:
    """One to six rows of one schema, all readable as JSON."""
    make: Callable[[], dict[str, Any]] = draw.choice(
        [
            lambda: {"prompt": texts(draw), "chosen": texts(draw), "rejected": texts(draw)},
            lambda: {
                "prompt": [user(texts(draw))],
                "chosen": [bot(texts(draw))],
                "rejected": [bot(texts(draw))],
            },
            lambda: {
                "chosen": [user("a"), bot(texts(draw))],
                "rejected": [user("a"), bot(texts(draw))],
            },
            lambda: {
                "conv_A": [user("a"), bot(texts(draw))],
                "conv_B": [user("a"), bot(texts(draw))],
                "conv_A_rating": draw.random(),
                "conv_B_rating": draw.random(),
            },
        ]
    )
    extra: dict[str, Any] = draw.choice(
        [{}, {"margin": 0.5, "pair_id": "x"}, {"category": "Chat", "source": "s", "id": 3}]
    )
    return [{"category": "c", **make(), **extra} for _ in range(draw.randint(1, 6))]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The bytes after zero to four random damages."""
    data = bytearray(content)
    for _ in range(draw.choice([0, 1, 1, 1, 2, 4])):
        place, end = sorted((draw.randint(0, len(data)), draw.randint(0, len(data))))
        kind = draw.randrange(5)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            data[place:place] = draw.choice(TOKENS)
        elif kind == 3:
            data[place:place] = data[place : min(end, place + 200)]
        else:
            del data[place : min(end, place + 20)]
    return bytes(data)


def as_bytes(form: str, made: list[dict[str, Any]], draw: random.Random) -> bytes:
    """The rows in a form of `FORMS`, damaged outside or, within gzip, inside."""
    if form == "parquet":
        buffer = io.BytesIO()
        codec = draw.choice(["none", "snappy", "zstd"])
        pq.write_table(pa.Table.from_pylist(made), buffer, compression=codec)
        return damaged(buffer.getvalue(), draw)
    lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in made]
    listed = form.startswith("json.") or form == "json"
    text = f"[{', '.join(lines)}]" if listed else "\n".join(lines)
    if not form.endswith(".gz"):
        return damaged(text.encode(), draw)
    inside = draw.random() < 0.5
    packed = gzip.compress(damaged(text.encode(), draw) if inside else text.encode(), mtime=0)
    return packed if inside else damaged(packed, draw)


def write(folder: Path, seed: str) -> Path:
    """Write the input that `seed` stands for; return its path."""
    draw = random.Random(seed)
    (form,), made = draw.choices([*FORMS], [*FORMS.values()]), rows(draw)
    if form == "folder":
        path = folder / "set"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        for name in ("train-0.jsonl", "train-1.jsonl", draw.choice(["README.md", "test.jsonl"])):
            (path / name).write_bytes(as_bytes("jsonl", made, draw))
        return path
    path = folder / f"input.{form}"
    path.write_bytes(as_bytes(form, made, draw))
    return path


def load(path: Path) -> str:
    """Load the input both ways; return how the training loader ended. Anything else raises."""
    end = "refused"
    try:
        kept, report = load_preferences(path)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 10_000
    else:
        end = "dropped" if report.dropped else "kept"
        assert report.rows == report.kept + sum(report.dropped.values()) + report.not_taken
        assert report.kept == len(kept) and set(report.dropped) <= set(Reason)
        again = path.with_name("again.jsonl")
        write_pairs(kept, again)
        assert load_preferences(again)[0] == kept
    try:
        found = evaluation_pairs.load(str(path))
        assert found and all(row.chosen.strip().encode() for row in found)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 10_000
    return end


class Hang(BaseException):
    """An input that takes too long; no loader may take it for an error of its own."""


def _stop(*_: object) -> None:
    raise Hang(f"more than {SECONDS} s")


def work(folder: Path, seeds: Sequence[str], results: Connection, inputs: Inputs) -> None:
    """Load the inputs of `seeds` and report each one's end; runs in a process of its own."""
    make, read = inputs
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _stop)
    datasets.disable_progress_bars()
    hub_logging.set_verbosity_error()
    for seed in seeds:
        signal.alarm(SECONDS)
        try:
            end = read(make(folder, seed))
        except (Exception, Hang):
            end = traceback.format_exc()
        signal.alarm(0)
        results.send(end)


def batch(folder: Path, seeds: Sequence[str], inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Yield each seed and its end, from a fresh process; the one at which it dies is a failure."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(folder, seeds, theirs, inputs))
    process.start()
    theirs.close()  # so that its end is seen here
    with ours:
        for seed in seeds:
            if not ours.poll(3 * SECONDS):  # in C code, which no signal ends
                process.kill()
            try:
                yield seed, ours.recv()
            except EOFError:
                process.join()
                yield seed, f"the process ended with {process.exitcode}"
                return
    process.join()


def fuzz(
    minutes: float,
    seed: int,
    keep: Path,
    *,
    tries: int = 1,
    inputs: Inputs | None = None,
    folder: Path | None = None,
) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Try inputs until the time is over and `tries` were tried; return ends and failures.

    inputs: how one is written and read (None: data files). folder: where (None: a new one). A
    failure is its seed and its trace.
    """
    inputs = inputs or (write, load)
    ends: Counter[str] = Counter()
    failures: list[tuple[str, str]] = []
    until, number = time.monotonic() + 60 * minutes, 0
    with tempfile.TemporaryDirectory() as name:
        while number < tries or time.monotonic() < until:
            seeds = [f"{seed}/{number + i}" for i in range(BATCH)]
            number += BATCH
            for one, end in batch(folder or Path(name), seeds, inputs):
                ends[end if end in ENDS else "failed"] += 1
                if end not in ENDS:
                    failures.append((one, end))
                    keep.mkdir(parents=True, exist_ok=True)
                    inputs[0](keep, one)
    return ends, failures


def row(ends: Counter[str], seed: int) -> dict[str, Any]:
    """The run as a row of results/benchmarks/faults.csv."""
    tried = sum(ends.values())
    return {
        "fault": "a damaged or hostile data file to load",
        "tried": tried,
        "runs": tried,
        "survived": tried - ends["failed"],
        "seed": seed,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Fuzz, print how the inputs ended, and exit with status 1 if one ended otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    given = parser.parse_args(arguments)
    ends, failures = fuzz(given.minutes, given.seed, given.keep)
    found = row(ends, given.seed)
    report(ends, failures, found)
    return found


def report(
    ends: Counter[str], failures: Sequence[tuple[str, str]], found: Mapping[str, Any]
) -> None:
    """Print how the inputs ended and the row; with failures, their traces and exit status 1."""
    print(", ".join(f"{ends[end]:,} {end}" for end in (*ENDS, "failed")))
    print(pd.DataFrame([found]).to_string(index=False))
    for seed, trace in failures[:TRACES]:
        print(f"--- {seed}\n{trace}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
