"""The frozen trunk: layers that no loss trains are computed once, and their output is reused.

If only the top layers train, the trunk gives the same output for every loss, seed and evaluation.
`split_backbone` divides the stack. `TrunkCache` keeps the trunk's output, one vector per token in
the compute dtype, in a memory-mapped file. The file's name holds fingerprints of weights and rows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from rm.data.tokens import Row, pad
from rm.errors import InputError
from rm.files import atomic_write_json, writing
from rm.model.attention import shared_batch
from rm.model.reward_model import RewardModel, miniature
from rm.model.tree import batches_by_shared_tokens, row_states

NOTE_SECONDS = 15.0
"""Seconds between notes of the progress, from which a killed computation resumes."""
IRRELEVANT = frozenset(
    (
        *("_name_or_path", "architectures", "transformers_version", "dtype", "use_cache"),
        *("id2label", "label2id", "problem_type", "reward_head", "num_hidden_layers"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range"),
    )
)
"""Configuration settings that cannot change the trunk's states and so are not fingerprinted.

The dtypes of the computation and the layers below the cut are fingerprinted separately.
"""


def split_backbone(model: RewardModel, top_layers: int) -> nn.Module:
    """Give `model` its upper stack (the top layers and the norm); return the lower stack.

    Both are views: they hold the backbone's own modules, not copies. The lower stack ends without
    a norm, so `upper(inputs_embeds=lower(ids))` is the whole backbone. Raises InputError if the
    architecture cannot be divided like this (its plain forward still works).
    """
    _check_split(model, top_layers)
    return _divide(model, top_layers)


def _divide(model: RewardModel, top_layers: int) -> nn.Module:
    backbone, count = model.backbone, len(model.backbone.layers)
    lower = _view(backbone, range(count - top_layers), norm=nn.Identity())
    upper = _view(backbone, range(count - top_layers, count), norm=backbone.norm)
    model.divide(upper)
    return lower


def _view(backbone: Any, layers: Iterable[int], norm: nn.Module) -> nn.Module:
    chosen = list(layers)
    view = copy.copy(backbone)
    view.__dict__["_modules"] = dict(backbone._modules)
    view.config = copy.deepcopy(backbone.config)
    view.config.num_hidden_layers = len(chosen)
    if getattr(view.config, "layer_types", None):  # read by a layer's index in the view
        view.config.layer_types = [backbone.config.layer_types[index] for index in chosen]
    view.layers = nn.ModuleList(backbone.layers[index] for index in chosen)
    view.norm = norm
    return view


@torch.no_grad()
def _check_split(model: RewardModel, top_layers: int) -> None:
    """Compare the divided and the whole forward on a small float32 model of the same architecture.

    Its two layers have the types of the layers below and above the cut (at an outermost cut, of the
    nearest inner cut). Its window is shorter than the row, so that a layer with a wrong mask shows.
    """
    cut = min(max(len(model.backbone.layers) - top_layers, 1), len(model.backbone.layers) - 1)
    small = miniature(model, layers=(cut - 1, cut), window=4)
    lower = _divide(small, 1)
    ids = torch.arange(2, 10).unsqueeze(0)
    mask = torch.ones_like(ids)
    whole = small(mask, input_ids=ids)
    parts = small(mask, trunk_states=_lower_states(small, lower, ids, mask))
    if not torch.allclose(whole.hidden, parts.hidden, rtol=1e-4, atol=1e-5):
        raise InputError(
            f"{type(model.backbone).__name__} cannot be divided into a frozen trunk and upper "
            "layers: set training.reuse_trunk=false"
        )


def _lower_states(model: RewardModel, lower: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return model.run(lower, mask, input_ids=ids).last_hidden_state.to(model.compute_dtype)


def trunk_fingerprint(model: RewardModel, top_layers: int) -> str:
    """First 16 hex digits of a SHA-256 over everything that the states depend on.

    It covers every weight below the top layers, the dtypes, and the model's configuration without
    the names in `IRRELEVANT`. So a setting that we do not know is covered.
    """
    count = len(model.backbone.layers)
    trained = tuple(f"layers.{index}." for index in range(count - top_layers, count))
    settings = {
        "dtypes": [str(model.compute_dtype), str(model.state_dtype)],
        "class": type(model.backbone).__name__,
        "config": {k: v for k, v in model.config.to_dict().items() if k not in IRRELEVANT},
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(model.backbone.state_dict().items()):
        if not name.startswith((*trained, "norm.")):
            digest.update(name.encode())
            data = value.detach().to(model.compute_dtype).contiguous().cpu()
            digest.update(data.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class TrunkCache:
    """Trunk states of a set of token rows, on disk: `states(row)` gives (length, hidden)."""

    def __init__(self, path: Path, rows: Sequence[Row], width: int, dtype: torch.dtype) -> None:
        """Map the complete file at `path`; `rows` in the order in which they were written."""
        self.path, self.dtype = path, dtype
        self.starts, total = _starts(rows)
        checksums = json.loads(path.with_suffix(".json").read_text())["checksums"]
        self._checksums = dict(zip(rows, checksums, strict=True))
        self._map = torch.from_file(str(path), shared=False, size=total * width, dtype=dtype).view(
            total, width
        )

    def states(self, row: Row) -> Tensor:
        """Trunk states (length, hidden) of a row.

        Raises KeyError if the row was not cached, InputError if its states are damaged.
        """
        start = self.starts[row]
        states = self._map[start : start + len(row)]
        if zlib.crc32(_bytes_of(states)) != self._checksums[row]:
            raise InputError(f"{self.path} is damaged: delete it, and run the same command again")
        return states

    def batch(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Right-padded states (rows, longest, hidden) and attention mask (rows, longest)."""
        _, mask = pad(rows, pad_id=0)
        states = torch.zeros(*mask.shape, self._map.shape[1], dtype=self.dtype)
        for index, row in enumerate(rows):
            states[index, : len(row)] = self.states(row)
        return states, mask


