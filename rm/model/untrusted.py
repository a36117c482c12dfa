"""Untrusted models: their weights are read, their code is never run.

Weights are read only from safetensors, because loading a pickle can run code. `trust_remote_code`
is off. A folder that makes transformers fetch another model is rejected.

Training resumes from pickles that transformers and DeepSpeed wrote (optimiser and random states
under `run_dir/trainer`). So do not resume in an untrusted run folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors import safe_open

from rm.data.templates import RefusedConversation
from rm.errors import InputError

MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""Files of a Hub model that are fetched: no pickles, no code."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
SHOWN = 5
"""Maximum number of missing weights that a message names."""
REASON = 300
"""Maximum number of characters that a message quotes from a library's message."""
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which stands in for the real file."""


def load(kind: Any, folder: Path, **options: Any) -> Any:
    """Return `kind.from_pretrained(folder, …)`, without running code from the folder.

    Raises InputError if the folder asks for code of its own or cannot be read.
    """
    with explained(folder):
        return kind.from_pretrained(folder, trust_remote_code=False, **options)


def load_weights(kind: Any, folder: Path, *, fresh_head: bool = False, **options: Any) -> Any:
    """Return a model that `load` reads from safetensors only.

    `fresh_head`: weights outside the backbone may be missing or have another shape, because the
    caller sets them. Raises InputError as `check_model` does, and if a weight is missing or has
    another shape, because transformers would draw it at random.
    """
    check_model(folder)
    model, info = load(
        kind,
        folder,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below
        **options,
    )
    missing = sorted(info["missing_keys"])
    unlike = sorted(info["mismatched_keys"])
    if fresh_head:
        inner = f"{model.base_model_prefix}."
        missing = [name for name in missing if name.startswith(inner)]
        unlike = [facts for facts in unlike if facts[0].startswith(inner)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{folder} lacks weights: {', '.join(missing[:SHOWN])}{more}: fetch or save it again"
        )
    if unlike:
        name, stored, asked = unlike[0]
        raise InputError(
            f"{folder}: {name} has shape {tuple(stored)}, but config.json asks for {tuple(asked)}: "
            "fetch the model again"
        )
    return model


@contextlib.contextmanager
def explained(source: Path | str) -> Iterator[None]:
    """Turn any error while an untrusted model is read or tried into an InputError.

    It names the folder, the cause and a remedy. Out-of-memory errors pass unchanged, because the
    folder is not the cause. An InputError passes unchanged too. A chat template's refusal does not,
    because it does not name the folder.
    """
    try:
        yield
    except RefusedConversation as error:
        raise InputError(
            f"{source}: {error}: correct its chat template (chat_template.jinja, or "
            "tokenizer_config.json)"
        ) from error
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(_explanation(Path(source), error)) from error


def _explanation(source: Path, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"{source} asks to run code of its own (auto_map in a configuration file), but "
            "such code is never run here (trust_remote_code is off): take a model whose class is "
            "part of transformers"
        )
    reason = " ".join(str(error).split())[:REASON]
    if type(error) is Exception:  # what tokenizers raises
        return (
            f"no tokenizer could be read from {source}: {reason}: tokenizer.json is damaged or of "
            f"a newer format than tokenizers {tokenizers.__version__} reads: fetch it again, or "
            "upgrade tokenizers and transformers"
        )
    if " " not in reason:  # a KeyError's key
        reason = f"{type(error).__name__} {reason}".strip()
    return (
        f"no model could be read from {source}: {reason}: fetch the model again, or save it with "
        f"transformers {transformers.__version__}"
    )


def check_model(folder: Path) -> None:
    """Raise InputError unless the model in `folder` can be read safely, and trained.

    It must not be an adapter. Its weights must be safetensors in the folder itself and not
    quantised. No file may be a Git LFS pointer.
    """
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} is an adapter (adapter_config.json) that names another model to load: merge "
            "it first (peft: merge_and_unload().save_pretrained(FOLDER))"
        )
    check_files(folder)
    names = sorted(path.name for path in folder.iterdir())
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(_without_safetensors(folder, names))
    for name in _shards(folder / INDEX):
        if name not in names or not name.endswith(".safetensors"):
            raise InputError(
                f"{folder / INDEX} names {name}, which is not a safetensors file of this folder: "
                "fetch the model again"
            )
    quantised = _quantisation(folder / "config.json")
    if quantised is not None:
        raise InputError(
            f"{folder} is quantised ({quantised}): its weights can be neither trained nor merged: "
            "take the original model, or dequantise it and save that"
        )


def check_files(folder: Path) -> None:
    """Raise InputError if a file of the model is a Git LFS pointer."""
    for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
        with file.open("rb") as content:
            if content.read(len(POINTER)) == POINTER:
                raise InputError(
                    f"{file} is a Git LFS pointer, not the real file: run `git lfs pull` in its "
                    "folder, or fetch the model again"
                )


def _quantisation(config: Path) -> str | None:
    """Quantisation method and bits from a configuration; None if it names none."""
    try:
        content = json.loads(config.read_bytes())
        noted = content.get("quantization_config") or content.get("quantization")  # MLX's name
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # transformers says what is wrong with the file
    if not noted:
        return None
    facts = noted if isinstance(noted, dict) else {}
    bits = next((f"{n} bit" for n in (4, 8) if facts.get(f"load_in_{n}bit")), None)
    bits = bits or (f"{facts['bits']} bit" if facts.get("bits") else None)
    return ", ".join(filter(None, [str(facts.get("quant_method") or "unnamed method"), bits]))


def stored_shape(folder: Path, name: str) -> list[int] | None:
    """Shape of a weight in a folder's safetensors, from the header; None if it is missing.

    Raises InputError if a file is damaged.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with explained(folder), safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 (not a mapping)
                return list(file.get_slice(name).get_shape())
    return None


def _without_safetensors(folder: Path, names: list[str]) -> str:
    pickles = [name for name in names if name.endswith(PICKLES)]
    if not pickles:
        return f"{folder} holds no weights (*.safetensors): fetch the model again"
    return (
        f"{folder} holds its weights as pickles only ({pickles[0]}), which can run code when they "
        "are loaded: if you trust them, convert them with "
        "AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) "
        "(AutoModelForCausalLM for a backbone), and give NEW_FOLDER"
    )


def _shards(index: Path) -> list[str]:
    """Return the weight files that an index names; none where there is no index."""
    if not index.is_file():
        return []
    try:
        return sorted(set(map(str, json.loads(index.read_text())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is not an index of weights: fetch the model again") from error
