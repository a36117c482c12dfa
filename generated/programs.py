"""Small programs in Python and JavaScript: right, or right for another task in one detail.

A kind of task is a set of parameters with a sentence that describes them and a program that fulfils
them. The rejected program fulfils the same parameters but one (a bound, an operator, a constant),
so both programs come from the same code and no token is typical of either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from generated.core import Draft, Draw
from generated.fillers import NOUNS_FOR_CODE
from generated.javascript import to_javascript

Values = dict[str, Any]
"""The parameters of a task, by name."""

COMPARISONS = {
    "greater than": ">",
    "at least": ">=",
    "less than": "<",
    "at most": "<=",
    "equal to": "==",
    "not equal to": "!=",
}
_NEAR = {"greater than": "at least", "at least": "greater than"} | {
    "less than": "at most",
    "at most": "less than",
}
_OPPOSITE = {
    "greater than": "less than",
    "less than": "greater than",
    "at least": "at most",
    "at most": "at least",
    "equal to": "not equal to",
    "not equal to": "equal to",
}


@dataclass(frozen=True)
class Kind:
    """A kind of task: its argument, how to draw, describe and program it, and how it goes wrong.

    `faults` gives for a drawn task the choices of (parameter, wrong value, margin). Margins:
    1 = wrong only at a boundary, 2 = a wrong constant, 3 = a wrong operation.
    """

    name: str
    argument: str
    draw: Callable[[Draw], Values]
    describe: Callable[[Values], str]
    body: Callable[[Values], str]
    faults: Callable[[Values, Draw], list[tuple[str, Any, float]]]


def _order(draw: Draw) -> str:
    return draw.choose(("greater than", "at least", "less than", "at most"))


def _comparison_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    """Give faults of a comparison `how` with a threshold `t`."""
    off = v["t"] + draw.choose((-1, 1))
    return [("how", _NEAR[v["how"]], 1.0), ("t", off, 1.0), ("how", _OPPOSITE[v["how"]], 3.0)]


def _draw_range(draw: Draw) -> Values:
    fold = draw.choose(("sum", "number", "product"))
    return {
        "fold": fold,
        "first": draw.digit(1, 5),
        "last": draw.choose(("including", "not including")),
        "which": draw.choose(("multiples of", "not multiples of")),
        "k": draw.digit(3, 6),
        "acc": draw.choose(("total", "result", "acc")),
    }


def _range_body(v: Values) -> str:
    stop = "n + 1" if v["last"] == "including" else "n"
    test = "==" if v["which"] == "multiples of" else "!="
    start, step = {"sum": (0, "+= i"), "number": (0, "+= 1"), "product": (1, "*= i")}[v["fold"]]
    return (
        f"{v['acc']} = {start}\nfor i in range({v['first']}, {stop}):\n"
        f"    if i % {v['k']} {test} 0:\n        {v['acc']} {step}\nreturn {v['acc']}"
    )


def _range_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    last = "not including" if v["last"] == "including" else "including"
    which = "multiples of" if v["which"].startswith("not") else "not multiples of"
    k = draw.choose([k for k in range(2, 8) if k != v["k"]])
    fold = draw.choose([f for f in ("sum", "number", "product") if f != v["fold"]])
    return [("last", last, 1.0), ("k", k, 2.0), ("which", which, 3.0), ("fold", fold, 3.0)]


def _draw_threshold(draw: Draw) -> Values:
    names = draw.choose((("total", "value"), ("result", "x"), ("found", "item")))
    acc, item = names
    return {"how": _order(draw), "t": draw.number(10, 99), "acc": acc, "item": item}


def _loop(v: Values, start: str, action: str) -> str:
    test = f"{v['item']} {COMPARISONS[v['how']]} {v['t']}"
    return (
        f"{v['acc']} = {start}\nfor {v['item']} in values:\n    if {test}:\n"
        f"        {action}\nreturn {v['acc']}"
    )


def _draw_linear(draw: Draw) -> Values:
    return {"a": draw.digit(), "sign": draw.choose(("plus", "minus")), "b": draw.number(10, 99)}


def _sign(v: Values) -> str:
    return "+" if v["sign"] == "plus" else "-"


def _linear_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    sign = "minus" if v["sign"] == "plus" else "plus"
    off = draw.choose((-1, 1))
    return [("a", v["a"] + off, 2.0), ("b", v["b"] + off, 2.0), ("sign", sign, 3.0)]


def _draw_fee(draw: Draw) -> Values:
    return {
        "a": draw.digit(),
        "how": _order(draw),
        "t": draw.number(10, 60),
        "sign": draw.choose(("plus", "minus")),
        "b": draw.digit(),
    }


def _fee_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    sign = "minus" if v["sign"] == "plus" else "plus"
    return [*_comparison_faults(v, draw), ("sign", sign, 3.0)]


def _draw_extreme(draw: Draw) -> Values:
    return {
        "which": draw.choose(("first", "last")),
        "what": draw.choose(("largest", "smallest")),
        "acc": draw.choose(("best", "place", "found")),
    }


def _extreme_body(v: Values) -> str:
    op = {"largest": ">", "smallest": "<"}[v["what"]] + ("=" if v["which"] == "last" else "")
    acc = v["acc"]
    return (
        f"{acc} = 0\nfor i in range(1, len(values)):\n    if values[i] {op} values[{acc}]:\n"
        f"        {acc} = i\nreturn {acc}"
    )


def _extreme_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    which = "last" if v["which"] == "first" else "first"
    what = "smallest" if v["what"] == "largest" else "largest"
    return [("which", which, 1.0), ("what", what, 3.0)]


def _draw_letter(draw: Draw) -> Values:
    return {
        "how": draw.choose(("equal to", "not equal to")),
        "letter": draw.choose("aeiounrstl"),
        "acc": draw.choose(("total", "count", "found")),
    }


def _letter_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    letter = draw.choose([c for c in "aeiounrstl" if c != v["letter"]])
    return [("how", _OPPOSITE[v["how"]], 3.0), ("letter", letter, 2.0)]


def _draw_shift(draw: Draw) -> Values:
    return {
        "order": draw.choose(("the original", "reverse")),
        "sign": draw.choose(("plus", "minus")),
        "b": draw.number(10, 99),
    }


def _shift_body(v: Values) -> str:
    value = f"value {_sign(v)} {v['b']}"
    put = f"append({value})" if v["order"] == "the original" else f"insert(0, {value})"
    return f"result = []\nfor value in values:\n    result.{put}\nreturn result"


def _shift_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    order = "reverse" if v["order"] == "the original" else "the original"
    sign = "minus" if v["sign"] == "plus" else "plus"
    return [("order", order, 3.0), ("sign", sign, 3.0), ("b", v["b"] + draw.choose((-1, 1)), 2.0)]


def _draw_digits(draw: Draw) -> Values:
    return {"fold": draw.choose(("sum", "number")), "how": _order(draw), "t": draw.digit(2, 7)}


def _digits_body(v: Values) -> str:
    step = "digit" if v["fold"] == "sum" else "1"
    return (
        "total = 0\nwhile n > 0:\n    digit = n % 10\n"
        f"    if digit {COMPARISONS[v['how']]} {v['t']}:\n        total += {step}\n"
        "    n = n // 10\nreturn total"
    )


def _digits_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    fold = "number" if v["fold"] == "sum" else "sum"
    return [*_comparison_faults(v, draw), ("fold", fold, 3.0)]


def _draw_every(draw: Draw) -> Values:
    return {"k": draw.digit(2, 5), "first": draw.digit(1, 4), "fold": draw.choose(("sum", "list"))}


def _every_task(v: Values) -> str:
    ordinal = {2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}[v["k"]]
    return (
        f"the {v['fold']} of every {ordinal} number of the list values, "
        f"beginning with index {v['first']}"
    )


def _every_body(v: Values) -> str:
    start, step = {
        "sum": ("0", "result += values[i]"),
        "list": ("[]", "result.append(values[i])"),
    }[v["fold"]]
    return (
        f"result = {start}\nfor i in range({v['first']}, len(values), {v['k']}):\n"
        f"    {step}\nreturn result"
    )


def _every_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    off = draw.choose((-1, 1))
    return [("first", v["first"] + off, 1.0), ("k", v["k"] + (off if v["k"] > 2 else 1), 2.0)]


def _draw_adjacent(draw: Draw) -> Values:
    return {"how": _order(draw), "t": "", "acc": draw.choose(("total", "count", "result"))}


def _adjacent_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    return [("how", _NEAR[v["how"]], 1.0), ("how", _OPPOSITE[v["how"]], 3.0)]


def _draw_clamp(draw: Draw) -> Values:
    low = draw.number(10, 50)
    return {"low": low, "high": draw.number(low + 5, 99), "fault": ""}


def _clamp_body(v: Values) -> str:
    below, above = (v["high"], v["low"]) if v["fault"] == "swapped" else (v["low"], v["high"])
    return (
        f"if n < {v['low']}:\n    return {below}\nif n > {v['high']}:\n    return {above}\nreturn n"
    )


def _clamp_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    name = draw.choose(("low", "high"))
    return [("fault", "swapped", 3.0), (name, v[name] + draw.choose((-1, 1)), 2.0)]


def _draw_recurrence(draw: Draw) -> Values:
    return {
        "a": draw.number(10, 60),
        "k": draw.digit(2, 4),
        "sign": draw.choose(("plus", "minus")),
        "b": draw.digit(1, 9),
        "count": draw.choose(("after n steps", "at place n, the start being place 1")),
    }


def _recurrence_body(v: Values) -> str:
    stop = "n + 1" if v["count"] == "after n steps" else "n"
    step = f"term * {v['k']} {_sign(v)} {v['b']}"
    return f"term = {v['a']}\nfor i in range(1, {stop}):\n    term = {step}\nreturn term"


def _recurrence_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    places = ("after n steps", "at place n, the start being place 1")
    sign = "minus" if v["sign"] == "plus" else "plus"
    off = draw.choose((-1, 1))
    return [
        ("count", places[v["count"] == places[0]], 1.0),
        ("k", v["k"] + off, 2.0),
        ("sign", sign, 3.0),
    ]


def _draw_both(draw: Draw) -> Values:
    return {
        "k": draw.digit(2, 6),
        "join": draw.choose(("and", "or")),
        "how": _order(draw),
        "t": draw.number(10, 99),
    }


def _both_faults(v: Values, draw: Draw) -> list[tuple[str, Any, float]]:
    k = v["k"] + draw.choose((-1, 1)) if v["k"] > 2 else 3
    join = "or" if v["join"] == "and" else "and"
    return [("join", join, 3.0), ("k", k, 2.0), ("how", _OPPOSITE[v["how"]], 3.0)]


KINDS = (
    Kind(
        "range",
        "n",
        _draw_range,
        lambda v: (
            f"the {v['fold']} of the integers from {v['first']} to n, {v['last']} n, that are "
            f"{v['which']} {v['k']}"
        ),
        _range_body,
        _range_faults,
    ),
    Kind(
        "count",
        "values",
        _draw_threshold,
        lambda v: f"how many numbers in the list values are {v['how']} {v['t']}",
        lambda v: _loop(v, "0", f"{v['acc']} += 1"),
        _comparison_faults,
    ),
    Kind(
        "sum",
        "values",
        _draw_threshold,
        lambda v: f"the sum of the numbers in the list values that are {v['how']} {v['t']}",
        lambda v: _loop(v, "0", f"{v['acc']} += {v['item']}"),
        _comparison_faults,
    ),
    Kind(
        "filter",
        "values",
        _draw_threshold,
        lambda v: f"a list of those numbers in the list values that are {v['how']} {v['t']}",
        lambda v: _loop(v, "[]", f"{v['acc']}.append({v['item']})"),
        _comparison_faults,
    ),
    Kind(
        "linear",
        "n",
        _draw_linear,
        lambda v: f"the number n times {v['a']} {v['sign']} {v['b']}",
        lambda v: f"result = n * {v['a']}\nresult = result {_sign(v)} {v['b']}\nreturn result",
        _linear_faults,
    ),
    Kind(
        "fee",
        "n",
        _draw_fee,
        lambda v: f"the cost n times {v['a']}, {v['sign']} {v['b']} if n is {v['how']} {v['t']}",
        lambda v: (
            f"cost = n * {v['a']}\nif n {COMPARISONS[v['how']]} {v['t']}:\n"
            f"    cost = cost {_sign(v)} {v['b']}\nreturn cost"
        ),
        _fee_faults,
    ),
    Kind(
        "extreme",
        "values",
        _draw_extreme,
        lambda v: (
            f"the index, counting from 0, of the {v['which']} place where the {v['what']} number "
            "of the list values stands"
        ),
        _extreme_body,
        _extreme_faults,
    ),
    Kind(
        "letter",
        "text",
        _draw_letter,
        lambda v: f'how many characters of text are {v["how"]} "{v["letter"]}"',
        lambda v: (
            f"{v['acc']} = 0\nfor ch in text:\n    if ch {COMPARISONS[v['how']]} "
            f'"{v["letter"]}":\n        {v["acc"]} += 1\nreturn {v["acc"]}'
        ),
        _letter_faults,
    ),
    Kind(
        "shift",
        "values",
        _draw_shift,
        lambda v: f"each number of the list values {v['sign']} {v['b']}, in {v['order']} order",
        _shift_body,
        _shift_faults,
    ),
    Kind(
        "digits",
        "n",
        _draw_digits,
        lambda v: f"the {v['fold']} of those decimal digits of n that are {v['how']} {v['t']}",
        _digits_body,
        _digits_faults,
    ),
    Kind(
        "every",
        "values",
        _draw_every,
        _every_task,
        _every_body,
        _every_faults,
    ),
    Kind(
        "adjacent",
        "values",
        _draw_adjacent,
        lambda v: f"how many numbers of the list values are {v['how']} the number just before",
        lambda v: (
            f"{v['acc']} = 0\nfor i in range(1, len(values)):\n    if values[i] "
            f"{COMPARISONS[v['how']]} values[i - 1]:\n        {v['acc']} += 1\nreturn {v['acc']}"
        ),
        _adjacent_faults,
    ),
    Kind(
        "clamp",
        "n",
        _draw_clamp,
        lambda v: f"the number n, limited to the range from {v['low']} to {v['high']}",
        _clamp_body,
        _clamp_faults,
    ),
    Kind(
        "recurrence",
        "n",
        _draw_recurrence,
        lambda v: (
            f"the term {v['count']}, where the start is {v['a']} and each term is {v['k']} times "
            f"the one before, {v['sign']} {v['b']}"
        ),
        _recurrence_body,
        _recurrence_faults,
    ),
    Kind(
        "both",
        "n",
        _draw_both,
        lambda v: (
            f"true if n is a multiple of {v['k']} {v['join']} is {v['how']} {v['t']}, "
            "and false if not"
        ),
        lambda v: f"return n % {v['k']} == 0 {v['join']} n {COMPARISONS[v['how']]} {v['t']}",
        _both_faults,
    ),
)

_ASK = (
    "Write a {language} function {name}({argument}) that returns {task}.",
    "In {language}, define {name}({argument}). It should return {task}.",
    "I need {name}({argument}) in {language}. It must return {task}.",
    "Please implement {name}({argument}) in {language} so that it returns {task}.",
)
_OPENERS = ("", "", "Here is the function:\n", "This does it:\n", "One way to write it:\n")


def source(kind: Kind, name: str, values: Values) -> str:
    """Write the Python function that fulfils the parameters."""
    body = kind.body(values).replace("\n", "\n    ")
    return f"def {name}({kind.argument}):\n    {body}"


def _name(draw: Draw, language: str) -> str:
    verb = draw.choose(("get", "find", "work_out", "handle", "check", "process", "make", "read"))
    name = f"{verb}_{draw.pick(NOUNS_FOR_CODE)}"
    if language == "Python":
        return name
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _program(draw: Draw, language: str) -> Draft:
    kind = draw.choose(KINDS)
    index, ask = draw.phrase(_ASK)
    name, opener, values = _name(draw, language), draw.choose(_OPENERS), kind.draw(draw)
    parameter, wrong, margin = draw.choose(kind.faults(values, draw))
    texts = [source(kind, name, v) for v in (values, values | {parameter: wrong})]
    if language == "JavaScript":
        texts = [to_javascript(text) for text in texts]
    chosen, rejected = (f"{opener}```{language.lower()}\n{text}\n```" for text in texts)
    prompt = ask.format(
        language=language, name=name, argument=kind.argument, task=kind.describe(values)
    )
    template = f"gen-{language.lower()}/{kind.name}/{index}"
    return Draft(template, prompt, chosen, rejected, margin)


def python(draw: Draw) -> Draft:
    """Make a pair about a small Python function."""
    return _program(draw, "Python")


def javascript(draw: Draw) -> Draft:
    """Make a pair about a small JavaScript function."""
    return _program(draw, "JavaScript")
