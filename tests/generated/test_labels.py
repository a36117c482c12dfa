"""Every Reasoning and Chat Hard label, re-derived from the texts by code that made none of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from fractions import Fraction

import pytest

from generated import SUBSETS, GeneratedPair, generate, verify
from generated.core import SPLITS
from generated.javascript import from_javascript, to_javascript
from generated.verify import evaluate, false_equations, final_answer
from generated.verify_programs import asked_function, code_of, inputs, load, reference
from generated.verify_text import broken_constraints, stated_constraints

CALCULATIONS = ("gen-arithmetic", "gen-sequence", "gen-units", "gen-word-problem")
SIZES = {"train": 3000, "validation": 600, "test": 1200}


def prompt_of(made: GeneratedPair) -> str:
    return made.pair.prompt[0]["content"]


def _all(section: str) -> list[GeneratedPair]:
    return [m for s in SPLITS for seed in (0, 7) for m in generate(s, SIZES[s], seed, {section: 1})]


@pytest.fixture(scope="module")
def reasoning() -> list[GeneratedPair]:
    return _all("Reasoning")


@pytest.fixture(scope="module")
def chat_hard() -> list[GeneratedPair]:
    return _all("Chat Hard")


def test_reasoning_labels(reasoning: list[GeneratedPair]) -> None:
    for made in reasoning:
        assert verify(made.subset, prompt_of(made), made.pair.chosen) is True, made
        assert verify(made.subset, prompt_of(made), made.pair.rejected) is False, made


def test_shown_steps_and_final_answers(reasoning: list[GeneratedPair]) -> None:
    """The chosen's steps all hold; the rejected's answer is wrong, not merely one of its steps."""
    for made in reasoning:
        if made.subset in CALCULATIONS:
            pair = made.pair
            assert "=" in pair.chosen and false_equations(pair.chosen) == []
            assert len(false_equations(pair.rejected)) <= 1
            assert final_answer(pair.chosen) != final_answer(pair.rejected)
            if pair.margin == 3.0:  # another operation: each step by itself holds
                assert false_equations(pair.rejected) == []


def test_rejected_reasoning_is_close(reasoning: list[GeneratedPair]) -> None:
    """The two texts have the same lines, but for lines that hold one changed step's effects."""
    for made in reasoning:
        one, two = (re.sub(r"\d+", "#", t) for t in (made.pair.chosen, made.pair.rejected))
        if made.subset in CALCULATIONS:
            changed = sum(a != b for a, b in zip(one, two, strict=True))
            assert changed <= 1  # a sign
        else:
            pairs = zip(made.pair.chosen.splitlines(), made.pair.rejected.splitlines(), strict=True)
            assert 1 <= sum(a != b for a, b in pairs) <= 3


def test_chat_hard_labels(chat_hard: list[GeneratedPair]) -> None:
    for made in chat_hard:
        prompt, pair = prompt_of(made), made.pair
        kind = made.template.split("/")[1]
        assert verify(made.subset, prompt, pair.chosen) is True, made
        assert verify(made.subset, prompt, pair.rejected) is False, made
        assert broken_constraints(prompt, pair.chosen) == []
        assert broken_constraints(prompt, pair.rejected) == [kind], made


def test_constraints_are_all_read(chat_hard: list[GeneratedPair]) -> None:
    """What is left of a prompt without its stated constraints is the request, one sentence."""
    from generated.verify_text import _patterns

    for made in chat_hard:
        rest = prompt_of(made)
        assert 1 <= len(stated_constraints(rest)) <= 3
        for _, pattern in _patterns():
            rest = pattern.sub("", rest)
        assert len(re.findall(r"[.?](?:\s|$)", rest.strip())) == 1, rest


@pytest.mark.parametrize("section", ["Chat", "Safety"])
def test_other_sections_are_not_checkable(section: str) -> None:
    for made in generate("test", 40, 0, {section: 1.0}):
        assert verify(made.subset, prompt_of(made), made.pair.chosen) is None


@pytest.mark.parametrize(
    ("subset", "prompt", "right", "wrong"),
    [
        ("gen-arithmetic", "What is 12 * 3 + 5? Show your steps.", "It is 41.", "It is 42."),
        ("gen-arithmetic", "Compute 20% of 340, minus 17 step by step.", "68 - 17 = 51", "68"),
        ("gen-sequence", "Find the next term: 3, 6, 12, 24, ...", "It is 48", "It is 36"),
        ("gen-sequence", "Find the next term: 1, 2, 4, 7, 11, ...", "16.", "22."),
        ("gen-units", "2 hours and 15 minutes are how many minutes in all?", "135 minutes", "215"),
        (
            "gen-word-problem",
            "Ann packs 3 boxes with 12 pens each and then gives away 10 pens. How many are left?",
            "3 * 12 = 36, so 26 pens",
            "3 * 12 = 35, and so 26 pens",
        ),
        ("gen-length", "Tell me about owls. Use at most 5 words.", "They hunt at night.", "a " * 6),
        ("gen-keywords", 'Write. Avoid the word "wind".', "Windy, but fine.", "The wind blows."),
        (
            "gen-format",
            'Write. Reply with a JSON object whose keys are "title" and "notes".',
            '{"title": "a", "notes": []}',
            '{"title": "a", "notes": []',
        ),
        (
            "gen-ordering",
            "Take these words: pear, fig, nut. Sort them from A to Z. One a line, please.",
            "fig\nnut\npear",
            "fig, nut, pear",
        ),
        (
            "gen-letters",
            'Take these words: pear, fig, nut. Which do not have the letter "e" in them?',
            "nut, fig",
            "nut",
        ),
        (
            "gen-python",
            "Write a Python function f(n) that returns the number n times 3 plus 11.",
            "def f(n):\n    return 11 + n + n + n",
            "def f(n):\n    return 3 * (n + 11)",
        ),
        (
            "gen-javascript",
            "Write a JavaScript function f(n) that returns the number n times 3 plus 11.",
            "function f(n) {\nreturn n * 3 + 11;\n}",
            "function f(n) {\nreturn n * 3 - 11;\n}",
        ),
    ],
)
def test_verify_judges_texts_of_any_origin(
    subset: str, prompt: str, right: str, wrong: str
) -> None:
    assert verify(subset, prompt, right) is True
    assert verify(subset, prompt, wrong) is False


