"""An Arrow table of token pairs: pairs are tokenised once, and all ranks and seeds read them.

A table file is memory-mapped: the processes of a machine share its pages (four bytes per token),
and a pair is read only when needed. Batching needs only the lengths. The file is an Arrow stream
that `datasets.Dataset.from_file` can read.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from rm.data.preferences import PreferencePair
from rm.data.templates import ChatTemplate, RefusedConversation, common_prefix
from rm.data.tokens import TokenPair, encode_pair, response_start
from rm.errors import InputError, InterruptedRunError
from rm.files import atomic_folder, atomic_write_json, damage, read_json, writing
from rm.provenance import usable_cores

TABLE_FILE, FACTS_FILE = "pairs.arrow", "facts.json"
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("chosen", pa.list_(pa.int32())),
        ("rejected", pa.list_(pa.int32())),
        ("shared", pa.int32()),  # leading tokens that the two sides share
        ("margin", pa.float64()),
        ("category", pa.string()),
        ("truncated", pa.bool_()),
        ("response_start", pa.int32()),
    ]
)
"""Columns of the table: those of `TokenPair`, and `shared`. One row per pair."""
CHUNK = 1000
"""Pairs per tokenisation task; each task makes one Arrow record batch."""
PARALLEL = 10_000
"""Fewest pairs per process; with fewer, its start (seconds) costs more than it saves."""
SHOW_AFTER = 5.0
"""Seconds of tokenising after which a progress bar appears."""


@dataclass
class TokenReport:
    """Numbers of kept, truncated and dropped pairs; the last two by reason.

    `special_text`: kept pairs whose texts contain the name of a special token.
    """

    pairs: int = 0
    tokens: int = 0
    special_text: int = 0
    truncated: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, other: TokenReport) -> None:
        """Add the counts of another report."""
        self.pairs += other.pairs
        self.tokens += other.tokens
        self.special_text += other.special_text
        self.truncated += other.truncated
        self.dropped += other.dropped

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for a manifest."""
        return {
            "pairs": self.pairs,
            "tokens": self.tokens,
            "special_text": self.special_text,
            "truncated": dict(self.truncated),
            "dropped": dict(self.dropped),
        }

    def lines(self) -> list[str]:
        """Return one line per count, for people."""
        facts = [f"{self.pairs} pairs, {self.tokens} tokens"]
        if self.special_text:
            facts.append(f"{self.special_text} contain the name of a special token")
        facts += [f"truncated, {reason}: {count}" for reason, count in self.truncated.items()]
        facts += [f"dropped, {reason}: {count}" for reason, count in self.dropped.items()]
        return facts


class TokenPairs(Sequence[TokenPair]):
    """Token pairs in an Arrow table. Lengths, margins and categories need no tokens in memory."""

    def __init__(self, table: pa.Table) -> None:
        """`table` has the columns of `SCHEMA`."""
        self._columns: dict[str, Any] = {name: table.column(name) for name in SCHEMA.names}

    @classmethod
    def of(cls, pairs: Iterable[TokenPair]) -> TokenPairs:
        """Return pairs as a table in memory."""
        return cls(pa.Table.from_batches([_record_batch(list(pairs))]))

    @classmethod
    def open(cls, path: Path) -> TokenPairs:
        """Memory-map a table file. Raises InputError if the file is damaged or not such a table."""
        try:
            return cls(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise InputError(f"{path} is not a token-pair table: delete {path.parent}") from error

    def __len__(self) -> int:
        return len(self._columns["pair_id"])

    @overload
    def __getitem__(self, index: int) -> TokenPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenPair]: ...
    def __getitem__(self, index: int | slice) -> TokenPair | list[TokenPair]:
        """Read one pair, or a list of them."""
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        found = {name: column[index] for name, column in self._columns.items() if name != "shared"}
        chosen, rejected = (_row(found.pop(name)) for name in ("chosen", "rejected"))
        rest = {name: value.as_py() for name, value in found.items()}
        return TokenPair(chosen=chosen, rejected=rejected, **rest)

    @cached_property
    def pair_ids(self) -> list[str]:
        """The pairs' ids, in order."""
        return self._columns["pair_id"].to_pylist()

    @cached_property
    def categories(self) -> list[str]:
        """The distinct categories, sorted."""
        return sorted(filter(None, self._columns["category"].unique().to_pylist()))

    @cached_property
    def not_finite(self) -> NDArray[np.int64]:
        """Indices of pairs with a non-finite margin; a missing margin does not count."""
        finite = pc.is_finite(self._columns["margin"]).fill_null(True)
        return np.flatnonzero(~finite.to_numpy())

    @cached_property
    def row_tokens(self) -> NDArray[np.int64]:
        """Tokens of both sides per pair, (pairs,)."""
        return self._lengths("chosen") + self._lengths("rejected")

    @cached_property
    def longer(self) -> NDArray[np.int64]:
        """Tokens of the longer side per pair, (pairs,)."""
        return np.maximum(self._lengths("chosen"), self._lengths("rejected"))

    @cached_property
    def tree_tokens(self) -> NDArray[np.int64]:
        """Tokens of both sides per pair, with the shared prefix counted once, (pairs,)."""
        return self.row_tokens - self._columns["shared"].to_numpy()

    def _lengths(self, side: str) -> NDArray[np.int64]:
        return pc.list_value_length(self._columns[side]).to_numpy().astype(np.int64)


def _row(tokens: Any) -> tuple[int, ...]:
    return tuple(tokens.values.to_numpy().tolist())