def open_cache(
    model: RewardModel,
    top_layers: int,
    rows: Iterable[Row],
    folder: Path,
    *,
    tokens_per_batch: int = 4096,
    label: str = "frozen trunk",
    share: bool = False,
) -> TrunkCache:
    """Return the cache of `rows`, and compute it if it is missing.

    Splits the backbone of `model`. The file's name holds the fingerprints of the trunk's weights
    and of the rows. Its header is written last: a file without a matching header is computed again,
    and an interrupted computation resumes. Each read of a row compares its checksum. With `share`,
    tokens that rows share are computed once (`rm.model.attention`); these states are the same up to
    rounding and have a separate file. Raises InputError if the disk has too little space.
    """
    lower = split_backbone(model, top_layers)
    unique = sorted(set(rows), key=lambda row: (len(row), row))
    width, dtype = model.config.hidden_size, model.compute_dtype
    header = {
        "trunk": trunk_fingerprint(model, top_layers),
        "rows": _rows_fingerprint(unique),
        "top_layers": top_layers,
        "tokens": sum(len(row) for row in unique),
        "width": width,
        "dtype": str(dtype),
        **({"shared": True} if share else {}),
    }
    path = folder / f"trunk-{header['trunk']}-{header['rows']}{'-shared' if share else ''}.bin"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # a second process waits, then finds it
        if not _is_complete(path, header):
            _check_room(path, header["tokens"] * width * dtype.itemsize)
            with writing(path):
                checksums = _fill(model, lower, unique, path, header, tokens_per_batch, label)
            atomic_write_json(path.with_suffix(".json"), {**header, "checksums": checksums})
    return TrunkCache(path, unique, width, dtype)


