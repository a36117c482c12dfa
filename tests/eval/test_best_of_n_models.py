"""Decoding from a shared prompt cache and scoring on one: equal to the plain way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedModel, TopPLogitsWarper

from eval.best_of_n import decoding
from eval.best_of_n.decoding import Decoding, PolicyText, decode, encode_prompt, pick
from eval.best_of_n.gold import Candidates, RewardGold
from eval.best_of_n.prompts import Prompt
from eval.best_of_n.sampling import sample_all, transformers_sampler
from eval.best_of_n.vllm_engine import vllm_sampler
from eval.scoring import Scorer, grouped_rewards
from generated.backbones import build_tiny
from rm.data.tokens import pad
from rm.errors import InputError
from rm.model.backbones import BackboneSettings, prepare_backbone
from rm.model.checkpoints import new_reward_model
from tests.models import gemma3_folder

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = ("llama", "gemma")
ASK = ({"role": "user", "content": "Name three things about the sea, please."},)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    found = {}
    for name in NAMES:
        content = yaml.safe_load((CONF / f"model/tiny-{name}.yaml").read_text())
        found[name] = prepare_backbone(BackboneSettings(**content), root, build_tiny)
    found["gemma3"] = gemma3_folder(found["gemma"], root / "gemma3", window=512)
    return found


@pytest.fixture(scope="module")
def policies(folders: dict[str, Path]) -> dict[str, tuple[PreTrainedModel, PolicyText]]:
    found = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():  # so that the layers, not the tied embeddings alone, say what follows
            for weight in model.model.layers.parameters():
                weight.mul_(12 if weight.dim() == 2 else 1)
        found[name] = model, PolicyText.of_folder(folder)
    return found


@pytest.fixture(scope="module")
def scorer(folders: dict[str, Path]) -> Callable[..., Scorer]:
    def make(name: str, max_length: int = 512, batch_tokens: int = 4096) -> Scorer:
        model, tokenizer = new_reward_model(folders[name], torch.float32, seed=0)
        return Scorer(model.eval(), tokenizer, max_length, batch_tokens)

    return make


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_greedy_decoding_equals_generate(name: str, policies: dict) -> None:
    model, text = policies[name]
    for words in ("Name three things about the sea, please.", "Why?"):
        ids = encode_prompt(text, ({"role": "user", "content": words},), 20)
        ours = decode(model, text.stops, {"p": ids}, Decoding(3, 0.0, 1.0, 20, 0))["p"]
        theirs = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=sorted(text.stops),
        )[0, len(ids) :].tolist()
        assert ours == [theirs] * 3
        assert len(set(theirs)) > 5  # not one token over and over


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_depend_on_chunks_or_order(name: str, policies: dict) -> None:
    model, text = policies[name]
    settings = Decoding(7, 1.0, 0.9, 12, 5, rows=64)

    words = {"a": ASK[0]["content"], "b": "Why?", "c": "Say why the sky is blue. " * 3}
    ids = {
        name: encode_prompt(text, ({"role": "user", "content": said},), 12)
        for name, said in words.items()
    }

    def run(*names: str, **change: Any) -> dict[str, list[list[int]]]:
        chosen = {name: ids[name] for name in names}
        return decode(model, text.stops, chosen, replace(settings, **change))

    alone = {name: run(name)[name] for name in ids}
    assert len({tuple(row) for row in alone["a"]}) > 1
    assert run("a", "b", "c") == run("c", "b", "a") == alone
    assert run("a", "b", "c", rows=5) == run("b", "a", "c", rows=1) == alone
    assert run("a", samples=3)["a"] == alone["a"][:3]
    assert run("a", seed=6)["a"] != alone["a"]
    other = decode(model, text.stops, {"other": ids["a"]}, settings)["other"]
    assert other != alone["a"]


def test_prompts_whose_caches_cannot_be_padded_are_decoded_one_by_one(
    policies: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = policies["llama"]
    settings = Decoding(3, 1.0, 0.9, 6, 5)
    ids = {name: encode_prompt(text, ({"role": "user", "content": name},), 6) for name in "ab"}
    joined = decode(model, text.stops, ids, settings)
    monkeypatch.setattr(decoding.Started, "can_join", False)
    assert decode(model, text.stops, ids, settings) == joined


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_end_early_leave_the_batch_and_the_rest_is_unchanged(
    name: str, policies: dict
) -> None:
    model, text = policies[name]
    settings, ids = Decoding(16, 1.0, 1.0, 24, 0), encode_prompt(text, ASK, 24)
    free = decode(model, frozenset(), {"a": ids}, settings)["a"]
    common = {token for row in free for token in row[3:9]}
    stops = frozenset(sorted(common)[: len(common) // 2])
    stopped = decode(model, stops, {"a": ids}, settings)["a"]
    for row, unstopped in zip(stopped, free, strict=True):
        ends = [i for i, token in enumerate(unstopped) if token in stops]
        assert row == (unstopped[: ends[0] + 1] if ends else unstopped)


def test_top_p_and_temperature_as_in_transformers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 60) * 3
    settings = Decoding(1, 0.7, 0.8, 1, 0)
    warped = TopPLogitsWarper(0.8)(None, logits / 0.7).softmax(-1)[0]
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    chosen = pick(logits.expand(20_000, -1), uniform, settings)
    share = torch.bincount(chosen, minlength=60) / 20_000
    assert torch.allclose(share, warped, atol=1e-3)
    assert pick(logits, torch.tensor([0.3]), replace(settings, temperature=0.0)) == logits.argmax()


def test_the_short_cut_over_the_likeliest_tokens_changes_nothing() -> None:
    torch.manual_seed(0)
    uniform = torch.rand(50, dtype=torch.float64)
    for scale, top_p in ((6.0, 0.9), (0.1, 0.95), (4.0, 1.0)):  # sure, unsure, never sure
        logits = (torch.randn(50, 400) * scale).round(decimals=1)  # rounded: ties
        settings = Decoding(1, 1.0, top_p, 1, 0)
        short = pick(logits, uniform, settings, head=32)
        assert short.tolist() == pick(logits, uniform, settings, head=400).tolist()


def test_gemma_stops_at_the_end_of_its_turn(policies: dict) -> None:
    _, text = policies["gemma"]
    names = {text.tokenizer.convert_ids_to_tokens(token) for token in text.stops}
    assert names == {"<eos>", "<end_of_turn>"}


def test_a_prompt_longer_than_the_context(policies: dict, tmp_path: Path) -> None:
    model, text = policies["llama"]
    small = replace(text, context=60)
    turns = ({"role": "user", "content": "old words " * 40}, {"role": "assistant", "content": "x"})
    kept = encode_prompt(small, (*turns, *ASK), 8)
    assert kept == encode_prompt(text, ASK, 8)  # the oldest exchange went
    settings = Decoding(2, 1.0, 1.0, 8, 0)
    prompts = [Prompt("long", turns[:1]), Prompt("short", ASK)]
    path = tmp_path / "samples.jsonl"
    sampled = sample_all(prompts, lambda: transformers_sampler(model, small, settings), path)
    assert sampled[0].skipped is not None and "context of 60" in sampled[0].skipped
    assert sampled[1].skipped is None and len(sampled[1].responses) == 2
    with pytest.raises(InputError, match="all 1 prompts were skipped: a prompt of"):
        sample_all(prompts[:1], lambda: pytest.fail("sampled again"), path)


def test_vllm_is_asked_for_one_seeded_request_a_sample(
    policies: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for vLLM: only what our code asks of it is checked, not vLLM."""
    asked: list[Any] = []

    class LLM:
        def __init__(self, **options: Any) -> None:
            assert options["enable_prefix_caching"] and options["dtype"] == "float32"

        def generate(self, requests: list, parameters: list, use_tqdm: bool) -> list:
            asked.extend(zip(requests, parameters, strict=True))
            ids = [[5, 6, parameters[0].stop_token_ids[0]]] * len(requests)
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=one)]) for one in ids]

    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, lambda **values: SimpleNamespace(**values)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("eval.best_of_n.vllm_engine.is_installed", lambda: True)
    _, text = policies["llama"]
    settings = Decoding(3, 0.7, 0.95, 9, 1)
    long = Prompt("long", ({"role": "user", "content": "words " * 3000},))
    sampler = vllm_sampler(tmp_path, text, settings, "float32")
    skipped, sampled = sampler([long, Prompt("a", ASK)])
    assert "does not fit" in str(skipped.skipped)
    assert [(one.tokens, one.finished) for one in sampled.responses] == [(3, True)] * 3
    assert all(request["prompt_token_ids"] == encode_prompt(text, ASK, 9) for request, _ in asked)
    assert len({parameters.seed for _, parameters in asked}) == 3
    assert {(p.temperature, p.top_p, p.max_tokens) for _, p in asked} == {(0.7, 0.95, 9)}
    monkeypatch.setattr("eval.best_of_n.vllm_engine.is_installed", lambda: False)
    with pytest.raises(InputError, match="vLLM is not installed"):
        vllm_sampler(tmp_path, text, settings, "float32")


