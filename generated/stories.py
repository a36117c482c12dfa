"""Unit conversions and word problems, with worked steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from generated.core import Draft, Draw
from generated.fillers import NAMES, PLACES, THINGS, WARES
from generated.steps import Inexact, Result, Step, draft


@dataclass(frozen=True)
class Story:
    """A word problem: facts, the question, the steps that answer it, and the answer's unit."""

    text: str
    steps: list[Step]
    unit: str


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
    ("centimetres", "millimetres", 10),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("pounds", "ounces", 16),
    ("gallons", "quarts", 4),
)
_CHAINS = (
    ("weeks", 7, "days", 24, "hours"),
    ("days", 24, "hours", 60, "minutes"),
    ("hours", 60, "minutes", 60, "seconds"),
    ("yards", 3, "feet", 12, "inches"),
    ("kilometres", 1000, "metres", 100, "centimetres"),
    ("metres", 100, "centimetres", 10, "millimetres"),
)


def _plain(draw: Draw) -> Story:
    large, small, factor = draw.choose(_CONVERSIONS)
    a, b = draw.number(2, 60), draw.number(11, 90)
    steps = [Step(a, "*", factor, f"the {large}"), Step(Result(0), "+", b, "with the rest")]
    text = f"{a} {large} and {b} {small} are how many {small} in all?"
    return Story(text, steps, small)


def _back(draw: Draw) -> Story:
    large, small, factor = draw.choose([c for c in _CONVERSIONS if c[2] <= 100])
    a, b = draw.number(3 * factor, 60 * factor, factor), draw.number(10, 90)
    steps = [
        Step(a, "/", factor, f"{large} in the first"),
        Step(Result(0), "+", b, "with the rest"),
    ]
    return Story(f"{a} {small} and {b} {large} are how many {large} in all?", steps, large)


def _chained(draw: Draw) -> Story:
    large, f1, middle, f2, small = draw.choose(_CHAINS)
    a, b = draw.digit(2, 9), draw.number(10, 30)
    steps = [
        Step(a, "*", f1, f"{middle} in the first"),
        Step(Result(0), "+", b, f"all {middle}"),
        Step(Result(1), "*", f2, f"all {small}"),
    ]
    return Story(f"{a} {large} and {b} {middle} are how many {small} in all?", steps, small)


def _two_parts(draw: Draw) -> Story:
    large, small, factor = draw.choose(_CONVERSIONS[-7:-1])
    a, b, c, name = draw.digit(2, 9), draw.number(10, 95), draw.number(10, 95), draw.pick(NAMES)
    text = (
        f"{name} measures {a} {large} and {b} {small} in the morning and {c} {small} in the "
        f"evening. How many {small} is that together?"
    )
    steps = [
        Step(a, "*", factor, f"the {large}"),
        Step(Result(0), "+", b, "morning"),
        Step(Result(1), "+", c, "both"),
    ]
    return Story(text, steps, small)


def _rest(draw: Draw) -> Story:
    large, small, factor = draw.choose(_CONVERSIONS)
    a, b, name = draw.number(4, 50), draw.number(10, 95), draw.pick(NAMES)
    text = f"{name} has {a} {large} and uses up {b} {small}. How many {small} are left?"
    steps = [Step(a, "*", factor, f"all {small}"), Step(Result(0), "-", b, "left")]
    return Story(text, steps, small)


def _repeated(draw: Draw) -> Story:
    large, small, factor = draw.choose(_CONVERSIONS)
    a, b, name = draw.digit(3, 9), draw.number(10, 60), draw.pick(NAMES)
    text = f"{name} needs {a} times {b} {large}. How many {small} is that?"
    steps = [Step(a, "*", b, f"all {large}"), Step(Result(0), "*", factor, f"all {small}")]
    return Story(text, steps, small)


_UNIT_ASK = (
    "{text}",
    "{text} Show the steps.",
    "Convert and show your working: {text}",
    "Quick question about units. {text}",
    "{text} Please give the calculation too.",
    "Unit exercise: {text}",
)
_UNITS = (_plain, _back, _chained, _two_parts, _rest, _repeated)


def _boxes(draw: Draw) -> Story:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    a, b, c = draw.digit(3, 9), draw.number(10, 60), draw.number(10, 90)
    text = (
        f"{name} packs {a} boxes with {b} {thing} each and then gives away {c} {thing}. "
        f"How many {thing} are left?"
    )
    return Story(text, [Step(a, "*", b, "packed"), Step(Result(0), "-", c, "left")], thing)


