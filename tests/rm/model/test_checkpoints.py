"""Models that people bring: kept heads, added tokens, towers, stock loading, refusals."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    pipeline,
)

from rm.data.templates import ChatTemplate
from rm.data.tokens import pad
from rm.errors import InputError
from rm.files import CHECKSUMS_FILE
from rm.model import checkpoints
from rm.model.checkpoints import (
    keeps_head,
    load_reward_model,
    new_reward_model,
    save_reward_model,
    set_pad_token,
)
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel, set_head
from tests.models import VISION, gemma3_folder, move_weights, save

TEXTS = ("Yes.", "No, it is not at all like that.", "Seven times six is 42.")


@pytest.fixture(params=["llama", "gemma"])
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a tiny backbone that a test may change."""
    folder = Path(shutil.copytree(backbones[request.param], tmp_path / "backbone"))
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)
    return folder


@pytest.fixture
def trained(backbone: Path, tmp_path: Path) -> Path:
    """A reward model whose head and layers are no longer those of its backbone."""
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=5)
    move_weights(model)
    save_reward_model(model, tokenizer, tmp_path / "trained")
    (tmp_path / "trained" / CHECKSUMS_FILE).unlink()
    return tmp_path / "trained"


def rows_of(tokenizer: Any) -> list[list[int]]:
    template = ChatTemplate(tokenizer)
    return [template.encode([{"role": "user", "content": "Well?"}], text) for text in TEXTS]


def rewards(model: RewardModel, tokenizer: Any) -> torch.Tensor:
    ids, mask = pad(rows_of(tokenizer), int(tokenizer.pad_token_id))
    with torch.no_grad():
        return model.eval()(mask, input_ids=ids).rewards


def change(path: Path, drop: tuple[str, ...] = (), **values: object) -> None:
    content = json.loads(path.read_text())
    kept = {name: value for name, value in content.items() if name not in drop}
    path.write_text(json.dumps({**kept, **values}))


# --- Training on from a reward model -------------------------------------------------


def test_the_head_of_a_reward_model_is_kept(trained: Path) -> None:
    loaded = rewards(*load_reward_model(trained, torch.float32))
    for choice in ("auto", "keep"):
        assert keeps_head(trained, choice, "linear")
    again = rewards(*new_reward_model(trained, torch.float32, seed=9, keep_head=True))
    assert torch.allclose(again, loaded, rtol=1e-6)
    other = rewards(*new_reward_model(trained, torch.float32, seed=9))
    assert not torch.allclose(other, loaded, rtol=1e-2)


def test_a_new_head_is_drawn_where_there_is_none_or_one_is_asked_for(
    backbone: Path, trained: Path
) -> None:
    assert not keeps_head(backbone, "auto", "linear")
    assert not keeps_head(trained, "new", "linear")
    heads = [
        new_reward_model(x, torch.float32, seed=7)[0].score.weight for x in (backbone, trained)
    ]
    assert heads[0].equal(heads[1])


def test_a_head_that_cannot_be_kept_is_one_line(backbone: Path, trained: Path) -> None:
    with pytest.raises(InputError, match=r"model\.head=keep: .*ForCausalLM, which has no score"):
        keeps_head(backbone, "keep", "linear")
    with pytest.raises(InputError, match=r"model\.head=old: choose auto, keep or new"):
        keeps_head(backbone, "old", "linear")
    with pytest.raises(InputError, match=r"head linear, but the loss needs mlp.*model\.head=new"):
        keeps_head(trained, "auto", "mlp")


@pytest.mark.parametrize("kind", ["mlp", "layer_norm"])
def test_a_head_of_ours_is_kept_too(backbone: Path, tmp_path: Path, kind: str) -> None:
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=3)
    set_head(model, kind, seed=3)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    assert keeps_head(tmp_path / "rm", "auto", kind)
    again = new_reward_model(tmp_path / "rm", torch.float32, seed=0, keep_head=True)
    assert torch.allclose(rewards(*again), rewards(model, tokenizer), rtol=1e-6)


# --- Tokens without an embedding -----------------------------------------------------