# --- scoring --------------------------------------------------------------------------------------

TEXTS = ("Waves.", "The sea is salt, deep and blue.", "", "Waves and wind " * 12, "Waves.", "Wind")


@pytest.mark.parametrize("name", [*NAMES, "gemma3"])
@pytest.mark.parametrize("batch_tokens", [4096, 200, 1])
def test_shared_prompt_scores_equal_one_by_one(
    name: str, batch_tokens: int, scorer: Callable[..., Scorer]
) -> None:
    one = replace(scorer(name), share_prefix=True, batch_tokens=batch_tokens)
    rows, _ = one.encode(ASK, TEXTS)
    others, _ = one.encode(ASK[:1], ("Waves.", "Salt"))
    (first, second) = grouped_rewards(one, [rows, others])
    with torch.no_grad():
        alone = torch.cat(
            [one.model(mask, input_ids=ids).rewards for ids, mask in (pad([r], 0) for r in rows)]
        )
    assert torch.allclose(torch.tensor(first), alone, atol=1e-5, rtol=1e-5)
    assert first[0] == first[4] == second[0]  # equal texts tie exactly


def test_a_gold_with_another_tokenizer_reads_the_texts_its_own_way(
    policies: dict, scorer: Callable[..., Scorer], tmp_path: Path
) -> None:
    """A Llama policy's samples under a Gemma reward model: text goes between them, not tokens."""
    model, text = policies["llama"]
    sampler = transformers_sampler(model, text, Decoding(4, 1.0, 0.9, 10, 0))
    (sampled,) = sample_all([Prompt("a", ASK)], lambda: sampler, tmp_path / "samples.jsonl")
    gold = scorer("gemma")
    item = Candidates(ASK, "", tuple(sampled.texts))
    rewards = RewardGold(gold).score([item])[0]
    rows, _ = gold.encode(ASK, sampled.texts)
    assert gold.tokenizer.decode(rows[0]).startswith("<bos><start_of_turn>user")
    assert rewards == pytest.approx(gold.score(rows)[0].tolist(), abs=1e-5)


def test_a_prompt_longer_than_the_gold_model_is_cut_and_counted(
    scorer: Callable[..., Scorer],
) -> None:
    short = scorer("llama", max_length=24)
    gold = RewardGold(short)
    item = Candidates(({"role": "user", "content": "many words " * 60},), "", ("one", "two words"))
    scores = gold.score([item, Candidates(ASK, "", ("one", "two"))])
    assert gold.truncated >= 1
    expected, _ = short.score(short.encode(item.prompt, item.texts)[0])
    assert scores[0] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_uniform_stream_is_fixed() -> None:
    """Pinned: a change of the stream would silently change every sample."""
    values = decoding.uniforms(Decoding(1, 1.0, 1.0, 3, 0), "a", 0)
    assert values.dtype == torch.float64 and ((values >= 0) & (values < 1)).all()
    longer = decoding.uniforms(Decoding(1, 1.0, 1.0, 9, 0), "a", 0)
    assert torch.equal(longer[:3], values)
    assert decoding.stream_seed(0, "a", 0) == 58603324993478470
    assert values[0].item() == pytest.approx(0.8683747229830008, abs=1e-15)