def _change(draw: Draw) -> Story:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    a, b = draw.number(10, 40), draw.digit(2, 9)
    c = draw.number(a * b + 1, a * b + 60)
    text = (
        f"{name} buys {a} {thing} at {b} dollars each and pays with {c} dollars. "
        "How many dollars of change come back?"
    )
    return Story(text, [Step(a, "*", b, "price"), Step(c, "-", Result(0), "change")], "dollars")


def _savings(draw: Draw) -> Story:
    name, ware = draw.pick(NAMES), draw.pick(WARES)
    a, b, c = draw.number(10, 200), draw.number(10, 60), draw.digit(3, 9)
    text = (
        f"{name} has {a} dollars and saves {b} dollars a week for a {ware}. "
        f"How many dollars are there after {c} weeks?"
    )
    return Story(text, [Step(b, "*", c, "saved"), Step(a, "+", Result(0), "in all")], "dollars")


def _shared(draw: Draw) -> Story:
    name, thing, people = draw.pick(NAMES), draw.pick(THINGS), draw.digit(3, 9)
    a, c = draw.number(8 * people, 60 * people, people), draw.number(10, 60)
    text = (
        f"{a} {thing} are shared equally among {people} children. {name} is one of them and then "
        f"finds {c} more. How many {thing} does {name} have?"
    )
    return Story(text, [Step(a, "/", people, "share"), Step(Result(0), "+", c, "in all")], thing)


def _pages(draw: Draw) -> Story:
    name = draw.pick(NAMES)
    a, b, c = draw.number(200, 500), draw.number(11, 40), draw.digit(3, 5)
    text = (
        f"{name} reads {b} pages a day of a book with {a} pages. "
        f"How many pages remain after {c} days?"
    )
    return Story(text, [Step(b, "*", c, "read"), Step(a, "-", Result(0), "remaining")], "pages")


def _seats(draw: Draw) -> Story:
    a, b, place = draw.number(10, 40), draw.digit(4, 9), draw.pick(PLACES)
    c = draw.number(10, a * b)
    text = (
        f"The {place} has {a} rows with {b} seats each, and {c} seats are taken. "
        "How many seats are free?"
    )
    return Story(text, [Step(a, "*", b, "seats"), Step(Result(0), "-", c, "free")], "seats")


def _workers(draw: Draw) -> Story:
    (first, second), thing = draw.pick_some(NAMES, 2), draw.pick(THINGS)
    a, b, c = draw.number(10, 60), draw.number(10, 60), draw.digit(3, 9)
    text = (
        f"{first} wraps {a} {thing} an hour and {second} wraps {b} {thing} an hour. "
        f"How many {thing} do they wrap together in {c} hours?"
    )
    return Story(text, [Step(a, "+", b, "an hour"), Step(Result(0), "*", c, "in all")], thing)


def _ages(draw: Draw) -> Story:
    first, second = draw.pick_some(NAMES, 2)
    a, b, c = draw.number(10, 50), draw.digit(2, 9), draw.digit(2, 9)
    text = (
        f"{first} is {a} years old and {second} is {b} years older. "
        f"How many years old is {second} after {c} more years?"
    )
    steps = [Step(a, "+", b, "now"), Step(Result(0), "+", c, "later")]
    return Story(text, steps, "years")


def _discount(draw: Draw) -> Story:
    ware, a, p = draw.pick(WARES), draw.number(40, 900, 20), draw.number(5, 60, 5)
    text = f"A {ware} costs {a} dollars, less {p} percent in the sale. What is the sale price?"
    steps = [
        Step(a, "*", p, "product"),
        Step(Result(0), "/", 100, "discount"),
        Step(a, "-", Result(1), "sale price"),
    ]
    return Story(text, steps, "dollars")


def _trip(draw: Draw) -> Story:
    name, a, b, c = draw.pick(NAMES), draw.number(20, 98), draw.digit(2, 6), draw.number(10, 90)
    text = (
        f"{name} drives for {b} hours at {a} km per hour and then another {c} km. "
        "How many km is the whole trip?"
    )
    return Story(text, [Step(a, "*", b, "first part"), Step(Result(0), "+", c, "whole")], "km")


