"""Instructions with a constraint: an answer that keeps it, or one that keeps a neighbouring one.

The rejected answer does what a prompt with another option of the same constraint would ask for, so
only the prompt tells which answer is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from generated.constraints import INSTRUCTIONS
from generated.core import Draw
from generated.fillers import LIST_WORDS, NAMES
from generated.knowledge import TOPICS, Entry
from generated.parameters import Option, Parameter, Values, drawn, neighbour, options
from generated.task import Fault, Task

_REQUESTS = (
    "Write a short note about {title}.",
    "Tell me something about {title}.",
    "Give me a few facts about {title}.",
    "Describe {title} for a school poster.",
    "I need a few lines about {title}.",
    "Sum up what one should know about {title}.",
)


class Answer(NamedTuple):
    """All facts of a topic in a drawn order, and the values that the answer follows."""

    facts: tuple[str, ...]
    values: Values


Parameters = Callable[[Draw, Entry], Mapping[str, Parameter]]


def _three(answer: Answer) -> list[str]:
    return list(answer.facts[:3])


@dataclass(frozen=True)
class Kind:
    """A kind of constraint: its parameters, the slots of its wording and the form of an answer.

    `form` maps parts of an answer to texts with parameters: head and foot (lines above and below),
    mark (before every fact), joint (between facts), left and right (around all of it), case.
    `facts` chooses the facts that an answer has.
    """

    parameters: Parameters
    slots: Sequence[str]
    form: Mapping[str, str] = field(default_factory=dict)
    facts: Callable[[Answer], list[str]] = _three


def _of(**parameters: Parameter) -> Parameters:
    return lambda draw, topic: parameters


def _two(name: str, margin: float, choose: Callable[[Draw, Entry], Sequence[str]]) -> Parameters:
    """Give a parameter that is one of two texts; the other one stands in the prompt too."""

    def parameters(draw: Draw, topic: Entry) -> Mapping[str, Parameter]:
        one, two = choose(draw, topic)
        return {name: options((name, margin), Option(one, two), Option(two, one))}

    return parameters


_LABELS = ("Note for", "Report for", "Memo to", "Facts for", "Letter to", "Summary for")


def _headings(draw: Draw, topic: Entry) -> Sequence[str]:
    return [f"{label} {draw.pick(NAMES)}" for label in draw.some(_LABELS, 2)]


def _first_words(draw: Draw, topic: Entry) -> Mapping[str, Parameter]:
    """Give as options two first words with their facts."""
    facts = draw.some(topic.lines, len(topic.lines))
    by_word = {fact.split()[0]: fact for fact in facts}
    (one, fact), (two, other) = list(by_word.items())[:2]
    found = Option(fact, one, other), Option(other, two, fact)
    return {"word": options(("first word", 1.0), *found)}


def _begun(answer: Answer) -> list[str]:
    """Begin with the fact of the first word; the other word's fact comes last."""
    fact, other = answer.values["word"].code, answer.values["word"].start
    return [fact, *[f for f in answer.facts if f not in (fact, other)][:2], other]


def _counted(answer: Answer) -> list[str]:
    return list(answer.facts[: int(answer.values["count"].code)])


_COUNT = options(
    ("count", 1.0),
    Option("2", "two"),
    Option("3", "three"),
    Option("4", "four"),
    Option("5", "five"),
)
_WRAP = options(
    ("wrap", 3.0),
    *(Option(left, right) for left, right in ("[]", "()", "{}", "<>", "**", "##")),
)
_CASE = options(
    ("case", 3.0), Option("upper", "capital letters only"), Option("lower", "small letters only")
)
_LAYOUT = options(
    ("layout", 3.0),
    Option("1. ", "numbers"),
    Option("- ", "dashes"),
    Option("* ", "stars"),
    Option("a) ", "letters"),
)