def _record_batch(pairs: Sequence[TokenPair]) -> pa.RecordBatch:
    """Pairs as rows of `SCHEMA`."""
    columns = {
        name: [getattr(pair, name) for pair in pairs] for name in SCHEMA.names if name != "shared"
    }
    columns["shared"] = [common_prefix(pair.chosen, pair.rejected) for pair in pairs]
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


# --- Tokenising ----------------------------------------------------------------------------------


def tokenize_pairs(
    pairs: Iterable[PreferencePair],
    template: ChatTemplate,
    max_length: int,
    *,
    drop: bool,
    mark_response: bool = False,
    processes: int = 1,
    path: Path | None = None,
) -> tuple[TokenPairs, TokenReport]:
    """Tokenise pairs into memory or the file `path`; `rm.data.tokens` explains the truncation.

    `drop=True` (training) drops and counts pairs whose prompt fills the limit, whose sides have
    identical tokens, or that the chat template refuses. `drop=False` (evaluation) keeps every row.
    `mark_response` stores where each chosen response starts. The table does not depend on
    `processes`.

    Raises InputError if no pair is left, or if `drop=False` and a conversation is refused.
    """
    encode = partial(
        _tokenize,
        template=template,
        max_length=max_length,
        drop=drop,
        mark_response=mark_response,
    )
    report = TokenReport()
    sink: Any = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
    bar = tqdm(desc="tokenising", unit="pair", unit_scale=True, delay=SHOW_AFTER, mininterval=1)
    parts = closing(_in_order(encode, _chunks(pairs), processes))
    with sink, pa.ipc.new_stream(sink, SCHEMA) as writer, bar, parts as made:
        for batch, part in made:
            writer.write_batch(batch)
            report.add(part)
            bar.update(part.pairs)
    if not report.pairs:
        raise InputError(f"no pair is left after tokenisation: {'; '.join(report.lines())}")
    if path is not None:
        return TokenPairs.open(path), report
    return TokenPairs(pa.ipc.open_stream(sink.getvalue()).read_all()), report


def _tokenize(
    pairs: Sequence[PreferencePair],
    template: ChatTemplate,
    max_length: int,
    drop: bool,
    mark_response: bool,
) -> tuple[pa.RecordBatch, TokenReport]:
    """One chunk of `tokenize_pairs`."""
    report, kept = TokenReport(), []
    for pair in pairs:
        sides = pair.sides
        try:
            (chosen, rejected), cut, used = encode_pair(template, pair.prompt, sides, max_length)
        except RefusedConversation as refused:
            if not drop:
                raise InputError(f"pair {pair.pair_id}: {refused}") from refused
            report.dropped[refused.reason] += 1
            continue
        if drop and cut == "tokens" and template.prompt_length(used) >= max_length:
            report.dropped["prompt longer than the limit"] += 1
            continue
        if drop and chosen == rejected:
            reason = "by truncation" if cut else "once tokenised"
            report.dropped[f"identical pair {reason}"] += 1
            continue
        if cut:
            report.truncated[cut] += 1
        report.special_text += template.names_special(pair.prompt, sides)
        report.pairs += 1
        report.tokens += len(chosen) + len(rejected)
        marked = response_start(template, used, sides[0], len(chosen)) if mark_response else None
        kept.append(
            TokenPair(
                pair.pair_id,
                tuple(chosen),
                tuple(rejected),
                pair.margin,
                pair.category,
                truncated=cut is not None,
                response_start=marked,
            )
        )
    return _record_batch(kept), report


def _chunks(pairs: Iterable[PreferencePair]) -> Iterator[list[PreferencePair]]:
    chunk: list[PreferencePair] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


Encode = Callable[[list[PreferencePair]], tuple[pa.RecordBatch, TokenReport]]


def _in_order(
    encode: Encode, chunks: Iterable[list[PreferencePair]], processes: int
) -> Generator[tuple[pa.RecordBatch, TokenReport], None, None]:
    """Apply `encode` to chunks in order, in this process or in several new processes."""
    if processes == 1:
        yield from map(encode, chunks)
        return
    # spawn, not fork: a fork would copy locks that this process's threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(encode,))
    try:
        yield from pool.map(_encode_here, chunks)
    except BrokenProcessPool as error:
        raise InterruptedRunError(
            "a tokenising process was killed (out of memory, or a signal from outside): repeat the "
            "command; it tokenises from the start"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_here: list[Encode] = []
"""In a tokenising process: the function that it applies."""


def _start(encode: Encode) -> None:
    """Set up a tokenising process, so that it exits whenever its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the parent reports Ctrl-C
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core already
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    _here[:] = [encode]


def _encode_here(chunk: list[PreferencePair]) -> tuple[pa.RecordBatch, TokenReport]:
    return _here[0](chunk)


def processes_for(pairs: int, most: int | None = None) -> int:
    """Number of tokenising processes: at most `most`, or one per core; one for few pairs."""
    return max(1, min(most or usable_cores(), pairs // PARALLEL))


# --- Cache ---------------------------------------------------------------------------------------


def cached_pairs(
    folder: Path, make: Callable[[Path], dict[str, Any]]
) -> tuple[TokenPairs, dict[str, Any]]:
    """Open the table in `folder` and its facts; make both if they are missing or damaged.

    `make(path)` writes the table (`tokenize_pairs`) and returns the facts as JSON values. If
    several processes call this at the same time, one makes the table and the others wait. Raises as
    `rm.files.writing`.
    """
    if damage(folder) is not None:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if damage(folder) is not None:
                with atomic_folder(folder) as new:
                    atomic_write_json(new / FACTS_FILE, make(new / TABLE_FILE))
    return TokenPairs.open(folder / TABLE_FILE), read_json(folder / FACTS_FILE)
