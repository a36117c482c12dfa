"""Calculations with worked steps: arithmetic, sequences, units and word problems.

A family is a text with parameters and the steps that answer it, written as
"packed = a * b; left = packed op c": each names a result by a label, and its operands are
parameters, earlier labels or numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from generated.core import Draw
from generated.fillers import NAMES, PLACES, THINGS, WARES
from generated.parameters import Parameter, Values, digit, drawn, neighbour, number, sign
from generated.task import Fault, Task, Wrapping, variant

LARGEST = 99_999
"""No step of a calculation goes beyond this."""


class Inexact(Exception):
    """A calculation leads to a negative number, a fraction or a very large number."""


@dataclass(frozen=True)
class Equation:
    """One worked step: ``left symbol right = value``; `label` says in words what it finds."""

    label: str
    left: int
    symbol: str
    right: int
    value: int


@dataclass(frozen=True)
class Working:
    """Worked steps, and the answer as it is stated, with its unit ("" for none)."""

    equations: tuple[Equation, ...]
    answer: int
    unit: str = ""


@dataclass(frozen=True)
class Family:
    """A kind of calculation: its text, its steps and its parameters.

    `words` draws the names and things of the text (and factors that belong to them); `derive`
    gives values that follow from the parameters and stand in the text.
    """

    text: str
    steps: str
    parameters: Mapping[str, Parameter]
    unit: str = ""
    words: Callable[[Draw], Values] = field(default=lambda draw: {})
    derive: Callable[[Values], Values] = field(default=lambda values: {})


@cache
def _parsed(steps: str) -> tuple[tuple[str, str, str, str], ...]:
    """Split steps into (label, left, operation, right)."""
    found = (re.fullmatch(r"(.+) = (.+) ([-+*/]|[pqr]|op) (.+)", s) for s in steps.split("; "))
    return tuple(match.groups() for match in found if match)  # type: ignore[misc]


def _apply(left: int, symbol: str, right: int) -> int:
    if symbol == "/":
        if right == 0 or left % right:
            raise Inexact
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[symbol]


Change = Callable[[int], int]


def _keep(value: int) -> int:
    return value


def work(
    family: Family, values: Values, slip: Mapping[int, Change] = {}, copy: Mapping[int, Change] = {}
) -> Working:
    """Work out the steps, by index with a `slip` in the result or a `copy` of an earlier result.

    Raises Inexact where a result is negative, not whole or too large.
    """
    known = {**values, **family.derive(values)}
    equations: list[Equation] = []
    results: set[str] = set()
    for index, (label, left, op, right) in enumerate(_parsed(family.steps)):
        change = copy.get(index, _keep)
        a, b = (
            int(name) if name.isdigit() else change(known[name]) if name in results else known[name]
            for name in (left, right)
        )
        symbol = known[op].code if op in known else op
        value = slip.get(index, _keep)(_apply(a, symbol, b))
        if min(a, b) < 0 or not 0 <= value <= LARGEST:
            raise Inexact
        known[label] = value
        results.add(label)
        equations.append(Equation(label, a, symbol, b, value))
    return Working(tuple(equations), value, str(known.get(family.unit, family.unit)))


def _off(draw: Draw) -> Change:
    """Draw by how much a number is off: up or down, by one or two in one of its digits."""
    by = draw.choose((1, 2)) * draw.choose((1, 1, 10)) * draw.choose((-1, 1))
    return lambda value: value + by


def _neighbouring(draw: Draw, family: Family, values: Values) -> tuple[Working, str, float]:
    other, parameter = neighbour(draw, values, family.parameters)
    return work(family, other), parameter.fault, parameter.margin


def _slipped(draw: Draw, family: Family, values: Values) -> tuple[Working, str, float]:
    index = draw.rng.randrange(len(_parsed(family.steps)))
    return work(family, values, slip={index: _off(draw)}), "slip", 1.0


def _miscopied(draw: Draw, family: Family, values: Values) -> tuple[Working, str, float]:
    index = draw.rng.randrange(len(_parsed(family.steps)))
    return work(family, values, copy={index: _off(draw)}), "copy", 1.0


def _misstated(draw: Draw, family: Family, values: Values) -> tuple[Working, str, float]:
    right = work(family, values)
    return replace(right, answer=_off(draw)(right.answer)), "answer", 1.0


FAULTS = (_neighbouring, _neighbouring, _neighbouring, _slipped, _miscopied, _misstated)
"""Half of the faults take another number or operation; the rest are inside the steps."""


def faulty(draw: Draw, family: Family, values: Values) -> Fault:
    """Draw a working with one fault and another answer than the right one."""
    right = work(family, values)
    while True:
        try:
            wrong, name, margin = draw.choose(FAULTS)(draw, family, values)
        except Inexact:
            continue
        if wrong.answer != right.answer and wrong.answer >= 0:
            return Fault(wrong, name, margin)


OPENINGS = (
    "",
    "",
    "Let me work this out.",
    "Here is the calculation.",
    "We go through it in order.",
    "This takes a few steps.",
)
EQUALS = ("=", "=", "is", "gives", "makes")
CLOSINGS = (
    "The answer is {answer}.",
    "So the result is {answer}.",
    "Final answer: {answer}",
    "That makes {answer}.",
    "Therefore we get {answer}.",
    "Answer: {answer}",
)
_ORDER = ("First", "Then", "Next", "After that")


def word(working: Working, wrapping: Wrapping) -> str:
    """Write a working as text."""
    equals = variant(EQUALS, wrapping.wording)
    said = [f"{e.left} {e.symbol} {e.right} {equals} {e.value}" for e in working.equations]
    style = variant(("lines", "numbered", "labels", "told", "plain"), wrapping.style)
    if style == "numbered":
        said = [f"Step {i}: {text}" for i, text in enumerate(said, 1)]
    elif style == "labels":
        pairs = zip(working.equations, said, strict=True)
        said = [f"{e.label[0].upper()}{e.label[1:]}: {text}" for e, text in pairs]
    elif style == "told":
        said = [f"{o}, {text}." for o, text in zip(_ORDER, said, strict=False)]
    elif style == "plain":
        said = [f"{text}." for text in said]
    gap = " " if style in ("told", "plain") else "\n"
    answer = f"{working.answer} {working.unit}".strip()
    closing = variant(CLOSINGS, wrapping.closing).format(answer=answer)
    opening = variant(OPENINGS, wrapping.opening)
    return gap.join(filter(None, [opening, *said, closing]))


def _task(draw: Draw, name: str, families: Mapping[str, Family], asks: Sequence[str]) -> Task:
    kind = draw.choose(tuple(families))
    index, ask = draw.phrase(asks)
    family = families[kind]
    while True:
        values = drawn(draw, family.parameters) | family.words(draw)
        try:
            right = work(family, values)
        except Inexact:
            continue
        break
    text = family.text.format(**values | family.derive(values))
    return Task(
        f"{name}/{kind}/{index}",
        ask.format(text=text),
        lambda _: right,
        lambda draw, _: faulty(draw, family, values),
        word,
    )


ARITHMETIC = {
    "product plus": Family(
        "{a} * {b} {op} {c}",
        "product = a * b; result = product op c",
        {"a": number(34, 98), "b": digit(3), "op": sign(), "c": number(11, 99)},
    ),
    "chain": Family(
        "{a} {p} {b} {q} {c} {r} {d}",
        "first result = a p b; second result = first result q c; result = second result r d",
        {
            **{"a": number(300, 400), "p": sign(), "b": number(10, 99), "q": sign()},
            **{"c": number(10, 99), "r": sign(), "d": number(10, 99)},
        },
    ),
    "bracket": Family(
        "({a} {op} {b}) * {c}",
        "bracket = a op b; result = bracket * c",
        {"a": number(61, 99), "op": sign(), "b": number(10, 60), "c": digit(3)},
    ),
    "two products": Family(
        "{a} * {b} {op} {c} * {d}",
        "first product = a * b; second product = c * d; result = first product op second product",
        {
            **{"a": number(60, 98), "b": digit(5), "op": sign()},
            **{"c": number(10, 40), "d": digit(2, 7)},
        },
    ),
    "bracket plus": Family(
        "({a} {p} {b}) * {c} {q} {d}",
        "bracket = a p b; product = bracket * c; result = product q d",
        {
            **{"a": number(70, 99), "p": sign(), "b": number(10, 50), "c": digit(5)},
            **{"q": sign(), "d": number(10, 99)},
        },
    ),
    "percentage": Family(
        "{p}% of {a}, {op} {c}",
        "product = a * p; share = product / 100; result = share op c",
        {
            **{"p": number(25, 95, 5), "a": number(400, 900, 20)},
            **{"op": sign("plus", "minus"), "c": number(10, 99)},
        },
    ),
    "average": Family(
        "the average of {a}, {b} and {c}",
        "first sum = a + b; sum = first sum + c; average = sum / 3",
        {"a": number(10, 99), "b": number(10, 99), "c": number(10, 99)},
    ),
    "spoken": Family(
        "{a} {p} {b}, all times {c}, then {q} {d}",
        "first result = a p b; product = first result * c; result = product q d",
        {
            **{"a": number(70, 99), "p": sign("plus", "minus"), "b": number(10, 50)},
            **{"c": digit(5), "q": sign("plus", "minus"), "d": number(10, 99)},
        },
    ),
}
ARITHMETIC_ASKS = (
    "What is {text}? Show your steps.",
    "Compute {text} step by step.",
    "Please work out {text}. Write every step down.",
    "Evaluate {text} and explain how you get there.",
    "I need the value of {text}. How do I get it?",
    "Calculate {text}; show the working.",
)


def _terms(rule: Callable[[Values, list[int]], int], count: int = 5) -> Callable[[Values], Values]:
    """Derive the terms of a sequence from its first ones: t0, t1, … and the list for the text."""

    def derive(values: Values) -> Values:
        terms = [values["a"]] + ([values["b"]] if "b" in values else [])
        while len(terms) < count:
            terms.append(rule(values, terms))
        named = {f"t{i}": term for i, term in enumerate(terms)}
        return {**named, "terms": ", ".join(map(str, terms))}

    return derive


_GAP = Parameter("number", 2.0, options=tuple(range(3, 31)))
SEQUENCES = {
    "rising": Family(
        "{terms}",
        "gap = t1 - t0; next number = t4 + gap",
        {"a": number(10, 300), "g": _GAP},
        derive=_terms(lambda v, t: t[-1] + v["g"]),
    ),
    "falling": Family(
        "{terms}",
        "gap = t0 - t1; next number = t4 - gap",
        {"a": number(160, 400), "g": _GAP},
        derive=_terms(lambda v, t: t[-1] - v["g"]),
    ),
    "growing gap": Family(
        "{terms}",
        "last gap = t4 - t3; next gap = last gap + h; next number = t4 + next gap",
        {"a": number(10, 200), "g": digit(), "h": digit()},
        derive=_terms(lambda v, t: t[-1] + v["g"] + (len(t) - 1) * v["h"]),
    ),
    "sum of two": Family(
        "{terms}",
        "check of the rule = t2 + t3; next number = t3 + t4",
        {"a": number(10, 60), "b": Parameter("number", 2.0, options=tuple(range(2, 61)))},
        derive=_terms(lambda v, t: t[-1] + t[-2]),
    ),
    "doubled plus": Family(
        "{terms}",
        "double of the first = t0 * 2; what is added = t1 - double of the first; "
        "double of the last = t4 * 2; next number = double of the last + what is added",
        {"a": number(10, 60), "h": digit(1)},
        derive=_terms(lambda v, t: 2 * t[-1] + v["h"]),
    ),
}
SEQUENCE_ASKS = (
    "What number comes next in the sequence {text}, ...? Explain.",
    "Find the next term: {text}, ...",
    "Continue this sequence by one number and say why: {text}, ...",
    "The sequence {text}, ... follows a simple rule. Which number is next?",
)

_CONVERSIONS = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("dozens", "pieces", 12),
    ("metres", "centimetres", 100),
    ("kilometres", "metres", 1000),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("pounds", "ounces", 16),
    ("gallons", "quarts", 4),
)
_FACTOR = Parameter("factor", 3.0, options=tuple(factor for _, _, factor in _CONVERSIONS))


def _conversion(draw: Draw) -> Values:
    large, small, factor = draw.choose(_CONVERSIONS)
    return {"large": large, "small": small, "factor": factor, "name": draw.pick(NAMES)}


UNITS = {
    "plain": Family(
        "{a} {large} and {b} {small} are how many {small} in all?",
        "converted = a * factor; in all = converted + b",
        {"a": digit(), "factor": _FACTOR, "b": number(11, 90)},
        "small",
        _conversion,
    ),
    "rest": Family(
        "{name} has {a} {large} and uses up {b} {small}. How many {small} are left?",
        "converted = a * factor; left = converted - b",
        {"a": number(31, 60), "factor": _FACTOR, "b": number(10, 95)},
        "small",
        _conversion,
    ),
    "repeated": Family(
        "{name} needs {a} times {b} {large}. How many {small} is that?",
        "needed = a * b; converted = needed * factor",
        {"a": digit(3), "b": number(10, 60), "factor": _FACTOR},
        "small",
        _conversion,
    ),
    "twice": Family(
        "{name} measures {a} {large} in the morning and {b} {large} in the evening. "
        "How many {small} is that together?",
        "both = a + b; converted = both * factor",
        {"a": number(10, 60), "b": number(10, 60), "factor": _FACTOR},
        "small",
        _conversion,
    ),
}
UNIT_ASKS = (
    "{text}",
    "{text} Show the steps.",
    "Convert and show your working: {text}",
    "Quick question about units. {text}",
    "{text} Please give the calculation too.",
)


def _people(draw: Draw) -> Values:
    first, second = draw.pick_some(NAMES, 2)
    return {
        **{"name": first, "other": second, "thing": draw.pick(THINGS)},
        **{"ware": draw.pick(WARES), "place": draw.pick(PLACES)},
    }


_LEGS = (("hens", 2), ("ducks", 2), ("goats", 4), ("cows", 4), ("beetles", 6), ("spiders", 8))
_LEG = Parameter("factor", 3.0, options=tuple(legs for _, legs in _LEGS))


def _animals(draw: Draw) -> Values:
    (one, k), (two, m) = draw.some(_LEGS, 2)
    return {"name": draw.pick(NAMES), "one": one, "two": two, "k": k, "m": m}


STORIES = {
    "boxes": Family(
        "{name} packs {a} boxes with {b} {thing} each and then {op} {c}. "
        "How many {thing} does {name} have then?",
        "packed = a * b; then = packed op c",
        {
            **{"a": digit(4), "b": number(25, 60)},
            **{"op": sign("buys another", "gives away"), "c": number(10, 99)},
        },
        "thing",
        _people,
    ),
    "savings": Family(
        "{name} has {a} dollars and {op} {b} dollars a week for {c} weeks. "
        "How many dollars does {name} have then?",
        "in these weeks = b * c; then = a op in these weeks",
        {
            **{"a": number(270, 500), "op": sign("saves", "spends")},
            **{"b": number(10, 30), "c": digit(3)},
        },
        "dollars",
        _people,
    ),
    "seats": Family(
        "The {place} has {a} rows with {b} seats each, and then {c} seats are {op}. "
        "How many seats does it have now?",
        "all seats = a * b; now = all seats op c",
        {
            **{"a": number(20, 40), "b": digit(5)},
            **{"c": number(10, 99), "op": sign("added", "taken out")},
        },
        "seats",
        _people,
    ),
    "workers": Family(
        "{name} wraps {a} {thing} an hour and {other} wraps {b} {op}. "
        "How many {thing} does {other} wrap in {c} hours?",
        "an hour = a op b; in all = an hour * c",
        {
            **{"a": number(50, 90), "b": number(10, 40)},
            **{"op": sign("more", "fewer"), "c": digit(3)},
        },
        "thing",
        _people,
    ),
    "ages": Family(
        "{name} is {a} years old and {other} is {b} years {op}. "
        "How many years old is {other} after {c} more years?",
        "now = a op b; later = now + c",
        {
            **{"a": number(40, 70), "b": number(10, 30)},
            **{"op": sign("older", "younger"), "c": digit()},
        },
        "years",
        _people,
    ),
    "price": Family(
        "A {ware} costs {a} dollars, {op} {p} percent. How many dollars does one pay?",
        "product = a * p; percent = product / 100; price = a op percent",
        {
            **{"a": number(100, 900, 20), "p": number(5, 60, 5)},
            "op": sign("plus a tax of", "less a discount of"),
        },
        "dollars",
        _people,
    ),
    "trip": Family(
        "{name} drives for {b} hours at {a} km per hour and then {op} {c} km. "
        "How many km from the start is {name}?",
        "first part = a * b; distance = first part op c",
        {
            **{"a": number(40, 98), "b": digit(3, 7)},
            **{"op": sign("on for another", "back for"), "c": number(10, 99)},
        },
        "km",
        _people,
    ),
    "fence": Family(
        "A fence around {name}'s garden, {a} m long and {b} m wide, costs {c} dollars per metre. "
        "What does the whole fence cost?",
        "two sides = a + b; all sides = two sides * 2; cost = all sides * c",
        {"a": number(10, 60), "b": number(10, 60), "c": digit(3)},
        "dollars",
        _people,
    ),
    "sale": Family(
        "{name} buys {a} {thing} for {b} dollars each and sells each for {c} dollars {op}. "
        "How many dollars does {name} get for all of them?",
        "for one = b op c; for all = for one * a",
        {
            **{"a": number(10, 60), "b": number(20, 60)},
            **{"c": digit(), "op": sign("more", "less")},
        },
        "dollars",
        _people,
    ),
    "legs": Family(
        "{name} keeps {a} {one} and {b} {two}. How many legs do the animals have together?",
        "legs of the first = a * k; legs of the others = b * m; "
        "all legs = legs of the first + legs of the others",
        {"a": number(10, 90), "b": number(10, 90), "k": _LEG, "m": _LEG},
        "legs",
        _animals,
    ),
    "tickets": Family(
        "At the {place}, {a} adults pay {b} dollars each and {c} children pay {d} dollars each. "
        "How many dollars do they pay together?",
        "adults = a * b; children = c * d; together = adults + children",
        {"a": digit(), "b": number(12, 40), "c": digit(), "d": number(12, 40)},
        "dollars",
        _people,
    ),
    "tank": Family(
        "{name}'s tank holds {a} litres and {p} {b} litres an hour for {c} hours. "
        "Then {d} litres are {q}. How many litres are in it?",
        "in these hours = b * c; then = a p in these hours; at the end = then q d",
        {
            **{"a": number(260, 600), "p": sign("gains", "loses"), "b": number(10, 30)},
            **{"c": digit(2, 5), "d": number(10, 99), "q": sign("added", "let out")},
        },
        "litres",
        _people,
    ),
    "half": Family(
        "{name} has {a} {thing}, sells half of them and then {op} {b}. "
        "How many {thing} does {name} have then?",
        "half = a / 2; then = half op b",
        {
            **{"a": number(200, 600, 2), "op": sign("buys another", "loses")},
            "b": number(10, 99),
        },
        "thing",
        _people,
    ),
}
STORY_ASKS = (
    "{text}",
    "{text} Show your working.",
    "Solve this step by step. {text}",
    "My homework says: {text} How do I solve it?",
)


def arithmetic(draw: Draw) -> Task:
    """Draw one arithmetic expression in whole numbers."""
    return _task(draw, "arithmetic", ARITHMETIC, ARITHMETIC_ASKS)


def sequence(draw: Draw) -> Task:
    """Draw a sequence whose next term is asked; its first term is the split's."""
    return _task(draw, "sequence", SEQUENCES, SEQUENCE_ASKS)


def units(draw: Draw) -> Task:
    """Draw a conversion between units."""
    return _task(draw, "units", UNITS, UNIT_ASKS)


def word_problem(draw: Draw) -> Task:
    """Draw a word problem."""
    return _task(draw, "word-problem", STORIES, STORY_ASKS)
