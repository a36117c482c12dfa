"""Chat templates per architecture: special tokens, dates, reasoning, empty responses."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rm.data.templates import ChatTemplate, RefusedConversation, merge_system
from rm.errors import InputError
from tests.messages import NAMES, SYSTEM, assistant, user

ENDS = {"llama": "<|eot_id|>", "gemma": "<end_of_turn>"}


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


def test_encoding_never_lists_the_added_tokens(
    template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list takes 10 ms for Gemma's 6,400 added tokens, 30 times as long as a pair's tokens."""
    asked: list[int] = []
    listed = property(lambda _: asked.append(1))
    monkeypatch.setattr(type(template.tokenizer), "added_tokens_decoder", listed)
    template.encode([user("How many?")], "Three.")
    assert not asked


def test_no_chat_template_is_an_error(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        ChatTemplate(tokenizer)


DATED = {
    "a default": (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
        "{% set date_string = '1 Jan 1970' %}{% endif %}{% endif %}{{ date_string }}",
        "26 Jul 2024",
    ),
    "a call": (
        '{%- set today = strftime_now("%Y-%m-%d") %}\n  {% if 1 %}{{ today }}{% endif %}',
        "2024-07-26",
    ),
    "in words": ("{{ strftime_now('%A, %B %-d') }}", "Friday, July 26"),
    "in a macro": ("{% macro m(f) %}{{ strftime_now(f) }}{% endmacro %}{{ m('%H:%M') }}", "00:00"),
}


@pytest.mark.parametrize(("opening", "shown"), DATED.values(), ids=DATED)
@pytest.mark.parametrize("named", [False, True])
def test_the_date_is_fixed_for_us_and_for_everybody_who_loads_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    opening: str,
    shown: str,
    named: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk_of = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ eos_token }}"
    source = f"\n{opening}{talk_of}"
    tokenizer.chat_template = {"default": source, "other": "x"} if named else source
    talk = [user("a"), assistant("b")]
    now, made = datetime.now(), tokenizer.apply_chat_template(talk, tokenize=False)
    template = ChatTemplate(tokenizer)
    assert template.date == ChatTemplate(tokenizer).date == "2024-07-26"
    ids = template.encode([user("a")], "b")
    tokenizer.save_pretrained(tmp_path)

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2031, 1, 5, 12, 30)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert stock.apply_chat_template(talk, return_dict=True)["input_ids"] == ids
    text = stock.apply_chat_template(talk, tokenize=False)
    assert shown in text
    stamps = ("%Y-%m-%d", "%d %b %Y", "%A, %B %-d", "%H:%M")
    found = next(stamp for stamp in stamps if stamp in opening)
    assert text == made.replace(now.strftime(found), shown)


def test_a_template_without_a_date_stays_as_it_is(tokenizer: PreTrainedTokenizerBase) -> None:
    before = tokenizer.chat_template
    assert ChatTemplate(tokenizer).date is None and tokenizer.chat_template == before


# --- Reasoning and empty responses ---------------------------------------------------------------

OPEN, CLOSE = "<think>", "</think>"
HEADER, END = "\n[assistant]\n", "\n[end]\n"


def turns_by(assistants: str) -> str:
    """A template that writes an assistant's message `c` by `assistants`, others as they are."""
    return (
        "{% for m in messages %}{% set c = m['content'] %}{% if m['role'] == 'assistant' %}"
        f"{{{{ '{HEADER}' }}}}{assistants}{{{{ '{END}' }}}}"
        "{% else %}{{ m['role'] + ': ' + c }}{% endif %}{% endfor %}{{ eos_token }}"
    ).replace("\n", "\\n")


