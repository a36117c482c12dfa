"""Feed the loaders damaged model folders: each works, or is refused in one line.

    python -m tests.faults.model_folders --tries 2500 [--seed 0]

Folders of tiny backbones, of a trained reward model and of one with a vision tower. In each, one to
three fields of the configuration, the tokenizer or the chat template are dropped, doubled (the
value, or the name with another value), or given a value of another type. Each is read as a
backbone, as a policy and, where it says so, as a reward model, in a process of its own; what was
read then trains, shares prefixes and scores a pair. It must end as `kept` (all of it works) or as
`refused` (InputError, one line). Prints a row of results/benchmarks/faults.csv.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from eval.best_of_n.decoding import PolicyText
from generated.backbones import build_tiny
from rm.data.preferences import PreferencePair
from rm.data.templates import ChatTemplate
from rm.data.token_table import tokenize_pairs
from rm.errors import InputError
from rm.files import CHECKSUMS_FILE
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import (
    keeps_head,
    load_reward_model,
    new_reward_model,
    save_reward_model,
)
from rm.model.checks import can_share
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel
from rm.model.trunk import open_cache
from rm.training.batches import PairCollator, model_inputs, rows_of
from tests.faults import commands, fuzz
from tests.faults.workplace import Row
from tests.models import gemma3_folder

FAULT = "a model folder with fields dropped, doubled or of another type"
FILES = {
    "config.json": 6,
    "tokenizer_config.json": 4,
    "tokenizer.json": 3,
    "generation_config.json": 1,
    "chat_template.jinja": 1,
}
"""What is damaged, and how often each is drawn."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, 1e300, 2**40, "", "x", "7", "auto", "{{ x }}"),
    *([], [1], ["a", None], {}, {"a": 1}, {"content": 5}, "<eos>", [[]]),
)
PAIR = PreferencePair(
    "a", ({"role": "user", "content": "What is six times seven?"},), "It is 42.", "It is 48."
)
LENGTH = 64
"""Tokens of the longest row."""

Place = tuple[Any, Any]
"""A container within a JSON value, and a key or an index in it."""


@functools.cache
def sources(root: Path) -> list[Path]:
    """Write the whole folders that are damaged below `root`, once a process."""
    conf = commands.ROOT / "conf/model"
    made = []
    for name in ("tiny-llama", "tiny-gemma"):
        settings = BackboneSettings(**yaml.safe_load((conf / f"{name}.yaml").read_text()))
        made.append(prepare_backbone(settings, root, build_tiny))
    made.append(gemma3_folder(made[1], root / "seeing", window=LENGTH, vision=True))
    save_reward_model(*new_reward_model(made[0], torch.float32, seed=0), root / "trained")
    return [*made, root / "trained"]


def write(folder: Path, seed: str) -> Path:
    """Write the damaged folder that `seed` stands for; return its path."""
    draw, path = random.Random(seed), folder / "model"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(draw.choice(sources(folder / "whole")), path)
    (path / CHECKSUMS_FILE).unlink(missing_ok=True)
    for _ in range(draw.choice([1, 1, 2, 3])):
        (name,) = draw.choices([*FILES], [*FILES.values()])
        file = path / name
        if name.endswith(".jinja") and file.is_file():
            file.write_bytes(fuzz.damaged(file.read_bytes(), draw))
        elif file.is_file():
            file.write_text(changed(json.loads(file.read_text()), draw))
    return path


def changed(content: Any, draw: random.Random) -> str:
    """The JSON text of `content` after one field was dropped, doubled or given another value."""
    holder, key = draw.choice([*places(content)])
    kind = draw.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder[key], int | float | str | list):
        holder[key] = holder[key] * 2
    elif kind == 2 and isinstance(holder, dict):
        twice = f"field that stands twice {draw.random()}"
        holder[twice] = draw.choice(VALUES)
        return json.dumps(content).replace(json.dumps(twice), json.dumps(key))
    else:
        holder[key] = draw.choice(VALUES)
    return json.dumps(content)


def places(content: Any, depth: int = 4) -> Iterator[Place]:
    """Fields of a JSON value down to a depth; of a long container the first few."""
    keys: list[Any] = [*content] if isinstance(content, dict) else [*range(len(content))]
    for key in keys[:30]:
        yield content, key
        if depth and isinstance(content[key], dict | list):
            yield from places(content[key], depth - 1)


def load(path: Path) -> str:
    """Read and use the folder in every way; return how it ended. Anything else raises."""
    ends = [_ends(way, path) for way in (_as_backbone, _as_policy, _as_reward_model)]
    return "refused" if "refused" in ends else "kept"


def _ends(way: Any, path: Path) -> str:
    try:
        way(path)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 10_000
        return "refused"
    return "kept"


def _as_backbone(path: Path) -> None:
    kept = keeps_head(path, "auto", "linear")
    model, tokenizer = new_reward_model(path, torch.float32, seed=0, keep_head=kept)
    train_part(model, "top_layers", top_layers=1)
    _use(model, tokenizer, path.parent)


def _as_policy(path: Path) -> None:
    PolicyText.of_folder(path)


def _as_reward_model(path: Path) -> None:
    if "ForSequenceClassification" in (path / "config.json").read_text():
        model, tokenizer = load_reward_model(path, torch.float32)
        _use(model, tokenizer, path.parent)


def _use(model: RewardModel, tokenizer: Any, folder: Path) -> None:
    """Tokenise a pair, share its prefix where that can be, keep its trunk, score it."""
    pairs, _ = tokenize_pairs([PAIR], ChatTemplate(tokenizer), LENGTH, drop=False)
    share = can_share(model, LENGTH) is None
    shutil.rmtree(folder / "trunk", ignore_errors=True)
    trunk = open_cache(model, 1, rows_of(pairs), folder / "trunk", share=share)
    collator = PairCollator(int(tokenizer.pad_token_id), trunk, share=share)
    rewards = model(**model_inputs(collator(pairs))).rewards
    assert rewards.shape == (2,)
    rewards.sum().backward()


def fuzzed(tries: int, seed: int, keep: Path) -> tuple[Counter[str], list[tuple[str, str]]]:
    """Try damaged folders, at least `tries`; return their ends, and seed and trace of failures."""
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        sources(Path(name) / "whole")  # before processes are started, which inherit them
        return fuzz.fuzz(0, seed, keep, tries=tries, inputs=(write, load), folder=Path(name))


def row(ends: Counter[str], seed: int) -> Row:
    """The run as a row of results/benchmarks/faults.csv."""
    return Row(**{**fuzz.row(ends, seed), "fault": FAULT})


def main(arguments: Sequence[str] | None = None) -> Row:
    """Fuzz, print how the folders ended, and exit with status 1 if one ended otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    given = parser.parse_args(arguments)
    ends, failures = fuzzed(given.tries, given.seed, given.keep)
    found = row(ends, given.seed)
    fuzz.report(ends, failures, found)
    return found


if __name__ == "__main__":
    main()
