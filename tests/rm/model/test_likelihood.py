"""The likelihood of chosen responses: against transformers' own language model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rm.data.preferences import PreferencePair
from rm.data.templates import ChatTemplate
from rm.data.token_table import tokenize_pairs
from rm.errors import InputError
from rm.model.checkpoints import new_reward_model
from rm.model.likelihood import IGNORED, head_of, log_likelihood, next_tokens
from rm.objective.losses import TextGeneration
from rm.training.batches import PairCollator, model_inputs

PAIRS = [
    PreferencePair(str(n), ({"role": "user", "content": f"Count {'up ' * n}to {n}."},), good, bad)
    for n, (good, bad) in enumerate([("1 2 3", "I can't."), ("One, two.", "2"), ("a b", "a c d")])
]


def test_next_tokens_start_at_the_place_before_the_response() -> None:
    assert next_tokens([5, 6, 7, 8], start=2) == [IGNORED, 7, 8, IGNORED]
    assert next_tokens([5, 6], start=0) == [6, IGNORED]  # nothing predicts the very first token


@pytest.mark.parametrize("side", ["left", "right"])
def test_equals_the_causal_models_likelihood_of_each_response(
    backbones: dict[str, Path], side: str
) -> None:
    model, tokenizer = new_reward_model(backbones["gemma"], torch.float32, seed=0)
    causal = AutoModelForCausalLM.from_pretrained(backbones["gemma"], dtype=torch.float32)
    template = ChatTemplate(tokenizer)
    pairs, _ = tokenize_pairs(PAIRS, template, 200, drop=True, mark_response=True)
    batch = PairCollator(int(tokenizer.pad_token_id), side=side, likelihood=True)(pairs)
    found = model(**model_inputs(batch)).log_likelihood
    assert found.shape == (6,) and found[3:].eq(0).all()
    for pair, value in zip(pairs, found, strict=False):
        ids = torch.tensor([pair.chosen])
        logs = causal(ids).logits.log_softmax(-1)[0, :-1]
        each = logs.gather(1, ids[0, 1:, None])[:, 0]
        start = pair.response_start
        assert start is not None
        assert value.item() == pytest.approx(each[start - 1 :].sum().item(), rel=1e-5)
        text = tokenizer.decode(pair.chosen[start:])
        assert text.startswith(PAIRS[int(pair.pair_id)].chosen)


def test_the_start_moves_with_what_truncation_cut(backbones: dict[str, Path]) -> None:
    _, tokenizer = new_reward_model(backbones["gemma"], torch.float32, seed=0)
    template = ChatTemplate(tokenizer)
    (whole, *_), _ = tokenize_pairs(PAIRS, template, 200, drop=False, mark_response=True)
    assert whole.response_start is not None
    response = len(whole.chosen) - whole.response_start
    written = sum(map(len, template.frame))
    for limit, after in ((200, response), (16, 16 - written), (5, 5)):
        (one, *_), _ = tokenize_pairs(PAIRS, template, limit, drop=False, mark_response=True)
        assert one.response_start == len(one.chosen) - after
        assert one.chosen[one.response_start :] == whole.chosen[-after:]


def test_gradient_reaches_the_states_at_the_targets_alone() -> None:
    states = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    head = torch.randn(7, 4, dtype=torch.float64)
    targets = torch.tensor([[IGNORED, 3, IGNORED], [IGNORED] * 3])
    log_likelihood(states, targets, head).sum().backward()
    assert states.grad is not None
    assert states.grad.abs().sum(-1).ne(0).tolist() == [[False, True, False], [False] * 3]


def test_refuses_a_head_that_is_not_the_embedding(backbones: dict[str, Path]) -> None:
    model, _ = new_reward_model(backbones["llama"], torch.float32, seed=0)
    with pytest.raises(InputError, match="tie_word_embeddings"):
        head_of(model.classifier)
    model.config.tie_word_embeddings, model.config.final_logit_softcapping = True, 30.0
    with pytest.raises(InputError, match="final_logit_softcapping"):
        head_of(model.classifier)


def test_the_term_by_its_formula() -> None:
    loss, likelihood = torch.tensor([0.7, 0.2]).double(), torch.tensor([-3.0, -40.0]).double()
    term = TextGeneration(ratio=0.01, beta=0.1).combine(loss, likelihood)
    expected = 0.99 * loss + 0.01 * torch.log1p(torch.exp(-0.1 * likelihood))
    torch.testing.assert_close(term, expected)
