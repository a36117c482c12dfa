"""Small programs in Python and JavaScript: right, or right for a neighbouring task.

A program's text and body have the same parameters. A rejected body has another option of one of
them (a bound, an operator, a constant), so no token is typical of either side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from generated.core import Draw
from generated.fillers import NOUNS_FOR_CODE
from generated.javascript import to_javascript
from generated.parameters import Option, Parameter, Values, digit, drawn, neighbour, number, options
from generated.task import Fault, Task, Wrapping, variant


@dataclass(frozen=True)
class Program:
    """A kind of program: its argument, its text, its body in Python, and their parameters.

    {acc} and {item} of the body are variables; no fault changes the parameters in `given`.
    """

    argument: str
    text: str
    body: str
    parameters: Mapping[str, Parameter]
    given: Mapping[str, Parameter] = field(default_factory=dict)


_HOW = options(
    ("comparison", 1.0),
    Option(">", "greater than"),
    Option(">=", "at least"),
    Option("<", "less than"),
    Option("<=", "at most"),
)
_EQUAL = options(("comparison", 3.0), Option("==", "equal to"), Option("!=", "not equal to"))
_SIGN = options(("operation", 3.0), Option("+", "plus"), Option("-", "minus"))
_LETTER = options(("letter", 2.0), *"aeiounrstl")
_THRESHOLD = {"how": _HOW, "t": number(10, 99)}

PROGRAMS = {
    "range": Program(
        "n",
        "the {fold} of the integers from {first} to n, {last} n, that are {which} {k}",
        "{acc} = {fold.start}\nfor i in range({first}, {last.code}):\n"
        "    if i % {k} {which.code} 0:\n        {acc} {fold.code}\nreturn {acc}",
        {
            "fold": options(
                ("operation", 3.0),
                Option("+= i", "sum", "0"),
                Option("+= 1", "number", "0"),
                Option("*= i", "product", "1"),
            ),
            "last": options(
                ("bound", 1.0), Option("n + 1", "including"), Option("n", "not including")
            ),
            "which": options(
                ("comparison", 3.0), Option("==", "multiples of"), Option("!=", "not multiples of")
            ),
            "k": digit(3, 6),
        },
        {"first": digit(1, 3)},
    ),
    "count": Program(
        "values",
        "how many numbers in the list values are {how} {t}",
        "{acc} = 0\nfor {item} in values:\n    if {item} {how.code} {t}:\n"
        "        {acc} += 1\nreturn {acc}",
        _THRESHOLD,
    ),
    "sum": Program(
        "values",
        "the sum of the numbers in the list values that are {how} {t}",
        "{acc} = 0\nfor {item} in values:\n    if {item} {how.code} {t}:\n"
        "        {acc} += {item}\nreturn {acc}",
        _THRESHOLD,
    ),
    "filter": Program(
        "values",
        "a list of those numbers in the list values that are {how} {t}",
        "{acc} = []\nfor {item} in values:\n    if {item} {how.code} {t}:\n"
        "        {acc}.append({item})\nreturn {acc}",
        _THRESHOLD,
    ),
    "linear": Program(
        "n",
        "the number n times {a} {sign} {b}",
        "{acc} = n * {a}\n{acc} = {acc} {sign.code} {b}\nreturn {acc}",
        {"a": digit(), "sign": _SIGN, "b": number(10, 99)},
    ),
    "fee": Program(
        "n",
        "the cost n times {a}, {sign} {b} if n is {how} {t}",
        "{acc} = n * {a}\nif n {how.code} {t}:\n    {acc} = {acc} {sign.code} {b}\nreturn {acc}",
        {"a": digit(), "how": _HOW, "t": number(10, 60), "sign": _SIGN, "b": digit()},
    ),
    "extreme": Program(
        "values",
        "the index, counting from 0, of the {which} place where the {what} number of the list "
        "values stands",
        "{acc} = 0\nfor i in range(1, len(values)):\n"
        "    if values[i] {what.code}{which.code} values[{acc}]:\n        {acc} = i\nreturn {acc}",
        {
            "which": options(("bound", 1.0), Option("", "first"), Option("=", "last")),
            "what": options(("comparison", 3.0), Option(">", "largest"), Option("<", "smallest")),
        },
    ),
    "letter": Program(
        "text",
        'how many characters of text are {how} "{letter}"',
        "{acc} = 0\nfor {item} in text:\n"
        '    if {item} {how.code} "{letter}":\n        {acc} += 1\nreturn {acc}',
        {"how": _EQUAL, "letter": _LETTER},
    ),
    "shift": Program(
        "values",
        "each number of the list values {sign} {b}, in {order} order",
        "{acc} = []\nfor {item} in values:\n"
        "    {acc}.{order.code}{item} {sign.code} {b})\nreturn {acc}",
        {
            "sign": _SIGN,
            "b": number(10, 99),
            "order": options(
                ("order", 3.0), Option("append(", "the original"), Option("insert(0, ", "reverse")
            ),
        },
    ),
    "digits": Program(
        "n",
        "the {fold} of those decimal digits of n that are {how} {t}",
        "{acc} = 0\nwhile n > 0:\n    {item} = n % 10\n    if {item} {how.code} {t}:\n"
        "        {acc} += {fold.code}\n    n = n // 10\nreturn {acc}",
        {
            "fold": options(("operation", 3.0), Option("{item}", "sum"), Option("1", "number")),
            "how": _HOW,
            "t": digit(3, 6),
        },
    ),
    "every": Program(
        "values",
        "the {fold} of every {k} number of the list values, beginning with index {first}",
        "{acc} = {fold.start}\nfor i in range({first}, len(values), {k.code}):\n"
        "    {acc}{fold.code}\nreturn {acc}",
        {
            "fold": options(
                ("operation", 3.0),
                Option(" += values[i]", "sum", "0"),
                Option(".append(values[i])", "list", "[]"),
            ),
            "k": options(
                ("number", 2.0),
                Option("2", "2nd"),
                Option("3", "3rd"),
                Option("4", "4th"),
                Option("5", "5th"),
            ),
            "first": digit(1, 4),
        },
    ),
    "clamp": Program(
        "n",
        "the number n, limited to the range from {low} to {high}",
        "if n < {low}:\n    return {low}\nif n > {high}:\n    return {high}\nreturn n",
        {"low": number(10, 50), "high": number(51, 99)},
    ),
    "recurrence": Program(
        "n",
        "the term {count}, where the start is {a} and each term is {k} times the one before, "
        "{sign} {b}",
        "{acc} = {a}\nfor i in range(1, {count.code}):\n"
        "    {acc} = {acc} * {k} {sign.code} {b}\nreturn {acc}",
        {
            "count": options(
                ("bound", 1.0),
                Option("n + 1", "after n steps"),
                Option("n", "at place n, the start being place 1"),
            ),
            "a": number(10, 60),
            "k": digit(2, 5),
            "sign": _SIGN,
            "b": digit(1),
        },
    ),
    "both": Program(
        "n",
        "true if n is a multiple of {k} {join} is {how} {t}, and false if not",
        "return n % {k} == 0 {join} n {how.code} {t}",
        {
            "k": digit(2, 6),
            "join": options(("operation", 3.0), "and", "or"),
            "how": options(("comparison", 3.0), Option(">=", "at least"), Option("<", "less than")),
        },
        {"t": number(10, 99)},
    ),
}

_ASKS = (
    "Write a {language} function {name}({argument}) that returns {task}.",
    "In {language}, define {name}({argument}). It should return {task}.",
    "I need {name}({argument}) in {language}. It must return {task}.",
    "Please implement {name}({argument}) in {language} so that it returns {task}.",
)
_VERBS = ("get", "find", "work_out", "handle", "check", "process", "make", "read")
_OPENINGS = (
    "",
    "",
    "Here is the function:\n",
    "This does it:\n",
    "One way to write it:\n",
    "Sure, this should work:\n",
)
_CLOSINGS = (
    "",
    "",
    "\nTell me if you need it in another form.",
    "\nIt can be called right away.",
    "\nI kept it as simple as I could.",
    "\nYou may rename the variables.",
)
_VARIABLES = (("total", "value"), ("result", "x"), ("acc", "item"), ("found", "entry"))


@dataclass(frozen=True)
class Source:
    """A function before its variables are named and its lines are laid out."""

    language: str
    name: str
    program: Program
    values: Values


def write(source: Source, wrapping: Wrapping) -> str:
    """Write a function as a fenced block, with what stands before and after it."""
    acc, item = variant(_VARIABLES, wrapping.wording)
    body = source.program.body.format(acc=acc, item=item, **source.values).format(item=item)
    style = variant(("short", "long", "comment", "last line"), wrapping.style)
    if style == "long":
        body = re.sub(r"(\w+) ([+*])= (.+)", r"\1 = \1 \2 \3", body)
    elif style == "last line":
        body = re.sub(r"return (.+)$", r"output = \1\nreturn output", body)
    text = f"def {source.name}({source.program.argument}):\n" + _indented(body)
    comment = "Take the input and give back the output."
    if source.language == "JavaScript":
        text = to_javascript(text)
    if style == "comment":
        first, rest = text.split("\n", 1)
        mark = {"Python": "    #", "JavaScript": "  //"}[source.language]
        text = f"{first}\n{mark} {comment}\n{rest}"
    opening = variant(_OPENINGS, wrapping.opening)
    closing = variant(_CLOSINGS, wrapping.closing)
    return f"{opening}```{source.language.lower()}\n{text}\n```{closing}"


def _indented(body: str) -> str:
    return "\n".join(f"    {line}" for line in body.splitlines())


def _name(draw: Draw, language: str) -> str:
    name = f"{draw.choose(_VERBS)}_{draw.pick(NOUNS_FOR_CODE)}"
    if language == "Python":
        return name
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _task(draw: Draw, language: str) -> Task:
    kind = draw.choose(tuple(PROGRAMS))
    program, (index, ask) = PROGRAMS[kind], draw.phrase(_ASKS)
    given = drawn(draw, program.given)
    values = drawn(draw, program.parameters)
    name = _name(draw, language)

    def fault(draw: Draw, right: Source) -> Fault:
        other, parameter = neighbour(draw, values, program.parameters)
        wrong = Source(language, name, program, given | other)
        return Fault(wrong, parameter.fault, parameter.margin)

    prompt = ask.format(
        language=language,
        name=name,
        argument=program.argument,
        task=program.text.format(**given, **values),
    )
    right = Source(language, name, program, given | values)
    return Task(f"{language.lower()}/{kind}/{index}", prompt, lambda _: right, fault, write)


def python(draw: Draw) -> Task:
    """Draw a small Python function that is asked for."""
    return _task(draw, "Python")


def javascript(draw: Draw) -> Task:
    """Draw a small JavaScript function that is asked for."""
    return _task(draw, "JavaScript")
