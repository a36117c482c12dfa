"""Decoding from a repeated prompt cache and scoring on a shared one: equal to the plain way."""

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
from eval.best_of_n.decoding import Decoding, PolicyText, decode, encode_prompt
from eval.best_of_n.gold import Candidates, RewardGold
from eval.best_of_n.prompts import Prompt
from eval.best_of_n.sampling import sample_all, transformers_sampler
from eval.best_of_n.vllm_engine import vllm_sampler
from eval.scoring import Scorer, grouped_rewards
from generated.backbones import build_tiny
from pipeline.experiments.best_of_n_proxies import gold_scores
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
        # float64: the layers below magnify float32's rounding until another token is drawn.
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
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
def test_greedy_decoding_takes_the_likeliest_token_of_the_whole_sequence(
    name: str, policies: dict
) -> None:
    model, text = policies[name]
    for words in ("Name three things about the sea, please.", "Why?"):
        prompt = encode_prompt(text, ({"role": "user", "content": words},), 20)
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + 20 and ids[-1] not in text.stops:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        greedy = decode(model, text.stops, {"p": prompt}, Decoding(3, 0.0, 1.0, 20, 0))["p"]
        assert greedy == [ids[len(prompt) :]] * 3
        assert len(set(greedy[0])) > 5  # not one token over and over


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_from_prompt_and_seed_alone(name: str, policies: dict) -> None:
    model, text = policies[name]
    settings = Decoding(7, 1.0, 0.9, 12, 5)
    prompts = [
        Prompt(name, ({"role": "user", "content": said},))
        for name, said in {"a": "Name a sea.", "b": "Why?", "c": "Say why. " * 9}.items()
    ]

    def run(asked: list[Prompt], **change: Any) -> dict[str, list[str]]:
        sampler = transformers_sampler(model, text, replace(settings, **change))
        return {one.prompt.prompt_id: one.texts for one in sampler(asked)}

    alone = {name: texts for one in prompts for name, texts in run([one]).items()}
    state = torch.get_rng_state()
    assert run(prompts) == run(prompts[::-1]) == alone
    assert torch.equal(torch.get_rng_state(), state)  # training's random numbers are left alone
    assert all(len(set(texts)) > 1 for texts in alone.values())
    assert run(prompts[:1], seed=6)["a"] != alone["a"]
    assert run([replace(prompts[0], prompt_id="other")])["other"] != alone["a"]


def test_samples_decoded_in_several_parts_are_as_many_and_none_is_repeated(policies: dict) -> None:
    model, text = policies["llama"]
    ids = encode_prompt(text, ASK, 12)
    parts = decode(model, text.stops, {"a": ids}, Decoding(7, 1.0, 1.0, 12, 5, rows=3))["a"]
    assert len({tuple(row) for row in parts}) == len(parts) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_ends_with_its_first_stop_token(name: str, policies: dict) -> None:
    model, text = policies[name]
    settings, ids = Decoding(16, 1.0, 1.0, 24, 0), encode_prompt(text, ASK, 24)

    def run(stops: frozenset[int]) -> list[list[int]]:
        return decode(model, stops, {"a": ids}, settings)["a"]

    drawn = {token for row in run(text.stops) for token in row}
    free = run(frozenset({min(set(range(model.config.vocab_size)) - drawn)}))
    common = {token for row in free for token in row[3:9]}
    stops = frozenset(sorted(common)[: len(common) // 2])
    for row, unstopped in zip(run(stops), free, strict=True):
        ends = [i for i, token in enumerate(unstopped) if token in stops]
        assert row == (unstopped[: ends[0] + 1] if ends else unstopped)


def test_tokens_are_drawn_by_temperature_and_top_p_alone(policies: dict) -> None:
    """Neither by top-k, which is transformers' default, nor by a penalty of the folder's own."""
    model, text = policies["llama"]
    ids = encode_prompt(text, ASK, 1)
    model.generation_config.repetition_penalty = 3.0
    settings = Decoding(20_000, 1.3, 0.8, 1, 0, rows=20_000)
    drawn = decode(model, text.stops, {"a": ids}, settings)["a"]
    share = torch.bincount(torch.tensor(drawn)[:, 0], minlength=model.config.vocab_size) / 20_000
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[:, -1]
    expected = TopPLogitsWarper(0.8)(None, logits / 1.3).softmax(-1)[0]
    assert (expected > 0).sum() > 50  # more than the default top-k leaves
    assert torch.allclose(share, expected.float(), atol=0.015)


@pytest.mark.parametrize(("scale", "top_p"), [(6.0, 0.9), (0.1, 0.95), (4.0, 1.0)])
def test_only_tokens_within_top_p_are_drawn_and_all_of_them(scale: float, top_p: float) -> None:
    """By transformers' rule, where the 256 likeliest hold them, where they do not, and never."""
    torch.manual_seed(0)
    logits = torch.randn(2, 400) * scale
    kept = TopPLogitsWarper(top_p)(None, logits).isfinite()
    rows = logits.repeat_interleave(8000, dim=0)
    drawn = decoding.DrawnTokens(Decoding(8000, 1.0, top_p, 1, 0), [1, 2], torch.device("cpu"))(
        None, rows
    ).isfinite()
    assert (drawn.sum(-1) == 1).all()
    share = drawn.view(2, 8000, 400).float().mean(1)
    expected = logits.masked_fill(~kept, -torch.inf).softmax(-1)
    assert torch.allclose(share, expected, atol=0.02)
    assert not (share[~kept] > 0).any()


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
    scorer: Callable[..., Scorer], capsys: pytest.CaptureFixture[str]
) -> None:
    short = scorer("llama", max_length=24)
    gold = RewardGold(short)
    item = Candidates(({"role": "user", "content": "many words " * 60},), "", ("one", "two words"))
    short_one = Candidates(({"role": "user", "content": "hi"},), "", ("one", "two"))
    scores = gold_scores(gold, [item, short_one])
    assert gold.truncated == 1
    assert capsys.readouterr().out == "gold: 1 of 2 prompts cut to 24 tokens\n"
    expected, _ = short.score(short.encode(item.prompt, item.texts)[0])
    assert scores[0] == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_seed_of_a_prompt_is_fixed() -> None:
    """Pinned: another seed would silently change every sample."""
    assert decoding.stream_seed(0, "a", 0) == 58603324993478470
    assert len({decoding.stream_seed(*of) for of in ((0, "a", 0), (1, "a", 0), (0, "a", 1))}) == 3
