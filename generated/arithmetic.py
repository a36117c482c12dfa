"""Multi-step arithmetic and number sequences, with worked steps."""

from __future__ import annotations

from collections.abc import Callable

from generated.core import Draft, Draw
from generated.fillers import NAMES
from generated.steps import Inexact, Result, Step, draft

Task = tuple[str, list[Step]]
"""What is asked, as it stands in the prompt, and the steps that answer it."""

_ASK = (
    "What is {task}? Show your steps.",
    "Compute {task} step by step.",
    "Please work out {task}. Write every step down.",
    "Evaluate {task} and explain how you get there.",
    "I need the value of {task}. How do I get it?",
    "Calculate {task}; show the working.",
)


def _product_plus(draw: Draw) -> Task:
    a, b, c = draw.number(12, 98), draw.digit(3), draw.number(11, 99)
    op = draw.choose("+-")
    return f"{a} * {b} {op} {c}", [Step(a, "*", b), Step(Result(0), op, c)]


def _chain(draw: Draw) -> Task:
    a, b, c, d = (draw.number(10, 400) for _ in range(4))
    first, second, third = (draw.choose("+-") for _ in range(3))
    steps = [Step(a, first, b), Step(Result(0), second, c), Step(Result(1), third, d)]
    return f"{a} {first} {b} {second} {c} {third} {d}", steps


def _bracket_product(draw: Draw) -> Task:
    a, b, c, op = draw.number(10, 90), draw.number(10, 60), draw.digit(3), draw.choose("+-")
    return f"({a} {op} {b}) * {c}", [Step(a, op, b), Step(Result(0), "*", c)]


def _two_products(draw: Draw) -> Task:
    a, b, c, d = draw.number(12, 70), draw.digit(), draw.number(10, 60), draw.digit()
    op = draw.choose("+-")
    steps = [Step(a, "*", b), Step(c, "*", d), Step(Result(0), op, Result(1))]
    return f"{a} * {b} {op} {c} * {d}", steps


def _bracket_product_plus(draw: Draw) -> Task:
    a, b, c, d = draw.number(10, 90), draw.number(10, 60), draw.digit(), draw.number(10, 99)
    op, last = draw.choose("+-"), draw.choose("+-")
    steps = [Step(a, op, b), Step(Result(0), "*", c), Step(Result(1), last, d)]
    return f"({a} {op} {b}) * {c} {last} {d}", steps


def _percentage(draw: Draw) -> Task:
    a, p, c = draw.number(20, 900, 20), draw.number(5, 95, 5), draw.number(10, 99)
    op = draw.choose(("plus", "minus"))
    steps = [Step(a, "*", p), Step(Result(0), "/", 100)]
    steps.append(Step(Result(1), "+" if op == "plus" else "-", c))
    return f"{p}% of {a}, {op} {c}", steps


def _quotient(draw: Draw) -> Task:
    b = draw.digit()
    a, c, op = draw.number(30, 800, b), draw.number(10, 99), draw.choose("+-")
    return f"{a} / {b} {op} {c}", [Step(a, "/", b), Step(Result(0), op, c)]


def _remainder(draw: Draw) -> Task:
    a, b = draw.number(50, 500), draw.digit(3)
    steps = [Step(a - a % b, "/", b), Step(Result(0), "*", b), Step(a, "-", Result(1))]
    return f"the remainder when {a} is divided by {b}", steps


def _average(draw: Draw) -> Task:
    a, b, c = (draw.number(10, 99) for _ in range(3))
    steps = [Step(a, "+", b), Step(Result(0), "+", c), Step(Result(1), "/", 3)]
    return f"the average of {a}, {b} and {c}", steps


def _spoken(draw: Draw) -> Task:
    a, b, c, d = draw.number(10, 99), draw.number(10, 60), draw.digit(), draw.number(10, 99)
    first, last = draw.choose("+-"), draw.choose("+-")
    verb = {"+": "plus", "-": "minus"}
    steps = [Step(a, first, b), Step(Result(0), "*", c), Step(Result(1), last, d)]
    return f"{a} {verb[first]} {b}, all times {c}, then {verb[last]} {d}", steps


_ARITHMETIC: tuple[Callable[[Draw], Task], ...] = (
    _product_plus,
    _chain,
    _bracket_product,
    _two_products,
    _bracket_product_plus,
    _percentage,
    _quotient,
    _remainder,
    _average,
    _spoken,
)


def arithmetic(draw: Draw) -> Draft:
    """Make a pair about one arithmetic expression in whole numbers."""
    make = draw.choose(_ARITHMETIC)
    index, phrasing = draw.phrase(_ASK)
    while True:
        task, steps = make(draw)
        try:
            name = f"gen-arithmetic/{make.__name__.strip('_')}/{index}"
            return draft(draw, name, phrasing.format(task=task), steps)
        except Inexact:
            continue


