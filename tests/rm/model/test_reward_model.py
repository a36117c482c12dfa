"""The reward model: pooling, padding, dtypes, what is trained, saving and loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from rm.data.templates import ChatTemplate
from rm.data.tokens import TokenPair, pad
from rm.errors import InputError
from rm.files import CHECKSUMS_FILE
from rm.model.checkpoints import load_reward_model, new_reward_model, save_reward_model
from rm.model.parts import train_part
from rm.model.precision import emulation, fast_dtype
from rm.model.reward_model import RewardModel, last_real_token, set_head
from rm.training.batches import PairCollator, model_inputs

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(params=["llama", "gemma"])
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> Path:
    return backbones[request.param]


def conversations(tokenizer: object) -> list[list[int]]:
    template = ChatTemplate(tokenizer)  # type: ignore[arg-type]
    texts = ["Yes.", "No, it is not at all like that.", "Seven times six is 42."]
    return [template.encode([{"role": "user", "content": "Well?"}], text) for text in texts]


def rewards(model: RewardModel, rows: list[list[int]], pad_id: int, side: str) -> torch.Tensor:
    ids, mask = pad(rows, pad_id, side)
    with torch.no_grad():
        return model.eval()(mask, input_ids=ids).rewards


def test_last_real_token_by_mask_alone() -> None:
    states = torch.arange(2 * 4 * 1.0).view(2, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert last_real_token(states, mask).squeeze(-1).tolist() == [1.0, 7.0]


def test_padding_side_and_batching_do_not_change_rewards(backbone: Path) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    rows = conversations(tokenizer)
    alone = torch.cat([rewards(model, [row], tokenizer.pad_token_id, "right") for row in rows])
    for side in ("left", "right"):
        together = rewards(model, rows, tokenizer.pad_token_id, side)
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_reward_is_read_at_a_real_eos_even_where_pad_is_eos(backbone: Path) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    eos = tokenizer.eos_token_id
    rows = [[5, 6, 7, eos], [5, 6, 7, 8, 9, 10, eos]]
    padded = rewards(model, rows, pad_id=eos, side="right")
    alone = torch.cat([rewards(model, [row], eos, "right") for row in rows])
    assert torch.allclose(padded, alone, rtol=1e-5, atol=1e-6)
    cut = rewards(model, [row[:-1] for row in rows], eos, "right")
    assert not torch.allclose(padded, cut, rtol=1e-3)


def test_stock_transformers_gives_the_same_rewards(backbone: Path, tmp_path: Path) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert stock.config.pad_token_id == theirs.pad_token_id is not None
    rows = conversations(theirs)
    for side in ("left", "right"):
        ids, mask = pad(rows, theirs.pad_token_id, side)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = stock(ids, attention_mask=mask, position_ids=positions).logits.squeeze(-1)
        assert torch.allclose(
            logits, rewards(model, rows, theirs.pad_token_id, side), rtol=1e-5, atol=1e-6
        )


def test_head_depends_on_the_seed_alone(backbone: Path) -> None:
    torch.manual_seed(1)
    one, _ = new_reward_model(backbone, torch.float32, seed=7)
    torch.manual_seed(2)
    same, _ = new_reward_model(backbone, torch.float32, seed=7)
    other, _ = new_reward_model(backbone, torch.float32, seed=8)
    assert one.score.weight.equal(same.score.weight)
    assert not one.score.weight.equal(other.score.weight)


def test_head_and_pooled_state_are_float32_under_bfloat16(backbone: Path) -> None:
    model, tokenizer = new_reward_model(backbone, torch.bfloat16, seed=0)
    train_part(model, "top_layers", top_layers=1, frozen_dtype=torch.bfloat16)
    rows = conversations(tokenizer)
    ids, mask = pad(rows, tokenizer.pad_token_id)
    output = model(mask, input_ids=ids)
    assert output.rewards.dtype == output.hidden.dtype == torch.float32
    assert model.score.weight.dtype == torch.float32
    expected = (output.hidden.double() @ model.score.weight.double().T).squeeze(-1)
    assert torch.allclose(output.rewards.double(), expected, rtol=1e-5)
    assert model.backbone.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    for kept in (model.backbone.embed_tokens, model.backbone.layers[0].input_layernorm):
        assert kept.weight.dtype == torch.float32  # the residual stream, to which layers add
        assert kept.weight.equal(kept.weight.bfloat16().float())
    assert model.state_dtype == torch.float32
    assert model.backbone.layers[-1].mlp.up_proj.weight.dtype == torch.float32


def test_top_layers_trains_them_the_norm_and_the_head(backbone: Path) -> None:
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    train_part(model, "top_layers", top_layers=1)
    names = {name for name, value in model.named_parameters() if value.requires_grad}
    assert all(
        name.startswith(("classifier.model.layers.2.", "classifier.model.norm", "classifier.score"))
        for name in names
    )
    assert {"classifier.score.weight", "classifier.model.norm.weight"} < names


def test_head_alone_with_no_top_layers(backbone: Path) -> None:
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    train_part(model, "top_layers", top_layers=0)
    assert [n for n, v in model.named_parameters() if v.requires_grad] == [
        "classifier.score.weight"
    ]


def test_lora_trains_adapters_and_head_only(backbone: Path) -> None:
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    train_part(model, "lora", lora=LORA)
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert all("lora_" in name or name == "classifier.score.weight" for name in names)
    assert len(names) == 1 + 3 * 2 * 2


def test_adapters_start_from_the_seed_alone(backbone: Path) -> None:
    """Not from what the process drew before: a run must not depend on the run before it."""

    def first_values(seed: int) -> dict[str, torch.Tensor]:
        model, _ = new_reward_model(backbone, torch.float32, seed=0)
        torch.rand(seed + 3)
        train_part(model, "lora", lora=LORA, seed=seed)
        return {k: v for k, v in model.named_parameters() if "lora_A" in k}

    one, same, other = (first_values(seed) for seed in (1, 1, 2))
    torch.rand(5)
    assert one and all(value.equal(same[name]) for name, value in one.items())
    assert all(value.equal(first_values(1)[name]) for name, value in one.items())
    assert not any(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize("part", ["full", "lora", "top_layers"])
def test_save_and_load_gives_equal_scores(backbone: Path, tmp_path: Path, part: str) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    train_part(model, part, top_layers=2, lora=LORA)  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) / 20)
    save_reward_model(model, tokenizer, tmp_path / "rm", extra={"note.json": "{}"})
    loaded, again = load_reward_model(tmp_path / "rm", torch.float32)
    assert (tmp_path / "rm" / "note.json").read_text() == "{}"
    assert not any("lora" in key for key in load_file(tmp_path / "rm" / "model.safetensors"))
    rows = conversations(again)
    assert torch.allclose(
        rewards(loaded, rows, again.pad_token_id, "right"),
        rewards(model, rows, tokenizer.pad_token_id, "right"),
        rtol=1e-5,
        atol=1e-6,
    )


def test_saved_dtypes_are_the_compute_dtype_and_a_float32_head(
    backbone: Path, tmp_path: Path
) -> None:
    model, tokenizer = new_reward_model(backbone, torch.bfloat16, seed=0)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    state = load_file(tmp_path / "rm" / "model.safetensors")
    assert state["score.weight"].dtype == torch.float32
    assert {v.dtype for k, v in state.items() if k != "score.weight"} == {torch.bfloat16}


def test_a_failed_save_leaves_the_old_checkpoint(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    before = (tmp_path / "rm" / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_reward_model(model, tokenizer, tmp_path / "rm")
    assert (tmp_path / "rm" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]


def test_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        load_reward_model(tmp_path / "absent", torch.float32)


def test_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_reward_model(tmp_path, torch.float32)


def test_causal_model_is_not_a_reward_model(backbone: Path) -> None:
    with pytest.raises(InputError, match="not a reward model"):
        load_reward_model(backbone, torch.float32)


def test_encoder_classifier_is_not_a_reward_model(tmp_path: Path, backbone: Path) -> None:
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(backbone).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="linear head `score`"):
        load_reward_model(tmp_path, torch.float32)


def test_two_labels_are_not_a_reward_model(tmp_path: Path, backbone: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="one output"):
        load_reward_model(tmp_path, torch.float32)


def test_checkpoint_without_its_head_is_an_error(tmp_path: Path, backbone: Path) -> None:
    shutil.copytree(backbone, tmp_path, dirs_exist_ok=True)
    (tmp_path / CHECKSUMS_FILE).unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_labels": 1}))
    with pytest.raises(InputError, match=r"lacks weights: score\.weight"):
        load_reward_model(tmp_path, torch.float32)


def test_a_backbone_that_lacks_weights_is_not_filled_up_at_random(
    tmp_path: Path, backbone: Path
) -> None:
    shutil.copytree(backbone, tmp_path / "part")
    path = tmp_path / "part" / "model.safetensors"
    gone = "model.layers.1."
    kept = {name: value for name, value in load_file(path).items() if not name.startswith(gone)}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"lacks weights: (model\.)?layers\.1\..* and \d more: fetch"
    ):
        new_reward_model(tmp_path / "part", torch.float32, seed=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "no such type"}'),
        ("config.json", '{"model_type": "mamba"}'),
        ("config.json", '{"model_'),
        ("model.safetensors", "half"),
        ("tokenizer.json", None),
    ],
)
def test_a_broken_backbone_is_one_line(
    tmp_path: Path, backbones: dict[str, Path], name: str, content: str | None
) -> None:
    folder = Path(shutil.copytree(backbones["llama"], tmp_path / "broken"))
    (folder / name).unlink()
    if content is None:
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"no model could be read from .*broken: "):
        new_reward_model(folder, torch.float32, seed=0)


def test_too_many_top_layers_is_an_error(backbone: Path) -> None:
    model, _ = new_reward_model(backbone, torch.float32, seed=0)
    with pytest.raises(InputError, match="has 3 layers"):
        train_part(model, "top_layers", top_layers=9)
    with pytest.raises(InputError, match="choose full, lora or top_layers"):
        train_part(model, "half")  # type: ignore[arg-type]


def test_another_family_has_no_top_layers_but_may_have_adapters() -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, num_labels=1, pad_token_id=0)
    model = RewardModel(GPT2ForSequenceClassification(config), torch.float32)
    with pytest.raises(InputError, match=r"GPT2Model has no `layers`.*part=full or lora"):
        train_part(model, "top_layers", top_layers=1)
    with pytest.raises(InputError, match="has no q_proj, v_proj; its linear modules are none"):
        train_part(model, "lora", lora=LORA)
    train_part(model, "lora", lora={**LORA, "target_modules": ["c_attn", "mlp.c_fc"]})


@pytest.mark.parametrize("kind", ["layer_norm", "mlp"])
@pytest.mark.parametrize("share", [False, True])
def test_other_heads_are_computed_saved_and_read_again(
    backbone: Path, kind: str, share: bool, tmp_path: Path
) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=3)
    linear = model.score.weight.clone()
    set_head(model, kind, seed=3)
    pairs = [TokenPair("a", *map(tuple, conversations(tokenizer)[:2]))]
    batch = model_inputs(PairCollator(int(tokenizer.pad_token_id), share=share)(pairs))
    output = model(**batch)
    state = output.hidden.double()
    last = model.score[-1]
    assert last.weight.equal(linear)  # the same draw as BT's
    if kind == "layer_norm":
        state = torch.nn.functional.layer_norm(state, state.shape[-1:])
    else:
        first = model.score[0].double()
        state = torch.nn.functional.gelu(first(state))
        model.score[0].float()
    expected = (state @ linear.double().T).squeeze(-1)
    assert torch.allclose(output.rewards.double(), expected, rtol=1e-4, atol=1e-6)
    save_reward_model(model, tokenizer, tmp_path / "saved")
    again, _ = load_reward_model(tmp_path / "saved", torch.float32)
    assert torch.allclose(again(**batch).rewards, output.rewards, rtol=1e-5, atol=1e-6)


def test_a_head_that_is_none_is_refused_and_one_without_weights_too(
    backbone: Path, tmp_path: Path
) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    with pytest.raises(InputError, match="choose linear, layer_norm or mlp"):
        set_head(model, "cnn", seed=0)
    save_reward_model(model, tokenizer, tmp_path / "saved")
    config = tmp_path / "saved/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "reward_head": "mlp"}))
    (tmp_path / "saved" / CHECKSUMS_FILE).unlink()
    with pytest.raises(InputError, match=r"lacks weights: score\.0\.bias"):
        load_reward_model(tmp_path / "saved", torch.float32)


@pytest.mark.parametrize(
    ("gpu", "machine", "supported", "expected"),
    [
        (None, "x86_64", "avx512", "bfloat16"),
        (None, "x86_64", "", "float32"),
        (None, "arm64", "mkldnn", "bfloat16"),
        (None, "aarch64", "avx512", "float32"),
        (True, "x86_64", "", "bfloat16"),
        (False, "x86_64", "avx512", "float32"),
    ],
)
def test_bfloat16_is_chosen_where_hardware_multiplies_it(
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool | None,
    machine: str,
    supported: str,
    expected: str,
) -> None:
    """`gpu`: whether it multiplies bfloat16; None: there is none."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu is not None)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: gpu)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: supported == "avx512")
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: supported == "mkldnn")
    assert fast_dtype() == expected
    assert emulation(torch.float32, "key") is None
    said = emulation(torch.bfloat16, "training.compute_dtype")
    assert (said is None) == (expected == "bfloat16")
    assert said is None or "training.compute_dtype=float32" in said


@pytest.mark.parametrize(
    ("machine", "probe"),
    [
        ("arm64", "torch.ops.mkldnn._is_mkldnn_bf16_supported"),
        ("x86_64", "torch.cpu._is_avx512_bf16_supported"),
    ],
)
def test_float32_is_chosen_where_torch_has_no_probe(
    monkeypatch: pytest.MonkeyPatch, machine: str, probe: str
) -> None:
    """On Apple silicon torch is built without mkldnn."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: machine)
    owner, name = probe.rsplit(".", 1)
    if owner == "torch.ops.mkldnn":  # its attributes are looked up in the registry, and kept
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    else:
        monkeypatch.delattr(owner + "." + name)
    assert fast_dtype() == "float32"
    assert emulation(torch.float32, "key") is None