def test_verify_says_none_where_it_cannot_tell() -> None:
    assert verify("no-such-subset", "a", "b") is None
    assert verify("gen-arithmetic", "Hello there.", "3") is None
    assert verify("gen-sequence", "Find the next term: 1, 5, 2, 90, ...", "3") is None
    assert verify("gen-units", "How long is it?", "3") is None
    assert verify("gen-word-problem", "A riddle.", "3") is None
    assert verify("gen-python", "Write f(n) that sings.", "def f(n): return 1") is None
    assert verify("gen-format", "Say hello.", "hello") is None
    task = "Write a JavaScript function f(n) that returns the number n times 3 plus 11."
    assert verify("gen-javascript", task, "const f = n => n * 3 + 11") is None
    assert verify("gen-javascript", task, "I do not know.") is False


@pytest.mark.parametrize(
    "program",
    [
        "import os\ndef f(n):\n    return n",
        "def f(n):\n    return n.__class__",
        "def f(n):\n    while True:\n        n += 1",
        "def f(n):\n    return 9 ** 9 ** 9",
        "def f(n):\n    return open('x')",
        "def f(n:\n",
        "x = [1][5]\ndef f(n):\n    return n",
        "def g(n):\n    return n * 3 + 11",
        "nothing",
    ],
)
def test_programs_that_do_harm_or_fail_are_wrong(program: str) -> None:
    task = "Write a Python function f(n) that returns the number n times 3 plus 11."
    assert verify("gen-python", task, program) is False


def test_an_empty_answer_is_wrong() -> None:
    assert verify("gen-keywords", 'Write. Avoid the word "wind".', "  ") is False
    assert verify("gen-arithmetic", "What is 12 * 3?", "") is False


def test_calculator() -> None:
    assert evaluate("(2 + 3) * -4 / 8") == Fraction(-5, 2)
    with pytest.raises(ValueError):
        evaluate("a + 1")
    assert final_answer("so 1,234 in all.") == 1234
    assert false_equations("2 + 2 = 5. 8 / 0 = 1. 3 * 3 = 9") == ["2 + 2 = 5", "8 / 0 = 1"]


def test_javascript_there_and_back() -> None:
    """Reading the rendered JavaScript gives a program that does the same as the Python."""
    for made in generate("train", 400, 3, {"Reasoning": 1.0}):
        if made.subset == "gen-python":
            source = code_of(made.pair.rejected)
            back = from_javascript(to_javascript(source))
            asked = asked_function(prompt_of(made))
            assert back is not None and asked is not None
            one, two = load(source, asked[0]), load(back, asked[0])
            assert one is not None and two is not None
            for value in inputs(prompt_of(made), asked[1]):
                copies = [list(value) if isinstance(value, list) else value for _ in range(2)]
                assert one(copies[0]) == two(copies[1])


def test_javascript_outside_the_form() -> None:
    assert from_javascript("function f(n) {\n  return n;") is None
    assert from_javascript("let f = async () => 3") is None
    with pytest.raises(NotImplementedError):
        to_javascript("x = 3")
    with pytest.raises(NotImplementedError):
        to_javascript("def f(n):\n    with n:\n        pass")


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript engine here")
def test_javascript_in_node(reasoning: list[GeneratedPair]) -> None:
    """A real engine gives the right values for the chosen, and a wrong one for the rejected."""
    lines, wanted = ["const all = [];"], []
    for made in [m for m in reasoning if m.subset == "gen-javascript"][:500]:
        prompt = prompt_of(made)
        asked, want = asked_function(prompt), reference(prompt)
        assert asked and want
        values = inputs(prompt, asked[1])
        wanted.append([want(v) for v in values])
        for response in (made.pair.chosen, made.pair.rejected):
            tried = f"{json.dumps(values)}.map((v) => {asked[0]}(v))"
            lines.append(f"all.push((() => {{ {code_of(response)}\nreturn {tried}; }})());")
    lines.append("console.log(JSON.stringify(all));")
    run = subprocess.run(
        ["node", "-"], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    got = json.loads(run.stdout)
    for i, want_values in enumerate(wanted):
        assert got[2 * i] == want_values
        assert got[2 * i + 1] != want_values


def test_subsets_are_our_own_names() -> None:
    assert all(name.startswith("gen-") for names in SUBSETS.values() for name in names)