_NEXT = (
    "What number comes next in the sequence {terms}, ...? Explain.",
    "Find the next term: {terms}, ...",
    "Continue this sequence by one number and say why: {terms}, ...",
    "The sequence {terms}, ... follows a simple rule. Which number is next?",
    "{name} writes down {terms} and keeps to one rule. Which number follows?",
)


def _constant(draw: Draw) -> tuple[list[int], list[Step]]:
    start, gap = draw.number(10, 300), draw.rng.randint(3, 30)
    if draw.coin() and start > 5 * gap:
        terms = [start - i * gap for i in range(5)]
        return terms, [Step(terms[0], "-", terms[1], "gap"), Step(terms[4], "-", Result(0), "next")]
    terms = [start + i * gap for i in range(5)]
    return terms, [Step(terms[1], "-", terms[0], "gap"), Step(terms[4], "+", Result(0), "next")]


def _growing_gap(draw: Draw) -> tuple[list[int], list[Step]]:
    start, gap, growth = draw.number(10, 200), draw.rng.randint(2, 14), draw.digit(2, 7)
    terms = [start]
    for i in range(4):
        terms.append(terms[-1] + gap + i * growth)
    return terms, [
        Step(terms[4], "-", terms[3], "last gap"),
        Step(Result(0), "+", growth, "next gap"),
        Step(terms[4], "+", Result(1), "next number"),
    ]


def _sum_of_two(draw: Draw) -> tuple[list[int], list[Step]]:
    terms = [draw.number(10, 60), draw.rng.randint(2, 60)]
    for _ in range(3):
        terms.append(terms[-1] + terms[-2])
    return terms, [
        Step(terms[2], "+", terms[3], "check of the rule"),
        Step(terms[3], "+", terms[4], "next number"),
    ]


def _multiplied(draw: Draw) -> tuple[list[int], list[Step]]:
    start, factor = draw.number(10, 90), draw.digit(2, 4)
    terms = [start * factor**i for i in range(4)]
    return terms, [
        Step(terms[1], "/", terms[0], "factor"),
        Step(terms[3], "*", Result(0), "next number"),
    ]


def _doubled_plus(draw: Draw) -> tuple[list[int], list[Step]]:
    terms, plus = [draw.number(10, 60)], draw.digit(1, 9)
    for _ in range(4):
        terms.append(2 * terms[-1] + plus)
    return terms, [
        Step(terms[0], "*", 2, "double of the first"),
        Step(terms[1], "-", Result(0), "what is added"),
        Step(terms[4], "*", 2, "double of the last"),
        Step(Result(2), "+", Result(1), "next number"),
    ]


def _up_and_down(draw: Draw) -> tuple[list[int], list[Step]]:
    up, down = draw.rng.sample(range(3, 25), 2)
    terms = [draw.number(60, 200)]
    for i in range(draw.choose((4, 5))):
        terms.append(terms[-1] + (up if i % 2 == 0 else -down))
    if len(terms) % 2:
        steps = [Step(terms[1], "-", terms[0], "rise"), Step(terms[-1], "+", Result(0), "next")]
    else:
        steps = [Step(terms[1], "-", terms[2], "drop"), Step(terms[-1], "-", Result(0), "next")]
    return terms, steps


_SEQUENCES = (_constant, _growing_gap, _sum_of_two, _multiplied, _doubled_plus, _up_and_down)

_PLACE = (
    "What is term number {n} of the sequence {terms}, ...? Show how.",
    "The sequence {terms}, ... goes up by the same amount each time. Find term number {n}.",
    "Work out term number {n} of {terms}, ... step by step.",
)


def _far_term(draw: Draw) -> Draft:
    start, gap, n = draw.number(10, 90), draw.digit(3), draw.number(10, 80)
    index, phrasing = draw.phrase(_PLACE)
    steps = [
        Step(start + gap, "-", start, "gap"),
        Step(n, "-", 1, "gaps to go"),
        Step(Result(1), "*", Result(0), "all gaps"),
        Step(start, "+", Result(2), f"term {n}"),
    ]
    terms = ", ".join(str(start + i * gap) for i in range(4))
    return draft(draw, f"gen-sequence/far_term/{index}", phrasing.format(n=n, terms=terms), steps)


def sequence(draw: Draw) -> Draft:
    """Make a pair about the next (or a far) term of a sequence; its first term is the split's."""
    if draw.coin(1 / (1 + len(_SEQUENCES))):
        return _far_term(draw)
    make = draw.choose(_SEQUENCES)
    index, phrasing = draw.phrase(_NEXT)
    terms, steps = make(draw)
    shown = ", ".join(map(str, terms))
    prompt = phrasing.format(terms=shown, name=draw.pick(NAMES))
    return draft(draw, f"gen-sequence/{make.__name__.strip('_')}/{index}", prompt, steps)