def _fence(draw: Draw) -> Story:
    a, b, c, name = draw.number(10, 60), draw.number(10, 60), draw.digit(3), draw.pick(NAMES)
    text = (
        f"A fence around {name}'s garden, {a} m long and {b} m wide, costs {c} dollars per metre. "
        "What does the whole fence cost?"
    )
    steps = [
        Step(a, "+", b, "two sides"),
        Step(Result(0), "*", 2, "all sides"),
        Step(Result(1), "*", c, "cost"),
    ]
    return Story(text, steps, "dollars")


def _profit(draw: Draw) -> Story:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    a, b = draw.number(10, 60), draw.digit(2, 8)
    c = draw.number(b + 1, b + 40)
    text = (
        f"{name} buys {a} {thing} for {b} dollars each and sells them for {c} dollars each. "
        "How many dollars of profit is that?"
    )
    steps = [Step(c, "-", b, "profit on one"), Step(Result(0), "*", a, "profit")]
    return Story(text, steps, "dollars")


def _legs(draw: Draw) -> Story:
    name, a, b = draw.pick(NAMES), draw.number(10, 90), draw.number(10, 60)
    text = f"{name} keeps {a} hens and {b} goats. How many legs do the animals have together?"
    steps = [
        Step(a, "*", 2, "legs of hens"),
        Step(b, "*", 4, "legs of goats"),
        Step(Result(0), "+", Result(1), "all legs"),
    ]
    return Story(text, steps, "legs")


def _tickets(draw: Draw) -> Story:
    place, a, b = draw.pick(PLACES), draw.digit(2, 9), draw.number(12, 40)
    c, d = draw.digit(2, 9), draw.number(5, 30)
    text = (
        f"At the {place}, {a} adults pay {b} dollars each and {c} children pay {d} dollars each. "
        "How many dollars do they pay together?"
    )
    steps = [
        Step(a, "*", b, "adults"),
        Step(c, "*", d, "children"),
        Step(Result(0), "+", Result(1), "together"),
    ]
    return Story(text, steps, "dollars")


def _tank(draw: Draw) -> Story:
    name = draw.pick(NAMES)
    a, b, c, d = draw.number(150, 600), draw.number(10, 30), draw.digit(2, 5), draw.number(10, 90)
    text = (
        f"{name}'s tank holds {a} litres and loses {b} litres an hour for {c} hours. Then {d} "
        "litres are added. How many litres are in it?"
    )
    steps = [
        Step(b, "*", c, "lost"),
        Step(a, "-", Result(0), "left"),
        Step(Result(1), "+", d, "at the end"),
    ]
    return Story(text, steps, "litres")


def _half(draw: Draw) -> Story:
    name, thing = draw.pick(NAMES), draw.pick(THINGS)
    a, b = draw.number(60, 400, 2), draw.number(10, 30)
    text = (
        f"{name} has {a} {thing}, sells half of them and loses {b} of the rest. "
        f"How many {thing} remain?"
    )
    return Story(text, [Step(a, "/", 2, "half"), Step(Result(0), "-", b, "remaining")], thing)


_STORIES = (
    _boxes,
    _change,
    _savings,
    _shared,
    _pages,
    _seats,
    _workers,
    _ages,
    _discount,
    _trip,
    _fence,
    _profit,
    _legs,
    _tickets,
    _tank,
    _half,
)
_STORY_ASK = (
    "{text}",
    "{text} Show your working.",
    "Solve this step by step. {text}",
    "My homework says: {text} How do I solve it?",
)


def _pair(
    draw: Draw, subset: str, kinds: tuple[Callable[[Draw], Story], ...], asks: tuple[str, ...]
) -> Draft:
    make = draw.choose(kinds)
    index, phrasing = draw.phrase(asks)
    while True:
        story = make(draw)
        name = f"{subset}/{make.__name__.strip('_')}/{index}"
        try:
            return draft(draw, name, phrasing.format(text=story.text), story.steps, story.unit)
        except Inexact:
            continue


def units(draw: Draw) -> Draft:
    """Make a pair about one conversion between units."""
    return _pair(draw, "gen-units", _UNITS, _UNIT_ASK)


def word_problem(draw: Draw) -> Draft:
    """Make a pair about one word problem."""
    return _pair(draw, "gen-word-problem", _STORIES, _STORY_ASK)