KINDS = {
    "mark": Kind(_of(mark=options(("mark", 3.0), *"-*+>#~")), ("{mark}",), {"mark": "{mark} "}),
    "joint": Kind(
        _of(joint=options(("joint", 3.0), *"/|~+*=")), ("{joint}",), {"joint": " {joint} "}
    ),
    "wrap": Kind(
        _of(wrap=_WRAP), ("{wrap.code}", "{wrap}"), {"left": "{wrap.code}", "right": "{wrap}"}
    ),
    "case": Kind(_of(case=_CASE), ("{case}",), {"case": "{case.code}"}),
    "layout": Kind(_of(layout=_LAYOUT), ("{layout}",), {"mark": "{layout.code}"}),
    "points": Kind(_of(count=_COUNT), ("{count}",), {"mark": "1. "}, _counted),
    "sentences": Kind(_of(count=_COUNT), ("{count}",), {}, _counted),
    "heading": Kind(
        _two("heading", 2.0, _headings), ("{heading.code}", "{heading}"), {"head": "{heading.code}"}
    ),
    "names": Kind(
        _two("names", 2.0, lambda draw, topic: draw.pick_some(NAMES, 2)),
        ("{names.code}", "{names}"),
        {"head": "Dear {names.code},", "foot": "Yours, {names}"},
    ),
    "code word": Kind(
        _two("word", 2.0, lambda draw, topic: draw.pick_some(LIST_WORDS, 2)),
        ("{word.code}", "{word}"),
        {"foot": "{word.code}"},
    ),
    "first word": Kind(_first_words, ("{word}",), {}, _begun),
}


def _marks(mark: str, count: int) -> list[str]:
    series = {"1. ": [f"{i}. " for i in range(1, count + 1)], "a) ": [f"{c}) " for c in "abcde"]}
    return series.get(mark, [mark] * count)[:count]


def write(kind: Kind, answer: Answer) -> str:
    """Write the facts in the form that the values ask for."""
    form = {part: text.format(**answer.values) for part, text in kind.form.items()}
    facts, mark = kind.facts(answer), form.get("mark", "")
    lines = [m + f for m, f in zip(_marks(mark, len(facts)), facts, strict=True)]
    body = form.get("joint", "\n" if mark else " ").join(lines)
    body = form.get("left", "") + body + form.get("right", "")
    text = "\n".join(filter(None, [form.get("head"), body, form.get("foot")]))
    return {"upper": text.upper(), "lower": text.lower()}.get(form.get("case", ""), text)


def _task(draw: Draw, subset: str, name: str) -> Task:
    kind, topic = KINDS[name], draw.pick(TOPICS)
    parameters = kind.parameters(draw, topic)
    values = drawn(draw, parameters)
    index, ask = draw.phrase(INSTRUCTIONS[name])
    slots = dict(zip("ab", (slot.format(**values) for slot in kind.slots), strict=False))
    said = [draw.choose(_REQUESTS).format(title=topic.title), ask.format(**slots)]
    draw.rng.shuffle(said)

    def fault(draw: Draw, answer: Answer) -> Fault:
        other, parameter = neighbour(draw, values, parameters)
        return Fault(answer._replace(values=other), parameter.fault, parameter.margin)

    return Task(
        f"{subset}/{name}/{index}",
        " ".join(said),
        lambda draw: Answer(tuple(draw.some(topic.lines, len(topic.lines))), values),
        fault,
        lambda answer, wrapping: write(kind, answer),
    )


SUBSETS = {
    "symbols": ("mark", "joint", "wrap"),
    "counts": ("points", "sentences"),
    "shape": ("case", "layout"),
    "names": ("heading", "names"),
    "words": ("code word", "first word"),
}
"""The kinds of constraint of each subset."""


def _maker(subset: str) -> Callable[[Draw], Task]:
    def make(draw: Draw) -> Task:
        return _task(draw, subset, draw.choose(SUBSETS[subset]))

    make.__doc__ = f"Draw an instruction with a constraint of {subset}."
    return make


MAKERS = {subset: _maker(subset) for subset in SUBSETS}
