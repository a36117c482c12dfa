"""Untrusted models: no pickle is loaded, none of their code runs, no other model is fetched."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from eval.best_of_n.decoding import PolicyText
from generated import verify_programs
from rm.errors import InputError, visible
from rm.files import CHECKSUMS_FILE, file_name
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import load_reward_model, new_reward_model, save_reward_model

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("rm", "generated", "eval", "analysis", "pipeline", "scripts", "benchmarks")


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.fixture
def backbone(backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(backbones["llama"], tmp_path / "backbone"))


@pytest.fixture
def checkpoint(backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A tiny reward model that a test may spoil; as those of others, without our checksums."""
    save_reward_model(*new_reward_model(backbones["llama"], torch.float32, 0), tmp_path / "rm")
    (tmp_path / "rm" / CHECKSUMS_FILE).unlink()
    return tmp_path / "rm"


def load_checkpoint(folder: Path) -> object:
    return load_reward_model(folder, torch.float32)


def load_backbone(folder: Path) -> object:
    return new_reward_model(folder, torch.float32, seed=0)


def prepare(folder: Path) -> object:
    return prepare_backbone(BackboneSettings("mine", "ours", path=str(folder)), folder)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def spoil_by_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(folder.parent / "ran"), file)


@pytest.mark.parametrize("read", [load_backbone, prepare])
def test_a_backbone_of_pickles_is_refused_and_not_unpickled(
    read: Callable[[Path], object], backbone: Path
) -> None:
    spoil_by_pickle(backbone)
    with pytest.raises(InputError, match=r"as pickles only \(pytorch_model\.bin\).*convert them"):
        read(backbone)
    assert not (backbone.parent / "ran").exists()


def test_a_checkpoint_of_pickles_is_refused_and_not_unpickled(checkpoint: Path) -> None:
    spoil_by_pickle(checkpoint)
    with pytest.raises(InputError, match=r"as pickles only.*from_pretrained\(FOLDER\)"):
        load_checkpoint(checkpoint)
    (checkpoint / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"holds no weights \(\*\.safetensors\)"):
        load_checkpoint(checkpoint)
    assert not (checkpoint.parent / "ran").exists()


def test_a_pickle_beside_safetensors_is_not_read(checkpoint: Path) -> None:
    with (checkpoint / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(checkpoint.parent / "ran"), file)
    load_checkpoint(checkpoint)
    assert not (checkpoint.parent / "ran").exists()


INDEXES = [
    {"weight_map": {"score.weight": "../other.safetensors"}},
    {"weight_map": {"score.weight": "/etc/hostname"}},
    {"weight_map": {"score.weight": "pytorch_model.bin"}},
    {"weight_map": {"score.weight": 7}},
    {"weight_map": ["a"]},
    [],
]


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_that_leads_elsewhere_is_refused(index: object, checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    save_file(state, checkpoint / "model-00001-of-00001.safetensors", {"format": "pt"})
    (checkpoint / "pytorch_model.bin").touch()
    path = checkpoint / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"not a safetensors file of this|is not an index"):
        load_checkpoint(checkpoint)
    names = dict.fromkeys(state, "model-00001-of-00001.safetensors")
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    load_checkpoint(checkpoint)


def test_an_adapter_would_load_another_model_and_is_refused(checkpoint: Path) -> None:
    adapter = {"base_model_name_or_path": "someone/else", "peft_type": "LORA"}
    (checkpoint / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(InputError, match=r"is an adapter.*merge it first"):
        load_checkpoint(checkpoint)


def add_code(folder: Path, config: str, auto_map: dict[str, object]) -> None:
    code = f"import os\nos.mkdir({str(folder.parent / 'ran')!r})\nclass C: pass\n"
    (folder / "theirs.py").write_text(code)
    change(folder / config, auto_map=auto_map, model_type="of-their-own")


@pytest.mark.parametrize("read", [load_backbone, PolicyText.of_folder])
def test_a_backbone_that_asks_for_its_own_code_is_refused(
    read: Callable[[Path], object], backbone: Path
) -> None:
    add_code(backbone, "config.json", {"AutoConfig": "theirs.C", "AutoModel": "theirs.C"})
    with pytest.raises(InputError, match=r"asks to run code of its own.*trust_remote_code is off"):
        read(backbone)
    assert not (backbone.parent / "ran").exists()


def test_a_checkpoint_or_tokenizer_that_asks_for_its_own_code_is_refused(checkpoint: Path) -> None:
    whole = (checkpoint / "config.json").read_text()
    add_code(checkpoint, "config.json", {"AutoConfig": "theirs.C"})
    with pytest.raises(InputError, match="asks to run code of its own"):
        load_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text(whole)
    change(
        checkpoint / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["theirs.C", None]},
        tokenizer_class="Theirs",
    )
    with pytest.raises(InputError, match="asks to run code of its own"):
        load_checkpoint(checkpoint)
    assert not (checkpoint.parent / "ran").exists()


# --- Names in paths and messages -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "..", ".", ".hidden", "", "-e", "a b", "a\nb", "a\x00", "é/.."]
)
def test_a_backbones_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.name=.*must be a plain name"):
        prepare_backbone(BackboneSettings(name, "ours"), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_plain_names() -> None:
    names = ("llama-3.2-3b-instruct", "x_1+2.0", "模型")
    assert tuple(file_name(name, "key") for name in names) == names


@pytest.mark.parametrize(
    "change",
    [
        {"package": "--index-url=x"},
        {"version": "1 -r x"},
        {"gguf": "../x"},
        {"gguf": "/etc/passwd"},
    ],
)
def test_a_wheels_names_are_no_options_and_no_paths(change: dict[str, str], tmp_path: Path) -> None:
    wheel = {"package": "p", "version": "1", "sha256": "0", "gguf": "a/b.gguf", **change}
    with pytest.raises(InputError, match=r"model\.wheel\.\w+="):
        prepare_backbone(BackboneSettings("x", "MIT", wheel=wheel), tmp_path / "cache")


def test_messages_hold_nothing_that_acts_on_a_terminal() -> None:
    error = InputError("\x1b]0;title\x07\x1b[2Jno \u202efile\nsecond\x85 ünï 漢 |")
    assert str(error) == r"\x1b]0;title\x07\x1b[2Jno \u202efile\nsecond\x85 ünï 漢 |"


@given(st.text())
def test_visible_text_is_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert visible(shown) == shown


# --- The code itself -----------------------------------------------------------------------------


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text())
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


FORBIDDEN = (
    *("pickle.load", "pickle.loads", "torch.load", "joblib.load", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "eval"),
)


def test_nothing_reads_pickles_or_unsafe_yaml_and_models_are_read_in_one_place() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 90
    for path in files:
        for name, call in calls(path):
            assert name not in FORBIDDEN, f"{path}: {name}"
            keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert keywords.get("trust_remote_code", "False") == "False", path
            assert keywords.get("allow_pickle", "False") == "False", path
            reads = name.endswith(".from_pretrained") and path.parent.name != "benchmarks"
            known = name in ("kind.from_pretrained", "GenerationConfig.from_pretrained")  # JSON
            assert not reads or known, f"{path}: {name}: use rm.model.untrusted.load"


def test_a_program_nested_too_deep_is_no_program() -> None:
    for source in ("-" * 200_000 + "1", "(" * 500, "x=" + "[" * 5000):
        assert verify_programs.load(source, "f") is None
