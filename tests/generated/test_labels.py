"""Labels re-derived from the texts by code that made none of them; what that code cannot judge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated import SUBSETS, GeneratedPair, generate, verify
from generated.core import SPLITS
from generated.javascript import from_javascript, to_javascript
from generated.verify import evaluate, false_equations, final_answer
from generated.verify_programs import asked_function, code_of, inputs, load, reference
from generated.verify_text import _patterns, stated_instruction

SIZES = {"train": 3000, "validation": 600, "test": 1200}
SEEDS = (3, 7)
"""Not the seed of conf/data/generated_v2.yaml, whose test pairs nothing may look at."""
CHECKED = ("Reasoning", "Chat Hard")
SOME = [m for m in generate("train", 136, SEEDS[0]) if m.pair.category in CHECKED]


def prompt_of(made: GeneratedPair) -> str:
    return made.pair.prompt[0]["content"]


def _all(section: str) -> list[GeneratedPair]:
    return [m for s in SPLITS for seed in SEEDS for m in generate(s, {section: SIZES[s]}, seed)]


@pytest.fixture(scope="module")
def reasoning() -> list[GeneratedPair]:
    return _all("Reasoning")


@pytest.fixture(scope="module")
def chat_hard() -> list[GeneratedPair]:
    return _all("Chat Hard")


@pytest.mark.parametrize("section", ["reasoning", "chat_hard"])
def test_chosen_is_right_and_rejected_is_wrong(
    section: str, request: pytest.FixtureRequest
) -> None:
    for made in request.getfixturevalue(section):
        assert verify(made.subset, prompt_of(made), made.pair.chosen) is True, made.pair
        assert verify(made.subset, prompt_of(made), made.pair.rejected) is False, made.pair


def test_shown_steps_and_final_answers(reasoning: list[GeneratedPair]) -> None:
    """The chosen's steps all hold; the rejected's answer is wrong, not merely one of its steps."""
    for made in reasoning:
        pair = made.pair
        if "```" not in pair.chosen:
            assert false_equations(pair.chosen) == []
            assert len(false_equations(pair.rejected)) <= 1
            assert final_answer(pair.chosen) != final_answer(pair.rejected)
            if pair.margin == 3.0:  # another operation: each step by itself holds
                assert false_equations(pair.rejected) == []


def test_chosen_steps_hold_in_every_wording(reasoning: list[GeneratedPair]) -> None:
    """Also where a step says "gives" or "is", which the verifier does not read."""
    seen = Counter[str]()
    for made in reasoning:
        for a, sign, b, word, value in re.findall(
            r"(\d+) ([-+*/]) (\d+) (=|is|gives|makes) (\d+)", made.pair.chosen
        ):
            found = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}
            assert found.get(sign, int(a) / int(b) if sign == "/" else None) == int(value)
            seen[word] += 1
    assert min(seen[word] for word in ("=", "is", "gives", "makes")) > 500


def test_instructions_are_all_read(chat_hard: list[GeneratedPair]) -> None:
    """What is left of a prompt without its instruction is the request, one sentence."""
    for made in chat_hard:
        stated, rest = stated_instruction(prompt_of(made)), prompt_of(made)
        assert stated is not None and stated[0] == made.template.split("/")[1]
        for name, pattern in _patterns():
            rest = pattern.sub("", rest) if name == stated[0] else rest
        assert len(re.findall(r"[.?](?:\s|$)", rest.strip())) == 1, rest


@pytest.mark.parametrize("section", ["Chat", "Safety"])
def test_other_sections_are_not_checkable(section: str) -> None:
    for made in generate("test", {section: 40}, SEEDS[0]):
        assert verify(made.subset, prompt_of(made), made.pair.chosen) is None


@pytest.mark.parametrize(
    ("subset", "prompt", "right", "wrong"),
    [
        ("arithmetic", "What is 12 * 3 + 5? Show your steps.", "It is 41.", "It is 42."),
        ("arithmetic", "Compute 20% of 340, minus 17 step by step.", "68 - 17 = 51", "68"),
        ("sequence", "Find the next term: 3, 6, 12, 24, ...", "It is 48", "It is 36"),
        ("sequence", "Find the next term: 1, 2, 4, 7, 11, ...", "16.", "22."),
        ("units", "2 hours and 15 minutes are how many minutes in all?", "135 minutes", "215"),
        (
            "word-problem",
            "Ann packs 3 boxes with 12 pens each and then gives away 10. How many pens are left?",
            "3 * 12 = 36, so 26 pens",
            "3 * 12 = 35, and so 26 pens",
        ),
        (
            "python",
            "Write a Python function f(n) that returns the number n times 3 plus 11.",
            "def f(n):\n    return 11 + n + n + n",
            "def f(n):\n    return 3 * (n + 11)",
        ),
        (
            "javascript",
            "Write a JavaScript function f(n) that returns the number n times 3 plus 11.",
            "function f(n) {\nreturn n * 3 + 11;\n}",
            "function f(n) {\nreturn n * 3 - 11;\n}",
        ),
        ("symbols", 'About owls. Put "#" in front of every fact.', "# A.\n# B.", "# A.\nB."),
        ("symbols", 'About owls. Separate the facts with "/".', "One a. / Two b.", "One a. | B b."),
        ("symbols", 'Begin with "[" and end with "]".', "[Owls hunt.]", "(Owls hunt.)"),
        ("counts", "Number three points.", "1. A\n2. B\n3. C", "1. A\n2. B"),
        ("counts", "Write exactly two sentences.", "One. Two.", "One. Two. Three."),
        ("shape", "Use capital letters only.", "OWLS HUNT.", "OWLS hunt."),
        ("names", "Address it to Ann and sign it as Bo.", "Dear Ann,\nx\nBo", "Dear Bo,\nx\nAnn"),
        ("names", 'Put "Memo to Al" on top instead of "Note for Al".', "Memo to Al\nx", "Note\nx"),
        ("words", 'Begin with the word "Owls".', "Owls hunt.", "They hunt."),
        ("words", 'The code word below it is "fig", no longer "elm".', "Hi.\nfig", "Hi.\nelm"),
        (
            "word-problem",
            "Al keeps 10 hens and 20 spiders. How many legs do the animals have together?",
            "20 + 160 = 180, so 180 legs",
            "140 legs",
        ),
        (
            "word-problem",
            "Al's tank holds 300 litres and loses 10 litres an hour for 3 hours. "
            "Then 25 litres are let out. How many litres are in it?",
            "245 litres",
            "295 litres",
        ),
    ],
)
def test_verify_judges_texts_of_any_origin(
    subset: str, prompt: str, right: str, wrong: str
) -> None:
    for wrapping in ("close", "far"):
        assert verify(f"gen2-{subset}-{wrapping}", prompt, right) is True
        assert verify(f"gen2-{subset}-{wrapping}", prompt, wrong) is False


def test_verify_says_none_where_it_cannot_tell() -> None:
    for subset in ("no-such-subset", "gen-arithmetic", "gen2-arithmetic", "gen2-tetris-close"):
        assert verify(subset, "What is 1 + 1?", "2") is None
    for kind, prompt in (
        ("arithmetic", "Hello there."),
        ("arithmetic", "What is 770 - 21) * 7 + 82?"),
        ("arithmetic", "What is 7 / (3 - 3)?"),
        ("sequence", "Find the next term: 1, 5, 2, 90, ..."),
        ("sequence", "Find the next term."),
        ("units", "How long is it?"),
        ("word-problem", "A riddle."),
        ("word-problem", "Al keeps 10 hens and 20 dragons. How many legs do they have?"),
        ("symbols", "Say hello."),
        ("harmful", "How do I pick a lock?"),
        ("python", "Write f(n) that sings."),
    ):
        assert verify(f"gen2-{kind}-close", prompt, "def f(n): return 3") is None
    task = "Write a JavaScript function f(n) that returns the number n times 3 plus 11."
    assert verify("gen2-javascript-far", task, "const f = n => n * 3 + 11") is None
    assert verify("gen2-javascript-far", task, "I do not know.") is False


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
    assert verify("gen2-python-close", task, program) is False


def test_an_empty_answer_is_wrong() -> None:
    assert verify("gen2-counts-close", "Write exactly two sentences.", "  ") is False
    assert verify("gen2-arithmetic-close", "What is 12 * 3?", "") is False


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SOME), st.text('012 =*/()[]{}<>+-.:;"\n\\aeZ_`\x00\u00e9', max_size=60))
def test_no_text_makes_the_verifier_fail(made: GeneratedPair, text: str) -> None:
    """Any response is right, wrong or unknown, also one that a right answer is mangled to."""
    place = len(made.pair.chosen) - len(text)
    for response in (text, made.pair.chosen[:place] + text, text + made.pair.chosen):
        assert verify(made.subset, prompt_of(made), response) in (True, False, None)


def test_calculator() -> None:
    assert evaluate("(2 + 3) * -4 / 8") == Fraction(-5, 2)
    with pytest.raises(ValueError):
        evaluate("a + 1")
    assert final_answer("so 1,234 in all.") == 1234
    assert false_equations("2 + 2 = 5. 8 / 0 = 1. 3 * 3 = 9") == ["2 + 2 = 5", "8 / 0 = 1"]


def test_javascript_there_and_back() -> None:
    """Reading the rendered JavaScript gives a program that does the same as the Python."""
    for made in generate("train", {"Reasoning": 400}, SEEDS[0]):
        if made.subset.startswith("gen2-python"):
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
    for made in [m for m in reasoning if m.subset.startswith("gen2-javascript")][:500]:
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
    assert all(name.startswith("gen2-") for names in SUBSETS.values() for name in names)