@pytest.mark.parametrize(
    ("added", "special"),
    [("[MY PAD]", {"pad_token": "[MY PAD]"}), ("<think>", {}), ("<tool>", None)],
    ids=["pad", "text", "special"],
)
def test_a_token_added_without_resizing_is_one_line_with_both_sizes(
    backbone: Path, added: str, special: dict[str, str] | None
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    rows = len(tokenizer)
    tokenizer.add_tokens([added], special_tokens=special is None)
    if special:
        tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(backbone)
    message = rf"{rows + 1} tokens and the embedding {rows} rows .*without a row: .*resize_token"
    with pytest.raises(InputError, match=message):
        new_reward_model(backbone, torch.float32, seed=0)


def test_a_resized_model_works_and_so_do_rows_to_spare(backbone: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    tokenizer.add_tokens(["<think>"])
    model.resize_token_embeddings(len(tokenizer) + 7)
    model.save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    assert torch.isfinite(rewards(*new_reward_model(backbone, torch.float32, seed=0))).all()


def test_gemmas_place_for_images_needs_no_embedding(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    """Gemma 3's text models come with one token more than rows; no text becomes that token."""
    folder = Path(shutil.copytree(backbones["gemma"], tmp_path / "gemma"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    model, tokenizer = new_reward_model(folder, torch.float32, seed=0)
    ids = ChatTemplate(tokenizer).encode([{"role": "user", "content": "<image_soft_token>"}], "a")
    assert max(ids) < model.classifier.get_input_embeddings().num_embeddings


# --- A tokenizer of sentencepiece alone -----------------------------------------------------------


def test_a_sentencepiece_model_without_tokenizer_json_is_read(tmp_path: Path) -> None:
    trained, texts = io.BytesIO(), [f"Yes, {n} and {n + 1} are words of text." for n in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=trained,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    config = LlamaConfig(
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 320},
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(trained.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    names |= {"tokenizer_class": "LlamaTokenizer"}
    names["chat_template"] = template + "{% endif %}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    model, tokenizer = new_reward_model(tmp_path, torch.float32, seed=0)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    for text in (texts[7], "Seven times six is 42."):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == processor.encode(text)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm", torch.float32)
    assert torch.allclose(rewards(*again), rewards(model, tokenizer), rtol=1e-5)


# --- Labels --------------------------------------------------------------------------


def test_a_checkpoint_that_names_no_labels_is_one_line(trained: Path) -> None:
    change(trained / "config.json", drop=("id2label", "label2id", "num_labels"))
    with pytest.raises(InputError, match=r'num_labels 2 .*has 1 row: set "num_labels" to 1'):
        load_reward_model(trained, torch.float32)
    with pytest.raises(InputError, match="num_labels 2"):
        keeps_head(trained, "auto", "linear")
    change(trained / "config.json", num_labels=1)
    load_reward_model(trained, torch.float32)


def test_a_classifier_of_two_labels_lends_its_backbone_alone(
    backbone: Path, tmp_path: Path
) -> None:
    made = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
    made.config.architectures = [type(made).__name__]
    folder = tmp_path / "two"
    save(made, backbone, folder)
    for choice in ("auto", "keep"):
        with pytest.raises(InputError, match=r"classifier of 2 labels.*give model\.head=new"):
            keeps_head(folder, choice, "linear")
    with pytest.raises(
        InputError, match=r"2 labels, not a reward model, whose head has one output"
    ):
        load_reward_model(folder, torch.float32)
    assert not keeps_head(folder, "new", "linear")
    one, other = (new_reward_model(x, torch.float32, seed=4) for x in (folder, backbone))
    assert torch.allclose(rewards(*one), rewards(*other), rtol=1e-6)


def test_weights_of_another_shape_than_the_configurations_are_one_line(trained: Path) -> None:
    change(trained / "config.json", intermediate_size=48)
    for read in (load_reward_model, lambda *x: new_reward_model(*x, seed=0)):
        with pytest.raises(InputError, match=r"\(64, 32\).*\(48, 32\)|mlp\.\w+_proj"):
            read(trained, torch.float32)  # type: ignore[operator]


# --- Models that see -----------------------------------------------------------------


@pytest.fixture
def seeing(backbones: dict[str, Path], tmp_path: Path) -> Path:
    """A Gemma 3 with a vision tower."""
    return gemma3_folder(backbones["gemma"], tmp_path / "seeing", window=64, vision=True)


def text_alone(backbones: dict[str, Path], folder: Path, of: Path) -> Path:
    """The Gemma 3 of text alone that has the language weights of another one."""
    made = gemma3_folder(backbones["gemma"], folder, window=64)
    state = load_file(of / "model.safetensors")
    inner = "language_model."
    kept = {k.removeprefix(inner): v for k, v in state.items() if k.startswith(inner)}
    save_file(kept, made / "model.safetensors", {"format": "pt"})
    return made


def test_the_text_part_of_a_model_that_sees_is_used(
    seeing: Path, backbones: dict[str, Path], tmp_path: Path
) -> None:
    model, tokenizer = new_reward_model(seeing, torch.float32, seed=0)
    alone = text_alone(backbones, tmp_path / "alone", seeing)
    assert torch.allclose(
        rewards(model, tokenizer), rewards(*new_reward_model(alone, torch.float32, seed=0))
    )
    kept = ("classifier.model.embed_tokens", "classifier.model.layers", "classifier.model.norm")
    names = [name for name, _ in model.named_parameters()]
    assert all(name.startswith((*kept, "classifier.score")) for name in names)
    assert model.config.hidden_size == 32 and model.config.max_position_embeddings == 512
    train_part(model, "top_layers", top_layers=1)


def test_its_checkpoint_is_one_of_text_alone(seeing: Path, tmp_path: Path) -> None:
    model, tokenizer = new_reward_model(seeing, torch.float32, seed=0)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    config = json.loads((tmp_path / "rm/config.json").read_text())
    assert config["architectures"] == ["Gemma3TextForSequenceClassification"]
    assert config["pad_token_id"] == tokenizer.pad_token_id and "vision_config" not in config
    again = load_reward_model(tmp_path / "rm", torch.float32)
    assert torch.allclose(rewards(*again), rewards(model, tokenizer), rtol=1e-6)


def test_a_reward_model_that_sees_is_scored_by_its_text_part(seeing: Path, tmp_path: Path) -> None:
    """As other trainers save it: tower and head in one folder."""
    made = AutoModelForSequenceClassification.from_pretrained(seeing, num_labels=1).eval()
    tokenizer = AutoTokenizer.from_pretrained(seeing)
    set_pad_token(tokenizer, made)
    assert made.config.text_config.pad_token_id == made.config.pad_token_id is not None
    made.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    model, own = load_reward_model(tmp_path / "rm", torch.float32)
    ids, mask = pad(rows_of(own), int(own.pad_token_id))
    with torch.no_grad():
        theirs = made(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
    assert torch.allclose(rewards(model, own), theirs, rtol=1e-5, atol=1e-6)
    assert keeps_head(tmp_path / "rm", "auto", "linear")


def test_a_family_without_a_classifier_of_its_own(
    backbones: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(backbones["llama"])
    text = LlamaConfig.from_pretrained(backbones["llama"])
    config = LlavaConfig(
        text_config=text, vision_config={**VISION, "model_type": "siglip_vision_model"}
    )
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration(config).eval()
    save(made, backbones["llama"], tmp_path / "llava")
    model, tokenizer = new_reward_model(tmp_path / "llava", torch.float32, seed=2)
    assert type(model.classifier).__name__ == "LlamaForSequenceClassification"
    ids, mask = pad(rows_of(tokenizer), int(tokenizer.pad_token_id))
    with torch.no_grad():
        states = made.model.language_model(input_ids=ids, attention_mask=mask).last_hidden_state
        last = states[torch.arange(len(ids)), mask.sum(-1) - 1]
    expected = (last @ model.score.weight.T).squeeze(-1)
    assert torch.allclose(rewards(model, tokenizer), expected, rtol=1e-4, atol=1e-6)


# --- Stock loading --------------------------------------------------------------


def test_the_pipeline_gives_the_reward_itself(trained: Path) -> None:
    model, tokenizer = load_reward_model(trained, torch.float32)
    expected = rewards(model, tokenizer).tolist()
    assert max(expected) - min(expected) > 0.05
    classify = pipeline("text-classification", model=str(trained), tokenizer=str(trained))
    for text, reward in zip(TEXTS, expected, strict=True):
        turns = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": text}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
        (found,) = classify(rendered, add_special_tokens=False)
        assert found["score"] == pytest.approx(reward, rel=1e-5)


def test_stock_loading_of_a_bfloat16_checkpoint_computes_in_float32(
    backbone: Path, tmp_path: Path
) -> None:
    model, tokenizer = new_reward_model(backbone, torch.bfloat16, seed=0)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    stored = {v.dtype for k, v in load_file(tmp_path / "rm/model.safetensors").items()}
    assert stored == {torch.bfloat16, torch.float32}
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    assert {value.dtype for value in stock.parameters()} == {torch.float32}
    assert stock.score.weight.equal(model.score.weight)
    ids, mask = pad(rows_of(tokenizer), int(tokenizer.pad_token_id))
    with torch.no_grad():
        theirs = stock(ids, attention_mask=mask).logits.squeeze(-1)
    ours = rewards(*load_reward_model(tmp_path / "rm", torch.float32))
    assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-6)
    assert torch.allclose(
        theirs, rewards(*load_reward_model(tmp_path / "rm", torch.bfloat16)), atol=0.1
    )


# --- Adapters on transposed weights --------------------------------------------------


def gpt2(tokenizer: Path, folder: Path) -> Path:
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer))
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=vocabulary, n_inner=48)
    torch.manual_seed(0)
    return save(GPT2LMHeadModel(config), tokenizer, folder)


@pytest.mark.parametrize("modules", [["c_attn"], ["c_attn", "c_fc", "mlp.c_proj"]])
def test_adapters_on_transposed_weights_are_merged_right(
    backbones: dict[str, Path], tmp_path: Path, modules: list[str]
) -> None:
    """GPT-2's Conv1D keeps its weight as (in, out)."""
    folder = gpt2(backbones["gemma"], tmp_path / "gpt2")
    model, tokenizer = new_reward_model(folder, torch.float32, seed=0)
    before = rewards(model, tokenizer)
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": modules}
    train_part(model, "lora", lora=lora)
    torch.manual_seed(1)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.5)
    unmerged = rewards(model, tokenizer)
    assert not torch.allclose(unmerged, before, rtol=1e-2)
    save_reward_model(model, tokenizer, tmp_path / "rm")
    merged = rewards(*load_reward_model(tmp_path / "rm", torch.float32))
    assert torch.allclose(merged, unmerged, rtol=1e-4, atol=1e-5)


def test_adapters_on_what_is_no_matrix_are_refused_before_training(
    backbones: dict[str, Path],
) -> None:
    model, _ = new_reward_model(backbones["llama"], torch.float32, seed=0)
    model.backbone.layers[0].mlp.mixer = torch.nn.Conv1d(4, 4, 3)
    for name in ("mixer", "embed_tokens", "self_attn"):
        lora = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", name]}
        with pytest.raises(
            InputError, match=rf"target_modules: \S*{name} is not a linear layer \(\w+\): name"
        ):
            train_part(model, "lora", lora=lora)
    assert not any("lora" in name for name, _ in model.named_parameters())


# --- Whatever else fails -------------------------------------------------------------


def newer_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["type"] = "SuperBPE"
    (folder / "tokenizer.json").write_text(json.dumps(content))


def cut_tokenizer(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[: len(content) // 2])


def pointer(name: str) -> Callable[[Path], None]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"
    return lambda folder: (folder / name).write_text(text) and None


def quantised(**config: object) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **config)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer tokenizer": (newer_tokenizer, r"tokenizer.*newer format than tokenizers .* upgrade"),
    "cut tokenizer": (cut_tokenizer, r"no (tokenizer|model) could be read from .*: .*fetch"),
    "pointer tokenizer": (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
    "pointer weights": (pointer("model.safetensors"), "safetensors is a Git LFS pointer"),
    "pointer config": (pointer("config.json"), "config.json is a Git LFS pointer"),
    "4-bit": (
        quantised(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"is quantised \(bitsandbytes, 4 bit\).*take the original model",
    ),
    "GPTQ": (
        quantised(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        r"is quantised \(gptq, 4 bit\)",
    ),
    "AWQ": (quantised(quantization_config={"quant_method": "awq"}), r"is quantised \(awq\)"),
    "MLX": (quantised(quantization={"bits": 8}), r"is quantised \(unnamed method, 8 bit\)"),
    "no Jinja": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
        r"the chat template .*: correct its chat template \(chat_template\.jinja",
    ),
    "config of another type": (quantised(hidden_size="large"), "no model could be read from"),
    "no probability": (
        quantised(attention_dropout=3),
        r"dropout probability has to be between 0 and 1, but got 3: fetch",
    ),
    "no heads": (quantised(num_attention_heads=0), "no model could be read from"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_folder_that_cannot_be_read_is_one_line(trained: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    spoil(trained)
    for read in (
        lambda: load_reward_model(trained, torch.float32),
        lambda: new_reward_model(trained, torch.float32, seed=0),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value) and str(trained) in str(caught.value)


def test_the_trial_leaves_mode_and_random_state_as_they_were(backbone: Path) -> None:
    """Dropout draws numbers in it, and what training draws must not depend on that."""
    change(backbone / "config.json", attention_dropout=0.5)
    model, tokenizer = new_reward_model(backbone, torch.float32, seed=0)
    assert not model.backbone.training
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    checkpoints._try(model, tokenizer)
    assert torch.rand(4).equal(expected)


def test_memory_that_runs_out_is_not_the_folders_fault(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RewardModel, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        new_reward_model(backbone, torch.float32, seed=0)
