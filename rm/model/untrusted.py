"""Models of others: their numbers are read, no code of theirs is run.

Weights come from safetensors alone (a pickle runs code when it is loaded), `trust_remote_code` is
off, and a folder that would have transformers fetch another model is refused. A training run's own
files to resume from (optimiser and random states under `run_dir/trainer`) are pickles that
transformers and DeepSpeed wrote on this machine: don't resume in a run folder of somebody else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rm.errors import InputError

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""What is fetched of a model on the Hub: no pickles, no code."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
SHOWN = 5
"""Missing weights that a message names."""
INDEX = "model.safetensors.index.json"


def load(kind: Any, folder: Path, **options: Any) -> Any:
    """Return `kind.from_pretrained(folder, …)`: a tokenizer or a configuration, without its code.

    Raises InputError if the folder asks for code of its own or cannot be read.
    """
    with explained(folder):
        return kind.from_pretrained(folder, trust_remote_code=False, **options)


def load_weights(kind: Any, folder: Path, *, fresh_head: bool = False, **options: Any) -> Any:
    """Return `load` of a model, from safetensors alone.

    `fresh_head`: the folder need not have what lies outside the backbone, since the caller sets it.
    Raises InputError as `check_model`, and where a weight is not there: transformers would draw it
    at random.
    """
    check_model(folder)
    model, info = load(kind, folder, use_safetensors=True, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if fresh_head:
        missing = [name for name in missing if name.startswith(f"{model.base_model_prefix}.")]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{folder} lacks weights: {', '.join(missing[:SHOWN])}{more}: fetch or save it anew"
        )
    return model


@contextlib.contextmanager
def explained(source: Path | str) -> Iterator[None]:
    """Turn what transformers says of a folder into an InputError, above all a wish to run code."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" not in str(error):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"no model could be read from {source}: {reason}") from error
        raise InputError(
            f"{source} asks to run code of its own (auto_map in a configuration file), which is "
            "never done here (trust_remote_code is off): take a model whose class is part of "
            "transformers"
        ) from error


def check_model(folder: Path) -> None:
    """Raise InputError unless the weights in `folder` are safetensors, all in the folder itself."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} is an adapter (adapter_config.json) that names another model to load: merge "
            "it first (peft: merge_and_unload().save_pretrained(FOLDER))"
        )
    names = sorted(path.name for path in folder.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(_without_safetensors(folder, names))
    for name in _shards(folder / INDEX):
        if name not in names or not name.endswith(".safetensors"):
            raise InputError(
                f"{folder / INDEX} names {name}, which is no safetensors file of this folder: "
                "fetch the model again"
            )


def _without_safetensors(folder: Path, names: list[str]) -> str:
    pickles = [name for name in names if name.endswith(PICKLES)]
    if not pickles:
        return f"{folder} holds no weights (*.safetensors): fetch the model again"
    return (
        f"{folder} holds its weights as pickles only ({pickles[0]}), which can run code when they "
        "are loaded: where you trust them, convert them by "
        "AutoModelForSequenceClassification (a backbone: AutoModelForCausalLM)"
        ".from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), and give the new folder"
    )


def _shards(index: Path) -> list[str]:
    """Return the weight files that an index names; none where there is no index."""
    if not index.is_file():
        return []
    try:
        return sorted(set(map(str, json.loads(index.read_text())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not an index of weights: fetch the model again") from error