AFTER = "c.split('</think>')[-1]"
REWRITERS = {
    "plain": "{{ c }}",
    "trims": "{{ c | trim }}",
    "deletes": "{{ " + AFTER + " }}",
    "deletes and trims": "{{ " + AFTER + " | trim }}",
    "always opens": "{{ '<think>\n' + c }}",
    "adds an empty block": "{% if '</think>' in c %}{{ c }}{% else %}"
    "{{ '<think>\n\n</think>\n\n' + c }}{% endif %}",
    "sets anew": "{% set t = '' %}{% if '</think>' in c %}"
    "{% set t = c.split('</think>')[0].split('<think>')[-1] %}{% endif %}"
    "{{ '<think>\n' + t.strip('\n') + '\n</think>\n\n' + (" + AFTER + ").lstrip('\n') }}",
}
RESPONSES = {
    "canonical": "<think>\n3 + 3\n</think>\n\n6",
    "tight": "<think>3 + 3</think>6",
    "only closed": "3 + 3</think>6",
    "empty thought": "<think>\n\n</think>\n\n6",
    "capital": "<Think>3</Think> 6",
    "white space": "  <think>\n3</think>\n6 \n",
    "no reasoning": "6",
}


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("writes", REWRITERS.values(), ids=REWRITERS)
def test_the_response_reaches_the_model_as_written(
    tokenizer: PreTrainedTokenizerBase, writes: str, response: str, added: bool
) -> None:
    """Once, after the header; the template's own block stays where the response brings none."""
    if added:
        tokenizer.add_tokens([OPEN, CLOSE])
    tokenizer.chat_template = turns_by(writes)
    ids = ChatTemplate(tokenizer).encode([user("What is 3 + 3?")], response)
    text = tokenizer.decode(ids)
    between = text.partition(HEADER)[2].partition(END)[0]
    own = response.strip().lower().startswith(OPEN)
    if not own and writes in (REWRITERS["adds an empty block"], REWRITERS["sets anew"]):
        between = between.removeprefix("<think>\n\n</think>\n\n")
    if not own and writes == REWRITERS["always opens"]:
        between = between.removeprefix("<think>\n")
    assert between.strip() == response.strip()
    if "trim" not in writes:
        assert between == response
    if added:
        count = ids.count(tokenizer.convert_tokens_to_ids(CLOSE))
        assert count == text.count(CLOSE) >= response.count(CLOSE)


def test_an_ordinary_response_has_the_tokens_that_transformers_gives_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for writes in REWRITERS.values():
        tokenizer.chat_template = turns_by(writes)
        expected = tokenizer.apply_chat_template([user("a"), assistant("b")], return_dict=True)
        assert ChatTemplate(tokenizer).encode([user("a")], "b") == expected["input_ids"]


def test_a_template_that_leaves_the_response_out_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ eos_token }}"
    with pytest.raises(RefusedConversation, match="leaves the response out") as refused:
        ChatTemplate(tokenizer).encode([user("4")], "4")
    assert refused.value.reason == "response that the chat template leaves out"


def strict(template: str) -> str:
    """The template, with assistants' messages without text refused."""
    return (
        "{% for m in messages %}{% if m['role'] == 'assistant' and not m['content'] %}"
        "{{ raise_exception('assistant must say something') }}{% endif %}{% endfor %}" + template
    )


def test_an_empty_response_is_encoded_where_the_template_refuses_it(
    template: ChatTemplate, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert template.takes_empty
    expected = template.encode([user("a")], ""), template.prompt_length([user("a")])
    tokenizer.chat_template = strict(tokenizer.chat_template)
    refusing = ChatTemplate(tokenizer)
    assert not refusing.takes_empty
    assert (refusing.encode([user("a")], ""), refusing.prompt_length([user("a")])) == expected
    with pytest.raises(RefusedConversation, match="must say something"):
        refusing.encode([user("a"), assistant(""), user("b")], "c")


def test_a_template_that_fails_in_python_is_refused_in_one_line(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for broken in ("{{ 'a' + 1 }}", "{{ messages[5].content.x }}", "{% if %}", "{{ 1 // 0 }}"):
        tokenizer.chat_template = broken
        with pytest.raises(InputError, match="refuses the roles"):
            ChatTemplate(tokenizer).encode([user("a")], "b")


def test_an_empty_system_message_adds_nothing_to_a_users_turn() -> None:
    assert merge_system([{"role": "system", "content": " "}, user("Hi")]) == [user("Hi")]


def test_merge_system_needs_a_user_turn_after_it() -> None:
    assert merge_system([SYSTEM, user("Hi")]) == [user("Be kind.\n\nHi")]
    assert merge_system([user("Hi")]) == [user("Hi")]
    with pytest.raises(InputError, match="user turn"):
        merge_system([SYSTEM, assistant("Hi")])


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
