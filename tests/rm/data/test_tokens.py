"""Truncation and padding, per architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rm.data.preferences import PreferencePair
from rm.data.templates import ChatTemplate
from rm.data.token_table import tokenize_pairs
from rm.data.tokens import choose_pad_token, cut_texts, pad, shorter_prompts
from rm.errors import InputError
from tests.messages import NAMES, SYSTEM, assistant, user


def pair(prompt: list[dict[str, str]], chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair("p", tuple(prompt), chosen, rejected, 1.0, "Chat", "test")


def test_pad_token_never_ends_a_sequence(template: ChatTemplate, kind: str) -> None:
    tokenizer = template.tokenizer
    if kind == "llama":
        assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the trap is set
    ends = [*template.encode([user("a")], "b")[-3:], tokenizer.eos_token_id]
    choose_pad_token(tokenizer, ends)
    assert tokenizer.pad_token_id not in ends


def test_shorter_prompts_drop_whole_exchanges_then_the_system_message() -> None:
    turns = [SYSTEM, user("1"), assistant("2"), user("3"), assistant("4"), user("5")]
    assert list(shorter_prompts(turns)) == [
        turns,
        [SYSTEM, *turns[3:]],
        [SYSTEM, turns[5]],
        [turns[5]],
    ]


def test_long_history_is_cut_by_whole_exchanges_on_both_sides(template: ChatTemplate) -> None:
    history = [user("old " * 60), assistant("older " * 60), user("What now?")]
    limit = 60
    (tokens,), report = tokenize_pairs(
        [pair(history, "Go on.", "Stop here now.")], template, limit, drop=True
    )
    assert tokens.truncated and report.truncated == {"oldest turns": 1}
    assert list(tokens.chosen) == template.encode([user("What now?")], "Go on.")
    assert list(tokens.rejected) == template.encode([user("What now?")], "Stop here now.")


OPENINGS = {
    "llama": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
    "gemma": "<bos><start_of_turn>user\n",
}
CLOSINGS = {
    "llama": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
}


def test_long_response_keeps_its_end_after_the_role_headers(
    template: ChatTemplate, kind: str
) -> None:
    long = "word " * 100 + "the end."
    (tokens,), report = tokenize_pairs([pair([user("Hi")], long, "short")], template, 40, drop=True)
    assert report.truncated == {"tokens": 1} and len(tokens.chosen) == 40
    text = template.tokenizer.decode(tokens.chosen)
    opening, _, rest = text.partition("word")
    assert opening == OPENINGS[kind] + CLOSINGS[kind] + " "
    whole = template.tokenizer.decode(template.encode([user("Hi")], long))
    assert whole.endswith(rest) and "the end." in rest
    assert list(tokens.rejected) == template.encode([user("Hi")], "short")


def test_long_question_keeps_its_end_between_what_the_template_writes(
    template: ChatTemplate, kind: str
) -> None:
    question = "first " + "old " * 100 + "What now?"
    (tokens,), _ = tokenize_pairs(
        [pair([SYSTEM, user(question)], "Go on.", "Stop.")], template, 40, drop=False
    )
    text = template.tokenizer.decode(tokens.chosen)
    asked = text.removeprefix(OPENINGS[kind]).partition(CLOSINGS[kind])[0]
    assert text.startswith(OPENINGS[kind]) and asked.endswith("old What now?")
    assert question.endswith(asked) and "first" not in asked
    whole = template.encode([user(question)], "Go on.")
    after = len(whole) - len(template.render([user(question)]))
    assert len(tokens.chosen) == 40 and list(tokens.chosen[-after:]) == whole[-after:]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    question=st.text("ab \n?", min_size=1, max_size=80).filter(str.strip),
    answer=st.text("ab \n!", min_size=1, max_size=80).filter(str.strip),
    limit=st.integers(1, 60),
)
@pytest.mark.parametrize("family", OPENINGS)
def test_a_cut_conversation_is_as_long_as_the_limit_and_ends_as_the_whole(
    backbones: dict[str, Path], family: str, question: str, answer: str, limit: int
) -> None:
    template = TEMPLATES.setdefault(
        family, ChatTemplate(AutoTokenizer.from_pretrained(backbones[family]))
    )
    whole = template.encode([user(question)], answer)
    ids, kept = cut_texts(template, [user(question)], whole, limit)
    assert len(ids) == min(limit, len(whole)) and ids[-1] == whole[-1]
    if len(whole) <= limit or kept == 0:
        assert ids == whole[-limit:]
        return
    opening, closing = template.frame
    assert kept == len(opening) + len(closing) and ids[: len(opening)] == opening
    left = len(ids) - kept  # of question and answer
    words = [token for token in ids[len(opening) :] if token not in closing]
    every = [token for token in whole[len(opening) :] if token not in closing]
    assert words == every[len(every) - len(words) :] and len(words) <= left


TEMPLATES: dict[str, ChatTemplate] = {}


@pytest.mark.parametrize("beside", [0, 1])
def test_a_prompt_of_exactly_the_limit_is_dropped_and_of_one_token_less_is_kept(
    template: ChatTemplate, beside: int
) -> None:
    prompt = [user("How many are there, and where?")]
    limit = template.prompt_length(prompt) + beside
    pairs = [pair(prompt, "Three in all, over there.", "Four."), pair([user("a")], "b", "c")]
    kept, report = tokenize_pairs(pairs, template, limit, drop=True)
    assert len(kept) == 1 + beside
    assert report.dropped == ({} if beside else {"prompt longer than the limit": 1})
    if beside:
        assert len(kept[0].chosen) == limit and report.truncated == {"tokens": 1}


def test_a_template_that_refuses_an_empty_response_still_counts_long_prompts(
    template: ChatTemplate,
) -> None:
    """The length of a prompt is that with an empty response, which such a template won't render."""
    pairs = [pair([user("question " * 80)], "yes", "no"), pair([user("a")], "b", "c")]
    kept, expected = tokenize_pairs(pairs, template, 40, drop=True)
    tokenizer = template.tokenizer
    tokenizer.chat_template = (
        "{% if messages[-1]['role'] == 'assistant' and not messages[-1]['content'] %}"
        "{{ raise_exception('empty') }}{% endif %}" + str(tokenizer.chat_template)
    )
    found, report = tokenize_pairs(pairs, ChatTemplate(tokenizer), 40, drop=True)
    assert (list(found), report) == (list(kept), expected)
    assert expected.dropped == {"prompt longer than the limit": 1}


