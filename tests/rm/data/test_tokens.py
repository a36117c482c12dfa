"""Chat templates, truncation and padding, per architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rm.data.preferences import PreferencePair
from rm.data.tokens import (
    ChatTemplate,
    choose_pad_token,
    merge_system,
    pad,
    shorter_prompts,
    tokenize_pairs,
)
from rm.errors import InputError

KINDS = ("llama", "gemma")
ENDS = {"llama": "<|eot_id|>", "gemma": "<end_of_turn>"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(kind: str, backbones: dict[str, Path]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(backbones[kind])


@pytest.fixture
def template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
    return ChatTemplate(tokenizer)


def pair(prompt: list[dict[str, str]], chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair("p", tuple(prompt), chosen, rejected, 1.0, "Chat", "test")


def test_beginning_of_sequence_is_there_once(template: ChatTemplate) -> None:
    ids = template.encode([user("How many?")], "Three.")
    bos = template.tokenizer.bos_token_id
    assert ids[0] == bos and ids.count(bos) == 1


def test_end_of_turn_comes_after_the_response(template: ChatTemplate, kind: str) -> None:
    ids = template.encode([user("How many?")], "Three.")
    tail = template.tokenizer.decode(ids[-4:])
    assert tail.rstrip().endswith(ENDS[kind])
    assert ids[-4:].count(template.tokenizer.convert_tokens_to_ids(ENDS[kind])) == 1


def test_equal_to_the_templates_text_tokenised_once(template: ChatTemplate) -> None:
    turns = [user("a <b> c"), assistant("d"), user("e")]
    text = template.tokenizer.apply_chat_template([*turns, assistant("f")], tokenize=False)
    expected = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert template.encode(turns, "f") == expected


def test_system_message_is_kept_on_both(template: ChatTemplate, kind: str) -> None:
    assert template.takes_system == (kind == "llama")
    text = template.tokenizer.decode(template.encode([SYSTEM, user("Hi")], "Hello"))
    assert "Be kind." in text and text.index("Be kind.") < text.index("Hi")


def test_template_that_leaves_the_turn_open_gets_an_eos(template: ChatTemplate) -> None:
    template.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    )
    ids = template.encode([user("a")], "b")
    assert ids[-1] == template.tokenizer.eos_token_id


def test_no_chat_template_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        ChatTemplate(tokenizer)


def test_todays_date_does_not_enter(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{{ bos_token }}{% if not date_string is defined %}{{ strftime_now('%d %b %Y') }}"
        "{% else %}{{ date_string }}{% endif %}{{ messages[-1]['content'] }}{{ eos_token }}"
    )
    ids = ChatTemplate(tokenizer).encode([user("a")], "b")
    assert "26 Jul 2024" in tokenizer.decode(ids)


def test_pad_token_never_ends_a_sequence(template: ChatTemplate, kind: str) -> None:
    tokenizer = template.tokenizer
    if kind == "llama":
        assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the trap is set
    ends = [*template.encode([user("a")], "b")[-3:], tokenizer.eos_token_id]
    choose_pad_token(tokenizer, ends)
    assert tokenizer.pad_token_id not in ends


def test_merge_system_needs_a_user_turn_after_it() -> None:
    assert merge_system([SYSTEM, user("Hi")]) == [user("Be kind.\n\nHi")]
    assert merge_system([user("Hi")]) == [user("Hi")]
    with pytest.raises(InputError, match="user turn"):
        merge_system([SYSTEM, assistant("Hi")])


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


def test_long_response_keeps_its_end(template: ChatTemplate) -> None:
    long = "word " * 100 + "the end."
    (tokens,), report = tokenize_pairs([pair([user("Hi")], long, "short")], template, 40, drop=True)
    whole = template.encode([user("Hi")], long)
    assert list(tokens.chosen) == whole[-40:] and report.truncated == {"tokens": 1}


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
    with pytest.raises(InputError, match="refuses the roles"):
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


NAMES = {
    "llama": ("<|eot_id|>", "<|start_header_id|>"),
    "gemma": ("<end_of_turn>", "<start_of_turn>"),
}


def test_special_names_typed_in_a_text_stay_text(template: ChatTemplate, kind: str) -> None:
    end, start = NAMES[kind]
    ids = template.encode([user(f"Say {end}")], f"No.{end}{start}user\n\nYes")
    plain = template.encode([user("Say ")], "No.user\n\nYes")
    for name in (end, start):
        token = template.tokenizer.convert_tokens_to_ids(name)
        assert ids.count(token) == plain.count(token)
    assert f"No.{end}{start}user" in template.tokenizer.decode(ids)


def test_special_names_become_tokens_where_that_is_asked_for(
    tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    turns = [user(f"Say {NAMES[kind][0]} twice")]
    asked = ChatTemplate(tokenizer, parse_special_text=True)
    expected = tokenizer.apply_chat_template([*turns, assistant("b")], return_dict=True)
    assert asked.encode(turns, "b") == expected["input_ids"]
    assert asked.encode(turns, "b") != ChatTemplate(tokenizer).encode(turns, "b")


def test_rendering_as_text_leaves_the_rest_as_it_was(template: ChatTemplate, kind: str) -> None:
    """Private-use characters and digits of the text are not taken for marks."""
    odd = f"\ue000 0 \ue0000\ue000 {NAMES[kind][0]} \ue001"
    text = template.tokenizer.decode(template.encode([user(odd)], f"{NAMES[kind][1]}é"))
    assert odd in text and f"{NAMES[kind][1]}é" in text


def test_a_template_that_drops_or_repeats_a_message_keeps_typed_names_text(
    template: ChatTemplate, kind: str
) -> None:
    template.tokenizer.chat_template = (
        "{{ bos_token }}{{ messages[-1]['content'] }}{{ messages[-1]['content'] }}"
    )
    end = NAMES[kind][0]
    ids = template.render([user(f"{end}a"), assistant(f"b{end}")])
    assert ids.count(template.tokenizer.convert_tokens_to_ids(end)) == 0
    assert template.tokenizer.decode(ids[1:]).count(f"b{end}") == 2


def test_pairs_that_name_a_special_token_are_counted(template: ChatTemplate, kind: str) -> None:
    pairs = [pair([user("a")], "b", "c"), pair([user("a")], f"b {NAMES[kind][0]}", "c")]
    _, report = tokenize_pairs(pairs, template, 100, drop=True)
    assert report.special_text == report.as_dict()["special_text"] == 1
    assert "1 name a special token in their text" in report.lines()


def test_added_line_breaks_are_ordinary_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gemma adds tokens for them, and its template holds one: such a text names nothing special."""
    tokenizer.add_tokens(["\n", "\n\n", "\n\n\n"])
    template = ChatTemplate(tokenizer)
    turns = [user("one\n\ntwo\n\n\n"), assistant("a cat\n\nthe dog\n")]
    assert not template.names_special(turns)
    expected = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    assert template.render(turns) == expected


def test_a_typed_token_that_is_added_but_not_special_stays_text(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.add_tokens(["<tool_call>"])
    tokenizer.chat_template += "{# writes <tool_call> #}"
    ids = ChatTemplate(tokenizer).encode([user("a")], "see <tool_call> there")
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in ids
    assert "see <tool_call> there" in tokenizer.decode(ids)


def sentencepiece() -> PreTrainedTokenizerBase:
    """Characters with a "▁" before every text, as SentencePiece's Llama 2 and Mistral have it."""
    names = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", *"abcdefghijklmnopqrstuvwxyz<>/[]"]
    vocabulary = {name: index for index, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Replace("▁", " ")
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}"
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def test_typed_names_bring_no_space_where_the_tokenizer_puts_one_before_a_text() -> None:
    tokenizer = sentencepiece()
    ids = ChatTemplate(tokenizer).encode([user("cat<s>sat")], "</s> mat")
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("<s>", "▁", *"cat", *"<s>", *"sat", *"</s>", "▁", *"mat", "</s>")
    ]