def _rows_fingerprint(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def _is_complete(path: Path, header: dict[str, Any]) -> bool:
    try:
        written = json.loads(path.with_suffix(".json").read_text())
        size = header["tokens"] * header["width"] * getattr(torch, header["dtype"][6:]).itemsize
        checksums = written.pop("checksums")
        whole = isinstance(checksums, list) and path.stat().st_size == size
        return whole and written == header
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _check_room(path: Path, needed: int) -> None:
    partial = path.with_suffix(".partial")
    written = partial.stat().st_size if partial.is_file() else 0
    free = shutil.disk_usage(path.parent).free
    if needed - written > free:
        raise InputError(
            f"the frozen trunk's states need {(needed - written) / 1e9:.1f} GB and {path.parent} "
            f"has {free / 1e9:.1f} GB free: free some space, choose another cache_dir or set "
            "reuse_trunk=false"
        )


def _starts(rows: Sequence[Row]) -> tuple[dict[Row, int], int]:
    """Index of each row's first token in the file, and the number of all tokens."""
    places = list(accumulate(map(len, rows), initial=0))
    return dict(zip(rows, places, strict=False)), places[-1]


@torch.no_grad()
def _fill(
    model: RewardModel,
    lower: nn.Module,
    rows: Sequence[Row],
    path: Path,
    header: dict[str, Any],
    tokens: int,
    label: str,
) -> list[int]:
    """Write all rows' states to `path`; return their CRC-32, in the order of `rows`.

    A killed computation resumes after its last noted batch.
    """
    share = "shared" in header
    batches = list((batches_by_shared_tokens if share else batches_by_tokens)(rows, tokens))
    partial, noted = path.with_suffix(".partial"), path.with_suffix(".progress")
    starts, _ = _starts(rows)
    width = header["width"] * model.compute_dtype.itemsize
    done, checksums = _already_written(path, rows, header, tokens, width)
    was_training = model.training
    model.eval()
    last = time.monotonic()
    with partial.open("r+b" if done else "wb") as file, _progress(rows, label) as bar:
        bar.update(sum(map(len, checksums)))
        for number, batch in enumerate(batches[done:], start=done + 1):
            for row, state in _states(model, lower, batch, share):
                file.seek(starts[row] * width)
                file.write(_bytes_of(state))
                checksums[row] = zlib.crc32(_bytes_of(state))
                bar.update(len(row))
            if time.monotonic() - last > NOTE_SECONDS or number == len(batches):
                file.flush()
                os.fsync(file.fileno())
                known = [checksums.get(row) for row in rows]
                note = {"header": header, "tokens": tokens, "batches": number, "checksums": known}
                atomic_write_json(noted, note)
                last = time.monotonic()
    model.train(was_training)
    os.replace(partial, path)
    noted.unlink()
    return [checksums[row] for row in rows]


def _already_written(
    path: Path, rows: Sequence[Row], header: dict[str, Any], tokens: int, width: int
) -> tuple[int, dict[Row, int]]:
    """Number of batches that a killed computation of the same states noted, and row checksums.

    `width`: bytes per token. Returns (0, {}) if a row in the file does not match its checksum.
    """
    try:
        found = json.loads(path.with_suffix(".progress").read_text())
        if found["header"] != header or found["tokens"] != tokens:
            return 0, {}
        known = {r: c for r, c in zip(rows, found["checksums"], strict=True) if c is not None}
        starts, _ = _starts(rows)
        with path.with_suffix(".partial").open("rb") as file:
            for row, checksum in known.items():
                file.seek(starts[row] * width)
                if zlib.crc32(file.read(len(row) * width)) != checksum:
                    return 0, {}
        return int(found["batches"]), known
    except (OSError, ValueError, KeyError, TypeError):
        return 0, {}


def _bytes_of(states: Tensor) -> memoryview:
    return states.contiguous().view(torch.uint8).numpy().data


def _states(
    model: RewardModel, lower: nn.Module, batch: Sequence[Row], share: bool
) -> Iterator[tuple[Row, Tensor]]:
    """Yield each row of a batch and its states (length, hidden), in any order."""
    device = next(model.parameters()).device
    if share:
        states = model.shared_states(lower, shared_batch(batch).to(device))
        yield from row_states(batch, states.to(model.compute_dtype).cpu())
        return
    ids, mask = pad(batch, pad_id=0)
    padded = _lower_states(model, lower, ids.to(device), mask.to(device)).cpu()
    for row, state in zip(batch, padded, strict=True):
        yield row, state[: len(row)]


def _progress(rows: Sequence[Row], label: str) -> Any:
    tokens = sum(len(row) for row in rows)
    return tqdm(total=tokens, desc=label, unit="tok", unit_scale=True, mininterval=1)


def batches_by_tokens(rows: Sequence[Row], tokens: int) -> Iterable[list[Row]]:
    """Cut rows, shortest first, into batches of at most `tokens` padded tokens."""
    batch: list[Row] = []
    for row in rows:
        if batch and len(row) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