def test_sides_of_several_turns_are_encoded_to_their_end(template: ChatTemplate) -> None:
    history = (assistant("Two."), user("Sure?"))
    made = replace(pair([user("1 + 1?")], "Yes.", "Two."), chosen_history=history)
    (tokens,), _ = tokenize_pairs([made], template, 200, drop=True, mark_response=True)
    whole = template.encode([user("1 + 1?"), *history], "Yes.")
    assert list(tokens.chosen) == whole
    assert list(tokens.rejected) == template.encode([user("1 + 1?")], "Two.")
    start = tokens.response_start
    assert start is not None and template.tokenizer.decode(whole[start:]).startswith("Yes.")


def test_training_drops_and_counts_what_truncation_made_useless(template: ChatTemplate) -> None:
    same_end = "tail " * 60
    pairs = [
        pair([user("question " * 80)], "yes", "no"),
        pair([user("Hi")], "A " + same_end, "B " + same_end),
        pair([user("Hi")], "good", "bad"),
    ]
    kept, report = tokenize_pairs(pairs, template, 40, drop=True)
    assert len(kept) == 1
    assert report.dropped == {
        "prompt longer than the limit": 1,
        "identical pair by truncation": 1,
    }


def test_evaluation_drops_nothing(template: ChatTemplate) -> None:
    pairs = [pair([user("question " * 80)], "yes", "no"), pair([user("Hi")], "same", "same")]
    kept, report = tokenize_pairs(pairs, template, 40, drop=False)
    assert len(kept) == 2 and not report.dropped and report.pairs == 2


def test_roles_that_the_template_refuses_are_counted_in_training(template: ChatTemplate) -> None:
    strict = (
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}"
        "{{ eos_token }}"
    )
    template.tokenizer.chat_template = strict
    template.takes_system = False
    pairs = [pair([user("a"), user("b")], "x", "y"), pair([user("a")], "x", "y")]
    kept, report = tokenize_pairs(pairs, template, 40, drop=True)
    assert len(kept) == 1 and report.dropped == {"roles that the chat template refuses": 1}
    with pytest.raises(InputError, match="pair p: the chat template refuses the roles"):
        tokenize_pairs(pairs, template, 40, drop=False)


def test_nothing_left_is_an_error_with_the_counts(template: ChatTemplate) -> None:
    with pytest.raises(InputError, match="prompt longer than the limit: 1"):
        tokenize_pairs([pair([user("x " * 90)], "a", "b")], template, 20, drop=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_puts_real_tokens_on_one_side(side: str) -> None:
    ids, mask = pad([[5, 6, 7], [8]], pad_id=0, side=side)
    assert ids[0].tolist() == [5, 6, 7]
    assert ids[1].tolist() == ([0, 0, 8] if side == "left" else [8, 0, 0])
    assert (ids != 0).long().equal(mask)


def test_pairs_that_name_a_special_token_are_counted(template: ChatTemplate, kind: str) -> None:
    pairs = [pair([user("a")], "b", "c"), pair([user("a")], f"b {NAMES[kind][0]}", "c")]
    _, report = tokenize_pairs(pairs, template, 100, drop=True)
    assert report.special_text == report.as_dict()["special_text"] == 1
    assert "1 contain the name of a special token" in report.lines()
