"""The frozen trunk: the divided stack equals the whole one; the cache is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Gemma2Config

from rm.data.tokens import TokenPair, pad
from rm.errors import InputError
from rm.model import trunk
from rm.model.attention import shared_batch
from rm.model.checkpoints import load_reward_model, new_reward_model, save_reward_model
from rm.model.parts import train_part
from rm.model.reward_model import RewardModel
from rm.model.trunk import batches_by_tokens, open_cache, split_backbone, trunk_fingerprint
from rm.training.batches import PairCollator, model_inputs
from tests.rm.conftest import windowed_model

TINY = {
    **{"hidden_size": 16, "intermediate_size": 16, "vocab_size": 64, "num_hidden_layers": 6},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "num_labels": 1},
    **{"pad_token_id": 0, "sliding_window": 8},
}
PAIRS = [TokenPair("a", (1, 5, 6, 7), (1, 5, 9)), TokenPair("b", (1, 8), (1, 8, 3, 4, 5, 6))]
ROWS = [row for pair in PAIRS for row in (pair.chosen, pair.rejected)]


@pytest.fixture(params=["llama", "gemma"])
def model(request: pytest.FixtureRequest, backbones: dict[str, Path]) -> RewardModel:
    made, _ = new_reward_model(backbones[request.param], torch.float32, seed=0)
    train_part(made, "top_layers", top_layers=1)
    return made


def test_cached_rewards_and_gradients_equal_the_whole_forward(
    model: RewardModel, tmp_path: Path
) -> None:
    cache = open_cache(model, 1, ROWS, tmp_path)
    results = []
    for collator in (PairCollator(0), PairCollator(0, cache)):
        model.zero_grad()
        output = model(**model_inputs(collator(PAIRS)))
        output.rewards.square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((output.rewards.detach(), output.hidden.detach(), *gradients))
    assert len(results[0]) > 5
    for whole, cached in zip(*results, strict=True):
        assert torch.allclose(whole, cached, rtol=1e-5, atol=1e-6)


def test_shared_states_are_the_same_in_a_file_of_their_own(
    model: RewardModel, tmp_path: Path
) -> None:
    plain = open_cache(model, 1, ROWS, tmp_path)
    shared = open_cache(model, 1, ROWS, tmp_path, share=True, tokens_per_batch=7)
    assert plain.path != shared.path
    for row in ROWS:
        assert torch.allclose(plain.states(row), shared.states(row), rtol=1e-5, atol=1e-6)


def test_dividing_registers_no_parameter_twice(model: RewardModel) -> None:
    before = [name for name, _ in model.named_parameters()]
    split_backbone(model, 2)
    assert [name for name, _ in model.named_parameters()] == before
    assert set(model.state_dict()) == set(before)


def test_bfloat16_states_are_stored_as_such(backbones: dict[str, Path], tmp_path: Path) -> None:
    model, _ = new_reward_model(backbones["llama"], torch.bfloat16, seed=0)
    train_part(model, "top_layers", top_layers=1, frozen_dtype=torch.bfloat16)
    cache = open_cache(model, 1, ROWS, tmp_path)
    assert cache.states(ROWS[0]).dtype == torch.bfloat16
    size = sum(map(len, set(ROWS))) * model.config.hidden_size * 2
    assert cache.path.stat().st_size == size


def test_second_opening_computes_nothing(
    model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_cache(model, 1, ROWS, tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(trunk, "_fill", fail)
    again = open_cache(model, 1, reversed(ROWS), tmp_path)  # type: ignore[call-overload]
    for row in ROWS:
        assert again.states(row).equal(first.states(row))


def test_training_the_top_does_not_change_the_fingerprint_and_the_trunk_does(
    model: RewardModel,
) -> None:
    before = trunk_fingerprint(model, 1)
    with torch.no_grad():
        model.backbone.layers[-1].mlp.up_proj.weight.add_(1)
        model.backbone.norm.weight.add_(1)
        model.score.weight.add_(1)
    assert trunk_fingerprint(model, 1) == before
    with torch.no_grad():
        model.backbone.layers[0].mlp.up_proj.weight.add_(1)
    assert trunk_fingerprint(model, 1) != before


SETTINGS = {
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "sliding_window": {"sliding_window": 4},
    "query_pre_attn_scalar": {"query_pre_attn_scalar": 64},
    "rms_norm_eps": {"rms_norm_eps": 1e-2},
    "attn_logit_softcapping": {"attn_logit_softcapping": 2.0},
    "hidden_act": {"hidden_activation": "relu", "hidden_act": "relu"},
    "a setting unknown to us": {"residual_multiplier": 2.0},
}
"""Changes of a configuration that leave every weight as it is."""


def of_gemma2(**changed: Any) -> RewardModel:
    """A Gemma 2 whose weights are the same for every configuration."""
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(Gemma2Config(**{**TINY, **changed}))
    return RewardModel(made, torch.float32).eval()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_the_computation_changes_the_fingerprint(name: str) -> None:
    one, other = of_gemma2(), of_gemma2(**SETTINGS[name])
    states = one.state_dict()
    assert all(value.equal(states[key]) for key, value in other.state_dict().items())
    assert trunk_fingerprint(one, 2) != trunk_fingerprint(other, 2)


def test_states_of_another_configuration_are_not_reused(tmp_path: Path) -> None:
    """With equal weights: the states that were kept first are far from those of the second."""
    one, other = of_gemma2(), of_gemma2(**SETTINGS["query_pre_attn_scalar"])
    row = tuple(range(2, 22))
    kept, made = (open_cache(model, 2, [row], tmp_path).states(row) for model in (one, other))
    assert (kept - made).abs().max() > 1e-3
    lower = split_backbone(other, 2)
    fresh = trunk._lower_states(other, lower, *pad([row], 0))[0]
    assert torch.allclose(made, fresh, rtol=1e-5, atol=1e-6)


def test_names_that_cannot_matter_leave_the_fingerprint() -> None:
    model = of_gemma2()
    before = trunk_fingerprint(model, 2)
    tokens = {"pad_token_id": 3, "eos_token_id": 4, "bos_token_id": 5}
    labels = {"id2label": {0: "reward"}, "problem_type": "regression", "architectures": ["Any"]}
    for name, value in {**tokens, **labels, "use_cache": False, "dtype": torch.bfloat16}.items():
        setattr(model.config, name, value)
    assert trunk_fingerprint(model, 2) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_checkpoint_reuses_the_trunk_of_its_training(
    backbones: dict[str, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    for architecture, backbone in backbones.items():
        model, tokenizer = new_reward_model(backbone, dtype, seed=0)
        train_part(model, "top_layers", top_layers=1, frozen_dtype=dtype)
        before = trunk_fingerprint(model, 1)
        model.shared_states(model.backbone, shared_batch(ROWS))
        assert trunk_fingerprint(model, 1) == before  # another kernel of the same results
        save_reward_model(model, tokenizer, tmp_path / architecture)
        loaded, _ = load_reward_model(tmp_path / architecture, dtype)
        assert trunk_fingerprint(loaded, 1) == before


@pytest.mark.parametrize("damage", ["truncated", "no header", "wrong header", "broken header"])
def test_damaged_cache_is_computed_again(model: RewardModel, tmp_path: Path, damage: str) -> None:
    cache = open_cache(model, 1, ROWS, tmp_path)
    expected = cache.states(ROWS[3]).clone()
    header = cache.path.with_suffix(".json")
    if damage == "truncated":
        cache.path.write_bytes(cache.path.read_bytes()[:-4])
    elif damage == "no header":
        header.unlink()
    elif damage == "wrong header":
        header.write_text(json.dumps({**json.loads(header.read_text()), "top_layers": 2}))
    else:
        header.write_text("{")
    assert open_cache(model, 1, ROWS, tmp_path).states(ROWS[3]).equal(expected)


def test_a_changed_byte_of_the_states_is_noticed_where_it_is_read(
    model: RewardModel, tmp_path: Path
) -> None:
    cache = open_cache(model, 1, ROWS, tmp_path)
    content = bytearray(cache.path.read_bytes())
    content[-1] ^= 1
    cache.path.write_bytes(content)
    again = open_cache(model, 1, ROWS, tmp_path)
    with pytest.raises(InputError, match="is damaged: delete it"):
        for row in ROWS:
            again.states(row)


MANY = [(1, 5, *range(2, 3 + n), 7 + n % 3) for n in range(12)]


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_an_interrupted_computation_goes_on_to_the_same_bytes(
    model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: bool, damaged: bool
) -> None:
    whole = open_cache(model, 1, MANY, tmp_path / "whole", tokens_per_batch=12, share=share)
    original, calls = trunk._states, []

    def killed(*args: Any) -> Any:
        calls.append(args[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(trunk, "NOTE_SECONDS", 0)
    monkeypatch.setattr(trunk, "_states", killed)
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        open_cache(model, 1, MANY, folder, tokens_per_batch=12, share=share)
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.json"))
    if damaged:  # nothing that a killed computation left is used
        (partial,) = folder.glob("*.partial")
        content = bytearray(partial.read_bytes())
        content[0] ^= 1
        partial.write_bytes(content)
        calls.clear()
        monkeypatch.setattr(trunk, "_states", original)
    resumed = open_cache(model, 1, MANY, folder, tokens_per_batch=12, share=share)
    if not damaged:
        assert calls[2] == calls[3]  # the batch that was interrupted comes again, none before it
        assert len(set(map(tuple, calls))) == len(calls) - 1
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert not list(folder.glob("*.partial")) and not list(folder.glob("*.progress"))


def test_a_damaged_note_of_progress_means_from_the_start(
    model: RewardModel, tmp_path: Path
) -> None:
    whole = open_cache(model, 1, MANY, tmp_path / "whole", tokens_per_batch=12)
    folder = tmp_path / "damaged"
    folder.mkdir()
    stem = folder / whole.path.name
    stem.with_suffix(".partial").write_bytes(b"nonsense")
    stem.with_suffix(".progress").write_text('{"batches": ')
    again = open_cache(model, 1, MANY, folder, tokens_per_batch=12)
    assert again.path.read_bytes() == whole.path.read_bytes()


def test_too_little_disk_is_an_error(
    model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="reuse_trunk=false"):
        open_cache(model, 1, ROWS, tmp_path)


def test_a_stack_that_cannot_be_divided_is_an_error(
    model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trunk._lower_states
    monkeypatch.setattr(trunk, "_lower_states", lambda *args: original(*args) * 2 + 1)
    with pytest.raises(InputError, match="cannot be divided"):
        split_backbone(model, 1)


@pytest.mark.parametrize("top", [1, 2, 4, 5])
def test_a_divided_stack_keeps_each_layers_kind_of_attention(
    windowed: Callable[[int], RewardModel], top: int
) -> None:
    model = windowed(8)
    ids = torch.arange(2, 42).unsqueeze(0)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        whole = model(mask, input_ids=ids).hidden
        lower = split_backbone(model, top)
        states = trunk._lower_states(model, lower, ids, mask)
        parts = model(mask, trunk_states=states).hidden
    assert torch.allclose(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "top"), [("gemma2", 4), ("gemma3", 4), ("qwen2", 3)])
def test_a_layer_with_the_attention_of_another_is_noticed(
    kind: str, top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trunk._view

    def forgetful(backbone: Any, *args: Any, **options: Any) -> Any:
        view = original(backbone, *args, **options)
        view.config.layer_types = backbone.config.layer_types
        return view

    monkeypatch.setattr(trunk, "_view", forgetful)
    with pytest.raises(InputError, match="cannot be divided"):
        split_backbone(windowed_model(kind, 8), top)


def test_batches_by_tokens_holds_every_row_once_within_the_limit() -> None:
    rows = sorted([(1,) * n for n in (1, 2, 2, 5, 9, 30)], key=len)
    batches = list(batches_by_tokens(rows, 20))
    assert [row for batch in batches for row in batch] == rows
    for batch in batches:
        assert len(batch) == 1 or max(map(len, batch)) * len(batch) <= 20
